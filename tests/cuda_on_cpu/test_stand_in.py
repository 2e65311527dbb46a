"""The stand-in for CuPy computes what NumPy computes, and raises where a program on a GPU would wait or go wrong."""

import numpy as np
import pytest

from tests.cuda_on_cpu.conftest import stand_in_or_skip

_, cupy = stand_in_or_skip()
cuda = cupy.cuda
RAMP = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def x():
    return cupy.asarray(RAMP)


def pinned(values):
    array = cupy.cupyx.empty_pinned(values.shape, values.dtype)
    array[...] = values
    return array


def test_functions_compute_what_numpy_computes(x):
    np.testing.assert_array_equal((2 * x + x**2).get(), 2 * RAMP + RAMP**2)
    np.testing.assert_array_equal(cupy.maximum(x, 2.0).get(), np.maximum(RAMP, 2))
    np.testing.assert_array_equal(cupy.concatenate([x, x[:, ::-1]], axis=1).get(), np.hstack([RAMP, RAMP[:, ::-1]]))
    np.testing.assert_array_equal((x @ x.T).get(), RAMP @ RAMP.T)
    np.testing.assert_array_equal(x[cupy.asarray([1, 0]), 2].get(), [5, 2])
    assert [part.shape for part in cupy.split(x, 3, axis=1)] == [(2, 1)] * 3
    assert cupy.broadcast_shapes((2, 1), (3,)) == (2, 3)
    x += 1
    x[0, 1:] = 7
    cupy.add.at(x, cupy.asarray([1, 1]), 10)
    np.testing.assert_array_equal(x.get(), [[1, 7, 7], [24, 25, 26]])
    total = cupy.empty((), np.float32)
    assert cupy.sum(x, out=total) is total and float(total) == 90


def test_reductions_give_arrays_without_dimensions(x):
    for result in (x.sum(), x.max(), cupy.array_equal(x, x), cupy.mean(x)):
        assert isinstance(result, cupy.ndarray) and result.shape == ()


def test_memory_that_was_never_written_is_not_zero():
    assert np.isnan(cupy.empty(3, np.float32).get()).all()
    assert (cupy.empty_like(cupy.zeros(3, np.int32)).get() == -1).all()


def test_views_share_memory_and_others_do_not(x):
    x.reshape(6)[0] = 9
    x.astype(np.float32)[0, 1] = 9
    cupy.asarray(x)[0, 2] = 9
    np.testing.assert_array_equal(x.get(), [[9, 1, 9], [3, 4, 5]])


@pytest.mark.parametrize(
    "misuse, error",
    {
        "numpy array in a sum": (lambda x: x + RAMP, "Unsupported type"),
        "numpy array as argument": (lambda x: cupy.maximum(RAMP, x), "Unsupported type"),
        "numpy array in a list": (lambda x: cupy.concatenate([x, RAMP]), "Unsupported type"),
        "numpy array as index": (lambda x: x[np.array([0, 1])], "Unsupported type"),
        "numpy array assigned": (lambda x: x.__setitem__(0, RAMP[0]), "Unsupported type"),
        "numpy array to a kernel": (lambda x: doubling()((1,), (6,), (RAMP, np.int32(6))), "numpy.ndarray"),
        "conversion to numpy": (np.asarray, "Implicit conversion"),
        "name that CuPy lacks": (lambda x: cupy.nanargsort(x), "no attribute"),
        "keyword that CuPy lacks": (lambda x: cupy.mean(x, where=x > 0), "where"),
        "keyword that the method lacks": (lambda x: x.sum(initial=1), "initial"),
        "keyword that no ufunc has": (lambda x: cupy.add(x, x, where=x > 0), "where"),
        "index out of range": (lambda x: x[cupy.asarray([0, 2])], "out of bounds"),
        "assignment through repeated indices": (lambda x: x.__setitem__(cupy.asarray([0, 0]), x), "repeated"),
        "text": (lambda x: cupy.asarray(["a"]), "dtype"),
        "atomic sum of bools": (lambda x: cupy.add.at(x > 0, 0, True), "add.at"),
        "get into another shape": (lambda x: x.get(out=np.empty(6, np.float32)), "out is"),
        "set from another type": (lambda x: x.set(RAMP.astype(float)), "set"),
    }.items(),
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_misuse_raises(x, misuse, error):
    action, message = error
    with pytest.raises(
        (TypeError, AttributeError, IndexError, RuntimeError, ValueError, NotImplementedError), match=message
    ):
        action(x)


WAITS = {
    "get": lambda x: x.get(),
    "asnumpy": lambda x: cupy.asnumpy(x),
    "item": lambda x: x[0, 0].item(),
    "tolist": lambda x: x.tolist(),
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.sum()),
    "bool": lambda x: bool(x.any()),
    "if": lambda x: 1 if x[0, 0] > 0 else 2,
    "index": lambda x: range(10)[x.argmax()],
    "slice": lambda x: x[: x.argmax()],
    "repr": lambda x: repr(x),
    "mask": lambda x: x[x > 1],
    "mask among indices": lambda x: x[0, x[0] > 1],
    "array assigned through a mask": lambda x: x.__setitem__(x > 3, x[1, :2]),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: cupy.where(x > 1),
    "unique": lambda x: cupy.unique(x),
    "bincount": lambda x: cupy.bincount(x.astype(np.int32).ravel()),
    "repeat": lambda x: cupy.repeat(x, cupy.asarray([1, 2]), axis=0),
    "sort": lambda x: cupy.sort(x),
    "argsort": lambda x: x.argsort(),
    "stream": lambda x: cuda.Stream().synchronize(),
    "device": lambda x: cuda.Device().synchronize(),
    "runtime": lambda x: cuda.runtime.deviceSynchronize(),
    "copy into pageable memory": lambda x: x.get(out=np.empty((2, 3), np.float32), blocking=False),
    "event": lambda x: cuda.get_current_stream().record().synchronize(),
}


@pytest.mark.parametrize("wait", WAITS)
def test_waiting_is_refused_within_no_sync_and_while_capturing(x, wait):
    with cupy.no_sync(), pytest.raises(cupy.SynchronizationError, match="waits"):
        WAITS[wait](x)
    stream = cuda.Stream(non_blocking=True)
    with stream, cuda.using_allocator(cuda.MemoryPool().malloc):
        stream.begin_capture()
        with pytest.raises(RuntimeError, match="capturing"):
            WAITS[wait](x)
        stream.end_capture()
    WAITS[wait](x)  # elsewhere it is allowed


def test_what_does_not_wait_is_allowed_within_no_sync(x):
    with cupy.no_sync():
        y = cupy.where(x > 2, x, 0).sum(axis=1)
        y[y > 3] = 1.0
        doubling()((1,), (6,), (x, np.int32(6)))
        cupy.asarray(RAMP)
        cuda.get_current_stream().wait_event(cuda.get_current_stream().record())
    np.testing.assert_array_equal(y.get(), [0, 1])
    with cupy.no_sync(uploads=False), pytest.raises(cupy.SynchronizationError, match="pageable"):
        cupy.asarray(RAMP)
    with cupy.no_sync(uploads=False, events=True):
        cupy.asarray(pinned(RAMP))
        cuda.get_current_stream().record().synchronize()


def doubling():
    """A kernel that doubles `count` floats."""
    code = 'extern "C" __global__ void k(float *x, int count) { if (threadIdx.x < count) x[threadIdx.x] *= 2; }'
    return cupy.RawModule(code=code).get_function("k")


# ---------------------------------------------------------------- streams


def test_a_copy_to_pinned_memory_arrives_when_the_host_waits(x):
    host = pinned(np.zeros((2, 3), np.float32))
    x.get(out=host, blocking=False)
    event = cuda.get_current_stream().record()
    x[...] = 0  # later on the stream, so the copy has the earlier numbers
    assert np.isnan(host).all()
    event.synchronize()
    np.testing.assert_array_equal(host, RAMP)


def test_an_event_is_done_the_second_time_it_is_read(x):
    host = pinned(np.zeros((2, 3), np.float32))
    x.get(out=host, blocking=False)
    event = cuda.get_current_stream().record()
    assert not event.done and np.isnan(host).all()
    assert event.done
    np.testing.assert_array_equal(host, RAMP)


def test_a_copy_on_its_own_stream_needs_an_event(x):
    copies = cuda.Stream(non_blocking=True)
    target = cupy.zeros((2, 3), np.float32)
    with copies:
        sent = cupy.asarray(pinned(RAMP))
        scaled = sent * 2
        target.set(pinned(RAMP))
        event = copies.record()
    assert np.isnan((sent + 1).get()).all() and np.isnan((scaled + 1).get()).all()  # read too early
    np.testing.assert_array_equal(target.get(), np.zeros((2, 3)))
    cuda.get_current_stream().wait_event(event)
    np.testing.assert_array_equal((sent + scaled + target).get(), 4 * RAMP)


def test_the_copying_stream_waits_for_events_of_the_other(x):
    copies, other = cuda.Stream(non_blocking=True), cuda.Stream(non_blocking=True)
    with other:
        sent = cupy.asarray(pinned(RAMP))
        ready = other.record()
    copies.wait_event(ready)
    with copies:
        doubled = sent * 2
    copies.synchronize()
    np.testing.assert_array_equal(doubled.get(), 2 * RAMP)


@pytest.mark.parametrize("when", ["at the next copy", "when the host waits"])
def test_pinned_memory_must_not_be_overwritten_during_a_copy(when):
    host = pinned(RAMP)
    stream = cuda.Stream(non_blocking=True)
    with stream:
        cupy.asarray(host)
        host[...] = 1
        with pytest.raises(RuntimeError, match="overwritten"):
            cupy.asarray(host) if when == "at the next copy" else stream.synchronize()


def test_pinned_memory_can_be_used_again_after_waiting():
    host = pinned(RAMP)
    stream = cuda.Stream(non_blocking=True)
    with stream:
        cupy.asarray(host)
        stream.synchronize()
        host[...] = 1
        second = cupy.asarray(host)
        stream.synchronize()
    np.testing.assert_array_equal(second.get(), np.ones((2, 3)))


# ---------------------------------------------------------------- graphs


def capture(function, pool):
    stream = cuda.Stream(non_blocking=True)
    with stream, cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        result = function()
        return result, stream.end_capture()


def test_a_graph_computes_with_the_current_contents_of_its_memory(x):
    weights = cupy.ones((2, 3), np.float32)
    host = pinned(np.zeros(2, np.float32))

    def step():
        y = (x * weights).sum(axis=1)
        weights[:, 0] += 1
        doubling()((1,), (6,), (weights, np.int32(6)))
        y.get(out=host, blocking=False)
        return y

    pool = cuda.MemoryPool()
    y, graph = capture(step, pool)
    np.testing.assert_array_equal(weights.get(), np.ones((2, 3)))  # nothing was computed
    assert np.isnan(y.get()).all()
    graph.launch()
    np.testing.assert_array_equal(y.get(), [3, 12])
    np.testing.assert_array_equal(weights.get(), [[4, 2, 2], [4, 2, 2]])
    np.testing.assert_array_equal(host, [3, 12])
    x[...] = 1
    graph.launch()
    np.testing.assert_array_equal(y.get(), [8, 8])
    np.testing.assert_array_equal(weights.get(), [[10, 4, 4], [10, 4, 4]])


@pytest.mark.parametrize(
    "action, error, message",
    [
        (lambda x: x @ x.T, NotImplementedError, "cuBLAS"),
        (lambda x: cupy.asarray(RAMP), RuntimeError, "capturing"),
        (lambda x: cupy.asarray(3.0), RuntimeError, "capturing"),
        (lambda x: x.set(RAMP), RuntimeError, "capturing"),
    ],
    ids=["cuBLAS", "array from the host", "number from the host", "set"],
)
def test_what_is_refused_during_a_capture(x, action, error, message):
    with pytest.raises(error, match=message):
        capture(lambda: action(x), cuda.MemoryPool())


def test_pinned_memory_is_read_at_each_launch():
    host, pool = pinned(RAMP), cuda.MemoryPool()
    sent, graph = capture(lambda: cupy.asarray(host) * 1, pool)
    graph.launch()
    np.testing.assert_array_equal(sent.get(), RAMP)
    cuda.get_current_stream().synchronize()
    host[...] = 5
    graph.launch()
    np.testing.assert_array_equal(sent.get(), np.full((2, 3), 5))


def test_a_graph_needs_its_own_memory(x):
    with pytest.raises(RuntimeError, match="default memory pool"):
        capture(lambda: x * 2, cuda.default_pool)
    pool = cuda.MemoryPool()
    _, graph = capture(lambda: x * 2, pool)
    del pool
    with pytest.raises(RuntimeError, match="pool .* is gone"):
        graph.launch()


def test_capturing_needs_a_stream():
    with pytest.raises(RuntimeError, match="default"):
        cuda.Stream.null.begin_capture()


# ---------------------------------------------------------------- memory


def test_memory_is_counted_and_limited():
    pool = cuda.MemoryPool()
    with cuda.using_allocator(pool.malloc):
        x = cupy.zeros(1000, np.float32)
        y = x + 1
        assert pool.used_bytes() == 2 * 4096
        view = y[:10]
        del x, y
        assert pool.used_bytes() == 4096 and pool.total_bytes() == 8192 and pool.free_bytes() == 4096
        pool.set_limit(size=8192)
        with pytest.raises(
            cuda.memory.OutOfMemoryError, match=r"allocating 8,192 bytes \(allocated so far: 4,096 bytes, limit"
        ):
            cupy.zeros(2000, np.float32)
    del view
    pool.free_all_blocks()
    assert pool.used_bytes() == pool.total_bytes() == 0


# ---------------------------------------------------------------- names


def test_names_are_those_of_the_real_package():
    pytest.importorskip("cupy")
    from tests.cuda_on_cpu import cupy_names

    real = cupy_names.names()
    if real["version"] != cupy._NAMES["version"]:
        pytest.skip(f"cupy_names.json is for CuPy {cupy._NAMES['version']}, but {real['version']} is installed")
    assert real == cupy._NAMES


def test_the_stand_in_offers_nothing_that_cupy_lacks():
    for scope, names in {"cupy.ndarray": vars(cupy.ndarray), "cupyx": vars(cupy.cupyx)}.items():
        assert {name for name in names if not name.startswith("_")} <= set(cupy._NAMES[scope])
    for owner in (cuda.Stream, cuda.Event, cuda.MemoryPool, cuda.Device):
        assert owner.__name__ in cupy._NAMES["cupy.cuda"]
