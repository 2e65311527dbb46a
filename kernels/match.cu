// Match anchors (or proposals) to ground truth: best object, its IoU, and whether the anchor is the object's best.
// targets.match_specification and kernels/match.py compute the same; no table of all overlaps is ever in memory.
//
// Two passes, for an anchor can be known to be an object's best only when all have been seen. A thread takes an anchor; a
// block reads the objects once into shared memory. 32 bytes for each anchor and 18 for each object and block; the time
// goes into (anchors) x (objects) overlaps, about 12 operations each where they do not meet.

const int OBJECTS = 64;  // as many are looked at together
enum Kind { NOTHING, OBJECT, CROWD };

// best, which, covered (N, A): the largest IoU with an object, that object (0 if none), and the largest part of the anchor
// inside a crowd. largest (N, G): each object's largest IoU with any anchor; zero before the call. anchors (N, A, 4), or
// (A, 4) for all images if `shared_anchors`; boxes (N, G, 4); real, crowd (N, G). Grid (blocks, N).
extern "C" __global__ void best_objects(
    const float4 *__restrict__ anchors, int shared_anchors, const float4 *__restrict__ boxes,
    const bool *__restrict__ real, const bool *__restrict__ crowd, int count, int objects, float *best, long long *which,
    float *covered, float *largest) {
  __shared__ float4 object[OBJECTS];
  __shared__ Kind kind[OBJECTS];
  __shared__ int largest_here[OBJECTS];  // bits of a float that is not negative: they rise as it does
  int a = blockIdx.x * blockDim.x + threadIdx.x, image = blockIdx.y;
  bool inside = a < count;
  float4 anchor = inside ? anchors[(shared_anchors ? 0 : image * (long long)count) + a] : make_float4(0, 0, 0, 0);
  float own_best = 0, own_covered = 0, area = fmaxf(box_area(anchor), 1e-12f);
  int own_which = 0;
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
          own_which = first + g;
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
    which[i] = own_which;
    covered[i] = own_covered;
  }
}

// labels (N, A) of targets.match: 1 positive, 0 background, -1 ignored. best, covered, largest: of best_objects, with the
// same anchors and boxes. Grid (blocks, N).
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
      float most = largest[g];  // 0 where there is no object
      if (most > 0 && own_best >= most && iou(anchor, boxes[g]) == most) result = 1;
    }
  }
  if (result == 0 && covered[i] >= crowd_cover) result = -1;
  labels[i] = result;
}
