# %% [markdown] slideshow={"slide_type": "slide"}
# # 02 Convolution
#
# **Question.** A cat's ear may be anywhere in the picture. **How can a network look for it everywhere, with the same
# few numbers?**
#
# - Every output number its own weights for every pixel: a picture of 128 x 128, 64 numbers out for each pixel:
#   **52 billion** weights.
# - One small window of weights that slides over the picture: **1,728**.

# %% [markdown] slideshow={"slide_type": "notes"}
# 128 · 128 · 3 numbers in, 128 · 128 · 64 out: the product of both is 5.2e10. A window of 3 x 3 pixels, 3 channels in,
# 64 out: 1728. What is given up: a number sees only its neighborhood. What is won: what is learned in one place is
# known in all places. Ask the room what a layer with one weight for each pair could learn that the window cannot
# (answer: "ears are always up left", which is not true of photos).

# %%
import inspect
import time

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from numba import njit

from minimask import check, device, draw
from minimask.convolution import conv2d, conv_transpose2d, convolve, max_pool2d
from minimask.datasets.toy import ToyScenes
from minimask.kernels import conv_winograd_tiles as winograd
from minimask.kernels.parallel import run
from minimask.kernels.simd import LANES, ROWS, WIDTH, multiply
from minimask.machine.threads import threads
from minimask.tensor import Parameter

plt.rcParams.update({"figure.figsize": (9, 4.5), "figure.dpi": 100, "font.size": 14})
plt.rcParams["figure.constrained_layout.use"] = True
ORANGE, SKY, RED, BLUE, GREEN = draw.COLORS[[0, 1, 2, 4, 6]] / 255

assert (128 * 128 * 3) * (128 * 128 * 64) == 51_539_607_552 and 3 * 3 * 3 * 64 == 1728

# %% [markdown]
# **Words of this notebook**
#
# - *Feature map*: an array `(H, W, C)`, `H x W` pixels with `C` numbers each, its *channels*. A picture is one with C =
#   3: red, green, blue. With several pictures at once: `(N, H, W, C)`.
# - *Kernel*: the window of weights, `(kh, kw, Cin, Cout)`: kh rows, kw columns, for each channel in and each channel
#   out.
# - *Place* `(i, j)` of the kernel: its row and column.
# - *Stride*: how many pixels the window moves from one output pixel to the next.
# - *Padding*: how many rows and columns of zeros are put around the map.
#
# The rows are y, down; the columns x, right. Gradients and tensors are those of notebook 01.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 1 One number by hand
#
# Put the window on the map, multiply what lies on top of each other, **add up**. Then move the window by one pixel.
#
# $$y_{oy,\,ox} = \sum_{i,\,j} x_{oy + i,\; ox + j} \; w_{i,\,j}$$

# %%
RAMP = np.arange(16.0).reshape(4, 4)  # each row goes on where the last one ended
ACROSS = np.array([[-1.0, 0, 1], [-1, 0, 1], [-1, 0, 1]])  # right minus left

by_hand = (-1 * 0 + 0 * 1 + 1 * 2) + (-1 * 4 + 0 * 5 + 1 * 6) + (-1 * 8 + 0 * 9 + 1 * 10)
assert by_hand == (RAMP[:3, :3] * ACROSS).sum() == 6

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}


def draw_numbers(axes, array, left, top, title="", colors=None, size=18):
    """Plumbing: an array as squares with their numbers; colors: (rows, columns) of colors or None."""
    for (i, j), value in np.ndenumerate(array):
        color = "white" if colors is None else colors[i][j]
        axes.add_patch(Rectangle((left + j, top + i), 1, 1, facecolor=color, edgecolor="black", alpha=0.7))
        axes.text(left + j + 0.5, top + i + 0.5, f"{value:g}", ha="center", va="center", fontsize=size)
    axes.text(left + array.shape[1] / 2, top - 0.25, title, ha="center", fontsize=16)


def one_window(shape, y, x, size, color):
    """Plumbing: colors of a map on which one window stands."""
    return [
        [color if y <= i < y + size and x <= j < x + size else "white" for j in range(shape[1])]
        for i in range(shape[0])
    ]


def no_frame(axes, width, height):
    """Plumbing: no axes, equal units."""
    axes.set(xlim=(-0.2, width), ylim=(height, -0.9), aspect="equal")
    axes.axis("off")


result = conv2d(RAMP[None, :, :, None], ACROSS[:, :, None, None]).data[0, :, :, 0]
assert (result == 6).all()  # along every row the ramp grows by 1 a pixel: 2 in each of three rows

figure, axes = plt.subplots(figsize=(11, 4))
draw_numbers(axes, RAMP, 0, 0, "map x", one_window((4, 4), 0, 0, 3, ORANGE))
draw_numbers(axes, ACROSS, 5.5, 0.5, "kernel w", [[ORANGE] * 3] * 3)
draw_numbers(axes, result, 10, 1, "result y", [[ORANGE, "white"], ["white", "white"]])
axes.text(4.75, 2, "*", ha="center", va="center", fontsize=30)
axes.text(9.25, 2, "=", ha="center", va="center", fontsize=30)
axes.text(8.6, 4.55, "0·(-1) + 2·1 + 4·(-1) + 6·1 + 8·(-1) + 10·1 = 6", ha="center", fontsize=16)
no_frame(axes, 12.2, 4.8)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The map is a ramp that grows by 1 to the right. This kernel takes right minus left, two pixels apart, in three rows: 3
# times 2. The window fits in 2 x 2 places, so the result is 2 x 2. Mathematicians call this correlation and flip the
# kernel for convolution; for learned kernels that makes no difference, and all of deep learning says convolution.

# %% [markdown]
# With channels: the window is a block, kh x kw x Cin numbers, and there are Cout of them. All products of a block are
# summed to **one** number; the Cout blocks give the Cout numbers of the output pixel.
#
# ### Exercise 1: how large is the result?
#
# Along one axis: `size` pixels, `padding` more on **both** sides, a window of `kernel` places that move by `stride`. A
# *dilated* window has gaps: its places are `dilation` pixels apart, so it spans `dilation * (kernel - 1) + 1` pixels.
# How many times does it fit? (`//` is division rounded down.)


# %% exercise="conv_output_size"
def my_conv_output_size(size, kernel, stride, padding, dilation):
    """How many pixels a convolution's result has along one axis: a whole number."""
    ### BEGIN SOLUTION
    span = dilation * (kernel - 1) + 1
    return (size + 2 * padding - span) // stride + 1
    ### END SOLUTION


# %% check="conv_output_size"
check.conv_output_size(my_conv_output_size)

# %% [markdown]
# ### Exercise 2: convolution, one output pixel after the other
#
# `x` is `(H, W, Cin)`, `w` is `(kh, kw, Cin, Cout)`. Hint: `np.pad(x, ((p, p), (p, p), (0, 0)))` puts zeros around the
# map; `np.tensordot(window, w, 3)` multiplies and sums over the three axes that both share.


# %% exercise="conv2d"
def my_conv2d(x, w, stride, padding):
    """The convolution of a map x (H, W, Cin) with weights w (kh, kw, Cin, Cout): (OH, OW, Cout)."""
    ### BEGIN SOLUTION
    kh, kw, _, outer = w.shape
    height = my_conv_output_size(x.shape[0], kh, stride, padding, 1)
    width = my_conv_output_size(x.shape[1], kw, stride, padding, 1)
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    y = np.zeros((height, width, outer))
    for oy in range(height):
        for ox in range(width):
            window = x[oy * stride : oy * stride + kh, ox * stride : ox * stride + kw]
            y[oy, ox] = np.tensordot(window, w, 3)
    return y
    ### END SOLUTION


# %% check="conv2d"
check.conv2d(my_conv2d)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 Convolution in nine lines
#
# Not pixel by pixel, but **place by place of the kernel**: all pixels that place `(i, j)` meets are the map, shifted.


# %% tags=["show-input"] slideshow={"slide_type": "fragment"}
def conv2d_specification(x, w, stride=1, padding=0):
    (kh, kw, _, outer), s, p = w.shape, stride, padding
    x = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    oh, ow = (x.shape[1] - kh) // s + 1, (x.shape[2] - kw) // s + 1
    y = np.zeros((len(x), oh, ow, outer))
    for i in range(kh):
        for j in range(kw):
            y += x[:, i : i + s * oh : s, j : j + s * ow : s] @ w[i, j]
    return y


# %% [markdown] slideshow={"slide_type": "notes"}
# Nine turns of the loop for a 3 x 3 kernel, whatever the size of the map. In each, a shifted view of the map (N, OH,
# OW, Cin) is multiplied by the matrix w[i, j] (Cin, Cout): a matrix product over all pixels at once. With a stride,
# every stride-th row and column of the view. These nine lines are the meaning of convolution; all that is faster is
# tested against them.

# %%
rng = np.random.default_rng(0)
x, w = rng.standard_normal((2, 9, 11, 3)), rng.standard_normal((3, 3, 3, 5))
for stride, padding in ((1, 0), (1, 1), (2, 1), (3, 0)):
    ours = conv2d_specification(x, w, stride, padding)
    one_by_one = np.stack([my_conv2d(image, w, stride, padding) for image in x])
    np.testing.assert_allclose(ours, one_by_one, atol=1e-12)
    np.testing.assert_allclose(ours, conv2d(x, w, stride=stride, padding=padding).data, atol=1e-12)
    print(f"stride {stride}, padding {padding}: {x.shape} -> {ours.shape}")

# %% [markdown]
# The library's own code is the same loop with two things more, *groups* (section 4) and what usually follows a
# convolution: a bias, another map to add, ReLU.

# %%
print(inspect.getsource(convolve))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 Stride, padding, dilation
#
# - **Padding** p: zeros around the map, so that border pixels can be in the middle of a window.
# - **Stride** s: the window jumps; the result is s times smaller.
# - **Dilation** d: gaps in the window; it sees further with as many weights.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
SETTINGS = {  # title: pixels of the map, kernel, stride, padding, dilation
    "3 x 3": (6, 3, 1, 0, 1),
    "padding 1": (6, 3, 1, 1, 1),
    "stride 2, padding 1": (6, 3, 2, 1, 1),
    "dilation 2": (6, 3, 1, 0, 2),
}


def draw_windows(axes, size, kernel, stride, padding, dilation, at=(0, 1)):
    """Plumbing: the map (white), its padding (gray), the windows of two output pixels of the first row."""
    axes.add_patch(Rectangle((-padding, -padding), size + 2 * padding, size + 2 * padding, facecolor="lightgray"))
    axes.add_patch(Rectangle((0, 0), size, size, facecolor="white"))
    for line in range(-padding, size + padding + 1):
        axes.plot([-padding, size + padding], [line, line], color="gray", linewidth=1)
        axes.plot([line, line], [-padding, size + padding], color="gray", linewidth=1)
    for ox, color, inset in zip(at, (ORANGE, BLUE), (0.1, 0.28)):
        for i, j in np.ndindex(kernel, kernel):
            corner = ox * stride - padding + j * dilation + inset, -padding + i * dilation + inset
            axes.add_patch(Rectangle(corner, 1 - 2 * inset, 1 - 2 * inset, fill=False, edgecolor=color, linewidth=3))
    axes.set(xlim=(-1.1, 7.1), ylim=(7.1, -1.1), aspect="equal")
    axes.axis("off")


figure, panels = plt.subplots(1, 4, figsize=(11, 3.6))
for axes, (title, settings) in zip(panels, SETTINGS.items()):
    draw_windows(axes, *settings)
    out = my_conv_output_size(*settings)
    axes.set_title(f"{title}\n6 x 6 -> {out} x {out}")
assert [my_conv_output_size(*settings) for settings in SETTINGS.values()] == [4, 6, 3, 2]
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Orange: the window of the first output pixel; blue: that of its right neighbor. A 3 x 3 kernel with padding 1 keeps
# the size, and is what most layers have. With stride 2 the result is half as wide and half as high, and its pixels are
# worth twice as many pixels of the map each. floor((n + 2p - d (k-1) - 1) / s) + 1 is the formula of exercise 1.

# %% [markdown]
# Slide the window over the map, and watch the sum:


# %% widget=True
def draw_position(axes, oy, ox, padding=1):
    """The padded ramp with the window of one output pixel, and its sum."""
    padded = np.pad(RAMP, padding)
    total = (padded[oy : oy + 3, ox : ox + 3] * ACROSS).sum()
    draw_numbers(axes, padded, 0, 0, f"y[{oy}, {ox}] = {total:g}", one_window(padded.shape, oy, ox, 3, ORANGE), size=14)
    no_frame(axes, 6.2, 6.2)


def position(oy=1, ox=2):
    """One figure for one position of the sliders."""
    draw_position(plt.subplots(figsize=(5, 5))[1], oy, ox)
    plt.show()


try:
    from ipywidgets import IntSlider, interact

    interact(position, oy=IntSlider(min=0, max=3, value=1), ox=IntSlider(min=0, max=3, value=2))
except ImportError:  # no widgets installed
    position()

# %% [markdown]
# Without sliders, three positions. In the corner and at the right border the window meets zeros, and the ramp seems to
# have an edge there that the picture does not have.

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 3, figsize=(11, 4))
for axes, (oy, ox) in zip(panels, ((0, 0), (1, 1), (2, 3))):
    draw_position(axes, oy, ox)
padded_result = conv2d(RAMP[None, :, :, None], ACROSS[:, :, None, None], padding=1).data[0, :, :, 0]
assert (padded_result[1, 1], padded_result[0, 0], padded_result[2, 3]) == (6, 6, -30)
plt.show()

# %% [markdown]
# ## 4 Channels, groups, and the 1 x 1 convolution
#
# A kernel `(kh, kw, Cin, Cout)` has kh · kw · Cin · Cout weights, and costs as many multiplications **a pixel**.
#
# - **1 x 1**: no neighbors at all; each pixel's vector of Cin numbers is multiplied by a matrix (Cin, Cout). It mixes
#   channels, and makes them fewer or more.
# - **Groups** G: the channels are cut into G parts that do not see each other: a G-th of the weights. (ResNeXt,
#   notebook 03.)
# - **Depthwise**: as many groups as channels. Each channel has its own window.

# %%
x = rng.standard_normal((1, 8, 8, 6))
w = rng.standard_normal((1, 1, 6, 4))
as_matrix_product = x.reshape(64, 6) @ w[0, 0]  # (64 pixels, 6) @ (6, 4)
np.testing.assert_allclose(conv2d(x, w).data.reshape(64, 4), as_matrix_product)

w = rng.standard_normal((3, 3, 3, 4))  # two groups: of 6 channels each output sees 3
in_groups = conv2d(x, w, padding=1, groups=2).data
apart = [conv2d(x[..., :3], w[..., :2], padding=1).data, conv2d(x[..., 3:], w[..., 2:], padding=1).data]
np.testing.assert_allclose(in_groups, np.concatenate(apart, axis=3))

for name, groups, outer in (("full", 1, 64), ("32 groups", 32, 64), ("depthwise", 64, 64)):
    print(f"3 x 3, 64 to 64 channels, {name:9}: {3 * 3 * (64 // groups) * outer:6} weights")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 How far does a pixel see? The receptive field
#
# Two 3 x 3 layers see 5 x 5 pixels, three see 7 x 7. After a stride of 2, each step is **two** pixels wide.
#
# A layer adds `(kernel - 1) · jump`; then `jump = jump · stride`.


# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
def seen_by_the_middle(layers, size=33, seed=0):
    """Which pixels (size, size) of the map the middle pixel of the result depends on, and how much: its gradient."""
    rng = np.random.default_rng(seed)
    x = Parameter(np.zeros((1, size, size, 1)))
    y = x
    for kernel, stride, dilation in layers:
        w = rng.uniform(0.5, 1, (kernel, kernel, 1, 1))
        y = conv2d(y, w, stride=stride, padding=dilation * (kernel // 2), dilation=dilation)
    gy = np.zeros(y.shape)
    gy[0, y.shape[1] // 2, y.shape[2] // 2] = 1
    y.backward(gy)
    return x.grad[0, :, :, 0]


STACKS = {
    "three of 3 x 3": [(3, 1, 1)] * 3,
    "with a stride of 2 first": [(3, 2, 1), (3, 1, 1), (3, 1, 1)],
    "dilations 1, 2, 4": [(3, 1, 1), (3, 1, 2), (3, 1, 4)],
}
figure, panels = plt.subplots(1, 3, figsize=(11, 4))
fields = []
for axes, (title, layers) in zip(panels, STACKS.items()):
    seen = seen_by_the_middle(layers)
    fields.append(np.flatnonzero(seen.any(axis=0)))
    axes.imshow(np.where(seen > 0, seen / seen.max(), np.nan), cmap="Oranges", vmin=-0.3)
    wide = len(fields[-1])
    axes.set(title=f"{title}\nsees {wide} x {wide}", xticks=[0, 16, 32], yticks=[0, 16, 32])
assert [len(field) for field in fields] == [7, 1 + 2 + 4 + 4, 1 + 2 + 4 + 8]
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The pictures were not drawn: one output pixel in the middle got a gradient of 1, and backward says which pixels of the
# map it depends on. Dark: much, light: a little. More ways lead to the middle than to the border, so in effect a pixel
# sees less than its field: it looks like a bell. A detector must see a whole object; notebook 03 counts ResNet's
# fields.

# %% [markdown]
# ### Exercise 3: the receptive field


# %% exercise="receptive_field"
def my_receptive_field(kernels, strides):
    """How many pixels of the map, along one axis, a pixel of the last layer depends on: a whole number."""
    ### BEGIN SOLUTION
    field, jump = 1, 1
    for kernel, stride in zip(kernels, strides):
        field += (kernel - 1) * jump
        jump *= stride
    return field
    ### END SOLUTION


# %% check="receptive_field"
check.receptive_field(my_receptive_field)

# %%
assert my_receptive_field([3, 3, 3], [1, 1, 1]) == 7 and my_receptive_field([3, 3, 3], [2, 1, 1]) == 11  # as drawn
print("a stack of twenty 3 x 3 layers sees", my_receptive_field([3] * 20, [1] * 20), "pixels")
print("the same with a stride of 2 in every fifth", my_receptive_field([3] * 20, [1, 1, 1, 1, 2] * 4))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 What does a filter see?
#
# The same picture through four kernels, written by hand. Right minus left answers at upright edges, below minus above
# at level ones.

# %%
scene = ToyScenes("test", size=256)[5]
picture = scene.image[20:236, 76:256]
gray = picture.mean(axis=2)[None, :, :, None] / 255  # (1, 216, 180, 1)
FILTERS = {
    "right minus left": ACROSS / 6,
    "below minus above": ACROSS.T / 6,
    "middle minus around": (np.eye(9)[4].reshape(3, 3) * 9 - 1) / 9,
    "average (9 x 9)": np.ones((9, 9)) / 81,
}
seen = {
    name: conv2d(gray, kernel[:, :, None, None], padding=len(kernel) // 2).data[0, :, :, 0]
    for name, kernel in FILTERS.items()
}
flat = np.full((1, 16, 16, 1), 0.7)  # a picture without edges
for name, kernel in FILTERS.items():
    answer = conv2d(flat, kernel[:, :, None, None]).data
    np.testing.assert_allclose(answer, 0.7 if name.startswith("average") else 0, atol=1e-12)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 5, figsize=(13, 3.8))
panels[0].imshow(picture)
panels[0].set_title("picture")
for axes, (name, response) in zip(panels[1:], seen.items()):
    edge = not name.startswith("average")
    limit = np.percentile(abs(response), 99)
    axes.imshow(response, cmap="PuOr" if edge else "gray", vmin=-limit if edge else 0, vmax=limit if edge else 1)
    axes.set_title(name)
for axes in panels:
    axes.set(xticks=[], yticks=[])
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Purple is positive, orange negative, white zero: at the left side of a dark animal the brightness falls, at its right
# side it rises. A flat area gives 0 with the three edge filters, whose weights add up to 0 (asserted above). Nobody
# writes filters by hand any more: the first layer of every trained network contains such edge filters, found by
# gradient descent.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 A feature map is a picture of vectors
#
# All filters at once: a kernel `(3, 3, 1, 3)` gives **3 numbers for each pixel**. The network of notebook 03 gives
# 2048; such a map is the input of all that Mask R-CNN does (L09).

# %%
names = list(FILTERS)[:3]
bank = np.stack([FILTERS[name] for name in names], axis=-1)[:, :, None]  # (3, 3, 1, 3)
features = conv2d(gray, bank, padding=1).data[0]
assert features.shape == (216, 180, 3)
np.testing.assert_allclose(features[:, :, 1], seen["below minus above"])


def strongest(c, top, left, size=90):
    """The pixel with the strongest answer in channel c in a part of the map."""
    part = abs(features[top : top + size, left : left + size, c])
    y, x = np.unravel_index(part.argmax(), part.shape)
    return int(top + y), int(left + x)


PIXELS = {
    "A": strongest(0, 110, 40),
    "B": strongest(1, 20, 60),
    "C": (140, 20),
}  # on the cat, on the duck, on the ground
across, down, _ = np.array([features[pixel] for pixel in PIXELS.values()]).T
assert abs(across[0]) > 0.1 and abs(down[1]) > 0.1 and max(abs(features[PIXELS["C"]])) < 0.05

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.3), width_ratios=[1, 1.6])
left.imshow(picture)
for (name, (y, x)), color in zip(PIXELS.items(), (ORANGE, BLUE, RED)):
    left.plot(x, y, "o", markersize=14, markeredgecolor="black", color=color)
    left.text(x + 9, y - 9, name, fontsize=20, bbox=dict(facecolor="white", alpha=0.8, linewidth=0, pad=2))
left.set(xticks=[], yticks=[])
for k, ((name, pixel), color) in enumerate(zip(PIXELS.items(), (ORANGE, BLUE, RED))):
    right.bar(np.arange(3) + 0.27 * k - 0.27, features[pixel], 0.26, color=color, edgecolor="black", label=name)
right.axhline(0, color="black", linewidth=1)
right.set_xticks(range(3), [name.replace(" minus ", "\nminus ") for name in names])
right.set_ylabel("the vector of the pixel")
right.legend()
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# A is on an upright edge, B on a level one, C on plain ground. Each pixel has a vector, and vectors of like places are
# alike. Deeper layers convolve these vectors again, and their numbers answer to corners, ears, faces. So "feature map"
# means: a picture whose pixels are vectors that describe what is there.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 Backward, to the weights and to the map
#
# Each term of the sum is $y_{o} \mathrel{+}= x_{p}\, w_{ij}$, with p the pixel that place (i, j) meets at o. So:
#
# - to the **weights**: $\;(g_w)_{ij} \mathrel{+}= x_p\,(g_y)_o\;$ - the windows, weighted with gy and added;
# - to the **map**: $\;(g_x)_p \mathrel{+}= w_{ij}\,(g_y)_o\;$ - each output pixel **stamps the kernel**, times its gy.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
KERNEL = np.array([[1.0, 2, 0], [0, 0, 3], [0, 4, 0]])
gy = np.array([[1.0, 0], [0, 10]])
x, w = Parameter(RAMP[None, :, :, None]), Parameter(KERNEL[:, :, None, None])
conv2d(x, w).backward(gy[None, :, :, None])
gx, gw = x.grad[0, :, :, 0], w.grad[:, :, 0, 0]
assert (gw == RAMP[:3, :3] + 10 * RAMP[1:, 1:]).all()  # two windows
stamps = np.zeros((4, 4))
stamps[:3, :3] += KERNEL
stamps[1:, 1:] += 10 * KERNEL
assert (gx == stamps).all()

figure, axes = plt.subplots(figsize=(12, 4.2))
sides = [[ORANGE if i < 3 and j < 3 else SKY for j in range(4)] for i in range(4)]
both = [[GREEN if i in (1, 2) and j in (1, 2) else sides[i][j] for j in range(4)] for i in range(4)]
white = [["white" if (i, j) in ((0, 3), (3, 0)) else both[i][j] for j in range(4)] for i in range(4)]
draw_numbers(axes, gy, 0, 1, "gy", [[ORANGE, "white"], ["white", SKY]])
draw_numbers(axes, KERNEL, 3, 0.5, "kernel w")
draw_numbers(axes, gx, 7, 0, "gradient of the map", white)
draw_numbers(axes, gw, 12.2, 0.5, "gradient of w", size=14)
axes.text(9, 4.5, "the kernel once, and 10 times", ha="center", fontsize=14)
axes.text(13.7, 4.5, "window 1 + 10 · window 2", ha="center", fontsize=14)
no_frame(axes, 15.6, 4.8)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# gy is 1 for the first output pixel (orange) and 10 for the last (blue). The gradient of the map: the kernel stamped up
# left, and ten times the kernel stamped down right; green is where the stamps overlap and add up. The gradient of w:
# the first window of the ramp plus ten times the last. E.g. its first element: 0 + 10 · 5 = 50.

# %% [markdown]
# **By hand.** Only the first output pixel has a gradient, 1: then gw is the first window of the map, (0 1 2; 4 5 6; 8 9
# 10), and gx is the kernel, in the map's corner. With gy = 1 and 10 as in the picture, the first element of gw is 1 · 0
# + 10 · 5 = 50, and element (1, 1) of gx is 0 (first stamp, w[1, 1]) + 10 · 1 (second stamp, w[0, 0]) = 10.
#
# ### Exercise 4: the gradient of the weights
#
# Place (i, j) met pixel (oy stride + i - padding, ox stride + j - padding) at output pixel (oy, ox). `kernel` is (kh,
# kw).


# %% exercise="conv2d_backward_weights"
def my_conv2d_backward_weights(gy, x, kernel, stride, padding):
    """The gradient of w (kh, kw, Cin, Cout), if gy (OH, OW, Cout) is that of the convolution of x (H, W, Cin)."""
    ### BEGIN SOLUTION
    kh, kw = kernel
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    gw = np.zeros((kh, kw, x.shape[2], gy.shape[2]))
    for oy in range(gy.shape[0]):
        for ox in range(gy.shape[1]):
            window = x[oy * stride : oy * stride + kh, ox * stride : ox * stride + kw]  # (kh, kw, Cin)
            gw += window[:, :, :, None] * gy[oy, ox]
    return gw
    ### END SOLUTION


# %% check="conv2d_backward_weights"
check.conv2d_backward_weights(my_conv2d_backward_weights)

# %% [markdown]
# A message of a wrong answer, for one that forgets the stride:

# %%
try:
    check.conv2d_backward_weights(
        lambda gy, x, kernel, stride, padding: my_conv2d_backward_weights(
            gy, np.pad(x, ((padding, 9), (padding, 9), (0, 0))), kernel, 1, 0
        )
    )
except check.CheckFailed as failure:
    print(failure)

# %% [markdown]
# ### Exercise 5: the gradient of the map
#
# Stamp on a padded map of zeros, and cut the padding off. Hint: `w @ gy[oy, ox]` is `(kh, kw, Cin)`.


# %% exercise="conv2d_backward_data"
def my_conv2d_backward_data(gy, w, shape, stride, padding):
    """The gradient of x, of `shape` (H, W, Cin), if gy (OH, OW, Cout) is that of its convolution with w."""
    ### BEGIN SOLUTION
    kh, kw = w.shape[:2]
    height, width, channels = shape
    gx = np.zeros((height + 2 * padding, width + 2 * padding, channels))
    for oy in range(gy.shape[0]):
        for ox in range(gy.shape[1]):
            gx[oy * stride : oy * stride + kh, ox * stride : ox * stride + kw] += w @ gy[oy, ox]
    return gx[padding : padding + height, padding : padding + width].copy()
    ### END SOLUTION


# %% check="conv2d_backward_data"
check.conv2d_backward_data(my_conv2d_backward_data)

# %% [markdown]
# Both agree with the library's tensors, with stride and padding. And with stride 1 the gradient of the map is a
# convolution of gy again: with the kernel **flipped**, and its channels in and out exchanged. (What a place sends
# down right, a pixel receives from up left.)

# %%
x, w = Parameter(rng.standard_normal((1, 7, 8, 3))), Parameter(rng.standard_normal((3, 3, 3, 4)))
y = conv2d(x, w, stride=2, padding=1)
gy = rng.standard_normal(y.shape)
y.backward(gy)
np.testing.assert_allclose(my_conv2d_backward_data(gy[0], w.data, (7, 8, 3), 2, 1), x.grad[0], atol=1e-12)
np.testing.assert_allclose(my_conv2d_backward_weights(gy[0], x.data[0], (3, 3), 2, 1), w.grad, atol=1e-12)

gy = rng.standard_normal((1, 5, 6, 4))
flipped = w.data[::-1, ::-1].transpose(0, 1, 3, 2)
np.testing.assert_allclose(
    my_conv2d_backward_data(gy[0], w.data, (7, 8, 3), 1, 0), conv2d_specification(gy, flipped, padding=2)[0], atol=1e-12
)

# %% [markdown] slides=["L23"] slideshow={"slide_type": "slide"}
# ## 9 Transposed convolution: 14 x 14 -> 28 x 28 (L23)
#
# Stamping also works **forward**: each input pixel stamps the kernel, times its value, on a larger map. With 2 x 2
# stamps and stride 2 they lie side by side: **14 x 14 becomes 28 x 28**. (Also called *deconvolution*.)

# %%
x, w = rng.standard_normal((1, 14, 14, 8)), rng.standard_normal((2, 2, 8, 8))
upscaled = conv_transpose2d(x, w, stride=2)
assert x.shape[1:3] == (14, 14) and upscaled.shape[1:3] == (28, 28)  # L23
stamped = my_conv2d_backward_data(x[0], w.transpose(0, 1, 3, 2), (28, 28, 8), 2, 0)
np.testing.assert_allclose(upscaled.data[0], stamped, atol=1e-12)  # the backward of convolution

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
small, stamp = np.array([[1.0, 2], [3, 10]]), np.array([[1.0, 2], [3, 4]])
large = conv_transpose2d(small[None, :, :, None], stamp[:, :, None, None], stride=2).data[0, :, :, 0]
assert (large == np.kron(small, stamp)).all()
quarters = [[(ORANGE, SKY, GREEN, RED)[i // 2 * 2 + j // 2] for j in range(4)] for i in range(4)]

figure, axes = plt.subplots(figsize=(11, 3.9))
draw_numbers(axes, small, 0, 1, "map", [[ORANGE, SKY], [GREEN, RED]])
draw_numbers(axes, stamp, 4, 1, "stamp w")
draw_numbers(axes, large, 8, 0, "stamped", quarters)
axes.text(3, 2, "x", ha="center", va="center", fontsize=26)
axes.text(7, 2, "=", ha="center", va="center", fontsize=26)
no_frame(axes, 12.2, 4.2)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Mask R-CNN's mask branch ends with this operation: it doubles the 14 x 14 features of a RoI before the mask is
# predicted (notebook 10). It is called transposed because convolution is multiplication by a large matrix, and this is
# multiplication by its transpose; that is also what backward does. It does not undo a convolution, whatever the name
# deconvolution says.

# %% [markdown]
# **By hand.** The pixel 10 stamps 10 · (1 2; 3 4) = (10 20; 30 40), down right.
#
# "Transposed" can be tested without writing down the matrix: for all maps x and y, $\langle \text{conv}(x), y \rangle =
# \langle x, \text{conv}^\top(y) \rangle$, where $\langle a, b \rangle$ is the sum of all products of elements.

# %%
a, b, w = rng.standard_normal((1, 9, 9, 3)), rng.standard_normal((1, 4, 4, 5)), rng.standard_normal((3, 3, 3, 5))
one = (conv2d(a, w, stride=2).data * b).sum()
other = (a * conv_transpose2d(b, w.transpose(0, 1, 3, 2), stride=2).data).sum()
print(f"{one:.10f} and {other:.10f}")
assert np.isclose(one, other)

# %% [markdown]
# Where stamps overlap unevenly, a pattern appears: with 3 x 3 stamps and stride 2, pixels get one, two or four stamps.
# A map of ones becomes a checkerboard. With 2 x 2, as in Mask R-CNN, each pixel gets exactly one.

# %% tags=["hide-input"]
ones = np.ones((1, 7, 7, 1))
figure, panels = plt.subplots(1, 2, figsize=(9, 4))
for axes, size in zip(panels, (2, 3)):
    count = conv_transpose2d(ones, np.ones((size, size, 1, 1)), stride=2).data[0, :, :, 0]
    shown = axes.imshow(count, cmap="Oranges", vmin=0, vmax=4)
    axes.set_title(f"{size} x {size} stamps, stride 2")
    assert count.max() == (1 if size == 2 else 4)
figure.colorbar(shown, ax=panels, label="stamps on a pixel", ticks=range(5))
plt.show()

# %% [markdown]
# ### Exercise 6: transposed convolution
#
# The result has `(H - 1) * stride + kh - 2 * padding` rows: of the stamped map `padding` rows and columns are cut off
# on each side. Here `w` is `(kh, kw, Cin, Cout)` with Cin the channels of x.


# %% exercise="conv_transpose2d"
def my_conv_transpose2d(x, w, stride, padding):
    """The transposed convolution of x (H, W, Cin) with stamps w (kh, kw, Cin, Cout): (OH, OW, Cout)."""
    ### BEGIN SOLUTION
    kh, kw, _, outer = w.shape
    height = (x.shape[0] - 1) * stride + kh - 2 * padding
    width = (x.shape[1] - 1) * stride + kw - 2 * padding
    return my_conv2d_backward_data(x, w.transpose(0, 1, 3, 2), (height, width, outer), stride, padding)
    ### END SOLUTION


# %% check="conv_transpose2d"
check.conv_transpose2d(my_conv_transpose2d)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 10 Max pooling
#
# The largest number of each window, channel by channel. Backward: all of gy goes to the **winner**.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
numbers = np.array([[3.0, 1, 0, 2], [4, 2, 7, 5], [0, 6, 1, 1], [8, 5, 9, 0]])
x = Parameter(numbers[None, :, :, None])
y = max_pool2d(x, 2)
gy = np.array([[1.0, 2], [3, 4]])
y.backward(gy[None, :, :, None])
assert y.data[0, :, :, 0].tolist() == [[4, 7], [8, 9]]
assert x.grad.sum() == gy.sum() and np.count_nonzero(x.grad) == 4

figure, axes = plt.subplots(figsize=(12, 3.9))
draw_numbers(axes, numbers, 0, 0, "x", quarters)
draw_numbers(axes, y.data[0, :, :, 0], 5, 1, "largest", [[ORANGE, SKY], [GREEN, RED]])
draw_numbers(axes, gy, 8.5, 1, "gy", [[ORANGE, SKY], [GREEN, RED]])
draw_numbers(axes, x.grad[0, :, :, 0], 11.5, 0, "gradient of x", quarters)
no_frame(axes, 15.7, 4.2)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# ResNet uses it once, after its first convolution, 3 x 3 with stride 2. It has no weights. Padding is minus infinity
# here, not zero: what lies outside must never win. If several are equal, the first in reading order gets all.

# %%
negative = np.full((1, 4, 4, 1), -5.0)
assert (max_pool2d(negative, 3, stride=2, padding=1).data == -5).all()  # with zeros as padding it would be 0

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 11 Advanced: from nine lines to the speed of the machine
#
# The same convolution, seven ways: 56 x 56 pixels, 64 to 64 channels, 3 x 3: 231 million operations (*flops*).
#
# GFLOP/s are billions of them a second. The dashed line: what the processor can do at all.

# %% [markdown]
# Each multiplication and each addition counts as one operation. So
#
# $$2 \cdot k_h k_w \cdot C_{in} C_{out} \cdot H W = 2 \cdot 9 \cdot 64^2 \cdot 56^2 = 231 \text{ million}$$
#
# From here on *kernel* has a second meaning, too: a function in machine code that does one operation. The library's are
# Python functions of loops that *Numba* translates (`njit` below; notebook 16).
#
# **How fast can this machine be?** The inner part of the library's kernel is `multiply`: a block of results stays in
# the processor's registers (its fastest memory, a few dozen vectors of numbers), and vectors of numbers are multiplied
# and added at once. We run it on numbers that stay in the first-level *cache*, the fastest memory beside the processor,
# on all *threads*, one for each of its cores: that is as good as it gets.

# %%
SIZE, CHANNELS = 56, 64
FLOPS = 2 * 9 * CHANNELS * CHANNELS * SIZE * SIZE
assert FLOPS == 231_211_008
x = rng.standard_normal((1, SIZE, SIZE, CHANNELS)).astype(np.float32)
w = rng.standard_normal((3, 3, CHANNELS, CHANNELS)).astype(np.float32)


def seconds(functions, rounds=60):
    """Dict like `functions`: the shortest of several calls of each. All take turns, for other programs run here too."""
    shortest = dict.fromkeys(functions, np.inf)
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            shortest[name] = min(shortest[name], time.perf_counter() - start)
    return shortest


DEPTH, TIMES = 128, 400  # a block of ROWS x WIDTH results, each a sum of DEPTH products; how often it is computed


@njit
def peak_part(t, parts, arrays, numbers):
    """Thread t's share: the same block again and again, from numbers of its own."""
    a, b, c = arrays[:3]
    depth, times, rows, width = numbers[:4]
    for _ in range(times):
        multiply(a, t * rows * depth, depth, 1, b, t * depth * width, c, t * rows * width, width, rows, width, depth, 1)


blocks = [np.zeros(threads() * n, np.float32) for n in (ROWS * DEPTH, DEPTH * WIDTH, ROWS * WIDTH)]
print(f"a block of {ROWS} x {WIDTH} results in registers, on {threads()} threads")


def peak_run():
    run(peak_part, blocks, (DEPTH, TIMES, ROWS, WIDTH))


peak_run()  # the first call compiles it

# %% [markdown]
# **Step 0: number by number in Python.** One output pixel is 36,864 products; we time one, not all 3136.
#
# **Step 1: pixel by pixel**, exercise 2. **Step 2: the nine lines.**
#
# **Step 3: one matrix product** (*im2col*). Write the numbers under each window in a row: a matrix (3136, 576). The
# weights are a matrix (576, 64). One product, by the fast routine that NumPy calls. But the matrix is nine times the
# map, and writing and reading it takes time.
#
# **Step 4: in tiles.** The same for 112 pixels at a time. A tile's rows, 112 · 576 numbers, are a quarter of a
# megabyte, and stay in the second-level cache. In Python that is a loop of 28 turns, which costs about what the cache
# saves; the library's kernel does it without Python.


# %%
def number_by_number():
    """One number after the other, for one output pixel."""
    for o in range(CHANNELS):
        total = 0.0
        for i in range(3):
            for j in range(3):
                for c in range(CHANNELS):
                    total += x_list[i][j][c] * w_list[i][j][c][o]


def rows_of_windows(padded):
    """(1, H + 2, W + 2, C) -> (H W, 9 C): the numbers under each window in a row."""
    windows = np.lib.stride_tricks.sliding_window_view(padded[0], (3, 3), axis=(0, 1))  # (H, W, C, 3, 3), no copy
    return windows.transpose(0, 1, 3, 4, 2).reshape(-1, 9 * CHANNELS)


def one_product():
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return (rows_of_windows(padded) @ w.reshape(-1, CHANNELS)).reshape(1, SIZE, SIZE, CHANNELS)


def in_tiles(rows=2):
    """Two rows of the map, 112 pixels, at a time."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    matrix, y = w.reshape(-1, CHANNELS), np.empty((SIZE, SIZE, CHANNELS), np.float32)
    for top in range(0, SIZE, rows):
        y[top : top + rows] = (rows_of_windows(padded[:, top : top + rows + 2]) @ matrix).reshape(rows, SIZE, CHANNELS)
    return y[None]


def library(fast=True):
    """The library's kernel, with or without Winograd's identity."""
    before, device.winograd = device.winograd, fast
    try:
        return conv2d(x, w, padding=1).data
    finally:
        device.winograd = before


x_list, w_list = x[0].tolist(), w.tolist()
expected = conv2d_specification(x.astype(float), w.astype(float), padding=1)
for function in (one_product, in_tiles, library, lambda: library(False)):
    np.testing.assert_allclose(function(), expected, atol=2e-3)  # sums of 576 numbers, in float32

slow = {"number by number\nin Python": number_by_number, "pixel by pixel": lambda: my_conv2d(x[0], w, 1, 1)}
fast = {
    "nine lines": lambda: conv2d_specification(x, w, padding=1),
    "one matrix product": one_product,
    "in tiles": in_tiles,
    "the library's kernel": lambda: library(False),
    "with Winograd": library,
    "peak": peak_run,
}
work = {"number by number\nin Python": FLOPS / SIZE**2, "peak": 2 * threads() * TIMES * ROWS * WIDTH * DEPTH}
rates = {name: work.get(name, FLOPS) / t / 1e9 for name, t in {**seconds(slow, 2), **seconds(fast)}.items()}
peak = rates.pop("peak")
print(f"peak {peak:.0f} GFLOP/s")
for name, rate in rates.items():
    print(f"{name.replace(chr(10), ' '):30} {rate:9.3f} GFLOP/s {100 * rate / peak:7.2f} % of the peak")
number, pixel, *_, kernel_rate, winograd_rate = rates.values()
assert number < pixel < kernel_rate and rates["nine lines"] < max(kernel_rate, winograd_rate)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(11, 4.4))
colors = [SKY] * 5 + [ORANGE] * 2
bars = axes.barh(range(len(rates)), rates.values(), color=colors, edgecolor="black")
labels = [f"{rate:.0f}" if rate > 10 else f"{rate:.2g}" for rate in rates.values()]
axes.bar_label(bars, labels, padding=6, zorder=3, bbox=dict(facecolor="white", edgecolor="none", pad=1))
axes.axvline(peak, color=RED, linewidth=3, linestyle="--")
axes.text(peak * 0.9, -0.35, f"peak {peak:.0f}", color=RED, ha="right", va="center")
axes.set_yticks(range(len(rates)), rates)
axes.set_xscale("log")
axes.set(xlabel="GFLOP/s (a step is a factor of 10)", xlim=(0.005, 4 * max(peak, *rates.values())))
axes.invert_yaxis()
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The axis is logarithmic: from the first bar to the last it is some four orders of magnitude. The numbers are of the
# machine that ran this notebook, whatever else it did; run it yourself. What each step gains: no interpreter for each
# number; no interpreter for each pixel; one large product instead of nine; nothing large written to memory; results
# that stay in registers. The last bar may go beyond the peak: it does the same convolution with fewer multiplications.

# %% [markdown]
# **Step 5: the library's kernel** (`kernels/conv_direct.py`, with the block of results from `kernels/simd.py`). Each
# thread takes tiles: *gather* the rows of a tile, *multiply* them by the weights with a block of results in registers,
# *finish*: bias, the other map, ReLU, while all that is still in the cache. The matrix product itself is the
# micro-kernel whose peak was measured above: what is missing to the peak is gathering, writing, and blocks at the
# border that are not full.
#
# How large is a block? A multiply-add, one instruction, takes a vector of `b`, a number of `a`, and adds their product
# to a vector of results. With one
# vector of results, two loads would be needed for each multiply-add. With a block of ROWS x WIDTH results, ROWS numbers
# and WIDTH / lanes vectors are loaded for ROWS · WIDTH / lanes multiply-adds:

# %%
loads, multiply_adds = ROWS + WIDTH // LANES, ROWS * WIDTH // LANES  # LANES: numbers in a vector
print(f"{loads} loads for {multiply_adds} multiply-adds of vectors: {loads / multiply_adds:.2f} a piece")
assert loads < multiply_adds

# %% [markdown]
# **Step 6: Winograd's identity** (`kernels/conv_winograd.py`), fewer multiplications. In one dimension: two outputs of
# a kernel of three need 2 · 3 = 6 products. With some sums before and after, **four** are enough:
#
# $$ m_1 = (d_0 - d_2)\, g_0, \quad m_2 = (d_1 + d_2)\tfrac{g_0 + g_1 + g_2}{2}, \quad
# m_3 = (d_2 - d_1)\tfrac{g_0 - g_1 + g_2}{2}, \quad m_4 = (d_1 - d_3)\, g_2 $$
#
# $$ y_0 = m_1 + m_2 + m_3, \qquad y_1 = m_2 - m_3 - m_4 $$
#
# **By hand.** d = (1, 2, 3, 4), g = (1, 1, 1): $m$ = (-2, 7.5, 0.5, -2), so $y_0$ = 6 = 1 + 2 + 3 and $y_1$ = 9 = 2 + 3
# + 4.

# %%
d, g = np.array([1.0, 2, 3, 4]), np.array([1.0, 1, 1])
m = np.array([
    (d[0] - d[2]) * g[0], (d[1] + d[2]) * g.sum() / 2, (d[2] - d[1]) * (g[0] - g[1] + g[2]) / 2, (d[1] - d[3]) * g[2]
])  # fmt: skip
assert m.tolist() == [-2, 7.5, 0.5, -2]
assert [m[0] + m[1] + m[2], m[1] - m[2] - m[3]] == [1 + 2 + 3, 2 + 3 + 4]

# %% [markdown]
# The library's is larger and two-dimensional: 4 x 4 outputs of a 3 x 3 kernel, 36 products instead of 144. The sums
# are three small constant matrices, `B_T` for the map, `G` for the weights, `A_T` for the result:

# %%
B_T, G, A_T = (np.array(matrix, float) for matrix in (winograd.B_T, winograd.G, winograd.A_T))
patch, kernel = rng.standard_normal((6, 6)), rng.standard_normal((3, 3))
products = (B_T @ patch @ B_T.T) * (G @ kernel @ G.T)  # (6, 6): 36 multiplications
direct = conv2d(patch[None, :, :, None], kernel[:, :, None, None]).data[0, :, :, 0]  # (4, 4): 16 times 9
np.testing.assert_allclose(A_T @ products @ A_T.T, direct, atol=1e-12)
assert products.size * 4 == 16 * 9

error = {fast: abs(library(fast) - expected).max() / abs(expected).mean() for fast in (False, True)}
print(f"largest error in float32: direct {error[False]:.1e}, Winograd {error[True]:.1e} of the typical number")
assert error[True] < 1e-3

# %% [markdown]
# The price: rounding errors five to ten times as large, because sums of large numbers must cancel. For a network that
# is nothing. How the kernels are built, and the same on a graphics card, is the subject of notebook 16.

# %% [markdown]
# ## 12 Common misconceptions
#
# ### "Deconvolution undoes convolution"
#
# It restores the size, not the numbers.

# %%
picture = np.array([[0.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])[None, :, :, None]
average = np.full((2, 2, 1, 1), 0.25)
there_and_back = conv_transpose2d(conv2d(picture, average, stride=2), average * 4, stride=2).data
print(there_and_back[0, :, :, 0])
assert there_and_back.shape == picture.shape and not np.allclose(there_and_back, picture)

# %% [markdown]
# ### "A convolution flips the kernel"
#
# In mathematics and signal processing; not in deep learning. `np.convolve` flips, our `conv2d` does not:

# %%
signal, kernel = np.array([0.0, 0, 1, 0, 0]), np.array([1.0, 2, 3])
ours = conv2d(signal[None, None, :, None], kernel[None, :, None, None]).data.ravel()
print("np.convolve", np.convolve(signal, kernel, "valid"), "  conv2d", ours)
assert (ours == np.convolve(signal, kernel[::-1], "valid")).all()

# %% [markdown]
# ### "Zero padding is harmless"
#
# An even gray picture has no edges. With zeros around it, it has: the averages at the border are darker.

# %%
gray_picture = np.full((1, 6, 6, 1), 0.6)
blurred = conv2d(gray_picture, np.full((3, 3, 1, 1), 1 / 9), padding=1).data[0, :, :, 0]
print(blurred.round(2))
assert np.isclose(blurred[2, 2], 0.6) and np.isclose(blurred[0, 0], 0.6 * 4 / 9)

# %% [markdown]
# ### "Move the picture, and the features move with it"
#
# With stride 1, yes. With stride 2, only if it moves by an even number of pixels: a line one pixel wide is seen, or
# not.

# %%
line = np.zeros((1, 1, 9, 1))
line[0, 0, 4] = 1.0
one_tap = np.ones((1, 1, 1, 1))
seen_at = [int(conv2d(np.roll(line, shift, axis=2), one_tap, stride=2).data.sum()) for shift in (0, 1, 2)]
print("the line is seen, moved by 0, 1, 2 pixels:", seen_at)
assert seen_at == [1, 0, 1]

# %% [markdown]
# ### "Two 3 x 3 layers are as good as one 5 x 5"
#
# They see as far with fewer weights (18 and 25 a pair of channels), but without a ReLU between them they are only
# *some* of the 5 x 5 kernels; and two layers without anything in between are one layer:

# %%
first, second = rng.standard_normal((3, 3, 1, 1)), rng.standard_normal((3, 3, 1, 1))
x = rng.standard_normal((1, 9, 9, 1))
both = conv_transpose2d(first.reshape(1, 3, 3, 1), second, stride=1).data.reshape(5, 5, 1, 1)  # stamped
assert both.shape[:2] == (5, 5)
np.testing.assert_allclose(conv2d(conv2d(x, first), second).data, conv2d(x, both).data, atol=1e-10)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Recap
#
# 1. A window of weights slides over the map: multiply, add up. The same few numbers everywhere.
# 2. Nine lines: for each place of the kernel, the shifted map times a matrix. 1 x 1 is a matrix product alone.
# 3. Padding keeps the size, stride divides it; the receptive field grows by (kernel - 1) · jump a layer.
# 4. Backward: windows weighted with gy for the weights, kernels stamped for the map.
# 5. Stamping forward is the transposed convolution: 14 x 14 -> 28 x 28.

# %% [markdown]
# ## Quiz
#
# 1. A map of 28 x 28, kernel 5 x 5, stride 1, padding 2. How large is the result? And with stride 2?
# 2. How many weights has a 3 x 3 convolution from 256 to 256 channels? And a 1 x 1?
# 3. Four layers of 3 x 3, the second with stride 2. How large is the receptive field?
# 4. Why do the weights of an edge filter add up to 0?
# 5. What is the gradient of the weights if gy is 1 at one output pixel and 0 elsewhere?
# 6. What is the gradient of the map in the same case?
# 7. Why is `+=` needed in both?
# 8. A transposed convolution with 2 x 2 stamps and stride 2: how many stamps does each output pixel get, and how many
#    with 3 x 3 stamps?
# 9. Max pooling of a window with two equal largest numbers: where does the gradient go?
# 10. Why is a tile of pixels gathered and multiplied, and not the whole matrix of windows at once?
#
# <details><summary>Answers</summary>
#
# 1. 28 x 28; 14 x 14.
# 2. 589,824; 65,536.
# 3. 1 + 2 + 2 + 4 + 4 = 13.
# 4. Then the answer to an even area is 0, whatever its brightness.
# 5. The window of the map under that output pixel.
# 6. The kernel, stamped where that output pixel's window was; 0 elsewhere.
# 7. Each weight was used at every output pixel, and each pixel of the map in several windows: all effects add up.
# 8. One; one, two or four, which makes a checkerboard.
# 9. All of it to the first in reading order.
# 10. The whole matrix is kh · kw times the map: it must be written to memory and read back. A tile stays in the cache.
#
# </details>
