"""The kernels: one pair of files an operation, NAME.py (Numba, for the CPU) and NAME.cu (CUDA, for the GPU).

Each NAME.py has a function `warm_up()` that calls every kernel of the file once on tiny arrays, so that
compiling (or reading the compiled code from Numba's cache on disk) happens at a moment of our choosing.
"""
