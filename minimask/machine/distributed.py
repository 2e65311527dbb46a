"""Data parallel training: K workers, each with its rows of every batch, that make the steps of one with all of it.

    mpiexec -n K python -m minimask train --distributed

Each worker is a process with the whole model. What makes K of them equal to one, up to rounding:

    batch            each makes its own rows, and all pad them to one size              Loader, `same_size`
    random numbers   each draws those of the whole batch and takes its rows             `own_rows`
    batch norm       mean and variance are those of the whole batch                     `moments_of_all`
    losses           each sums over its rows and divides by what ALL workers count      `total`
    gradient         the sum over the workers of one long array                         `sum_gradients`
    update           each makes it for itself, from the same numbers

(Averaging losses that each worker divided by its own count, as is often done, is something else: a worker with few
objects then counts as much as one with many.) NumPy arrays travel by MPI (mpi4py), CuPy arrays from card to card by
NCCL, on the stream that computes, so that nobody waits for a card. A process that works alone calls the same
functions: they then return what they were given.
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
LEAD, PASS_ON = 3, 1  # seconds: before others tell what the first may tell too; for mpiexec to pass on what was printed
_group = None  # the workers that this process belongs to; None: it works alone


# --------------------------------------------------------------------------------------------- who works here


class Group:
    """The workers, over an mpi4py communicator: sums and collections of arrays, wherever these lie."""

    def __init__(self, comm):
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()
        self.cards = None  # NCCL's communicator, made when the first array on a card comes

    def sum_in_place(self, array):
        """Replace `array` (contiguous) by its sum over all workers: the same bits on each."""
        if on_cpu(array):
            from mpi4py import MPI

            self.comm.Allreduce(MPI.IN_PLACE, array)
        else:
            nccl, stream = self._nccl()
            address = array.data.ptr
            self.cards.allReduce(address, address, array.size, _nccl_type(nccl, array), nccl.NCCL_SUM, stream)

    def gather(self, array):
        """The arrays of all workers, each of the shape of `array` (contiguous): (K, *shape)."""
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
    """This worker's number, from 0 on."""
    return 0 if _group is None else _group.rank


def size():
    """How many workers there are."""
    return 1 if _group is None else _group.size


def is_first():
    """True for the one worker that writes the log and the checkpoints, and talks."""
    return rank() == 0


@contextlib.contextmanager
def alone():
    """Inside, this worker calculates without the others (who meanwhile must not wait for it: validation)."""
    global _group
    before, _group = _group, None
    try:
        yield
    finally:
        _group = before


@contextlib.contextmanager
def first_alone():
    """The first worker does what is inside before the others do (compile kernels that all of them then find)."""
    if not is_first():
        _group.comm.barrier()
    yield
    if _group is not None and is_first():
        _group.comm.barrier()


@contextlib.contextmanager
def session(tell):
    """Inside, this process is one of the workers that mpiexec started; one that fails ends all, with its message.

    tell: function that prints an error's message and returns the exit status.
    Raises InputError if mpi4py or an MPI is missing.
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
    """Ctrl-C, once all workers know of it: each ends by itself."""


def _end_all(error, tell):
    """Tell what went wrong here and end all workers: the others wait for this one, and would wait for ever.

    The first worker has a lead: where all fail alike (a wrong option), one tells.
    """
    time.sleep(0 if is_first() else LEAD)
    status = 1
    try:
        status = tell(error)
    except BaseException:  # not for users: a mistake in the program
        traceback.print_exc()
    print(f"minimask: worker {rank()} of {size()} could not go on; all are ended", file=sys.stderr, flush=True)
    sys.stdout.flush()
    time.sleep(PASS_ON)
    _group.comm.Abort(status)
    os._exit(status)  # some MPIs come back from Abort, and only then are ended


# What an mpiexec tells the processes that it starts: how many there are. MPICH's relatives, and Open MPI.
_COUNTS = {"MPICH": "PMI_SIZE", "Open MPI": "OMPI_COMM_WORLD_SIZE"}


def _world():
    """The communicator of all workers that mpiexec started."""
    try:
        import mpi4py

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True  # begin after the check below, end by itself
        from mpi4py import MPI
    except ImportError as error:
        raise InputError(f"--distributed needs mpi4py and an MPI ({error}): {INSTALL}") from None
    except RuntimeError as error:  # mpi4py is there, the library that it calls is not
        raise InputError(f"--distributed: mpi4py finds no MPI ({str(error).splitlines()[0]}): {INSTALL}") from None
    library = MPI.Get_library_version()
    ours = "Open MPI" if "Open MPI" in library else "MPICH"
    (other,) = _COUNTS.keys() - {ours}
    if _COUNTS[other] in os.environ and _COUNTS[ours] not in os.environ:
        raise InputError(f"--distributed: this mpiexec is that of {other}, but mpi4py uses {ours}: take its mpiexec")
    if not MPI.Is_initialized():
        MPI.Init_thread()
    return MPI.COMM_WORLD


def started_by_mpiexec():
    """How many processes mpiexec started, this one with them: 1 if there was no mpiexec."""
    return max(int(os.environ.get(name) or 1) for name in _COUNTS.values())


def own_device(name):
    """The device where this worker computes, if all were given `name` ("cpu", None or "cuda").

    Of the CPU it takes its share of the cores, as Numba threads; of the cards of its machine worker i takes card i.
    Raises InputError if NCCL is missing, or if there are more workers than cards.
    """
    if _group is None:
        return name
    from mpi4py import MPI

    near = _group.comm.Split_type(MPI.COMM_TYPE_SHARED)  # the workers on this machine
    if name in (None, "cpu"):
        mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
        cores = set().union(*near.allgather(mine))  # an mpiexec may have bound each worker to some of the cores
        set_threads(min(threads(), max(1, len(cores) // near.Get_size())))
        return name
    if name != "cuda":
        raise InputError(f"--distributed: each worker takes a card by itself: --device cuda, not {name}")
    try:
        import cupy
    except ImportError:
        return name  # `device.resolve` says what is missing
    try:
        from cupy.cuda import nccl
    except ImportError:
        nccl = None
    if not getattr(nccl, "available", False):
        raise InputError("--distributed --device cuda needs NCCL, by which cards talk: pip install nvidia-nccl-cu12")
    cards = cupy.cuda.runtime.getDeviceCount()
    if near.Get_size() > cards:
        raise InputError(
            f"--distributed: {near.Get_size()} workers on this machine, but it has {cards} "
            f"card{'s' * (cards != 1)}; each worker needs its own: mpiexec -n {cards}"
        )
    return f"cuda:{near.Get_rank()}"


# --------------------------------------------------------------------------------------------- arrays of all workers


def total(array):
    """The sum of `array` (or a number) over all workers, in its own dtype."""
    if _group is None:
        return array
    result = array_module(array).array(array, order="C")  # a copy: the worker's own share stays as it is
    _group.sum_in_place(result)
    return result


def loss_values(losses):
    """The parts of the loss over all workers: dict of scalar Tensors -> dict of floats."""
    values = total(np.array([loss.item() for loss in losses.values()]))
    return dict(zip(losses, values.tolist()))


def sum_in_place(array):
    """Replace an array (contiguous) by its sum over all workers."""
    if _group is not None:
        _group.sum_in_place(array)


def totals(*arrays):
    """`total` of several arrays of one shape and dtype, in one message."""
    return arrays if _group is None else tuple(total(array_module(arrays[0]).stack(arrays)))


def sum_gradients(params):
    """Replace every parameter's gradient by its sum over the workers, in one message: parts of one long array."""
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
    """Number of pixels, mean and variance over all workers, from this worker's own; mean, var: (S, C) arrays.

    The variance of the whole is the mean of the variances plus the variance of the means:
    var = sum_k w_k (var_k + (mean_k - mean)^2), w_k the worker's share of the pixels.
    """
    if _group is None:
        return pixels, mean, var
    counts = _group.gather(np.array(float(pixels)))  # on the host: sizes are known there
    parts = _group.gather(array_module(mean).stack([mean, var]).astype(np.float64))  # (K, 2, S, C)
    shares = (counts / counts.sum()).tolist()
    all_mean = sum(share * m for share, (m, _) in zip(shares, parts))
    all_var = sum(share * (v + (m - all_mean) ** 2) for share, (m, v) in zip(shares, parts))
    return int(counts.sum()), all_mean.astype(mean.dtype), all_var.astype(var.dtype)


def own_rows(rng):
    """A random generator whose numbers are this worker's rows of those that `rng` draws for the whole batch."""
    return rng if _group is None else _Rows(rng)


class _Rows:
    def __init__(self, rng):
        self.rng = rng

    def random(self, shape, dtype=np.float64):
        """Numbers of `shape` (N, ...), N the images of this worker."""
        mine = slice(rank() * shape[0], (rank() + 1) * shape[0])
        return self.rng.random((size() * shape[0], *shape[1:]), dtype=dtype)[mine]


# --------------------------------------------------------------------------------------------- agreements


def any_worker(flag):
    """Whether `flag` is true on any worker."""
    return bool(flag) if _group is None else any(_group.comm.allgather(bool(flag)))


def from_first(value):
    """What the first worker gives here (anything that can be pickled)."""
    return value if _group is None else _group.comm.bcast(value)


def same_state(model, optimizer):
    """Give every worker the weights and the optimizer's state of the first."""
    if _group is not None:
        model.load_state_dict(from_first(_on_host(model.state_dict())))
        optimizer.load_state_dict(from_first(_on_host(optimizer.state_dict())))


def _on_host(state):
    return {name: device.to_cpu(array) for name, array in state.items()} if is_first() else None


def all_of(items):
    """The lists of all workers as one."""
    return items if _group is None else [item for part in _group.comm.allgather(items) for item in part]


def same_size(batch):
    """`batch` (on the CPU, with ground truth), padded with zeros to the height, width and objects of the largest."""
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
        batch, **grown("images", no, height, width, no), **grown("masks", no, objects, height, width),
        **grown("boxes", no, objects, no), **grown("labels", no, objects), **grown("crowd", no, objects),
        **grown("valid", no, objects), **grown("keypoints", no, objects, no, no),
    )  # fmt: skip
