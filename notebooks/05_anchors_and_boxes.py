# %% [markdown] slideshow={"slide_type": "slide"}
# # 05 Anchors and boxes
#
# **Question.** A picture shows one cat, or six animals, or none, anywhere and of any size. But a network always puts
# out **the same number of numbers**. How can it answer *"where are they?"*
#
# - By starting at boxes that are always there: *anchors*.
# - For each it says two things: *is something here?* and *how must this box move?*

# %% [markdown] slideshow={"slide_type": "notes"}
# Let the room try first: what would you let the network put out? Usual proposals are "a list" (a convolution cannot),
# "one box for each cell" (close: that is an anchor), "a picture of which pixels are animals" (that cannot tell two
# animals apart that touch). This lecture is geometry alone; the network that uses it is notebook 06.

# %%
import inspect
import time

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from PIL import Image

from minimask import anchors, boxes, check, conventions, draw, mask_rcnn, presets, targets
from minimask.anchors import AnchorGenerator
from minimask.datasets.toy import ToyScenes
from minimask.trace import Trace

plt.rcParams.update({"figure.figsize": (9, 4.5), "figure.dpi": 100, "font.size": 14})
plt.rcParams["figure.constrained_layout.use"] = True
ORANGE, SKY, RED, BLUE, GREEN, PURPLE = draw.COLORS[[0, 1, 2, 4, 6, 5]] / 255
SCENES = ToyScenes("test")  # drawn pictures of 128 x 128 pixels, with the true boxes


def outline(axes, box, color, style="-", label=None, width=3):
    """A box x1, y1, x2, y2 on the axes."""
    look = dict(fill=False, edgecolor=color, linewidth=width, linestyle=style, zorder=5)
    axes.add_patch(Rectangle(box[:2], box[2] - box[0], box[3] - box[1], label=label, **look))


def show_picture(axes, image, **settings):
    """A picture whose axes count pixels from corner to corner: pixel 0 covers 0 to 1."""
    axes.imshow(image, extent=(0, image.shape[1], image.shape[0], 0), interpolation="nearest")
    axes.set(xticks=[], yticks=[], **settings)


# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 3, figsize=(10, 3.6))
for axes, number in zip(panels, (21, 8, 19)):
    show_picture(axes, SCENES[number].image, title=f"boxes: {len(SCENES[number].boxes)}")
    for box in SCENES[number].boxes:
        outline(axes, box, BLUE)
plt.show()

# %% [markdown]
# **Words of this notebook**
#
# - *Object*: an animal in a scene. *Box*: a rectangle with sides along the picture's, here tight around an object.
# - *Feature map*: an array `(H, W, C)` that the network computes from the picture (notebook 03). *Level*: one of
#   several maps of one picture, from fine to coarse (notebook 04). *Place*: a row and a column of a map.
# - *Stride*: how many pixels lie between neighboring places of a level.
# - *Anchor*: a box that belongs to a place of a level, whatever the picture shows.
# - *Deltas*: four numbers that say how an anchor must move and stretch.
# - *IoU*, intersection over union: how alike two boxes are, 0 to 1.
# - *RoI*, region of interest: a box that was proposed and will be looked at more closely.

# %% [markdown] slides=["T04", "L06"] slideshow={"slide_type": "slide"}
# ## 1 Detection: a meta-algorithm (T04), and its parts (L06)
#
# **Fast/Faster R-CNN**: propose boxes, cut out what is in them, say for each what it is and where exactly.
#
# A *meta-algorithm*: a plan whose parts may be exchanged. Good speed, good accuracy, intuitive, easy to use.

# %% [markdown]
# - **R-CNN** (2014): boxes from outside, about 2000 a picture; each was cut out of the picture and went through the
#   whole network. Slow.
# - **Fast R-CNN** (2015): the network runs once over the picture; each box is cut out of its *features* (notebook 08).
# - **Faster R-CNN** (2015): the boxes come from the features too, by the region proposal network (notebook 06), which
#   needs *anchors*.
#
# Mask R-CNN adds masks to that and keeps the plan. The parts, with what each of them computes for one picture:

# %% tags=["hide-input"]
faster_rcnn = mask_rcnn.build("toy", heads={"mask": None}).eval()
with Trace() as stages:  # keeps what each part computes
    faster_rcnn.detect(faster_rcnn.transform([SCENES[8].image]))
print(stages.table())
assert stages["anchors"].shape == (8064, 4) and stages["proposals"].shape == (1, 200, 4)
assert stages["box_features"].shape == (200, 7, 7, 64) and stages["class_logits"].shape == (200, 4)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
PARTS = [  # name, what it does, what comes out, color
    ("picture", "", "128 x 128 x 3", "white"),
    ("backbone,\npyramid", "features\n(notebooks\n03, 04)", "4 levels of\n64 channels", SKY),
    ("region\nproposals", "where might\nan object be?\n(05, 06)", "8064 anchors\n-> 200 boxes", ORANGE),
    ("RoIAlign", "cut them out\n(08)", "200 x 7 x 7\nx 64", GREEN),
    ("box head", "what is it,\nwhere exactly?\n(09)", "classes, scores,\nboxes", PURPLE),
]
figure, axes = plt.subplots(figsize=(11, 4))
for i, (name, does, result, color) in enumerate(PARTS):
    axes.add_patch(Rectangle((2.3 * i, 1), 1.8, 1.6, facecolor=color, edgecolor="black", alpha=0.75, linewidth=2))
    axes.text(2.3 * i + 0.9, 1.8, does, ha="center", va="center", fontsize=15)
    axes.text(2.3 * i + 0.9, 2.7, name, ha="center", fontsize=16, weight="bold")
    axes.text(2.3 * i + 0.9, 0.85, result, ha="center", va="top", fontsize=15)
    if i == 0:
        axes.imshow(SCENES[8].image, extent=(0, 1.8, 1, 2.6), aspect="auto", zorder=3)
    else:
        axes.annotate("", (2.3 * i, 1.8), (2.3 * i - 0.5, 1.8), arrowprops=dict(arrowstyle="-|>", linewidth=3))
axes.annotate("", (7.8, 3.1), (7.8, 3.65), arrowprops=dict(arrowstyle="-|>", linewidth=3))
axes.plot([3.2, 3.2, 7.8], [3.5, 3.65, 3.65], color="black", linewidth=3)
axes.text(5.5, 3.75, "the same features", ha="center", fontsize=15)
axes.set(xlim=(-0.1, 11.1), ylim=(0.1, 4.1))
axes.axis("off")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Read it from left to right. Two parts ask two questions: the region proposal network asks of thousands of anchors
# whether there is anything at all, the box head asks of a few hundred boxes what it is. Both read the same features,
# computed once: that is the speed. "Accurate": the tables of notebook 14. "Easy to use": one call takes pictures and
# returns boxes. Today: the boxes between these parts. What are they, how are two compared, where do they come from, how
# are they moved?

# %% [markdown]
# That parts may be exchanged is easily said. Here is the plan with four sets of parts (their weights are random, so
# what they find means nothing); the answer has the same form each time:

# %%
for parts in ({}, {"backbone": "resnet50"}, {"backbone": {"norm": "group"}}, {"roi": {"pooling": "roi_pool"}}):
    exchanged = mask_rcnn.build("toy", heads={"mask": None}, **parts).eval()
    found = exchanged.predict([SCENES[8].image])[0]
    assert found.boxes.shape == (len(found.labels), 4) and found.scores.shape == found.labels.shape
    print(f"{str(parts):36} -> boxes (D, 4), labels (D,), scores (D,)")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 A box is four numbers
#
# `x1, y1, x2, y2`: two corners, in pixels, as **real** numbers. Pixel 3 covers 3.0 to 4.0.
#
# So a box around pixels 3 to 7 reaches from 3 to **8**. Its width is 8 - 3 = 5, with no "+ 1".

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9, 2.6))
for pixel in range(10):
    inside = 3 <= pixel <= 7
    axes.add_patch(Rectangle((pixel, 0), 1, 1, facecolor=SKY if inside else "gainsboro", edgecolor="white"))
    axes.text(pixel + 0.5, 0.5, f"pixel {pixel}", ha="center", va="center", fontsize=12)
outline(axes, [3, 0, 8, 1], RED, width=4)
axes.set(xlim=(-0.1, 10.1), ylim=(1.1, -0.1), yticks=[], xticks=range(11), xlabel="x")
plt.show()

row = np.zeros((1, 10), bool)
row[0, 3:8] = True  # pixels 3, 4, 5, 6, 7
assert row.sum() == 8 - 3 == 5

# %% [markdown] slideshow={"slide_type": "notes"}
# Ask: how wide is a box from pixel 3 to pixel 7? Half the room says 4, half says 5. Both confuse pixels with the lines
# between them. With lines there is nothing to remember: subtract. Section 10 shows what the "+ 1" of old code spoils.

# %% [markdown]
# The true boxes of our scenes are tight around the pixels of each animal in that sense:

# %%
scene = SCENES[8]
for box, mask in zip(scene.boxes, scene.masks):
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
print(scene.boxes)

# %% [markdown]
# There are other ways to write a box. COCO files hold `x, y, width, height`; formulas for anchors like the *center* and
# the *size* `(w, h)`. In this project a box is two corners wherever nothing else is said.
#
# ### Exercise 1: area
#
# Many boxes are an array `(R, 4)`. Write the area of each, without a loop.


# %% exercise="box_area"
def my_box_area(boxes):
    """The areas (R,) of boxes (R, 4), in square pixels."""
    ### BEGIN SOLUTION
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    ### END SOLUTION


# %% check="box_area"
check.box_area(my_box_area)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 How alike are two boxes?
#
# $$\text{IoU} = \frac{\text{area of what they share}}{\text{area of what they cover together}}$$
#
# **By hand:** (0, 0)-(2, 2) and (1, 0)-(3, 2) share 2 squares and cover 4 + 4 - 2 = 6: IoU = 2/6 = **1/3**.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
a, b = np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2]])
assert np.isclose(boxes.iou(a, b)[0, 0], 2 / 6)

figure, axes = plt.subplots(figsize=(7, 3.4))
for x in range(3):
    for y in range(2):
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=GREEN if x == 1 else "gainsboro", alpha=0.6))
        axes.text(x + 0.5, y + 0.5, "shared" if x == 1 else "", ha="center", va="center")
outline(axes, a[0] + [0.02, 0.02, -0.02, -0.02], BLUE, width=6)
outline(axes, b[0] + [0.02, 0.02, -0.02, -0.02], ORANGE, "--", width=6)
axes.set(xlim=(-0.2, 3.2), ylim=(2.2, -0.2), xticks=range(4), yticks=range(3), aspect="equal")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Let them count the squares. Half of each box is shared, and yet IoU is a third, not a half: what is shared counts once
# in the union. That surprises everybody once; better now than when looking at an average precision of 0.5.

# %% [markdown]
# In coordinates: what they share is a box too. Its left side is the further right of the two left sides,
# `max(x1, u1)`, its right side the further left of the two right ones, `min(x2, u2)`. If the boxes lie apart, that
# "box" has a side below 0, which must count as 0:
#
# $$\text{shared} = \max(0, \min(x_2, u_2) - \max(x_1, u_1)) \cdot \max(0, \min(y_2, v_2) - \max(y_1, v_1))$$
# $$\text{IoU} = \frac{\text{shared}}{\text{area}_a + \text{area}_b - \text{shared}}$$

# %% [markdown] slideshow={"slide_type": "slide"}
# ### What does an IoU of 0.5 look like?
#
# A box that is moved by a part *t* of its width has IoU (1 - t) / (1 + t) with itself. For 0.5: t = 1/3.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
cat = SCENES[10].boxes[np.argmax(my_box_area(SCENES[10].boxes))]
figure, panels = plt.subplots(2, 2, figsize=(9, 5.4))
for axes, overlap in zip(panels.flat, (0.9, 0.7, 0.5, 0.3)):
    t = (1 - overlap) / (1 + overlap)  # solved for t
    moved = cat + t * (cat[2] - cat[0]) * np.array([1, 0, 1, 0])
    assert np.isclose(boxes.iou(cat[None], moved[None])[0, 0], overlap, atol=1e-6)
    show_picture(axes, SCENES[10].image)
    outline(axes, cat, BLUE, width=4)
    outline(axes, moved, ORANGE, "--", width=4)
    axes.set(title=f"IoU {overlap}: moved by {100 * t:.0f} %", xlim=(2, 116), ylim=(127, 66))
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# 0.5 is what average precision calls a hit (AP50, notebook 14), 0.7 is what the region proposal network calls an object
# (notebook 07). 0.9 looks the same to the eye as 1. The numbers hold for boxes of any size: IoU does not change when
# both boxes are enlarged.

# %% [markdown]
# Move a box yourself, along both axes:


# %% widget=True
def draw_overlap(axes, right, down):
    """The cat's box, another moved by so many pixels, and their IoU."""
    moved = cat + np.array([right, down, right, down])
    show_picture(axes, SCENES[10].image, title=f"IoU {boxes.iou(cat[None], moved[None])[0, 0]:.2f}")
    outline(axes, cat, BLUE, width=4)
    outline(axes, moved, ORANGE, "--", width=4)


def overlap(right=10.0, down=0.0):
    """One figure for one position of the sliders."""
    draw_overlap(plt.subplots(figsize=(4.5, 4.5))[1], right, down)
    plt.show()


try:
    from ipywidgets import FloatSlider, interact

    slider = dict(min=-60, max=60, step=1)
    interact(overlap, right=FloatSlider(value=10, **slider), down=FloatSlider(value=0, **slider))
except ImportError:  # no widgets installed
    overlap()

# %% [markdown]
# Without sliders: the same step to the right, down, and both. Two small errors multiply.

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 3, figsize=(9, 3.4))
for axes, step in zip(panels, ((10, 0), (0, 10), (10, 10))):
    draw_overlap(axes, *step)
plt.show()

# %% [markdown]
# ### Exercise 2: IoU
#
# Each box of `a` (A, 4) with each box of `b` (B, 4): a table (A, B). Two boxes without any area have IoU 0. Loops are
# allowed; with arrays it is shorter: `a[:, None, 0]` is a column (A, 1), `b[None, :, 0]` a row (1, B), and
# `np.maximum` of both is the table.


# %% exercise="iou"
def my_iou(a, b):
    """Intersection over union of each box of a (A, 4) with each box of b (B, 4): (A, B), 0 where neither has area."""
    ### BEGIN SOLUTION
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])  # (A, B)
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    union = my_box_area(a)[:, None] + my_box_area(b)[None, :] - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0)
    ### END SOLUTION


# %% check="iou"
check.iou(my_iou)

# %% [markdown]
# Without the `max(0, ...)` boxes that lie apart get an IoU below 0, and those that lie apart in both directions one
# above 0. The check says so:


# %%
def iou_without_max(a, b):
    """What comes out if sides below 0 are not set to 0."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])  # (A, B, 2)
    shared = sides.prod(axis=2)
    return shared / (my_box_area(a)[:, None] + my_box_area(b) - shared)


try:
    check.iou(iou_without_max)
except check.CheckFailed as failure:
    print(failure)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 Anchors: boxes that are always there
#
# - At each place of a feature map stand the same few boxes: some *sizes* s, some *ratios* r = height / width.
# - All ratios of a size have the same area, s²:
#
# $$w = s / \sqrt{r}, \qquad h = s \sqrt{r}$$
#
# **By hand:** s = 32, r = 1/2: w = 32 · 1.414 = **45.25**, h = 32 / 1.414 = **22.63**.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
ratios = np.array([0.5, 1.0, 2.0])
widths, heights = 32 / np.sqrt(ratios), 32 * np.sqrt(ratios)
assert widths.round(2).tolist() == [45.25, 32, 22.63] and heights.round(2).tolist() == [22.63, 32, 45.25]
np.testing.assert_allclose(widths * heights, 32**2)  # one area
np.testing.assert_allclose(heights / widths, ratios)

figure, panels = plt.subplots(1, 3, figsize=(9, 3.4), sharey=True)
for axes, w, h, ratio, color in zip(panels, widths, heights, ratios, (ORANGE, SKY, RED)):
    outline(axes, np.array([-w, -h, w, h]) / 2, color, width=5)
    axes.plot(0, 0, "k+", markersize=14, markeredgewidth=3)
    axes.set(
        title=f"ratio {ratio:g}\n{w:.2f} x {h:.2f}", xlim=(-26, 26), ylim=(26, -26), aspect="equal", xlabel="pixels"
    )
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Why several boxes at one place? Because two objects can have one center (a child before a horse), and because a box of
# the right form needs to be moved less. Why a fixed set? Because then the network's output has a fixed form: so many
# numbers for anchor 1, so many for anchor 2. The picture decides the numbers, not how many there are.

# %% [markdown]
# ### Exercise 3: the anchors of one place
#
# Around the origin: half of the width lies left of 0, half right of it. Rows in the order of the ratios.


# %% exercise="cell_anchors"
def my_cell_anchors(size, ratios):
    """Anchors (P, 4) around (0, 0), one for each of ratios (P,) = height / width, all of area size * size."""
    ### BEGIN SOLUTION
    width, height = size / np.sqrt(ratios), size * np.sqrt(ratios)  # (P,) each
    return np.stack([-width, -height, width, height], axis=1) / 2
    ### END SOLUTION


# %% check="cell_anchors"
check.cell_anchors(my_cell_anchors)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 A set at each place of each level
#
# Fine level: small stride, small anchors. Coarse level: large stride, large anchors.

# %% [markdown]
# Place `(y, x)` of a level puts its anchors around the pixel corner `(x * stride, y * stride)`. Our small model has
# three levels for this, two sizes at each:

# %%
STRIDES, SIZES = (4, 8, 16), ((14, 20), (28, 40), (56, 80))
SHAPES = [(128 // stride, 128 // stride) for stride in STRIDES]
assert presets.PRESETS["toy"]["rpn"]["anchor_sizes"] == SIZES
toy_anchors = AnchorGenerator(SIZES)  # ratios 0.5, 1, 2
LEVELS = toy_anchors(SHAPES, (128, 128))
assert [len(level) for level in LEVELS] == [32 * 32 * 6, 16 * 16 * 6, 8 * 8 * 6] and sum(map(len, LEVELS)) == 8064


# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
def draw_place(axes, image, level, row, column, ratio=None):
    """The places of a level as dots, and the anchors of one of them (of one ratio, or of all)."""
    stride, (h, w) = STRIDES[level], SHAPES[level]
    show_picture(axes, image, title=f"stride {stride}: {h} x {w} places\nsizes {SIZES[level][0]}, {SIZES[level][1]}")
    x, y = np.meshgrid(np.arange(w) * stride, np.arange(h) * stride)
    axes.plot(x.ravel(), y.ravel(), ".", color="black", markersize=2 + level)
    here = LEVELS[level].reshape(h, w, 3, 2, 4)[row, column]  # ratio, size, corners
    for k, (pair, color) in enumerate(zip(here, (ORANGE, SKY, RED))):
        for box in pair if ratio in (None, k) else ():
            outline(axes, box, color, ("--", "-", ":")[k])
    axes.plot(column * stride, row * stride, "o", color="white", markersize=9, markeredgecolor="black", zorder=6)
    axes.set(xlim=(-16, 144), ylim=(144, -16))
    axes.set_facecolor("lightgray")


PLACES = ((13, 27), (5, 8), (5, 3))  # a place of each level, near an animal of its size
figure, panels = plt.subplots(1, 3, figsize=(11, 4.4))
for level, axes in enumerate(panels):
    draw_place(axes, SCENES[8].image, level, *PLACES[level])
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Each dot is a place; each carries six anchors; six are drawn at the white dot. Dashed: low and wide; dotted: high and
# narrow. The fine level on the left has 1024 places and is for the small duck, the coarse one on the right has 64 and
# is for the large one. Anchors reach beyond the picture, and that is allowed: half an animal can be at the border.

# %% [markdown]
# Choose the level, the place and the ratio:


# %% widget=True
def place(level=1, row=5, column=8, ratio="all"):
    """One figure for one choice."""
    h, w = SHAPES[level]
    ratio = {"0.5": 0, "1": 1, "2": 2}.get(ratio)
    draw_place(plt.subplots(figsize=(5, 5.5))[1], SCENES[8].image, level, min(row, h - 1), min(column, w - 1), ratio)
    plt.show()


try:
    from ipywidgets import Dropdown, IntSlider, interact

    interact(
        place,
        level=Dropdown(options=[("stride 4", 0), ("stride 8", 1), ("stride 16", 2)], value=1),
        row=IntSlider(5, 0, 31),
        column=IntSlider(8, 0, 31),
        ratio=["all", "0.5", "1", "2"],
    )
except ImportError:  # no widgets installed
    place()

# %% [markdown]
# Without widgets: the first place, the last place and one ratio alone of the middle level. The first place lies in the
# picture's corner, so that three quarters of its anchors are outside; the last lies 8 pixels before the opposite one.

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 3, figsize=(11, 4.2))
for axes, (row, column, ratio) in zip(panels, ((0, 0, None), (15, 15, None), (5, 8, 2))):
    draw_place(axes, SCENES[8].image, 1, row, column, ratio)
plt.show()

# %% [markdown]
# The package draws anchors as well, for many places at once: a color for each place.

# %%
middle = LEVELS[1].reshape(16, 16, 6, 4)
at_three = draw.draw_anchors(SCENES[8].image, middle[[3, 5, 10], [11, 8, 7]], "six anchors at three places")
Image.fromarray(at_three).quantize(64)  # fewer colors make a smaller file

# %% [markdown]
# ### Exercise 4: the anchors of a level
#
# `cell` (P, 4) are the anchors around the origin, `shape` is (height, width) of the level's map. The order: row by
# row, in a row place by place, at a place anchor by anchor.


# %% exercise="grid_anchors"
def my_grid_anchors(cell, shape, stride):
    """Anchors (height * width * P, 4) of a map of `shape`, by row, column, anchor; the first place is pixel (0, 0)."""
    ### BEGIN SOLUTION
    result = []
    for y in range(shape[0]):
        for x in range(shape[1]):
            result.append(cell + stride * np.array([x, y, x, y]))
    return np.concatenate(result)
    ### END SOLUTION


# %% check="grid_anchors"
check.grid_anchors(my_grid_anchors)

# %% [markdown] slideshow={"slide_type": "slide"}
# ### How many anchors has a photo?
#
# Enlarged to 800 x 1088 pixels, as large models do; five levels, P2 to P6, one size a level, three ratios:
#
# (200 · 272 + 100 · 136 + 50 · 68 + 25 · 34 + 13 · 17) · 3 = **217,413**

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
PHOTO = (800, 1088)
PHOTO_SHAPES = [(200, 272), (100, 136), (50, 68), (25, 34), (13, 17)]
photo_levels = AnchorGenerator()(PHOTO_SHAPES, PHOTO)  # sizes 32, 64, 128, 256, 512
counts = [len(level) for level in photo_levels]
assert counts == [163_200, 40_800, 10_200, 2_550, 663] and sum(counts) == 217_413

figure, axes = plt.subplots(figsize=(9, 3.8))
bars = axes.barh([f"stride {4 * 2**i}: {h} x {w}" for i, (h, w) in enumerate(PHOTO_SHAPES)], counts, color=SKY)
axes.bar_label(bars, [f" {count:,}" for count in counts])
axes.invert_yaxis()
axes.set(xlabel="anchors", xlim=(0, 195_000), xticks=[0, 50_000, 100_000, 150_000])
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Three quarters of all anchors belong to the finest level, for the smallest objects. A photo has perhaps seven objects,
# so nearly all anchors are background: remember that for notebook 07, where anchors are chosen to learn from.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 Does every object have a good anchor?
#
# For each true box: its IoU with the best of all 8064 anchors.


# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
def best_overlap(generator, scenes, keep=lambda a: np.ones(len(a), bool)):
    """For each object of the scenes its IoU with the best anchor (objects,)."""
    every = np.concatenate(generator(SHAPES, (128, 128)))
    every = every[keep(every)]
    return np.concatenate([my_iou(scene.boxes, every).max(axis=1) for scene in scenes])


hundred = [SCENES[i] for i in range(100)]
reached = {
    "6 sizes, 3 ratios": best_overlap(toy_anchors, hundred),
    "6 sizes, squares": best_overlap(AnchorGenerator(SIZES, (1.0,)), hundred),
    "one size, 3 ratios": best_overlap(AnchorGenerator(((28,),) * 3), hundred),
}
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.3), width_ratios=[1.3, 1])
for (name, values), color, style in zip(reached.items(), (BLUE, ORANGE, RED), ("-", "--", ":")):
    left.plot(
        np.sort(values),
        100 - 100 * np.arange(len(values)) / len(values),
        style,
        color=color,
        lw=4,
        label=f"{name}: mean {values.mean():.2f}",
    )
left.set(xlabel="IoU with the best anchor, at least", ylabel="% of the objects", xlim=(0.1, 1), ylim=(0, 103))
left.legend(loc="lower left", fontsize=12)
left.grid(alpha=0.4)
every = np.concatenate(LEVELS)
best = every[my_iou(SCENES[8].boxes, every).argmax(axis=1)]
show_picture(right, SCENES[8].image, title="box (solid), best anchor (dashed)")
for box, anchor in zip(SCENES[8].boxes, best):
    outline(right, box, BLUE)
    outline(right, anchor, ORANGE, "--")
plt.show()
for name, values in reached.items():
    shares = [f"{(values >= least).mean():.0%} of the objects at least {least}" for least in (0.5, 0.7)]
    print(f"{name:20} mean {values.mean():.2f},", ", ".join(shares))
assert (reached["6 sizes, 3 ratios"] >= 0.5).all() and 0.7 < reached["6 sizes, 3 ratios"].mean() < 0.8
assert (reached["one size, 3 ratios"] >= 0.5).mean() < 0.6

# %% [markdown] slideshow={"slide_type": "notes"}
# With all sizes every object has an anchor of at least 0.5, on average 0.73; with one size half of the objects have
# none. Ratios matter less here: drawn animals are nearly square. People and buses would need them. And no anchor fits:
# the best one is off by a few pixels. An anchor is a place to start from; it has to be moved.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 From an anchor to a box: four deltas
#
# Center (x, y) and size (w, h) of the box, seen from the anchor (index a):
#
# $$d_x = \frac{x - x_a}{w_a} \quad d_y = \frac{y - y_a}{h_a} \quad
# d_w = \log\frac{w}{w_a} \quad d_h = \log\frac{h}{h_a}$$
#
# **By hand:** anchor (0, 0)-(10, 10), box (5, 0)-(25, 10). Centers (5, 5) and (15, 5):
# dx = 10/10 = **1**, dy = **0**, dw = log(20/10) = **0.693**, dh = log 1 = **0**.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9, 2.9))
outline(axes, [0, 0, 10, 10], ORANGE, "--", "anchor", 5)
outline(axes, [5, 0, 25, 10], BLUE, "-", "box", 5)
axes.annotate("", (15, 5), (5, 5), arrowprops=dict(arrowstyle="-|>", linewidth=4, color=RED, shrinkA=0, shrinkB=0))
axes.text(10.2, 4, "10 pixels = 1 width", ha="center")
axes.set(xlim=(-1, 38), ylim=(11, -1), aspect="equal", xticks=range(0, 26, 5), yticks=[0, 5, 10])
axes.legend(loc="center right")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The network will put out these four numbers for each anchor. Two are for the way from center to center, in widths and
# heights of the anchor; two for the change of size, as logarithms. All four are 0 if the anchor fits already. Let them
# compute the way back: x = 5 + 1 * 10, w = 10 * exp(0.693).

# %%
anchor, box = np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 25, 10]])
deltas = boxes.encode(box, anchor)
np.testing.assert_allclose(deltas, [[1, 0, np.log(2), 0]])

# and back: x = 5 + 1 * 10 = 15, w = 10 * exp(0.693) = 20, so x1 = 15 - 20/2 = 5 and x2 = 15 + 20/2 = 25
x, w = 5 + deltas[0, 0] * 10, 10 * np.exp(deltas[0, 2])
np.testing.assert_allclose([x - w / 2, x + w / 2], [5, 25])
np.testing.assert_allclose(boxes.decode(deltas, anchor), box)

# %% [markdown] slides=["L10"] slideshow={"slide_type": "slide"}
# ### The lecture's three RoIs, from their nearest anchors (L10)
#
# What must a network say so that these come out: (112, 45)-(219, 213), (268, 44)-(361, 280), (67, 106)-(177, 195)?

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
ROIS = np.array([[112.0, 45, 219, 213], [268, 44, 361, 280], [67, 106, 177, 195]])  # L10, on a picture of 384 x 512
lecture = np.concatenate(AnchorGenerator()([(96, 128), (48, 64), (24, 32), (12, 16), (6, 8)], (384, 512)))
nearest = lecture[my_iou(ROIS, lecture).argmax(axis=1)].astype(float)  # (3, 4)
deltas = boxes.encode(ROIS, nearest)
np.testing.assert_allclose(boxes.decode(deltas, nearest), ROIS, atol=1e-3)  # the way back gives the lecture's numbers

figure, axes = plt.subplots(figsize=(11, 4.4))
for k, (roi, start, four, color) in enumerate(zip(ROIS, nearest, deltas, (BLUE, RED, GREEN))):
    outline(axes, start, color, "--", "nearest anchor" if k == 0 else None, 3)
    outline(axes, roi, color, "-", "RoI" if k == 0 else None, 5)
    axes.text(400, 75 + 90 * k, "dx {:+.2f}   dy {:+.2f}\ndw {:+.2f}   dh {:+.2f}".format(*four), color=color,
              fontsize=18, va="center")  # fmt: skip
axes.set(xlim=(40, 640), ylim=(310, 20), aspect="equal", xlabel="pixels", xticks=range(50, 400, 50))
axes.legend(loc="lower left")
plt.show()
for roi, start, four, overlap_now in zip(ROIS, nearest, deltas, np.diag(my_iou(ROIS, nearest))):
    print(f"RoI {roi}  anchor {start}  IoU {overlap_now:.2f}  deltas {four.round(3)}")

# %% [markdown] slideshow={"slide_type": "notes"}
# The deltas are small numbers around 0, and that is the point: a network's last layer starts with outputs near 0, and 0
# means "leave the anchor as it is". The first RoI is 107 x 168, its nearest anchor 90 x 182: 0.06 of 90 pixels to the
# right, exp(0.17) = 1.19 times as wide.

# %% [markdown]
# ### Exercise 5: encode
#
# `weights` (4,) are factors for dx, dy, dw, dh: the result is `weights * (dx, dy, dw, dh)`. What for: below.


# %% exercise="encode"
def my_encode(boxes, anchors, weights):
    """The deltas (R, 4), times weights, that move and stretch anchors (R, 4) onto boxes (R, 4)."""
    ### BEGIN SOLUTION
    size, size_a = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]  # (R, 2): width, height
    center, center_a = boxes[:, :2] + size / 2, anchors[:, :2] + size_a / 2
    return np.concatenate([(center - center_a) / size_a, np.log(size / size_a)], axis=1) * np.array(weights)
    ### END SOLUTION


# %% check="encode"
check.encode(my_encode)

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Why in sides of the anchor, and why the logarithm?
#
# The same deltas do the same thing to small and large anchors. Here (0.25, 0, 0.4, -0.4):

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
starts = np.array([[10.0, 30, 22, 42], [40, 24, 64, 48], [84, 12, 132, 60]])  # sides 12, 24, 48
same = np.array([[0.25, 0, 0.4, -0.4]])
ends = boxes.decode(same, starts)
alike = np.diag(my_iou(starts, ends))
np.testing.assert_allclose(alike, alike[0])  # the same change in IoU for each of them
grown = (ends[:, 2:] - ends[:, :2]) / (starts[:, 2:] - starts[:, :2])
np.testing.assert_allclose(grown, np.exp([[0.4, -0.4]] * 3))
np.testing.assert_allclose(grown.prod(axis=1), 1)  # 0.4 and -0.4 undo each other: 1.49 x 0.67 = 1

figure, axes = plt.subplots(figsize=(10, 4.2))
for start, end, side in zip(starts, ends, (12, 24, 48)):
    outline(axes, start, ORANGE, "--", "anchor" if side == 12 else None, 4)
    outline(axes, end, BLUE, "-", "box" if side == 12 else None, 4)
    way = (end[:2] + end[2:] - start[:2] - start[2:])[0] / 2
    axes.text(start[[0, 2]].mean(), 66, f"{way:.0f} pixels right", ha="center")
axes.set(xlim=(0, 165), ylim=(72, 5), aspect="equal", xticks=[], yticks=[])
axes.legend(loc="upper left")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# One network head serves all places and all sizes, so it should not have to know how large its anchor is. "A quarter of
# your width to the right" holds for all. The logarithm makes twice as wide (+0.69) and half as wide (-0.69) equally far
# from 0, and whatever number comes out, a width is never negative.

# %% [markdown]
# **Weights.** How large are deltas? We take all anchors with an IoU of at least 0.5 with some object:

# %%
near = []
for scene in hundred:
    overlaps = my_iou(every, scene.boxes)
    own, fits = overlaps.argmax(axis=1), overlaps.max(axis=1) >= 0.5
    near.append(boxes.encode(scene.boxes[own[fits]], every[fits]))
near = np.concatenate(near)
spread = near.std(axis=0)
print(f"{len(near)} anchors; standard deviation of dx, dy, dw, dh:", spread.round(3))
print("times 10, 10, 5, 5:", (spread * mask_rcnn.BOX_WEIGHTS).round(2))
assert (abs(spread[:2] - 0.14) < 0.03).all() and (abs(spread[2:] - 0.27) < 0.05).all()

# %% [markdown]
# The sizes vary twice as much as the centers. Times 10, 10, 5, 5 all four have about the same spread, near 1, and a
# loss takes them equally seriously. The box head (notebook 09) uses these weights, the region proposal network none.
#
# **A limit.** `exp` grows without bounds. An untrained network may say 100, and exp(100) pixels is more than the
# universe is wide; in 32-bit numbers it is infinity, and infinity minus infinity is not a number. So dw and dh are cut
# at log(1000/16): a side grows at most 62.5 times.

# %%
with np.errstate(over="ignore"):
    assert np.isinf(np.exp(np.float32(100)))
assert np.isclose(np.exp(boxes.LARGEST_LOG_SCALE), 1000 / 16) and 1000 / 16 == 62.5
print(boxes.decode(np.array([[0.0, 0, 100, 0]]), np.array([[0.0, 0, 10, 10]])))

# %% [markdown]
# ### Exercise 6: decode
#
# The way back. First divide by the weights, then cut dw and dh at `np.log(1000 / 16)`.


# %% exercise="decode"
def my_decode(deltas, anchors, weights):
    """The boxes (R, 4) that anchors (R, 4) become by deltas (R, 4): encode undone; a side grows at most 62.5 times."""
    ### BEGIN SOLUTION
    deltas = deltas / np.array(weights)
    size_a = anchors[:, 2:] - anchors[:, :2]
    center = anchors[:, :2] + size_a / 2 + deltas[:, :2] * size_a
    size = size_a * np.exp(np.minimum(deltas[:, 2:], np.log(1000 / 16)))
    return np.concatenate([center - size / 2, center + size / 2], axis=1)
    ### END SOLUTION


# %% check="decode"
check.decode(my_decode)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 Three conventions for one anchor
#
# Size 32, ratio 0.5, stride 4. It should be 45.25 x 22.63 around (0, 0).

# %% [markdown]
# Implementations differ, and weights want the anchors with which they were trained:

# %%
print(inspect.getdoc(conventions).split("\n\n")[3])

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
ROUNDINGS = {  # convention: (name, who)
    "none": "exact (Detectron2)",
    "pixels": "to pixels (torchvision)",
    "cells": "to cells (the paper's authors)",
}
assert {c["anchor_rounding"] for c in conventions.CONVENTIONS.values()} == set(ROUNDINGS)
three = {name: anchors.cell_anchors(32, 0.5, name, stride=4)[0].astype(float) for name in ROUNDINGS}
assert three["none"].round(2).tolist() == [-22.63, -11.31, 22.63, 11.31]
assert three["pixels"].tolist() == [-23, -11, 23, 11]  # half the sides rounded: 46 x 22
assert three["cells"].tolist() == [-22, -10, 26, 14]  # 12 x 6 cells of 4 pixels, around (2, 2)

figure, axes = plt.subplots(figsize=(10, 4.5))
axes.set(xticks=range(-24, 33, 8), yticks=range(-16, 21, 8))
axes.set_xticks(range(-28, 33, 4), minor=True)
axes.set_yticks(range(-16, 21, 4), minor=True)
axes.grid(which="both", alpha=0.5)
for (rounding, box), color, style, width in zip(three.items(), (BLUE, ORANGE, RED), ("-", "--", ":"), (6, 4, 4)):
    label = f"{ROUNDINGS[rounding]}\n{box[2] - box[0]:.4g} x {box[3] - box[1]:.4g}"
    outline(axes, box, color, style, label, width)
    axes.plot(*(box[:2] + box[2:]) / 2, "o", color=color, markersize=10)
axes.set(xlim=(-27, 29), ylim=(17, -14), aspect="equal", xlabel="pixels; a cell is 4 wide")
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), labelspacing=1)
plt.show()

# %%
names = list(three)
alike = my_iou(*[np.stack(list(three.values()))] * 2)
for name, row in zip(names, alike):
    print(f"{name:8}", row.round(3))
assert alike[0, 1] > 0.95 and alike[0, 2] < 0.8  # rounding costs 0.04, the shift by half a cell much more

# %% [markdown] slideshow={"slide_type": "notes"}
# None is wrong: the network learns whatever move is needed from the anchor it was trained with. But load weights that
# learned with one convention into a program with another, and every box is off, by up to two pixels on the finest level
# and 32 on the coarsest, where a cell is 64 wide. The red dot is half a cell off: those anchors stand in the middle of
# the cell, the others on its corner.

# %% [markdown] slideshow={"slide_type": "slide"}
# ### A stride of 61
#
# 800 pixels, 13 rows of places: torchvision takes the stride 800 // 13 = **61**. The network's own is **64**.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
coarse = photo_levels[-1].reshape(13, 17, 3, 4)
centers = (coarse[..., :2] + coarse[..., 2:]) / 2  # (13, 17, 3, 2)
assert 800 // 13 == 61 and np.unique(np.diff(centers[:, 0, 1, 1])).tolist() == [61]  # downwards
assert 1088 // 17 == 64 and np.unique(np.diff(centers[0, :, 1, 0])).tolist() == [64]  # 1088 = 17 * 64
exact = AnchorGenerator(rounding="none")(PHOTO_SHAPES, PHOTO)[-1].reshape(13, 17, 3, 4)
gap = exact[:, 0, 1, 1] - coarse[:, 0, 1, 1]
assert gap.tolist() == [3 * row for row in range(13)]  # up to 36 pixels
lost = my_iou(coarse[12, :1, 1], exact[12, :1, 1])[0, 0]
assert np.isclose(lost, (512 - 36) / (512 + 36)) and round(lost, 2) == 0.87

figure, axes = plt.subplots(figsize=(10, 2.9))
axes.plot(64 * np.arange(13), np.ones(13), "s", color=BLUE, markersize=13)
axes.plot(61 * np.arange(13), np.zeros(13), "o", color=ORANGE, markersize=13)
for row in range(13):
    axes.plot([64 * row, 61 * row], [0.88, 0.12], color="gray", zorder=0)
axes.axvline(800, color="black", linewidth=4)
axes.text(808, 0.5, "end of\nthe photo", va="center")
axes.set(yticks=[0, 1], yticklabels=["anchors, stride 61", "features, stride 64"], ylim=(-0.55, 1.6), xlim=(-20, 930))
axes.text(768, 1.25, "768", ha="center")
axes.text(732, -0.4, "732", ha="center")
axes.set(xlabel="pixels from the top")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# 800 is not a multiple of 64: the map has 13 rows, because 12.5 was rounded up. To divide back and round down gives 61.
# Row 12 of anchors stands at pixel 732, though its features look at 768; the last row's square of 512 has IoU 0.87 with
# where it "should" be. The network learned with it: it says "a little further down" for the lower rows. It only has to
# be the same in training and in use.

# %% [markdown]
# torchvision's own anchors for that photo, as it prints them. Ours are the same to the last digit:

# %%
TORCHVISION = {  # AnchorGenerator of maskrcnn_resnet50_fpn, a photo of 800 x 1088 pixels
    "anchors": 217413,
    "first three": [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]],
    "last anchor of each level": [
        [1073, 773, 1095, 819],
        [1057, 747, 1103, 837],
        [1027, 693, 1117, 875],
        [965, 587, 1147, 949],
        [843, 370, 1205, 1094],
    ],
}
assert sum(map(len, photo_levels)) == TORCHVISION["anchors"]
assert photo_levels[0][:3].tolist() == TORCHVISION["first three"]
assert [level[-1].tolist() for level in photo_levels] == TORCHVISION["last anchor of each level"]

# %% [markdown]
# ## 9 Against the library, then fast
#
# What you wrote agrees with the package on real shapes:

# %%
cell = my_cell_anchors(32, np.array([0.5, 1, 2]))
mine = my_grid_anchors(cell, PHOTO_SHAPES[2], 16)
np.testing.assert_allclose(mine, anchors.grid_anchors(cell, PHOTO_SHAPES[2], (16, 16)))
np.testing.assert_allclose(my_iou(every, scene.boxes), boxes.iou(every, scene.boxes), atol=1e-6)
own = scene.boxes[my_iou(every, scene.boxes).argmax(axis=1)]
for weights in ((1, 1, 1, 1), mask_rcnn.BOX_WEIGHTS):
    np.testing.assert_allclose(my_encode(own, every, weights), boxes.encode(own, every, weights), atol=1e-4)
    np.testing.assert_allclose(my_decode(my_encode(own, every, weights), every, weights), own, atol=1e-3)

# %% [markdown]
# The package's functions take any leading axes, so that one call serves a batch of pictures. Their source is short:

# %%
print(inspect.getsource(boxes.iou))

# %% [markdown]
# How long does it take to compare all anchors of a photo with 20 objects? A Python loop looks at one pair after the
# other. Arrays compute the whole table, 217,413 x 20 numbers. The compiled kernel keeps no table at all, for of each
# anchor only the best object is asked for (notebook 07).

# %%
rng = np.random.default_rng(0)
photo_anchors = np.concatenate(photo_levels)
corner = rng.uniform(0, 700, (20, 2))
objects = np.concatenate([corner, corner + rng.uniform(20, 300, (20, 2))], axis=1).astype(np.float32)


def loop_iou(a, b):
    """One pair after the other."""
    return np.array([[my_iou(x[None], y[None])[0, 0] for y in b] for x in a])


def milliseconds(function, *arguments, repeats=3):
    """The shortest of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


some = photo_anchors[::1000]
real = np.ones((1, 20), bool)
label = (photo_anchors[None], objects[None], real, ~real, 0.3, 0.7)
targets.match(*label)  # the first call compiles
rows = {
    "loop (from every 1000th anchor)": milliseconds(loop_iou, some, objects, repeats=1)
    * len(photo_anchors)
    / len(some),
    "arrays: my_iou": milliseconds(my_iou, photo_anchors, objects),
    "arrays: boxes.iou, in place": milliseconds(boxes.iou, photo_anchors, objects),
    "kernel: targets.match": milliseconds(targets.match, *label),
}
for name, t in rows.items():
    print(f"{name:33} {t:10.1f} ms")
print(f"the table: {photo_anchors.shape[0] * 20 * 4 / 1e6:.0f} MB in 32-bit numbers")
assert rows["arrays: my_iou"] < rows["loop (from every 1000th anchor)"]

# %% [markdown]
# ## 10 Common misconceptions
#
# ### "A box of pixels 3 to 7 is 7 - 3 + 1 wide, so width is x2 - x1 + 1"
#
# Old code counted so, with x2 as the *last pixel*. With real corners it is wrong, and it spoils what makes IoU useful:
# that it does not depend on the size of the picture.

# %%
a, b = np.array([[0.0, 0, 4, 4]]), np.array([[2.0, 0, 6, 4]])
plus_one = np.array([0, 0, 1, 1])
right = [my_iou(s * a, s * b)[0, 0] for s in (1, 10)]
wrong = [my_iou(s * a + plus_one, s * b + plus_one)[0, 0] for s in (1, 10)]
print(f"small and ten times enlarged: {right[0]:.3f} {right[1]:.3f}, with + 1: {wrong[0]:.3f} {wrong[1]:.3f}")
assert np.isclose(*right) and wrong[0] > wrong[1] + 0.05

# %% [markdown]
# ### "An IoU of 0.5 means that half of each box is shared"
#
# Of two equal boxes with IoU 0.5 each shares two thirds. If half is shared, IoU is 1/3.

# %%
a, b = np.array([[0.0, 0, 6, 1]]), np.array([[2.0, 0, 8, 1]])
shared = 6 - 2
assert np.isclose(my_iou(a, b)[0, 0], 0.5) and np.isclose(shared / 6, 2 / 3)

# %% [markdown]
# ### "IoU says how far two boxes are apart"
#
# Once they do not touch, IoU is 0, near or far. It gives no direction to move in; the deltas do.

# %% tags=["hide-input"]
start = np.array([[0.0, 0, 10, 10]])
ways = np.linspace(0, 40, 81)
moved = start + ways[:, None] * [1, 0, 1, 0]
values, dx = my_iou(start, moved)[0], boxes.encode(moved, np.repeat(start, 81, axis=0))[:, 0]
assert (values[ways >= 10] == 0).all() and (np.diff(dx) > 0).all()

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
left.plot(ways, values, color=RED, linewidth=4)
right.plot(ways, dx, color=BLUE, linewidth=4)
left.set(xlabel="a box 10 wide is moved by", ylabel="IoU")
right.set(xlabel="a box 10 wide is moved by", ylabel="dx")
for axes in (left, right):
    axes.axvspan(10, 40, color="gainsboro")
    axes.set_xticks(range(0, 41, 10))
left.text(25, 0.5, "apart: always 0", ha="center")
plt.show()

# %% [markdown]
# ### "Anchors that reach beyond the picture are useless"
#
# Drop them, and the objects near the border lose their best anchors.

# %%
inside = best_overlap(toy_anchors, hundred, keep=lambda a: ((a >= 0) & (a <= 128)).all(axis=1))
beyond = ((every < 0) | (every > 128)).any(axis=1).mean()
all_of_them = reached["6 sizes, 3 ratios"]
print(f"{beyond:.0%} of the anchors reach beyond the picture")
for name, values in (("all anchors", all_of_them), ("those inside", inside)):
    print(f"{name:12}: mean best IoU {values.mean():.3f}, {(values < 0.5).mean():.0%} of the objects below 0.5")
assert inside.mean() < all_of_them.mean() and (inside < 0.5).any() and not (all_of_them < 0.5).any()

# %% [markdown]
# ### "Deltas are pixels"
#
# They count in sides of the anchor; a width of 0 in deltas is a width that stays.

# %%
same = boxes.decode(np.array([[0.5, 0, 0, 0]] * 2), np.array([[0.0, 0, 14, 14], [0, 0, 80, 80]]))
print("dx = 0.5 moves an anchor of 14 by", same[0, 0], "pixels, one of 80 by", same[1, 0])
assert same[:, 0].tolist() == [7, 40]
assert (same[:, 2] - same[:, 0]).tolist() == [14, 80]  # dw = 0: exp(0) = 1

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Recap
#
# 1. A box is x1, y1, x2, y2: real corners, width x2 - x1. Mask R-CNN and its kin move such boxes from part to part.
# 2. IoU is shared over covered area: 1 for equal boxes, 0 for boxes apart; half shared is 1/3, not 1/2.
# 3. Anchors are fixed boxes at each place of each level: sizes, ratios with w = s/√r, h = s√r; 217,413 for a photo.
# 4. Four deltas move an anchor: center in sides of the anchor, size in logarithms. 0 means stay.
# 5. Rounding and strides differ between implementations; weights want the anchors they were trained with.

# %% [markdown]
# ## Quiz
#
# 1. Pixels 10 to 14 of a row belong to an object. What are x1, x2 and the width of its box?
# 2. Two boxes of 4 x 4 share a corner of 2 x 2. What is their IoU?
# 3. A box is moved by half of its width. What is its IoU with itself before?
# 4. Both boxes are enlarged three times. What happens to IoU?
# 5. An anchor has size 64 and ratio 4. How wide and how high is it?
# 6. A level of stride 16 for a picture of 512 x 512 has anchors of three sizes and three ratios. How many are they?
# 7. Anchor (0, 0)-(20, 40), box (10, 0)-(30, 40). What are the four deltas?
# 8. dw = -0.693 for an anchor 50 wide. How wide is the box?
# 9. Why is there a limit for dw and dh, but none for dx and dy?
# 10. Why does torchvision place the last row of its coarsest anchors 36 pixels too high on a photo 800 high?
#
# <details><summary>Answers</summary>
#
# 1. 10, 15, and 5.
# 2. 4 / (16 + 16 - 4) = 1/7.
# 3. (1 - 1/2) / (1 + 1/2) = 1/3.
# 4. Nothing: both areas grow nine times.
# 5. 32 x 128.
# 6. 32 x 32 x 9 = 9216.
# 7. dx = 10/20 = 0.5, dy = 0, dw = 0, dh = 0.
# 8. 25 pixels: exp(-0.693) = 1/2.
# 9. dw and dh go through exp, which overflows; dx and dy are only multiplied.
# 10. Its stride there is 800 // 13 = 61 instead of 64, and 12 rows times 3 pixels are 36.
#
# </details>
