// Non-maximum suppression on the device: boxes sorted by score are walked in order, on their own side of the bus.
// boxes.nms_specification and kernels/nms.py compute the same.
//
// suppress: boxes of different groups (class, pyramid level) never meet, so the groups of an image are shared out to
// `shares` blocks. A block walks the sorted list, picks out its own boxes and takes them in chunks of 64: each is compared
// with all that were kept so far, then with the better ones of its chunk, as 64 bits a box; then one thread walks the bits.
// No table of all pairs is stored. A thread block of 64 candidates x 16 parts of the kept ones: the 32 lanes of a warp
// read the same kept box. It stops when `most` are kept or no valid box is left.
// keep_first: the first `most` that were kept by any share, in order.
//
// Bytes: 25 for each box and share, and 20 for each chunk and kept box, from L2; the time goes into the overlaps, at most
// (boxes of a share) x (kept of a share), 15 operations each.

const int CHUNK = 64;
typedef unsigned long long Bits;

// boxes (N, R, 4), groups (N, R); order (N, R): indices by falling score, -1 after the last valid one; kept_boxes and
// kept_groups (N, shares, most): scratch; alive (N, R), by place in the order: zero before the call.
// Grid (shares, N), 1024 threads.
extern "C" __global__ void __launch_bounds__(1024) suppress(
    const float4 *__restrict__ boxes, const int *__restrict__ groups, const int *__restrict__ order, int count, int most,
    float threshold, float4 *kept_boxes, int *kept_groups, bool *alive) {
  __shared__ int members[1024];  // places in the order of this share's boxes, of those that the block looks at
  __shared__ float4 chunk[CHUNK];
  __shared__ int chunk_group[CHUNK];
  __shared__ unsigned dropped[2], suppressed[CHUNK][2];  // bit j: box j is dropped; box j is suppressed by box i
  __shared__ Bits stays;
  long long row = blockIdx.y * (long long)count, scratch = (blockIdx.y * (long long)gridDim.x + blockIdx.x) * most;
  boxes += row;
  groups += row;
  order += row;
  alive += row;
  kept_boxes += scratch;
  kept_groups += scratch;
  int own = threadIdx.x % CHUNK, part = threadIdx.x / CHUNK, parts = blockDim.x / CHUNK;
  int kept = 0;

  for (int start = 0; start < count && order[start] >= 0 && kept < most; start += blockDim.x) {
    int place = start + threadIdx.x, box = place < count ? order[place] : -1, size;
    bool ours = box >= 0 && (unsigned)groups[box] % gridDim.x == blockIdx.x;
    int member = sum_before(ours, size);
    if (ours) members[member] = place;
    __syncthreads();

    for (int first = 0; first < size && kept < most; first += CHUNK) {
      int in_chunk = min(CHUNK, size - first);
      if (threadIdx.x < in_chunk) {
        int index = order[members[first + own]];
        chunk[own] = boxes[index];
        chunk_group[own] = groups[index];
      }
      if (threadIdx.x < CHUNK) suppressed[own][0] = suppressed[own][1] = 0;
      if (threadIdx.x < 2) dropped[threadIdx.x] = 0;
      __syncthreads();

      if (own < in_chunk) {
        float4 candidate = chunk[own];
        int group = chunk_group[own];
        unsigned bit = 1u << own % 32;
        for (int k = part; k < kept; k += parts)
          if (kept_groups[k] == group && iou(kept_boxes[k], candidate) > threshold) {
            atomicOr(&dropped[own / 32], bit);
            break;
          }
        for (int i = part; i < own; i += parts)
          if (chunk_group[i] == group && iou(chunk[i], candidate) > threshold) atomicOr(&suppressed[i][own / 32], bit);
      }
      __syncthreads();

      if (threadIdx.x == 0) {
        Bits left = in_chunk == CHUNK ? ~0ull : (1ull << in_chunk) - 1, staying = 0;
        left &= ~((Bits)dropped[1] << 32 | dropped[0]);
        for (int found = kept; left && found < most; found++) {
          int i = __ffsll(left) - 1;
          staying |= 1ull << i;
          left &= ~(1ull << i | (Bits)suppressed[i][1] << 32 | suppressed[i][0]);
        }
        stays = staying;
      }
      __syncthreads();

      if (threadIdx.x < CHUNK && stays >> own & 1) {
        int at = kept + __popcll(stays & ((1ull << own) - 1));
        kept_boxes[at] = chunk[own];
        kept_groups[at] = chunk_group[own];
        alive[members[first + own]] = true;
      }
      kept += __popcll(stays);
    }
  }
}

// kept (N, most): the first `most` indices of order (N, count) that are alive, then 0; valid (N, most): which are boxes.
// One block an image, 1024 threads.
extern "C" __global__ void __launch_bounds__(1024) keep_first(
    const bool *__restrict__ alive, const int *__restrict__ order, int count, int most, long long *kept, bool *valid) {
  alive += blockIdx.x * (long long)count;
  order += blockIdx.x * (long long)count;
  kept += blockIdx.x * (long long)most;
  valid += blockIdx.x * (long long)most;
  int found = 0;
  for (int start = 0; start < count && order[start] >= 0 && found < most; start += blockDim.x) {
    int i = start + threadIdx.x, more;
    bool here = i < count && alive[i];
    int place = found + sum_before(here, more);
    if (here && place < most) {
      kept[place] = order[i];
      valid[place] = true;
    }
    found += more;
  }
  for (int place = found + threadIdx.x; place < most; place += blockDim.x) {
    kept[place] = 0;
    valid[place] = false;
  }
}
