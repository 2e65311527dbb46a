"""Kernels on the CPU: they do what CUDA C defines, and mistakes that a GPU may not report are caught."""

import functools
import itertools

import numpy as np
import pytest

from minimask.kernels import cuda
from tests.cuda_on_cpu.conftest import stand_in_or_skip

COMMON = (cuda.FOLDER / "common.cuh").read_text(encoding="utf-8")


@pytest.fixture
def shim(monkeypatch):
    minicuda, _ = stand_in_or_skip()
    monkeypatch.setattr(minicuda, "CHECK", False)
    monkeypatch.setattr(minicuda, "ORDER", 0)
    return minicuda


def run(shim, body, *, check=False, order=0, grid=1, threads=64, shared=0):
    """The array x of 64 numbers after running the kernel with this body, which is in one of the tables below."""
    shim.CHECK, shim.ORDER = check, order
    x = np.zeros(64, bool if body == BYTES else np.float32)
    _module(shim, check).get_function(f"k{BODIES.index(body)}")(
        (grid,), (threads,), (x, np.int32(64)), shared_mem=shared
    )
    return x


@functools.cache
def _module(shim, check):
    """All bodies, compiled together. In each, x is the array, i the index of the thread, and n = 64."""
    code = COMMON
    for k, body in enumerate(BODIES):
        number = "bool" if body == BYTES else "float"
        start = f'extern "C" __global__ void k{k}({number} *x, int n) {{ int i = threadIdx.x;'
        code += f'#line 1 "body.cu"\n{start}\n{body}\n}}\n'
    return shim.RawModule(code=code)


CORRECT = {  # body: x[0], x[1], x[2], x[3]
    "x[i] = i;": (0, 1, 2, 3),
    "GRID_LOOP(k, n) x[k] = k + gridDim.x;": (1, 2, 3, 4),
    "atomicAdd(x, 1.f);": (64, 0, 0, 0),
    "atomicAdd(&x[i % 2], (float)i); __syncthreads(); if (i == 2) x[2] = x[0] + x[1];": (992, 1024, 2016, 0),
    "__shared__ float s[64]; s[i] = i; __syncthreads(); x[i] = s[63 - i];": (63, 62, 61, 60),
    "extern __shared__ float s[]; s[i] = i; __syncthreads(); x[i] = s[63 - i];": (63, 62, 61, 60),
    "__shared__ float s[64]; s[i] = i; __syncwarp(); x[i] = s[i ^ 1];": (1, 0, 3, 2),
    "x[i] = __shfl_sync(0xffffffffu, i, 3);": (3, 3, 3, 3),
    "x[i] = __shfl_sync(0xffffffffu, i, 9, 4);": (1, 1, 1, 1),
    "x[i] = __shfl_xor_sync(0xffffffffu, i, 2);": (2, 3, 0, 1),
    "x[i] = __shfl_down_sync(0xffffffffu, i, 5);": (5, 6, 7, 8),
    "x[i] = __shfl_up_sync(0xffffffffu, i, 1);": (0, 0, 1, 2),
    "x[i] = __ballot_sync(0xffffffffu, i < 3);": (7, 7, 7, 7),
    "x[i] = __any_sync(0xffffffffu, i == 3) + 2 * __all_sync(0xffffffffu, i < 32);": (3, 3, 3, 3),
    "if (i < 32) x[i] = __popc(__ballot_sync(0xffffffffu, i % 2));": (16, 16, 16, 16),
    "float s = block_sum((float)i); if (i == 0) x[0] = s;": (2016, 0, 0, 0),
    "int total, before = sum_before(i % 2, total); x[i] = before + 100 * total;": (3200, 3200, 3201, 3201),
    "*(float4 *)(x + 4 * (i % 16)) = make_float4(1, 2, 3, 4);": (1, 2, 3, 4),
    "x[i] = __int_as_float(0x7f800000) == INFINITY_F;": (1, 1, 1, 1),
    "x[i] = __ffs(8) + 10 * __clz(1) + 1000 * __popcll(15);": (4314, 4314, 4314, 4314),
}


@pytest.mark.parametrize("check", [False, True], ids=["plain", "checked"])
@pytest.mark.parametrize("body", CORRECT)
def test_kernels_do_what_cuda_defines(shim, body, check):
    for order in range(4):
        np.testing.assert_array_equal(run(shim, body, check=check, order=order, shared=256)[:4], CORRECT[body])


WRONG = {  # mistake: (body, message)
    "write past the end": ("x[i + 1] = 1;", "writes outside of all arrays .256 bytes after the beginning of array 0"),
    "read before the beginning": ("x[i] = x[i - 64];", "reads outside of all arrays .-[0-9]+ bytes"),
    "no array": ("float *p = n > 0 ? nullptr : x; x[i] = p[i];", "reads outside"),
    "sum without atomic": ("x[0] += 1;", "race: thread .* reads element 0 of array 0, which thread .* wrote"),
    "atomic and plain": ("if (i) atomicAdd(x, 1.f); else x[0] = 2;", "race"),
    "no barrier": ("__shared__ float s[64]; s[i] = i; x[i] = s[63 - i];", "race: .* of shared memory"),
    "no second barrier": (
        "__shared__ float s[64]; for (int k = 0; k < 2; k++) { s[i] = i; __syncthreads(); x[i] = s[63 - i]; }",
        "race: .* of shared memory",
    ),
    "a warp's barrier for a block": ("__shared__ float s[64]; s[i] = i; __syncwarp(); x[i] = s[63 - i];", "race"),
    "different values": ("x[i / 2] = i;", "race: thread .* writes element .*, which thread .* wrote"),
    "index past a row": ("__shared__ float s[4][16]; s[0][i] = i; __syncthreads(); x[i] = s[1][0];", "index outside"),
    "index past dynamic memory": ("extern __shared__ float s[]; s[i + 1] = i; x[i] = 0;", "outside .* shared memory"),
    "misaligned": ("if (i == 0) *(float4 *)(x + 1) = make_float4(0, 0, 0, 0);", "misaligned"),
    "division by zero": ("x[i] = n / (n - 64);", "divided by zero"),
    "int too large in a sum": ("x[i] = n + 2147483647;", "too large in a sum"),
    "int too large in a product": ("x[i] = n * 50000 * 50000;", "too large in a product"),
    "different barriers": ("if (i < 32) {\n__syncthreads();\n} else {\n__syncthreads();\n}", "divergent .*body.cu"),
    "barrier that some skip": ("if (i < 32) __syncthreads(); else __syncwarp(0x1);", "outside its mask|deadlock"),
    "barrier that a lane never reaches": ("if (i < 31) __syncwarp(); else __syncthreads();", "deadlock|divergent"),
    "trap": ("if (i == 3) __trap();", "trap"),
    "copy not aligned": ("extern __shared__ float s[]; copy16(s + 1, x, true); x[i] = 0;", "multiple of 16"),
    "copy from outside an array": (
        "extern __shared__ float s[]; if (i == 0) copy16(s, x + n, true); copies_commit(); copies_wait<0>();",
        "reads outside",
    ),
}  # fmt: skip


THIRD_LINE = "int k = i;\nx[k + 1000] = 1;"
SAME = "x[i / 2] = 5;"
BLOCKS = "x[(blockIdx.x * 32 + i) % 64] += 1; __syncthreads();"
BYTES = "x[i] = true;"
UNWRITTEN = "__shared__ float s[64]; __syncthreads(); x[i] = s[i] + blockIdx.x;"
UNORDERED = [
    "__shared__ float s[64]; s[i] = i; x[i] = s[63 - i];",
    "__shared__ float s; s = i; __syncthreads(); x[i] = s;",
    "x[i] = atomicAdd(x + n - 1, 1.f);",
    "if (i == 63) x[0] = blockIdx.x;",
]
COPY = "__shared__ __align__(16) float s[512]; copy16(s + 4 * i, x + 4 * (i % 16), true); copies_commit(); "
UNWAITED = COPY + "__syncthreads(); x[i] = s[4 * i];"
WAITED = COPY + "copies_wait<0>(); __syncthreads(); x[i] = s[4 * i] + 1;"
NOT_INSIDE = WAITED.replace("true", "false")
FIRST_OF_TWO = (
    COPY + "copy16(s + 256 + 4 * i, x, true); copies_commit(); copies_wait<1>(); __syncthreads(); x[i] = s[4 * i] + 1;"
)
ROUNDED = """
    float v = i == 0 ? 1 + 0x1p-11f : i == 1 ? 1 + 0x1p-8f : i == 2 ? 1 + 3 * 0x1p-8f : __int_as_float(0x7fffffff);
    x[4 * (i % 4)] = to_tf32(v);
    x[4 * (i % 4) + 1] = __int_as_float(to_bf16x2(0, v));
    x[4 * (i % 4) + 2] = __int_as_float(to_bf16x2(v, 0) << 16);"""
BODIES = [
    *dict.fromkeys([*CORRECT, *(body for body, _ in WRONG.values()), *UNORDERED]),
    *(THIRD_LINE, SAME, BLOCKS, BYTES, UNWRITTEN, UNWAITED, WAITED, NOT_INSIDE, FIRST_OF_TWO, ROUNDED),
]


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_are_caught(shim, mistake, order):
    body, message = WRONG[mistake]
    with pytest.raises(
        shim.KernelError, match=message.replace("race: thread 1 ", "race: thread .* ") if order else message
    ):
        run(shim, body, check=True, order=order, shared=256)


def test_an_error_names_the_line(shim):
    with pytest.raises(shim.KernelError, match=r"writes outside .*at body.cu:3$"):
        run(shim, THIRD_LINE, check=True)


def test_the_same_bits_may_be_written_twice(shim):
    np.testing.assert_array_equal(run(shim, SAME, check=True)[:33], [5] * 32 + [0])


def test_threads_of_different_blocks_have_no_barrier(shim):
    with pytest.raises(shim.KernelError, match="race: thread .* of block 1 reads element 32 of array 0, which thread"):
        run(shim, BLOCKS, check=True, grid=2)


def test_neighboring_bytes_are_different_numbers(shim):
    assert run(shim, BYTES, check=True).all()


def test_shared_memory_begins_as_nan(shim):
    assert np.isnan(run(shim, UNWRITTEN, grid=2)).all()


@pytest.mark.parametrize("body", UNORDERED, ids=["no barrier", "last writer", "order of atomics", "order of blocks"])
def test_schedules_differ(shim, body):
    """A result that depends on the order of threads or blocks differs between schedules."""
    results = {run(shim, body, order=order, grid=5).tobytes() for order in range(4)}
    assert len(results) > 1


def test_an_asynchronous_copy_arrives_late_or_at_once(shim):
    """Late: without a wait, the target holds NaN. At once (schedules 1 and 3): it is overwritten immediately."""
    unwaited = [np.isnan(run(shim, UNWAITED, order=order)).any() for order in range(4)]
    assert unwaited == [True, False, True, False]
    for order in range(4):
        np.testing.assert_array_equal(run(shim, WAITED, order=order), np.ones(64))
        np.testing.assert_array_equal(run(shim, NOT_INSIDE, order=order), np.ones(64))
        np.testing.assert_array_equal(run(shim, FIRST_OF_TWO, order=order), np.ones(64))


def test_tensor_cores(shim):
    """Products of small matrices in the layouts that common.cuh describes, of numbers rounded to 11 and to 8 bits."""
    code = (
        COMMON
        + r"""
    extern "C" __global__ void k(const float *A, const float *B, float *D, const float *A2, const float *B2,
                                 float *D2) {
      int g = threadIdx.x / 4, t = threadIdx.x % 4;
      float a[4], b[2], d[4] = {}, e[4] = {};
      unsigned p[4], q[2];
      for (int i = 0; i < 4; i++) a[i] = to_tf32(A[(g + 8 * (i % 2)) * 8 + t + 4 * (i / 2)]);
      for (int i = 0; i < 2; i++) b[i] = to_tf32(B[(t + 4 * i) * 8 + g]);
      mma_tf32(d, a, b);
      for (int i = 0; i < 4; i++) {
        const float *s = A2 + (g + 8 * (i % 2)) * 16 + 2 * t + 8 * (i / 2);
        p[i] = to_bf16x2(s[0], s[1]);
      }
      for (int i = 0; i < 2; i++) q[i] = to_bf16x2(B2[(2 * t + 8 * i) * 8 + g], B2[(2 * t + 8 * i + 1) * 8 + g]);
      mma_bf16(e, p, q);
      for (int i = 0; i < 4; i++) {
        D[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = d[i];
        D2[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = e[i];
      }
    }"""
    )
    rng = np.random.default_rng(0)
    a, b, a2, b2 = (rng.normal(size=s).astype(np.float32) for s in [(16, 8), (8, 8), (16, 16), (16, 8)])
    for shim.ORDER, shim.CHECK in itertools.product(range(4), (False, True)):
        d, d2 = np.zeros((2, 16, 8), np.float32)
        shim.RawModule(code=code).get_function("k")((1,), (32,), (a, b, d, a2, b2, d2))
        for result, x, y, bits in [(d, a, b, 11), (d2, a2, b2, 8)]:
            bound = np.abs(x).astype(float) @ np.abs(y) * 2.0**-bits * 2  # half a unit in the last place, in x and in y
            error = np.abs(result - x.astype(float) @ y)
            assert (error <= bound).all() and error.max() > bound.max() / 100


def test_rounding_to_fewer_bits(shim):
    """To the nearest number with 11 bits (TF32, ties away from zero) or 8 bits (BF16, ties to even); NaN stays NaN."""
    x = run(shim, ROUNDED, threads=4).reshape(-1, 4)[:4]
    assert x[0, 0] == 1 + 2.0**-10 and x[1, 0] == 1 + 2.0**-8
    np.testing.assert_array_equal(x[:3, 1:3], np.array([[1, 1], [1, 1], [1 + 2.0**-6] * 2], np.float32))
    assert np.isnan(x[3, 1:3]).all()


TWO = 'extern "C" __global__ void k(float *x, int n, float a, bool b) { x[0] = n + a + b; }'


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((np.zeros(2, np.float32), 3, np.float32(1), np.bool_(1)), "argument 1 is int, the kernel declares i4"),
        ((np.zeros(2, np.float32), np.int32(3), 1.0, np.bool_(1)), "argument 2 is float, the kernel declares f4"),
        ((np.zeros(2, np.float32), np.int32(3), np.float32(1), np.int32(1)), "argument 3 is int32"),
        ((np.zeros(2), np.int32(3), np.float32(1), np.bool_(1)), "argument 0 is an array of float64"),
        ((np.zeros((2, 2), np.float32).T, np.int32(3), np.float32(1), np.bool_(1)), "strides"),
        ((np.int32(3), np.int32(3), np.float32(1), np.bool_(1)), "argument 0 is int32"),
        ((np.zeros(2, np.float32), np.zeros(2, np.int32), np.float32(1), np.bool_(1)), "argument 1 is an array"),
        ((np.zeros(2, np.float32), np.int32(3)), "takes 4 arguments, got 2"),
    ],
)  # fmt: skip
def test_arguments_must_be_what_the_kernel_declares(shim, arguments, message):
    kernel = shim.RawModule(code=TWO).get_function("k")
    with pytest.raises(TypeError, match=message):
        kernel((1,), (1,), arguments)


def test_structs_and_absent_arrays(shim):
    code = """struct Pair { int a; float b; };
    extern "C" __global__ void k(float *x, Pair p, const float *absent) { x[0] = p.a + p.b + (absent ? 100 : 0); }"""
    kernel, x = shim.RawModule(code=code).get_function("k"), np.zeros(1, np.float32)
    pair = np.zeros((), [("a", np.int32), ("b", np.float32)])
    pair["a"], pair["b"] = 3, 0.5
    kernel((1,), (1,), (x, pair, cuda.NULL))
    assert x[0] == 3.5
    with pytest.raises(TypeError, match="struct of 12 bytes"):
        kernel((1,), (1,), (x, np.zeros((), "i4,i4,i4"), cuda.NULL))


@pytest.mark.parametrize(
    "grid, block, shared, message",
    [
        ((1,), (2048,), 0, "refuses the block"),
        ((1,), (1, 1, 128), 0, "refuses the block"),
        ((0,), (1,), 0, "refuses the grid"),
        ((1, 70000), (1,), 0, "refuses the grid"),
        ((1,), (512,), 0, "__launch_bounds__ allows 256"),
        ((1,), (32,), 50 << 10, "shared memory"),
    ],
)
def test_sizes_that_cuda_rejects(shim, grid, block, shared, message):
    kernel = shim.RawModule(code=TWO).get_function("k")
    with pytest.raises(ValueError, match=message):
        kernel(grid, block, (np.zeros(1, np.float32), np.int32(0), np.float32(0), np.bool_(0)), shared_mem=shared)


def test_launch_bounds(shim):
    """They may be constants of the source. Bounds that are template parameters are not checked."""
    code = """constexpr int MOST = 64;
    extern "C" __global__ void __launch_bounds__(MOST, 2) k(int *x) { x[0] = 1; }
    template <int T> __global__ void __launch_bounds__(T) t(int *x) { x[0] = T; }"""
    module, x = shim.RawModule(code=code, name_expressions=["t<128>"]), np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="a block of 96 threads, but __launch_bounds__ allows 64"):
        module.get_function("k")((1,), (96,), (x,))
    module.get_function("t<128>")((1,), (1024,), (x,))
    assert x[0] == 128


def test_shared_memory_of_a_template(shim):
    """It is checked like that of other functions; several declarations have separate memory; the limit is 48 KiB."""
    code = """template <int N> __device__ int other(int i) {
      __shared__ int numbers[N];
      numbers[i] = i;
      __syncthreads();
      return numbers[63 - i];
    }
    template <int N> __global__ void k(int *x) {
      __shared__ __align__(16) int rows[2][N / 2], last;
      __shared__ float unwritten;
      int i = threadIdx.x;
      if (i == 0) last = 1000;
      rows[i / 32][i % 32] = i;
      if (N > 50) __syncthreads();
      x[i] = rows[1 - i / 32][i % 32] + other<N>(i) + last + (unwritten == unwritten ? 5000 : 0);
    }
    template <int N> __global__ void large(int *x) {
      __shared__ char a[40000];
      __shared__ char b[N];
      a[threadIdx.x] = b[threadIdx.x] = 0;
      __syncthreads();
      x[threadIdx.x] = a[0] + b[0];
    }"""
    expected = (np.arange(64) + 32) % 64 + 63 - np.arange(64) + 1000
    for shim.ORDER, shim.CHECK in itertools.product(range(4), (False, True)):
        module, x = (
            shim.RawModule(code=code, name_expressions=["k<64>", "large<9000>", "large<9200>"]),
            np.zeros(64, np.int32),
        )
        module.get_function("k<64>")((2,), (64,), (x,))
        np.testing.assert_array_equal(x, expected)
        module.get_function("large<9000>")((1,), (64,), (x,))
        with pytest.raises(shim.KernelError, match="more than 48 KiB"):
            module.get_function("large<9200>")((1,), (64,), (x,))
    module = shim.RawModule(code=code.replace("N > 50", "N > 70"), name_expressions=["k<64>"])
    with pytest.raises(shim.KernelError, match="race: .* of shared memory"):
        module.get_function("k<64>")((1,), (64,), (np.zeros(64, np.int32),))


def test_more_shared_memory_on_demand(shim):
    code = 'extern "C" __global__ void k(float *x) { extern __shared__ float s[]; s[14999] = 7; x[0] = s[14999]; }'
    kernel, x = shim.RawModule(code=code).get_function("k"), np.zeros(1, np.float32)
    kernel.max_dynamic_shared_size_bytes = 60000
    kernel((1,), (1,), (x,), shared_mem=60000)
    assert x[0] == 7
    with pytest.raises(ValueError, match="at most"):
        kernel.max_dynamic_shared_size_bytes = 200 << 10


def test_the_compiler_names_file_and_line(shim):
    with pytest.raises(shim.CompileError, match="body.cu:2.*missing"):
        shim.RawModule(code='#line 1 "body.cu"\nextern "C" __global__ void k(int *x) {\n  *x = missing;\n}')
