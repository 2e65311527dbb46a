"""Every operation in float64: forward equals torch (1e-10), and gradients equal finite differences (1e-6)."""

import numpy as np
import pytest

from minimask import functional as F
from minimask import image
from minimask.tensor import Tensor
from tests.gradcheck import check_gradients


def smooth(*shape, seed=0):
    """Random numbers away from the kinks at 0 and +-1 of ReLU, |x| and clip."""
    x = np.random.default_rng(seed).uniform(0.05, 0.9, shape)
    return x * np.random.default_rng(seed + 1).choice([-1, 1], shape)


INDEX = np.array([0, 2, 2, 1])

# name: (our operation, torch's, input arrays)
OPERATIONS = {
    "add": (lambda a, b: a + b, lambda t, a, b: a + b, [smooth(2, 3), smooth(3)]),
    "subtract": (lambda a, b: a - b, lambda t, a, b: a - b, [smooth(2, 1), smooth(2, 3)]),
    "number minus": (lambda a: 2.5 - a, lambda t, a: 2.5 - a, [smooth(2, 3)]),
    "multiply": (lambda a, b: a * b, lambda t, a, b: a * b, [smooth(4, 1, 3), smooth(2, 1)]),
    "divide": (lambda a, b: a / b, lambda t, a, b: a / b, [smooth(2, 3), smooth(2, 1) + 2]),
    "number over": (lambda a: 3.0 / a, lambda t, a: 3.0 / a, [smooth(2, 3)]),
    "power": (lambda a: a**3, lambda t, a: a**3, [smooth(2, 3)]),
    "negate": (lambda a: -a, lambda t, a: -a, [smooth(5)]),
    "relu": (F.relu, lambda t, a: t.relu(a), [smooth(3, 5)]),
    "sigmoid": (F.sigmoid, lambda t, a: t.sigmoid(a), [smooth(3, 5) * 20]),
    "tanh": (F.tanh, lambda t, a: t.tanh(a), [smooth(3, 5)]),
    "exp": (F.exp, lambda t, a: t.exp(a), [smooth(3, 5)]),
    "log": (F.log, lambda t, a: t.log(a), [abs(smooth(3, 5))]),
    "absolute": (F.absolute, lambda t, a: t.abs(a), [smooth(3, 5)]),
    "clip": (lambda a: F.clip(a, -0.5, 0.5), lambda t, a: t.clamp(a, -0.5, 0.5), [smooth(3, 5)]),
    "softmax": (F.softmax, lambda t, a: t.softmax(a, -1), [smooth(3, 5) * 10]),
    "softmax of axis 0": (lambda a: F.softmax(a, 0), lambda t, a: t.softmax(a, 0), [smooth(3, 5)]),
    "matmul": (F.matmul, lambda t, a, b: a @ b, [smooth(3, 4), smooth(4, 2)]),
    "matmul of stacks": (F.matmul, lambda t, a, b: a @ b, [smooth(2, 1, 3, 4), smooth(5, 4, 2)]),
    "linear": (F.linear, lambda t, x, w, b: x @ w + b, [smooth(3, 4), smooth(4, 2), smooth(2)]),
    "linear relu": (
        lambda x, w, b: F.linear(x, w, b, relu=True),
        lambda t, x, w, b: t.relu(x @ w + b),
        [smooth(3, 4), smooth(4, 2), smooth(2)],
    ),
    "linear of no rows": (F.linear, lambda t, x, w, b: x @ w + b, [smooth(0, 4), smooth(4, 2), smooth(2)]),
    "sum": (lambda a: a.sum(), lambda t, a: a.sum(), [smooth(2, 3)]),
    "sum of axes": (lambda a: a.sum(axis=(0, 2)), lambda t, a: a.sum((0, 2)), [smooth(2, 3, 4)]),
    "sum keeping axes": (lambda a: a.sum(axis=1, keepdims=True), lambda t, a: a.sum(1, keepdim=True), [smooth(2, 3)]),
    "mean": (lambda a: a.mean(axis=(1, 2)), lambda t, a: a.mean((1, 2)), [smooth(2, 3, 4, 2)]),
    "max": (lambda a: a.max(axis=1), lambda t, a: a.max(1).values, [smooth(4, 5, 2)]),
    "reshape": (lambda a: a.reshape(3, -1), lambda t, a: a.reshape(3, -1), [smooth(2, 6)]),
    "transpose": (lambda a: a.transpose(2, 0, 1), lambda t, a: a.permute(2, 0, 1), [smooth(2, 3, 4)]),
    "transpose of negative axes": (lambda a: a.transpose(0, -1, 1), lambda t, a: a.permute(0, 2, 1), [smooth(2, 3, 4)]),
    "concatenate": (
        lambda a, b: F.concatenate([a, b], axis=-1),
        lambda t, a, b: t.cat([a, b], -1),
        [smooth(2, 3), smooth(2, 1)],
    ),
    "slice": (lambda a: a[:, ::2, -1], lambda t, a: a[:, ::2, -1], [smooth(2, 5, 3)]),
    "index with repeats": (lambda a: a[INDEX], lambda t, a: a[INDEX], [smooth(3, 2)]),
    "index of two axes": (
        lambda a: a[np.array([[0], [1]]), INDEX[None]],
        lambda t, a: a[np.array([[0], [1]]), INDEX[None]],
        [smooth(2, 3, 2)],
    ),
    "resize_nearest up": (
        lambda a: image.resize_nearest(a, (6, 4)),
        lambda t, a: t.nn.functional.interpolate(a.permute(0, 3, 1, 2), (6, 4)).permute(0, 2, 3, 1),
        [smooth(2, 3, 2, 2)],
    ),
    "resize_nearest odd": (
        lambda a: image.resize_nearest(a, (5, 7)),
        lambda t, a: t.nn.functional.interpolate(a.permute(0, 3, 1, 2), (5, 7)).permute(0, 2, 3, 1),
        [smooth(1, 3, 4, 2)],
    ),
    "resize_nearest down": (
        lambda a: image.resize_nearest(a, (2, 1)),
        lambda t, a: t.nn.functional.interpolate(a.permute(0, 3, 1, 2), (2, 1)).permute(0, 2, 3, 1),
        [smooth(1, 5, 4, 2)],
    ),
    "resize_bilinear": (
        lambda a: image.resize_bilinear(a, (7, 3)),
        lambda t, a: t.nn.functional.interpolate(a.permute(0, 3, 1, 2), (7, 3), mode="bilinear").permute(0, 2, 3, 1),
        [smooth(2, 3, 5, 2)],
    ),
    "resize_bilinear of one pixel": (
        lambda a: image.resize_bilinear(a, (2, 3)),
        lambda t, a: t.nn.functional.interpolate(a.permute(0, 3, 1, 2), (2, 3), mode="bilinear").permute(0, 2, 3, 1),
        [smooth(1, 1, 1, 2)],
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_forward_equals_torch(name):
    torch = pytest.importorskip("torch")
    ours, theirs, arrays = OPERATIONS[name]
    found = ours(*map(Tensor, arrays)).data
    expected = theirs(torch, *map(torch.tensor, arrays)).numpy()
    assert found.dtype == np.float64 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradient_equals_finite_differences(name):
    ours, _, arrays = OPERATIONS[name]
    check_gradients(ours, *arrays, name=name)


@pytest.mark.parametrize("name", OPERATIONS)
def test_float32_stays_float32(name):
    ours, _, arrays = OPERATIONS[name]
    tensors = [Tensor(a.astype(np.float32), requires_grad=True) for a in arrays]
    y = ours(*tensors)
    assert y.dtype == np.float32
    y.backward(np.ones(y.shape, np.float32))
    assert all(t.grad.dtype == np.float32 for t in tensors)


def test_sigmoid_and_softmax_do_not_overflow():
    with np.errstate(over="raise"):
        np.testing.assert_array_equal(F.sigmoid(Tensor(np.array([-1000.0, 0, 1000]))).data, [0, 0.5, 1])
        np.testing.assert_array_equal(F.softmax(Tensor(np.array([[1000.0, 0, 1000]]))).data, [[0.5, 0, 0.5]])


def test_bilinear_by_hand():
    # From 2 pixels to 4: the centers are -0.25 (clamped to 0), 0.25, 0.75, and 1.25 (clamped to 1).
    np.testing.assert_allclose(image.bilinear_matrix(2, 4) @ [0, 1], [0, 0.25, 0.75, 1])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: F.matmul(Tensor(np.ones((2, 3))), Tensor(np.ones((2, 3)))), r"matmul: .*\(2, 3\) and \(2, 3\)"),
        (lambda: F.linear(Tensor(np.ones((2, 3))), Tensor(np.ones((3, 4))), Tensor(np.ones(3))), r"linear: .*b \(M,\)"),
        (lambda: image.resize_nearest(Tensor(np.ones((2, 3))), (2, 2)), r"resize_nearest: x must be \(N, H, W, C\)"),
        (lambda: image.resize_nearest(Tensor(np.ones((1, 2, 2, 3))), (0, 2)), "two numbers >= 1"),
    ],
)
def test_shapes_that_do_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "size, to", [((3, 5), (6, 10)), ((3, 5), (7, 9)), ((7, 4), (3, 4)), ((1, 1), (5, 2)), ((6, 6), (2, 3))]
)
def test_the_kernel_of_resize_nearest_equals_the_array_code(size, to):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, 5)).astype(np.float32)
    gy = rng.standard_normal((2, *to, 5)).astype(np.float32)
    np.testing.assert_array_equal(image.nearest(x, to), image.nearest.plain(x, to))
    np.testing.assert_allclose(
        image.nearest_backward(gy, x.shape), image.nearest_backward.plain(gy.astype(np.float64), x.shape), atol=1e-5
    )


def test_the_kernels_of_linear_equal_the_array_code():
    rng = np.random.default_rng(0)
    x, w, b, g = (rng.standard_normal(shape) for shape in ((7, 33), (33, 20), (20,), (7, 20)))
    x32, w32, b32, g32 = (a.astype(np.float32) for a in (x, w, b, g))
    for relu in (False, True):
        np.testing.assert_allclose(
            F.linear_forward(x32, w32, b32, relu), F.linear_forward.plain(x, w, b, relu), atol=1e-5
        )
    for found, expected in zip(F.linear_backward(g32, x32, w32), F.linear_backward.plain(g, x, w)):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert F.linear_backward(g32, x32, w32, (False, True))[0] is None
    assert F.linear_backward(g32, x32, w32, (True, False))[1] is None


def test_relu_passes_no_gradient_where_it_is_0():
    x = Tensor(np.array([-2.0, 0, 3]), requires_grad=True)
    F.relu(x).backward(np.array([5.0, 6, 7]))
    np.testing.assert_array_equal(x.grad, [0, 0, 7])


def test_mean_by_hand():
    x = Tensor(np.array([[1.0, 2, 3], [5, 6, 7]]))
    assert F.mean(x).shape == () and F.mean(x).item() == 4
    np.testing.assert_array_equal(F.mean(x, axis=0).data, [3, 4, 5])
    assert F.mean(x, axis=1, keepdims=True).data.tolist() == [[2], [6]]


def test_a_linear_layer_has_no_relu_by_default():
    y = F.linear(Tensor(np.array([[1.0, 2]])), Tensor(np.array([[-1.0, 1], [-1, 1]])), Tensor(np.array([0.5, 0.5])))
    assert y.data.tolist() == [[-2.5, 3.5]]


def test_each_of_three_joined_tensors_has_its_own_gradient():
    parts = [Tensor(np.zeros((2, n)), requires_grad=True) for n in (1, 2, 3)]
    gy = np.arange(12.0).reshape(2, 6)
    F.concatenate(parts, axis=1).backward(gy)
    for part, expected in zip(parts, (gy[:, :1], gy[:, 1:3], gy[:, 3:])):
        np.testing.assert_array_equal(part.grad, expected)


def test_an_index_array_beside_a_slice_may_take_an_element_twice():
    x = Tensor(np.zeros((2, 3)), requires_grad=True)
    x[:, np.array([0, 0, 2])].backward(np.ones((2, 3)))
    np.testing.assert_array_equal(x.grad, [[2, 0, 1], [2, 0, 1]])
    assert F.takes_no_element_twice((0, slice(None), None, ...)) and not F.takes_no_element_twice((0, [1]))
