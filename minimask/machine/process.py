"""How the process is set up while minimask trains, predicts or evaluates, and only then."""

import contextlib

from minimask.machine.memory import keep_freed_memory
from minimask.machine.threads import one_blas_thread


@contextlib.contextmanager
def tuned_process():
    """Inside, NumPy multiplies in one thread and freed memory is kept: a `with` block, or a decorator of a function.

    The number of BLAS threads is restored at the end. The memory setting stays; MINIMASK_MALLOC=0 in the environment
    switches it off. Importing minimask changes neither.
    """
    keep_freed_memory()
    with one_blas_thread():
        yield
