"""The losses as a page of formulas. L = L_cls + L_reg + L_mask (slide L26), plus two of the RPN and one of keypoints.

The first part holds the formulas: functions of raw arrays that return a loss and its gradient. The second part holds
the losses of the stages, which say what is averaged over what.

Shapes never depend on values: instead of selecting what counts, every loss takes weights, which are 0 for what is left
out (padding, or not sampled), and divides by how many count. If several workers share a batch, that number is taken
over all of them, so that their losses add up to the loss of the whole batch. If nothing counts, a loss is 0, not NaN.
"""

from minimask.device import accelerated, array_module
from minimask.errors import check_shape
from minimask.functional import sigmoid_array
from minimask.machine import distributed
from minimask.tensor import Function

# ------------------------------------------------------------------------------------------------------------ formulas


class Loss(Function):
    """y, gz = formula(z, *constants);  backward returns gz gy."""

    def __init__(self, formula, *constants):
        self.formula, self.constants = formula, constants

    def forward(self, z):
        y, self.gz = self.formula(z, *self.constants)
        return y

    def backward(self, gy):
        self.gz *= gy  # in place, since it may be large and nobody else needs it
        return (self.gz,)


@accelerated("losses")
def binary_cross_entropy(z, t, w):
    """y = sum w (max(z, 0) - z t + ln(1 + e^-|z|));  gz = w (sigmoid(z) - t).

    Arrays of one shape: logits z, targets t from 0 to 1, weights w. With p = sigmoid(z) the loss of a place is
    -(t ln p + (1 - t) ln(1 - p)), the lecture's L28, in a form that never takes the logarithm of a rounded 0.
    """
    xp = array_module(z)
    loss = xp.maximum(z, 0) - z * t + xp.log1p(xp.exp(-abs(z)))
    return xp.asarray((loss * w).sum()), w * (sigmoid_array(z) - t)


@accelerated("losses")
def smooth_l1(x, t, w, beta):
    """y = sum w (d^2 / 2b where |d| < b, else |d| - b/2), d = x - t;  gx = w clip(d / b, -1, 1).

    Arrays of one shape: predictions x, targets t, weights w. beta (b): where the square becomes a straight line.
    """
    xp = array_module(x)
    d = x - t
    size = abs(d)
    loss = xp.where(size < beta, d * d * (0.5 / beta), size - 0.5 * beta)
    return xp.asarray((loss * w).sum()), w * xp.clip(d / beta, -1, 1)


@accelerated("losses")
def cross_entropy(z, labels, w):
    """y = sum_i w_i (ln sum_j e^z_ij - z_i,label);  gz = w (softmax(z) - onehot(label)).

    Logits z (R, C), labels (R,) int, weights w (R,). The largest of each row is subtracted first: e^z cannot overflow.
    """
    xp = array_module(z)
    z = z - z.max(axis=1, keepdims=True)
    e = xp.exp(z)
    total = e.sum(axis=1, keepdims=True)
    loss = xp.log(total) - xp.take_along_axis(z, labels[:, None], axis=1)  # (R, 1)

    gz = e / total
    gz[xp.arange(len(gz)), labels] -= 1
    return xp.asarray((loss[:, 0] * w).sum()), gz * w[:, None]


@accelerated("losses")
def sigmoid_mask_loss(logits, labels, targets, valid, n):
    """y = sum (max(z, 0) - z t + ln(1 + e^-|z|)) / n;  gz = (sigmoid(z) - t) / n;  z: logits of the box's own class.

    Binary cross-entropy of one channel of logits (R, M, M, C). The other classes do not compete: their gradient is 0.
    labels: (R,) int, targets t: (R, M, M), valid: (R,) bool, the boxes that count, n: what the sum is divided by.
    """
    xp = array_module(logits)
    own = _own_channel(labels, logits.shape[3])
    z, t, valid = logits[own], targets.astype(logits.dtype), valid[:, None, None]
    loss = xp.maximum(z, 0) - z * t + xp.log1p(xp.exp(-abs(z)))

    gz = xp.zeros_like(logits)
    gz[own] = xp.where(valid, sigmoid_array(z) - t, 0) / n
    return xp.asarray(xp.where(valid, loss, 0).sum() / n), gz


@accelerated("losses")
def softmax_mask_loss(logits, labels, targets, valid, n):
    """y = -sum (t ln p_label + (1 - t) ln p_0) / n, p = softmax(z) over the classes;  gz = (p - q) / n.

    The classes compete at each pixel, with class 0 as the background. q is the distribution that the pixel should have:
    t for the box's class, 1 - t for the background, 0 for the others. Arguments as in `sigmoid_mask_loss`.
    """
    xp = array_module(logits)
    t, valid = targets.astype(logits.dtype), valid[:, None, None, None]
    q = xp.zeros_like(logits)  # (R, M, M, C)
    q[_own_channel(labels, logits.shape[3])] = t
    q[..., 0] += 1 - t

    z = logits - logits.max(axis=3, keepdims=True)
    log_p = z - xp.log(xp.exp(z).sum(axis=3, keepdims=True))
    return xp.asarray(-xp.where(valid, q * log_p, 0).sum() / n), xp.where(valid, xp.exp(log_p) - q, 0) / n


# ------------------------------------------------------------------------------------------------- losses of the stages


def objectness_loss(logits, targets, weights):
    """RPN: binary cross-entropy, averaged over the sampled anchors of all images. Returns a Tensor ().

    logits: Tensor (N, S). targets, weights: (N, S) of 0 and 1. Ren et al. 2017, equation 1 (its N_cls).
    """
    _same_shape("objectness_loss", logits, targets=targets, weights=weights)
    weights = _divide(weights, weights.sum(), logits.dtype)
    return Loss(binary_cross_entropy, targets.astype(logits.dtype), weights)(logits)


def rpn_box_loss(deltas, targets, positive, sampled, beta=1 / 9):
    """RPN: smooth L1 over the positive anchors, summed over the 4 deltas, divided by the number of SAMPLED anchors.

    deltas: Tensor (N, S, 4). targets: (N, S, 4). positive, sampled: (N, S) of 0 and 1. The normalizer is torchvision's.
    Returns a Tensor ().
    """
    _same_shape("rpn_box_loss", deltas, targets=targets)
    weights = array_module(targets).broadcast_to(positive[..., None], targets.shape)
    return Loss(smooth_l1, targets, _divide(weights, sampled.sum(), deltas.dtype), beta)(deltas)


def class_loss(logits, labels, weights):
    """Box head: cross-entropy, averaged over the sampled RoIs. Returns a Tensor ().

    logits: Tensor (R, C). labels: (R,) int, 0 for the background. weights: (R,) of 0 and 1.
    """
    check_shape("class_loss", "labels", labels, logits.shape[:1])
    check_shape("class_loss", "weights", weights, logits.shape[:1])
    return Loss(cross_entropy, labels, _divide(weights, weights.sum(), logits.dtype))(logits)


def box_loss(deltas, labels, targets, positive, sampled, beta=1 / 9):
    """Box head: smooth L1 of the four deltas of each RoI's class, over the positive RoIs. Returns a Tensor ().

    deltas: Tensor (R, 4 C). labels: (R,) int. targets: (R, 4). positive, sampled: (R,) of 0 and 1; the sum is divided
    by the number of SAMPLED RoIs.
    """
    xp = array_module(targets)
    own = deltas[xp.arange(len(labels))[:, None], labels[:, None] * 4 + xp.arange(4)]  # (R, 4)
    _same_shape("box_loss", own, targets=targets)
    weights = xp.broadcast_to(positive[:, None], targets.shape)
    return Loss(smooth_l1, targets, _divide(weights, sampled.sum(), deltas.dtype), beta)(own)


def mask_loss(logits, labels, targets, valid, kind="sigmoid"):
    """Mask head: how far the masks are from the truth, averaged over pixels and boxes (slides L27 to L29): a Tensor ().

    logits: Tensor (R, M, M, C). labels: (R,) int, the true class of each box, whose channel is compared; with C = 1 it
    is always the only one. targets: (R, M, M) float from 0 to 1. valid: (R,) bool, the boxes that count.
    kind: "sigmoid", an independent mask per class, or "softmax", classes that compete (He et al. 2017, table 2b).
    """
    check_mask_logits("mask_loss", logits, labels, kind)
    check_shape("mask_loss", "targets", targets, logits.shape[:3])
    check_shape("mask_loss", "valid", valid, logits.shape[:1])
    pixels = distributed.total(valid.sum()) * logits.shape[1] * logits.shape[2]
    n = array_module(valid).maximum(pixels, 1).astype(logits.dtype)
    formula = sigmoid_mask_loss if kind == "sigmoid" else softmax_mask_loss
    return Loss(formula, labels, targets, valid, n)(logits)


def keypoint_loss(logits, places, visible):
    """Keypoint head: cross-entropy over all places of a map, averaged over the visible keypoints. Returns a Tensor ().

    logits: Tensor (R, H, W, K). places: (R, K) int, y * W + x of each keypoint. visible: (R, K) bool, those that count.
    """
    r, h, w, k = logits.shape
    check_shape("keypoint_loss", "places", places, (r, k))
    check_shape("keypoint_loss", "visible", visible, (r, k))
    maps = logits.transpose(0, 3, 1, 2).reshape(r * k, h * w)
    weights = _divide(visible.reshape(-1), visible.sum(), logits.dtype)
    return Loss(cross_entropy, places.reshape(-1), weights)(maps)


def own_channel(x, labels):
    """The channel of each box's label, the only one if there is only one: x (R, M, M, C), labels (R,) -> (R, M, M)."""
    return x[_own_channel(labels, x.shape[3])]


def _own_channel(labels, channels):
    """The index that `own_channel` takes."""
    xp = array_module(labels)
    return xp.arange(len(labels)), slice(None), slice(None), xp.clip(labels, 0, channels - 1).astype(xp.int64)


def check_mask_logits(caller, logits, labels, kind):
    """Raises ValueError, with `caller` in the message, if the arguments do not fit together."""
    if kind not in ("sigmoid", "softmax"):
        raise ValueError(f'{caller}: kind must be "sigmoid" or "softmax", got {kind!r}')
    check_shape(caller, "logits", logits, ("R", "M", "M", "C"))
    check_shape(caller, "labels", labels, logits.shape[:1])


def _divide(weights, count, dtype):
    """weights / max(count, 1), count taken over all workers, in the dtype of the logits."""
    xp = array_module(weights)
    return xp.divide(weights, xp.maximum(distributed.total(count), 1), dtype=dtype)


def _same_shape(name, x, **arrays):
    for argument, array in arrays.items():
        check_shape(name, argument, array, x.shape)
