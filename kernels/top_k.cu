// The largest of many numbers, in order: a top k, a full sort, and the random sample that is a top k of priorities.
// They compute the same as the array code of targets.top_k and targets.sample.
//
// Each number becomes a 64-bit key: 32 bits that get smaller as the number gets larger, then its index. No two keys are
// equal, equal numbers are ordered by index, and the order in which the threads reach the keys does not matter.
//
// top_k, sample: one block per image (and level) finds the key that separates the `count` smallest from the rest, eight
// bits at a time (radix select), collects the smallest in shared memory and sorts them there. Each of the one to four
// passes reads 4 bytes per number, from the L2 cache after the first pass: 200,000 scores are 0.8 MB per pass. A block
// reads at most 64 bytes per cycle, so that takes 12,500 cycles; the levels of all images run side by side.
// sort_chunks, merge_ranks: for more keys than shared memory holds. Each block sorts one chunk; then the place of a key is
// its place in its own chunk plus, by binary search, the number of smaller keys in every other chunk. 16 bytes per number,
// and log2(chunk) reads per number and chunk (from L2; neighboring threads read the same).

typedef unsigned long long Key;

const int LANES = 32;    // each lane of a warp counts in its own column, so no two lanes add to the same word
const int DIGITS = 256;  // of eight bits

// The key of a score: the largest score has the smallest key, and NaN counts as minus infinity.
__device__ Key descending(float score, unsigned index) {
  unsigned bits = __float_as_int(score == score ? score + 0.0f : -INFINITY_F);  // + 0: -0 equals 0
  unsigned rising = bits >> 31 ? ~bits : bits | 0x80000000u;
  return (Key)~rising << 32 | index;
}
const Key NONE = ~0ull;  // larger than the key of any number

// visit(key(i)) for all i, with eight loads in flight at a time.
const int UNROLL = 8;
template <class KeyOf, class Visit> __device__ void each(KeyOf key, int total, Visit visit) {
  for (int start = threadIdx.x; start < total; start += UNROLL * blockDim.x) {
    Key keys[UNROLL];
#pragma unroll
    for (int j = 0, i = start; j < UNROLL; j++, i += blockDim.x) keys[j] = i < total ? key(i) : NONE;
#pragma unroll
    for (int j = 0; j < UNROLL; j++)
      if (keys[j] != NONE) visit(keys[j]);
  }
}

// A key K such that exactly the `wanted` smallest keys are at most K. wanted: 1 to total.
template <class KeyOf> __device__ Key cut(KeyOf key, int total, int wanted, int *histogram) {
  __shared__ int digit, before_digit, inside_digit;
  Key prefix = 0;  // the digits found so far
  for (int shift = 56; shift >= 0; shift -= 8) {
    if (shift < 32 && (total - 1) >> shift == 0) continue;  // this digit of all indices is 0
    for (int i = threadIdx.x; i < DIGITS * LANES; i += blockDim.x) histogram[i] = 0;
    __syncthreads();
    each(key, total, [&](Key k) {
      if ((k ^ prefix) >> shift >> 8 == 0) atomicAdd(&histogram[(int)(k >> shift & 255) * LANES + threadIdx.x % LANES], 1);
    });
    __syncthreads();
    int here = 0;
    if (threadIdx.x < DIGITS)
      for (int i = 0; i < LANES; i++) here += histogram[threadIdx.x * LANES + (i + threadIdx.x) % LANES];
    int all, before = sum_before(here, all);
    if (before < wanted && wanted <= before + here) {  // one thread
      digit = threadIdx.x;
      before_digit = before;
      inside_digit = here;
    }
    __syncthreads();
    prefix |= (Key)digit << shift;
    wanted -= before_digit;
    if (wanted == inside_digit) return prefix | (((Key)1 << shift) - 1);  // all keys with this prefix
  }
  return prefix;
}

// Sort `size` keys (a power of two) in shared memory: a bitonic sort, whose steps do not depend on the order of the keys.
__device__ void sort(Key *list, int size) {
  for (int width = 2; width <= size; width *= 2)
    for (int step = width / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < size / 2; i += blockDim.x) {
        int low = 2 * i - (i & (step - 1)), high = low + step;
        Key a = list[low], b = list[high];
        if ((a > b) == ((low & width) == 0)) {
          list[low] = b;
          list[high] = a;
        }
      }
      __syncthreads();
    }
}

// Write the `count` smallest of key(0) ... key(total - 1), sorted, to list[0] ... list[count - 1] in shared memory, which
// has room for the next power of two. count: 1 to total.
template <class KeyOf> __device__ void smallest(KeyOf key, int total, int count, Key *list) {
  __shared__ int found;
  int size = 1;
  while (size < count) size *= 2;
  Key last = count < total ? cut(key, total, count, (int *)list) : NONE;
  if (threadIdx.x == 0) found = 0;
  for (int i = count + threadIdx.x; i < size; i += blockDim.x) list[i] = NONE;
  __syncthreads();
  each(key, total, [&](Key k) {
    if (k <= last) list[atomicAdd(&found, 1)] = k;
  });
  __syncthreads();
  sort(list, size);
}

// Indices (N, taken) of the largest of scores (N, total), level by level. levels (L, 4): the first score of the level, how
// many scores it has, its first place in the result, how many to take. level_of (N, taken), or null: the level of each.
// Grid (L, N), 1024 threads; shared memory for the keys (8 bytes each, a power of two) or the histogram.
extern "C" __global__ void __launch_bounds__(1024, 1) top_k(
    const float *__restrict__ scores, const int *__restrict__ levels, int total, int taken, long long *indices,
    int *level_of) {
  extern __shared__ Key list[];
  const int *level = levels + 4 * blockIdx.x;
  int first = level[0], place = level[2], wanted = level[3];
  if (wanted == 0) return;
  const float *row = scores + blockIdx.y * (long long)total + first;
  smallest([=](int i) { return descending(row[i], i); }, level[1], wanted, list);
  long long out = blockIdx.y * (long long)taken + place;
  for (int i = threadIdx.x; i < wanted; i += blockDim.x) {
    indices[out + i] = first + (unsigned)list[i];
    if (level_of) level_of[out + i] = blockIdx.x;
  }
}

// targets.sample: from labels and priorities (N, total), `count` places per image: up to max_positives of label 1, then
// some of label 0, each in ascending order of priority. The places that are left hold other indices, which are not valid,
// in the same order as in the array code: first those that the search for positives came upon, then those of the search
// for background. One block of 1024 threads per image; shared memory as for top_k.
extern "C" __global__ void __launch_bounds__(1024, 1) sample(
    const signed char *__restrict__ labels, const float *__restrict__ priority, int total, int count, int max_positives,
    long long *indices, bool *positive, bool *valid) {
  extern __shared__ Key list[];
  labels += blockIdx.x * (long long)total;
  priority += blockIdx.x * (long long)total;
  long long out = blockIdx.x * (long long)count;

  int ones = 0, zeros = 0;
  for (int i = threadIdx.x; i < total; i += blockDim.x) {
    ones += labels[i] == 1;
    zeros += labels[i] == 0;
  }
  int all_ones, all_zeros;
  sum_before(ones, all_ones);
  sum_before(zeros, all_zeros);
  int positives = min(all_ones, max_positives), background = min(all_zeros, count - positives);

  for (int label = 1; label >= 0; label--) {
    int looked_for = label ? max_positives : count;
    if (looked_for == 0) continue;
    smallest([=](int i) { return (Key)__float_as_int(labels[i] == label ? priority[i] : 2.0f) << 32 | (unsigned)i; }, total,
             looked_for, list);
    for (int i = threadIdx.x; i < looked_for; i += blockDim.x) {
      int place = label ? (i < positives ? i : background + i) : (i < background ? positives + i : max_positives + i);
      if (place < count) {
        indices[out + place] = (unsigned)list[i];
        positive[out + place] = place < positives;
        valid[out + place] = place < positives + background;
      }
    }
    __syncthreads();  // the list has been read
  }
}

// keys (N, chunks, size): the keys of scores (N, total), each chunk of `size` (a power of two) sorted. valid (N, total), or
// null if all are valid: the others come last. Grid (chunks, N), 8 * size bytes of shared memory.
extern "C" __global__ void __launch_bounds__(1024) sort_chunks(
    const float *__restrict__ scores, const bool *__restrict__ valid, int total, int size, Key *keys) {
  extern __shared__ Key list[];
  long long row = blockIdx.y * (long long)total;
  for (int j = threadIdx.x; j < size; j += blockDim.x) {
    int i = blockIdx.x * size + j;
    list[j] = i < total && (!valid || valid[row + i]) ? descending(scores[row + i], i) : NONE;
  }
  __syncthreads();
  sort(list, size);
  keys += (blockIdx.y * (long long)gridDim.x + blockIdx.x) * size;
  for (int j = threadIdx.x; j < size; j += blockDim.x) keys[j] = list[j];
}

// order (N, total): the indices in the order of keys (N, chunks, size). The places after the last valid key are left as
// they are. One thread per key.
extern "C" __global__ void merge_ranks(const Key *__restrict__ keys, int images, int chunks, int size, int total, int *order) {
  GRID_LOOP(i, (long long)images * chunks * size) {
    long long image = i / (chunks * size);
    int own = i / size % chunks, rank = i % size;
    Key key = keys[i];
    if (key == NONE) continue;
    for (int chunk = 0; chunk < chunks; chunk++) {
      if (chunk == own) continue;
      const Key *other = keys + (image * chunks + chunk) * size;
      int smaller = 0;  // how many keys of the other chunk are smaller
      for (int step = size / 2; step > 0; step /= 2)
        if (other[smaller + step - 1] < key) smaller += step;
      rank += smaller + (other[smaller] < key);
    }
    order[image * total + rank] = (unsigned)key;
  }
}
