// Boxes to deltas and back: the same as the array code of boxes.encode and boxes.predicted.
//
// One thread per box. `encode` moves 48 bytes per box, `predicted` 49. As array code they are about 25 passes each over a
// few thousand boxes, and the time goes into the launches, not into the bytes.

struct Place {
  float x, y, width, height;  // x and y of the center
};

__device__ Place place_of(float4 box) {
  float width = box.z - box.x, height = box.w - box.y;
  return {box.x + __fmul_rn(0.5f, width), box.y + __fmul_rn(0.5f, height), width, height};
}

// deltas (B, 4) from anchors (B, 4) to boxes (B, 4), multiplied by the weights. Each side counts as at least `side` pixels.
extern "C" __global__ void encode(const float4 *__restrict__ boxes, const float4 *__restrict__ anchors, int count, float wx,
                                  float wy, float ww, float wh, float side, float4 *deltas) {
  GRID_LOOP(i, count) {
    Place box = place_of(boxes[i]), anchor = place_of(anchors[i]);
    anchor.width = fmaxf(anchor.width, side);
    anchor.height = fmaxf(anchor.height, side);
    deltas[i] = make_float4(wx * (box.x - anchor.x) / anchor.width, wy * (box.y - anchor.y) / anchor.height,
                            ww * logf(fmaxf(box.width, side) / anchor.width),
                            wh * logf(fmaxf(box.height, side) / anchor.height));
  }
}

// boxes (N, R, C, 4): anchors (N, R, 4) moved and stretched by deltas (N, R, C, 4), then clipped to their image, whose
// height and width are in sizes (N, 2). large (N, R, C): whether both sides are at least `side` pixels.
// A side grows by a factor of at most e^largest. per_image = R * C and per_anchor = C count the boxes of one image and of
// one anchor.
extern "C" __global__ void predicted(const float4 *__restrict__ deltas, const float4 *__restrict__ anchors,
                                     const long long *__restrict__ sizes, int count, int per_image, int per_anchor,
                                     float wx, float wy, float ww, float wh, float largest, float side, float4 *boxes,
                                     bool *large) {
  GRID_LOOP(i, count) {
    float4 delta = deltas[i];
    Place anchor = place_of(anchors[i / per_anchor]);
    float x = __fmul_rn(delta.x / wx, anchor.width) + anchor.x, y = __fmul_rn(delta.y / wy, anchor.height) + anchor.y;
    float half_width = __fmul_rn(expf(fminf(delta.z / ww, largest)) * anchor.width, 0.5f);
    float half_height = __fmul_rn(expf(fminf(delta.w / wh, largest)) * anchor.height, 0.5f);
    float bottom = sizes[i / per_image * 2], right = sizes[i / per_image * 2 + 1];
    float4 box = make_float4(fminf(fmaxf(x - half_width, 0), right), fminf(fmaxf(y - half_height, 0), bottom),
                             fminf(fmaxf(x + half_width, 0), right), fminf(fmaxf(y + half_height, 0), bottom));
    boxes[i] = box;
    large[i] = box.z - box.x >= side && box.w - box.y >= side;
  }
}
