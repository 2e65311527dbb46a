"""One parallel loop for all CPU kernels.

With `parallel=True`, Numba needs about half a second more to compile a function, and compiles everything that the
function calls three times. So the loop over the threads is compiled only once, here, and calls any kernel by its
address. A kernel is a plain serial function

    @njit(cache=True)
    def part(t, parts, arrays, numbers):
        x, y = arrays[:2]           # flat float32 arrays
        size, relu = numbers[:2]    # ints
        ...                         # the work of thread t of `parts`

and `run(part, (x, y), (size, relu))` calls it for t = 0 .. parts - 1 at the same time. A part may only write what no
other part reads or writes. The same arrays and the same number of threads give the same bits.
"""

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from minimask.machine.threads import threads

ARRAYS, NUMBERS = 8, 32  # every part takes this many; those left over are empty arrays and zeros

_arrays, _numbers = types.UniTuple(types.float32[::1], ARRAYS), types.UniTuple(types.int64, NUMBERS)
_signature = (types.int64, types.int64, _arrays, _numbers)
_nothing = np.empty(0, np.float32)
_empty = [(_nothing,) * (ARRAYS - n) for n in range(ARRAYS + 1)]  # to fill up n given arrays
_zeros = [(0,) * (NUMBERS - n) for n in range(NUMBERS + 1)]
_addresses = {}


def run(part, arrays, numbers):
    """Call `part(t, parts, arrays, numbers)` in every thread t at once; arrays: flat, contiguous, float32."""
    if part not in _addresses:
        part.compile(_signature)  # or load it from the cache on disk
        compiled = part.overloads[_signature]
        _addresses[part] = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)
    _run(_addresses[part], threads(), (*arrays, *_empty[len(arrays)]), (*map(int, numbers), *_zeros[len(numbers)]))


def flat(x):
    """x as a part takes it: flat, contiguous, float32 and writable, a copy if need be; for None an empty array."""
    if x is None:
        return _nothing
    x = np.ascontiguousarray(x, np.float32)
    return (x if x.flags.writeable else x.copy()).reshape(-1)


@njit(parallel=True, cache=True, nogil=True)  # nogil: threads that load data keep running
def _run(address, parts, arrays, numbers):
    for t in prange(parts):
        _call(address, t, parts, arrays, numbers)


@intrinsic
def _call(typing, address, t, parts, arrays, numbers):
    """Call the part at this address."""

    def generate(context, builder, signature, arguments):
        kinds = [context.get_value_type(kind) for kind in signature.args[1:]]
        function = ir.FunctionType(context.get_value_type(types.none), kinds)
        builder.call(builder.inttoptr(arguments[0], function.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(address, t, parts, arrays, numbers), generate
