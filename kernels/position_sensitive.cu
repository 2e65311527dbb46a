// Position-sensitive pooling on the GPU: each bin takes its mean from the maps of its part; and the gradient of the maps.
//
// Layout: maps (N, H, W, parts * parts, D), cells (R, 2, m, 2): start and stop of each bin along y and x, image of each
// box (R), out (R, m, m, D). Launch: (lanes, rows) threads per block, the lanes share channels, V at a time. The result
// of a box whose image does not exist is 0. The arithmetic is that of position_sensitive.py.
//
// instantiate: forward<1>, forward<4>, backward<1>, backward<4>

// out[r, i, j] = mean over the cells of bin (i, j). A row of threads takes a bin; reads its cells, writes D numbers.
template <int V>
__global__ void forward(const float *__restrict__ maps, int images, int height, int width, int parts, int depth,
                        const int2 *__restrict__ cells, const long long *__restrict__ image_index, int count, int size,
                        float *__restrict__ out) {
  for (int bin = blockIdx.x * blockDim.y + threadIdx.y; bin < count * size * size; bin += gridDim.x * blockDim.y) {
    const int r = bin / (size * size), i = bin / size % size, j = bin % size;
    const int part = i * parts / size * parts + j * parts / size;
    const int2 *edges = cells + (long long)r * 2 * size;
    int2 rows = edges[i];
    const int2 columns = edges[size + j];
    const long long image = image_index[r];
    if (image < 0 || image >= images) rows.y = rows.x;
    const float share = 1.0f / max((rows.y - rows.x) * (columns.y - columns.x), 1);
    for (int c = threadIdx.x * V; c < depth; c += blockDim.x * V) {
      Channels<float, V> sum = {};
      for (int y = rows.x; y < rows.y; y++)
        for (int x = columns.x; x < columns.y; x++) {
          const long long cell = (image * height + y) * width + x;
          const Channels<float, V> value =
              *(const Channels<float, V> *)(maps + (cell * parts * parts + part) * depth + c);
#pragma unroll
          for (int v = 0; v < V; v++) sum.at[v] += value.at[v];
        }
#pragma unroll
      for (int v = 0; v < V; v++) sum.at[v] *= share;
      *(Channels<float, V> *)(out + (long long)bin * depth + c) = sum;
    }
  }
}

// gmaps[cell, part] = sum of gy / cells over the bins of this part that touch the cell, in the order of the boxes, so
// the same inputs give the same bits. A row of threads takes a part of a cell, writes D numbers once, and looks at the
// bins of all boxes in its image: R m / k numbers of `cells`, which the caches hold.
template <int V>
__global__ void backward(const float *__restrict__ gy, int images, int height, int width, int parts, int depth,
                         const int2 *__restrict__ cells, const long long *__restrict__ image_index, int count, int size,
                         float *__restrict__ gmaps) {
  const long long items = (long long)images * height * width * parts * parts;
  for (long long at = blockIdx.x * (long long)blockDim.y + threadIdx.y; at < items; at += gridDim.x * blockDim.y) {
    const int part = at % (parts * parts), p = part / parts, q = part % parts;
    const int x = at / (parts * parts) % width, y = at / (parts * parts) / width % height;
    const long long image = at / (parts * parts) / width / height;
    const int first_row = (p * size + parts - 1) / parts, last_row = ((p + 1) * size + parts - 1) / parts;
    const int first_column = (q * size + parts - 1) / parts, last_column = ((q + 1) * size + parts - 1) / parts;
    for (int c = threadIdx.x * V; c < depth; c += blockDim.x * V) {
      Channels<float, V> sum = {};
      for (int r = 0; r < count; r++) {
        if (image_index[r] != image) continue;
        const int2 *rows = cells + (long long)r * 2 * size, *columns = rows + size;
        if (y < rows[first_row].x || y >= rows[last_row - 1].y) continue;
        for (int i = first_row; i < last_row; i++) {
          if (y < rows[i].x || y >= rows[i].y) continue;
          for (int j = first_column; j < last_column; j++) {
            if (x < columns[j].x || x >= columns[j].y) continue;
            const float share = 1.0f / ((rows[i].y - rows[i].x) * (columns[j].y - columns[j].x));
            const long long bin = ((long long)r * size + i) * size + j;
            const Channels<float, V> g = *(const Channels<float, V> *)(gy + bin * depth + c);
#pragma unroll
            for (int v = 0; v < V; v++) sum.at[v] += share * g.at[v];
          }
        }
      }
      *(Channels<float, V> *)(gmaps + at * depth + c) = sum;
    }
  }
}
