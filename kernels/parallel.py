"""One parallel loop for many kernels.

Numba's `parallel=True` costs about half a second of compilation for each function, and compiles all that the function
calls three times over. So the loop over threads is compiled once, here, and calls any kernel by its address. A kernel
is a plain serial function

    @njit(cache=True)
    def part(t, parts, arrays, numbers):
        x, y = arrays[:2]           # flat float32 arrays
        size, relu = numbers[:2]    # ints
        ...                         # the share of thread t of `parts`

and `run(part, (x, y), (size, relu))` calls it for t = 0 .. parts - 1 at the same time. A part may write only what no
other part reads or writes. The same arrays and the same number of threads give the same bits.
"""

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from minimask.machine.threads import threads

ARRAYS, NUMBERS = 8, 32  # every part takes this many; what is not used is an empty array or 0

_arrays, _numbers = types.UniTuple(types.float32[::1], ARRAYS), types.UniTuple(types.int64, NUMBERS)
_signature = (types.int64, types.int64, _arrays, _numbers)
_nothing = np.empty(0, np.float32)
_empty = [(_nothing,) * (ARRAYS - n) for n in range(ARRAYS + 1)]  # what is missing where n are given
_zeros = [(0,) * (NUMBERS - n) for n in range(NUMBERS + 1)]
_addresses = {}


def run(part, arrays, numbers):
    """Call `part(t, parts, arrays, numbers)` for each of the threads at once; arrays: flat, contiguous, float32."""
    if part not in _addresses:
        part.compile(_signature)  # from the cache on disk, if it is there
        compiled = part.overloads[_signature]
        _addresses[part] = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)
    _run(_addresses[part], threads(), (*arrays, *_empty[len(arrays)]), (*map(int, numbers), *_zeros[len(numbers)]))


def flat(x):
    """x as a flat array that a part takes: contiguous and writable (a copy if it is not); None: an empty one."""
    if x is None:
        return _nothing
    x = np.ascontiguousarray(x, np.float32)
    return (x if x.flags.writeable else x.copy()).reshape(-1)


@njit(parallel=True, cache=True, nogil=True)  # other Python threads, which load data, go on meanwhile
def _run(address, parts, arrays, numbers):
    for t in prange(parts):
        _call(address, t, parts, arrays, numbers)


@intrinsic
def _call(typing, address, t, parts, arrays, numbers):
    """Call the function at an address."""

    def generate(context, builder, signature, arguments):
        kinds = [context.get_value_type(kind) for kind in signature.args[1:]]
        function = ir.FunctionType(context.get_value_type(types.none), kinds)
        builder.call(builder.inttoptr(arguments[0], function.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(address, t, parts, arrays, numbers), generate
