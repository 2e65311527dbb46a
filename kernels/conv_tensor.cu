// Convolution and the gradient of its weights on tensor cores: conv_direct.cu and conv_weights.cu with other arithmetic.
//
// Maps, weights and results are float32 in memory. TF32 keeps 10 bits of each factor's fraction, BF16 keeps 7; products are
// exact, sums float32. Errors are about 5e-4 and 4e-3 of a typical number. Tensor cores multiply 8 (TF32) or 16 (BF16)
// times as fast as an H100's float32 units, which is faster than the numbers arrive: at 1/32 byte per flop (T = 128, see
// conv_direct.cu), the 5 TB/s of the second-level cache allow about 170 TFLOP/s.
//
// A warp has T/2 x T/4 results. Tiles are copied to shared memory in the background (cp.async): STAGES - 1 of them are on
// their way while one is multiplied. The rows in shared memory are a few numbers longer than a tile, so that what a warp
// reads at once lies in different banks. Numbers are rounded when they are read from there.
//
// Launch: as conv_direct.cu and conv_weights.cu; _form in conv_cuda.py gives the bytes of shared memory. From sm_80 on.
// Moves the same bytes as those two.
#include "conv_window.cuh"

constexpr int D = 16, STAGES = 3;

// A tile of T rows (pixels, channels or weights) by D terms in shared memory. DEEP: the terms of a row lie side by side;
// otherwise the rows of a term.
template <int T, bool BF16, bool DEEP> struct Operand {
  static constexpr int pitch = DEEP ? D + (BF16 ? 8 : 4) : T + (BF16 ? 4 : 8), size = pitch * (DEEP ? T : D);
  static __device__ int at(int row, int term) { return DEEP ? row * pitch + term : term * pitch + row; }
  // This thread copies T/64 quads; the row and the term at which quad i begins.
  static __device__ int row(int i) { return (DEEP ? threadIdx.x / 4 : threadIdx.x % 16 * 4) + 64 * i; }
  static __device__ int term() { return DEEP ? threadIdx.x % 4 * 4 : threadIdx.x / 16; }
};

// Where this thread's results begin in the tile; common.cuh says which results of one product (mma) a thread has.
template <int T> struct Mine {
  static __device__ int row() { return threadIdx.x / 128 * (T / 2) + threadIdx.x % 32 / 4; }
  static __device__ int column() { return threadIdx.x / 32 % 4 * (T / 4) + threadIdx.x % 4 * 2; }
};

// What a register holds of a row's terms, from term k on, as mma in common.cuh needs it: one number, or a pair of BF16.
template <bool BF16> struct Factor {
  using type = float;
  template <class Tile> static __device__ float read(const float *tile, int row, int k, int half) {
    return to_tf32(tile[Tile::at(row, k + threadIdx.x % 4 + 4 * half)]);
  }
  static __device__ void multiply(float *sums, const float *a, const float *b) { mma_tf32(sums, a, b); }
};

template <> struct Factor<true> {
  using type = unsigned;
  template <class Tile> static __device__ unsigned read(const float *tile, int row, int k, int half) {
    k += threadIdx.x % 4 * 2 + 8 * half;
    return to_bf16x2(tile[Tile::at(row, k)], tile[Tile::at(row, k + 1)]);
  }
  static __device__ void multiply(float *sums, const unsigned *a, const unsigned *b) { mma_bf16(sums, a, b); }
};

// sums += xs ws, for one step of D terms.
template <int T, bool BF16, class X, class W>
__device__ void multiply(const float *xs, const float *ws, float (&sums)[T / 32][T / 32][4]) {
  const int row = threadIdx.x / 128 * (T / 2) + threadIdx.x % 32 / 4;
  const int column = threadIdx.x / 32 % 4 * (T / 4) + threadIdx.x % 32 / 4;
#pragma unroll 1  // otherwise the next numbers are read early, into more registers than there are
  for (int k = 0; k < D; k += BF16 ? 16 : 8) {
    typename Factor<BF16>::type a[T / 32][4], b[2];
#pragma unroll
    for (int m = 0; m < T / 32; m++)
#pragma unroll
      for (int i = 0; i < 4; i++) a[m][i] = Factor<BF16>::template read<X>(xs, row + 16 * m + 8 * (i % 2), k, i / 2);
#pragma unroll
    for (int n = 0; n < T / 32; n++) {
#pragma unroll
      for (int i = 0; i < 2; i++) b[i] = Factor<BF16>::template read<W>(ws, column + 8 * n, k, i);
#pragma unroll
      for (int m = 0; m < T / 32; m++) Factor<BF16>::multiply(sums[m][n], a[m], b);
    }
  }
}

// sums += all steps of a sum; read(xs, ws) begins to copy the next two tiles.
template <int T, bool BF16, class X, class W, class Read>
__device__ void multiply_all(int steps, Read read, float (&sums)[T / 32][T / 32][4]) {
  extern __shared__ __align__(16) float tiles[];
  auto stage = [&](int step) { return tiles + step % STAGES * (X::size + W::size); };
  for (int step = 0; step < STAGES - 1; step++) {
    if (step < steps) read(stage(step), stage(step) + X::size);
    copies_commit();
  }
  for (int step = 0; step < steps; step++) {
    copies_wait<STAGES - 2>();  // this step's tiles are here
    __syncthreads();            // for everybody; and everybody is done with the previous step's
    if (step + STAGES - 1 < steps) read(stage(step + STAGES - 1), stage(step + STAGES - 1) + X::size);
    copies_commit();
    multiply<T, BF16, X, W>(stage(step), stage(step) + X::size, sums);
  }
}

template <int T, bool ACROSS, bool BF16>
__global__ void __launch_bounds__(256, 2)
    convolve(Geometry g, const float *__restrict__ x, const float *__restrict__ w, const float *__restrict__ bias,
             const float *__restrict__ residual, int relu, int each, float *__restrict__ y) {
  using X = Operand<T, BF16, true>;
  using W = Operand<T, BF16, !ACROSS>;
  const Share s(g, blockIdx.z / g.groups, blockIdx.z % g.groups);
  const int across = (g.outer + T - 1) / T;
  const int pixel0 = blockIdx.x / across * T, channel0 = blockIdx.x % across * T;
  if (pixel0 >= s.pixels()) return;

  const Window windows[] = {Window(s, x, s.place(pixel0 + X::row(0))), Window(s, x, s.place(pixel0 + X::row(1)))};
  const int first = blockIdx.y * each;
  Term tx = s.term(first + X::term()), tw = s.term(first + W::term());
  auto read = [&](float *xs, float *ws) {
#pragma unroll
    for (int i = 0; i < T / 64; i++) {
      float *to = xs + X::at(X::row(i), X::term());
      if (g.quads_x) {
        const float *at = windows[i].at(s, tx);
        copy16(to, at ? at : x, at != nullptr);
      } else {
        Term t = tx;
#pragma unroll 1
        for (int e = 0; e < 4; e++, s.forward(t, 1)) {
          const float *at = windows[i].at(s, t);
          to[e] = at ? *at : 0;
        }
      }
      to = ws + W::at(W::row(i), W::term());
      if (g.quads_w) {
        const float *at = s.weight(w, tw, channel0 + W::row(i));
        copy16(to, at ? at : w, at != nullptr);
      } else {
        Term t = tw;
#pragma unroll 1
        for (int e = 0; e < 4; e++) {
          const float *at = s.weight(w, t, channel0 + W::row(i) + (ACROSS ? e : 0));
          to[e] = at ? *at : 0;
          if (!ACROSS) s.forward(t, 1);
        }
      }
    }
    s.forward(tx, D);
    s.forward(tw, D);
  };
  float sums[T / 32][T / 32][4] = {};
  multiply_all<T, BF16, X, W>((min(s.terms() - first, each) + D - 1) / D, read, sums);

  y += blockIdx.y * s.size();
#pragma unroll
  for (int m = 0; m < T / 16; m++) {
    const int pixel = pixel0 + Mine<T>::row() + 8 * m;
    if (pixel >= s.pixels()) continue;
    const long long at = s.result(s.place(pixel));
#pragma unroll
    for (int n = 0; n < T / 32; n++) {
      const int channel = channel0 + Mine<T>::column() + 8 * n;
      float q[2];
#pragma unroll
      for (int e = 0; e < 2; e++)
        if (channel + e < g.outer)
          q[e] = finished(sums[m / 2][n][m % 2 * 2 + e], bias, s.group * g.outer + channel + e, residual,
                          at + channel + e, relu);
      if (g.quads_y && channel < g.outer)
        *(float2 *)&y[at + channel] = make_float2(q[0], q[1]);
      else
        for (int e = 0; e < 2; e++)
          if (channel + e < g.outer) y[at + channel + e] = q[e];
    }
  }
}
// instantiate: convolve<64, false, false>, convolve<64, true, false>, convolve<128, false, false>, convolve<128, true, false>
// instantiate: convolve<64, false, true>, convolve<64, true, true>, convolve<128, false, true>, convolve<128, true, true>

template <int T, bool BF16>
__global__ void __launch_bounds__(256, 2)
    backward_weights(Geometry g, const float *__restrict__ x, const float *__restrict__ gy, int each, float *parts) {
  using X = Operand<T, BF16, false>;  // its rows are terms of the convolution, its terms are pixels
  const Share s(g, blockIdx.z / g.groups, blockIdx.z % g.groups);
  const int across = (g.outer + T - 1) / T;
  const int term0 = blockIdx.x / across * T, channel0 = blockIdx.x % across * T;
  const int first = blockIdx.y * each, end = min(first + each, s.pixels());

  const Term terms[] = {s.term(term0 + X::row(0)), s.term(term0 + X::row(1))};
  int pixel = first + X::term();
  Place place = s.place(pixel);
  auto read = [&](float *xs, float *gs) {
    const Window window(s, x, place);
    const float *line = gy + (long long)pixel * (g.groups * g.outer) + s.group * g.outer;
#pragma unroll
    for (int i = 0; i < T / 64; i++) {
      float *to = xs + X::at(X::row(i), X::term());
      if (g.quads_x) {
        const float *at = pixel < end ? window.at(s, terms[i]) : nullptr;
        copy16(to, at ? at : x, at != nullptr);
      } else {
        Term t = terms[i];
#pragma unroll 1
        for (int e = 0; e < 4; e++, s.forward(t, 1)) {
          const float *at = pixel < end ? window.at(s, t) : nullptr;
          to[e] = at ? *at : 0;
        }
      }
      to = gs + X::at(X::row(i), X::term());
      const int channel = channel0 + X::row(i);
      const bool exists = pixel < end && channel < g.outer;
      if (g.quads_y)
        copy16(to, exists ? line + channel : gy, exists);
      else
        for (int e = 0; e < 4; e++) to[e] = exists && channel + e < g.outer ? line[channel + e] : 0;
    }
    pixel += D;
    s.forward(place, D);
  };
  float sums[T / 32][T / 32][4] = {};
  multiply_all<T, BF16, X, X>((end - first + D - 1) / D, read, sums);

  parts += (long long)blockIdx.y * s.terms() * (g.groups * g.outer) + s.group * g.outer;
#pragma unroll
  for (int m = 0; m < T / 16; m++) {
    const int n = term0 + Mine<T>::row() + 8 * m;
    if (n >= s.terms()) continue;
#pragma unroll
    for (int j = 0; j < T / 32 * 2; j++) {
      const int o = channel0 + Mine<T>::column() + j / 2 * 8 + j % 2;
      if (o < g.outer) parts[(long long)n * (g.groups * g.outer) + o] = sums[m / 2][j / 2][m % 2 * 2 + j % 2];
    }
  }
}
// instantiate: backward_weights<64, false>, backward_weights<128, false>
// instantiate: backward_weights<64, true>, backward_weights<128, true>
