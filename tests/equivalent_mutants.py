"""Mutants that no test can kill, because the program does the same with them: see mutate.py.

Per module a list of (the line as it is, the line as it is changed, why it makes no difference). Of a statement that
takes several lines, its first.
"""

EQUIVALENT = {
    "losses": [
        (
            "loss = xp.where(size < beta, d * d * (0.5 / beta), size - 0.5 * beta)",
            "loss = xp.where(size <= beta, d * d * (0.5 / beta), size - 0.5 * beta)",
            "both parts are beta / 2 where they meet",
        ),
    ],
    "mask_head": [
        (
            "def _check_paste(masks, boxes, height, width, threshold=0.5, whole_pixels=True):",
            "def _check_paste(masks, boxes, height, width, threshold=1.0, whole_pixels=True):",
            "the check does not look at the threshold",
        ),
        (
            "rows, down = stretch(mask.shape[0], y1, y2, height, xp)",
            "rows, down = stretch(mask.shape[1], y1, y2, height, xp)",
            "masks are square",
        ),
        (
            "boxes = xp.nan_to_num(boxes).clip(-(2**29), 2**29)",
            "boxes = xp.nan_to_num(boxes).clip(-(2**29), 2**30)",
            "both are far outside of any image, and sums of two stay exact in float64",
        ),
    ],
    "targets": [
        (
            "area = xp.maximum(box_ops.area(anchors), 1e-12)[:, :, None]",
            "area = xp.maximum(box_ops.area(anchors), 2e-12)[:, :, None]",
            "it keeps the area of empty anchors above 0, and these cover nothing",
        ),
        (
            "positives, is_positive = smallest(xp.where(labels == 1, priority, 2), max_positives)  # (N, P)",
            "positives, is_positive = smallest(xp.where(labels == 1, priority, 3), max_positives)  # (N, P)",
            "priorities are below 1, so that any number from 2 on means never",
        ),
        (
            "background, is_background = smallest(xp.where(labels == 0, priority, 2), count)  # (N, S)",
            "background, is_background = smallest(xp.where(labels == 0, priority, 3), count)  # (N, S)",
            "priorities are below 1, so that any number from 2 on means never",
        ),
        (
            "is_background &= xp.arange(count) < count - found  # they take the places that are left",
            "pass  # they take the places that are left",
            "positives come first in the stable order, which is then cut to the count",
        ),
    ],
}
