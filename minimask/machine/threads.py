"""Threads: those of our Numba kernels, and the single thread that NumPy multiplies matrices with beside them.

Nothing here happens when minimask is imported. The pool of kernel threads starts with the first kernel; NumPy keeps all
its threads except while minimask trains, predicts or evaluates (see process.py).
"""

import contextlib
import functools
import os
import threading

# Numba stores one number of threads per Python thread, behind a lock that a training step would take a thousand times.
_of_this_thread = threading.local()


# ------------------------------------------------------------------------------------------------ the kernels' threads

# GNU and LLVM's OpenMP let waiting threads spin, by default for milliseconds. If anything else wants the core (the
# threads that load data, another run on the same machine), that makes a whole step up to 14 times slower; a few
# microseconds are enough.
SHORT_SPIN = {"GOMP_SPINCOUNT": "4000", "KMP_BLOCKTIME": "0"}


@functools.cache
def start_pool():
    """Start the threads that Numba's parallel loops run on; does nothing from the second call on.

    A process has one such pool, which the student's own parallel Numba functions use too. We ask for OpenMP, which
    starts and ends a loop in microseconds (Numba's fallback needs ten times as long), and for short spinning. Neither
    has an effect if the pool or the OpenMP library is there already. NUMBA_THREADING_LAYER_PRIORITY, GOMP_SPINCOUNT and
    KMP_BLOCKTIME, if they are set, have precedence; the environment is afterwards what it was before.
    """
    import numba

    if "NUMBA_THREADING_LAYER_PRIORITY" not in os.environ:
        numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
    added = [name for name in SHORT_SPIN if name not in os.environ]
    os.environ.update({name: SHORT_SPIN[name] for name in added})  # OpenMP reads them while its library is loaded
    try:
        numba.get_num_threads()  # starts the pool
    finally:
        for name in added:
            del os.environ[name]


def threads():
    """How many threads the kernels use: what `set_threads` was given, at first one per core."""
    try:
        return _of_this_thread.kernel_threads
    except AttributeError:  # the first call in this Python thread
        import numba

        start_pool()
        _of_this_thread.kernel_threads = numba.get_num_threads()
        return _of_this_thread.kernel_threads


def set_threads(count):
    """Let the kernels use `count` threads, from 1 up to the number of cores.

    Sums that are split between threads round differently for different counts: bit-for-bit repetition needs the same
    count. Raises ValueError if there are not so many cores.
    """
    import numba

    if not 1 <= count <= numba.config.NUMBA_NUM_THREADS:
        raise ValueError(f"set_threads: count must be 1 to {numba.config.NUMBA_NUM_THREADS} here, got {count}")
    start_pool()
    numba.set_num_threads(count)
    _of_this_thread.kernel_threads = count


# ------------------------------------------------------------------------------------------------------ NumPy's threads


class _Limit:
    """The limit on BLAS threads, which the whole process shares: one Python thread at a time may set it.

    A second thread that enters meanwhile leaves the limit as it is, and so cannot restore the wrong number later.
    """

    def __init__(self):
        self.lock, self.owner, self.depth, self.limiter = threading.Lock(), None, 0, None

    def enter(self):
        me = threading.get_ident()
        with self.lock:
            if self.owner is None:
                self.owner, self.limiter = me, _blas().limit(limits=1)
            self.depth += self.owner == me

    def leave(self):
        with self.lock:
            if self.owner != threading.get_ident():
                return
            self.depth -= 1
            if self.depth == 0:
                self.owner = None
                self.limiter.restore_original_limits()


_limit = _Limit()


@functools.cache
def _blas():
    """The BLAS libraries that are loaded in this process; looking for them takes 0.2 ms."""
    # Imported here: threadpoolctl sets KMP_DUPLICATE_LIB_OK in the environment; nothing else needs that.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def one_blas_thread():
    """Inside, NumPy multiplies matrices in one thread; afterwards in as many as before. Entering takes 25 microseconds.

    BLAS and Numba have a pool of threads each, by default one thread per core. If both work in turn, one pool spins
    while the other computes: where a step multiplies matrices between kernels, that costs 40% to 100% of its time.
    """
    _limit.enter()
    try:
        yield
    finally:
        _limit.leave()
