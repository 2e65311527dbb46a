// RoIPool on the GPU: the largest value in each bin of whole cells, and its gradient; the rounded boxes of RoIWarp.
//
// Layout: a map (N, H, W, C) for each pyramid level (LEVELS in common.cuh), boxes (R, 4) in image pixels, image and
// level of each box (R), out and chosen (R, bins, bins, C). chosen is the cell y * W + x that won, -1 in a bin without
// cells. One launch does all levels; the result of a box whose level or image does not exist is 0. The arithmetic is
// that of roi_pool.py.
//
// instantiate: forward<1>, forward<4>, backward<1>, backward<4>

// The nearest integer, halves away from 0; limited to a distance that no map reaches.
__device__ int round_half_up(float x) {
  if (!(fabsf(x) <= 1e9f)) x = isnan(x) ? 0 : x > 0 ? 1e9f : -1e9f;
  const float whole = floorf(fabsf(x)) + (fabsf(x) - floorf(fabsf(x)) >= 0.5f);
  return (int)(x >= 0 ? whole : -whole);
}

// The cells start .. stop - 1 of bin b along an axis: both ends of the box and of the bin are rounded outwards.
struct Cells {
  int start, stop;
};

__device__ Cells bin_cells(float first, float last, float scale, int bins, int b, int cells) {
  const int start = round_half_up(__fmul_rn(first, scale)), end = round_half_up(__fmul_rn(last, scale));
  const float step = (float)max(end - start + 1, 1) / bins;
  const int begin = start + (int)floorf(b * step), stop = start + (int)ceilf((b + 1) * step);
  return {min(max(begin, 0), cells), min(max(stop, 0), cells)};
}

// out[r, i, j] = the largest cell of bin (i, j) of box r, chosen[r, i, j] = which one it is (the first of equals).
// Threads (lanes, rows): a row of threads takes a bin, its lanes the channels, V at once. Reads each cell of a box
// about once; writes 2 C numbers per bin.
template <int V>
__global__ void forward(LEVELS(const float), int images, int channels, const float *__restrict__ boxes,
                        const long long *__restrict__ image_index, const long long *__restrict__ levels, int count,
                        int bins, float *__restrict__ out, int *__restrict__ chosen) {
  for (int bin = blockIdx.x * blockDim.y + threadIdx.y; bin < count * bins * bins; bin += gridDim.x * blockDim.y) {
    const int r = bin / (bins * bins), i = bin / bins % bins, j = bin % bins;
    const Level<const float> level = level_at<const float>(levels[r], LEVEL_NAMES);
    const long long image = image_index[r];
    Cells rows = bin_cells(boxes[4 * r + 1], boxes[4 * r + 3], level.scale, bins, i, level.height);
    const Cells columns = bin_cells(boxes[4 * r], boxes[4 * r + 2], level.scale, bins, j, level.width);
    if (image < 0 || image >= images) rows.stop = rows.start;
    for (int c = threadIdx.x * V; c < channels; c += blockDim.x * V) {
      const float *map = level.map + image * level.height * level.width * channels + c;
      Channels<float, V> largest = {};
      Channels<int, V> which;
#pragma unroll
      for (int v = 0; v < V; v++) which.at[v] = -1;
      for (int y = rows.start; y < rows.stop; y++)
        for (int x = columns.start; x < columns.stop; x++) {
          const int cell = y * level.width + x;
          const Channels<float, V> value = *(const Channels<float, V> *)(map + (long long)cell * channels);
#pragma unroll
          for (int v = 0; v < V; v++)
            if (which.at[v] < 0 || value.at[v] > largest.at[v]) {
              largest.at[v] = value.at[v];
              which.at[v] = cell;
            }
        }
      *(Channels<float, V> *)(out + (long long)bin * channels + c) = largest;
      *(Channels<int, V> *)(chosen + (long long)bin * channels + c) = which;
    }
  }
}

// gmap[cell] = sum of gy over the bins, in the order of the boxes, that chose this cell. Gathered as in roi_align.cu:
// a block of 256 threads owns a tile of 8 x 8 cells and 32 V channels, picks the boxes that touch it, 256 candidates at
// a time, and for `group` of them at once writes the cells of their bins, (group, 2, bins, 2) ints of dynamic shared
// memory. Then each warp sums a row of 8 cells, each lane V channels. Reads a box's gy and chosen about once per row of
// tiles that it touches (from L2); writes gmap once.
template <int V>
__global__ void __launch_bounds__(256, 3)
    backward(LEVELS(float), int images, int channels, const float *__restrict__ boxes,
             const long long *__restrict__ image_index, const long long *__restrict__ levels, int count, int bins,
             int group, const float *__restrict__ gy, const int *__restrict__ chosen) {
  extern __shared__ int2 edges[];  // x: start, y: stop
  __shared__ int list[256];
  const Tile tile = own_tile<float>(images, LEVEL_NAMES);
  const Level<float> level = level_at<float>(tile.level, LEVEL_NAMES);
  const int lane = threadIdx.x % 32, y = tile.y + threadIdx.x / 32, c = (blockIdx.y * 32 + lane) * V;
  auto rows_of = [&](int r, int bin) {
    return bin_cells(boxes[4 * r + 1], boxes[4 * r + 3], level.scale, bins, bin, level.height);
  };
  auto columns_of = [&](int r, int bin) {
    return bin_cells(boxes[4 * r], boxes[4 * r + 2], level.scale, bins, bin, level.width);
  };

  Channels<float, V> sum[TILE] = {};
  for (int first = 0; first < count; first += 256) {
    const int r = first + threadIdx.x;
    bool near = r < count && levels[r] == tile.level && image_index[r] == tile.image;
    near = near && rows_of(r, 0).start < tile.y + TILE && rows_of(r, bins - 1).stop > tile.y;
    near = near && columns_of(r, 0).start < tile.x + TILE && columns_of(r, bins - 1).stop > tile.x;
    int found;
    const int place = sum_before(near, found);
    if (near) list[place] = r;
    __syncthreads();

    for (int done = 0; done < found; done += group) {
      const int boxes_now = min(group, found - done);
      for (int item = threadIdx.x; item < boxes_now * 2 * bins; item += 256) {  // box, axis, bin
        const int box = list[done + item / (2 * bins)];
        const Cells cells = item / bins % 2 ? rows_of(box, item % bins) : columns_of(box, item % bins);
        edges[item] = make_int2(cells.start, cells.stop);
      }
      __syncthreads();
      if (c < channels) {
        for (int box = 0; box < boxes_now; box++) {
          const int2 *columns = edges + box * 2 * bins, *rows = columns + bins;
          for (int i = 0; i < bins; i++) {
            if (y < rows[i].x || y >= rows[i].y) continue;
            for (int j = 0; j < bins; j++) {
              if (columns[j].x >= tile.x + TILE || columns[j].y <= tile.x) continue;
              const long long at = ((long long)(list[done + box] * bins + i) * bins + j) * channels + c;
              const Channels<int, V> which = *(const Channels<int, V> *)(chosen + at);
              const Channels<float, V> g = *(const Channels<float, V> *)(gy + at);
#pragma unroll
              for (int x = 0; x < TILE; x++)
#pragma unroll
                for (int v = 0; v < V; v++)
                  if (which.at[v] == y * level.width + tile.x + x) sum[x].at[v] += g.at[v];
            }
          }
        }
      }
      __syncthreads();  // before the next boxes' bins
    }
  }
  if (c < channels && y < level.height) {
    const long long row = ((long long)tile.image * level.height + y) * level.width;
#pragma unroll
    for (int x = 0; x < TILE; x++)
      if (tile.x + x < level.width)
        *(Channels<float, V> *)(level.map + (row + tile.x + x) * channels + c) = sum[x];
  }
}

// The same with atomic additions to gmaps that start at 0: threads as in `forward`, one channel each, so that a warp
// adds to whole lines of memory; one addition per number of gy. Their order, and so the last bits, differ between runs.
extern "C" __global__ void backward_atomic(LEVELS(float), int images, int channels, const float *__restrict__ boxes,
                                           const long long *__restrict__ image_index,
                                           const long long *__restrict__ levels, int count, int bins,
                                           const float *__restrict__ gy, const int *__restrict__ chosen) {
  for (int bin = blockIdx.x * blockDim.y + threadIdx.y; bin < count * bins * bins; bin += gridDim.x * blockDim.y) {
    const int r = bin / (bins * bins);
    const Level<float> level = level_at<float>(levels[r], LEVEL_NAMES);
    const long long pixels = level.height * level.width;
    if (!level.map) continue;
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
      const long long at = (long long)bin * channels + c, which = chosen[at];
      if (which >= 0) atomicAdd(level.map + (image_index[r] * pixels + which) * channels + c, gy[at]);
    }
  }
}

// RoIWarp's boxes: the outer edges of the cells that each box is rounded to, in pixels again. A thread takes a box.
extern "C" __global__ void round_boxes(LEVELS(const float), const float *__restrict__ boxes,
                                       const long long *__restrict__ levels, int count, float *__restrict__ rounded) {
  GRID_LOOP(r, count) {
    const float scale = level_at<const float>(levels[r], LEVEL_NAMES).scale;
    for (int axis = 0; axis < 2; axis++) {
      const int first = round_half_up(__fmul_rn(boxes[4 * r + axis], scale));
      const int last = round_half_up(__fmul_rn(boxes[4 * r + axis + 2], scale));
      rounded[4 * r + axis] = first / scale;
      rounded[4 * r + axis + 2] = (max(last, first) + 1) / scale;
    }
  }
}
