// Max pooling on the GPU: the largest value under each window, and which place of the window holds it.
//
// Launch: (lanes, rows) threads per block. A row of threads takes a pixel, of the result in the forward direction, of the
// map in the backward one; its lanes share the channels, V at a time, so that whole lines of memory are read and written.
// In the backward direction each pixel of the map collects from the windows above it, so that no two threads write to
// the same place. Moves x once (windows overlap in the caches), y and the winners (a byte each) once; backward gy, gx and
// the winners. Same arithmetic as max_pool.py.
//
// instantiate: max_pool<1>, max_pool<4>, max_pool_backward<1>, max_pool_backward<4>

// y = the largest number under the window, winner = its place i * kw + j; of equals the first; NaN is largest.
template <int V>
__global__ void max_pool(const float *__restrict__ x, int images, int height, int width, int channels, int kh, int kw,
                         int sy, int sx, int py, int px, int rows, int columns, float *__restrict__ y,
                         unsigned char *__restrict__ winner) {
  for (int at = blockIdx.x * blockDim.y + threadIdx.y; at < images * rows * columns; at += gridDim.x * blockDim.y) {
    const int image = at / (rows * columns), top = at / columns % rows * sy - py, left = at % columns * sx - px;
    for (int c = threadIdx.x * V; c < channels; c += blockDim.x * V) {
      Channels<float, V> best;
      Channels<unsigned char, V> place;
#pragma unroll
      for (int v = 0; v < V; v++) {
        best.at[v] = -INFINITY_F;
        place.at[v] = 0;
      }
      for (int i = max(0, -top); i < min(kh, height - top); i++)
        for (int j = max(0, -left); j < min(kw, width - left); j++) {
          const long long pixel = ((long long)image * height + top + i) * width + left + j;
          const Channels<float, V> value = *(const Channels<float, V> *)(x + pixel * channels + c);
#pragma unroll
          for (int v = 0; v < V; v++)
            if (value.at[v] > best.at[v] || isnan(value.at[v])) {
              best.at[v] = value.at[v];
              place.at[v] = i * kw + j;
            }
        }
      *(Channels<float, V> *)(y + (long long)at * channels + c) = best;
      *(Channels<unsigned char, V> *)(winner + (long long)at * channels + c) = place;
    }
  }
}

// gx = the sum of gy over the windows that the pixel won.
template <int V>
__global__ void max_pool_backward(const float *__restrict__ gy, const unsigned char *__restrict__ winner, int images,
                                  int height, int width, int channels, int kh, int kw, int sy, int sx, int py, int px,
                                  int rows, int columns, float *__restrict__ gx) {
  for (int at = blockIdx.x * blockDim.y + threadIdx.y; at < images * height * width; at += gridDim.x * blockDim.y) {
    const int image = at / (height * width), y = at / width % height + py, x = at % width + px;
    const int first_row = y < kh ? 0 : (y - kh) / sy + 1, first_column = x < kw ? 0 : (x - kw) / sx + 1;
    for (int c = threadIdx.x * V; c < channels; c += blockDim.x * V) {
      Channels<float, V> total = {};
      for (int row = first_row; row < min(rows, y / sy + 1); row++)
        for (int column = first_column; column < min(columns, x / sx + 1); column++) {
          const long long window = (((long long)image * rows + row) * columns + column) * channels + c;
          const Channels<unsigned char, V> place = *(const Channels<unsigned char, V> *)(winner + window);
          const Channels<float, V> value = *(const Channels<float, V> *)(gy + window);
          const int own = (y - row * sy) * kw + x - column * sx;
#pragma unroll
          for (int v = 0; v < V; v++) total.at[v] += place.at[v] == own ? value.at[v] : 0;
        }
      *(Channels<float, V> *)(gx + (long long)at * channels + c) = total;
    }
  }
}
