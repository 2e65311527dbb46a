// The losses, each together with its gradient. The names are those of minimask.losses.
//
//   binary_cross_entropy, smooth_l1   a thread takes every T-th number, T threads in the grid; reads 12 bytes, writes 4
//   cross_entropy                     a warp takes a row of logits; reads it (then again, from L1), writes as much
//   sigmoid_mask_loss                 a thread takes a pixel and reads the logit of the box's class; writes 4 bytes
//   spread_mask_gradient              a thread takes a logit; writes 4 bytes: 0, or what sigmoid_mask_loss found
//   softmax_mask_loss                 a warp takes the logits of a pixel
//
// Each thread, and then each block, adds its losses up in float64. A block writes its sum to parts, and `finish` adds
// those up; a launch of a single block needs no `finish`. The order of the additions depends on the shape alone.

__device__ void store_sum(double sum, double *parts, float *loss) {
  sum = block_sum(sum);
  if (threadIdx.x != 0) return;
  if (gridDim.x == 1) *loss = (float)sum;
  else parts[blockIdx.x] = sum;
}

extern "C" __global__ void finish(const double *__restrict__ parts, int count, float *loss) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
  store_sum(sum, nullptr, loss);
}

// max(z, 0) - z t + ln(1 + e^-|z|), and its derivative by z: sigmoid(z) - t. NaN stays NaN.
__device__ float logistic_loss(float z, float t, float &gradient) {
  const float e = expf(-fabsf(z));
  gradient = (z >= 0 ? 1 : e) / (1 + e) - t;
  return (z < 0 ? 0 : z) - z * t + log1pf(e);
}

extern "C" __global__ void binary_cross_entropy(const float *__restrict__ z, const float *__restrict__ t,
                                                const float *__restrict__ w, long long count, float *gz, double *parts,
                                                float *loss) {
  double sum = 0;
  GRID_LOOP(i, count) {
    float gradient;
    sum += logistic_loss(z[i], t[i], gradient) * w[i];
    gz[i] = w[i] * gradient;
  }
  store_sum(sum, parts, loss);
}

extern "C" __global__ void smooth_l1(const float *__restrict__ x, const float *__restrict__ t,
                                     const float *__restrict__ w, float beta, long long count, float *gx, double *parts,
                                     float *loss) {
  double sum = 0;
  GRID_LOOP(i, count) {
    const float d = x[i] - t[i], size = fabsf(d);
    sum += (size < beta ? d * d * (0.5f / beta) : size - 0.5f * beta) * w[i];
    gx[i] = w[i] * (size < beta ? d / beta : isnan(d) ? d : copysignf(1, d));
  }
  store_sum(sum, parts, loss);
}

// The channel of a label: 0 if there is only one. A label outside the channels is moved inside, so that nothing outside
// the array is read.
__device__ int place_of(long long label, int channels) {
  return label < 0 ? 0 : label >= channels ? channels - 1 : (int)label;
}

// ---------------------------------------------------------------- softmax of a row, by a warp

// The largest number of a row, and the sum of e^(z - largest), in every lane.
__device__ void row_sums(const float *z, int columns, float &largest, float &total) {
  const int lane = threadIdx.x % 32;
  largest = -INFINITY_F, total = 0;
  for (int c = lane; c < columns; c += 32) largest = fmaxf(largest, z[c]);
  for (int k = 16; k > 0; k /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, k));
  for (int c = lane; c < columns; c += 32) total += expf(z[c] - largest);
  for (int k = 16; k > 0; k /= 2) total += __shfl_xor_sync(0xffffffff, total, k);
}

extern "C" __global__ void cross_entropy(const float *__restrict__ z, const long long *__restrict__ labels,
                                         const float *__restrict__ w, int rows, int columns, float *gz, double *parts,
                                         float *loss) {
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  double sum = 0;
  for (int row = blockIdx.x * warps + threadIdx.x / 32; row < rows; row += gridDim.x * warps) {
    const float *logits = z + row * (long long)columns;
    float *result = gz + row * (long long)columns, largest, total;
    row_sums(logits, columns, largest, total);
    const int label = place_of(labels[row], columns);
    for (int c = lane; c < columns; c += 32)
      result[c] = w[row] * (expf(logits[c] - largest) / total - (c == label));
    if (lane == 0) sum += (logf(total) - (logits[label] - largest)) * w[row];
  }
  store_sum(sum, parts, loss);
}

// ---------------------------------------------------------------- masks

extern "C" __global__ void sigmoid_mask_loss(const float *__restrict__ logits, const long long *__restrict__ labels,
                                             const float *__restrict__ targets, const bool *__restrict__ valid,
                                             const float *__restrict__ n, int pixels, int channels, long long count,
                                             float *gz, double *parts, float *loss) {
  double sum = 0;
  GRID_LOOP(i, count) {  // pixels of all boxes
    const long long box = i / pixels;
    gz[i] = 0;
    if (!valid[box]) continue;
    float gradient;
    sum += logistic_loss(logits[i * channels + place_of(labels[box], channels)], targets[i], gradient);
    gz[i] = gradient / *n;
  }
  store_sum(sum / *n, parts, loss);
}

// The gradient of all logits: that of each pixel, which sigmoid_mask_loss found, in the channel of the box's class.
extern "C" __global__ void spread_mask_gradient(const float *__restrict__ of_pixel,
                                                const long long *__restrict__ labels, int pixels, int channels,
                                                long long count, float *gz) {
  GRID_LOOP(i, count) {  // logits
    const long long pixel = i / channels;
    gz[i] = i % channels == place_of(labels[pixel / pixels], channels) ? of_pixel[pixel] : 0;
  }
}

extern "C" __global__ void softmax_mask_loss(const float *__restrict__ logits, const long long *__restrict__ labels,
                                             const float *__restrict__ targets, const bool *__restrict__ valid,
                                             const float *__restrict__ n, int pixels, int channels, int count,
                                             float *gz, double *parts, float *loss) {
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  double sum = 0;
  for (int i = blockIdx.x * warps + threadIdx.x / 32; i < count; i += gridDim.x * warps) {
    const int box = i / pixels, place = place_of(labels[box], channels);
    const float *z = logits + i * (long long)channels;
    const float t = targets[i];
    float *result = gz + i * (long long)channels, largest, total;
    row_sums(z, channels, largest, total);
    for (int c = lane; c < channels; c += 32) {
      const float q = (c == place ? t : 0) + (c == 0 ? 1 - t : 0);  // the wanted distribution
      result[c] = valid[box] ? (expf(z[c] - largest) / total - q) / *n : 0;
    }
    if (lane == 0 && valid[box]) sum += logf(total) + largest - (t * z[place] + (1 - t) * z[0]);
  }
  store_sum(sum / *n, parts, loss);
}
