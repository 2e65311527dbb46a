// Keypoints: the largest value of each map, stretched to the pixels of its box by cubic convolution; see keypoints.py.
//
// One block of 256 threads, 8 warps, per map. A warp takes stripes of 32 columns and ROWS rows of the box; each thread
// walks down a column and keeps the last four rows of the map, stretched along x, in registers. So a pixel takes 4
// multiplications besides the weights of its row, and the four cells of a new row are read when the walk reaches it.
// The map (4 H W bytes) stays in the cache; 12 bytes are written. The stretched map never exists in memory.

#define ROWS 32

// The four cells around pixel i, when `cells` are stretched to `pixels`: returns the second of them, and fills the
// weights of all four, cubic with a = -0.75. Integers up to the last step keep the position exact.
__device__ __forceinline__ int taps(int i, int pixels, int cells, float *weight) {
  int position = (2 * i + 1) * cells - pixels, unit = 2 * pixels;  // (i + 1/2) cells / pixels - 1/2, times `unit`
  int low = position < 0 ? -1 : position / unit;                   // it is at least -1/2 cells
  float d = (float)(position - low * unit) / unit;                 // distance of the second cell
#pragma unroll
  for (int t = 0; t < 4; t++) {
    float distance = fabsf(d + 1 - t);
    weight[t] = distance <= 1.f ? (1.25f * distance - 2.25f) * distance * distance + 1.f
                                : ((-0.75f * distance + 3.75f) * distance - 6.f) * distance + 3.f;
  }
  return low;
}

// Row y of the map at a column: the weighted sum of the four cells around `low`. Beyond the border, the border's cell.
__device__ __forceinline__ float stretched(const float *cells, int y, int low, const float *weight, int h, int w) {
  const float *row = cells + min(max(y, 0), h - 1) * w;
  float value = 0.f;
#pragma unroll
  for (int t = 0; t < 4; t++) value += row[min(max(low - 1 + t, 0), w - 1)] * weight[t];
  return value;
}

struct Peak {
  float value;
  int x, y;
};

__device__ __forceinline__ bool higher(Peak a, Peak b) {  // of equals, the first in reading order
  return a.value > b.value || (a.value == b.value && (a.y < b.y || (a.y == b.y && a.x < b.x)));
}

// The highest of a warp's peaks, in lane 0.
__device__ __forceinline__ Peak highest(Peak best) {
  for (int step = 16; step; step /= 2) {
    Peak other = {__shfl_down_sync(0xffffffffu, best.value, step), __shfl_down_sync(0xffffffffu, best.x, step),
                  __shfl_down_sync(0xffffffffu, best.y, step)};
    if (higher(other, best)) best = other;
  }
  return best;
}

// result (R, K, 3) = x, y, value of the peak of each map of logits (R, K, H, W), stretched to the width and height of
// its box, pixels (R, 2). Block r K + k works on map (r, k).
extern "C" __global__ void __launch_bounds__(256) find_peaks(const float *__restrict__ logits,
                                                             const long long *__restrict__ pixels, int keypoints,
                                                             int h, int w, float *__restrict__ result) {
  __shared__ Peak peaks[8];
  const float *cells = logits + (long long)blockIdx.x * h * w;
  int width = pixels[blockIdx.x / keypoints * 2], height = pixels[blockIdx.x / keypoints * 2 + 1];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int across = (width + 31) / 32, stripes = across * ((height + ROWS - 1) / ROWS);
  Peak best = {-INFINITY_F, 0, 0};
  for (int stripe = warp; stripe < stripes; stripe += 8) {
    int x = stripe % across * 32 + lane, first = stripe / across * ROWS, last = min(first + ROWS, height);
    if (x >= width) continue;
    float wx[4], wy[4], a = 0.f, b = 0.f, c = 0.f, d = 0.f;  // rows next - 4 to next - 1 at this column
    int left = taps(x, width, w, wx), next = taps(first, height, h, wy) - 1;
    for (int y = first; y < last; y++) {
      int low = taps(y, height, h, wy);
      next = max(next, low - 1);  // if the map is higher than the box, the walk skips rows
      for (; next <= low + 2; next++) {
        a = b, b = c, c = d;
        d = stretched(cells, next, left, wx, h, w);
      }
      Peak here = {a * wy[0] + b * wy[1] + c * wy[2] + d * wy[3], x, y};
      if (higher(here, best)) best = here;
    }
  }
  best = highest(best);
  if (lane == 0) peaks[warp] = best;
  __syncthreads();
  if (warp == 0) {
    best = highest(lane < 8 ? peaks[lane] : Peak{-INFINITY_F, 0, 0});
    if (lane == 0) {
      float *place = result + 3 * (long long)blockIdx.x;
      place[0] = best.x, place[1] = best.y, place[2] = best.value;
    }
  }
}
