# %% [markdown] slideshow={"slide_type": "slide"}
# # 16 Kernels: the same numbers, faster
#
# **Question.** NumPy computes the right numbers. The library computes the same ones ten to a thousand times as fast, on
# the same processor, from Python. **Where does the time go, and how fast could it be at all?**
#
# - A specification, in NumPy, says *what*. A kernel says *how*. An assert says that they agree.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecture:* ask for guesses: how many additions does a laptop do in a second? (Some hundred billion.) And how
# many numbers can it fetch from memory in that second? (Some billion.) The factor between the two is this notebook.

# %%
import importlib
import inspect
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from numba import njit

from minimask import boxes as box_ops
from minimask import check, device, draw, normalization
from minimask.convolution import conv2d
from minimask.device import gpu_available, to_cpu, to_gpu
from minimask.kernels import add as add_kernel
from minimask.kernels import parallel
from minimask.kernels.simd import LANES, ROWS, VECTORS, WIDTH, multiply
from minimask.machine.threads import threads

nms_kernel = importlib.import_module("minimask.kernels.nms")
plt.rcParams.update({"figure.figsize": (9, 4.5), "figure.dpi": 100, "font.size": 14})
plt.rcParams["figure.constrained_layout.use"] = True
ORANGE, SKY, RED, BLUE, GREEN = draw.COLORS[[0, 1, 2, 4, 6]] / 255
rng = np.random.default_rng(16)


def seconds(function, *arguments, repeats=9):
    """The shortest of several calls: the others were disturbed by something."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return min(times)


# %% [markdown]
# **Words of this notebook**
#
# - *Kernel*: here a compiled function that does one operation. (A convolution's kernel, notebook 02, is another thing.)
# - *Numba*: translates a Python function of loops into machine code when it is first called.
# - *Thread*: one of several sequences of instructions that run at the same time, one a processor core.
# - *Register*: a place inside the processor for one vector; *vector*: a few numbers, 4 to 16, computed on at once, each
#   in its *lane*. *Multiply-add*: one instruction that multiplies two vectors and adds the result to a third.
# - *Cache*: small fast memory between registers and main memory.
# - *GFLOP/s*: billions of additions and multiplications a second. *GB/s*: billions of bytes moved a second.
# - *BLAS*: the library of fast matrix products that NumPy calls.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 1 One operation, two forms
#
# Non-maximum suppression (notebook 09): take the best box, drop all that overlap it, go on.
#
# - NumPy: **first the whole table** of overlaps, then row by row.
# - Kernel: **no table**. A dropped box's row is never computed, a kept one's never stored.

# %%
print(inspect.getsource(box_ops.nms.plain).split('"""')[2])

# %% [markdown]
# ### The kernel: no table
#
# The same in loops, `kernels/nms.py`:

# %%
print(inspect.getsource(nms_kernel.nms_image.py_func).split('"""')[2])

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
corner = np.random.default_rng(0).uniform(0, 100, (40, 2))
forty = np.concatenate([corner, corner + 40], axis=1)  # best first
table, alive = box_ops.iou(forty, forty) > 0.3, np.ones(40, bool)
computed = np.zeros((40, 40), bool)
for i in range(40):
    if alive[i]:
        computed[i, i + 1 :] = True
        alive[i + 1 :] &= ~table[i, i + 1 :]
figure, panels = plt.subplots(1, 2, figsize=(9, 4))
for axes, cells, name in zip(panels, (np.ones((40, 40), bool), computed), ("NumPy", "kernel")):
    axes.imshow(np.where(cells, np.where(table, 2, 1), 0), cmap="Blues", vmin=0, vmax=3)
    axes.set(xticks=[], yticks=[], xlabel="with each of 40 boxes")
    axes.set_title(f"{name}: {cells.sum()} overlaps", fontsize=14)
panels[0].set_ylabel("each of 40 boxes, best first")
assert computed.sum() < 40 * 40 / 3
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Blue is what is computed, dark blue an overlap above the threshold. The kernel has a row for each box that is kept,
# and only its part right of the diagonal: the boxes that are worse.

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Equal, and how much faster
#
# Same arguments, same result: that is what *specification* means. Memory: the table has R x R truth values and, on the
# way, floats; the kernel has R bytes.

# %%
R = 1500
corner = rng.uniform(0, 300, (1, R, 2))
boxes = np.concatenate([corner, corner + rng.uniform(10, 60, (1, R, 2))], axis=2).astype(np.float32)
scores, valid = rng.random((1, R)).astype(np.float32), np.ones((1, R), bool)
slow = box_ops.nms.plain(boxes, scores, valid, 0.5)
fast = box_ops.nms(boxes, scores, valid, 0.5)
for a, b in zip(slow, fast):
    np.testing.assert_array_equal(a, b)
forms = {
    "NumPy, the whole table": seconds(box_ops.nms.plain, boxes, scores, valid, 0.5, repeats=3),
    "Numba, one sweep": seconds(box_ops.nms, boxes, scores, valid, 0.5),
}
print(f"{R} boxes, {int(fast[1].sum())} kept:", {name: f"{1000 * t:.1f} ms" for name, t in forms.items()})
assert forms["Numba, one sweep"] < forms["NumPy, the whole table"]

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9, 2.4))
bars = axes.barh(list(forms), [1000 * t for t in forms.values()], color=[SKY, ORANGE])
axes.bar_label(bars, [f"{1000 * t:.1f} ms" for t in forms.values()], padding=5)
axes.invert_yaxis()
axes.set(xlabel=f"milliseconds, {R} boxes", xlim=(0, 1250 * max(forms.values())))
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 One loop for all: `kernels/parallel.py`
#
# Compiling a loop over threads costs half a second, each time anew. So it is compiled **once**, and calls any kernel by
# its address: `part(t, parts, arrays, numbers)` does the share of thread t.

# %%
print(inspect.getsource(add_kernel.add_part.py_func))
print(inspect.getsource(parallel._run.py_func))

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
shares = [(t * 10 // 4, (t + 1) * 10 // 4) for t in range(4)]
assert shares == [(0, 2), (2, 5), (5, 7), (7, 10)]  # by hand: 10/4 = 2.5 rows each, borders rounded down
figure, axes = plt.subplots(figsize=(9, 2.6))
for t, (first, last) in enumerate(shares):
    for row in range(first, last):
        axes.add_patch(plt.Rectangle((row, 0), 0.93, 0.8, color=(ORANGE, SKY, GREEN, BLUE)[t]))
        axes.text(row + 0.46, 0.4, row, ha="center", va="center", fontsize=18, color="white" if t == 3 else "black")
    axes.text((first + last) / 2, 1.0, f"thread {t}", ha="center")
axes.set(xlim=(-0.1, 10.1), ylim=(-0.15, 1.4), title="10 rows, 4 threads")
axes.axis("off")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The rule: a part may write only what no other part reads or writes. Then no locks are needed, and the result is the
# same bits each time. In max pooling's backward pass the rule shapes the algorithm: each pixel *collects* from the
# windows above it, instead of windows *scattering* to pixels, since two windows may hit one pixel.

# %% [markdown]
# ### Exercise 1: a thread's share


# %% exercise="thread_share"
def my_thread_share(size, t, parts):
    """The array (first, last + 1) of the rows of thread t of `parts`: border t is t size / parts, rounded down."""
    ### BEGIN SOLUTION
    return np.array([t * size // parts, (t + 1) * size // parts])
    ### END SOLUTION


# %% check="thread_share"
check.thread_share(my_thread_share)

# %%
a, b = rng.standard_normal((2, 100_000)).astype(np.float32)
total = np.empty_like(a)
for t in range(3):  # the shares of three threads, one after the other, by the function before compilation
    first, last = my_thread_share(a.size, t, 3)
    total[first:last] = a[first:last] + b[first:last]
kernel_total = add_kernel.add_gradients(a, b)
assert (total == a + b).all() and (kernel_total == a + b).all()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 Cold and warm
#
# *Cold*: nothing is compiled. *From the cache*: another process has compiled it, the code lies on disk. *Warm*: the
# second call in one process. The first call's time says nothing about speed.

# %%
script = """
import time, numpy as np
from minimask.kernels import add
a = np.ones(100_000, np.float32)
for _ in range(50):
    start = time.perf_counter()
    add.add_gradients(a, a)
    print(time.perf_counter() - start)
"""
with tempfile.TemporaryDirectory() as empty:
    environment = {**os.environ, "NUMBA_CACHE_DIR": empty}
    runs = [subprocess.check_output([sys.executable, "-c", script], env=environment, text=True) for _ in range(2)]
(cold, *_), (cached, *others) = [[float(line) for line in run.split()] for run in runs]
warm = min(others)
print(f"cold {cold:.2f} s, from the cache {1000 * cached:.1f} ms, warm {1000 * warm:.3f} ms")
assert cold > cached > warm

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9, 2.8))
first_calls = {"cold": 1000 * cold, "from the cache": 1000 * cached, "warm": 1000 * warm}
bars = axes.barh(list(first_calls), first_calls.values(), color=[RED, ORANGE, SKY])
axes.bar_label(bars, [f"{t:.0f} ms" if t > 10 else f"{t:.3f} ms" for t in first_calls.values()], padding=5)
axes.invert_yaxis()
axes.set(xlabel="milliseconds (a step is a factor of 10)", xscale="log", xlim=(300 * warm, 30_000 * cold))
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# A factor of more than a thousand between cold and warm is usual; the time from the cache is mostly that of starting
# Numba and its threads. That is why `python -m minimask` compiles everything once, with a progress line, and why a
# benchmark must call a function once before it looks at the clock.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 Bytes: batch norm and ReLU, fused
#
# In evaluation batch norm is `x scale + shift`, then ReLU. NumPy makes **three passes** over memory: multiply, add,
# maximum. The kernel makes **one**: a number is read, all is done in a register, it is written.


# %% exercise="bytes_moved"
def my_bytes_moved(size, passes, fused):
    """Bytes read and written by `passes` operations on `size` float32 numbers, one after the other or fused."""
    ### BEGIN SOLUTION
    return 4 * size * 2 * (1 if fused else passes)
    ### END SOLUTION


# %% check="bytes_moved"
check.bytes_moved(my_bytes_moved)

# %% [markdown]
# *(Exercise 2.)* By hand: a map of 200 x 272 cells and 64 channels (the first level of a photo of 800 x 1088) has 3.5
# million numbers, 13.9 MB. Unfused: 3 times reading and 3 times writing that, 84 MB. Fused: 28 MB.

# %%
x = rng.standard_normal((1, 200 * 272, 64)).astype(np.float32)
scale, shift = rng.random((2, 1, 64)).astype(np.float32)
three, one = (my_bytes_moved(x.size, 3, fused) for fused in (False, True))
assert (round(three / 1e6), round(one / 1e6)) == (84, 28)
temporary = np.empty_like(x)


def unfused():
    """Three passes, into one array made beforehand."""
    np.multiply(x, scale[:, None], out=temporary)
    np.add(temporary, shift[:, None], out=temporary)
    return np.maximum(temporary, 0, out=temporary)


def fused():
    return normalization.affine(x, scale, shift, None, True)


np.testing.assert_allclose(fused(), unfused(), atol=1e-6)
times = {"three passes": seconds(unfused), "fused": seconds(fused)}
bandwidth = 2 * x.nbytes / seconds(np.copyto, temporary, x)  # read and write once: what memory can do, one thread
print(f"three passes {1000 * times['three passes']:.1f} ms, {three / times['three passes'] / 1e9:.1f} GB/s")
print(f"fused        {1000 * times['fused']:.1f} ms, {one / times['fused'] / 1e9:.1f} GB/s")
print(f"a plain copy {1000 * 2 * x.nbytes / bandwidth:.1f} ms, {bandwidth / 1e9:.1f} GB/s")
assert times["fused"] < times["three passes"]

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6))
left.bar(["three\npasses", "fused"], [three / 1e6, one / 1e6], color=[SKY, ORANGE])
left.set(ylabel="MB moved")
right.bar(["three\npasses", "fused"], [1000 * t for t in times.values()], color=[SKY, ORANGE])
right.set(ylabel="milliseconds")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The arithmetic is the same, the bytes are a third. The fused pass also runs on all threads, so that its gain may
# differ from three. It allocates its result, which the three passes here do not. The best normalization is none: in
# evaluation the scale and shift can be put into the convolution's weights (notebook 03).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 Operations: down to the registers
#
# Notebook 02, section 11, went from nine lines of NumPy through *im2col* to the library's kernel. Now its core: the
# product of a tile of 112 pixels, (112, 576), with the weights, (576, 64).

# %%
M, K, N = 112, 576, 64
FLOPS = 2 * M * K * N
assert FLOPS == 8_257_536
tile, matrix = rng.standard_normal((M, K)).astype(np.float32), rng.standard_normal((K, N)).astype(np.float32)


@njit
def dot_by_dot(a, b, c):
    """Each result by itself: a row of a times a column of b."""
    for m in range(a.shape[0]):
        for n in range(b.shape[1]):
            total = np.float32(0)
            for k in range(a.shape[1]):
                total += a[m, k] * b[k, n]
            c[m, n] = total


@njit
def row_by_row(a, b, c):
    """A row of results grows at once: the loop over n is done in vectors. But c is read and written K times."""
    c[:] = 0
    for m in range(a.shape[0]):
        for k in range(a.shape[1]):
            number = a[m, k]
            for n in range(b.shape[1]):
                c[m, n] += number * b[k, n]


# %% [markdown]
# **The micro-kernel.** `multiply` of `kernels/simd.py` keeps a block of ROWS x WIDTH results in registers while it
# walks over k. It wants b in panels of WIDTH columns, so that what it reads next lies next.

# %%
panels = np.ascontiguousarray(matrix.reshape(K, N // WIDTH, WIDTH).transpose(1, 0, 2)).ravel()  # (N / WIDTH, K, WIDTH)
rows = -(-M // ROWS) * ROWS  # whole blocks
padded = np.zeros((rows, K), np.float32)
padded[:M] = tile
flat_tile, result = padded.ravel(), np.zeros(rows * N, np.float32)


@njit
def in_registers(a, b, c, m, k, n, width):
    """Panel by panel, with the library's micro-kernel."""
    for panel in range(n // width):
        multiply(a, 0, k, 1, b, panel * k * width, c, panel * width, n, m, width, k, 0)


def micro():
    in_registers(flat_tile, panels, result, rows, K, N, WIDTH)
    return result.reshape(rows, N)[:M]


c = np.empty((M, N), np.float32)
expected = tile.astype(float) @ matrix.astype(float)
for function in (dot_by_dot, row_by_row):
    function(tile, matrix, c)
    np.testing.assert_allclose(c, expected, atol=2e-3)
np.testing.assert_allclose(micro(), expected, atol=2e-3)


def python_row():
    """One row of results out of M, in Python: the rest would take as long each."""
    return [sum(tile[0, k] * matrix[k, n] for k in range(K)) for n in range(4)]


rates = {
    "Python": 2 * K * 4 / seconds(python_row, repeats=2),
    "Numba, dot by dot": FLOPS / seconds(dot_by_dot, tile, matrix, c),
    "Numba, row by row": FLOPS / seconds(row_by_row, tile, matrix, c, repeats=30),
    "micro-kernel": FLOPS / seconds(micro, repeats=60),
}
for name, rate in rates.items():
    print(f"{name:20} {rate / 1e9:9.4f} GFLOP/s, one thread")
assert rates["Python"] < rates["Numba, dot by dot"] < rates["micro-kernel"]
assert rates["Numba, row by row"] < rates["micro-kernel"]

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(10, 3.6))
bars = axes.barh(list(rates), np.array(list(rates.values())) / 1e9, color=[SKY] * 3 + [ORANGE])
labels = [f"{rate / 1e9:.0f}" if rate > 1e10 else f"{rate / 1e9:.2g}" for rate in rates.values()]
axes.bar_label(bars, labels, padding=5)
axes.set_xscale("log")
axes.invert_yaxis()
axes.set(xlabel="GFLOP/s on one thread (a step is a factor of 10)")
axes.set_xlim(rates["Python"] / 3e9, 5e-9 * max(rates.values()))
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Why a block of results?
#
# Row by row each multiply-add loads b and c and stores c. In a block every loaded number is used many times, and the
# results do not move.

# %% slideshow={"slide_type": "fragment"}
block = np.zeros((ROWS, WIDTH))
for k in range(K):  # what the micro-kernel does for one block: K outer products
    block += np.outer(tile[:ROWS, k], matrix[k, :WIDTH])
np.testing.assert_allclose(block, expected[:ROWS, :WIDTH], atol=1e-4)

loads = VECTORS + ROWS  # for each k: vectors of b, numbers of a
multiply_adds = ROWS * VECTORS  # for each k: vectors of results
print(f"a block of {ROWS} x {VECTORS} vectors of {LANES} numbers, for each k:")
print(f"{loads} loads for {multiply_adds} multiply-adds")
assert loads < multiply_adds  # row by row: two loads and a store for each one

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Exercise 3: how many rows fit?
#
# `rows x vectors` results, `vectors` of b and 1 number of a (in all lanes) must lie in the processor's registers: 32 in
# processors with AVX-512, or with NEON, 16 in those with AVX2.


# %% exercise="block_rows"
def my_block_rows(registers, vectors):
    """The most rows of a block that is `vectors` wide, if results, a row of b and one number of a fit in registers."""
    ### BEGIN SOLUTION
    return (registers - vectors - 1) // vectors
    ### END SOLUTION


# %% check="block_rows"
check.block_rows(my_block_rows)

# %%
assert [my_block_rows(32, 2), my_block_rows(16, 2), my_block_rows(32, 4)] == [14, 6, 6]  # AVX-512, AVX2, NEON

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots()
widths = np.arange(1, 9)
for registers, color, marker in ((32, BLUE, "o"), (16, ORANGE, "s")):
    heights = np.array([my_block_rows(registers, v) for v in widths])
    ratio = np.where(heights > 0, (heights + widths) / np.maximum(heights * widths, 1), np.nan)
    axes.plot(widths, ratio, marker=marker, color=color, linewidth=3, label=f"{registers} registers")
axes.set(xlabel="width of the block in vectors", ylabel="loads for a multiply-add", ylim=(0, 2.1))
axes.legend()
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Too narrow, and each number of a is used for one vector only; too wide, and few rows are left. A processor does about
# two loads and two multiply-adds a cycle, so that any ratio below 1 keeps it busy. It is lowest for the squarest block,
# and the library's are near that. ROWS in the library is what the exercise gives, if Numba knows the processor.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 Fewer multiplications: Winograd's F(2, 3)
#
# Two outputs of a kernel of three: $y_0 = d_0 g_0 + d_1 g_1 + d_2 g_2$, $y_1 = d_1 g_0 + d_2 g_1 + d_3 g_2$. **Six**
# products. With $u = (g_0,\ \frac{g_0 + g_1 + g_2}{2},\ \frac{g_0 - g_1 + g_2}{2},\ g_2)$, made once, **four**:
#
# $m = ((d_0 - d_2) u_0,\ (d_1 + d_2) u_1,\ (d_2 - d_1) u_2,\ (d_1 - d_3) u_3)$
#
# $y_0 = m_0 + m_1 + m_2, \qquad y_1 = m_1 - m_2 - m_3$

# %% [markdown]
# **By hand.** d = (1, 2, 3, 4), g = (1, 1, 1): u = (1, 1.5, 0.5, 1), m = (-2, 7.5, 0.5, -2), y = (6, 9), and indeed
# 1 + 2 + 3 = 6, 2 + 3 + 4 = 9.
#
# **Why it works.** $m_1 + m_2$ has the terms $d_1 g_1 + d_2 (g_0 + g_2)$, $m_1 - m_2$ the terms $d_2 g_1 + d_1 (g_0 +
# g_2)$: two products give what four gave. $m_0$ and $m_3$ repair the ends. (Exercise 4.)


# %% exercise="winograd_1d"
def my_winograd_1d(d, u):
    """The two outputs y (2,) for four inputs d (4,) and the transformed kernel u (4,), with four multiplications."""
    ### BEGIN SOLUTION
    m = (d[0] - d[2]) * u[0], (d[1] + d[2]) * u[1], (d[2] - d[1]) * u[2], (d[1] - d[3]) * u[3]
    return np.array([m[0] + m[1] + m[2], m[1] - m[2] - m[3]])
    ### END SOLUTION


# %% check="winograd_1d"
check.winograd_1d(my_winograd_1d)

# %% [markdown]
# Four, really? A kind of number that counts its multiplications:


# %%
class Counted(float):
    """A number that counts products and sums."""

    products = sums = 0

    def __mul__(self, other):
        Counted.products += 1
        return Counted(float(self) * float(other))

    def __add__(self, other):
        Counted.sums += 1
        return Counted(float(self) + float(other))

    def __sub__(self, other):
        Counted.sums += 1
        return Counted(float(self) - float(other))


def direct(d, g):
    return np.array([d[0] * g[0] + d[1] * g[1] + d[2] * g[2], d[1] * g[0] + d[2] * g[1] + d[3] * g[2]])


counts = {}
for name, function, weights in (("direct", direct, (1, 1, 1)), ("Winograd", my_winograd_1d, (1, 1.5, 0.5, 1))):
    Counted.products = Counted.sums = 0
    y = function([Counted(v) for v in (1, 2, 3, 4)], [Counted(v) for v in weights])
    counts[name] = (Counted.products, Counted.sums)
    assert y.astype(float).tolist() == [6, 9]
print("products and sums:", counts)
assert counts["Winograd"][0] == 4 and counts["direct"] == (6, 4)
assert 6**2 / 4**2 == 2.25 and 16 * 9 / 36 == 4  # in two dimensions: F(2x2, 3x3), and the library's F(4x4, 3x3)

# %% [markdown] slideshow={"slide_type": "notes"}
# Fewer products, more sums: 4 and 8 instead of 6 and 4. On single numbers that gains nothing. It pays because the
# sums over d are made once for each input channel, those over m once for each output channel, but the products for
# each *pair*: with 64 and 64 channels, 4096 times. The library's kernels/conv_winograd.py does that, with a matrix
# product for each of 36 places, through the same micro-kernel.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 The roofline: bytes or operations?
#
# A kernel that does few operations for each byte waits for memory; one that does many, for the arithmetic. Their
# number is the *intensity*. The limit is the smaller of peak and intensity x bandwidth. (Exercise 5.)


# %% exercise="roofline"
def my_roofline(intensity, peak, bandwidth):
    """The most operations a second for a kernel of that many operations a byte: limited by arithmetic or by memory."""
    ### BEGIN SOLUTION
    return min(peak, intensity * bandwidth)
    ### END SOLUTION


# %% check="roofline"
check.roofline(my_roofline)

# %% [markdown]
# The machine's two numbers, both on all threads: the micro-kernel on numbers that stay in the cache (as in notebook
# 02), and the sum of two large arrays, which reads two and writes one.

# %%
DEPTH, TIMES = 128, 400


@njit
def peak_part(t, parts, arrays, numbers):
    """The same block again and again, each thread on numbers of its own."""
    a, b, c = arrays[:3]
    depth, times, rows, width = numbers[:4]
    for _ in range(times):
        multiply(a, t * rows * depth, depth, 1, b, t * depth * width, c, t * rows * width, width, rows, width, depth, 1)


cache = [np.zeros(threads() * n, np.float32) for n in (ROWS * DEPTH, DEPTH * WIDTH, ROWS * WIDTH)]
sizes = DEPTH, TIMES, ROWS, WIDTH
parallel.run(peak_part, cache, sizes)  # compiles
long = [np.ones(16_000_000, np.float32) for _ in range(3)]  # 64 MB each: larger than the caches
memory = sum(a.nbytes for a in long) / seconds(parallel.run, add_kernel.add_part, long, ())

picture = rng.standard_normal((1, 100, 136, 64)).astype(np.float32)
kernels = {size: rng.standard_normal((size, size, 64, 64)).astype(np.float32) for size in (1, 3)}


def convolve(size, winograd):
    """The convolution of the picture with or without Winograd's identity."""
    before, device.winograd = device.winograd, winograd
    try:
        return conv2d(picture, kernels[size], padding=size // 2)
    finally:
        device.winograd = before


works = {  # name -> what is run
    "peak": lambda: parallel.run(peak_part, cache, sizes),
    "convolution 1 x 1": lambda: convolve(1, False),
    "convolution 3 x 3": lambda: convolve(3, False),
    "the same, Winograd": lambda: convolve(3, True),
}
shortest = dict.fromkeys(works, np.inf)
for _ in range(100):  # in turns, for other programs run here too
    for name, work in works.items():
        shortest[name] = min(shortest[name], seconds(work, repeats=1))

# %%
points = {}  # name -> (operations a byte, operations a second)
points["sum of two maps"] = (1 / 12, memory / 12)  # one operation; two numbers read, one written
points["batch norm + ReLU"] = (3 * x.size / one, 3 * x.size / times["fused"])
for name, t in shortest.items():
    w = kernels[1 if "1 x 1" in name else 3]
    flops = 2 * w.size * picture.size / 64
    moved = 2 * picture.nbytes + w.nbytes  # map read, map written, weights read
    if name != "peak":
        points[name] = (flops / moved, flops / t)

peak = 2 * threads() * TIMES * DEPTH * ROWS * WIDTH / shortest["peak"]
reached = [points[f"convolution {size} x {size}"][1] for size in kernels]
peak = max(peak, rates["micro-kernel"], *reached)  # where other programs disturbed its measurement more than these
print(f"{threads()} threads: {peak / 1e9:.0f} GFLOP/s, {memory / 1e9:.1f} GB/s, corner at {peak / memory:.1f}")
assert peak > memory  # more than one operation for each byte is needed to keep the arithmetic busy
for name, (intensity, rate) in points.items():
    limit = my_roofline(intensity, peak, memory)
    print(f"{name:18} {intensity:6.2f} flops a byte, {rate / 1e9:5.0f} GFLOP/s, {100 * rate / limit:3.0f} % of roof")
by_hand = 2 * 9 * 64 / 8  # a 3 x 3: each number of the map is 1152 operations, and 8 bytes: read and written
assert by_hand == 144 and abs(points["convolution 3 x 3"][0] / by_hand - 1) < 0.05

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(10, 4.5))
line = np.geomspace(0.03, 1000, 200)
axes.plot(line, [my_roofline(i, peak, memory) / 1e9 for i in line], color=RED, linewidth=3)
marks = zip(points.items(), (SKY, GREEN, BLUE, ORANGE, ORANGE), ("o", "s", "^", "D", "*"))
for (name, (intensity, rate)), color, marker in marks:
    axes.plot(intensity, rate / 1e9, marker, color=color, markersize=18 if marker == "*" else 13, label=name)
axes.set_xscale("log")
axes.set_yscale("log")
axes.set(xlabel="operations a byte", ylabel="GFLOP/s", xlim=(0.03, 1000))
axes.text(0.035, memory / 1e9 * 0.16, f"{memory / 1e9:.0f} GB/s", color=RED, va="bottom")
axes.text(0.035, peak / 1e9, f"peak {peak / 1e9:.0f} GFLOP/s", color=RED, va="center")
axes.set_ylim(top=3e-9 * max(peak, *(rate for _, rate in points.values())))
axes.legend(loc="lower right")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Left of the corner only fewer bytes help: fuse. Right of it only better arithmetic: registers, Winograd. The star may
# lie above the roof: its operations are counted as if done directly, and Winograd does a quarter of the products. A map
# that just fits into a cache can lie above the slope for the same kind of reason: the bytes do not all come from
# memory. The numbers are of the machine that ran this.

# %% [markdown]
# Move a convolution along the roof. With k x k places and C channels in and out each number of the map takes part in
# 2 k² C operations, and is 8 bytes, read and written: k² C / 4 operations a byte.


# %% widget=True
def draw_roof(axes, size, channels):
    """The roof, and where a convolution of size x size with so many channels stands on it at best."""
    intensity = size * size * channels / 4
    axes.loglog(line, [my_roofline(i, peak, memory) / 1e9 for i in line], color=RED, linewidth=3)
    axes.plot(intensity, my_roofline(intensity, peak, memory) / 1e9, "D", color=ORANGE, markersize=14)
    limit = "memory" if intensity * memory < peak else "arithmetic"
    title = f"{size} x {size}, {channels} channels: {intensity:g}\noperations a byte, limit: {limit}"
    axes.set_title(title, fontsize=13)
    axes.set(xlabel="operations a byte", xlim=(0.03, 1000))


def roof(size=3, channels=64):
    """One figure for one position of the sliders."""
    draw_roof(plt.subplots(figsize=(7, 4))[1], size, channels)
    plt.show()


try:
    from ipywidgets import IntSlider, interact

    interact(roof, size=IntSlider(3, 1, 7, 2), channels=IntSlider(64, 1, 256))
except ImportError:  # no widgets installed
    roof()

# %% [markdown]
# Without sliders, three positions: few channels wait for memory.

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), sharey=True)
for axes, position in zip(panels, ((1, 4), (1, 64), (3, 64))):
    draw_roof(axes, *position)
panels[0].set_ylabel("GFLOP/s at most")
assert 3 * 3 * 64 / 4 == by_hand  # the 3 x 3 of the figure
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 On a graphics card: one thread for each number
#
# A card has thousands of threads. A CUDA kernel is written for **one** of them, which finds its place from its own
# number. `kernels/add.py` loops over the numbers; of `kernels/add.cu` there is a thread for each.

# %%
folder = Path(add_kernel.__file__).parent
print((folder / "add.cu").read_text())
print("#define GRID_LOOP" + (folder / "common.cuh").read_text().split("#define GRID_LOOP")[1].split("\n\n")[0])

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
BLOCKS, THREADS, SIZE = 3, 4, 10
numbers = [(block, thread, block * THREADS + thread) for block in range(BLOCKS) for thread in range(THREADS)]
assert numbers[6] == (1, 2, 6) and sum(i >= SIZE for _, _, i in numbers) == 2  # by hand: 1 * 4 + 2; two have nothing
figure, axes = plt.subplots(figsize=(9, 2.6))
for block, thread, i in numbers:
    color = (ORANGE, SKY, GREEN)[block] if i < SIZE else "lightgray"
    axes.add_patch(plt.Rectangle((i + 0.4 * block, 0), 0.93, 0.8, color=color))
    axes.text(i + 0.4 * block + 0.46, 0.4, f"{i}", ha="center", va="center", fontsize=18)
    axes.text(i + 0.4 * block + 0.46, -0.3, f"{thread}", ha="center", va="center", fontsize=13)
for block in range(BLOCKS):
    axes.text(4.4 * block + 2, 1.0, f"block {block}", ha="center")
axes.text(-0.3, -0.3, "thread", ha="right", va="center", fontsize=13)
axes.set(xlim=(-1.6, 13), ylim=(-0.6, 1.4), title="10 numbers, blocks of 4 threads")
axes.axis("off")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Two threads of the last block find nothing to do: `if (i < count)`, or the loop, must say so, or they write behind the
# array. A warp, 32 threads of a block, goes on together; blocks share nothing and run in any order.

# %% [markdown] slideshow={"slide_type": "slide"}
# ### A card in ten lines of Python
#
# Each thread is a generator; `yield` is a **barrier**: none of a block goes on before all have come. Blocks come **in
# any order**, and so do threads between two barriers. A block has a small memory of its own, *shared*.


# %%
def launch(kernel, blocks, threads, *arrays):
    """Run `kernel` as a card would: every thread of every block, in random order between barriers."""
    for block in rng.permutation(blocks):
        shared = np.full(threads, np.nan)
        running = [kernel(block, thread, shared, *arrays) for thread in range(threads)]
        while running:
            order = rng.permutation(len(running))
            running = [running[i] for i in order if next(running[i], "done") != "done"]


def block_sum(block, thread, shared, values, sums):
    """sums[block] = the sum of the block's values: half of the threads add, then a quarter, ..."""
    shared[thread] = values[block * len(shared) + thread]
    yield
    half = len(shared) // 2
    while half:
        if thread < half:
            shared[thread] += shared[thread + half]
        yield
        half //= 2
    if thread == 0:
        sums[block] = shared[0]


# %% slideshow={"slide_type": "fragment"}
values, sums = rng.integers(0, 100, 64).astype(float), np.zeros(4)
launch(block_sum, 4, 16, values, sums)
assert (sums == values.reshape(4, 16).sum(1)).all()  # whatever the order
print(sums)

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Without the barrier: right, sometimes
#
# The same without the second `yield`: a thread adds a number that its neighbor has not finished yet. In how many of
# 200 orders is the sum right?


# %%
def without_barrier(block, thread, shared, values, sums):
    """`block_sum` with a barrier forgotten."""
    shared[thread] = values[block * len(shared) + thread]
    yield
    half = len(shared) // 2
    while half:
        if thread < half:
            shared[thread] += shared[thread + half]
        half //= 2
    if thread == 0:
        sums[block] = shared[0]


def rate_of_right(kernel, threads, times=200):
    """Part of `times` orders in which `kernel` comes to the right sum of `threads` ones."""
    ones, right = np.ones(threads), 0
    for _ in range(times):
        result = np.zeros(1)
        launch(kernel, 1, threads, ones, result)
        right += int(result[0] == threads)
    return right / times


right = {threads: rate_of_right(without_barrier, threads) for threads in (2, 4, 8, 16)}
print("right without the barrier:", right)
assert rate_of_right(block_sum, 16) == 1 == right[2] and right[16] < right[4] < 1
assert abs(right[4] - 1 / 2) < 0.2  # by hand, of 4: thread 0 needs what thread 1 adds up, so 1 must come first

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9, 3.6))
bars = axes.bar([str(threads) for threads in right], [100 * part for part in right.values()], color=SKY)
axes.bar_label(bars, [f"{100 * part:.0f} %" for part in right.values()], padding=3)
axes.set(xlabel="threads that add up as many numbers", ylabel="right, %", ylim=(0, 115))
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# That is the treacherous part: with few threads, or in the order that this card happens to take, the mistake does not
# show. So the project's tests run each kernel in several orders, forwards, backwards and shuffled, and fill shared
# memory with NaN before. The same `.cu` files are compiled by an ordinary C++ compiler for that, with a header in the
# place of CUDA: no card is needed (`tests/cuda_on_cpu`).

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Many threads, one place
#
# Where several threads add to one place (RoIAlign's backward pass: two boxes, one cell), reading, adding and writing
# must be one piece: an **atomic** addition. Otherwise an addition is lost.


# %%
def add_to_place(block, thread, shared, places, total):
    """Read, then write: between the two another thread may write."""
    old = total[places[thread]]
    yield
    total[places[thread]] = old + 1


def add_atomically(block, thread, shared, places, total):
    """In one piece."""
    total[places[thread]] += 1
    yield


places = np.array([0, 1, 1, 1, 2, 2, 3, 3])
counts_of = {}
for kernel in (add_to_place, add_atomically):
    total = np.zeros(4)
    launch(kernel, 1, len(places), places, total)
    counts_of[kernel.__name__] = total.tolist()
print(counts_of)
assert counts_of == {"add_to_place": [1, 1, 1, 1], "add_atomically": [1, 3, 2, 2]}

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9, 3.6))
for k, (title, color) in enumerate(zip(("read, then write", "atomic"), (RED, GREEN))):
    bars = axes.bar(np.arange(4) + 0.4 * k - 0.2, list(counts_of.values())[k], 0.38, color=color, label=title)
    axes.bar_label(bars, padding=2)
axes.set(ylim=(0, 3.9), ylabel="what is there", yticks=range(4))
axes.set_xticks(range(4), [f"place {i}: {n} thread{'s' * (n > 1)}" for i, n in enumerate(np.bincount(places).tolist())])
axes.legend(loc="upper right")
plt.show()

# %% [markdown]
# Atomic, nothing is lost; but the *order* is the card's, and float sums depend on it:

# %%
parts = rng.standard_normal(1000).astype(np.float32)
different = {float(np.cumsum(parts[rng.permutation(1000)])[-1]) for _ in range(50)}
print(f"{len(different)} different sums of the same 1000 numbers, {max(different) - min(different):.1e} apart")
assert len(different) > 5

# %% [markdown] slideshow={"slide_type": "notes"}
# So the library's default is to *gather*: a thread owns a cell and adds up what the boxes give to it, box after box,
# always in the same order. `device.deterministic = False` allows atomic additions, which may be faster, and then each
# run rounds in its own way.

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Neighbors read neighbors
#
# Memory comes in lines of 128 bytes. A warp of 32 threads that reads 32 numbers beside each other needs **one** line.
# One that reads down a column needs **32**, and throws away 31 of 32 numbers of each.

# %%
lines = {step: len({4 * thread * step // 128 for thread in range(32)}) for step in (1, 2, 8, 32, 64)}
print("lines for 32 numbers that are so far apart:", lines)
assert lines == {1: 1, 2: 2, 8: 8, 32: 32, 64: 32}

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 2, figsize=(9, 3.8))
for axes, step, title in zip(panels, (1, 32), ("beside each other: 1 line", "down a column: 32 lines")):
    memory = np.zeros((32, 32))  # a row is a line of 128 bytes
    memory.flat[np.arange(32) * step] = 1
    assert memory.any(axis=1).sum() == lines[step]
    memory += memory.any(axis=1, keepdims=True)
    axes.imshow(memory, cmap=ListedColormap(["white", SKY, RED]), vmin=0, vmax=2)
    axes.set(title=title, xticks=[], yticks=[], xlabel="red: wanted, blue: read too", ylabel="lines of memory")
plt.show()

# %% [markdown]
# That is why feature maps are `(N, H, W, C)` here: threads beside each other take channels beside each other. And the
# roofline holds on a card too, with other numbers. By its data sheet an H100 moves 3,350 GB/s and does 67,000 GFLOP/s
# in float32: the corner lies at 20 operations a byte.
#
# | | NumPy | Numba | CUDA |
# |---|---|---|---|
# | is written for | whole arrays | one thread's share, in loops | one number, or a few |
# | goes in parallel over | nothing, or what BLAS does | a few threads | thousands of threads |
# | results on the way | in memory | in registers and cache | in registers, a block's shared memory |
# | must be careful with | copies | what another thread writes | that, and the order of threads |
#
# With a card and CuPy the same call takes the CUDA kernel, because the arrays are there:

# %%
assert round(67_000 / 3350) == 20
if gpu_available():
    on_card = box_ops.nms(*map(to_gpu, (boxes, scores, valid)), 0.5)
    assert all((to_cpu(a) == b).all() for a, b in zip(on_card, fast))
    print("the card keeps the same boxes")
else:
    print("no card here: kernels/nms.cu waits for one")

# %% [markdown]
# ## 9 Common misconceptions
#
# ### "Compiled is always faster"
#
# Starting threads costs some microseconds. For ten numbers NumPy is done before.

# %%
few = np.ones(10, np.float32)
assert seconds(np.add, few, few, repeats=200) < seconds(add_kernel.add_gradients, few, few, repeats=200)
assert not add_kernel.add_gradients.fits(few, few)  # which is why the library asks first

# %% [markdown]
# ### "The first measurement is as good as any"
#
# It measures the compiler.

# %%
assert cold > 100 * warm

# %% [markdown]
# ### "Half the operations, half the time"
#
# Left of the roofline's corner operations cost nothing: leaving out the ReLU leaves the bytes as they are.

# %%
pair = {True: np.inf, False: np.inf}
for _ in range(40):  # in turns, for other programs run here too
    for relu in pair:
        pair[relu] = min(pair[relu], seconds(normalization.affine, x, scale, shift, None, relu, repeats=1))
print(f"with ReLU {1000 * pair[True]:.2f} ms, without {1000 * pair[False]:.2f} ms: the bytes are the same")
assert pair[False] > 0.5 * pair[True]

# %% [markdown]
# ### "A kernel must give the same bits as its specification"
#
# Sums in another order round elsewhere. (float64 arrays take the specification, float32 the kernel.) Equal to 1e-5 is
# right; equal bits would be luck. But the *same* kernel, called twice, must give the same bits.

# %%
y, exact = (conv2d(picture[:, :24, :24].astype(t), w.astype(t), padding=1).data for t in (np.float32, np.float64))
assert (y != exact).any() and abs(y - exact).max() < 1e-3 * abs(exact).max()
assert (conv2d(picture[:, :24, :24], w, padding=1).data == y).all()

# %% [markdown]
# ### "Winograd needs fewer operations"
#
# Fewer multiplications; more additions.

# %%
assert counts["Winograd"][0] < counts["direct"][0] and counts["Winograd"][1] > counts["direct"][1]

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Recap
#
# 1. A specification says what, a kernel how; an assert says that they agree.
# 2. One compiled loop hands each thread its share; no part writes what another reads.
# 3. Memory-bound: count bytes, and fuse. Compute-bound: keep results in registers.
# 4. Winograd takes fewer products; the roofline tells which limit holds: peak, or intensity times bandwidth.
# 5. A CUDA kernel is written for one of thousands of threads; barriers and atomic additions keep them from harm.

# %% [markdown]
# ## Quiz
#
# 1. Why does the NMS kernel need R bytes where NumPy needs R x R?
# 2. 100 rows, 8 threads: which rows has thread 3?
# 3. What is measured by the first call of a Numba function?
# 4. ReLU on a map of 10 million float32: how many bytes are moved?
# 5. Three element-wise operations are fused. By what factor do the bytes fall?
# 6. A block of 14 x 2 vectors: how many registers are in use, how many loads for how many multiply-adds?
# 7. How many products does F(2, 3) need, and a direct computation?
# 8. Why does Winograd pay with many channels and not with one?
# 9. Peak 100 GFLOP/s, 20 GB/s: how many operations a byte are needed to reach the peak?
# 10. Why can a convolution measured in direct operations exceed the peak?
#
# <details><summary>Answers</summary>
#
# 1. It computes a box's overlaps when they are needed and keeps only which boxes are dropped.
# 2. 3 · 100 // 8 = 37 up to, not including, 50.
# 3. Mostly the compiler, or loading the code from disk.
# 4. 80 million: each number is read and written, 4 bytes each.
# 5. Three.
# 6. 28 + 2 + 1 = 31; 16 loads for 28.
# 7. Four; six.
# 8. The sums are made once a channel, the products once for each pair of channels.
# 9. Five.
# 10. Winograd computes the same result with fewer products than are counted.
#
# </details>
