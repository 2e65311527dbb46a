// Convolution on the GPU, float32: y = relu(x * w + bias + residual), and the gradient of the map, which is a convolution
// with other steps.
//
// The numbers under the window of one output pixel, written side by side, form a row of length kh * kw * Cin. The rows of
// all pixels form a matrix (often called im2col), and convolution is this matrix times the weights (kh * kw * Cin, Cout).
// The matrix is never written: a block reads the few columns that it needs next straight from the map (implicit GEMM).
//
//   each block computes a tile of T pixels by T channels of the result; per step of D terms of the sum it
//     reads       D x T numbers under the windows and D x T weights into registers, a quad of each per thread
//     multiplies  meanwhile the previous step's, from shared memory: R x R results in each thread's registers
//     stores      what it has read into the other half of shared memory
//   then it finishes: adds bias and residual, ReLU, writes
//
// A small map has few tiles. Its sum is cut into parts, one block each, and `finish` adds the parts in a fixed order.
//
// The gradient of the map is the same with `in` and `out` exchanged. With a stride s > 1, the pixels of the map fall into
// s x s phases (see backward_axis in conv_cuda.py), which are shares of one launch. A transposed convolution is the same.
//
// Launch: 256 threads; blocks (tiles of pixels x tiles of channels, parts, groups x phases). Takes 2 kh kw Cin flops per
// number of the result. Per term of the sum, a block reads 2 T numbers and makes 2 T^2 flops, so T = 128 needs 1/32 byte
// per flop from the second-level cache: 2 TB/s at the 60 TFLOP/s that an H100 reaches in float32, less than its cache
// delivers. Moves from memory: x about once (neighboring blocks have the same pixels) and the result once.
#include "conv_window.cuh"

// each: terms per part, a multiple of D. With several parts, y has room for (parts, result), and nothing follows the sums.
// ACROSS: neighboring output channels lie side by side in the weights (w_out == 1); otherwise neighboring input channels.
template <int T, bool ACROSS>
__global__ void __launch_bounds__(256, 2)
    convolve(Geometry g, const float *__restrict__ x, const float *__restrict__ w, const float *__restrict__ bias,
             const float *__restrict__ residual, int relu, int each, float *__restrict__ y) {
  constexpr int D = 1024 / T, R = T / 16;
  __shared__ __align__(16) float xs[2][D][T + 4], ws[2][D][T + 4];  // + 4: a warp's stores go to different banks
  const Share s(g, blockIdx.z / g.groups, blockIdx.z % g.groups);
  const int across = (g.outer + T - 1) / T;  // tiles of channels; neighboring blocks share their pixels, not their weights
  const int pixel0 = blockIdx.x / across * T, channel0 = blockIdx.x % across * T;
  if (pixel0 >= s.pixels()) return;  // shares differ in size

  // This thread reads 4 terms of one pixel, and 4 channels of one term or 4 terms of one channel.
  const int tid = threadIdx.x;
  const int x_pixel = tid / (D / 4), x_term = tid % (D / 4) * 4;
  const int w_term = ACROSS ? tid / (T / 4) : x_term, w_channel = ACROSS ? tid % (T / 4) * 4 : x_pixel;
  const Window window(s, x, s.place(pixel0 + x_pixel));
  const int first = blockIdx.y * each;  // this part's first term
  Term tx = s.term(first + x_term), tw = s.term(first + w_term);
  __align__(16) float qx[4], qw[4];

  auto read = [&]() {
    if (g.quads_x) {
      const float *at = window.at(s, tx);
      *(float4 *)qx = at ? *(const float4 *)at : make_float4(0, 0, 0, 0);
    } else {
      Term t = tx;
      for (int e = 0; e < 4; e++, s.forward(t, 1)) {
        const float *at = window.at(s, t);
        qx[e] = at ? *at : 0;
      }
    }
    s.forward(tx, D);
    if (g.quads_w) {
      const float *at = s.weight(w, tw, channel0 + w_channel);
      *(float4 *)qw = at ? *(const float4 *)at : make_float4(0, 0, 0, 0);
    } else {
      Term t = tw;
      for (int e = 0; e < 4; e++) {
        const float *at = s.weight(w, t, channel0 + w_channel + (ACROSS ? e : 0));
        qw[e] = at ? *at : 0;
        if (!ACROSS) s.forward(t, 1);
      }
    }
    s.forward(tw, D);
  };
  auto store = [&](int half) {
    for (int e = 0; e < 4; e++) xs[half][x_term + e][x_pixel] = qx[e];
    if (ACROSS)
      *(float4 *)&ws[half][w_term][w_channel] = *(float4 *)qw;
    else
      for (int e = 0; e < 4; e++) ws[half][w_term + e][w_channel] = qw[e];
  };

  // This thread multiplies pixels my + 64 h + 0..3 by channels mx + 64 h + 0..3. A warp has 4 x 8 threads, so it reads 16
  // pixels and 32 channels per term, each in one pass through shared memory.
  const int my = (tid / 64 * 4 + tid % 32 / 8) * 4, mx = (tid / 32 % 2 * 8 + tid % 8) * 4;
  float sums[R][R] = {};
  const int steps = (min(s.terms() - first, each) + D - 1) / D;  // with no steps, the sums are 0
  if (steps > 0) {
    read();
    store(0);
    __syncthreads();
  }
  for (int step = 0; step < steps; step++) {
    if (step + 1 < steps) read();
#pragma unroll 2  // unrolled completely, it needs more registers than there are
    for (int k = 0; k < D; k++) add_products<R>(&xs[step % 2][k][my], &ws[step % 2][k][mx], sums);
    if (step + 1 < steps) store((step + 1) % 2);
    __syncthreads();
  }

  y += blockIdx.y * s.size();
#pragma unroll
  for (int i = 0; i < R; i++) {
    const int pixel = pixel0 + my + i / 4 * 64 + i % 4;
    if (pixel >= s.pixels()) continue;
    const long long at = s.result(s.place(pixel));
#pragma unroll
    for (int h = 0; h < R; h += 4) {
      const int channel = channel0 + mx + 16 * h;
      float *out = y + at + channel;
      __align__(16) float q[4];
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (channel + e < g.outer)
          q[e] = finished(sums[i][h + e], bias, s.group * g.outer + channel + e, residual, at + channel + e, relu);
      if (g.quads_y && channel < g.outer)
        *(float4 *)out = *(float4 *)q;
      else
        for (int e = 0; e < 4; e++)
          if (channel + e < g.outer) out[e] = q[e];
    }
  }
}
// instantiate: convolve<64, false>, convolve<64, true>, convolve<128, false>, convolve<128, true>

// y (pixels, channels) = relu(sum of the parts (number, pixels, channels) + bias + residual). bias: (channels,) or NULL;
// residual: shape of y, or NULL. After a product by cuBLAS, parts is y itself. Launch: blocks of (lanes, rows) threads, a
// row per pixel. Moves 4 (number + 1) bytes per number of y, and 4 more with a residual.
extern "C" __global__ void finish(const float *parts, int number, const float *bias, const float *residual, int pixels,
                                  int channels, int relu, float *y) {
  const long long size = (long long)pixels * channels;
  for (int pixel = blockIdx.x * blockDim.y + threadIdx.y; pixel < pixels; pixel += gridDim.x * blockDim.y)
    for (int channel = threadIdx.x; channel < channels; channel += blockDim.x) {
      const long long at = (long long)pixel * channels + channel;
      float sum = parts[at];
#pragma unroll 1  // there are few parts, often only one
      for (int part = 1; part < number; part++) sum += parts[part * size + at];
      y[at] = finished(sum, bias, channel, residual, at, relu);
    }
}
