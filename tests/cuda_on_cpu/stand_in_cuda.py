"""The stand-in's `cupy.cuda`: streams, events, graphs, pinned memory, memory pools, and what makes the host wait.

Whatever a GPU may do later, happens here as late as the program allows, so that a missing wait shows up:
- A copy to pinned memory arrives when the host waits for it; until then, the target holds NaN.
- Work on a stream that launches no kernel of ours (a stream for copies) is done when another stream or the host waits
  for it; until then, its results hold NaN.
- If the host overwrites pinned memory before it has waited for a copy from it, an error is raised.
- While a graph is captured, nothing is computed: afterwards, existing arrays are unchanged and new ones hold NaN.
- Within `no_sync()`, each wait of the host is an error.
With real CuPy, a program with such a mistake keeps running and only sometimes computes wrong numbers.
"""

import contextlib
import threading
import types
import weakref

import numpy as np


class SynchronizationError(RuntimeError):
    """The host waited for the GPU where it must not."""


@contextlib.contextmanager
def no_sync(uploads=True, events=False):
    """While inside, waiting for the GPU raises SynchronizationError.

    uploads: whether arrays in pageable memory may be sent (which is no wait, but work for the host).
    events: whether the host may wait for events (as it does to read the results of an earlier step).
    """
    before, _local.rules = _local.rules, {"wait": False, "upload": uploads, "event": events}
    try:
        yield
    finally:
        _local.rules = before


def host_waits(what, kind="wait"):
    """Call this where CuPy makes the host wait for the GPU ("wait", "event") or sends pageable memory ("upload")."""
    if capturing():
        raise RuntimeError(f"{what}: the current stream is capturing, so synchronous API calls are disallowed")
    if not _local.rules[kind]:
        raise SynchronizationError(f"{what}: {'sends pageable memory' if kind == 'upload' else 'waits for the GPU'}")


# ---------------------------------------------------------------- streams and events


class Queue:
    """Actions that have not happened yet, oldest first."""

    def __init__(self):
        self.actions, self.done = [], 0

    def append(self, action):
        self.actions.append(action)

    @property
    def end(self):
        return self.done + len(self.actions)

    def drain(self, end=None):
        """Do all actions, or those that were queued when `end` was read."""
        while self.actions and (end is None or self.done < end):
            self.done += 1
            self.actions.pop(0)()


class Stream:
    """A stream with two queues.

    work: what the GPU still has to do, if this is a stream for copies; other streams do their work at once.
    arrivals: what the host learns when it waits: numbers arrive in pinned memory, pinned memory may be overwritten.
    """

    null = None
    _count = 0

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        Stream._count += 1
        self.ptr = 0 if null else 1000 + Stream._count
        self.is_non_blocking = non_blocking
        self.computes = null
        self.work, self.arrivals = Queue(), Queue()
        self.graph = None  # the graph that is being captured

    def __enter__(self):
        _local.streams.append(self)
        return self

    def __exit__(self, *error):
        _local.streams.pop()

    def use(self):
        _local.streams[-1] = self
        return self

    def begin_to_compute(self):
        self.work.drain()
        self.computes = True

    def wait_on_host(self, work=None, arrivals=None):
        self.work.drain(work)
        self.arrivals.drain(arrivals)

    @property
    def done(self):
        self.wait_on_host()
        return True

    def synchronize(self):
        host_waits("Stream.synchronize()")
        self.wait_on_host()

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event):
        if self.computes:
            event.wait_on_card()
        else:
            self.work.append(event.wait_on_card)

    def begin_capture(self, mode=None):
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.graph is not None:
            raise RuntimeError("the stream is already capturing")
        self.begin_to_compute()
        self.graph = Graph()

    def end_capture(self):
        if self.graph is None:
            raise RuntimeError("the stream is not capturing")
        graph, self.graph = self.graph, None
        graph._finish()
        return graph

    def is_capturing(self):
        return self.graph is not None


class Event:
    """A position in the queues of a stream."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.stream, self.asked = None, False

    def record(self, stream=None):
        self.stream, self.asked = stream or get_current_stream(), False
        self.work, self.arrivals = self.stream.work.end, self.stream.arrivals.end

    def wait_on_card(self):
        if self.stream is not None:
            self.stream.work.drain(self.work)

    def wait_on_host(self):
        if self.stream is not None:
            self.stream.wait_on_host(self.work, self.arrivals)

    def synchronize(self):
        host_waits("Event.synchronize()", "event")
        self.wait_on_host()

    @property
    def done(self):
        """False the first time it is read, so that programs must handle this case; then true."""
        before, self.asked = self.asked, True
        if before:
            self.wait_on_host()
        return before


class _Local(threading.local):
    """The state that CuPy keeps per thread."""

    def __init__(self):
        self.streams = [Stream.null]
        self.allocator = None
        self.rules = {"wait": True, "upload": True, "event": True}


Stream.null = Stream(null=True)
_local = _Local()


def get_current_stream(device_id=-1):
    return _local.streams[-1]


def capturing():
    return get_current_stream().graph is not None


def get_elapsed_time(start_event, end_event):
    """Milliseconds between two events: a constant, because nothing can be measured here."""
    host_waits("get_elapsed_time", "event")
    return 1.0


# ---------------------------------------------------------------- work


def owner(array):
    """The NumPy array that owns the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def poison(array):
    """Fill an array with NaN, -1 or True, which stand for memory that was never written."""
    if array.size:
        array[...] = True if array.dtype == bool else np.frombuffer(b"\xff" * array.itemsize, array.dtype)[0]


def spoil(array):
    """Poison new memory, also at each launch of a graph that is being captured."""
    poison(array)
    if capturing():
        get_current_stream().graph._actions.append(lambda: poison(array))


def change(function, targets):
    """Let `function` write to the NumPy arrays `targets`, on the current stream."""
    stream = get_current_stream()
    if stream.graph is not None:
        stream.graph._keep(targets)
        stream.graph._actions.append(function)
    if stream.computes:
        function()
    else:
        stream.work.append(function)


def compute(function, inputs):
    """The list of arrays that `function` returns, computed on the current stream. Views of `inputs` need no work."""
    stream = get_current_stream()
    results = function()
    known = {id(owner(array)) for array in inputs}
    new = [i for i, array in enumerate(results) if id(owner(array)) not in known]

    def again():
        values = function()
        for i in new:
            np.copyto(results[i], values[i])

    for i in new:
        allocate(results[i])
    if new and stream.graph is not None:
        stream.graph._actions.append(again)
    elif new and not stream.computes:
        for i in new:
            poison(results[i])
        stream.work.append(again)
    return results


def send(source, target):
    """Copy an array of the host to one of the GPU (both NumPy arrays here), on the current stream."""
    memory = pinned_memory(source)
    if memory is None:
        host_waits("a copy to the card", "upload")
        values = source.copy()
        change(lambda: np.copyto(target, values), [target])
        return
    stream = get_current_stream()
    if stream.graph is not None:
        stream.graph._keep([target])
        stream.graph._actions.append(lambda: np.copyto(target, memory.read(source, get_current_stream())))
    else:
        values = memory.read(source, stream)
        change(lambda: np.copyto(target, values), [target])


def fetch(source, target, blocking):
    """Copy an array of the GPU to one of the host (both NumPy arrays here), on the current stream."""
    stream = get_current_stream()
    if blocking or pinned_memory(target) is None:  # with pageable memory, the host always waits
        host_waits(".get()")
        stream.wait_on_host()
        np.copyto(target, source)
        return

    def copy():
        values, queue = source.copy(), get_current_stream().arrivals
        poison(target)
        queue.append(lambda: np.copyto(target, values))

    if stream.graph is not None:
        stream.graph._actions.append(copy)
    elif stream.computes:
        copy()
    else:
        poison(target)
        stream.work.append(lambda: _on(stream, copy))


def _on(stream, action):
    with stream:
        action()


class Graph:
    """Recorded actions. launch() repeats them on the same memory, with the numbers it holds at that time."""

    def __init__(self):
        self._actions, self._before, self._made, self._pools = [], {}, {}, []

    def _keep(self, targets):
        for array in map(owner, targets):
            if id(array) not in self._made and id(array) not in self._before:
                self._before[id(array)] = array, array.copy()

    def _finish(self):
        for array, values in self._before.values():
            np.copyto(array, values)
        for array in self._made.values():
            poison(array)
        if any(pool() is default_pool for pool in self._pools):
            raise RuntimeError(
                "arrays made while capturing are in the default memory pool, which may give their memory to others"
            )
        self._before = None

    def upload(self, stream=None):
        pass

    def launch(self, stream=None):
        stream = stream or get_current_stream()
        if stream.graph is not None:
            raise RuntimeError("a graph was launched while another was being captured")
        if any(pool() is None for pool in self._pools):
            raise RuntimeError("the memory pool of the graph's arrays is gone")
        stream.begin_to_compute()
        with stream:
            for action in self._actions:
                action()


# ---------------------------------------------------------------- memory


class OutOfMemoryError(MemoryError):
    def __init__(self, size, total, limit=0):
        self._size, self._total, self._limit = size, total, limit
        limited = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{limited}).")


class MemoryPointer:
    def __init__(self, pool, size):
        self.pool, self.size = weakref.ref(pool), size

    def free(self):
        pool = self.pool()
        if pool is not None:
            pool._used -= self.size


class MemoryPool:
    """Counts bytes in blocks that are multiples of 512."""

    def __init__(self, allocator=None):
        self._used = self._held = self._limit = 0

    def malloc(self, size):
        size = -(-size // 512) * 512
        if self._limit and self._used + size > self._limit:
            raise OutOfMemoryError(size, self._used, self._limit)
        self._used += size
        self._held = max(self._held, self._used)
        return MemoryPointer(self, size)

    def free_all_blocks(self, stream=None):
        self._held = self._used

    def set_limit(self, size=None, fraction=None):
        self._limit = size or int((fraction or 0) * Device.total)

    def get_limit(self):
        return self._limit

    def used_bytes(self):
        return self._used

    def total_bytes(self):
        return self._held

    def free_bytes(self):
        return self._held - self._used


default_pool = MemoryPool()


_living = weakref.WeakValueDictionary()  # arrays of the GPU, by address


def array_at(address):
    """The array of the GPU whose memory contains an address, or None."""
    for begin, array in list(_living.items()):
        if begin <= address < begin + array.nbytes:
            return array
    return None


def allocate(array):
    """Have the current allocator account for the memory of a new NumPy array."""
    array = owner(array)
    _living[array.ctypes.data] = array
    pointer = get_allocator()(array.nbytes)
    graph = get_current_stream().graph
    if graph is not None:
        graph._made[id(array)] = array
        graph._pools.append(pointer.pool)
    weakref.finalize(array, pointer.free).atexit = False


def get_allocator():
    return _local.allocator or _allocator[0]


def set_allocator(allocator=None):
    _allocator[0] = allocator or default_pool.malloc


@contextlib.contextmanager
def using_allocator(allocator=None):
    before, _local.allocator = _local.allocator, allocator or default_pool.malloc
    try:
        yield
    finally:
        _local.allocator = before


_allocator = [default_pool.malloc]


class PinnedMemoryPointer(bytearray):
    """Page-locked memory of the host. reads: copies from it that may not be finished, and the numbers they copy."""

    def __init__(self, size):
        super().__init__(size)
        self.reads = []

    def size(self):
        return len(self)

    def read(self, source, stream):
        """The numbers that a copy on `stream` reads; they must not change before the host has waited for the copy."""
        for earlier, _ in self.reads:
            earlier()
        values = source.copy()

        def check():
            if source.tobytes() != values.tobytes():
                raise RuntimeError("pinned memory was overwritten before the host had waited for a copy from it")

        entry = check, values
        self.reads.append(entry)

        def arrived():
            check()
            self.reads.remove(entry)

        stream.arrivals.append(arrived)
        return values


class PinnedMemoryPool:
    def malloc(self, size):
        return PinnedMemoryPointer(size)

    def free_all_blocks(self):
        pass

    def n_free_blocks(self):
        return 0


def alloc_pinned_memory(size):
    return PinnedMemoryPointer(size)


def pinned_memory(array):
    """The pinned memory of a NumPy array, or None."""
    base = owner(array).base
    base = base.obj if isinstance(base, memoryview) else base
    return base if isinstance(base, PinnedMemoryPointer) else None


# ---------------------------------------------------------------- the device


class Device:
    total = 4 << 30
    compute_capability = "90"

    def __init__(self, device=0):
        self.id = int(device)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def use(self):
        return self

    def synchronize(self):
        host_waits("Device.synchronize()")
        get_current_stream().wait_on_host()

    @property
    def mem_info(self):
        return self.total - default_pool.total_bytes(), self.total

    @property
    def attributes(self):
        return {"MultiProcessorCount": 4}


class CUDARuntimeError(RuntimeError):
    """status: cudaError_t, e.g. 35 (the driver is missing or too old), 100 (no GPU)."""

    def __init__(self, status):
        self.status = status
        super().__init__(f"cudaError {status}")


def is_available():
    return runtime.getDeviceCount() > 0


runtime = types.SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    getDevice=lambda: 0,
    getDeviceCount=lambda: 1,
    getDeviceProperties=lambda device: {"name": b"a CPU that runs kernels", "multiProcessorCount": 4},
    setDevice=lambda device: None,
    deviceSynchronize=lambda: Device().synchronize(),
    memGetInfo=lambda: Device().mem_info,
    runtimeGetVersion=lambda: 12090,
    driverGetVersion=lambda: 12090,
    streamCaptureModeGlobal=0,
    streamCaptureModeThreadLocal=1,
    streamCaptureModeRelaxed=2,
)
memory = types.SimpleNamespace(
    OutOfMemoryError=OutOfMemoryError, MemoryPool=MemoryPool, MemoryPointer=MemoryPointer, set_allocator=set_allocator
)
