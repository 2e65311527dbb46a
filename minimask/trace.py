"""What each stage of one pass computed, kept by name: for looking at, for testing, for the notebooks.

    with Trace() as stages:
        found = model.detect(batch)
    print(stages.table())
    stages["P4"]        # (N, H, W, 256)

Inference keeps, in this order: images, C2 .. C5, P2 .. P6, anchors, objectness, rpn_deltas, proposals, proposal_scores,
proposal_valid, box_levels, box_features, class_logits, box_deltas, detected_boxes, detected_labels, detected_scores,
detected_valid; then for masks mask_levels, mask_features, mask_logits, mask_probabilities; for keypoints
keypoint_levels, keypoint_features, keypoint_logits, keypoints.

A training step (`model.losses(batch, rng)`) keeps, after the proposals: rpn_labels (1, 0, -1 for each anchor),
rpn_matches (its object), rpn_sampled (which anchors), rpn_positive, rpn_valid, rpn_targets; rois, roi_labels,
roi_matches, roi_positive, roi_valid, box_targets; what the heads computed; mask_targets, keypoint_targets,
keypoint_visible; and every loss under its name.

On the CPU the heads work on the valid places alone: row r of box_features belongs to the r-th valid proposal.
"""

import contextvars

import numpy as np

from minimask.device import to_cpu
from minimask.tensor import Tensor

_current = contextvars.ContextVar("trace", default=None)


class Trace(dict):
    """Name -> NumPy array of each stage that runs inside `with Trace() as stages`, in the order of the stages."""

    def __enter__(self):
        self._token = _current.set(self)
        return self

    def __exit__(self, *error):
        _current.reset(self._token)

    def table(self):
        """One line a stage: name, shape, type, and for numbers the least, the mean and the greatest."""
        lines = []
        for name, x in self.items():
            numbers = "" if not x.size or x.dtype == bool else f"{x.min():12.5g} {x.mean():12.5g} {x.max():12.5g}"
            lines.append(f"{name:20} {str(x.shape):24} {str(x.dtype):8} {numbers}".rstrip())
        return "\n".join([f"{'stage':20} {'shape':24} {'type':8} {'least':>12} {'mean':>12} {'greatest':>12}", *lines])


def record(**stages):
    """Called by the stages with what they computed (Tensors, or arrays); copied if a Trace is open, else ignored."""
    trace = _current.get()
    if trace is not None:
        for name, value in stages.items():
            trace[name] = np.array(to_cpu(value.data if isinstance(value, Tensor) else value))
