"""Workers on GPUs: sums over NCCL are on the stream that computes, and nothing waits.

There is at most one GPU here, so the second worker is a mirror image that always holds the same numbers as this one.
Every sum is then twice as large, including the counts in the losses, and a step must give the same results as for this
worker alone.
"""

import ctypes
import sys
import types

import numpy as np
import pytest

from minimask.errors import InputError
from minimask.machine import distributed
from minimask.machine.gpu_steps import StepsOnGpu
from minimask.train import make_optimizer
from tests.cuda_on_cpu.small_model import RATE, no_sync, one_schedule, scenes, settings, small_model

pytestmark = one_schedule
TYPES = {"NCCL_INT32": np.int32, "NCCL_INT64": np.int64, "NCCL_FLOAT32": np.float32, "NCCL_FLOAT64": np.float64}


class MirroredMPI:
    """A fake mpi4py communicator of two workers that hold the same values."""

    def Get_size(self):
        return 2

    def Get_rank(self):
        return 0

    def bcast(self, value):
        return value

    def Split_type(self, kind):
        return self

    def allgather(self, value):
        return [value, value]

    def Allgather(self, value, result):
        result[:] = value


def mirrored_nccl(gpu, calls):
    """A fake cupy.cuda.nccl for arrays of the stand-in, whose addresses are addresses of the host."""

    def at(address, count, kind):
        size = count * np.dtype(TYPES[kind]).itemsize
        return np.frombuffer((ctypes.c_char * size).from_address(address), TYPES[kind])

    class Communicator:
        def __init__(self, size, first_id, rank):
            assert (size, first_id, rank) == (2, "an id", 0)

        def allReduce(self, source, target, count, kind, operation, stream):
            calls.append(kind)
            assert operation == "sum" and stream == gpu.cuda.get_current_stream().ptr
            given, result = at(source, count, kind), at(target, count, kind)
            gpu.cuda.change(lambda: np.multiply(given, 2, out=result), [result])

        def allGather(self, source, target, count, kind, stream):
            calls.append(kind)
            assert stream == gpu.cuda.get_current_stream().ptr
            given, result = at(source, count, kind), at(target, 2 * count, kind).reshape(2, count)
            gpu.cuda.change(lambda: np.copyto(result, given), [result])

    names = {name: name for name in TYPES}
    return types.SimpleNamespace(
        NCCL_SUM="sum", get_unique_id=lambda: "an id", NcclCommunicator=Communicator, available=True, **names
    )


@pytest.fixture
def mirror(gpu, monkeypatch):
    """Makes this process one of two workers. Returns the list of the types that NCCL was asked to send."""
    if not hasattr(gpu, "no_sync"):
        pytest.skip("with a GPU, the real NCCL would be called, which needs two of them")
    calls = []
    monkeypatch.setattr(gpu.cuda, "nccl", mirrored_nccl(gpu, calls), raising=False)
    monkeypatch.setattr(distributed, "_group", distributed.Group(MirroredMPI()))
    return calls


def test_sums_and_collections(gpu, mirror):
    for dtype in TYPES.values():
        x = gpu.asarray(np.arange(6, dtype=dtype).reshape(2, 3))
        twice = distributed.total(x)
        assert twice.dtype == dtype and (twice.get() == 2 * x.get()).all() and (x.get().ravel() == range(6)).all()
        both = distributed._group.gather(x).get()
        assert both.shape == (2, 2, 3) and (both == x.get()).all()
    assert mirror == [name for name in TYPES for _ in range(2)]
    assert int(distributed.total((gpu.ones(5) > 0).sum()).get()) == 10


def test_moments_of_all(gpu, mirror):
    mean, var = np.float32([[1, 2]]), np.float32([[3, 4]])
    with no_sync(gpu):
        pixels, *moments = distributed.moments_of_all(7, gpu.asarray(mean), gpu.asarray(var))
    assert pixels == 14 and [m.get().tolist() for m in moments] == [[[1, 2]], [[3, 4]]]


@pytest.mark.parametrize("graph", [False, True])
def test_a_step_of_two_equal_workers_is_that_of_one(gpu, mirror, graph):
    def steps():
        model = small_model().to("cuda")
        chosen = settings()
        optimizer = make_optimizer(model, chosen)
        optimizer.lr = RATE
        finished = []
        with StepsOnGpu(model, optimizer, chosen, graph=graph) as steps:
            batches = steps.batches(scenes(model).iterate(0))
            for step in range(3):
                batch = next(batches)
                with no_sync(gpu, events=True):
                    finished += steps.run(batch, step)
            finished += steps.rest()
            batches.close()
        return finished, model.state_dict()

    class FirstRows:
        """Draws the numbers that worker 0 of two workers would draw."""

        def __init__(self, rng):
            self.rng = rng

        def random(self, shape, dtype):
            return self.rng.random((2 * shape[0], *shape[1:]), dtype=dtype)[: shape[0]]

    together, weights = steps()
    assert {"NCCL_FLOAT32", "NCCL_FLOAT64", "NCCL_INT64"} <= set(mirror)
    with distributed.alone(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "own_rows", FirstRows)
        single, expected = steps()
    assert len(together) == len(single) == 3
    for a, b in zip(together, single):
        assert a.losses == pytest.approx(b.losses, rel=1e-5)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-4)
    for name, array in weights.items():
        if not name.endswith("running_var"):  # divided by pixels - 1, and two workers have twice the pixels
            wanted = expected[name].get()
            assert abs(array.get() - wanted).max() <= 1e-4 * max(1e-3, abs(wanted).max()), name


def test_each_worker_takes_its_own_gpu(gpu, mirror, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", types.SimpleNamespace(MPI=types.SimpleNamespace(COMM_TYPE_SHARED=1)))
    monkeypatch.setattr(gpu.cuda.runtime, "getDeviceCount", lambda: 2)
    assert distributed.own_device("cuda") == "cuda:0"
    monkeypatch.setattr(MirroredMPI, "Get_rank", lambda self: 1)
    assert distributed.own_device("cuda") == "cuda:1"
    with pytest.raises(InputError, match="each worker chooses its card by itself: give --device cuda, not cuda:1"):
        distributed.own_device("cuda:1")
    monkeypatch.setattr(gpu.cuda.runtime, "getDeviceCount", lambda: 1)
    with pytest.raises(InputError, match="2 workers on this machine, but it has 1 card; .* mpiexec -n 1"):
        distributed.own_device("cuda")
    monkeypatch.setattr(gpu.cuda.nccl, "available", False)
    with pytest.raises(InputError, match="needs NCCL.*: pip install nvidia-nccl-cu12"):
        distributed.own_device("cuda")
