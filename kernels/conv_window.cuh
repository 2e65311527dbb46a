// What the convolution kernels share: where the window of a result pixel lies, and how its numbers are read.

// One axis of a share of the result. The share's pixel q is pixel first + q step of the result; tap a is place
// tap + a tap_step of the window, and meets pixel start + q stride + a dilation of the map that is read.
struct Axis {
  int count, first, step;        // of the share's pixels
  int taps, tap, tap_step;
  int start, stride, dilation;
};

// Filled in by conv_cuda.py. A convolution has one share. For the gradient of the map, with a stride s, the pixels fall into
// s shares along each axis: see backward_axis there.
struct Geometry {
  Axis y[4], x[4];
  int shares_x;                      // number of shares along x
  int height, width;                 // of the map that is read
  int images, rows, columns;         // of the map that is written; for the gradient of the weights, of gy
  int kernel_x, groups;
  int inner, outer;                  // channels per group, read and written
  int w_tap, w_group, w_in, w_out;   // distances, in numbers, between the weights of neighboring places, groups,
                                     // channels read and channels written
  int quads_x, quads_w, quads_y;     // whether four neighboring channels can be read (written) as one float4
};

// A term of the sum over taps and channels: channel c of tap (a, b). The sum ends where a == taps along y.
struct Term {
  int a, b, c;

  __device__ void forward(int channels, int inner, int taps_x) {
    c += channels;
    while (c >= inner) {
      c -= inner;
      if (++b == taps_x) b = 0, ++a;
    }
  }
};

// A pixel of a share: its image, row and column.
struct Place {
  int image, row, column;
};

// A share of the pixels, and a group of channels.
struct Share {
  const Geometry &g;
  const Axis &y, &x;
  int group;

  __device__ Share(const Geometry &g, int share, int group)
      : g(g), y(g.y[share / g.shares_x]), x(g.x[share % g.shares_x]), group(group) {}

  __device__ int pixels() const { return g.images * y.count * x.count; }
  __device__ int terms() const { return y.taps * x.taps * g.inner; }
  __device__ long long size() const { return (long long)g.images * g.rows * g.columns * (g.groups * g.outer); }  // result

  // Pixel number n; and the pixel that lies `pixels` further. (Most of the time it is in the same row: no division.)
  __device__ Place place(int n) const { return {n / x.count / y.count, n / x.count % y.count, n % x.count}; }
  __device__ void forward(Place &p, int pixels) const {
    p.column += pixels;
    if (p.column < x.count) return;
    p.row += p.column / x.count;
    p.column %= x.count;
    if (p.row < y.count) return;
    p.image += p.row / y.count;
    p.row %= y.count;
  }

  // Term number n.
  __device__ Term term(int n) const {
    int tap = n / g.inner;
    return x.taps > 0 ? Term{tap / x.taps, tap % x.taps, n % g.inner} : Term{y.taps, 0, 0};  // without taps there are no terms
  }
  __device__ void forward(Term &t, int terms) const { t.forward(terms, g.inner, x.taps); }

  // Where a term's weight for an output channel of the group lies; NULL if there is no such term or channel.
  __device__ const float *weight(const float *w, const Term &t, int channel) const {
    int place = (y.tap + t.a * y.tap_step) * g.kernel_x + x.tap + t.b * x.tap_step;
    bool exists = t.a < y.taps && channel < g.outer;
    return exists ? w + place * g.w_tap + group * g.w_group + t.c * g.w_in + channel * g.w_out : nullptr;
  }

  // Index in the result of a pixel of the share, at the group's first channel.
  __device__ long long result(const Place &p) const {
    long long line = (long long)p.image * g.rows + y.first + p.row * y.step;
    return (line * g.columns + x.first + p.column * x.step) * (g.groups * g.outer) + group * g.outer;
  }
};

// The window of one pixel of a share.
struct Window {
  const float *image;  // the pixel's image, at the group's first channel
  int top, left;       // the pixel that tap (0, 0) meets

  __device__ Window(const Share &s, const float *x, const Place &p) {
    bool exists = p.image < s.g.images;  // a tile may have more rows than the share has pixels; these meet nothing
    long long size = (long long)s.g.height * s.g.width * (s.g.groups * s.g.inner);
    image = x + (exists ? p.image : 0) * size + s.group * s.g.inner;
    top = exists ? s.y.start + p.row * s.y.stride : -(1 << 30);
    left = s.x.start + p.column * s.x.stride;
  }

  // The window that lies `pixels` pixels of the map further to the right.
  __device__ Window right(int pixels) const {
    Window window = *this;
    window.left += pixels;
    return window;
  }

  // Where the term's number lies; NULL if it is outside the map, or if there is no such term.
  __device__ const float *at(const Share &s, const Term &t) const {
    int y = top + t.a * s.y.dilation, x = left + t.b * s.x.dilation;
    bool inside = t.a < s.y.taps && (unsigned)y < s.g.height && (unsigned)x < s.g.width;
    return inside ? image + (y * s.g.width + x) * (s.g.groups * s.g.inner) + t.c : nullptr;
  }
};

// What follows the sum: + bias + residual (each may be NULL), ReLU. channel: among all groups; at: index in the result.
__device__ inline float finished(float sum, const float *bias, int channel, const float *residual, long long at, int relu) {
  if (bias) sum += bias[channel];
  if (residual) sum += residual[at];
  return relu && sum < 0 ? 0 : sum;  // not fmaxf, so that NaN stays NaN
}

// What a thread adds for one term: the products of its R numbers of a and its R numbers of b, which lie in fours, 64 apart.
template <int R> __device__ __forceinline__ void add_products(const float *a, const float *b, float (&sums)[R][R]) {
  __align__(16) float own_a[R], own_b[R];
#pragma unroll
  for (int h = 0; h < R; h += 4) {
    *(float4 *)&own_a[h] = *(const float4 *)&a[16 * h];
    *(float4 *)&own_b[h] = *(const float4 *)&b[16 * h];
  }
#pragma unroll
  for (int i = 0; i < R; i++)
#pragma unroll
    for (int j = 0; j < R; j++) sums[i][j] += own_a[i] * own_b[j];
}
