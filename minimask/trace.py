"""What each stage of one pass computes, kept by name: to look at, to test, and for the notebooks.

    with Trace() as stages:
        found = model.detect(batch)
    print(stages.table())
    stages["P4"]        # (N, H, W, 256)

In inference the names are, in this order:
    images, C2 .. C5, P2 .. P6, anchors, objectness, rpn_deltas, proposals, proposal_scores, proposal_valid,
    box_levels, box_features, class_logits, box_deltas,
    detected_boxes, detected_labels, detected_scores, detected_valid,
    mask_levels, mask_features, mask_logits, mask_probabilities (if the model has masks),
    keypoint_levels, keypoint_features, keypoint_logits, keypoints (if it has keypoints).

In a training step (`model.losses(batch, rng)`) these follow the proposals:
    rpn_labels (1, 0 or -1 for each anchor), rpn_matches (the index of its object), rpn_sampled (which anchors take
    part), rpn_positive, rpn_valid, rpn_targets,
    rois, roi_labels, roi_matches, roi_positive, roi_valid, box_targets,
    the outputs of the heads, mask_targets, keypoint_targets, keypoint_visible, and each loss under its own name.

On the CPU the heads compute the valid places only: row r of box_features belongs to the r-th valid proposal.
"""

import contextvars

import numpy as np

from minimask.device import to_cpu
from minimask.tensor import Tensor

_current = contextvars.ContextVar("trace", default=None)


class Trace(dict):
    """The arrays of the stages that run inside `with Trace() as stages`: name -> NumPy array, in the order they ran."""

    def __enter__(self):
        self._token = _current.set(self)
        return self

    def __exit__(self, *error):
        _current.reset(self._token)

    def table(self):
        """One line per stage: name, shape, dtype, and for numbers their minimum, mean and maximum."""
        lines = []
        for name, x in self.items():
            numbers = "" if not x.size or x.dtype == bool else f"{x.min():12.5g} {x.mean():12.5g} {x.max():12.5g}"
            lines.append(f"{name:20} {str(x.shape):24} {str(x.dtype):8} {numbers}".rstrip())
        return "\n".join([f"{'stage':20} {'shape':24} {'type':8} {'min':>12} {'mean':>12} {'max':>12}", *lines])


def record(**stages):
    """Keep what a stage computed (arrays or Tensors) under these names if a Trace is open; otherwise do nothing."""
    trace = _current.get()
    if trace is not None:
        for name, value in stages.items():
            trace[name] = np.array(to_cpu(value.data if isinstance(value, Tensor) else value))
