"""The losses, each with its normalizer spelled out. L = L_cls + L_reg + L_mask (slide L26), plus the RPN's two.

Every loss takes `weights`: 0 leaves a place out (padding, or not sampled), 1 counts it. The sum is divided by
`count`, which comes from the arrays too, so that nothing here has a size that depends on values. Where several workers
share a batch, the count is that of all of them, so that their losses add up to the whole batch's.
The mask loss stands in mask_head.py.
"""


from minimask.device import array_module, fits_gpu_kernel, kernels
from minimask.functional import sigmoid_array
from minimask.machine import distributed
from minimask.tensor import Function, Tensor


class Loss(Function):
    """A loss in array code. On a GPU a kernel takes its place, which finds the gradient on the way."""

    kernel = None  # its name in kernels/losses_cuda.py

    def __call__(self, z, *others):
        z = z if isinstance(z, Tensor) else Tensor(z)
        if has_kernel(z.data):
            return KernelLoss(self.kernel, vars(self))(z, *others)
        return super().__call__(z, *others)


class KernelLoss(Function):
    """y, gz = kernel(z, *others, **settings) for a gradient of 1; backward multiplies gz by gy."""

    def __init__(self, name, settings):
        self.name, self.settings = name, settings

    def forward(self, z, *others):
        y, self.gz = getattr(kernels("losses", z), self.name)(z, *others, **self.settings)
        return y

    def backward(self, gy):
        return self.gz * gy, *[None] * (len(self.inputs) - 1)


def has_kernel(z):
    """Whether a kernel can take these logits: a float32 array on a GPU, not empty."""
    return fits_gpu_kernel(z) and z.size > 0


class BinaryCrossEntropy(Loss):
    """y = sum w (max(z, 0) - z t + ln(1 + e^-|z|));  gz = w (sigmoid(z) - t)."""

    kernel = "binary_cross_entropy"

    def forward(self, z, t, w):
        xp = array_module(z)
        self.w, self.t, self.z = w, t, z
        loss = xp.maximum(z, 0) - z * t + xp.log1p(xp.exp(-abs(z)))
        return xp.asarray((loss * w).sum())

    def backward(self, gy):
        return gy * self.w * (sigmoid_array(self.z) - self.t), None, None


class SmoothL1(Loss):
    """y = sum w (d^2 / 2b where |d| < b, else |d| - b/2), d = x - t;  gx = w clip(d / b, -1, 1)."""

    kernel = "smooth_l1"

    def __init__(self, beta):
        self.beta = beta

    def forward(self, x, t, w):
        xp = array_module(x)
        self.d, self.w = x - t, w
        size = abs(self.d)
        loss = xp.where(size < self.beta, self.d * self.d * (0.5 / self.beta), size - 0.5 * self.beta)
        return xp.asarray((loss * w).sum())

    def backward(self, gy):
        return gy * self.w * array_module(self.d).clip(self.d / self.beta, -1, 1), None, None


class CrossEntropy(Loss):
    """y = sum_i w_i (ln sum_j e^z_ij - z_i,label);  gz = w (softmax(z) - onehot(label))."""

    kernel = "cross_entropy"

    def __init__(self, labels):
        self.labels = labels

    def forward(self, z, w):
        xp = array_module(z)
        shifted = z - z.max(axis=1, keepdims=True)
        e = xp.exp(shifted)
        total = e.sum(axis=1, keepdims=True)
        self.p, self.w = e / total, w
        chosen = xp.take_along_axis(shifted, self.labels[:, None], axis=1)
        return xp.asarray(((xp.log(total) - chosen)[:, 0] * w).sum())

    def backward(self, gy):
        gz = self.p.copy()
        gz[array_module(gz).arange(len(gz)), self.labels] -= 1
        return gz * (gy * self.w)[:, None], None


def _weights(weights, count, dtype):
    """weights / max(count, 1) in the dtype of the logits: nothing to count gives a loss of 0, not NaN."""
    xp = array_module(weights)
    return xp.divide(weights, xp.maximum(distributed.total(count), 1), dtype=dtype)


def _same_shape(name, x, **arrays):
    for argument, array in arrays.items():
        if array.shape != x.shape:
            raise ValueError(f"{name}: {argument} must have the shape {x.shape} of the predictions, got {array.shape}")


def objectness_loss(logits, targets, weights):
    """RPN: binary cross-entropy, the mean over the sampled anchors of all images (weights.sum()).

    logits: Tensor (N, S); targets, weights: arrays (N, S) of 0 and 1. Ren et al. 2017, equation 1 (there N_cls).
    """
    _same_shape("objectness_loss", logits, targets=targets, weights=weights)
    dtype = logits.dtype
    return BinaryCrossEntropy()(logits, targets.astype(dtype), _weights(weights, weights.sum(), dtype))


def rpn_box_loss(deltas, targets, positive, sampled, beta=1 / 9):
    """RPN: smooth L1 over the positive anchors, summed over 4 deltas, divided by the number of SAMPLED anchors.

    deltas: Tensor (N, S, 4); targets (N, S, 4); positive, sampled: (N, S) of 0 and 1 (torchvision's normalizer).
    """
    _same_shape("rpn_box_loss", deltas, targets=targets)
    weights = array_module(targets).broadcast_to(positive[..., None], targets.shape)
    return SmoothL1(beta)(deltas, targets, _weights(weights, sampled.sum(), deltas.dtype))


def class_loss(logits, labels, weights):
    """Box head: cross-entropy, the mean over the sampled RoIs. logits: Tensor (R, C); labels (R,) ints; weights
    (R,).
    """
    if labels.shape != logits.shape[:1] or weights.shape != labels.shape:
        raise ValueError(
            f"class_loss: labels and weights must be ({logits.shape[0]},), got {labels.shape} and {weights.shape}"
        )
    return CrossEntropy(labels)(logits, _weights(weights, weights.sum(), logits.dtype))


def box_loss(deltas, labels, targets, positive, sampled, beta=1 / 9):
    """Box head: smooth L1 of the label's own four deltas over the positive RoIs, divided by the number of sampled RoIs.

    deltas: Tensor (R, 4 C), or (R, 4) when boxes are class-agnostic; labels (R,);
    targets (R, 4); positive, sampled (R,).
    """
    xp = array_module(targets)
    if deltas.shape[1] > 4:
        columns = labels[:, None] * 4 + xp.arange(4)
        deltas = deltas[xp.arange(len(labels))[:, None], columns]  # (R, 4)
    _same_shape("box_loss", deltas, targets=targets)
    weights = xp.broadcast_to(positive[:, None], targets.shape)
    return SmoothL1(beta)(deltas, targets, _weights(weights, sampled.sum(), deltas.dtype))
