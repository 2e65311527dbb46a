"""Data-parallel training: K workers share every batch and take the steps that one worker with all of it would take.

    mpiexec -n K python -m minimask train --distributed

Each worker is a process with a copy of the model. These make K of them equal to one, up to rounding:

    batch            each makes its own rows; all pad them to the same size                 Loader, `same_size`
    random numbers   each draws those of the whole batch and takes its own rows             `own_rows`
    batch norm       mean and variance are those of the whole batch                         `moments_of_all`
    losses           each sums over its rows and divides by the count over ALL workers      `total`
    gradient         the sum over all workers, as one long array                            `sum_gradients`
    update           each computes it by itself, from the same numbers

(A common shortcut divides each worker's loss by its own count and averages the results. That is a different loss: a
worker with few objects then weighs as much as one with many.)

NumPy arrays travel by MPI (mpi4py). CuPy arrays travel from card to card by NCCL, on the stream that computes, so the
host does not wait for the card. A process that works alone calls the same functions, which then return what they were
given.
"""

import contextlib
import dataclasses
import os
import sys
import time
import traceback

import numpy as np

from minimask import device
from minimask.device import array_module, on_cpu
from minimask.errors import InputError
from minimask.machine.threads import set_threads, threads

INSTALL = "pip install mpi4py mpich"
LEAD = 3  # seconds by which the first worker is ahead when several report an error
PASS_ON = 1  # seconds that mpiexec gets to pass on what was printed
_group = None  # the workers that this process belongs to; None: it works alone


# --------------------------------------------------------------------------------------------- who works here


class Group:
    """The workers of an mpi4py communicator; sums and gathers arrays on the CPU or on cards."""

    def __init__(self, comm):
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()
        self.cards = None  # NCCL's communicator, made for the first array on a card

    def sum_in_place(self, array):
        """Replace `array` (contiguous) by its sum over all workers, with the same bits on each of them."""
        if on_cpu(array):
            from mpi4py import MPI

            self.comm.Allreduce(MPI.IN_PLACE, array)
        else:
            nccl, stream = self._nccl()
            address = array.data.ptr
            self.cards.allReduce(address, address, array.size, _nccl_type(nccl, array), nccl.NCCL_SUM, stream)

    def gather(self, array):
        """The arrays of all workers, which have the same shape and are contiguous, as one: (K, *shape)."""
        result = array_module(array).empty((self.size, *array.shape), array.dtype)
        if on_cpu(array):
            self.comm.Allgather(array, result)
        else:
            nccl, stream = self._nccl()
            self.cards.allGather(array.data.ptr, result.data.ptr, array.size, _nccl_type(nccl, array), stream)
        return result

    def _nccl(self):
        """CuPy's nccl module, and the address of the stream that computes."""
        import cupy
        from cupy.cuda import nccl

        if self.cards is None:
            first_id = nccl.get_unique_id() if self.rank == 0 else None
            self.cards = nccl.NcclCommunicator(self.size, self.comm.bcast(first_id), self.rank)
        return nccl, cupy.cuda.get_current_stream().ptr


def _nccl_type(nccl, array):
    names = {"float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64", "int32": "NCCL_INT32", "int64": "NCCL_INT64"}
    return getattr(nccl, names[array.dtype.name])


def rank():
    """The number of this worker, from 0."""
    return 0 if _group is None else _group.rank


def size():
    """The number of workers."""
    return 1 if _group is None else _group.size


def is_first():
    """Whether this is the worker that writes the log and the checkpoints, validates and prints."""
    return rank() == 0


@contextlib.contextmanager
def alone():
    """Inside, this worker computes by itself, without the sums over all workers: for validation."""
    global _group
    before, _group = _group, None
    try:
        yield
    finally:
        _group = before


@contextlib.contextmanager
def first_alone():
    """The first worker runs the block before the others do: it compiles kernels, which the others then find."""
    if not is_first():
        _group.comm.barrier()
    yield
    if _group is not None and is_first():
        _group.comm.barrier()


@contextlib.contextmanager
def session(tell):
    """Inside, this process is one of the workers that mpiexec started. If one of them fails, all of them end.

    tell: function that prints the message of an error and returns the exit status.

    Raises InputError if mpi4py or an MPI library is missing.
    """
    global _group
    _group = Group(_world())
    try:
        yield
    except BaseException as error:
        if size() > 1 and not isinstance(error, Stopped):
            _end_all(error, tell)
        raise
    finally:
        _group = None


class Stopped(KeyboardInterrupt):
    """Raised after Ctrl-C once all workers know of it; each then ends on its own."""


class OtherFailed(Exception):
    """Another worker could not go on, and all know of it; that one will say why and end all."""


def _end_all(error, tell):
    """Say what went wrong here and end all workers, because the others would wait for this one forever.

    The first worker is ahead, so that a mistake that stops all of them (a wrong option) is reported once.
    """
    if isinstance(error, OtherFailed):
        _group.comm.barrier()  # which the worker that failed never reaches
    time.sleep(0 if is_first() else LEAD)
    status = 1
    try:
        status = tell(error)
    except BaseException:  # a bug, not a user's mistake
        traceback.print_exc()
    print(f"minimask: worker {rank()} of {size()} failed; all workers are stopped", file=sys.stderr, flush=True)
    sys.stdout.flush()
    time.sleep(PASS_ON)
    _group.comm.Abort(status)
    os._exit(status)  # some MPIs return from Abort


# The environment variable in which each kind of mpiexec tells its processes how many of them there are.
_COUNTS = {"MPICH": "PMI_SIZE", "Open MPI": "OMPI_COMM_WORLD_SIZE"}


def _world():
    """The communicator of all workers that mpiexec started. Raises InputError if mpi4py or an MPI is missing."""
    try:
        import mpi4py

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True  # initialize after the check below; finalize at exit
        from mpi4py import MPI
    except ImportError as error:
        raise InputError(f"--distributed needs mpi4py and an MPI ({error}): {INSTALL}") from None
    except RuntimeError as error:  # mpi4py is installed, but no MPI library
        raise InputError(f"--distributed: mpi4py finds no MPI ({str(error).splitlines()[0]}): {INSTALL}") from None
    library = MPI.Get_library_version()
    ours = "Open MPI" if "Open MPI" in library else "MPICH"
    (other,) = _COUNTS.keys() - {ours}
    if _COUNTS[other] in os.environ and _COUNTS[ours] not in os.environ:
        raise InputError(
            f"--distributed: this mpiexec belongs to {other}, but mpi4py uses {ours}; use the mpiexec of {ours}"
        )
    if not MPI.Is_initialized():
        MPI.Init_thread()
    return MPI.COMM_WORLD


def started_by_mpiexec():
    """How many processes mpiexec started, including this one; 1 without mpiexec."""
    return max(int(os.environ.get(name) or 1) for name in _COUNTS.values())


def own_device(name):
    """The device where this worker computes.

    name: the device that the user gave to all workers: "cpu", None or "cuda".

    On the CPU, the worker sets its Numba threads to its share of the machine's cores. With "cuda", the i-th worker of a
    machine takes card i. Raises InputError if NCCL is missing or if a machine has more workers than cards.
    """
    if _group is None:
        return name
    from mpi4py import MPI

    near = _group.comm.Split_type(MPI.COMM_TYPE_SHARED)  # the workers on this machine
    if name in (None, "cpu"):
        mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
        cores = set().union(*near.allgather(mine))  # mpiexec may have bound each worker to some of the cores
        set_threads(min(threads(), max(1, len(cores) // near.Get_size())))
        return name
    if name != "cuda":
        raise InputError(f"--distributed: each worker chooses its card by itself: give --device cuda, not {name}")
    try:
        import cupy
    except ImportError:
        return name  # device.resolve will say what is missing
    try:
        from cupy.cuda import nccl
    except ImportError:
        nccl = None
    if not getattr(nccl, "available", False):
        raise InputError("--distributed --device cuda needs NCCL, which links cards: pip install nvidia-nccl-cu12")
    cards = cupy.cuda.runtime.getDeviceCount()
    if near.Get_size() > cards:
        raise InputError(
            f"--distributed: {near.Get_size()} workers on this machine, but it has {cards} "
            f"card{'s' * (cards != 1)}; each worker needs its own: mpiexec -n {cards}"
        )
    return f"cuda:{near.Get_rank()}"


# --------------------------------------------------------------------------------------------- arrays of all workers


def total(array):
    """The sum of `array` (or of a number) over all workers, in its own dtype."""
    if _group is None:
        return array
    result = array_module(array).array(array, order="C")  # a copy, because the worker's own array must not change
    _group.sum_in_place(result)
    return result


def loss_values(losses):
    """The parts of the loss over all workers: dict of scalar Tensors -> dict of floats."""
    values = total(np.array([loss.item() for loss in losses.values()]))
    return dict(zip(losses, values.tolist()))


def sum_in_place(array):
    """Replace `array` (contiguous) by its sum over all workers."""
    if _group is not None:
        _group.sum_in_place(array)


def totals(*arrays):
    """The `total` of each of several arrays of the same shape and dtype, sent as one message."""
    return arrays if _group is None else tuple(total(array_module(arrays[0]).stack(arrays)))


def sum_gradients(params):
    """Replace the gradient of every parameter by its sum over all workers, sent as one long array."""
    params = [p for p in params if p.grad is not None]
    if _group is None or not params:
        return
    flat = array_module(params[0].grad).concatenate([p.grad.reshape(-1) for p in params])
    _group.sum_in_place(flat)
    start = 0
    for p in params:
        p.grad = flat[start : start + p.size].reshape(p.shape)
        start += p.size


def moments_of_all(pixels, mean, var):
    """Mean and variance over the pixels of all workers, for batch norm.

    pixels: number of this worker's pixels.
    mean, var: (S, C), mean and variance over them.

    The variance of the whole is the mean of the variances plus the variance of the means:
    var = sum_k w_k (var_k + (mean_k - mean)^2), where w_k is the worker's share of the pixels.

    Returns (pixels, mean, var) over all workers.
    """
    if _group is None:
        return pixels, mean, var
    counts = _group.gather(np.array(float(pixels)))  # on the host, which knows the sizes
    parts = _group.gather(array_module(mean).stack([mean, var]).astype(np.float64))  # (K, 2, S, C)
    shares = (counts / counts.sum()).tolist()
    all_mean = sum(share * m for share, (m, _) in zip(shares, parts))
    all_var = sum(share * (v + (m - all_mean) ** 2) for share, (m, v) in zip(shares, parts))
    return int(counts.sum()), all_mean.astype(mean.dtype), all_var.astype(var.dtype)


def own_rows(rng):
    """A random generator that draws for the whole batch, as `rng` does, and returns the rows of this worker."""
    return rng if _group is None else _Rows(rng)


class _Rows:
    def __init__(self, rng):
        self.rng = rng

    def random(self, shape, dtype=np.float64):
        """Numbers of `shape` (N, ...), where N is the number of this worker's images."""
        mine = slice(rank() * shape[0], (rank() + 1) * shape[0])
        return self.rng.random((size() * shape[0], *shape[1:]), dtype=dtype)[mine]


# --------------------------------------------------------------------------------------------- agreements


def any_worker(flag):
    """Whether `flag` is true on any worker."""
    return bool(flag) if _group is None else any(_group.comm.allgather(bool(flag)))


class Together:
    """An iterator over this worker's batches. If a batch fails on any worker, it raises an error on all of them.

    Where the batch failed, that is its own error, elsewhere OtherFailed. All workers have then taken the same steps.
    """

    def __init__(self, batches):
        self.batches = batches

    def __next__(self):
        error = None
        try:
            batch = next(self.batches)
        except Exception as problem:
            error = problem
        if any_worker(error is not None):
            raise error or OtherFailed
        return batch

    def close(self):
        """Close the iterator over the batches."""
        self.batches.close()


def from_first(value):
    """The `value` of the first worker: anything that can be pickled."""
    return value if _group is None else _group.comm.bcast(value)


def same_state(model, optimizer):
    """Give every worker the weights and the optimizer state of the first."""
    if _group is not None:
        model.load_state_dict(from_first(_on_host(model.state_dict())))
        optimizer.load_state_dict(from_first(_on_host(optimizer.state_dict())))


def _on_host(state):
    return {name: device.to_cpu(array) for name, array in state.items()} if is_first() else None


def all_of(items):
    """The lists of all workers, joined."""
    return items if _group is None else [item for part in _group.comm.allgather(items) for item in part]


def same_size(batch):
    """Pad `batch` (on the CPU, with ground truth) with zeros to the largest height, width and number of objects."""
    if _group is None:
        return batch
    own = (*batch.images.shape[1:3], batch.boxes.shape[1])
    largest = np.max(_group.comm.allgather(own), axis=0)
    height, width, objects = ((0, int(more)) for more in largest - own)
    no = (0, 0)

    def grown(name, *paddings):
        array = getattr(batch, name)
        return {name: None if array is None else np.pad(array, paddings)}

    return dataclasses.replace(
        batch,
        **grown("images", no, height, width, no),
        **grown("masks", no, objects, height, width),
        **grown("boxes", no, objects, no),
        **grown("labels", no, objects),
        **grown("crowd", no, objects),
        **grown("valid", no, objects),
        **grown("keypoints", no, objects, no, no),
    )
