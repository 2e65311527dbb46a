# %% [markdown] slides=["L05"] slideshow={"slide_type": "slide"}
# # 08 RoIAlign: from RoIPool through RoIWarp to RoIAlign (L05)
#
# **Question.** A network has found something in a box 11.3 pixels wide. It sees the picture through a *feature map*
# whose cells stand for 16 x 16 pixels each. **Which cells belong to the box?**
#
# - Faster R-CNN: whole cells (*RoIPool*).
# - Mask R-CNN = Faster R-CNN + a mask branch + *RoIAlign* instead of RoIPool (L05).

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecture:* ask the room before you show the next picture. The box is 0.7 cells wide, so is the answer no cell,
# one, or two? Let them vote. Any whole number is wrong, and that is the point. Notebook 06 made the boxes; notebook 10
# is the mask branch, which suffers most from a wrong answer here.

# %%
import inspect
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from PIL import Image

import minimask
from minimask import boxes as box_ops
from minimask import check, device, draw, mask_rcnn
from minimask.datasets.toy import ToyScenes
from minimask.mask_head import mask_probabilities, paste_masks
from minimask.roi_align import bilinear, map_boxes, roi_align, roi_align_forward, sampling_points
from minimask.roi_pool import bins_of_cells, roi_pool, roi_warp, round_to_cells
from minimask.tensor import Tensor, no_grad

plt.rcParams.update({"figure.figsize": (9, 4.5), "figure.dpi": 100, "font.size": 14})
plt.rcParams["figure.constrained_layout.use"] = True
ORANGE, SKY, RED, BLUE, GREEN = draw.COLORS[[0, 1, 2, 4, 6]] / 255
STRIDE = 16  # pixels a cell
SCALE = 1 / STRIDE  # cells a pixel

# %% [markdown]
# **Words of this notebook**
#
# - *Feature map*: an array `(H, W, C)` that a network computes from a picture (notebook 03). It has `H x W` *cells*,
#   each with `C` numbers, its *channels*.
# - *Stride*: pixels a cell, here 16. *Scale*: cells a pixel, here 1/16.
# - *RoI*, region of interest: a box `x1, y1, x2, y2` in pixels of the picture, proposed by the RPN (notebook 06).
#   Its numbers are almost never whole.
# - *To quantize*: to round to integers.
# - *Bin*: one of `k x k` equal parts of a RoI. The result has `C` numbers for each.
# - *Sample*: a point in a bin at which the feature map is read off.
#
# Three ways to read a RoI:
#
# | | the box | its bins | read off | from |
# |---|---|---|---|---|
# | RoIPool | rounded | rounded | the largest cell | Fast R-CNN, Girshick 2015 |
# | RoIWarp | rounded | exact | between the cells | MNC, Dai et al. 2016 |
# | RoIAlign | exact | exact | between the cells | Mask R-CNN, He et al. 2017 |
#
# In the model they stand in the same place, between the feature maps and the heads, and can be exchanged:

# %%
assert list(mask_rcnn.POOLINGS.values()) == [roi_align, roi_pool, roi_warp]
print(mask_rcnn.__doc__)

# %% [markdown] slides=["T10"] slideshow={"slide_type": "slide"}
# ## 1 What rounding does to a box (T10)
#
# The box reaches from x = 20.4 to 31.7: that is 11.3 pixels. In cells: from 1.275 to 1.98.
#
# RoIPool rounds: from cell 1 to cell 2, that is from pixel **16 to 48**.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
small_box = np.array([20.4, 18.2, 31.7, 29.5])
first, last = round_to_cells(small_box, SCALE)
read = np.concatenate([first, last + 1]) * STRIDE  # what RoIPool reads, in pixels of the picture
assert round(small_box[2] - small_box[0], 1) == 11.3
assert read.tolist() == [16, 16, 48, 48]


def outline(axes, box, color, style="-", label=None):
    """A box x1, y1, x2, y2 on the axes."""
    size = box[2] - box[0], box[3] - box[1]
    look = dict(fill=False, edgecolor=color, linewidth=4, linestyle=style, zorder=5)
    axes.add_patch(Rectangle(box[:2], *size, label=label, **look))


def cell_lines(axes, height, width):
    """The borders of the cells of 16 x 16 pixels."""
    axes.set(xticks=range(0, width + 1, STRIDE), yticks=range(0, height + 1, STRIDE))
    axes.grid(color="white", linewidth=1.5)


scene = ToyScenes("test", case="small")[59]
left, top = np.round(scene.boxes[2, :2] - small_box[:2]).astype(int)  # so that its cat lies in the small box
picture = scene.image[top : top + 56, left : left + 72]
middles = (small_box[:2] + small_box[2:]) / 2, (read[:2] + read[2:]) / 2
off = middles[1] - middles[0]
assert off.round().tolist() == [6, 8]

figure, axes = plt.subplots()
axes.imshow(picture, extent=(0, picture.shape[1], picture.shape[0], 0))
cell_lines(axes, *picture.shape[:2])
outline(axes, small_box, ORANGE, label="the box:\n11.3 pixels")
outline(axes, read, RED, "--", label="RoIPool reads:\n32 pixels")
axes.annotate("", middles[1], middles[0], arrowprops=dict(arrowstyle="-|>", linewidth=4, color="white"))
axes.plot([], [], color="white", label=f"its middle is\n{off[0]:.0f} pixels right,\n{off[1]:.0f} pixels down")
axes.set(xlabel="pixels of the picture; a cell is 16 wide", ylabel="pixels")
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), facecolor="lightgray", labelspacing=1)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The orange box is where the network should look; the red one is where it looks. It is three times as wide, and its
# middle lies 6 pixels further right, half the animal's width. A class can still be told from the red box. But a mask
# for the orange box that was made of what is seen in the red one is drawn in the wrong place: rounding breaks the
# pixel-to-pixel alignment (T10). RoIPool was made for classes, not for masks.

# %% [markdown]
# Is that a rare accident? We put boxes of many sizes at random places and round them. How much do a box and what is
# read for it share? The measure is their *intersection over union*, IoU (notebook 05): 1 for the same box, 0 for boxes
# that do not touch.

# %% tags=["hide-input"]
rng = np.random.default_rng(0)
sides = np.geomspace(8, 256, 25)
overlap = []
for side in sides:
    corner = rng.uniform(0, STRIDE, (500, 2))
    exact = np.concatenate([corner, corner + side], axis=1)  # (500, 4)
    first, last = round_to_cells(exact, SCALE)
    rounded = np.concatenate([first, last + 1.0], axis=1) * STRIDE
    overlap.append([box_ops.iou(a[None], b[None])[0, 0] for a, b in zip(exact, rounded)])
low, median, high = np.percentile(overlap, [10, 50, 90], axis=1)

figure, axes = plt.subplots()
axes.fill_between(sides, low, high, color=SKY, alpha=0.5, label="8 boxes in 10")
axes.plot(sides, median, color=BLUE, linewidth=3, label="median")
axes.axvline(11.3, color=ORANGE, linewidth=3, linestyle="--", label="11.3 pixels")
axes.set_xscale("log", base=2)
axes.set_xticks([8, 16, 32, 64, 128, 256], [8, 16, 32, 64, 128, 256])
axes.set(xlabel="side of the box in pixels", ylabel="IoU of box and what is read", ylim=(0, 1))
axes.legend(loc="lower right")
assert median[sides < 12].max() < 0.5 and 0.8 < median[-1] < 0.95  # even a box of 256 pixels loses
plt.show()

# %% [markdown] slides=["L08"] slideshow={"slide_type": "slide"}
# ## 2 "Mask accuracy improves by 10 % to 50 %" (L08)
#
# RoIAlign interpolates instead of quantizing. The lecture's numbers are *relative* gains of RoIAlign over RoIPool in
# AP, *average precision* (0 to 100). AP50 counts masks that fit roughly, AP75 those that fit closely.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
# He et al. 2017, tables 2c and 2d, ResNet-50 on COCO: AP50, AP, AP75 of masks. C4: stride 16, C5: stride 32.
PAPER = {
    "RoIPool C4": (48.8, 26.9, 26.4),
    "RoIWarp C4": (48.9, 27.1, 27.1),
    "RoIAlign C4": (51.2, 30.3, 31.5),
    "RoIAlign C4, max": (51.0, 30.2, 31.8),
    "RoIPool C5": (46.5, 23.6, 21.6),
    "RoIAlign C5": (51.8, 30.9, 32.1),
}
gain = {c: 100 * np.divide(PAPER[f"RoIAlign {c}"], PAPER[f"RoIPool {c}"]) - 100 for c in ("C4", "C5")}  # per cent
assert np.round(gain["C4"]).tolist() == [5, 13, 19]
assert np.round(gain["C5"]).tolist() == [11, 31, 49]  # AP: 13 to 31 %; AP75, the strict one: up to 49 %

figure, axes = plt.subplots()
axes.axhspan(10, 50, color=SKY, alpha=0.25)
axes.text(-0.4, 49, "the lecture: 10 % to 50 %", va="top")
for place, (level, color, name) in enumerate([("C4", ORANGE, "stride 16 (C4)"), ("C5", BLUE, "stride 32 (C5)")]):
    bars = axes.bar(np.arange(3) + 0.38 * place - 0.19, gain[level], 0.36, color=color, label=name)
    axes.bar_label(bars, [f"{value:.0f} %" for value in gain[level]])
axes.set_xticks(range(3), ["AP50\nroughly right", "AP", "AP75\nclosely right"])
axes.set(ylabel="RoIAlign over RoIPool, %", ylim=(0, 56))
axes.legend(loc="upper center")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# AP is explained in notebook 14; a mask counts for AP50 if its IoU with the truth is at least 0.5, for AP75 0.75.
#
# Two trends. The stricter the measure, the more is gained: rounding spoils the place, not the class. And the coarser
# the map, the more is gained: at stride 32 an edge moves by up to 16 pixels. Only AP50 at stride 16 stays below the
# lecture's 10 %. RoIWarp interpolates too, but in a rounded box, and gains next to nothing (27.1 after 26.9): the
# rounding is to blame, not the missing interpolation.

# %% [markdown] slides=["L07", "L09", "L10", "L11"] slideshow={"slide_type": "slide"}
# ## 3 What goes in, what comes out (L07, L09, L10, L11)
#
# - **Purpose (L07):** crop the feature map inside each RoI, all crops to one size.
# - **In:** a feature map `(H, W, C)` of a ResNet (L09); RoIs `(R, 4)` of the RPN (L10), here
#   (112, 45)-(219, 213), (268, 44)-(361, 280) and (67, 106)-(177, 195).
# - **Out:** `(R, k, k, C)`, whatever the sizes of the RoIs (L11).

# %% [markdown]
# Why one size? What comes next is a matrix product (notebook 09), and a matrix has a fixed number of rows. These are
# the lecture's three RoIs, on a picture that we make for them, and the feature map of a small ResNet (notebook 03).

# %%
ROIS = np.array([[112, 45, 219, 213], [268, 44, 361, 280], [67, 106, 177, 195]], float)  # L10
assert (ROIS[:, 2:] - ROIS[:, :2]).tolist() == [[107, 168], [93, 236], [110, 89]]


def picture_with_animals(rois, height=384, width=512):
    """Drawn animals, stretched to the size of each RoI, on a meadow: (height, width, 3) uint8."""
    meadow = np.array([168, 200, 224]) + np.linspace(0, 1, height)[:, None, None] * np.array([-40, -40, -130])
    picture = Image.fromarray(np.broadcast_to(meadow, (height, width, 3)).astype(np.uint8))
    scenes = ToyScenes("test", size=512)
    for roi, (scene, animal) in zip(rois.astype(int), [(17, 0), (17, 0), (11, 5)]):
        sample, size = scenes[scene], (roi[2] - roi[0], roi[3] - roi[1])
        x1, y1, x2, y2 = sample.boxes[animal].astype(int)
        cut = [a[y1:y2, x1:x2] for a in (sample.image, 255 * sample.masks[animal])]
        colors, mask = (Image.fromarray(a).resize(size) for a in cut)
        picture.paste(colors, tuple(roi[:2]), mask)
    return np.array(picture)


picture = picture_with_animals(ROIS)
model = mask_rcnn.build("toy")  # weights are random: the shapes and the arithmetic are those of a trained one
with no_grad():
    levels = model.backbone.body(Tensor((picture[None] / 255 - 0.5).astype(np.float32)))
    features = levels[-1].data[0].astype(np.float64)  # the level of stride 16
print("picture", picture.shape, " feature map", features.shape)
assert features.shape == (24, 32, 128) == (384 / STRIDE, 512 / STRIDE, 128)


# %% [markdown]
# The library reads many pictures and many levels of a pyramid (notebook 04) at once: for each box it is told which
# picture and which level. We have one of each, so a short form will do:


# %%
def pooled(features, rois, k=3, s=2, operation=roi_align, aligned=True, **more):
    """The library's `operation` on one feature map (H, W, C) of stride 16, for RoIs (R, 4): -> (R, k, k, C)."""
    zero = np.zeros(len(rois), int)
    return operation([features[None]], rois, zero, zero, [SCALE], k, s, aligned, **more).data


crops = pooled(features, ROIS)
assert crops.shape == (3, 3, 3, 128)  # R, k, k, C: three sizes in, one size out (L11)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
channel = int(features.std(axis=(0, 1)).argmax())  # the channel with most to see
figure = plt.figure(figsize=(11, 4.2))
left, right, small = figure.subfigures(1, 3, width_ratios=[4, 4, 1.3])
left, right = left.subplots(), right.subplots()
left.imshow(picture)
left.set(title="picture, three RoIs (L10)", xlabel="pixels")
right.imshow(features[:, :, channel], cmap="cividis", extent=(0, 32, 24, 0))
right.set(title=f"channel {channel} of {features.shape[2]} (L09)", xlabel="cells of 16 x 16 pixels")
for roi, crop, color, style, axes in zip(ROIS, crops, (ORANGE, SKY, RED), ("-", "--", ":"), small.subplots(3, 1)):
    outline(left, roi, color, style)
    outline(right, roi * SCALE, color, style)
    axes.imshow(crop[:, :, channel], cmap="cividis")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=color, linewidth=4, linestyle=style)
small.suptitle("3 x 3 (L11)")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# L10's three boxes are 107 x 168, 93 x 236 and 110 x 89 pixels; on the map 6.7 x 10.5, 5.8 x 14.8 and 6.9 x 5.6 cells.
# Few of these are integers. The three crops on the right have one size. The network's weights are random here,
# which changes what the numbers mean, but nothing about how they are read.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 RoIPool, and RoIWarp
#
# **RoIPool** rounds the RoI to whole cells, then its bins, outwards. Of each bin it takes the largest value.
#
# **RoIWarp** rounds the RoI too, but then interpolates.

# %% [markdown]
# In formulas, along x: `first = round(x1 / 16)`, `last = round(x2 / 16)`, `n = last - first + 1` cells. Bin `b` of `k`
# has the cells from `first + floor(b n / k)` up to, not including, `first + ceil((b + 1) n / k)`.
#
# **By hand.** The first RoI, (112, 45)-(219, 213): 112/16 = 7.0, 45/16 = 2.8, 219/16 = 13.7, 213/16 = 13.3. Rounded:
# cells 7 to 14 and 3 to 13, that is 8 x 11 cells or 128 x 176 pixels, for a box of 107 x 168.
#
# Three bins for 8 cells: 8/3 = 2.67, so the bins end at 2.67, 5.33 and 8, rounded outwards: 0 to 3, 2 to 6, 5 to 8.
# **They overlap**, and the middle one is wider.

# %%
first, last = round_to_cells(ROIS[0], SCALE)
assert first.tolist() == [7, 3] and last.tolist() == [14, 13]
columns, rows = bins_of_cells(7, 14, 3, cells=32), bins_of_cells(3, 13, 3, cells=24)  # start and stop of each bin
assert columns == [(7 + 0, 7 + 3), (7 + 2, 7 + 6), (7 + 5, 7 + 8)]
print("bins along x:", columns, "\nbins along y:", rows)

(x1, x2), (y1, y2) = columns[0], rows[0]
by_hand = features[y1:y2, x1:x2].max(axis=(0, 1))  # the first bin: the largest of 3 x 4 cells, in each channel
np.testing.assert_allclose(by_hand, pooled(features, ROIS, operation=roi_pool)[0, 0, 0])

# RoIWarp is RoIAlign of the rounded box, which spans its cells from edge to edge.
rounded = np.array([[7, 3, 14 + 1, 13 + 1.0]]) * STRIDE
np.testing.assert_allclose(pooled(features, ROIS[:1], operation=roi_warp), pooled(features, rounded))

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 2, figsize=(9, 4.5), sharey=True)
exact = ROIS[0] * SCALE
bin_size = (exact[2:] - exact[:2]) / 3
for axes in panels:
    axes.imshow(features[:, :, channel], cmap="cividis", extent=(0, 32, 24, 0), alpha=0.6)
    axes.set(xlim=(5, 17), ylim=(15, 2), xticks=range(6, 17, 2), yticks=range(2, 16, 2), xlabel="cells; black: the RoI")
    axes.grid(False)
    for line in range(25):
        axes.axhline(line, color="white", linewidth=0.7)
    for line in range(33):
        axes.axvline(line, color="white", linewidth=0.7)
for b, color in enumerate((ORANGE, SKY, RED)):
    start, stop = columns[b]
    height = rows[b][1] - rows[b][0]
    panels[0].add_patch(Rectangle((start, rows[b][0]), stop - start, height, color=color, alpha=0.75))
    panels[1].add_patch(Rectangle(exact[:2] + b * bin_size, *bin_size, color=color, alpha=0.75))
panels[0].set(title="RoIPool: whole cells, overlapping", ylabel="cells")
panels[1].set_title("RoIAlign: 2.2 x 3.5 cells each")
for axes in panels:
    outline(axes, exact, "black")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The same RoI, and of its nine bins the three on the diagonal. On the left the bins overlap and stick out to the right
# by more than a cell, which is more than 16 pixels. On the right they tile the box. RoIWarp has bins like those on the
# right, of a box like that on the left.

# %% [markdown] slides=["L12"] slideshow={"slide_type": "slide"}
# ## 5 RoIAlign in four steps (L12)
#
# 1. **Map**: multiply the RoI by the scale, 1/16.
# 2. **Divide** it into `k x k` bins.
# 3. **Interpolate** the map at `s x s` samples in each bin.
# 4. **Pool**: the average (or the maximum) of a bin's samples. Nothing is ever rounded:
#
# $$y_{ij} = \frac{1}{s^2} \sum_{p \,\in\, \text{bin } ij} \; \sum_{\text{4 cells } n \text{ around } p} w_n(p)\, f_n$$

# %% [markdown] slideshow={"slide_type": "notes"}
# Read the formula from the right: f_n is the feature in a cell, w_n(p) the bilinear weight of that cell for the sample
# p. The inner sum reads the map at one point, the outer one averages over the points of a bin. Both are sums of cells
# times numbers that depend on the geometry alone. So the whole operation is linear in the features; that will make the
# gradient easy.

# %% [markdown] slides=["L13", "L14"] slideshow={"slide_type": "slide"}
# ## 6 Steps 1 and 2: map and divide (L13, L14)
#
# **Map (L13):** 107 x 168 pixels, times 1/16, are 6.7 x 10.5 cells.
# **Divide (L14):** k = 3, so a bin has 6.7 / 3 = 2.2 by 10.5 / 3 = 3.5 cells.

# %% [markdown]
# **Half a cell.** The RoI begins at 112/16 = 7.0 cells from the left of the map. But `features[row, 7]` describes
# pixels 112 to 128: its middle is **7.5** cells from the left. To count in entries of the array, whose entry 7 *is*
# at 7.0, subtract half a cell. In the library that is `aligned=True`.

# %%
corner, extent = map_boxes(ROIS[0], SCALE)
assert corner.tolist() == [7.0, 2.8125]
assert extent.tolist() == [6.6875, 10.5] and extent.round(1).tolist() == [6.7, 10.5]  # L13
assert (extent / 3).round(1).tolist() == [2.2, 3.5]  # L14

corner_in_entries, same_extent = map_boxes(ROIS[0], SCALE, aligned=True)
assert corner_in_entries.tolist() == [7.0 - 0.5, 2.8125 - 0.5] and (same_extent == extent).all()

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2))
left.imshow(picture)
outline(left, ROIS[0], ORANGE)
left.set(xlim=(64, 288), ylim=(240, 16), xticks=[112, 219], yticks=[45, 213], title="107 x 168 pixels")
for b in range(4):
    across, down = corner + b * extent / 3
    right.plot([across, across], [corner[1], corner[1] + extent[1]], color=ORANGE, linewidth=4)
    right.plot([corner[0], corner[0] + extent[0]], [down, down], color=ORANGE, linewidth=4)
right.imshow(features[:, :, channel], cmap="cividis", extent=(0, 32, 24, 0), alpha=0.5)
arrow = dict(arrowstyle="<|-|>", linewidth=2, shrinkA=0, shrinkB=0)
right.annotate("", corner + [0, -0.6], corner + [extent[0] / 3, -0.6], arrowprops=arrow)
right.annotate("", corner + [-0.6, 0], corner + [-0.6, extent[1] / 3], arrowprops=arrow)
right.text(*corner + [extent[0] / 6, -1.2], f"{extent[0] / 3:.1f}", ha="center", fontsize=16)
right.text(*corner + [-1, extent[1] / 6], f"{extent[1] / 3:.1f}", ha="right", va="center", fontsize=16)
right.set(xlim=(4, 18), ylim=(15, 0), xticks=[7, 13.7], yticks=[2.8, 13.3])
right.set_title(f"{extent[0]:.1f} x {extent[1]:.1f} cells")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Sizes are not touched by the half cell, so the lecture's 6.7 x 10.5 and 2.2 x 3.5 hold either way. The first
# implementations forgot the half cell, and torchvision's Mask R-CNN does to this day (aligned=False). Section 12 shows
# what that does.

# %% [markdown] slides=["L15", "L16"] slideshow={"slide_type": "slide"}
# ## 7 Step 3: sample and interpolate (L15, L16)
#
# **Sample (L15)** the middles of `s x s` equal parts of each bin, s = 2. **Interpolate (L16)** between the four cells:
#
# $$f(p) = (1-u)(1-v)\, f_{00} + u(1-v)\, f_{01} + (1-u)v\, f_{10} + uv\, f_{11}$$

# %% [markdown]
# `u` says how far the sample is on its way from the left cells to the right ones, from 0 to 1, and `v` how far from
# the upper to the lower ones. The nearer a cell, the greater its weight; the four weights add up to 1.

# %%
points = sampling_points(ROIS[0], SCALE, size=3, sampling_ratio=2, aligned=True)
assert points.shape == (3, 3, 2, 2, 2)  # bin row, bin column, sample row, sample column, (x, y)
x, y = points[0, 0, 0, 0]
np.testing.assert_allclose([x, y], [6.5 + 6.6875 / 12, 2.3125 + 10.5 / 12])  # the corner and half of a half of a bin

column, row = int(x), int(y)  # the cell up and left of it
u, v = x - column, y - row
weights = np.array([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v])
corners = features[[row, row, row + 1, row + 1], [column, column + 1, column, column + 1]]  # (4, 128)
np.testing.assert_allclose(weights @ corners, bilinear(features, points[0, 0, 0, 0]))
assert np.isclose(weights.sum(), 1)
print(f"sample at x = {x:.2f}, y = {y:.2f}: between columns {column}, {column + 1} and rows {row}, {row + 1}")
print("weights", weights.round(2))

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, (axes, zoom) = plt.subplots(1, 2, figsize=(10, 4.5), width_ratios=[1, 1.1])
axes.imshow(features[:, :, channel], cmap="cividis", alpha=0.5)
for i in range(4):
    across, down = corner_in_entries + i * extent / 3
    axes.plot([across] * 2, corner_in_entries[1] + [0, extent[1]], "k", linewidth=3)
    axes.plot(corner_in_entries[0] + [0, extent[0]], [down] * 2, "k", linewidth=3)
axes.plot(*points.reshape(-1, 2).T, "o", color=ORANGE, markeredgecolor="black", markersize=9)
point = points[1, 0, 0, 1]
(column, row), (u, v) = point.astype(int), point % 1
for cell in ([0, 0], [1, 0], [0, 1], [1, 1]):
    axes.plot(*np.transpose([point, [column, row] + np.array(cell)]), "s-", color=RED, linewidth=3, markevery=[1])
axes.plot(*point, "k*", markersize=18)
axes.set(xlim=(5.5, 14.5), ylim=(13.5, 1.5), xticks=range(6, 15, 2), yticks=range(2, 14, 2))
axes.set_title("bins and samples (L15)")

zoom.set_title("weight = area of its color (L16)")
corners = {(0, 0): (1 - u) * (1 - v), (1, 0): u * (1 - v), (0, 1): (1 - u) * v, (1, 1): u * v}
for ((a, b), weight), color in zip(corners.items(), (ORANGE, SKY, RED, GREEN)):
    size = (u, 1 - u)[1 - a], (v, 1 - v)[1 - b]
    opposite = Rectangle((0 if a else u, 0 if b else v), *size, color=color, alpha=0.6, linewidth=0)
    zoom.add_patch(opposite)
    assert np.isclose(opposite.get_width() * opposite.get_height(), weight)
    zoom.plot(a, b, "s", color=color, markersize=22, markeredgecolor="black")
    zoom.text(a, b + (0.14 if b else -0.14), f"{weight:.2f}", ha="center", va="center", fontsize=18)
zoom.scatter(u, v, s=400, marker="*", color="black", zorder=4)
zoom.text(u + 0.06, v, f"u = {u:.2f}\nv = {v:.2f}", fontsize=16, va="center")
zoom.set(xlim=(-0.25, 1.25), ylim=(1.25, -0.25), xticks=[], yticks=[], aspect="equal")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Left: the grid of cells, the RoI, its 3 x 3 bins, 2 x 2 samples in each, and one sample with the weights of its four
# cells. Right: why these weights. Each cell owns the rectangle on the far side of the sample, so a cell that is near
# has a large one. The four rectangles fill the unit square, hence the weights add up to 1.

# %% [markdown] slideshow={"slide_type": "slide"}
# ### One number by hand: a map that is a ruler
#
# Each cell holds **the x of its own middle, in pixels**: 8, 24, 40, ... (a *ramp*, where interpolation is exact).
#
# - The middle of the first bin is at 112 + 107/6 = **129.83** pixels, which is entry 129.83/16 - 0.5 = 7.615.
# - Cell 7 holds 120, cell 8 holds 136: 0.385 · 120 + 0.615 · 136 = **129.83**.

# %%
RULER = np.broadcast_to(STRIDE * (np.arange(32) + 0.5), (24, 32))[:, :, None]  # (24, 32, 1)
assert RULER[0, :3, 0].tolist() == [8, 24, 40] and RULER[0, [7, 8], 0].tolist() == [120, 136]
by_hand = 0.385 * 120 + 0.615 * 136
assert round(by_hand, 1) == round(112 + 107 / 6, 1) == 129.8

middles = 112 + 107 * (np.arange(3) + 0.5) / 3
answer = pooled(RULER, ROIS[:1])[0, :, :, 0]
print("middles of the bins:", middles.round(2), "\nRoIAlign of the ruler:", answer[0].round(2))
np.testing.assert_allclose(answer, np.broadcast_to(middles, (3, 3)))

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9, 3.2))
axes.plot(np.arange(32), RULER[0, :, 0], "o-", color="gray", markersize=12)
for b, (middle, color) in enumerate(zip(middles, (ORANGE, SKY, RED))):
    start, stop = (112 + 107 * np.array([b, b + 1]) / 3) / STRIDE - 0.5
    axes.axvspan(start, stop, color=color, alpha=0.4)
    axes.plot(middle / STRIDE - 0.5, middle, "k*", markersize=18)
    axes.text(middle / STRIDE - 0.4, middle - 16, f"{middle:.2f}", fontsize=16)
axes.set(xlim=(5.5, 14.5), ylim=(90, 240), xticks=range(6, 15), yticks=RULER[0, 6:15:2, 0])
axes.set(xlabel="cell (its entry in the array)", ylabel="it holds")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The ruler is the one tool of this lecture: whatever is read from it is a place in the picture, in pixels. So it shows
# where an operation really looks. Each of the three bins answers with its own middle.

# %% [markdown]
# With 2 x 2 samples it is the same number: samples lie symmetrically around the bin's middle, and on a ramp their
# average is the value in the middle. We will use the ruler again and again: it says in pixels where a RoI was read.
#
# The package draws the samples of any box on any map, with one sample's weights. Here the third RoI:

# %%
corner3, extent3 = map_boxes(ROIS[2], SCALE, aligned=True)
points3 = sampling_points(ROIS[2], SCALE, size=3, sampling_ratio=2, aligned=True)
box3 = np.concatenate([corner3, corner3 + extent3])
window = features[5:14, 2:13, channel]  # so the box moves by (2, 5)
Image.fromarray(draw.draw_sampling_points(window, box3 - [2, 5, 2, 5], points3 - [2, 5], chosen=(1, 1, 0, 1)))

# %% [markdown]
# ### Exercise 1: bilinear weights
#
# Write the weight of **every** cell for one point: an array `(height, width)` that is 0 but for at most four cells.
# Position `(x, y)` counts entries: the cell in row 2, column 5 is at x = 5, y = 2.
#
# - The value at the point will be `(weights * feature).sum()`.
# - A point outside of the centers, by up to one cell, is moved to the border. Further out, all weights are 0.
#
# Hint: along one axis the weight of a cell at distance `d` is `max(0, 1 - d)`.


# %% exercise="bilinear_weights"
def my_bilinear_weights(x, y, height, width):
    """The weight of each cell of a height x width map in its value at position (x, y): (height, width)."""
    ### BEGIN SOLUTION
    if not (-1 <= x <= width and -1 <= y <= height):
        return np.zeros((height, width))
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    across = np.maximum(0, 1 - abs(np.arange(width) - x))  # (width,)
    down = np.maximum(0, 1 - abs(np.arange(height) - y))  # (height,)
    return down[:, None] * across
    ### END SOLUTION


# %% check="bilinear_weights"
check.bilinear_weights(my_bilinear_weights)

# %% [markdown]
# A wrong answer is told the case, the place, and, if the mistake is a known one, its name. Somebody who took x for the
# row would read this:

# %%
try:
    check.bilinear_weights(lambda x, y, height, width: my_bilinear_weights(y, x, height, width))
except check.CheckFailed as failure:
    print(failure)

# %% [markdown] slides=["L17"] slideshow={"slide_type": "slide"}
# ## 8 Step 4: pool the samples of a bin (L17)
#
# **The lecture:** the *maximum* of the s x s samples, channel by channel.
#
# **The paper:** the average; maximum or average make no difference (mask AP 30.2 and 30.3).
#
# In code it is one word: `pooling="max"` or `pooling="average"`.

# %%
samples = bilinear(features, points)  # (3, 3, 2, 2, 128): each bin's 2 x 2 samples, all channels
np.testing.assert_allclose(pooled(features, ROIS[:1], pooling="max")[0], samples.max(axis=(2, 3)))
np.testing.assert_allclose(pooled(features, ROIS[:1], pooling="average")[0], samples.mean(axis=(2, 3)))

most, mean = samples.max(axis=(2, 3)).ravel(), samples.mean(axis=(2, 3)).ravel()
alike = np.corrcoef(most, mean)[0, 1]
print(f"maximum and average of {most.size} bins and channels: correlation {alike:.3f}")
assert alike > 0.9
best, second = (PAPER[name][1] for name in ("RoIAlign C4", "RoIAlign C4, max"))
assert abs(best - second) < 0.2 < PAPER["RoIAlign C4"][1] - PAPER["RoIPool C4"][1]  # 0.1 beside 3.4

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=[1, 1.3])
left.plot(mean, most, ".", color=BLUE, markersize=5)
left.plot([mean.min(), mean.max()], [mean.min(), mean.max()], color="black")
left.set(xlabel="average", ylabel="maximum", title=f"bins of a RoI: correlation {alike:.3f}")
bars = right.bar(["RoIPool", "RoIAlign,\nmaximum", "RoIAlign,\naverage"], [26.9, second, best], color=[RED, SKY, BLUE])
right.bar_label(bars)
right.set(ylim=(0, 38), yticks=[], title="mask AP, stride 16 (the paper)")
assert PAPER["RoIPool C4"][1] == 26.9
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The four samples of a bin are interpolated from cells that they share, so they are nearly alike, and so are their
# maximum and their average. RoIPool's maximum is over whole cells of a rounded box; that is where the difference is.
# From here on: the average, as in the paper and in every implementation.

# %% [markdown]
# ### Exercise 2: one bin
#
# The weights of a bin are the average of its samples' weights. The bin's upper left corner is `(left, top)`, in
# entries.


# %% exercise="bin_weights"
def my_bin_weights(left, top, bin_width, bin_height, samples, height, width):
    """The weight of each cell of a height x width map in the average over a bin's samples: (height, width)."""
    ### BEGIN SOLUTION
    weights = np.zeros((height, width))
    for i in range(samples):
        for j in range(samples):
            x = left + (j + 0.5) * bin_width / samples
            y = top + (i + 0.5) * bin_height / samples
            weights += my_bilinear_weights(x, y, height, width)
    return weights / samples**2
    ### END SOLUTION


# %% check="bin_weights"
check.bin_weights(my_bin_weights)

# %% [markdown]
# ### Exercise 3: RoIAlign
#
# All four steps, for one box. `aligned=True` subtracts half a cell; `aligned=False` does not, and makes a box that is
# narrower or lower than one cell one cell wide or high. Hint: `np.tensordot(weights, feature, 2)` is the sum over all
# cells of weight times feature, one number a channel.


# %% exercise="roi_align"
def my_roi_align(feature, box, scale, size, samples, aligned):
    """The features (H, W, C) inside box (4,), in pixels, averaged in size x size bins: (size, size, C)."""
    ### BEGIN SOLUTION
    height, width, channels = feature.shape
    x1, y1, x2, y2 = box * scale - (0.5 if aligned else 0)  # 1 map
    box_width, box_height = x2 - x1, y2 - y1
    if not aligned:
        box_width, box_height = max(box_width, 1), max(box_height, 1)
    bin_width, bin_height = box_width / size, box_height / size  # 2 divide
    result = np.zeros((size, size, channels))
    for i in range(size):
        for j in range(size):
            corner = x1 + j * bin_width, y1 + i * bin_height
            weights = my_bin_weights(*corner, bin_width, bin_height, samples, height, width)
            result[i, j] = np.tensordot(weights, feature, 2)  # 3 interpolate, 4 pool
    return result
    ### END SOLUTION


# %% check="roi_align"
check.roi_align(my_roi_align)

# %% [markdown]
# It agrees with the library, for the lecture's RoIs:

# %%
for aligned in (False, True):
    mine = np.stack([my_roi_align(features, roi, SCALE, 3, 2, aligned) for roi in ROIS])
    np.testing.assert_allclose(mine, pooled(features, ROIS, aligned=aligned), atol=1e-12)

# %% [markdown]
# The library's own array code works on all samples of a box at once, in the four steps. A compiled kernel takes over
# where there is one (section 13), and a test holds each kernel to this code.

# %%
print(inspect.getsource(roi_align_forward))

# %% [markdown]
# ## 9 The same numbers as torchvision
#
# torchvision is the library whose trained weights most people use. What it gives for one box on a map of random numbers
# was written down once, for both values of `aligned`. Ours must be the same, and a test holds these constants to a file
# that torchvision made.

# %%
TORCHVISION = {  # torchvision.ops.roi_align: channel 0 of the 4 x 4 bins, first row
    False: [0.317622, 0.451369, -0.182814, 0.114955],
    True: [0.035473, 0.309806, -0.849387, -0.386245],
}
random_map = np.random.RandomState(0).standard_normal((2, 9, 11, 3))[0]  # (9, 11, 3), stride 4
random_box = np.array([3.0, 5.0, 21.0, 30.0])
for aligned, theirs in TORCHVISION.items():
    ours = my_roi_align(random_map, random_box, 1 / 4, 4, 2, aligned)[0, :, 0]
    print(f"aligned={aligned!s:5}  ours {ours.round(6)}  torchvision {theirs}")
    np.testing.assert_allclose(ours, theirs, atol=1e-6)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 10 Backward: every bin scatters its gradient
#
# Forward a bin **gathers**, $y = \sum_n w_n f_n$. Backward it **scatters** with the same weights:
# $g_n \mathrel{+}= w_n\, g_y$.
#
# `+=`, not `=`, for bins share cells. The weights add up to 1: a bin hands on exactly what it gets.

# %% [markdown]
# Why: $\partial y / \partial f_n = w_n$, and the chain rule (notebook 01) multiplies it by $g_y$, the gradient that
# comes back to the bin. The weights depend on the box alone, not on the features. We give the middle bin of the first
# RoI a gradient of 1 and look where it arrives:

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
sent = {
    "RoIPool": (roi_pool, {}),
    "RoIAlign, maximum": (roi_align, {"pooling": "max"}),
    "RoIAlign, average": (roi_align, {"pooling": "average"}),
}
gradients = {}
for name, (operation, more) in sent.items():
    leaf, zero = Tensor(features[None, :, :, channel, None], requires_grad=True), np.zeros(1, int)
    result = operation([leaf], ROIS[:1], zero, zero, [SCALE], 3, 2, True, **more)
    gy = np.zeros(result.shape)
    gy[0, 1, 1] = 1.0  # only the bin in the middle has a gradient
    result.backward(gy)
    gradients[name] = leaf.grad[0, :, :, 0]

middle_bin = corner_in_entries + extent / 3
figure, panels = plt.subplots(1, 3, figsize=(10, 4.5), sharey=True)
for axes, (name, gradient) in zip(panels, gradients.items()):
    axes.imshow(gradient, cmap="Oranges", vmin=0, vmax=0.8)
    for (i, j), value in np.ndenumerate(gradient):
        if value:
            background = dict(facecolor="white", alpha=0.8, linewidth=0, pad=2)
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=16, bbox=background, zorder=6)
    outline(axes, [*middle_bin, *(middle_bin + extent / 3)], BLUE, ":")
    axes.set(xlim=(7.5, 12.5), ylim=(10.5, 4.5), xticks=range(8, 13), title=name, xlabel="cells; blue: the bin")
    axes.set_xticks(np.arange(7.5, 12), minor=True)
    axes.set_yticks(np.arange(4.5, 10), minor=True)
    axes.grid(which="minor", color="gray")
    axes.tick_params(which="minor", length=0)
    assert np.isclose(gradient.sum(), 1)
assert [np.count_nonzero(g) for g in gradients.values()][:2] == [1, 4]
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# A gradient of 1 in the middle bin, and where it arrives. RoIPool sends all to the one largest cell. RoIAlign with the
# maximum sends it to the four cells around the largest sample. With the average every sample sends a quarter to its
# four cells, and cells near several samples collect more. In each picture the numbers add up to 1.

# %% [markdown]
# **By hand.** One sample that is 0.385 of the way from cell 8 to cell 7, in the middle of a row, with a gradient of 2:
# cell 7 gets 0.385 · 2 = 0.77 and cell 8 gets 0.615 · 2 = 1.23. Together 2.
#
# ### Exercise 4: the gradient of the feature map
#
# `gy` is the gradient of your `my_roi_align`'s result, `shape` the shape of its feature map.


# %% exercise="roi_align_backward"
def my_roi_align_backward(gy, shape, box, scale, size, samples, aligned):
    """The gradient of the features: what gy (size, size, C) sends to each cell and channel: (H, W, C) = shape."""
    ### BEGIN SOLUTION
    height, width, channels = shape
    x1, y1, x2, y2 = box * scale - (0.5 if aligned else 0)
    box_width, box_height = x2 - x1, y2 - y1
    if not aligned:
        box_width, box_height = max(box_width, 1), max(box_height, 1)
    bin_width, bin_height = box_width / size, box_height / size
    gfeature = np.zeros(shape)
    for i in range(size):
        for j in range(size):
            corner = x1 + j * bin_width, y1 + i * bin_height
            weights = my_bin_weights(*corner, bin_width, bin_height, samples, height, width)
            gfeature += weights[:, :, None] * gy[i, j]
    return gfeature
    ### END SOLUTION


# %% check="roi_align_backward"
check.roi_align_backward(my_roi_align_backward)

# %% [markdown]
# The picture above and your function agree, and so does the definition of a gradient: change one cell a little, and
# see how much the result changes (notebook 01).

# %%
gy = np.zeros((3, 3, 1))
gy[1, 1] = 1.0
mine = my_roi_align_backward(gy, (24, 32, 1), ROIS[0], SCALE, 3, 2, True)
np.testing.assert_allclose(mine[:, :, 0], gradients["RoIAlign, average"], atol=1e-12)

np.testing.assert_allclose(2 * my_bilinear_weights(7.615, 0, 1, 32)[0, 7:9], [0.77, 1.23])  # the number by hand

little = np.zeros((24, 32, 1))
little[8, 10] = 1e-6
change = pooled(RULER + little, ROIS[:1])[0, 1, 1, 0] - pooled(RULER - little, ROIS[:1])[0, 1, 1, 0]
print(f"cell (8, 10): backward {mine[8, 10, 0]:.6f}, by a small change {change / 2e-6:.6f}")
assert mine[8, 10, 0] > 0 and abs(change / 2e-6 - mine[8, 10, 0]) < 1e-6

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 11 Drag a box: RoIPool jumps, RoIAlign slides
#
# We move the first RoI to the right, by 2 cells in steps of 0.1 pixels, and read the ruler in its middle bin. The
# answer should move as far as the box.


# %% widget=True
def draw_moved(axes, shift):
    """The first RoI moved right by `shift` pixels, and what the three operations read from the ruler in its middle."""
    roi = ROIS[:1] + [shift, 0, shift, 0]
    first, last = round_to_cells(roi[0], SCALE)
    axes.imshow(picture)
    cell_lines(axes, *picture.shape[:2])
    outline(axes, roi[0], ORANGE)
    outline(axes, np.concatenate([first, last + 1]) * STRIDE, RED, "--")
    read = [pooled(RULER, roi, operation=operation)[0, 1, 1, 0] for operation in (roi_pool, roi_warp, roi_align)]
    axes.set(xlim=(96, 272), ylim=(240, 32), xticks=range(96, 273, 32), yticks=range(48, 241, 32))
    axes.set_title("moved by {:.1f}\nRoIPool {:.0f}, RoIWarp {:.0f},\nRoIAlign {:.1f}".format(shift, *read))


def moved(shift=0.0):
    """One figure for one position of the slider."""
    draw_moved(plt.subplots()[1], shift)
    plt.show()


try:
    from ipywidgets import FloatSlider, interact

    interact(moved, shift=FloatSlider(min=0, max=32, step=0.1, value=12.9, description="pixels"))
except ImportError:  # no widgets installed
    moved(12.9)

# %% [markdown]
# Without a slider: two positions that are 0.1 pixels apart. The RoI (orange) hardly
# moves; rounded (red, dashed) it grows by a cell, and what RoIPool reads jumps by 16 pixels.

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(9, 5.2), sharey=True)
for axes, shift in zip(panels, (12.9, 13.0)):
    draw_moved(axes, shift)
plt.show()

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
shifts = np.arange(0, 32.05, 0.1)
moving = ROIS[0] + shifts[:, None] * [1, 0, 1, 0]  # (321, 4): two cells in steps of 0.1 pixels
figure, axes = plt.subplots()
traveled = {}
for name, operation, color, style in (
    ("RoIPool", roi_pool, RED, "-"),
    ("RoIWarp", roi_warp, BLUE, "--"),
    ("RoIAlign", roi_align, ORANGE, "-"),
):
    values = pooled(RULER, moving, operation=operation)[:, 1, 1, 0]
    traveled[name] = values - values[0]
    axes.plot(shifts, traveled[name], style, color=color, linewidth=4, label=name)
axes.set(xlabel="the box has moved by, in pixels", ylabel="the answer has moved by", xticks=range(0, 33, 4))
axes.legend()
axes.grid(alpha=0.4)
np.testing.assert_allclose(traveled["RoIAlign"], shifts, atol=1e-9)  # slides: exactly as far as the box
jumps = abs(np.diff(traveled["RoIPool"]))
assert np.isclose(jumps.max(), 16) and (jumps > 0).sum() <= 4  # stands still, then jumps by a whole cell
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The ruler answers in pixels. RoIAlign follows the box exactly. RoIPool stands still while the box moves by up to a
# cell, then jumps by 16 pixels within a tenth of a pixel. RoIWarp jumps by half a cell when one edge is rounded
# differently and by the other half when the other one is. The heads behind it must learn one answer for boxes that are
# 16 pixels apart.

# %% [markdown]
# ## 12 Common misconceptions
#
# ### "RoIAlign interpolates the image"
#
# It interpolates the *feature map*, after the network. To enlarge the picture and then compute features is something
# else, because features do not scale along. Take as the feature the brightness step between neighboring pixels:

# %%
gray = picture.mean(axis=2)[:, :, None]  # (384, 512, 1)


def steps(image):
    """A feature: the difference of each pixel and its right neighbor, without its sign."""
    return abs(np.diff(image, axis=1, append=image[:, -1:]))


def at_pixels(x):
    zero = np.zeros(1, int)
    return roi_align([x[None]], ROIS[2:], zero, zero, [1.0], 220, 1, True).data[0]  # twice as wide as the RoI


features_then_roi_align = at_pixels(steps(gray)).mean()
roi_align_then_features = steps(at_pixels(gray)).mean()
print(f"features, then RoIAlign: {features_then_roi_align:.2f}")
print(f"image enlarged, then features: {roi_align_then_features:.2f}")
assert roi_align_then_features < 0.7 * features_then_roi_align  # in an enlarged picture every step is smaller

# %% [markdown]
# ### "Crop-and-resize is the same"
#
# TensorFlow's `crop_and_resize`, often used in its place, takes **one** sample a bin, on a grid whose outermost points
# lie *on the edges* of the box. The ruler shows where it looks:


# %%
def crop_and_resize(feature, box, size):
    """size x size points, from edge to edge of the box, one sample each."""
    x1, y1, x2, y2 = box * SCALE - 0.5
    x, y = np.meshgrid(np.linspace(x1, x2, size), np.linspace(y1, y2, size))
    return bilinear(feature, np.stack([x, y], axis=-1))


resized = crop_and_resize(RULER, ROIS[0], 3)[0, :, 0]
aligned_answer = pooled(RULER, ROIS[:1])[0, 0, :, 0]
print("crop and resize", resized.round(2), "\nRoIAlign       ", aligned_answer.round(2))
np.testing.assert_allclose(resized - aligned_answer, [-107 / 6, 0, 107 / 6])  # half a bin outwards: 17.8 pixels

# %% [markdown] slideshow={"slide_type": "slide"}
# ### A misconception: "The half pixel is optional"
#
# `aligned=False` leaves out the half cell. On a map of stride 16 everything is read **8 pixels** too far right and too
# far down. (A cell is a pixel of the map, hence the name.)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
without = pooled(RULER, ROIS[:1], aligned=False)[0, 0, :, 0]
np.testing.assert_allclose(without - aligned_answer, 8.0)

figure, axes = plt.subplots(figsize=(9, 4))
for cell in range(6):
    axes.add_patch(Rectangle((16 * cell, 0), 16, 1, facecolor="white" if cell % 2 else "gainsboro", edgecolor="black"))
    axes.text(16 * cell + 8, 0.82, f"cell {cell}", ha="center")
    axes.plot(16 * cell + 8, 0.5, "ko", markersize=10)
axes.text(40, 1.2, "pixel 40 is the middle of cell 2", ha="center")
for text, place, corner, color in (
    ("aligned: 40/16 - 0.5 = 2.0\nreads cell 2", 40, 4, BLUE),
    ("not aligned: 40/16 = 2.5\nreads between cells 2 and 3", 48, 54, RED),
):
    arrow = dict(arrowstyle="-|>", linewidth=3, color=color, relpos=(0.4, 1))
    axes.annotate(text, (place, 0.45), (corner, -0.75), arrowprops=arrow)
axes.set(xlim=(0, 96), ylim=(-0.9, 1.5), yticks=[], xticks=range(0, 97, 16), xlabel="pixels of the picture")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Why does it work at all without? Because a network that is trained with the shift learns to live with it: weights want
# the convention they learned with. torchvision's trained Mask R-CNN wants aligned=False, Detectron2's wants True.
# Change it for a trained network, and every RoI is read 8 pixels beside at stride 16.

# %% [markdown]
# ### "Gradients do not reach the box"
#
# The samples move when the box moves, so the result depends on the box, and smoothly. On the ruler the middle of the
# box is read; one pixel more for `x1` moves it by half a pixel.

# %%
box, zero = Tensor(ROIS[:1].copy(), requires_grad=True), np.zeros(1, int)
roi_align([RULER[None]], box, zero, zero, [SCALE], 1, 2, True).backward(np.ones((1, 1, 1, 1)))
print("gradient of x1, y1, x2, y2:", box.grad[0])
np.testing.assert_allclose(box.grad[0], [0.5, 0, 0.5, 0], atol=1e-12)

box = Tensor(ROIS[:1].copy(), requires_grad=True)
nothing = roi_pool([RULER[None]], box, zero, zero, [SCALE], 1)
assert not nothing.requires_grad and box.grad is None  # RoIPool: rounding has no gradient

# %% [markdown]
# (Mask R-CNN does not use it: it takes the proposals as constants, as Faster R-CNN did. MNC, the home of RoIWarp, did.)
#
# ### "Quantizing once is harmless"
#
# RoIWarp rounds only the box, and everything after that is exact. The middle of the box, read from the ruler:

# %%
rng = np.random.default_rng(1)
corner, side = rng.uniform(40, 200, (2000, 2)), rng.uniform(40, 120, (2000, 2))
random_rois = np.concatenate([corner, corner + side], axis=1)
truth = (random_rois[:, 0] + random_rois[:, 2]) / 2
error = {
    name: pooled(RULER, random_rois, k=1, operation=operation)[:, 0, 0, 0] - truth
    for name, operation in {"RoIWarp": roi_warp, "RoIAlign": roi_align}.items()
}
for name, e in error.items():
    print(f"{name:8} off by {abs(e).mean():.2f} pixels on average, {abs(e).max():.2f} at most")
assert abs(error["RoIAlign"]).max() < 1e-9
assert 7 < error["RoIWarp"].mean() < 9 and error["RoIWarp"].max() > 14
assert PAPER["RoIWarp C4"][1] - PAPER["RoIPool C4"][1] < 0.3  # and the paper: 27.1 after 26.9, where RoIAlign has 30.3

# %% [markdown]
# ## 13 How fast, and how many bytes
#
# The array code is NumPy, box by box. The kernel is the same arithmetic compiled by Numba. The first call compiles
# it ("cold"); the result stays on the disk, so that happens once on a machine. Reading is the work: each sample reads
# four cells of `C` numbers.

# %%
rng = np.random.default_rng(2)
R, k, s, C = 100, 7, 2, 256
big = rng.standard_normal((1, 50, 67, C)).astype(np.float32)  # C4 of a photo of 800 x 1067
corner, side = rng.uniform(0, 600, (R, 2)), rng.uniform(40, 200, (R, 2))
many = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
call = ([big], many, np.zeros(R, int), np.zeros(R, int), [SCALE], k, s, True)
moved_bytes = R * k * k * (s * s * 4 + 1) * C * 4  # four cells a sample in, one row a bin out; float32: 4 bytes

cold = """
import time
import numpy as np
from minimask.roi_align import roi_align
zero = np.zeros(1, int)
call = [np.zeros((1, 8, 8, 16), np.float32)], np.zeros((1, 4), np.float32), zero, zero, [1.0]
start = time.perf_counter()
roi_align(*call)
print(time.perf_counter() - start)
"""


def seconds(function, *arguments, repeats=5):
    """The shortest of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return min(times)


with tempfile.TemporaryDirectory() as empty:  # a process of its own with nothing compiled
    environment = {**os.environ, "NUMBA_CACHE_DIR": empty}
    first_call = float(subprocess.check_output([sys.executable, "-c", cold], env=environment, text=True))
rows = {
    "array code, NumPy": seconds(roi_align_forward.plain, *call, repeats=2),
    "kernel, Numba, cold": first_call,
    "kernel, Numba, warm": seconds(roi_align, *call),
}
copied = np.zeros(moved_bytes // 2, np.uint8)
rows["to copy as much"] = seconds(np.copyto, np.empty_like(copied), copied)
if device.gpu_available():
    on_card = [device.to_gpu(big)], *map(device.to_gpu, call[1:4]), *call[4:]

    def on_gpu():
        device.to_cpu(roi_align(*on_card).data.ravel()[-1:])  # to fetch one number waits for the card

    on_gpu()
    rows["on the graphics card"] = seconds(on_gpu)
else:
    print("No graphics card here: its row is left out.")

print(f"{R} RoIs, {k} x {k} bins, {s} x {s} samples, {C} channels: {moved_bytes / 1e6:.0f} MB read and written")
for name, t in rows.items():
    rate = "" if name.endswith("cold") else f"{moved_bytes / t / 1e9:8.1f} GB/s"
    print(f"{name:22} {1000 * t:9.1f} ms {rate}")
assert rows["kernel, Numba, warm"] < rows["array code, NumPy"]
np.testing.assert_allclose(roi_align(*call).data, roi_align_forward.plain(*call)[0], atol=1e-4)

# %% [markdown]
# The kernel can be faster than copying as many bytes in memory: neighboring samples read the same cells, and find them
# in the processor's cache. The NumPy version writes every intermediate result to memory and reads it back.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 14 What does a trained network see of it?
#
# A small Mask R-CNN was trained with RoIAlign on drawn animals. We give it the true boxes and exchange the pooling
# under its mask branch: same weights, same boxes.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
def masks_in(model, sample, pooling):
    """The masks (G, H, W) that the model draws into the true boxes of a sample, with another pooling."""
    model.roi = replace(model.roi, pooling=pooling)
    batch = model.transform([sample.image])
    rois, labels = sample.boxes.astype(np.float32), sample.labels
    with no_grad():
        levels = model.features(Tensor(batch.images))
        x = model.pool(levels, rois, np.zeros(len(rois), int), model.roi.mask_size, "mask")
        soft = mask_probabilities(model.mask_branch(x, labels).data, labels)
    return paste_masks(soft, rois, *sample.image.shape[:2], whole_pixels=False)


def edge_error(found, truth):
    """How far the mask's edge is off, in pixels: the area that is wrong, for each pixel of the true edge."""
    inner = truth.copy()
    inner[1:-1, 1:-1] = truth[1:-1, 1:-1] & truth[:-2, 1:-1] & truth[2:, 1:-1] & truth[1:-1, :-2] & truth[1:-1, 2:]
    return (found ^ truth).sum() / max((truth & ~inner).sum(), 1)


trained = minimask.load("toy")
trained.eval()
scenes = [ToyScenes("test", seed=8)[i] for i in range(30)]
errors, examples = {}, {}
for pooling in mask_rcnn.POOLINGS:
    found = [masks_in(trained, scene, pooling) for scene in scenes]
    truths = [scene.masks.astype(bool) for scene in scenes]
    errors[pooling] = np.mean([edge_error(f, t) for fs, ts in zip(found, truths) for f, t in zip(fs, ts)])
    examples[pooling] = found
print("edges are off by, in pixels:", {name: round(float(e), 2) for name, e in errors.items()})
assert errors["roi_align"] < errors["roi_pool"]

n, g = max(
    ((n, g) for n, scene in enumerate(scenes) for g in range(len(scene.boxes))),
    key=lambda place: scenes[place[0]].masks[place[1]].sum(),  # the largest animal
)
x1, y1, x2, y2 = scenes[n].boxes[g]
figure, panels = plt.subplots(1, 2, figsize=(9, 4.5))
for axes, pooling, name in zip(panels, ("roi_pool", "roi_align"), ("RoIPool", "RoIAlign")):
    axes.imshow(scenes[n].image)
    axes.contour(scenes[n].masks[g], [0.5], colors="white", linewidths=3)
    axes.contour(examples[pooling][n][g], [0.5], colors=[RED], linewidths=3, linestyles="--")
    axes.set(xlim=(max(x1 - 5, 0), min(x2 + 5, 127)), ylim=(min(y2 + 5, 127), max(y1 - 5, 0)), xticks=[], yticks=[])
    axes.set_title(f"{name}: {errors[pooling]:.1f} pixels off on average")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# White is the truth, red what is drawn; the number is the mean over the animals of 30 scenes. Be fair to RoIPool: this
# network was never trained with it. The paper trained one of each, and still found the 10 % to 50 % of section 2.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Recap
#
# 1. RoIAlign turns a RoI of any size into `k x k x C` numbers: map, divide, interpolate, pool.
# 2. RoIPool rounds twice, RoIWarp once: at stride 16 that moves what is read by up to 16 pixels. RoIAlign never rounds.
# 3. On a ruler RoIAlign answers with the exact middle of each bin, and moves as far as the box moves.
# 4. It is linear: a bin is a sum of cells times weights; backward the same weights scatter the gradient, with `+=`.
# 5. Cell 0 has its middle at half a cell: `aligned=True` counts that. A trained network wants what it learned with.

# %% [markdown]
# ## Quiz
#
# 1. A RoI is 107 x 168 pixels, the stride is 16, k = 3. How large is a bin, in cells and in pixels?
# 2. How many cells does one sample read, and how many at most does a bin with s = 2?
# 3. RoIPool rounds twice. What is rounded first, what second?
# 4. Why does RoIWarp gain so little over RoIPool, though it interpolates?
# 5. Why is the average of 2 x 2 samples of a ramp the value in the middle of the bin?
# 6. Why `+=` and not `=` in the backward pass?
# 7. The weights of a bin inside the map add up to 1. What does that say about the gradient that it hands on?
# 8. You load torchvision's trained Mask R-CNN and set `aligned=True`, "because it is right". What happens?
# 9. Why does RoIAlign help AP75 more than AP50, and stride 32 more than stride 16?
# 10. What does L08's "10 % to 50 %" refer to?
#
# <details><summary>Answers</summary>
#
# 1. 2.2 x 3.5 cells; 35.7 x 56 pixels.
# 2. Four; sixteen, if no two samples share a cell. In this notebook's middle bin it is fewer.
# 3. The RoI to whole cells; then the borders of its bins to whole cells.
# 4. Its box is still rounded, by up to half a cell an edge. The rounding is what hurts.
# 5. The samples lie symmetrically around the middle, and on a ramp what one has too much the other has too little.
# 6. A cell lies near several samples, of one bin or of neighboring bins, and gets a share from each.
# 7. It hands on exactly what it gets: nothing is lost or made.
# 8. Every RoI is read half a cell (at stride 16: 8 pixels) further up and left than in training: results get worse.
# 9. Rounding spoils the place, which the strict measure sees; and it grows with the stride.
# 10. To the relative gain in mask AP of RoIAlign over RoIPool: 13 % at stride 16, 31 % at stride 32, and 49 % in AP75.
#
# </details>
