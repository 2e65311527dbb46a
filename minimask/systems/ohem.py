"""Online hard example mining (OHEM): every RoI is tried, and only those with the largest losses teach the heads.

Shrivastava et al. 2016, section 4; slide T14 (FCIS + OHEM). Most RoIs are background that the heads recognize without
trouble, and a random sample of them teaches little. Two steps of arithmetic replace the sampling: the loss of each RoI
by itself, and the `count` largest of each image. The choice has no gradient.

The paper also suppresses RoIs that overlap a harder one by more than 0.7; the proposals have been through NMS at 0.7
already, so that is left out here.
"""

from minimask import functional as F
from minimask.device import array_module
from minimask.losses import own_channel
from minimask.targets import top_k


def hardest(losses, valid, count):
    """The RoIs that learn: the `count` valid ones with the largest losses in each image.

    losses: (N, R) float, at least 0. valid: (N, R) bool.
    Returns (N, R) bool with at most `count` True per row.
    """
    xp = array_module(losses)
    order = top_k(xp.where(valid, losses, -1), min(count, losses.shape[1]))  # (N, count)
    chosen = xp.zeros(losses.shape, bool)
    chosen[xp.arange(len(losses))[:, None], order] = True
    return chosen & valid


def class_losses(logits, labels):
    """The cross-entropy of each RoI: logits (R, C), labels (R,) -> (R,), of raw arrays."""
    xp = array_module(logits)
    return -xp.log(F.softmax_array(logits)[xp.arange(len(labels)), labels] + 1e-14)


def box_losses(deltas, targets, beta=1 / 9):
    """The smooth L1 loss of each RoI, summed over its four deltas: (R, 4) each -> (R,)."""
    xp = array_module(deltas)
    size = abs(deltas - targets)
    return xp.where(size < beta, size * size * (0.5 / beta), size - 0.5 * beta).sum(axis=1)


def mask_losses(logits, labels, targets):
    """The binary cross-entropy of each RoI, averaged over its mask: logits (R, M, M, C), targets (R, M, M) -> (R,)."""
    xp = array_module(logits)
    z = own_channel(logits, labels)
    return (xp.maximum(z, 0) - z * targets + xp.log1p(xp.exp(-abs(z)))).mean(axis=(1, 2))
