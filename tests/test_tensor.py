"""Backpropagation: order, adding up gradients, freeing memory, messages."""

import gc
import weakref

import numpy as np
import pytest

from minimask.convolution import conv2d
from minimask.normalization import batch_norm
from minimask.tensor import Function, Parameter, Tensor, no_grad, unbroadcast


class Square(Function):
    def forward(self, x):
        self.x = x
        return x * x

    def backward(self, gy):
        return (2 * self.x * gy,)


def leaf(*numbers):
    return Tensor(np.array(numbers), requires_grad=True)


def test_chain():
    x = leaf(1.0, 2.0, 3.0)
    Square()(Square()(x)).backward(np.array([1.0, 1.0, 2.0]))
    np.testing.assert_array_equal(x.grad, [4, 32, 216])


def test_a_tensor_used_twice_gets_the_sum():
    x = leaf(3.0)
    y = x * x + x * 2.0 + x
    y.backward()
    assert x.grad[0] == 2 * 3 + 2 + 1


def test_diamond_visits_each_function_once():
    calls = []

    class Counted(Square):
        def backward(self, gy):
            calls.append(1)
            return super().backward(gy)

    x = leaf(2.0)
    middle = Counted()(x)
    (middle * middle + middle).backward()
    assert len(calls) == 1 and x.grad[0] == (2 * 4 + 1) * 2 * 2


def test_a_chain_of_ten_thousand_needs_no_recursion():
    x = leaf(1.0)
    y = x
    for _ in range(10_000):
        y = y + 1.0
    y.backward()
    assert x.grad[0] == 1 and y.item() == 10_001


def test_gradients_add_over_backward_calls_and_only_leaves_keep_them():
    x = leaf(3.0)
    for _ in range(2):
        y = Square()(x)
        y.backward()
    assert x.grad[0] == 12 and y.grad is None


def test_a_second_backward_through_the_same_history_is_refused():
    x = leaf(3.0)
    y = Square()(x)
    y.backward()
    with pytest.raises(RuntimeError, match="history of Square was freed"):
        y.backward()
    assert x.grad[0] == 6


def test_backward_frees_what_operations_kept():
    x = leaf(3.0)
    hidden = Square()(x)
    y = Square()(hidden)
    watched = weakref.ref(hidden)
    del hidden
    assert watched() is not None
    y.backward()
    gc.collect()
    assert watched() is None


def test_gradients_are_not_shared_between_leaves():
    a, b = leaf(1.0), leaf(1.0)
    (a + b).backward()
    a.grad += 10
    assert b.grad[0] == 1


class Told(Function):
    """y = x + 1; records whether gy may be overwritten."""

    def __init__(self, notes, fresh):
        self.notes, self.fresh = notes, fresh

    def forward(self, x):
        return x + 1

    def backward(self, gy):
        self.notes.append(self.overwrite)
        return (gy.copy() if self.fresh else gy,)


def test_only_gradients_that_nobody_else_holds_may_be_overwritten():
    for fresh in (False, True):
        notes, x = [], leaf(1.0)
        Told(notes, fresh)(Told(notes, True)(x)).backward()
        assert notes == [False, fresh]  # the first gets the caller's gradient, the second the same or a new one
    for fresh in ((True, True), (True, False), (False, True), (False, False)):
        notes, x = [], leaf(1.0)
        shared = Told(notes, True)(x)
        (Told(notes, fresh[0])(shared) + Told(notes, fresh[1])(shared)).backward()
        assert notes == [False, False, True]  # Add passes the same array to both; their sum is new


@pytest.mark.parametrize("first_fresh", [False, True])
@pytest.mark.parametrize("second_fresh", [False, True])
def test_sums_overwrite_only_what_nobody_holds(first_fresh, second_fresh):
    """Gradients of x, large enough for the kernel, are added without changing the caller's own gradient."""
    x = Tensor(np.zeros((300, 300), np.float32), requires_grad=True)
    gy = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    before, y = gy.copy(), Told([], True)(x)
    (Told([], first_fresh)(y) + Told([], second_fresh)(y)).backward(gy)
    np.testing.assert_array_equal(gy, before)
    np.testing.assert_array_equal(x.grad, 2 * before)


def test_fused_operations_do_not_overwrite_what_others_hold():
    """Two branches get the same gradient from Add, and each has its own ReLU. float64 takes different paths."""

    def gradients(dtype):
        rng = np.random.default_rng(0)
        x, w, gy = (rng.standard_normal(s).astype(dtype) for s in ((2, 5, 6, 4), (3, 3, 4, 4), (2, 5, 6, 4)))
        x, w = Tensor(x, requires_grad=True), Tensor(w, requires_grad=True)
        ones = np.ones(4, dtype)
        given, shared = gy.copy(), conv2d(x, w, padding=1)
        for _ in range(2):  # the second time, each branch gets a new gradient
            one = conv2d(shared, w, padding=1, relu=True)
            other = batch_norm(shared, ones, 0 * ones, 0 * ones, ones, True, residual=x, relu=True)
            last = batch_norm(one, ones, 0 * ones, 0 * ones, ones, True, relu=True)
            frozen = batch_norm(shared, 2 * ones, ones, 0 * ones, ones, False, relu=True)
            both = batch_norm(one, 2 * ones, ones, 0 * ones, ones, False, residual=shared, relu=True)
            shared = one + other + last + frozen + both
        shared.backward(gy)
        np.testing.assert_array_equal(gy, given)
        return x.grad, w.grad

    for found, expected in zip(gradients(np.float32), gradients(np.float64)):
        assert abs(found - expected).max() < 1e-4 * abs(expected).max()


def test_no_grad_keeps_no_history():
    x = leaf(3.0)
    with no_grad():
        y = Square()(x)
    assert not y.requires_grad and y.maker is None
    with pytest.raises(RuntimeError, match="without a history"):
        y.backward()


def test_needs_tells_which_inputs_want_a_gradient():
    seen = {}

    class Look(Function):
        def forward(self, a, b):
            seen["needs"] = self.needs
            return a + b

        def backward(self, gy):
            return gy, None

    Look()(leaf(1.0), Tensor(np.array([2.0]))).backward()
    assert seen["needs"] == (True, False)


@pytest.mark.parametrize(
    "shape, expected",
    [((3,), [8, 8, 8]), ((1,), [24]), ((), 24), ((4, 1), [[6]] * 4), ((1, 3), [[8, 8, 8]])],
)
def test_unbroadcast(shape, expected):
    np.testing.assert_array_equal(unbroadcast(np.full((2, 4, 3), 1.0), shape), expected)


def test_messages():
    with pytest.raises(ValueError, match=r"shape \(2,\) needs a gradient"):
        leaf(1.0, 2.0).backward()
    with pytest.raises(ValueError, match=r"must have shape \(2,\), got \(3,\)"):
        leaf(1.0, 2.0).backward(np.ones(3))
    with pytest.raises(TypeError, match="only float arrays"):
        Tensor(np.array([1, 2]), requires_grad=True)
    with pytest.raises(TypeError, match="got a Tensor"):
        Tensor(leaf(1.0))
    with pytest.raises(TypeError, match="got str"):
        Tensor("1")

    class Wrong(Square):
        def backward(self, gy):
            return (np.ones(5),)

    with pytest.raises(ValueError, match=r"Wrong.backward: .*\(2,\) must have that shape, got \(5,\)"):
        Wrong()(leaf(1.0, 2.0)).backward(np.ones(2))


def test_parameter_requires_a_gradient():
    assert Parameter(np.zeros(2)).requires_grad


def test_large_gradients_are_added_by_the_kernel():
    """The same bits as in NumPy, for a tensor that is used three times, once through a view."""
    x = Tensor(np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32), requires_grad=True)
    gy = np.random.default_rng(1).standard_normal((300, 300)).astype(np.float32)
    y = x * 2 + x * 3 + x
    y.backward(gy)
    np.testing.assert_array_equal(x.grad, (gy + gy * np.float32(3)) + gy * np.float32(2))


def test_the_sum_of_numbers_keeps_their_precision():
    a, b = (Tensor(np.asarray(x), requires_grad=True) for x in (1.0, 1e-12))
    total = a + b
    assert total.dtype == np.float64 and total.item() == 1.0 + 1e-12
    assert Tensor(np.float64(1) / 3).item() == 1 / 3


def test_repr_says_shape_dtype_numbers_and_maker():
    x = leaf(*range(10), 0.5)
    assert repr(x) == "Tensor([0, 1, 2, 3, 4, 5, ...], shape (11,), float64)"
    assert repr(Square()(x[-2:])) == "Tensor([81, 0.25], shape (2,), float64, made by Square)"
    assert repr(Parameter(np.zeros((0, 3), np.float32))) == "Parameter([], shape (0, 3), float32)"
    assert repr(Tensor(np.array(True))) == "Tensor([1], shape (), bool)"


def test_numbers_without_the_history():
    x = leaf(1.5, -2.0)
    assert np.asarray(x) is x.data and x.numpy() is x.data
    assert np.asarray(x * x).tolist() == [2.25, 4.0]
    assert np.array(x, np.float32).dtype == np.float32 and np.array(x) is not x.data
    assert float(leaf(2.5)) == 2.5 and int(leaf(2.5)) == 2
    np.testing.assert_allclose(x, [1.5, -2.0])


def test_numpy_functions_refuse_a_tensor_and_operators_keep_the_gradient():
    x = leaf(1.0, 2.0)
    with pytest.raises(TypeError):
        np.exp(x)
    for y in (np.array([3.0, 4.0]) * x, np.float64(3) * x, 3 * x):
        assert isinstance(y, Tensor)
        y.backward(np.ones(2))
    assert x.grad.tolist() == [9, 10]
