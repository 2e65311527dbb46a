// Feature maps (N, H, W, C) resized to (N, H', W', C), and the gradients; see `nearest` and `bilinear` in
// minimask/image.py.
//
// A thread takes four channels of a pixel (T = float4), or one (float) if C is not a multiple of 4; blockIdx.x counts
// rows (n, y), blockIdx.y parts of a row, so neighboring threads read and write neighboring numbers. Forward reads
// the small map from the cache and writes 4 bytes per output. Backward gathers: a thread sums all outputs that its
// pixel had a part in, row by row, always in the same order; it reads each output once (nearest) or about four times,
// three of them from the cache (bilinear).
// w and wide are widths; c is the number of T's per pixel. Positions are integers over a unit: exact for sides up to
// 16,384.
// instantiate: nearest<float>, nearest<float4>, nearest_backward<float>, nearest_backward<float4>
// instantiate: bilinear<float>, bilinear<float4>, bilinear_backward<float>, bilinear_backward<float4>

// ----------------------------------------------------------------------------------------------------------- nearest
// y[i, j] = x[floor(i H / H'), floor(j W / W')]
template <class T>
__global__ void nearest(const T *__restrict__ x, int h, int w, int c, int high, int wide, T *__restrict__ y) {
  int row = blockIdx.x, k = blockIdx.y * blockDim.x + threadIdx.x;  // (n, y), (x, channel)
  if (k >= wide * c) return;
  long long source = (long long)(row / high) * h + row % high * h / high;  // the row of x
  y[(long long)row * wide * c + k] = x[(source * w + k / c * w / wide) * c + k % c];
}

// The first i with floor(i h / high) >= y: the outputs of pixel y are first_copy(y) to first_copy(y + 1) - 1.
__device__ __forceinline__ int first_copy(int y, int h, int high) { return (y * high + h - 1) / h; }

template <class T>
__global__ void nearest_backward(const T *__restrict__ gy, int h, int w, int c, int high, int wide,
                                 T *__restrict__ gx) {
  int row = blockIdx.x, k = blockIdx.y * blockDim.x + threadIdx.x;  // (n, y), (x, channel)
  if (k >= w * c) return;
  int image = row / h, top = first_copy(row % h, h, high), bottom = first_copy(row % h + 1, h, high);
  int left = first_copy(k / c, w, wide), right = first_copy(k / c + 1, w, wide);
  T total = {};
  for (int i = top; i < bottom; i++)
    for (int j = left; j < right; j++) total += gy[(((long long)image * high + i) * wide + j) * c + k % c];
  gx[(long long)row * w * c + k] = total;
}

// ---------------------------------------------------------------------------------------------------------- bilinear
// Output i of `out` has its center at (i + 1/2) in / out - 1/2 of `in` pixels, clamped at the border. Times 2 out:
__device__ __forceinline__ int center(int i, int in, int out) {
  return min(max((2 * i + 1) * in - out, 0), (in - 1) * 2 * out);
}

// The weight of pixel y in output i: 1 at its own center, falling to 0 at its neighbors' centers.
__device__ __forceinline__ float weight(int i, int y, int in, int out) {
  return max(2 * out - abs(center(i, in, out) - y * 2 * out), 0) / (2.f * out);
}

// y[i, j] = sum over the two rows p and two columns q around it of weight(i, p) weight(j, q) x[p, q]
template <class T>
__global__ void bilinear(const T *__restrict__ x, int h, int w, int c, int high, int wide, T *__restrict__ y) {
  int row = blockIdx.x, k = blockIdx.y * blockDim.x + threadIdx.x;  // (n, y), (x, channel)
  if (k >= wide * c) return;
  int i = row % high, top = center(i, h, high) / (2 * high), bottom = min(top + 1, h - 1);
  float below = weight(i, bottom, h, high), above = bottom > top ? weight(i, top, h, high) : 0.f;
  const T *image = x + (long long)(row / high) * h * w * c;
  int j = k / c, left = center(j, w, wide) / (2 * wide), right = min(left + 1, w - 1);
  float after = weight(j, right, w, wide), before = right > left ? weight(j, left, w, wide) : 0.f;
  long long a = ((long long)top * w + left) * c + k % c, b = ((long long)bottom * w + left) * c + k % c;
  int step = (right - left) * c;
  T total = above * before * image[a];
  total += above * after * image[a + step];
  total += below * before * image[b];
  total += below * after * image[b + step];
  y[(long long)row * wide * c + k] = total;
}

// The first output whose center lies beyond that of pixel y - 1: the first that pixel y has a part in.
__device__ __forceinline__ int first_touched(int y, int in, int out) {
  int last = (2 * y - 1) * out - in;  // i lies beyond if 2 in i > last
  return y == 0 || last < 0 ? 0 : min(last / (2 * in) + 1, out);
}

template <class T>
__global__ void bilinear_backward(const T *__restrict__ gy, int h, int w, int c, int high, int wide,
                                  T *__restrict__ gx) {
  int row = blockIdx.x, k = blockIdx.y * blockDim.x + threadIdx.x;  // (n, y), (x, channel)
  if (k >= w * c) return;
  int y = row % h, top = first_touched(y, h, high), bottom = y == h - 1 ? high : first_touched(y + 2, h, high);
  const T *image = gy + (long long)(row / h) * high * wide * c;
  int x = k / c, left = first_touched(x, w, wide), right = x == w - 1 ? wide : first_touched(x + 2, w, wide);
  T total = {};
  for (int i = top; i < bottom; i++) {
    float down = weight(i, y, h, high);
    for (int j = left; j < right; j++)
      total += down * weight(j, x, w, wide) * image[((long long)i * wide + j) * c + k % c];
  }
  gx[(long long)row * w * c + k] = total;
}
