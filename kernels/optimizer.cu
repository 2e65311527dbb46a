// Optimizer steps on flat buffers that hold all parameters, all gradients and all of a state: see
// minimask.machine.gpu_optimizer.
//
//   collect        many arrays into one, one after the other                reads 4 bytes per number, writes 4
//   set_rates      rates = lr, correction1, correction2                     1 thread
//   norm_parts     parts[block] = sum of squares of a block's gradients     reads g: 4 bytes per number
//   clip           the norm, whether all is finite, the scale -> report     1 block
//   sgd            velocity = momentum velocity + (scale g + decay p);  p -= lr velocity            moves 20 bytes
//   adamw          m, v = moving averages of g, g^2;  p = (1 - lr decay) p - lr m^ / (sqrt(v^) + eps)     28 bytes
//
// A thread takes 4 numbers at a time, every (threads of the grid)-th four. Buffers are multiples of CHUNK numbers, and
// decay has the weight decay of each chunk; where it is negative there is no gradient, and the chunk is left alone.
// report: norm; 1 while everything is finite, then 0; the first number of the first chunk that is not finite; scale.
// Once report[1] is 0, no step changes anything.
// Squares are added in float32, as on the CPU, then in float64, in an order that depends on the size alone.

#define CHUNK 64
#define NOWHERE 0x7fffffff

// Arrays to copy: the source, the target (a multiple of CHUNK, divided by it), how many numbers, and the first of the
// blocks that copy it, TILE numbers each. The struct is the kernel's argument, so no table is copied to the GPU.
#define MOVES 128
#define TILE 4096
struct Moves {
  const float *source[MOVES];
  int chunk[MOVES], size[MOVES], block[MOVES];
};

extern "C" __global__ void collect(const Moves moves, int count, float *flat) {
  int k = 0;
  while (k + 1 < count && moves.block[k + 1] <= blockIdx.x) k++;
  const int first = (blockIdx.x - moves.block[k]) * TILE, last = min(first + TILE, moves.size[k]);
  float *target = flat + moves.chunk[k] * (long long)CHUNK;
  for (int i = first + threadIdx.x; i < last; i += blockDim.x) target[i] = moves.source[k][i];
}

extern "C" __global__ void set_rates(float *rates, float lr, float correction1, float correction2) {
  rates[0] = lr, rates[1] = correction1, rates[2] = correction2;
}

extern "C" __global__ void norm_parts(const float4 *__restrict__ g, const float *__restrict__ decay, long long fours,
                                      double *parts, int *place) {
  double sum = 0;
  GRID_LOOP(i, fours) {
    const long long chunk = i / (CHUNK / 4);
    if (decay[chunk] < 0) continue;
    const float4 a = g[i];
    sum += a.x * a.x + a.y * a.y + (a.z * a.z + a.w * a.w);
    if (!(isfinite(a.x) && isfinite(a.y) && isfinite(a.z) && isfinite(a.w))) atomicMin(place, (int)chunk);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

extern "C" __global__ void clip(const double *__restrict__ parts, int count, const float *__restrict__ losses,
                                int loss_count, float max_norm, int *place, double *report) {
  double sum = 0, bad = 0;
  for (int i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
  for (int i = threadIdx.x; i < loss_count; i += blockDim.x) bad += !isfinite(losses[i]);
  sum = block_sum(sum);
  bad = block_sum(bad);
  if (threadIdx.x != 0) return;
  if (report[1] != 0) {
    const double norm = sqrt(sum);
    report[0] = norm;
    report[1] = isfinite(norm) && bad == 0;
    report[2] = *place == NOWHERE ? -1.0 : *place * (double)CHUNK;
    report[3] = fmin(1.0, max_norm / (norm + 1e-6));
  }
  *place = NOWHERE;  // for the next step
}

__device__ void sgd_number(float &p, float g, float &velocity, float lr, float momentum, float decay, float scale) {
  velocity = momentum * velocity + (g * scale + decay * p);
  p -= lr * velocity;
}

extern "C" __global__ void sgd(float4 *p, const float4 *__restrict__ g, float4 *velocity,
                               const float *__restrict__ decay, const float *__restrict__ rates,
                               const double *__restrict__ report, float momentum, long long fours) {
  if (report[1] == 0) return;
  const float lr = rates[0], scale = (float)report[3];
  GRID_LOOP(i, fours) {
    const float d = decay[i / (CHUNK / 4)];
    if (d < 0) continue;
    float4 x = p[i], v = velocity[i];
    const float4 a = g[i];
    sgd_number(x.x, a.x, v.x, lr, momentum, d, scale);
    sgd_number(x.y, a.y, v.y, lr, momentum, d, scale);
    sgd_number(x.z, a.z, v.z, lr, momentum, d, scale);
    sgd_number(x.w, a.w, v.w, lr, momentum, d, scale);
    p[i] = x, velocity[i] = v;
  }
}

struct AdamW {
  float lr, beta1, rest1, beta2, rest2, eps, scale, correction1, correction2;

  __device__ void number(float &p, float g, float &m, float &v, float decay) const {
    const float gradient = g * scale;
    m = beta1 * m + rest1 * gradient;
    v = beta2 * v + rest2 * gradient * gradient;
    p = (1 - lr * decay) * p - lr * (m * correction1) / (sqrtf(v * correction2) + eps);
  }
};

// rest1 is 1 - beta1. It is an argument, because that subtraction in float32 would lose four digits.
extern "C" __global__ void adamw(float4 *p, const float4 *__restrict__ g, float4 *m, float4 *v,
                                 const float *__restrict__ decay, const float *__restrict__ rates,
                                 const double *__restrict__ report, float beta1, float rest1, float beta2, float rest2,
                                 float eps, long long fours) {
  if (report[1] == 0) return;
  const AdamW adamw = {rates[0], beta1, rest1, beta2, rest2, eps, (float)report[3], rates[1], rates[2]};
  GRID_LOOP(i, fours) {
    const float d = decay[i / (CHUNK / 4)];
    if (d < 0) continue;
    float4 x = p[i], m4 = m[i], v4 = v[i];
    const float4 a = g[i];
    adamw.number(x.x, a.x, m4.x, v4.x, d);
    adamw.number(x.y, a.y, m4.y, v4.y, d);
    adamw.number(x.z, a.z, m4.z, v4.z, d);
    adamw.number(x.w, a.w, m4.w, v4.w, d);
    p[i] = x, m[i] = m4, v[i] = v4;
  }
}
