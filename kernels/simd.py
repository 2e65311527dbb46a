"""What Numba cannot express by itself: a register-blocked matrix product, a memory copy, small constant linear maps.

Each is an `@intrinsic`, a function whose LLVM code is written out here, in vectors of LANES float32 numbers. All arrays
are flat (1-D, contiguous, float32), and an offset says where to begin. Nothing is checked; buffers must be large
enough.

A matrix product is fast if its numbers stay in registers. `multiply` keeps a block of ROWS x (VECTORS * LANES) results
in registers and walks along the depth k: it loads VECTORS vectors of b and, row by row, one number of a, and does
ROWS * VECTORS fused multiply-adds of LANES numbers each. The block is as large as the machine's registers allow:

    machine   registers      block            registers used
    AVX-512   32 of 16       14 x 2 vectors   28 + 2 + 1
    AVX2      16 of 8         6 x 2 vectors   12 + 2 + 1
    NEON      32 of 4         6 x 4 vectors   24 + 4 + 1
    others    16 of 4         4 x 2 vectors    8 + 2 + 1
"""

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic


def _register_block():
    """(LANES, ROWS, VECTORS) of the processor that Numba compiles for."""
    features = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    features = features.split(",")
    if "+avx512f" in features:
        return 16, 14, 2
    if "+avx2" in features and "+fma" in features:
        return 8, 6, 2
    if "+neon" in features:
        return 4, 6, 4
    return 4, 4, 2


LANES, ROWS, VECTORS = _register_block()
WIDTH = VECTORS * LANES  # columns per block
# Rows of the blocks that a product is cut into. ROWS - 1, because the 27 rows of a 3x3 window of three channels are 14
# and 13.
BLOCKS = sorted({rows for rows in (ROWS, ROWS - 1, 8, 4, 2, 1) if rows <= ROWS}, reverse=True)
LINE = 16  # numbers per cache line of 64 bytes
SHORT = 6 * LANES  # the most numbers that `copy_short` copies

_float, INT = ir.FloatType(), ir.IntType(64)
VECTOR = ir.VectorType(_float, LANES)
_ALIGN = 4  # bytes: a vector may begin at any number


def address(context, builder, array_type, array, offset_type, offset):
    """The address of array[offset]."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [context.cast(builder, offset, offset_type, types.int64)])


def load(builder, pointer):
    """The vector at a float pointer."""
    vector = builder.load(builder.bitcast(pointer, VECTOR.as_pointer()))
    vector.align = _ALIGN
    return vector


def store(builder, vector, pointer):
    """Write a vector to a float pointer."""
    builder.store(vector, builder.bitcast(pointer, VECTOR.as_pointer())).align = _ALIGN


def _splat(builder, number):
    """A vector whose lanes are all `number`."""
    undefined = ir.Constant(VECTOR, ir.Undefined)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, zeros)


def multiply_add(builder):
    """The LLVM function a * b + c on vectors, a single instruction if the processor has one."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")


@njit(cache=True)
def scratch(size):
    """An array of `size` uninitialized numbers that begins at a cache line.

    Vectors that straddle two lines are loaded and stored at half the speed, which costs Winograd's transforms 10 %.
    """
    memory = np.empty(size + LINE, np.float32)
    first = -(memory.ctypes.data // 4) % LINE
    return memory[first : first + size]


# -------------------------------------------------------------------------------------------- matrix product


def _block_function(module, rows, vectors):
    """The LLVM function that computes one block of results; built once per module, then called."""
    name = f"minimask_multiply_block_{rows}x{vectors * LANES}"
    if name in module.globals:
        return module.globals[name]
    pointer = _float.as_pointer()
    arguments = [pointer, INT, INT, pointer, pointer, INT, INT, INT]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block())
    a, a_row, a_step, b, c, c_row, depth, add = function.args

    cells = [(m, v) for m in range(rows) for v in range(vectors)]
    result = {(m, v): cgutils.alloca_once(builder, VECTOR) for m, v in cells}  # LLVM turns these into registers
    c_rows = [builder.gep(c, [builder.mul(c_row, INT(m))]) for m in range(rows)]
    a_rows = [builder.gep(a, [builder.mul(a_row, INT(m))]) for m in range(rows)]
    with builder.if_else(builder.icmp_signed("!=", add, INT(0))) as (adds, starts):
        with adds:
            for m, v in cells:
                builder.store(load(builder, builder.gep(c_rows[m], [INT(v * LANES)])), result[m, v])
        with starts:
            for m, v in cells:
                builder.store(ir.Constant(VECTOR, [0.0] * LANES), result[m, v])
    with cgutils.for_range(builder, depth, intp=INT) as loop:
        b_k = builder.gep(b, [builder.mul(loop.index, INT(WIDTH))])
        a_k = builder.mul(loop.index, a_step)
        columns = [load(builder, builder.gep(b_k, [INT(v * LANES)])) for v in range(vectors)]
        for m in range(rows):
            number = _splat(builder, builder.load(builder.gep(a_rows[m], [a_k])))
            for v in range(vectors):
                total = builder.call(multiply_add(builder), [number, columns[v], builder.load(result[m, v])])
                builder.store(total, result[m, v])
    for m, v in cells:
        store(builder, builder.load(result[m, v]), builder.gep(c_rows[m], [INT(v * LANES)]))
    builder.ret_void()
    return function


def _multiply(vectors):
    @intrinsic
    def multiply_rows(typing, a, a0, a_row, a_step, b, b0, c, c0, c_row, rows, depth, add):
        """`multiply` for the first vectors * LANES columns: blocks of ROWS rows, then smaller ones for the rest."""

        def generate(context, builder, signature, arguments):
            kinds = signature.args

            def at(i):
                return address(context, builder, kinds[i], arguments[i], kinds[i + 1], arguments[i + 1])

            a, b, c = at(0), at(4), at(6)
            a_row, a_step, c_row, rows, depth, add = (
                context.cast(builder, arguments[i], kinds[i], types.int64) for i in (2, 3, 8, 9, 10, 11)
            )

            def block(first, size):
                of, to = builder.gep(a, [builder.mul(first, a_row)]), builder.gep(c, [builder.mul(first, c_row)])
                function = _block_function(builder.module, size, vectors)
                builder.call(function, [of, a_row, a_step, b, to, c_row, depth, add])

            done = INT(0)
            for size in BLOCKS:
                with cgutils.for_range(builder, builder.sdiv(rows, INT(size)), intp=INT) as loop:
                    block(builder.add(done, builder.mul(loop.index, INT(size))), size)
                done = builder.add(done, builder.mul(builder.sdiv(rows, INT(size)), INT(size)))
                rows = builder.srem(rows, INT(size))
            return context.get_dummy_value()

        return types.void(a, a0, a_row, a_step, b, b0, c, c0, c_row, rows, depth, add), generate

    return multiply_rows


_multiply_wide, _multiply_narrow = _multiply(VECTORS), _multiply(max(1, VECTORS // 2))


@njit(cache=True)
def multiply(a, a0, a_row, a_step, b, b0, c, c0, c_row, rows, columns, depth, add):
    """c[m, n] (+)= sum_k a[m, k] b[k, n] for m < rows, n < WIDTH, k < depth.

    a[m, k] is a[a0 + m a_row + k a_step], c[m, n] is c[c0 + m c_row + n]. b is a panel: b[k, n] is b[b0 + k WIDTH + n].
    columns: how many of the WIDTH columns are used; if at most half of them, only half are computed.
    add: whether to add to what c holds.
    """
    if columns <= WIDTH // 2:
        _multiply_narrow(a, a0, a_row, a_step, b, b0, c, c0, c_row, rows, depth, add)
    else:
        _multiply_wide(a, a0, a_row, a_step, b, b0, c, c0, c_row, rows, depth, add)


# -------------------------------------------------------------------------------------------- copy and linear maps


@intrinsic
def copy(typing, target, target0, source, source0, count):
    """target[target0 : target0 + count] = source[source0 : source0 + count], four times as fast as a loop."""

    def generate(context, builder, signature, arguments):
        kinds = signature.args
        to = address(context, builder, kinds[0], arguments[0], kinds[1], arguments[1])
        of = address(context, builder, kinds[2], arguments[2], kinds[3], arguments[3])
        cgutils.raw_memcpy(builder, to, of, context.cast(builder, arguments[4], kinds[4], types.int64), 4)
        return context.get_dummy_value()

    return types.void(target, target0, source, source0, count), generate


@intrinsic
def copy_short(typing, target, target0, source, source0, count):
    """`copy` of at most SHORT numbers, in whole vectors: up to LANES - 1 more numbers are read and written."""

    def generate(context, builder, signature, arguments):
        kinds = signature.args
        to = address(context, builder, kinds[0], arguments[0], kinds[1], arguments[1])
        of = address(context, builder, kinds[2], arguments[2], kinds[3], arguments[3])
        count = context.cast(builder, arguments[4], kinds[4], types.int64)
        for offset in range(0, SHORT, LANES):
            with builder.if_then(builder.icmp_signed(">", count, INT(offset))):
                vector = load(builder, builder.gep(of, [INT(offset)]))
                store(builder, vector, builder.gep(to, [INT(offset)]))
        return context.get_dummy_value()

    return types.void(target, target0, source, source0, count), generate


def _prefetch(write):
    @intrinsic
    def prefetch(typing, array, offset):
        """Begin to fetch the line that holds array[offset] into the cache, without waiting for it."""

        def generate(context, builder, signature, arguments):
            kinds, small = signature.args, ir.IntType(32)
            at = address(context, builder, kinds[0], arguments[0], kinds[1], arguments[1])
            at = builder.bitcast(at, ir.IntType(8).as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [at.type, small, small, small])
            function = builder.module.declare_intrinsic("llvm.prefetch", (at.type,), kind)
            builder.call(function, [at, small(write), small(2), small(1)])  # 2: into the second level
            return context.get_dummy_value()

        return types.void(array, offset), generate

    return prefetch


prefetch_to_read, prefetch_to_write = _prefetch(0), _prefetch(1)


def linear_map(matrix):
    """An intrinsic that multiplies a small constant matrix by vectors of LANES numbers.

    apply(source, s0, s_step, target, t0, t_step): with x_j the LANES numbers from source[s0 + j s_step] on, writes
    y_i = sum_j matrix[i][j] x_j to target[t0 + i t_step]. Entries of 0 cost nothing, entries of 1 and -1 no
    multiplication.
    """

    def row(builder, coefficients, x):
        total = None
        for coefficient, vector in zip(coefficients, x):
            if coefficient == 0:
                continue
            constant = ir.Constant(VECTOR, [float(coefficient)] * LANES)
            if total is None:
                total = vector if coefficient == 1 else builder.fmul(constant, vector)
            elif coefficient in (1, -1):
                total = (builder.fadd if coefficient == 1 else builder.fsub)(total, vector)
            else:
                total = builder.call(multiply_add(builder), [constant, vector, total])
        return total

    @intrinsic
    def apply(typing, source, s0, s_step, target, t0, t_step):
        def generate(context, builder, signature, arguments):
            kinds = signature.args
            of = address(context, builder, kinds[0], arguments[0], kinds[1], arguments[1])
            to = address(context, builder, kinds[3], arguments[3], kinds[4], arguments[4])
            s_step = context.cast(builder, arguments[2], kinds[2], types.int64)
            t_step = context.cast(builder, arguments[5], kinds[5], types.int64)
            offsets = [builder.mul(s_step, INT(j)) for j in range(len(matrix[0]))]
            x = [load(builder, builder.gep(of, [offset])) for offset in offsets]
            for i, coefficients in enumerate(matrix):
                store(builder, row(builder, coefficients, x), builder.gep(to, [builder.mul(t_step, INT(i))]))
            return context.get_dummy_value()

        return types.void(source, s0, s_step, target, t0, t_step), generate

    return apply
