// Non-maximum suppression on the GPU: walk through the boxes in descending order of score.
// Same arithmetic as the array code of boxes.nms and as kernels/nms.py.
//
// suppress: boxes of different groups (classes, pyramid levels) never suppress each other, so the groups of an image are
// divided among `shares` blocks. A block walks through the sorted list, picks its own boxes and takes them in chunks of
// 64. Each box is compared with all boxes kept so far, then with the better ones of its chunk; the results are 64 bits per
// box, and one thread walks through these bits. No table of all pairs is stored. A block has 64 candidates x 16 parts of
// the kept boxes, so the 32 lanes of a warp read the same kept box. It stops when max_kept boxes are kept or no valid box
// is left.
// keep_first: the first max_kept boxes that any share kept, in order.
//
// Bytes: 25 per box and share, and 20 per chunk and kept box, from L2. The time goes into the overlaps: at most (boxes of
// a share) x (kept boxes of a share), 15 operations each.

const int CHUNK = 64;
typedef unsigned long long Bits;

// boxes (N, R, 4), groups (N, R). order (N, R): indices in descending order of score, -1 after the last valid one.
// kept_boxes, kept_groups (N, shares, max_kept): scratch. alive (N, R), by place in the order: zero before the call.
// Grid (shares, N), 1024 threads.
extern "C" __global__ void __launch_bounds__(1024) suppress(
    const float4 *__restrict__ boxes, const int *__restrict__ groups, const int *__restrict__ order, int count,
    int max_kept, float threshold, float4 *kept_boxes, int *kept_groups, bool *alive) {
  __shared__ int members[1024];  // places in the order: this share's boxes among the 1024 that the block looks at
  __shared__ float4 chunk[CHUNK];
  __shared__ int chunk_group[CHUNK];
  __shared__ unsigned dropped[2], suppressed[CHUNK][2];  // bit j: box j is dropped; box j is suppressed by box i
  __shared__ Bits stays;
  long long row = blockIdx.y * (long long)count, scratch = (blockIdx.y * (long long)gridDim.x + blockIdx.x) * max_kept;
  boxes += row;
  groups += row;
  order += row;
  alive += row;
  kept_boxes += scratch;
  kept_groups += scratch;
  int own = threadIdx.x % CHUNK, part = threadIdx.x / CHUNK, parts = blockDim.x / CHUNK;
  int kept = 0;

  for (int start = 0; start < count && order[start] >= 0 && kept < max_kept; start += blockDim.x) {
    int place = start + threadIdx.x, box = place < count ? order[place] : -1, size;
    bool ours = box >= 0 && (unsigned)groups[box] % gridDim.x == blockIdx.x;
    int member = sum_before(ours, size);
    if (ours) members[member] = place;
    __syncthreads();

    for (int first = 0; first < size && kept < max_kept; first += CHUNK) {
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
        for (int found = kept; left && found < max_kept; found++) {
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

// kept (N, max_kept): the first max_kept indices of order (N, count) that are alive, then 0. valid (N, max_kept): which of
// these are boxes. One block of 1024 threads per image.
extern "C" __global__ void __launch_bounds__(1024) keep_first(
    const bool *__restrict__ alive, const int *__restrict__ order, int count, int max_kept, long long *kept, bool *valid) {
  alive += blockIdx.x * (long long)count;
  order += blockIdx.x * (long long)count;
  kept += blockIdx.x * (long long)max_kept;
  valid += blockIdx.x * (long long)max_kept;
  int found = 0;
  for (int start = 0; start < count && order[start] >= 0 && found < max_kept; start += blockDim.x) {
    int i = start + threadIdx.x, more;
    bool here = i < count && alive[i];
    int place = found + sum_before(here, more);
    if (here && place < max_kept) {
      kept[place] = order[i];
      valid[place] = true;
    }
    found += more;
  }
  for (int place = found + threadIdx.x; place < max_kept; place += blockDim.x) {
    kept[place] = 0;
    valid[place] = false;
  }
}
