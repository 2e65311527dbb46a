// Match anchors (or proposals) to objects: the same as the array code of targets.match and as kernels/match.py, without a
// table of all overlaps in memory.
//
// Two passes: only after the first, which has seen all anchors, is it known which anchor overlaps an object best. One
// thread per anchor; a block reads the objects into shared memory once. 32 bytes per anchor, and 18 per object and block.
// The time goes into (anchors) x (objects) overlaps, about 12 operations each where the two are disjoint.

const int OBJECTS = 64;  // how many are in shared memory at a time
enum Kind { NOTHING, OBJECT, CROWD };

// best, matched, covered (N, A): the largest IoU with an object, the index of that object (0 if there is none), and the
// largest part of the anchor inside a crowd. largest (N, G): the largest IoU of each object with any anchor; zero before
// the call. anchors (N, A, 4), or (A, 4) for all images if shared_anchors; boxes (N, G, 4); real, crowd (N, G).
// Grid (blocks, N).
extern "C" __global__ void best_objects(
    const float4 *__restrict__ anchors, int shared_anchors, const float4 *__restrict__ boxes,
    const bool *__restrict__ real, const bool *__restrict__ crowd, int count, int objects, float *best, long long *matched,
    float *covered, float *largest) {
  __shared__ float4 object[OBJECTS];
  __shared__ Kind kind[OBJECTS];
  __shared__ int largest_here[OBJECTS];  // bits of floats >= 0, which compare like the floats
  int a = blockIdx.x * blockDim.x + threadIdx.x, image = blockIdx.y;
  bool inside = a < count;
  float4 anchor = inside ? anchors[(shared_anchors ? 0 : image * (long long)count) + a] : make_float4(0, 0, 0, 0);
  float own_best = 0, own_covered = 0, area = fmaxf(box_area(anchor), 1e-12f);
  int own_matched = 0;
  for (int first = 0; first < objects; first += OBJECTS) {
    int in_tile = min(OBJECTS, objects - first);
    if (threadIdx.x < in_tile) {
      int g = image * objects + first + threadIdx.x;
      object[threadIdx.x] = boxes[g];
      kind[threadIdx.x] = real[g] ? OBJECT : crowd[g] ? CROWD : NOTHING;
      largest_here[threadIdx.x] = 0;
    }
    __syncthreads();
    for (int g = 0; g < in_tile && inside; g++) {
      if (kind[g] == OBJECT) {
        float value = iou(anchor, object[g]);
        if (value > own_best) {
          own_best = value;
          own_matched = first + g;
        }
        if (value > 0) atomicMax(&largest_here[g], __float_as_int(value));
      } else if (kind[g] == CROWD) {
        own_covered = fmaxf(own_covered, overlap(anchor, object[g]) / area);
      }
    }
    __syncthreads();
    if (threadIdx.x < in_tile && largest_here[threadIdx.x] > 0)
      atomicMax((int *)&largest[image * objects + first + threadIdx.x], largest_here[threadIdx.x]);
  }
  if (inside) {
    long long i = image * (long long)count + a;
    best[i] = own_best;
    matched[i] = own_matched;
    covered[i] = own_covered;
  }
}

// labels (N, A) of targets.match: 1 positive, 0 background, -1 ignored. best, covered and largest come from best_objects
// with the same anchors and boxes. Grid (blocks, N).
extern "C" __global__ void label(
    const float4 *__restrict__ anchors, int shared_anchors, const float4 *__restrict__ boxes,
    const float *__restrict__ best, const float *__restrict__ covered, const float *__restrict__ largest, int count,
    int objects, float low, float high, int allow_low_quality, float crowd_cover, signed char *labels) {
  int a = blockIdx.x * blockDim.x + threadIdx.x, image = blockIdx.y;
  if (a >= count) return;
  long long i = image * (long long)count + a;
  float own_best = best[i];
  int result = own_best >= high ? 1 : own_best < low ? 0 : -1;
  if (allow_low_quality && own_best > 0) {
    float4 anchor = anchors[shared_anchors ? a : i];
    for (int g = image * objects; g < (image + 1) * objects; g++) {
      float best_of_object = largest[g];  // 0 where there is no object
      if (best_of_object > 0 && own_best >= best_of_object && iou(anchor, boxes[g]) == best_of_object) result = 1;
    }
  }
  if (result == 0 && covered[i] >= crowd_cover) result = -1;
  labels[i] = result;
}
