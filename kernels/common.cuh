// What several kernels share. It is put before every .cu file; NVRTC has neither <stdint.h> nor the constants of <math.h>.

#define INFINITY_F __int_as_float(0x7f800000)

// A loop over all items of a grid: the thread's own item first, then in steps of the grid's size.
#define GRID_LOOP(i, count) \
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < (count); i += gridDim.x * (long long)blockDim.x)

// Arithmetic on four channels of a pixel at once, for maps whose number of channels is a multiple of 4.
__device__ inline float4 operator*(float s, float4 a) { return make_float4(s * a.x, s * a.y, s * a.z, s * a.w); }
__device__ inline float4 &operator+=(float4 &a, float4 b) {
  a.x += b.x, a.y += b.y, a.z += b.z, a.w += b.w;
  return a;
}

// The sum of `value` over the threads of a block (one-dimensional, a multiple of 32), always added in the same order. Only
// thread 0 gets it.
template <class T> __device__ T block_sum(T value) {
  __shared__ T sums[32];  // one per warp
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int k = 16; k > 0; k /= 2) value += __shfl_down_sync(0xffffffff, value, k);
  if (lane == 0) sums[warp] = value;
  __syncthreads();
  value = threadIdx.x < blockDim.x / 32 ? sums[threadIdx.x] : T(0);
  if (warp == 0)
    for (int k = 16; k > 0; k /= 2) value += __shfl_down_sync(0xffffffff, value, k);
  __syncthreads();  // sums may be used again
  return value;
}

// ---------------------------------------------------------------- counting in a block
// The sum of `value` over the threads before this one, and over the whole block (total). Every thread must call it, and
// their number must be a multiple of 32. If the values are flags of 0 and 1, it is each marked thread's rank among them.
__device__ inline int sum_before(int value, int &total) {
  __shared__ int warp_sums[32];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, sum = value;  // sum: over this lane and those before
  for (int distance = 1; distance < 32; distance *= 2) {
    int other = __shfl_up_sync(0xffffffffu, sum, distance);
    if (lane >= distance) sum += other;
  }
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  int before = sum - value;
  total = 0;
  for (int w = 0; w < blockDim.x / 32; w++) {
    if (w < warp) before += warp_sums[w];
    total += warp_sums[w];
  }
  __syncthreads();  // warp_sums may be written again
  return before;
}

// ---------------------------------------------------------------- boxes: x1, y1, x2, y2 in pixels
// __fmul_rn keeps the compiler from fusing a product with a sum. Each step is rounded as in NumPy, so that comparisons of
// overlaps have the same outcome.
__device__ inline float box_area(float4 box) { return __fmul_rn(box.z - box.x, box.w - box.y); }

__device__ inline float overlap(float4 a, float4 b) {
  float width = fminf(a.z, b.z) - fmaxf(a.x, b.x), height = fminf(a.w, b.w) - fmaxf(a.y, b.y);
  return width > 0 && height > 0 ? __fmul_rn(width, height) : 0;
}

__device__ inline float iou(float4 a, float4 b) {
  float both = overlap(a, b);
  return both > 0 ? both / (box_area(a) + box_area(b) - both) : 0;  // most pairs do not overlap and need no division
}

// ---------------------------------------------------------------- feature maps
// V channels of a pixel, read or written at once: V = 4 if the number of channels is a multiple of 4, otherwise 1.
template <class T, int V> struct alignas(sizeof(T) * V) Channels {
  T at[V];
};

// The levels of a pyramid as parameters of a kernel. (A table in memory would have to be copied to the card in every step.)
// LEVELS declares five of them, LEVEL_NAMES passes them on; levels that are missing or not wanted have no map.
#define LEVELS(T)                                                                                          \
  T *map0, int height0, int width0, float scale0, T *map1, int height1, int width1, float scale1, T *map2, \
      int height2, int width2, float scale2, T *map3, int height3, int width3, float scale3, T *map4, int height4, \
      int width4, float scale4
#define LEVEL_NAMES                                                                                            \
  map0, height0, width0, scale0, map1, height1, width1, scale1, map2, height2, width2, scale2, map3, height3, \
      width3, scale3, map4, height4, width4, scale4

template <class T> struct Level {
  T *map;  // (N, height, width, C)
  int height, width;
  float scale;  // cells / pixels
};

template <class T> __device__ Level<T> level_at(long long i, LEVELS(T)) {
  if (i == 0) return {map0, height0, width0, scale0};
  if (i == 1) return {map1, height1, width1, scale1};
  if (i == 2) return {map2, height2, width2, scale2};
  if (i == 3) return {map3, height3, width3, scale3};
  if (i == 4) return {map4, height4, width4, scale4};
  return {nullptr, 0, 0, 0};
}

// A tile of a pyramid's level, which one block owns in the gradients of RoIAlign and RoIPool: a row of cells per warp.
constexpr int TILE = 8;
struct Tile {
  int level, image, y, x;  // of its first cell
};

// The tile of this block. Blocks first take all tiles of level 0, then of level 1, ..., in reading order.
template <class T> __device__ Tile own_tile(int images, LEVELS(T)) {
  int block = blockIdx.x, i = 0;
  while (true) {
    const Level<T> level = level_at<T>(i, LEVEL_NAMES);
    const int rows = (level.height + TILE - 1) / TILE, columns = (level.width + TILE - 1) / TILE;
    const int tiles = level.map ? images * rows * columns : 0;
    if (block < tiles) return {i, block / (rows * columns), block / columns % rows * TILE, block % columns * TILE};
    block -= tiles;
    i++;
  }
}

// ---------------------------------------------------------------- copies from global to shared memory in the background
// copy16 begins to copy 16 bytes, both addresses multiples of 16; if `inside` is false, it reads nothing and writes zeros.
// copies_commit closes a group of copies. copies_wait<n> waits until at most the last n groups are still on their way. A
// thread then sees its own copies; the others see them after a barrier. Older cards (sm_75) copy at once.
#ifdef MINICUDA
using mc::copies_commit;
using mc::copy16;
template <int PENDING> __device__ void copies_wait() { mc::copies_wait(PENDING); }
#elif __CUDA_ARCH__ >= 800
__device__ __forceinline__ void copy16(void *shared, const void *global, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((unsigned)__cvta_generic_to_shared(shared)),
               "l"(global), "r"(inside ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
#else
__device__ __forceinline__ void copy16(void *shared, const void *global, bool inside) {
  *(float4 *)shared = inside ? *(const float4 *)global : make_float4(0, 0, 0, 0);
}
__device__ __forceinline__ void copies_commit() {}
template <int PENDING> __device__ __forceinline__ void copies_wait() {}
#endif

// ---------------------------------------------------------------- tensor cores
// A warp multiplies small matrices: d (16 x 8, float32) += A (16 x depth) B (depth x 8). Lane (g, t) = (lane / 4, lane % 4)
// holds d[0], d[1] of row g, columns 2 t and 2 t + 1, and d[2], d[3] of row g + 8.
//   mma_tf32: depth 8, numbers rounded by to_tf32.
//     a[i] = A[g + 8 (i % 2)][t + 4 (i / 2)],  b[i] = B[t + 4 i][g]
//   mma_bf16: depth 16, pairs made by to_bf16x2.
//     a[i] = A[g + 8 (i % 2)][2 t + 8 (i / 2) + {0, 1}],  b[i] = B[2 t + 8 i + {0, 1}][g]
// Cards before sm_80 have neither; their launchers choose the float32 kernels.
#ifdef MINICUDA
#define to_tf32(x) mc::tf32(x)
#define to_bf16x2(low, high) mc::bf16x2(low, high)
#define mma_tf32(d, a, b) mc::mma_tf32(MC_SITE, d, a, b)
#define mma_bf16(d, a, b) mc::mma_bf16(MC_SITE, d, a, b)
#elif __CUDA_ARCH__ >= 800
__device__ __forceinline__ float to_tf32(float x) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __int_as_float(bits);
}
__device__ __forceinline__ unsigned to_bf16x2(float low, float high) {
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ void mma_tf32(float *d, const float *a, const float *b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(__float_as_int(a[0])), "r"(__float_as_int(a[1])), "r"(__float_as_int(a[2])),
                 "r"(__float_as_int(a[3])), "r"(__float_as_int(b[0])), "r"(__float_as_int(b[1])));
}
__device__ __forceinline__ void mma_bf16(float *d, const unsigned *a, const unsigned *b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
__device__ __forceinline__ float to_tf32(float x) { return x; }
__device__ __forceinline__ unsigned to_bf16x2(float, float) { return 0; }
__device__ __forceinline__ void mma_tf32(float *, const float *, const float *) { __trap(); }
__device__ __forceinline__ void mma_bf16(float *, const unsigned *, const unsigned *) { __trap(); }
#endif
