// Gradient of taking elements by index: the gradients of elements taken from the same place are summed there.
//
// One thread per element taken. A block reads all places tile by tile through shared memory: n^2 comparisons in all, and
// 4 n bytes per block of 256, from the cache. Each thread sums all elements of its place, in their order. Threads that
// share a place write the same bits, so there are no atomics. Places that nothing was taken from are left alone.

#define TILE 256  // elements, and threads of a block

extern "C" __global__ void __launch_bounds__(TILE) scatter_add(const int *__restrict__ places,
                                                               const float *__restrict__ gy, int count,
                                                               float *__restrict__ gx) {
  __shared__ int tile[TILE];
  int own = blockIdx.x * TILE + threadIdx.x, place = own < count ? places[own] : -1;
  float total = 0.f;
  for (int start = 0; start < count; start += TILE) {
    __syncthreads();  // everyone is done with the tile before
    if (start + threadIdx.x < count) tile[threadIdx.x] = places[start + threadIdx.x];
    __syncthreads();
    for (int k = 0; k < min(TILE, count - start); k++)
      if (tile[k] == place) total += gy[start + k];
  }
  if (own < count) gx[place] = total;
}
