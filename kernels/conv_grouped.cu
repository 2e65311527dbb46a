// Convolution in many small groups of channels on the GPU, float32 (depthwise: one channel per group). It computes the
// same as conv_direct.cu and conv_weights.cu, without tiles, because a tile of 64 channels would be nearly empty.
//
// The sums have few terms, so that few numbers are read repeatedly and the first-level cache suffices. Neighboring threads
// have neighboring channels. Moves x, the result and the residual once from memory. Per term and run of 4 pixels, a thread
// reads one weight and four numbers of the map from the cache: for 3x3 depthwise about 11 per result, which is roughly
// what 3 TB/s allow.
//
// Launch: 256 threads. convolve_grouped: blocks (runs x channels / 256, 1, shares). backward_weights_grouped: blocks
// (weights / 256, parts).
#include "conv_window.cuh"

constexpr int PIXELS = 4;  // neighboring pixels per thread

extern "C" __global__ void __launch_bounds__(256)
    convolve_grouped(Geometry g, const float *__restrict__ x, const float *__restrict__ w, const float *__restrict__ bias,
                     const float *__restrict__ residual, int relu, float *__restrict__ y) {
  const Axis &axis = g.x[blockIdx.z % g.shares_x];
  const int channels = g.groups * g.outer, runs = (axis.count + PIXELS - 1) / PIXELS;  // per row
  const long long item = blockIdx.x * 256LL + threadIdx.x;
  const int channel = item % channels, run = item / channels;
  const Share s(g, blockIdx.z, channel / g.outer);
  Place place = {run / runs / s.y.count, run / runs % s.y.count, run % runs * PIXELS};
  if (place.image >= g.images) return;
  const Window window(s, x, place);
  float sums[PIXELS] = {};
  for (int a = 0; a < s.y.taps; a++)
    for (int b = 0; b < s.x.taps; b++) {
      const Term t = {a, b, 0};
      const float *weight = s.weight(w, t, channel % g.outer);
      const float *at[PIXELS];
      for (int p = 0; p < PIXELS; p++) at[p] = window.right(p * s.x.stride).at(s, t);
      for (int c = 0; c < g.inner; c++)
        for (int p = 0; p < PIXELS; p++)
          if (at[p]) sums[p] += at[p][c] * weight[c * g.w_in];
    }
  for (int p = 0; p < PIXELS && place.column < s.x.count; p++, place.column++) {
    const long long to = s.result(place) + channel % g.outer;
    y[to] = finished(sums[p], bias, channel, residual, to, relu);
  }
}

// each: pixels per part. parts: (parts, kh kw inner, groups outer); add_parts of conv_weights.cu adds them up.
extern "C" __global__ void __launch_bounds__(256)
    backward_weights_grouped(Geometry g, const float *__restrict__ x, const float *__restrict__ gy, int each, float *parts) {
  const int channels = g.groups * g.outer, item = blockIdx.x * 256 + threadIdx.x;
  const int channel = item % channels;
  const Share s(g, 0, channel / g.outer);
  const Term term = s.term(item / channels);
  if (term.a >= s.y.taps) return;
  const int first = blockIdx.y * each, end = min(first + each, s.pixels());
  Place place = s.place(first);
  float sum = 0;
  for (int pixel = first; pixel < end; pixel++, s.forward(place, 1)) {
    const float *at = Window(s, x, place).at(s, term);
    if (at) sum += *at * gy[(long long)pixel * channels + channel];
  }
  parts[(long long)blockIdx.y * s.terms() * channels + item] = sum;
}
