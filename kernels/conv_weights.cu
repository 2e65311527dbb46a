// The gradient of a convolution's weights on the GPU, float32:
//
//     gw[(i, j, c), o] = sum over pixels p of rows[p, (i, j, c)] gy[p, o]
//
// with the rows that conv_direct.cu describes: again a matrix product, as deep as there are pixels. Its result is small, so
// few blocks would have work. Therefore the pixels are cut into parts, each block adds up one part for one tile of gw, and
// `add_parts` adds the parts, always in the same order, so that the same input gives the same bits.
//
// Launch: 256 threads; blocks (tiles of terms x tiles of channels, parts, groups). A step reads D pixels: each thread a quad
// of terms and a quad of channels of one pixel. Takes 2 kh kw Cin flops per number of gy. Moves x and gy about once per
// column and row of tiles, from the cache. The parts are at most about 4 million numbers (see conv_cuda.py).
#include "conv_window.cuh"

// each: pixels per part. parts: (parts, kh kw inner, groups outer).
template <int T>
__global__ void __launch_bounds__(256, 2)
    backward_weights(Geometry g, const float *__restrict__ x, const float *__restrict__ gy, int each, float *parts) {
  constexpr int D = 1024 / T, R = T / 16;
  __shared__ __align__(16) float xs[2][D][T], gs[2][D][T];
  const Share s(g, blockIdx.z / g.groups, blockIdx.z % g.groups);
  const int across = (g.outer + T - 1) / T;
  const int term0 = blockIdx.x / across * T, channel0 = blockIdx.x % across * T;
  const int first = blockIdx.y * each, end = min(first + each, s.pixels());

  const int tid = threadIdx.x, row = tid / (T / 4), quad = tid % (T / 4) * 4;  // what this thread reads
  const Term term = s.term(term0 + quad);
  const int channel = channel0 + quad;
  int pixel = first + row;
  Place place = s.place(pixel);
  __align__(16) float qx[4], qg[4];

  auto read = [&]() {
    const Window window(s, x, place);
    if (g.quads_x) {
      const float *at = pixel < end ? window.at(s, term) : nullptr;
      *(float4 *)qx = at ? *(const float4 *)at : make_float4(0, 0, 0, 0);
    } else {
      Term t = term;
      for (int e = 0; e < 4; e++, s.forward(t, 1)) {
        const float *at = pixel < end ? window.at(s, t) : nullptr;
        qx[e] = at ? *at : 0;
      }
    }
    const float *at = gy + (long long)pixel * (g.groups * g.outer) + s.group * g.outer + channel;
    if (g.quads_y)
      *(float4 *)qg = pixel < end && channel < g.outer ? *(const float4 *)at : make_float4(0, 0, 0, 0);
    else
      for (int e = 0; e < 4; e++) qg[e] = pixel < end && channel + e < g.outer ? at[e] : 0;
    pixel += D;
    s.forward(place, D);
  };
  auto store = [&](int half) {
    *(float4 *)&xs[half][row][quad] = *(float4 *)qx;
    *(float4 *)&gs[half][row][quad] = *(float4 *)qg;
  };

  // This thread multiplies terms my + 64 h + 0..3 by channels mx + 64 h + 0..3, as in conv_direct.cu.
  const int my = (tid / 64 * 4 + tid % 32 / 8) * 4, mx = (tid / 32 % 2 * 8 + tid % 8) * 4;
  float sums[R][R] = {};
  const int steps = (end - first + D - 1) / D;
  read();
  store(0);
  __syncthreads();
  for (int step = 0; step < steps; step++) {
    if (step + 1 < steps) read();
#pragma unroll
    for (int k = 0; k < D; k++) add_products<R>(&xs[step % 2][k][my], &gs[step % 2][k][mx], sums);
    if (step + 1 < steps) store((step + 1) % 2);
    __syncthreads();
  }

  parts += (long long)blockIdx.y * s.terms() * (g.groups * g.outer);
#pragma unroll
  for (int i = 0; i < R; i++) {
    const int n = term0 + my + i / 4 * 64 + i % 4;
    if (n >= s.terms()) continue;
#pragma unroll
    for (int j = 0; j < R; j++) {
      const int o = channel0 + mx + j / 4 * 64 + j % 4;
      if (o < g.outer) parts[(long long)n * (g.groups * g.outer) + s.group * g.outer + o] = sums[i][j];
    }
  }
}
// instantiate: backward_weights<64>, backward_weights<128>

// gw (count) = the sum of parts (number, count), one after the other. Moves 4 (number + 1) bytes per number of gw.
extern "C" __global__ void add_parts(const float *__restrict__ parts, int number, long long count, float *__restrict__ gw) {
  GRID_LOOP(i, count) {
    float sum = parts[i];
    for (int part = 1; part < number; part++) sum += parts[part * count + i];
    gw[i] = sum;
  }
}
