// Gradient of taking elements by index: what was taken from one place more than once is added up there.
//
// A thread an element taken; a block reads all places tile by tile through shared memory (n^2 comparisons in all, from
// cache: 4 n bytes for each block of 256). Each thread adds up all elements from its place, in their order: those that
// share a place write the same bits, so there are no atomics. Places that nothing was taken from are left as they are.

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
