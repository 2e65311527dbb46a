# %% [markdown] slideshow={"slide_type": "slide"}
# # 04 The feature pyramid: objects of all sizes
#
# **Question.** The same dog, 16 pixels large and 96. On a map of stride 16 the small one is **one cell**, the large one
# six by six. **On which map should a network look for each?**

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Polygon, Rectangle
from PIL import Image

import minimask
from minimask import check, draw, image, presets
from minimask.backbone import resnet
from minimask.convolution import conv2d, max_pool2d
from minimask.datasets.toy import ToyScenes
from minimask.fpn import FPN
from minimask.roi_align import assign_levels
from minimask.tensor import Tensor, no_grad
from minimask.trace import Trace

plt.rcParams.update({"figure.figsize": (9, 4.5), "figure.dpi": 100, "font.size": 14})
plt.rcParams["figure.constrained_layout.use"] = True
ORANGE, SKY, RED, BLUE, GREEN = draw.COLORS[[0, 1, 2, 4, 6]] / 255
LEVEL_COLORS = (ORANGE, SKY, GREEN, RED)  # fine to coarse
LEVEL_LINES = ("-", "--", ":", "-.")

# %% [markdown]
# **Words of this notebook**
#
# - *Feature map, cell, channel, stride, backbone, levels C2 to C5*: notebook 03.
# - *Feature pyramid network*, FPN (Lin et al. 2017): it turns C2 to C5 into P2 to P5, which have the same strides, all
#   the same number of channels, and all of them the meaning of the deepest.
# - *Top-down*: from the coarse level to the fine one. *Lateral*: from a C level across to the P level of its size.
# - *RoI*, region of interest: a box in pixels in which there may be an object. *RPN*: the part that proposes RoIs
#   (notebook 06). *RoIAlign* reads a map inside of one (notebook 08). *Heads*: what turns that into a class, a box and
#   a mask (notebooks 09 and 10).
# - *AP*, average precision: how good the found masks are, 0 to 100 (notebook 14).

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
LARGE = ToyScenes("test", size=512)


def dog_of(side, size=128, scene=17, animal=0):
    """A picture (size, size, 3) with a drawn animal in its middle whose longer side has `side` pixels."""
    sample = LARGE[scene]
    x1, y1, x2, y2 = sample.boxes[animal].astype(int)
    scale = side / max(x2 - x1, y2 - y1)
    shape = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
    cuts = (sample.image[y1:y2, x1:x2], 255 * sample.masks[animal, y1:y2, x1:x2])
    colors, mask = (Image.fromarray(cut).resize(shape, Image.Resampling.LANCZOS) for cut in cuts)
    picture = Image.new("RGB", (size, size), (150, 170, 110))
    picture.paste(colors, ((size - shape[0]) // 2, (size - shape[1]) // 2), mask)
    return np.array(picture)


def cell_lines(axes, stride, size=128):
    """The borders of a map's cells."""
    axes.set(xticks=range(0, size + 1, stride), yticks=range(0, size + 1, stride))
    axes.grid(color="white", linewidth=1.5)
    axes.tick_params(length=0, labelbottom=False, labelleft=False)


figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.9))
for axes, (side, stride) in zip(panels, ((16, 16), (96, 16), (16, 2))):
    axes.imshow(np.roll(dog_of(side), (8, 8), (0, 1)) if side == 16 else dog_of(side), extent=(0, 128, 128, 0))
    cell_lines(axes, stride)
    axes.set_title(f"{side} pixels, stride {stride}", fontsize=15)
panels[2].set(xlim=(48, 96), ylim=(96, 48))
panels[2].set_title("16 pixels, stride 2 (enlarged)", fontsize=15)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecture:* let the room choose. "The finest map, for both" is a natural answer. Then ask what a cell of the
# finest map knows: it has seen 19 x 19 pixels (notebook 03), enough for an eye of the large dog, not for the dog. The
# small dog needs fine cells, the large one deep ones, and the fine map is the shallow one. This notebook resolves that.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 1 Objects come in all sizes
#
# In COCO 41 % of the objects are *small* (less than 32 x 32 pixels), 34 % *medium*, 24 % *large* (more than 96 x 96).
# Ours, in pictures of 128 pixels, differ by a factor of eight.

# %%
boxes = np.concatenate([ToyScenes("test")[i].boxes for i in range(200)])
sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))  # of a square of the same area
print(f"{len(sides)} animals, from {sides.min():.0f} to {sides.max():.0f} pixels, median {np.median(sides):.0f}")
for stride in (2, 4, 8, 16):
    few = (sides / stride < 4).mean()
    wide = np.median(sides) / stride
    print(f"stride {stride:2}: the median animal is {wide:4.1f} cells wide, {100 * few:3.0f} % less than 4")
assert sides.max() / sides.min() > 6
assert (sides / 16 < 4).mean() > 0.9 and (sides / 2 < 4).mean() < 0.01

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9.5, 3.9))
axes.hist(sides, bins=np.geomspace(8, 100, 24), color="lightgray", edgecolor="black")
axes.set_xscale("log", base=2)
for stride, color, line in zip((2, 4, 8, 16), LEVEL_COLORS, LEVEL_LINES):
    axes.axvline(4 * stride, color=color, linestyle=line, linewidth=4, label=f"4 cells at stride {stride}")
axes.set_xticks([8, 16, 32, 64], [8, 16, 32, 64])
axes.set(xlabel="size of an animal (root of its box's area), pixels", ylabel="animals")
axes.legend(loc="upper left", fontsize=12)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The lines show where an animal is four cells wide: about what it takes to tell ears from tails. Left of a line a map
# is too coarse. At stride 16, in pictures of this size, that is nearly all of them. COCO's shares are those of its
# authors; its pictures have about 640 pixels.

# %% [markdown] slides=["T13"] slideshow={"slide_type": "slide"}
# ## 2 Four answers, and what each costs (T13)
#
# FPN: fine maps that know what deep ones know, for a third of the work of three pictures.
#
# In the talk (masks, ResNet-101): one map, C4: **33.1** AP, 54.9 AP50. FPN: **35.7** AP, 58.0 AP50.

# %% [markdown]
# - **Pyramid of pictures:** run the network on the picture in several sizes. Right, and slow.
# - **One map:** Faster R-CNN's first version, "C4". Fast, bad for small objects.
# - **The levels that are there anyway:** C2 for small things, C5 for large ones. But C2 is shallow.
# - **FPN:** hand what the deep levels know down to the fine ones.
#
# We count the work: multiply-adds of ResNet-50 for 224 x 224 pixels are 4.1 billion (notebook 03).

# %%
BODY = 4.1  # billions
picture_pyramid = sum(BODY * size**2 for size in (0.5, 1, 2))  # three sizes: a quarter, once, four times the pixels
body = resnet("resnet50")
fpn = FPN(body.out_channels)
extra, weights = 0, 0
for i, (channels, stride) in enumerate(zip(body.out_channels, body.strides)):
    lateral, smooth = channels * 256, 3 * 3 * 256 * 256
    assert fpn.inner_blocks[i][0].weight.data.size == lateral and fpn.layer_blocks[i][0].weight.data.size == smooth
    work = (lateral + smooth) * (224 // stride) ** 2 / 1e9
    print(f"P{i + 2}: {channels:4} channels to 256, {lateral + smooth:9,} weights, {work:.2f} billion multiply-adds")
    extra, weights = extra + work, weights + lateral + smooth + 2 * 256
assert weights == sum(p.data.size for p in fpn.parameters()) == 3_344_384
work = {"one map": BODY, "FPN": BODY + extra, "three pictures": picture_pyramid}
print({name: round(value, 1) for name, value in work.items()})
assert round(extra, 1) == 2.8 and work["three pictures"] > 3 * work["FPN"]

TALK = {"C4": (33.1, 54.9), "FPN": (35.7, 58.0)}  # mask AP and AP50 of Mask R-CNN, ResNet-101 (talk)
assert np.subtract(TALK["FPN"], TALK["C4"]).round(1).tolist() == [2.6, 3.1]

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}


def stack_of_maps(axes, left, colors, scale=1.0, bottom=0.0):
    """Levels as tilted squares, the coarsest on top; returns their middles."""
    middles = []
    for i, color in enumerate(colors):
        width, y = scale * (1.5 - 0.36 * i), bottom + scale * 0.62 * i
        x = left + scale * 0.18 * i
        lean, high = 0.22 * scale, 0.3 * scale
        corners = [(x, y), (x + width, y), (x + width + lean, y + high), (x + lean, y + high)]
        axes.add_patch(Polygon(corners, facecolor=color, edgecolor="black"))
        middles.append((x + width / 2 + 0.11 * scale, y + 0.15 * scale))
    return middles


figure, axes = plt.subplots(figsize=(11, 3.9))
axes.set(xlim=(-0.1, 12.1), ylim=(-0.85, 3.1), aspect="equal")
axes.axis("off")
gray, arrow = "gainsboro", dict(arrowstyle="-|>", linewidth=2.5, color="black", shrinkA=2, shrinkB=2)
for i, scale in enumerate((1, 0.6, 0.36)):
    stack_of_maps(axes, 0.1 + (0, 0.2, 0.35)[i], [gray, BLUE], scale, (0, 1.25, 2.05)[i])
stack_of_maps(axes, 3.0, [gray, gray, BLUE])
for i, middle in enumerate(stack_of_maps(axes, 5.6, [gray, (0.6, 0.8, 0.95), SKY, BLUE])):
    if i:
        axes.annotate("", (7.6, middle[1]), middle, arrowprops=arrow)
up = stack_of_maps(axes, 8.2, [gray, (0.6, 0.8, 0.95), SKY, BLUE])
down = stack_of_maps(axes, 10.35, [BLUE, BLUE, BLUE], bottom=0.62)
for i in range(3):
    axes.annotate("", (10.45 + 0.18 * i, down[i][1]), up[i + 1], arrowprops=arrow)
for i in (2, 1):
    axes.annotate("", down[i - 1], down[i], arrowprops={**arrow, "color": RED, "linewidth": 4})
names = ("three pictures\n21.5 G", "one map (C4)\n4.1 G", "C levels\n4.1 G", "FPN\n6.9 G")
for place, text in zip((1.0, 3.9, 6.5, 10), names):
    axes.text(place, -0.2, text, ha="center", va="top", fontsize=15)
assert [round(value, 1) for value in work.values()] == [4.1, 6.9, 21.5]
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Dark: maps that know much. Gray: the picture, or maps that are not read. From left to right: right but slow; fast but
# coarse; fast but shallow where it is fine; and FPN, which adds the red arrows. G is billions of multiply-adds for a
# small picture. FPN adds 2.8 to the 4.1, most of it in the smoothing of P2. T13 lists FPN, beside ResNet and ResNeXt,
# as a part that Mask R-CNN simply takes over.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 Fine but shallow: what C1 knows, and what P1 knows
#
# In our trained model C1 and P1 have the same 64 x 64 cells. From each cell's vector alone, by one matrix: **is here an
# animal?** Overlap with the truth in unseen scenes:

# %% [markdown]
# The model's strides are 2, 4, 8 and 16, so its levels are called C1 to C4 and P1 to P4. The measure is notebook 03's:
# a 1 x 1 convolution by least squares, "animal or not", for each level alone; all are compared on 32 x 32 places.

# %%
model = minimask.load("toy")
class_names = model.class_names
model.eval()
CS, PS = ("C1", "C2", "C3", "C4"), ("P1", "P2", "P3", "P4")


def all_maps(images):
    """C1 to C4 and P1 to P4 of pictures of one size: name -> (N, H, W, C)."""
    with no_grad(), Trace() as stages:
        model.features(Tensor(model.transform(images).images))
    return {name: stages[name] for name in CS + PS}


def on_32(x):
    """A map read at 32 x 32 places, with a 1 for the bias: (N * 32 * 32, C + 1)."""
    cells = (np.arange(32) * 4 + 2) * x.shape[1] // 128  # the cell in which the middle of a place lies
    x = x[:, cells][:, :, cells].reshape(-1, x.shape[3]).astype(float)
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def overlap(found, truth):
    return (found & truth).sum() / (found | truth).sum()


def animal_places(scenes):
    return np.stack([s.masks.any(axis=0)[2::4, 2::4] for s in scenes]).ravel()


learn, unseen = [ToyScenes("train", seed=5)[i] for i in range(60)], [ToyScenes("test")[i] for i in range(60)]
maps, test_maps = all_maps([s.image for s in learn]), all_maps([s.image for s in unseen])
y, truth = animal_places(learn), animal_places(unseen)
knows = {}
for name in CS + PS:
    x = on_32(maps[name])
    w = np.linalg.solve(x.T @ x + 1e-4 * len(x) * np.eye(x.shape[1]), x.T @ y)
    threshold = max(np.linspace(0.1, 0.6, 26), key=lambda t: overlap(x @ w > t, y))
    knows[name] = overlap(on_32(test_maps[name]) @ w > threshold, truth)
print({name: round(float(value), 2) for name, value in knows.items()})
assert knows["P1"] > knows["C1"] + 0.08  # the fine level has learned from above
assert knows["C4"] < knows["C2"] and abs(knows["P4"] - knows["C4"]) < 0.1  # the coarse ones have not, and are coarse

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9, 3.9))
for names, shift, color, label in ((CS, -0.2, SKY, "C: backbone"), (PS, 0.2, BLUE, "P: feature pyramid")):
    values = [knows[name] for name in names]
    bars = axes.bar(np.arange(4) + shift, values, 0.38, color=color, label=label)
    axes.bar_label(bars, [f"{value:.2f}" for value in values])
axes.set_xticks(range(4), [f"level {k}\nstride {2**k}" for k in (1, 2, 3, 4)])
axes.set(ylabel="overlap with the truth", ylim=(0, 1))
axes.legend(loc="upper right", ncol=2)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# C1 is the finest and knows least; the best of the C levels is a compromise in the middle. P1 has just as many cells as
# C1, and what it knows comes from above. On the coarsest level nothing changes, since nothing is above it: there the
# cells are simply too large to draw an outline. (P levels have 64 channels, C1 32; section 6 has the other half of the
# explanation.)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 One step from the top down, by hand
#
# $$M_k = \text{enlarge}(M_{k+1}) + \text{conv}_{1\times 1}(C_k)$$
#
# **enlarge**: each cell becomes 2 x 2 of the same (*nearest neighbor*). **1 x 1**: brings `C_k` to the common number
# of channels; here one channel, weight 2. Cell (1, 2): 20 + 2 · 6 = **32**.

# %%
coarse = np.array([[10.0, 20], [30, 40]])[:, :, None]  # M of the level above, (2, 2, 1)
fine = np.arange(16.0).reshape(4, 4, 1)  # C of this level, (4, 4, 1)
weight = np.array([[2.0]])  # 1 x 1 convolution from one channel to one

enlarged = coarse.repeat(2, axis=0).repeat(2, axis=1)
merged = enlarged + fine @ weight
print(merged[:, :, 0])
assert fine[1, 2, 0] == 6 and enlarged[1, 2, 0] == 20 and merged[1, 2, 0] == 32

np.testing.assert_array_equal(image.resize_nearest(Tensor(coarse[None]), (4, 4)).data[0], enlarged)  # the library's

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}


def show_numbers(axes, grid, title, color="Oranges", vmax=None, mark=None):
    """A map of one channel with its numbers."""
    axes.imshow(grid[:, :, 0], cmap=color, vmin=0, vmax=vmax or 2 * grid.max())
    for (i, j), value in np.ndenumerate(grid[:, :, 0]):
        axes.text(j, i, f"{value:g}", ha="center", va="center", fontsize=16)
    if mark:
        axes.add_patch(Rectangle((mark[1] - 0.5, mark[0] - 0.5), 1, 1, fill=False, edgecolor=RED, linewidth=4))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=15)


figure, panels = plt.subplots(1, 4, figsize=(11, 3.3), width_ratios=[0.62, 1, 1, 1])
show_numbers(panels[0], coarse, "from above", mark=(0, 1))
show_numbers(panels[1], enlarged, "enlarged", mark=(1, 2))
show_numbers(panels[2], 2 * fine, "+  2 x own level", "Blues", mark=(1, 2))
show_numbers(panels[3], merged, "=  sum", "Greens", mark=(1, 2))
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The sum is crude, and that is its charm: from above comes what it is, from the side where exactly it is, and both are
# learned so that adding makes sense, as in a residual block. The 1 x 1 convolution is needed because C2 to C5 have 256
# to 2048 channels, and one cannot add maps of different depths.

# %% [markdown]
# ### Exercise 1: enlarge a map
#
# The library's rule for any sizes, also for those that are not doubled (a photo of 800 x 1066 pixels has 34 columns at
# stride 32 and 67 at stride 16): row `i` of the result copies row `floor(i * H / height)`, and columns likewise.


# %% exercise="enlarge_nearest"
def my_enlarge_nearest(x, height, width):
    """The map x (H, W, C) enlarged to (height, width, C): row i copies row floor(i H / height), columns likewise."""
    ### BEGIN SOLUTION
    rows = np.arange(height) * x.shape[0] // height
    columns = np.arange(width) * x.shape[1] // width
    return x[rows][:, columns]
    ### END SOLUTION


# %% check="enlarge_nearest"
check.enlarge_nearest(my_enlarge_nearest)

# %% [markdown]
# ### Exercise 2: one step
#
# With many channels the 1 x 1 convolution is a matrix `w` of shape `(C, D)`, applied at each cell: `fine @ w`.


# %% exercise="top_down"
def my_top_down(coarse, fine, w):
    """M of a level: the level above, coarse (h, w, D), enlarged, plus its own, fine (H, W, C), times w (C, D)."""
    ### BEGIN SOLUTION
    return my_enlarge_nearest(coarse, *fine.shape[:2]) + fine @ w
    ### END SOLUTION


# %% check="top_down"
check.top_down(my_top_down)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 Smoothing, and the whole pyramid
#
# Nearest-neighbor enlarging leaves steps at every second cell. A **3 x 3 convolution** on each sum smooths them:
# $P_k = \text{conv}_{3\times 3}(M_k)$. What is handed further down is $M_k$, **not** $P_k$.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
rng = np.random.default_rng(1)
small = np.tril(np.full((6, 6), 8.0))[:, :, None]  # an edge from corner to corner
steps = my_enlarge_nearest(small, 12, 12)
average = np.ones((3, 3, 1, 1)) / 9
smoothed = conv2d(np.pad(steps, ((1, 1), (1, 1), (0, 0)), mode="edge")[None], average).data[0]
figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.9))
for axes, grid, title in zip(panels, (small, steps, smoothed), ("coarse map", "enlarged: steps", "after a 3 x 3")):
    axes.imshow(grid[:, :, 0], cmap="cividis", extent=(0, 1, 1, 0))
    lines = np.linspace(0, 1, len(grid) + 1)
    axes.set(xticks=lines, yticks=lines, title=title)
    axes.grid(color="white", linewidth=1.5)
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# An edge that runs diagonally. Enlarged it has steps of two cells. Here the 3 x 3 averages; in the network its weights
# are learned, and do more than smooth. Next to the picture, the order matters: P is a side exit. What goes down is M,
# otherwise P2 would have been smoothed four times.

# %% [markdown]
# ### Exercise 3: the whole pyramid
#
# `levels` are C maps from fine to coarse, `laterals` their matrices, `smooths` their 3 x 3 weights. The coarsest level
# has nothing above it: its M is the lateral part alone. Use `conv3x3`:


# %%
def conv3x3(x, w):
    """Convolution of a map (H, W, Cin) with weights (3, 3, Cin, Cout), padding 1: (H, W, Cout)."""
    return conv2d(x[None], w, padding=1).data[0]


# %% exercise="feature_pyramid"
def my_feature_pyramid(levels, laterals, smooths):
    """The P maps, a list from fine to coarse, of the C maps `levels`: top-down sums, each smoothed by its 3 x 3."""
    ### BEGIN SOLUTION
    merged = levels[-1] @ laterals[-1]
    pyramid = [conv3x3(merged, smooths[-1])]
    for fine, w, v in reversed(list(zip(levels[:-1], laterals[:-1], smooths[:-1]))):
        merged = my_top_down(merged, fine, w)
        pyramid.insert(0, conv3x3(merged, v))
    return pyramid
    ### END SOLUTION


# %% check="feature_pyramid"
check.feature_pyramid(my_feature_pyramid)

# %% [markdown]
# The library's FPN, and yours with its weights (its biases are 0 before training), on maps as a photo gives them, with
# odd sizes:

# %%
small_fpn = FPN([8, 16, 24], channels=12, pool=False).to(np.float64)
levels = [rng.standard_normal((*size, c)) for size, c in (((25, 34), 8), ((13, 17), 16), ((7, 9), 24))]
laterals = [block[0].weight.data[0, 0] for block in small_fpn.inner_blocks]
smooths = [block[0].weight.data for block in small_fpn.layer_blocks]
for mine, theirs in zip(my_feature_pyramid(levels, laterals, smooths), small_fpn([Tensor(x[None]) for x in levels])):
    np.testing.assert_allclose(mine, theirs.data[0], atol=1e-12)
    print(mine.shape)
print(inspect.getsource(FPN.forward))

# %% [markdown]
# ### Does the smoothing do something in the trained model?
#
# In a map that was enlarged, neighbors inside a block of 2 x 2 are alike, and neighbors across two blocks are not. We
# compare the two differences, for the finest level of the trained model, in three maps: what comes from above, the sum
# M, and P.

# %%
fpn = model.backbone.fpn
with no_grad():
    merged = None
    for k in (3, 2, 1, 0):
        above = None if merged is None else image.resize_nearest(merged, test_maps[CS[k]].shape[1:3])
        merged = fpn.inner_blocks[k][0](Tensor(test_maps[CS[k]]), residual=above)
    p1 = fpn.layer_blocks[0][0](merged).data
np.testing.assert_allclose(p1, test_maps["P1"], atol=1e-4)


def block_ratio(x):
    """Difference of neighbors inside blocks of two columns, over that across blocks."""
    differences = abs(np.diff(x, axis=2))
    return differences[:, :, ::2].mean() / differences[:, :, 1::2].mean()


ratio = {"from above": block_ratio(above.data), "sum, M1": block_ratio(merged.data), "P1": block_ratio(p1)}
print({name: round(float(value), 2) for name, value in ratio.items()})
assert ratio["from above"] == 0 and ratio["sum, M1"] < 0.95 and ratio["P1"] > ratio["sum, M1"] + 0.1

# %% [markdown]
# Inside blocks nothing changes in what comes from above; in the sum there is still less difference inside blocks than
# across; in P1 that is no longer so.
#
# ### P6
#
# The RPN (notebook 06) also looks for boxes of 512 pixels. For these there is P6: every second cell of P5, nothing
# more. The heads never read it. In the libraries it is written as a max pooling with a window of one cell. Our toy
# model has no use for such boxes, and no P6.

# %%
p5 = rng.standard_normal((1, 25, 34, 4))
p6 = p5[:, ::2, ::2]
np.testing.assert_array_equal(max_pool2d(Tensor(p5), 1, stride=2).data, p6)
assert p6.shape == (1, 13, 17, 4)
assert FPN([8], channels=4).pool and not model.backbone.fpn.pool

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 Which level does a region read?
#
# $$k = \left\lfloor 4 + \log_2 \frac{\sqrt{w\,h}}{224} \right\rfloor \qquad \text{(Lin et al. 2017)}$$
#
# - 224 x 224: $4 + \log_2 1 = 4$, **P4**. 112 x 112: **P3**. 448 x 448: **P5**. 448 x 112: also **P4**.
# - L13's 107 x 168: $\sqrt{17976} = 134.1$; $4 + \log_2 0.599 = 3.26$, **P3**.

# %% [markdown]
# `log2` counts doublings: log2 of 1 is 0, of 2 is 1, of 1/2 is -1. The brackets round down. Levels that do not exist
# become the finest or the coarsest. Why 224 and 4? A picture on ImageNet has 224 pixels, and on C4 a whole one was 14 x
# 14 cells; a region of that size should look as it did there.

# %%
by_hand = 4 + np.log2(np.sqrt(107 * 168) / 224)
assert 107 * 168 == 17_976 and round(np.sqrt(17_976), 1) == 134.1 and round(by_hand, 2) == 3.26
L10 = np.array([[112.0, 45, 219, 213], [268, 44, 361, 280], [67, 106, 177, 195]])  # the lecture's three regions
shapes = {(224, 224): 4, (112, 112): 3, (448, 448): 5, (448, 112): 4, (112, 448): 4, (20, 20): 2, (1200, 900): 5}
for (w, h), k in shapes.items():
    assert assign_levels(np.array([[0.0, 0, w, h]]))[0] + 2 == k  # the library counts from the finest level, P2
print("L10's regions read", [f"P{k}" for k in assign_levels(L10) + 2])
assert (assign_levels(L10) + 2).tolist() == [3, 3, 2]

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.3))
w, h = np.meshgrid(np.geomspace(16, 1024, 200), np.geomspace(16, 1024, 200))
levels_of = assign_levels(np.stack([0 * w, 0 * h, w, h], axis=-1)) + 2
for k, color in zip((2, 3, 4, 5), LEVEL_COLORS):
    left.contourf(w, h, levels_of == k, [0.5, 1.5], colors=[color], alpha=0.6)
    middle = 224 * 2 ** (k - 3.5) if k > 2 else 50
    left.text(middle, middle, f"P{k}", ha="center", va="center", fontsize=18)
for x1, y1, x2, y2 in L10:
    left.plot(x2 - x1, y2 - y1, "ko", markersize=8)
left.plot([], [], "ko", label="L10's regions")
for text, place in (("448 x 112", (448, 112)), ("112 x 448", (112, 448))):
    left.plot(*place, "k^", markersize=9)
    left.annotate(text, place, (0, 9), textcoords="offset points", ha="center", fontsize=12)
left.legend(loc="lower left", fontsize=12)
side = np.geomspace(16, 1024, 2000)
level = assign_levels(np.stack([0 * side, 0 * side, side, side], axis=-1)) + 2
cells = side / 2.0**level
for k, color in zip((2, 3, 4, 5), LEVEL_COLORS):
    right.plot(side[level == k], cells[level == k], color=color, linewidth=5)
    right.text(side[level == k].mean(), cells[level == k].max() + 1, f"P{k}", ha="center")
right.axhspan(14, 28, color="lightgray", alpha=0.5)
for axes, scales in ((left, ("x", "y")), (right, ("x",))):
    for name in scales:
        getattr(axes, f"set_{name}scale")("log", base=2)
        getattr(axes, f"set_{name}ticks")([16, 56, 112, 224, 448, 1024], [16, 56, 112, 224, 448, 1024])
left.set(xlabel="width of the region, pixels", ylabel="height, pixels")
right.set(xlabel="side of a square region, pixels", ylabel="cells that it has on its level")
right.set(yticks=[4, 14, 28], ylim=(0, 38))
inner = (side >= 112) & (side < 896)
assert cells[inner].min() >= 14 and cells[inner].max() < 28.01
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Left, both axes in doublings: the borders between the levels are straight lines w times h = constant. A long box and a
# square one of the same area read the same level. Right: what it is good for. Whatever the size of the region, on its
# level it is 14 to 28 cells wide, so the heads always see things at about the same size. Only what is too small for P2
# has fewer cells, and what is too large for P5 more.

# %% [markdown]
# ### Exercise 4: the level of a box
#
# As numbers 2, 3, 4, 5 (or whatever `finest` and `coarsest` say), for many boxes at once. A box without area reads the
# finest level. Return integers (`astype(int)`).


# %% exercise="pyramid_levels"
def my_pyramid_levels(boxes, finest, coarsest, canonical_size):
    """The level that each of boxes (R, 4), x1 y1 x2 y2, reads: (R,) integers; canonical_size reads level 4."""
    ### BEGIN SOLUTION
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    side = np.sqrt(np.maximum(area, 1e-9))  # the logarithm of 0 is not a number
    level = np.floor(4 + np.log2(side / canonical_size))
    return np.clip(level, finest, coarsest).astype(int)
    ### END SOLUTION


# %% check="pyramid_levels"
check.pyramid_levels(my_pyramid_levels)

# %% [markdown]
# ### Try it
#
# Width and height of a region on a photo of 800 pixels, the level that it reads, and its cells there.


# %% widget=True
def draw_region(axes, width, height):
    """A region in the middle of a photo of 800 x 800 pixels, with the cells of its level inside."""
    box = np.array([[400 - width / 2, 400 - height / 2, 400 + width / 2, 400 + height / 2]])
    k = my_pyramid_levels(box, 2, 5, 224)[0]
    stride, (x1, y1, x2, y2) = 2**k, box[0]
    axes.imshow(LARGE[17].image, extent=(0, 800, 800, 0), alpha=0.5)
    lines = np.arange(0, 801, stride)
    axes.vlines(lines[(lines > x1) & (lines < x2)], y1, y2, color="black", linewidth=stride / 25)
    axes.hlines(lines[(lines > y1) & (lines < y2)], x1, x2, color="black", linewidth=stride / 25)
    axes.add_patch(Rectangle((x1, y1), width, height, fill=False, edgecolor=LEVEL_COLORS[k - 2], linewidth=5))
    axes.set(xticks=[], yticks=[])
    cells = f"{width / stride:.1f} x {height / stride:.1f} cells"
    axes.set_title(f"{width} x {height}, root {np.sqrt(width * height):.0f}: P{k}\n{cells}")


def region(width=448, height=112):
    """One figure for one position of the sliders."""
    draw_region(plt.subplots(figsize=(5, 5))[1], width, height)
    plt.show()


try:
    from ipywidgets import IntSlider, interact

    interact(region, width=IntSlider(448, 16, 800, 8), height=IntSlider(112, 16, 800, 8))
except ImportError:  # no widgets installed
    region()

# %% [markdown]
# Without sliders: three regions. The first two have the same area.

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 3, figsize=(10.5, 4.3))
for axes, shape in zip(panels, ((448, 112), (224, 224), (100, 100))):
    draw_region(axes, *shape)
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 The objects of a scene, and which level they read
#
# The same scene for a large model (photos of 800 pixels, P2 to P5) and for our toy model (128 pixels, P1 to P4).

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}


def draw_levels(axes, sample, levels, names):
    """The boxes of a sample, each in the color of its level."""
    axes.imshow(sample.image)
    for (x1, y1, x2, y2), level in zip(sample.boxes, levels):
        look = dict(edgecolor=LEVEL_COLORS[level], linestyle=LEVEL_LINES[level], linewidth=4, fill=False)
        axes.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, **look))
    for level in sorted(set(levels)):
        axes.plot([], [], color=LEVEL_COLORS[level], linestyle=LEVEL_LINES[level], linewidth=4, label=names[level])
    axes.set(xticks=[], yticks=[])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


sample = unseen[5]
large = assign_levels(sample.boxes * 800 / 128)
toy = assign_levels(sample.boxes, int(np.log2(model.roi_strides[0])), 4, model.roi.canonical_size)
assert len(set(large)) == 3 and len(set(toy)) == 2
figure, panels = plt.subplots(1, 2, figsize=(10.5, 4.2))
draw_levels(panels[0], sample, large, ("P2", "P3", "P4", "P5"))
draw_levels(panels[1], sample, toy, PS)
panels[0].set_title("enlarged to 800 pixels", fontsize=15)
panels[1].set_title("toy model, 128 pixels", fontsize=15)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The level depends on the size in pixels *as the network sees it*: the same photo in another size reads other levels.
# In the toy model nearly all read P1, on purpose: an animal of 16 pixels has 8 x 8 cells there, at stride 4 it would
# have 4 x 4. That is why its pyramid goes down to stride 2.

# %%
first = int(np.log2(model.roi_strides[0]))
print("toy model: strides", model.roi_strides, " canonical size", model.roi.canonical_size)
share = np.bincount(my_pyramid_levels(boxes, first, first + 3, model.roi.canonical_size), minlength=5)[1:] / len(boxes)
spread = np.bincount(my_pyramid_levels(boxes, first, first + 3, 56), minlength=5)[1:] / len(boxes)
print("share of the animals that read P1 to P4", share.round(2), " with canonical size 56", spread.round(2))
assert share[0] > 0.8 and (spread > 0).all()
assert 16 / 2 == 8 and 16 / 4 == 4

# %% [markdown]
# The heads go by this formula. The RPN does not: it looks at **every** level, on each for boxes of that level's size
# (its *anchors*, notebook 05). In the toy model it reads P2, P3 and P4:

# %%
anchors = dict(zip(PS[model.rpn_first_level :], presets.PRESETS["toy"]["rpn"]["anchor_sizes"]))
print(anchors)
assert list(anchors) == ["P2", "P3", "P4"]

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 What the levels see: the same dog, 24 and 80 pixels
#
# Vectors as colors (PCA, notebook 03): same color, same features. P1 draws both dogs. On P4 the small one is a cell
# or two.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}


def pca(vectors):
    """Mean, directions (C, 3), and the range to show of feature vectors (N, C)."""
    mean = vectors.mean(axis=0)
    directions = np.linalg.svd(vectors - mean, full_matrices=False)[2][:3].T
    return mean, directions, np.percentile((vectors - mean) @ directions, [1, 99], axis=0)


two_sizes = [dog_of(24), dog_of(80)]
two_maps = all_maps([*two_sizes, dog_of(1)])
figure, panels = plt.subplots(2, 5, figsize=(11, 4.7))
for row, picture in zip(panels, two_sizes):
    row[0].imshow(picture)
for column, name in enumerate(PS, start=1):
    changed = two_maps[name][:2] - two_maps[name][2]  # what the dog changes: the empty ground is subtracted
    mean, directions, (low, high) = pca(changed.reshape(-1, changed.shape[3]))
    for row, x in zip(panels, changed):
        row[column].imshow(np.clip(((x - mean) @ directions - low) / (high - low), 0, 1))
    panels[0, column].set_title(f"{name}, stride {128 // changed.shape[1]}", fontsize=14)
for axes in panels.ravel():
    axes.set(xticks=[], yticks=[])
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# What is shown is the difference to the empty meadow. Around the dog even cells change that do not touch it: their
# receptive field does. On P1 one sees legs and ears, on P3 and P4 a patch. The next picture asks the network itself
# which of the levels it uses.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 9 Each level answers for its own size
#
# The RPN has **one** set of weights for all levels. We show it the same dog from 14 to 96 pixels and ask on which level
# it is surest that there is an object.

# %%
SIDES = np.array([14, 16, 20, 24, 32, 40, 48, 56, 64, 80, 96])
answers = []
with Trace() as stages:
    model.detect(model.transform([dog_of(side) for side in SIDES]))
cells = [stages[name].shape[1] * stages[name].shape[2] for name in anchors]
per_cell = stages["objectness"].shape[1] // sum(cells)  # anchors a cell
starts = per_cell * np.cumsum([0, *cells])  # where each level's anchors begin
surest = np.stack([stages["objectness"][:, a:b].max(axis=1) for a, b in zip(starts[:-1], starts[1:])])  # (3, sizes)
wins = surest.argmax(axis=0)
print("surest level for each size:", {int(s): list(anchors)[k] for s, k in zip(SIDES, wins)})
assert wins[1] == 0 and wins[-1] == 2 and (np.diff(wins) >= 0).all()  # fine for small, coarse for large, in order

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9.5, 4.1))
for row, name, color, line in zip(surest, anchors, LEVEL_COLORS[1:], LEVEL_LINES[1:]):
    label = f"{name}: looks for {anchors[name][0]} and {anchors[name][1]} pixels"
    axes.plot(SIDES, row, marker="o", color=color, linestyle=line, linewidth=4, label=label)
axes.axhline(0, color="gray", linewidth=1.5)
axes.text(97, -0.3, "50 : 50", ha="right", va="top", color="dimgray")
axes.set_xscale("log", base=2)
axes.set_xticks([14, 20, 32, 48, 64, 96], [14, 20, 32, 48, 64, 96])
axes.set(xlabel="size of the dog, pixels", ylabel="how sure: object")
axes.legend(loc="lower center", fontsize=12)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# "How sure" is a logit: 0 is 50 to 50, 5 is 99 % (notebook 11). As the dog grows, it leaves P2, then P3, and is taken
# over by the next. The same weights are used on all three: to them a dog of 20 pixels on P2 looks as a dog of 40 on P3
# and of 80 on P4. That is what a pyramid is for.

# %% [markdown]
# The same in a number: with a pyramid, does the dog look alike to the RPN whenever its size doubles and the level goes
# up by one?

# %%
doubling = {name: surest[k][list(SIDES).index(20 * 2**k)] for k, name in enumerate(anchors)}
fixed = {side: surest[0][list(SIDES).index(side)] for side in (20, 40, 80)}
print("20, 40, 80 pixels on P2, P3, P4:", [round(float(v), 1) for v in doubling.values()])
print("20, 40, 80 pixels, all on P2:   ", [round(float(v), 1) for v in fixed.values()])
assert min(doubling.values()) > max(fixed[40], fixed[80])

# %% [markdown]
# ## 10 Common misconceptions
#
# ### "P2 is C2, enlarged"
#
# P2 has the size of C2. What is enlarged comes from above. Without the lateral part the fine level is as coarse as the
# coarsest: from three levels up come blocks of 8 x 8 equal cells in our model.

# %%
top = np.random.default_rng(0).standard_normal((8, 8, 3))
nothing = np.zeros((3, 3))
m = top
for cells in (16, 32, 64):
    m = my_top_down(m, np.ones((cells, cells, 3)), nothing)
blocks = m.reshape(8, 8, 8, 8, 3)
assert m.shape == (64, 64, 3) and (blocks == blocks[:, :1, :, :1]).all()

# %% [markdown]
# ### "Each object is looked for on one level only"
#
# The *heads* read one level for each region. The RPN looks on all levels, and a dog of 48 pixels is found on two:

# %%
at_48 = dict(zip(anchors, surest[:, list(SIDES).index(48)].round(1).tolist()))
print("a dog of 48 pixels:", at_48)
assert sum(value > 0 for value in at_48.values()) >= 2

# %% [markdown]
# ### "A long, thin box is large, so it reads a coarse level"
#
# The area counts, not the longer side. A pole of 16 x 512 pixels reads P2, though it is 512 pixels long:

# %%
pole, square = np.array([[0.0, 0, 16, 512]]), np.array([[0.0, 0, 512, 512]])
assert my_pyramid_levels(pole, 2, 5, 224) == 2 and my_pyramid_levels(square, 2, 5, 224) == 5
assert np.sqrt(16 * 512) < 112

# %% [markdown]
# ### "A bilinear enlargement would be better, so it can be exchanged"
#
# *Bilinear*: a new cell is a weighted mean of the four old ones around it (notebook 08). But weights want the
# convention they learned with (notebook 03). With bilinear enlarging in the trained model:

# %%
nearest = image.resize_nearest
scene_batch = model.transform([s.image for s in unseen[:20]])
with no_grad():
    right = model.features(Tensor(scene_batch.images))[0].data
    image.resize_nearest = image.resize_bilinear
    other = model.features(Tensor(scene_batch.images))[0].data
    image.resize_nearest = nearest
change = np.linalg.norm(other - right) / np.linalg.norm(right - right.mean(axis=(0, 1, 2)))
print(f"P1 changes by {100 * change:.0f} %")
assert change > 0.1

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Recap
#
# 1. Fine levels are shallow, deep ones coarse. FPN hands meaning down: enlarge, add the lateral 1 x 1, smooth with 3 x
#    3.
# 2. Result: P2 to P5, one number of channels, strides 4 to 32; P6 is every second cell of P5, for the RPN.
# 3. A region reads level $\lfloor 4 + \log_2(\sqrt{wh}/224) \rfloor$, where it is 14 to 28 cells wide, if there is
#    such a level. Only its area counts.
# 4. The heads read one level a region; the RPN looks on all, with one set of weights.
# 5. In the talk FPN brings +2.6 mask AP over C4 (ResNet-101). Its own work is less than that of a ResNet-50.

# %% [markdown]
# ## Quiz
#
# 1. Why not simply read small objects from C2?
# 2. What does the 1 x 1 convolution do, and why can it not be left out?
# 3. M5 has 7 x 9 cells, C4 13 x 17. From which row of M5 does row 12 of the enlarged map come?
# 4. What is handed down, M or P?
# 5. Why a 3 x 3 convolution after the sum?
# 6. Which level reads a region of 60 x 60 pixels? 300 x 75? 10 x 10?
# 7. You enlarge all photos from 800 to 1600 pixels. What happens to the levels of the regions?
# 8. Who reads P6, and why is it enough to leave out every second cell?
# 9. How wide, in cells, is a region of 896 x 896 pixels on its level?
# 10. Why can one RPN serve all levels?
#
# <details><summary>Answers</summary>
#
# 1. Its cells have seen few pixels: they know edges, not animals.
# 2. It brings every level to the same number of channels; maps of different depths cannot be added.
# 3. floor(12 · 7 / 13) = 6.
# 4. M, the sum before the smoothing.
# 5. To take away the steps that nearest-neighbor enlarging leaves.
# 6. 4 + log2(60/224) = 2.1: P2. Root 150: 3.4, P3. Below P2: P2.
# 7. All sides double, so each moves up a level, as far as there is one.
# 8. The RPN, for boxes of about 512 pixels; for these cells 64 pixels apart are close enough.
# 9. It should read level 6, but P5 is the coarsest: 896/32 = 28.
# 10. An object of its size looks alike on each level, and the levels have the same number of channels.
#
# </details>
