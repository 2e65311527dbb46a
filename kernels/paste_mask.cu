// Masks to and from boxes: crop objects' masks to M x M targets, paste M x M masks into an image; see paste_mask.py.
//
// crop_masks: a thread takes a bin of a target, in strides of the grid. It reads the four pixels around each of its
// samples, about one sample per pixel, so four bytes per pixel of a box. Neighboring threads read neighboring bins, and
// what lies between them comes from the cache. Writes 4 M^2 bytes per box.
//
// fill_boxes: blockIdx.x is a mask, and the blocks along blockIdx.y share the pixels of its box. Reads four of the
// (M + 2)^2 cells per pixel, which stay in the cache; writes each pixel of a box once: 1 byte for bool, 4 for float.
// The image is zero before.

// The samples of a box along an axis: where its first bin starts, the length of a bin, and the number of samples in it.
struct Bins {
  float start, step;
  int samples;
};

__device__ Bins make_bins(float first, float last, bool aligned, int bins) {
  float offset = aligned ? 0.5f : 0.f;
  float start = first - offset, extent = last - offset - start;
  if (!(aligned || extent >= 1.f)) extent = 1.f;
  float step = extent / bins;
  int samples = step > 0.f ? (int)ceilf(fminf(step, 4096.f)) : 0;  // about one per pixel; none if it is NaN
  return {start, step, samples};
}

// Both neighbors of a sample and their weights, which are 0 if it lies more than one pixel outside.
struct Sample {
  int low, high;
  float low_weight, high_weight;
};

__device__ Sample make_sample(Bins axis, int bin, int sample, int pixels) {
  float position = axis.start + bin * axis.step + (sample + 0.5f) * axis.step / axis.samples;
  if (!(position >= -1.f && position <= pixels)) return {0, 0, 0.f, 0.f};
  position = fmaxf(position, 0.f);
  int low = min((int)position, pixels - 1), high = min(low + 1, pixels - 1);
  float share = high > low ? position - low : 0.f;
  return {low, high, 1.f - share, share};
}

// out[n, s] (M, M) = average of mask matches[n, s] over each bin of box boxes[n, s].
// masks (N, G, H, W), boxes (N, S), matches (N, S), out (N, S, M, M).
extern "C" __global__ void crop_masks(const unsigned char *__restrict__ masks, const float4 *__restrict__ boxes,
                                      const long long *__restrict__ matches, int images, int objects, int height,
                                      int width, int count, int bins, int aligned, float *__restrict__ out) {
  GRID_LOOP(cell, (long long)images * count * bins * bins) {
    int s = cell / (bins * bins), i = cell / bins % bins, j = cell % bins;
    long long object = (long long)(s / count) * objects + matches[s];
    const unsigned char *mask = masks + object * height * width;
    float4 box = boxes[s];  // x, y, z, w: x1, y1, x2, y2
    Bins down = make_bins(box.y, box.w, aligned, bins), across = make_bins(box.x, box.z, aligned, bins);
    float total = 0.f;
    for (int p = 0; p < down.samples; p++) {
      Sample y = make_sample(down, i, p, height);
      if (y.low_weight == 0.f && y.high_weight == 0.f) continue;  // outside
      const unsigned char *above = mask + (long long)y.low * width, *below = mask + (long long)y.high * width;
      for (int q = 0; q < across.samples; q++) {
        Sample x = make_sample(across, j, q, width);
        total += y.low_weight * (x.low_weight * above[x.low] + x.high_weight * above[x.high]) +
                 y.high_weight * (x.low_weight * below[x.low] + x.high_weight * below[x.high]);
      }
    }
    out[cell] = total / max(down.samples * across.samples, 1);
  }
}

// `cells` values stretched from `start` to `end`: the first pixel within 0 .. limit, their count, cells per pixel.
struct Stretch {
  int first, count, cells;
  float offset, ratio;
};

__device__ Stretch stretch_axis(int cells, double start, double end, int limit) {
  int first = (int)fmax(floor(start), 0.0), last = (int)fmin(ceil(end), (double)limit);
  int count = end > start ? max(last - first, 0) : 0;
  return {first, count, cells, (float)(first - start), (float)cells / (float)(end - start)};
}

// The two cells around the i-th of these pixels, and the weight of the higher one.
__device__ void neighbors(Stretch axis, int i, int *low, int *high, float *share) {
  float position = fmaxf(axis.ratio * (axis.offset + i + 0.5f) - 0.5f, 0.f);
  *low = min((int)position, axis.cells - 1);
  *high = min(*low + 1, axis.cells - 1);
  *share = position - *low;
}

// Stretch each mask over its box and write it to its image: T is bool (value >= threshold) or float (the value).
// masks (D, M, M); edges (D, 4): x1, y1, x2, y2 in pixels, which may lie outside the image; out (D, H, W), zero before.
// instantiate: fill_boxes<bool>, fill_boxes<float>
template <class T>
__global__ void fill_boxes(const float *__restrict__ masks, const double *__restrict__ edges, int cells, int height,
                           int width, float threshold, T *__restrict__ out) {
  const double *edge = edges + 4 * blockIdx.x;
  const float *mask = masks + (long long)blockIdx.x * cells * cells;
  Stretch x = stretch_axis(cells, edge[0], edge[2], width), y = stretch_axis(cells, edge[1], edge[3], height);
  int pixels = x.count * y.count;
  for (int k = blockIdx.y * blockDim.x + threadIdx.x; k < pixels; k += gridDim.y * blockDim.x) {
    int i = k / x.count, j = k % x.count, left, right, top, bottom;
    float across, down;
    neighbors(x, j, &left, &right, &across);
    neighbors(y, i, &top, &bottom, &down);
    const float *above = mask + top * cells, *below = mask + bottom * cells;
    float low = above[left] + down * (below[left] - above[left]);
    float high = above[right] + down * (below[right] - above[right]);
    float value = low + across * (high - low);
    T *pixel = out + ((long long)blockIdx.x * height + y.first + i) * width + x.first + j;
    if constexpr (sizeof(T) == sizeof(bool))
      *pixel = value >= threshold;
    else
      *pixel = value;
  }
}
