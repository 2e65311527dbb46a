// RoIAlign on the GPU: forward, gradient of the feature maps, gradient of the boxes.
//
// Layout: a map (N, H, W, C) for each pyramid level (LEVELS in common.cuh), boxes (R, 4) in image pixels, image and
// level of each box (R), out (R, bins, bins, C). One launch does all levels; the result of a box whose level or image
// does not exist is 0. The arithmetic is that of roi_align.py and of minimask/roi_align.py. Lanes take neighboring
// channels, V at once, so all reads and writes cover whole lines of memory. Every lane computes the sampling positions
// for itself, because arithmetic is cheaper here than sharing.
//
// instantiate: forward<1, false>, forward<1, true>, forward<4, false>, forward<4, true>
// instantiate: backward<1, false>, backward<1, true>, backward<4, false>, backward<4, true>
// instantiate: backward_atomic<false>, backward_atomic<true>, backward_to_boxes<false>, backward_to_boxes<true>

// One axis of a box on the feature map: where it starts, its extent, whether the extent follows the box, and how it is
// divided into bins, each with per_bin samples. __fmul_rn rounds the product before anything is added to it, as on the
// CPU, so both sample a box at the same positions.
struct Axis {
  float start, extent;
  bool follows;
  float step;
  int per_bin, cells;
};

__device__ Axis map_axis(float first, float last, float scale, int aligned, int bins, int sampling_ratio, int cells) {
  const float offset = aligned ? 0.5f : 0.0f;
  Axis axis;
  axis.start = __fmul_rn(first, scale) - offset;
  axis.extent = __fmul_rn(last, scale) - offset - axis.start;
  axis.follows = aligned || axis.extent >= 1;
  if (!axis.follows) axis.extent = 1;
  axis.step = axis.extent / bins;
  axis.per_bin = sampling_ratio;
  if (sampling_ratio <= 0)  // about one per cell; none if the extent is 0 or NaN
    axis.per_bin = axis.step > 0 ? (int)ceilf(fminf(axis.step, 4096.0f)) : 0;
  axis.cells = cells;
  return axis;
}

template <class T>
__device__ Axis map_rows(const float *box, const Level<T> &level, int aligned, int bins, int sampling_ratio) {
  return map_axis(box[1], box[3], level.scale, aligned, bins, sampling_ratio, level.height);
}

template <class T>
__device__ Axis map_columns(const float *box, const Level<T> &level, int aligned, int bins, int sampling_ratio) {
  return map_axis(box[0], box[2], level.scale, aligned, bins, sampling_ratio, level.width);
}

// A sample along an axis: both neighbors and their weights. Cell i is at position i. For a sample more than one cell
// outside the map both weights are 0; for one nearer than that, the outermost cell has all the weight.
struct Sample {
  int low, high;
  float low_weight, high_weight;
};

__device__ Sample sample(const Axis &axis, int bin, int k) {
  float position = axis.start + __fmul_rn(bin, axis.step) + (k + 0.5f) * axis.step / axis.per_bin;
  if (!(position >= -1 && position <= axis.cells)) return {0, 0, 0, 0};
  position = fmaxf(position, 0);
  const int low = min((int)position, axis.cells - 1), high = min(low + 1, axis.cells - 1);
  const float share = high > low ? position - low : 0;
  return {low, high, 1 - share, share};
}

// 1 if a sample's weights change with its position; 0 outside the map and beyond its outermost cells.
__device__ float follows_position(const Sample &s) {
  return s.high > s.low && (s.low > 0 || s.high_weight > 0) ? 1 : 0;
}

__device__ float weight_of(const Sample &s, int cell) {
  return (s.low == cell ? s.low_weight : 0) + (s.high == cell ? s.high_weight : 0);
}

// out[r, i, j] = average (or maximum) of the samples in bin (i, j) of box r; for the maximum also chosen[r, i, j], the
// number of the chosen sample.
// Threads (lanes, rows): a row of threads takes a bin, its lanes the channels. Reads 4 C floats per sample, most
// of them shared by neighboring samples (and so found in the L1 and L2 caches); writes C floats per bin.
template <int V, bool MAXIMUM>
__global__ void forward(LEVELS(const float), int images, int channels, const float *__restrict__ boxes,
                        const long long *__restrict__ image_index, const long long *__restrict__ levels, int count,
                        int bins, int sampling_ratio, int aligned, float *__restrict__ out, int *__restrict__ chosen) {
  typedef Channels<float, V> Floats;
  for (int bin = blockIdx.x * blockDim.y + threadIdx.y; bin < count * bins * bins; bin += gridDim.x * blockDim.y) {
    const int r = bin / (bins * bins), i = bin / bins % bins, j = bin % bins;
    const Level<const float> level = level_at<const float>(levels[r], LEVEL_NAMES);
    const long long image = image_index[r];
    Axis rows = map_rows(boxes + 4 * r, level, aligned, bins, sampling_ratio);
    Axis columns = map_columns(boxes + 4 * r, level, aligned, bins, sampling_ratio);
    if (!level.map || image < 0 || image >= images) rows.per_bin = 0;
    const int ny = rows.per_bin, nx = columns.per_bin;
    const float share = MAXIMUM ? 1.0f : 1.0f / max(nx * ny, 1);
    for (int c = threadIdx.x * V; c < channels; c += blockDim.x * V) {
      const float *map = level.map + image * level.height * level.width * channels + c;
      Floats result = {};
      Channels<int, V> which = {};
      for (int p = 0; p < ny; p++) {
        const Sample y = sample(rows, i, p);
        const float above = share * y.low_weight, below = share * y.high_weight;
        const float *top = map + (long long)y.low * level.width * channels;
        const float *bottom = map + (long long)y.high * level.width * channels;
        for (int q = 0; q < nx; q++) {
          const Sample x = sample(columns, j, q);
          const Floats a = *(const Floats *)(top + x.low * channels);
          const Floats b = *(const Floats *)(top + x.high * channels);
          const Floats c = *(const Floats *)(bottom + x.low * channels);
          const Floats d = *(const Floats *)(bottom + x.high * channels);
          const float wa = above * x.low_weight, wb = above * x.high_weight;
          const float wc = below * x.low_weight, wd = below * x.high_weight;
#pragma unroll
          for (int v = 0; v < V; v++) {
            const float value = wa * a.at[v] + wb * b.at[v] + wc * c.at[v] + wd * d.at[v];
            if (!MAXIMUM) {
              result.at[v] += value;
            } else if (p + q == 0 || value > result.at[v]) {
              result.at[v] = value;
              which.at[v] = p * nx + q;
            }
          }
        }
      }
      *(Floats *)(out + (long long)bin * channels + c) = result;
      if (MAXIMUM) *(Channels<int, V> *)(chosen + (long long)bin * channels + c) = which;
    }
  }
}

// gmap[y, x] = sum over the boxes r that reach this cell, in their order, of weight(r, i, j, y, x) gy[r, i, j].
// Gathered, not scattered: no two threads write the same cell, so the same gy gives the same bits, and gmap need not be
// zeroed first.
//
// The weight of an average is a product, weight_y(i, y) weight_x(j, x), of sums over a bin's samples along each axis.
// A block of 256 threads owns a tile of 8 x 8 cells and 32 V channels: grid (tiles of all levels, channels / (32 V)).
// It picks the boxes that touch its tile, 256 candidates at a time, and for `group` of them at once writes both tables
// of weights, (group, 2, bins, 8) floats of dynamic shared memory. Then each warp sums a row of 8 cells, each lane V
// channels, in registers. Reads a box's gy about once per row of tiles that it touches (from L2); writes gmap once.
template <int V, bool MAXIMUM>
__global__ void __launch_bounds__(256, MAXIMUM ? 2 : 3)
    backward(LEVELS(float), int images, int channels, const float *__restrict__ boxes,
             const long long *__restrict__ image_index, const long long *__restrict__ levels, int count, int bins,
             int sampling_ratio, int aligned, int group, const float *__restrict__ gy, const int *__restrict__ chosen) {
  typedef Channels<float, V> Floats;
  extern __shared__ __align__(32) float weights[];
  __shared__ int list[256];
  const Tile tile = own_tile<float>(images, LEVEL_NAMES);
  const Level<float> level = level_at<float>(tile.level, LEVEL_NAMES);
  const int lane = threadIdx.x % 32, y = threadIdx.x / 32, c = (blockIdx.y * 32 + lane) * V;
  auto rows_of = [&](int r) { return map_rows(boxes + 4 * r, level, aligned, bins, sampling_ratio); };
  auto columns_of = [&](int r) { return map_columns(boxes + 4 * r, level, aligned, bins, sampling_ratio); };
  // Whether samples between start and start + extent, each with its two neighbors, may touch a tile from `first` on.
  auto touches = [](const Axis &axis, int first) {
    const float end = axis.start + axis.extent;
    return fmaxf(axis.start, end) + 1 >= first && fminf(axis.start, end) - 1 <= min(first + TILE, axis.cells) - 1;
  };

  Floats sum[TILE] = {};
  for (int first = 0; first < count; first += 256) {
    const int candidate = first + threadIdx.x;
    bool near = candidate < count && levels[candidate] == tile.level && image_index[candidate] == tile.image;
    near = near && touches(rows_of(candidate), tile.y) && touches(columns_of(candidate), tile.x);
    int found;
    const int place = sum_before(near, found);
    if (near) list[place] = candidate;
    __syncthreads();

    for (int done = 0; done < found; done += group) {
      const int boxes_now = min(group, found - done);
      for (int item = threadIdx.x; item < boxes_now * 2 * bins * TILE; item += 256) {  // box, axis, bin, cell
        const int r = list[done + item / (2 * bins * TILE)], vertical = item / (bins * TILE) % 2;
        const Axis axis = vertical ? rows_of(r) : columns_of(r);
        const int bin = item / TILE % bins, cell = (vertical ? tile.y : tile.x) + item % TILE;
        float weight = 0;
        for (int k = 0; k < axis.per_bin; k++) weight += weight_of(sample(axis, bin, k), cell);
        weights[item] = MAXIMUM ? weight : weight / max(axis.per_bin, 1);
      }
      __syncthreads();
      if (c < channels) {
        for (int box = 0; box < boxes_now; box++) {
          const int r = list[done + box];
          const float *along_x = weights + box * 2 * bins * TILE, *along_y = along_x + bins * TILE;
          for (int i = 0; i < bins; i++) {
            const float wy = along_y[i * TILE + y];
            if (wy == 0) continue;
            for (int j = 0; j < bins; j++) {
              const Channels<float, TILE> wx = *(const Channels<float, TILE> *)(along_x + j * TILE);
              bool reached = false;
#pragma unroll
              for (int x = 0; x < TILE; x++) reached |= wx.at[x] != 0;
              if (!reached) continue;
              const long long at = ((long long)(r * bins + i) * bins + j) * channels + c;
              const Floats g = *(const Floats *)(gy + at);
              if (!MAXIMUM) {
#pragma unroll
                for (int x = 0; x < TILE; x++)
#pragma unroll
                  for (int v = 0; v < V; v++) sum[x].at[v] += wy * wx.at[x] * g.at[v];
              } else {  // the weights only say where to look: each channel has its own sample
                const Channels<int, V> which = *(const Channels<int, V> *)(chosen + at);
                const Axis rows = rows_of(r), columns = columns_of(r);
#pragma unroll
                for (int v = 0; v < V; v++) {
                  const Sample sy = sample(rows, i, which.at[v] / columns.per_bin);
                  const Sample sx = sample(columns, j, which.at[v] % columns.per_bin);
                  const float w = weight_of(sy, tile.y + y);
#pragma unroll
                  for (int x = 0; x < TILE; x++) sum[x].at[v] += w * weight_of(sx, tile.x + x) * g.at[v];
                }
              }
            }
          }
        }
      }
      __syncthreads();  // before the next boxes' weights
    }
  }
  if (c < channels && tile.y + y < level.height) {
    const long long row = ((long long)tile.image * level.height + tile.y + y) * level.width;
#pragma unroll
    for (int x = 0; x < TILE; x++)
      if (tile.x + x < level.width) *(Floats *)(level.map + (row + tile.x + x) * channels + c) = sum[x];
  }
}

// The same with atomic additions to gmaps that start at 0: threads as in `forward`, one channel each, so that a warp
// adds to a whole line of memory; 4 C additions per sample. Their order, and so the last bits, differ between runs.
template <bool MAXIMUM>
__global__ void backward_atomic(LEVELS(float), int images, int channels, const float *__restrict__ boxes,
                                const long long *__restrict__ image_index, const long long *__restrict__ levels,
                                int count, int bins, int sampling_ratio, int aligned, const float *__restrict__ gy,
                                const int *__restrict__ chosen) {
  for (int bin = blockIdx.x * blockDim.y + threadIdx.y; bin < count * bins * bins; bin += gridDim.x * blockDim.y) {
    const int r = bin / (bins * bins), i = bin / bins % bins, j = bin % bins;
    const Level<float> level = level_at<float>(levels[r], LEVEL_NAMES);
    const long long image = image_index[r];
    if (!level.map || image < 0 || image >= images) continue;
    const Axis rows = map_rows(boxes + 4 * r, level, aligned, bins, sampling_ratio);
    const Axis columns = map_columns(boxes + 4 * r, level, aligned, bins, sampling_ratio);
    const int ny = rows.per_bin, nx = columns.per_bin;
    const float share = MAXIMUM ? 1.0f : 1.0f / max(nx * ny, 1);
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
      float *gmap = level.map + image * level.height * level.width * channels + c;
      const float g = gy[(long long)bin * channels + c];
      const int which = MAXIMUM ? chosen[(long long)bin * channels + c] : 0;
      for (int s = 0; s < ny * nx; s++) {
        if (MAXIMUM && which != s) continue;
        const Sample y = sample(rows, i, s / nx), x = sample(columns, j, s % nx);
        for (int corner = 0; corner < 4; corner++) {
          const float wy = corner / 2 ? y.high_weight : y.low_weight, wx = corner % 2 ? x.high_weight : x.low_weight;
          const float weight = share * wy * wx;
          if (weight == 0) continue;
          const long long row = corner / 2 ? y.high : y.low, cell = row * level.width + (corner % 2 ? x.high : x.low);
          atomicAdd(gmap + cell * channels, weight * g);
        }
      }
    }
  }
}

// gboxes[r]: how the result follows the samples, and how they follow the box's four coordinates.
// position = start + fraction * extent, so gstart = sum(g) and gextent = sum(fraction * g), g being the gradient of a
// sample's position; start = scale * first (- 0.5), and extent = scale * (last - first) unless it is raised to 1.
// A block of 256 threads takes a box: its warps take the samples in turn, its lanes the channels; the sums of the
// threads are added in a fixed order. Reads 4 C floats of the map and C of gy per sample.
template <bool MAXIMUM>
__global__ void backward_to_boxes(LEVELS(const float), int images, int channels, const float *__restrict__ boxes,
                                  const long long *__restrict__ image_index, const long long *__restrict__ levels,
                                  int bins, int sampling_ratio, int aligned, const float *__restrict__ gy,
                                  const int *__restrict__ chosen, float *__restrict__ gboxes) {
  const int r = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Level<const float> level = level_at<const float>(levels[r], LEVEL_NAMES);
  const long long image = image_index[r];
  Axis rows = map_rows(boxes + 4 * r, level, aligned, bins, sampling_ratio);
  const Axis columns = map_columns(boxes + 4 * r, level, aligned, bins, sampling_ratio);
  if (!level.map || image < 0 || image >= images) rows.per_bin = 0;
  const int ny = rows.per_bin, nx = columns.per_bin;
  const float *map = level.map + image * level.height * level.width * channels;
  float gx_start = 0, gx_extent = 0, gy_start = 0, gy_extent = 0;
  for (int s = warp; s < bins * ny * bins * nx; s += 8) {
    const int p = s / (bins * nx), q = s % (bins * nx), i = p / ny, j = q / nx;  // rows and columns: sample and bin
    const Sample y = sample(rows, i, p % ny), x = sample(columns, j, q % nx);
    const float *top = map + (long long)y.low * level.width * channels;
    const float *bottom = map + (long long)y.high * level.width * channels;
    const long long at = ((long long)(r * bins + i) * bins + j) * channels;
    float along_x = 0, along_y = 0;
    for (int k = lane; k < channels; k += 32) {
      if (MAXIMUM && chosen[at + k] != p % ny * nx + q % nx) continue;
      const float a = top[x.low * channels + k], b = top[x.high * channels + k];
      const float c = bottom[x.low * channels + k], d = bottom[x.high * channels + k];
      along_x += gy[at + k] * (y.low_weight * (b - a) + y.high_weight * (d - c));
      along_y += gy[at + k] * (x.low_weight * (c - a) + x.high_weight * (d - b));
    }
    along_x *= follows_position(x);
    along_y *= follows_position(y);
    gx_start += along_x;
    gy_start += along_y;
    gx_extent += along_x * (q + 0.5f) / (bins * nx);
    gy_extent += along_y * (p + 0.5f) / (bins * ny);
  }
  gx_start = block_sum(gx_start);
  gy_start = block_sum(gy_start);
  gx_extent = block_sum(gx_extent);
  gy_extent = block_sum(gy_extent);
  if (threadIdx.x == 0) {
    const float share = MAXIMUM ? level.scale : level.scale / max(nx * ny, 1);
    if (!columns.follows) gx_extent = 0;
    if (!rows.follows) gy_extent = 0;
    gboxes[4 * r] = share * (gx_start - gx_extent);
    gboxes[4 * r + 1] = share * (gy_start - gy_extent);
    gboxes[4 * r + 2] = share * gx_extent;
    gboxes[4 * r + 3] = share * gy_extent;
  }
}

// The pyramid level of each box, counted from 0: floor(canonical_level + log2(sqrt(area) / canonical_size)), clipped to
// the `count` levels that start at `first`. A thread takes a box: it reads 16 bytes and writes 8, instead of the ten
// passes of the array code.
extern "C" __global__ void assign_levels(const float4 *__restrict__ boxes, int boxes_count, int first, int count,
                                         float canonical_size, float canonical_level, long long *__restrict__ levels) {
  GRID_LOOP(r, boxes_count) {
    const float smallest = 1.17549435e-38f;  // the smallest normal float: log2(0) is not finite
    const float side = sqrtf(fmaxf(box_area(boxes[r]), smallest));
    const float level = floorf(canonical_level + log2f(side / canonical_size) + 1e-6f);
    levels[r] = (long long)(fminf(fmaxf(level, first), first + count - 1) - first);
  }
}
