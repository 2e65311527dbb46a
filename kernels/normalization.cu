// Normalization on the GPU: the passes of normalization.py over a map (segments, pixels, channels), float32, and
// the few numbers per channel between them. Batch normalization has one segment, group normalization one per image.
//
//   moments_part         sums of d and d d, d = x - shift            reads x
//   affine               y = relu(x scale + shift + residual)        reads x (residual), writes y
//   gradient_sums_part   g = gy where y > 0; sums of g, g (x - mean) reads gy (y, x), writes g (if y is there)
//   gradient             gx = a g + b (x - mean) + c                 reads g, x, writes gx
//
// The last two may write their result over the gradient they read.
//
// All are launched alike. A block takes a tile of `width` <= 64 channels of one segment and, `steps` times, the next
// 256 / width of its pixels. So each thread keeps to one channel, whose constants it reads once, and neighboring
// threads read neighboring numbers. They move 4 bytes per number and map, and calculate almost nothing.
// Sums go over the pixels of a thread (at most 64), then over those of the block, then (`*_finish`, in float64) over
// the blocks: always in the same order, because the launch depends on the shape alone.
// The small kernels have one thread per segment and channel.

#define THREADS 256

// A thread's share of a map: the numbers first, first + stride, ... below end.
struct Share {
  int segments, segment, part, parts, channels, channel, width, column, rows, row;
  long long first, end, stride;
  bool idle;

  __device__ Share(int pixels, int channels, int width, int parts, int steps)
      : parts(parts), channels(channels), width(width) {
    const int tiles = (channels + width - 1) / width;
    segments = gridDim.x / tiles / parts;
    segment = blockIdx.x / tiles / parts, part = blockIdx.x / tiles % parts;
    column = threadIdx.x % width, row = threadIdx.x / width, rows = THREADS / width;
    channel = blockIdx.x % tiles * width + column;
    idle = row >= rows || channel >= channels;
    const long long pixel = (long long)part * rows * steps, begin = segment * (long long)pixels;
    const long long last = begin + min((long long)pixels, pixel + rows * steps);
    first = (begin + pixel + row) * channels + channel;
    end = idle ? first : last * channels;
    stride = (long long)rows * channels;
    if (idle) channel = 0;
  }

  // Where this thread's channel is in an array (segments, channels).
  __device__ int at() const { return segment * channels + channel; }

  // Adds up a and b over the block's pixels: sums (2, parts, segments, channels).
  __device__ void store(float a, float b, float *sums) const {
    __shared__ float of_a[THREADS], of_b[THREADS];
    of_a[threadIdx.x] = a, of_b[threadIdx.x] = b;
    __syncthreads();
    if (row > 0 || idle) return;
    for (int r = 1; r < rows; r++) a += of_a[r * width + column], b += of_b[r * width + column];
    const long long size = (long long)segments * channels;
    sums[part * size + at()] = a;
    sums[(parts + part) * size + at()] = b;
  }
};

extern "C" __global__ void moments_part(const float *__restrict__ x, float *sums, int pixels, int channels, int width,
                                        int parts, int steps) {
  const Share share(pixels, channels, width, parts, steps);
  // Any number near the mean keeps the difference in moments_finish from losing digits: the first pixel's.
  const float shift = x[share.segment * (long long)pixels * channels + share.channel];
  float total = 0, square = 0;
#pragma unroll 4
  for (long long i = share.first; i < share.end; i += share.stride) {
    const float d = x[i] - shift;
    total += d, square += d * d;
  }
  share.store(total, square, sums);
}

extern "C" __global__ void affine(const float *__restrict__ x, const float *__restrict__ scale,
                                  const float *__restrict__ shift, const float *__restrict__ residual, int relu,
                                  float *y, int pixels, int channels, int width, int parts, int steps) {
  const Share share(pixels, channels, width, parts, steps);
  const float a = scale[share.at()], b = shift[share.at()];
#pragma unroll 4
  for (long long i = share.first; i < share.end; i += share.stride) {
    float result = x[i] * a + b;
    if (residual) result += residual[i];
    y[i] = relu && result < 0 ? 0 : result;  // NaN stays NaN
  }
}

extern "C" __global__ void gradient_sums_part(const float *gy, const float *__restrict__ y,
                                              const float *__restrict__ x, const float *__restrict__ mean, float *g,
                                              float *sums, int pixels, int channels, int width, int parts, int steps) {
  const Share share(pixels, channels, width, parts, steps);
  const float middle = x ? mean[share.at()] : 0;
  float total = 0, product = 0;
#pragma unroll 4
  for (long long i = share.first; i < share.end; i += share.stride) {
    float gradient = gy[i];
    if (y) {
      if (!(y[i] > 0)) gradient = 0;
      g[i] = gradient;
    }
    total += gradient;
    if (x) product += gradient * (x[i] - middle);
  }
  share.store(total, product, sums);
}

extern "C" __global__ void gradient(const float *g, const float *__restrict__ x,
                                    const float *__restrict__ mean, const float *__restrict__ a,
                                    const float *__restrict__ b, const float *__restrict__ c, float *gx, int pixels,
                                    int channels, int width, int parts, int steps) {
  const Share share(pixels, channels, width, parts, steps);
  const int at = share.at();
  const float middle = mean[at], of_g = a[at], of_x = b[at], constant = c[at];
#pragma unroll 4
  for (long long i = share.first; i < share.end; i += share.stride)
    gx[i] = of_g * g[i] + of_x * (x[i] - middle) + constant;
}

// ---------------------------------------------------------------- the second stage of the sums

// Adds up the parts of sums (2, parts, size) in blocks of 32 x 32 threads: 32 of the `size` columns, 32 parts at a time.
// Returns true in the one thread per column that has the result.
__device__ bool add_parts(const float *sums, int parts, int size, int column, double &total, double &product) {
  __shared__ double totals[32][33], products[32][33];  // 33: a column is then in 32 banks
  total = product = 0;
  if (column < size)
    for (int part = threadIdx.y; part < parts; part += 32) {
      total += sums[(long long)part * size + column];
      product += sums[(long long)(parts + part) * size + column];
    }
  totals[threadIdx.y][threadIdx.x] = total, products[threadIdx.y][threadIdx.x] = product;
  __syncthreads();
  if (threadIdx.y > 0 || column >= size) return false;
  for (int y = 1; y < 32; y++) total += totals[y][threadIdx.x], product += products[y][threadIdx.x];
  return true;
}

extern "C" __global__ void __launch_bounds__(1024)
moments_finish(const float *__restrict__ sums, const float *__restrict__ x, float *mean, float *var, int parts,
               int segments, int pixels, int channels) {
  const int column = blockIdx.x * 32 + threadIdx.x;  // of (segments, channels)
  double total, square;
  if (!add_parts(sums, parts, segments * channels, column, total, square)) return;
  const double shift = x[(column / channels) * (long long)pixels * channels + column % channels], d = total / pixels;
  mean[column] = (float)(d + shift);
  var[column] = (float)fmax(square / pixels - d * d, 0.0);
  if (isnan(square)) var[column] = (float)square;  // which fmax would have lost
}

extern "C" __global__ void __launch_bounds__(1024)
gradient_sums_finish(const float *__restrict__ sums, float *total, float *product, int parts, int size) {
  const int column = blockIdx.x * 32 + threadIdx.x;
  double a, b;
  if (!add_parts(sums, parts, size, column, a, b)) return;
  total[column] = (float)a, product[column] = (float)b;
}

// ---------------------------------------------------------------- a few numbers per channel

// Mean, 1 / sqrt(var + eps), and the scale and shift of y = x scale + shift. The statistics are first averaged over
// groups of `together` channels.
extern "C" __global__ void scale_and_shift(const float *__restrict__ mean, const float *__restrict__ var,
                                           const float *__restrict__ gamma, const float *__restrict__ beta, float eps,
                                           int segments, int channels, int together, float *group_mean, float *inverse,
                                           float *scale, float *shift) {
  GRID_LOOP(i, segments * channels) {
    const long long first = i - i % together;  // of the group
    const int channel = i % channels;
    float middle = 0, variance = 0;
    for (int j = 0; j < together; j++) middle += mean[first + j];
    middle /= together;
    for (int j = 0; j < together; j++) {
      const float d = mean[first + j] - middle;
      variance += var[first + j] + d * d;
    }
    group_mean[i] = middle;
    inverse[i] = 1 / sqrtf(variance / together + eps);
    scale[i] = gamma[channel] * inverse[i];
    shift[i] = beta[channel] - scale[i] * middle;
  }
}

// running += momentum (value - running), for the mean and for the variance times `unbias`.
extern "C" __global__ void move_running(float *running_mean, float *running_var, const float *__restrict__ mean,
                                        const float *__restrict__ var, float momentum, float unbias, int channels) {
  GRID_LOOP(c, channels) {
    running_mean[c] += momentum * (mean[c] - running_mean[c]);
    running_var[c] += momentum * (var[c] * unbias - running_var[c]);
  }
}

// a, b and c of gx = a g + b (x - mean) + c. With h = gamma g, the means of h and h xhat are over groups of `together`
// channels and `pixels` pixels.
extern "C" __global__ void gradient_coefficients(const float *__restrict__ sum_g, const float *__restrict__ sum_gxhat,
                                                 const float *__restrict__ gamma, const float *__restrict__ inverse,
                                                 float pixels, int segments, int channels, int together, float *a,
                                                 float *b, float *c) {
  GRID_LOOP(i, segments * channels) {
    const long long first = i - i % together;
    float mean_h = 0, mean_hxhat = 0;
    for (int j = 0; j < together; j++) {
      const float scale = gamma[(first + j) % channels];
      mean_h += scale * sum_g[first + j];
      mean_hxhat += scale * sum_gxhat[first + j];
    }
    mean_h /= together * pixels, mean_hxhat /= together * pixels;
    a[i] = gamma[i % channels] * inverse[i];
    b[i] = -inverse[i] * inverse[i] * mean_hxhat;
    c[i] = -inverse[i] * mean_h;
  }
}
