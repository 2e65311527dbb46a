"""The kernels: one pair of files per operation, NAME.py (Numba, for the CPU) and NAME.cu (CUDA, for the GPU).

Each NAME.py has a function `warm_up()` that calls every kernel of the file once on tiny arrays, so that compiling (or
reading the compiled code from Numba's cache on disk) happens at a moment of our choosing.
"""

from minimask.machine.cache_folders import choose_kernel_folder
from minimask.machine.threads import start_pool


def _somewhere_here():
    """A function of this folder, for `choose_kernel_folder`."""


choose_kernel_folder(_somewhere_here)
start_pool()
