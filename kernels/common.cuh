// What several kernels share. Put before every .cu file: NVRTC knows neither <stdint.h> nor <math.h>'s constants.

#define INFINITY_F __int_as_float(0x7f800000)

// The first item of this thread, and how far it is to its next one, in a loop over all items of a grid.
#define GRID_LOOP(i, count) \
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < (count); i += gridDim.x * (long long)blockDim.x)
