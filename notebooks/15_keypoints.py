# %% [markdown] slides=["T25"] slideshow={"slide_type": "slide"}
# # 15 Keypoints: one more branch (T25)
#
# **Question.** The model finds an animal's box and its mask. **Where is its left eye?**
#
# - A *keypoint* is a **one-hot mask**: a mask in which exactly one place is 1 (T25).
# - The *pose* of a person is **17** such masks (T25).
# - One framework for box, mask and keypoint (T25).

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecture:* this was one slide of the talk, "For Human Keypoint Detection". Its point is not the keypoints, it
# is the framework: a third branch beside box and mask, made of parts that the room has already seen. Ask first how they
# would do it. "Two numbers x and y for each keypoint" is the usual answer; let it stand until section 2.

# %%
import contextlib
import inspect
import io

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Circle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import minimask
from minimask import boxes as box_ops
from minimask import check, draw, mask_rcnn
from minimask.datasets.augmentation import flip, flip_order
from minimask.datasets.coco_names import PERSON_KEYPOINTS, PERSON_SKELETON
from minimask.datasets.toy import KEYPOINTS, SKELETON, ToyScenes
from minimask.evaluate import evaluate
from minimask.keypoint_head import bicubic_matrix, decode_keypoints, keypoint_targets
from minimask.losses import keypoint_loss
from minimask.tensor import Tensor, no_grad
from minimask.trace import Trace

plt.rcParams.update({"figure.figsize": (9, 4.5), "figure.dpi": 100, "font.size": 14})
plt.rcParams["figure.constrained_layout.use"] = True
ORANGE, SKY, RED, BLUE, GREEN = draw.COLORS[[0, 1, 2, 4, 6]] / 255

# %% [markdown]
# **Words of this notebook**
#
# - *Keypoint*: a named place of an object, such as the nose. `K` is how many an object has: 17 for COCO's persons,
#   8 for our drawn animals.
# - *Visibility*: 2 seen, 1 hidden but somebody said where it must be, 0 *not labeled*: nobody said where it is.
#   A data set holds `x, y, visibility` for each keypoint.
# - *RoI*, *logit*, *softmax*, *sigmoid*, *cross-entropy*: notebooks 08 and 11. *AP*: notebook 14.
# - *Heat map*: the map of probabilities that a network gives to the places of one keypoint.
# - *OKS*, object keypoint similarity: how well found keypoints fit the true ones, 0 to 1 (section 5).

# %%
assert len(PERSON_KEYPOINTS) == 17 and len(KEYPOINTS) == 8  # T25: a human pose = 17 masks
print("a person:", ", ".join(PERSON_KEYPOINTS))
print("a drawn animal:", ", ".join(KEYPOINTS))
scene = ToyScenes("test", seed=8, count=60)[17]
CAT = 4  # the object that we follow: a cat whose eight keypoints can all be seen
assert (scene.keypoints[CAT, :, 2] == 2).all()
print(f"its box {scene.boxes[CAT]}, its nose {scene.keypoints[CAT, 0].round(1)} (x, y, visibility)")

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
place, visible = keypoint_targets(scene.keypoints[None], scene.boxes[None, [CAT]], np.array([[CAT]]))  # (1, 1, 8)
one_hot = (np.arange(56 * 56) == place[0, 0, :, None]).reshape(8, 56, 56)
x1, y1, x2, y2 = scene.boxes[CAT].astype(int)
figure, panels = plt.subplots(1, 4, figsize=(10, 3.6))
panels[0].imshow(scene.image[y1:y2, x1:x2])
panels[0].plot(*(scene.keypoints[CAT, :, :2] - [x1, y1]).T, "o", color=ORANGE, markeredgecolor="black", markersize=9)
panels[0].set_title("8 keypoints")
panels[1].imshow(scene.masks[CAT, y1:y2, x1:x2], cmap="Blues", vmax=1.4)
panels[1].set_title("mask")
for axes, k in zip(panels[2:], (0, 5)):
    row, column = np.argwhere(one_hot[k])[0]
    axes.imshow(one_hot[k], cmap="Grays", alpha=0.15)
    axes.plot(column, row, "s", color=ORANGE, markersize=6, markeredgecolor="black")
    axes.set_title(f"{KEYPOINTS[k]}: one 1,\n{56 * 56 - 1} zeros")
    assert one_hot[k].sum() == 1
for axes in panels:
    axes.set(xticks=[], yticks=[])
plt.show()

# %% [markdown] slides=["T25"] slideshow={"slide_type": "slide"}
# ## 1 One framework for box, mask and keypoint (T25)
#
# Three branches read the same RoIs from the same feature maps:
#
# | branch | reads | gives | asks |
# |---|---|---|---|
# | box | 7 x 7 | classes, 4 numbers a class | what, and where are its edges? |
# | mask | 14 x 14 | 28 x 28 a class | at each place: inside or not? |
# | keypoint | 14 x 14 | 56 x 56 a keypoint | once: which place? |

# %% [markdown]
# The keypoint branch: 3 x 3 convolutions (the paper: eight of 512 channels; the toy model: four of 64), a *transposed
# convolution* (notebook 10) from 14 to 28, and bilinear interpolation from 28 to 56. The paper found that keypoints
# need finer maps than masks. Its trunk is the mask head's idea once more; only what is asked of the last layer differs.
#
# We open a small model that was trained on drawn animals with all three branches, and note what each stage computes.

# %%
model = minimask.load("toy")
class_names = model.class_names
model.eval()
with Trace() as stages:
    model.detect(model.transform([scene.image]))
for name in ("box_features", "class_logits", "mask_features", "mask_logits", "keypoint_features", "keypoint_logits"):
    print(f"{name:18}{stages[name].shape}")
assert stages["box_features"].shape[1:3] == (7, 7) and stages["mask_logits"].shape[1:3] == (28, 28)
assert stages["keypoint_features"].shape[1:3] == (14, 14) and stages["keypoint_logits"].shape[1:] == (56, 56, 8)

person = mask_rcnn.build("toy", num_classes=2, heads={"keypoints": 17})  # background and person; random weights
features = Tensor(np.zeros((1, 14, 14, 64), np.float32))
with no_grad():
    assert person.keypoint_branch(features).shape == (1, 56, 56, 17)  # a human pose is 17 maps (T25)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
found = model.predict([scene.image])[0]
picture = draw.draw_prediction(scene.image, found, class_names, skeleton=SKELETON, caption=False, side=640)
figure, axes = plt.subplots(figsize=(9, 4.6))
axes.imshow(picture)
axes.set(xticks=[], yticks=[], title="boxes, masks, keypoints: one model, one pass")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Note what does not depend on the class: there is one set of K maps a RoI, not one for each class as with masks. COCO
# has keypoints for persons only; our three animals share one list of names.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 The target: which of 56 x 56 cells?
#
# $$\text{column} = \left\lfloor (x - x_1) \cdot \frac{56}{w} \right\rfloor \qquad
#   \text{row} = \left\lfloor (y - y_1) \cdot \frac{56}{h} \right\rfloor$$
#
# - A box from x = 10 to 38: a cell is half a pixel. x = 17.2 lies in cell floor(7.2 · 2) = **14**.
# - x = 38 exactly: floor(56) = 56, which does not exist. It belongs to the **last** cell, 55.

# %%
assert np.floor((17.2 - 10) * 56 / 28) == 14
box = np.array([[[10.0, 20, 38, 48]]])
points = np.array([[17.2, 20, 2], [38, 48, 2], [9, 30, 2], [20, 30, 0]])[None, None]  # (1, 1, 4, 3)
places, learned = keypoint_targets(points, box, np.zeros((1, 1), int))
assert places[0, 0, 0] == 14 and places[0, 0, 1] == 55 * 56 + 55  # row * 56 + column
assert learned[0, 0].tolist() == [True, True, False, False]  # outside of the box, not labeled: not learned

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 2, figsize=(11, 2.4))
for axes, x, cells in zip(panels, (17.2, 38.0), (range(12, 18), range(51, 57))):
    taken = min(int((x - 10) * 56 / 28), 55)
    for cell in cells:
        left = 10 + cell / 2
        look = dict(facecolor=ORANGE if cell == taken else "white", edgecolor="black") if cell < 56 else dict(alpha=0)
        axes.add_patch(plt.Rectangle((left, 0), 0.5, 1, **look))
        axes.text(left + 0.25, 0.5, cell if cell < 56 else "no 56", ha="center", va="center", fontsize=18)
    axes.plot(x, 1.15, "v", color=RED, markersize=14)
    axes.text(x, 1.4, f"x = {x:g}", color=RED, ha="center")
    axes.set(xlim=(10 + cells[0] / 2 - 0.1, 10 + cells[-1] / 2 + 0.6), ylim=(0, 1.8), yticks=[], xlabel="pixels")
assert taken == 55
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Why not two numbers x and y, as for boxes? A hidden left foot may be in one of two places; the mean of both is between
# the feet, where no foot is. A map can say "here or there", and it keeps the layout: the answer lies where the evidence
# lies (the mask branch was a convolutional network for the same reason, notebook 10).

# %% [markdown]
# What the cells cost: a cell of a box `w` pixels wide is `w / 56` pixels, so a target is wrong by up to half of that.
# For our cat that is nothing; for a person 560 pixels high it is up to 5 pixels.
#
# ### Exercise 1: the one-hot target


# %% exercise="one_hot_keypoint"
def my_one_hot_keypoint(keypoint, box, size):
    """The map (size, size) with a 1.0 in the cell of box (4,) where keypoint (3,): x, y, visibility lies, if any.

    All 0 if it is not labeled (visibility 0) or outside. On the right or lower border: the last cell.
    """
    ### BEGIN SOLUTION
    target = np.zeros((size, size))
    x, y, visibility = keypoint
    x1, y1, x2, y2 = box
    column = size - 1 if x == x2 else int(np.floor((x - x1) * size / (x2 - x1)))
    row = size - 1 if y == y2 else int(np.floor((y - y1) * size / (y2 - y1)))
    if visibility > 0 and 0 <= column < size and 0 <= row < size:
        target[row, column] = 1.0
    return target
    ### END SOLUTION


# %% check="one_hot_keypoint"
check.one_hot_keypoint(my_one_hot_keypoint)

# %%
mine = np.stack([my_one_hot_keypoint(point, scene.boxes[CAT], 56) for point in scene.keypoints[CAT]])
assert (mine == one_hot).all()  # the library's, for all eight keypoints of the cat

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 The loss: softmax over all places
#
# Masks: a **sigmoid** at each place, 784 questions. Keypoints: **one softmax** over 56 · 56 = 3136 places.
#
# $$L = -\log p_{\text{place}}, \qquad p_i = \frac{e^{z_i}}{\sum_j e^{z_j}}$$
#
# At the start all places are equal: L = ln 3136 = **8.05**. A loss of 1 means p = 0.37 in the right cell of 3136.

# %%
assert 56 * 56 == 3136 and round(np.log(3136), 2) == 8.05
start = keypoint_loss(Tensor(np.zeros((1, 56, 56, 8))), place[0], visible[0]).item()
assert round(start, 2) == 8.05
assert round(np.exp(-1), 2) == 0.37

# %% [markdown]
# Why not the sigmoid of masks? Two reasons, in numbers.
#
# 1. *Exactly one place.* Two equal peaks: with a softmax each has at most 1/2, and the loss is at least ln 2. With
#    sigmoids both can be 1 independently, and a map without any peak is almost free: a network that says
#    "1/3136" everywhere has a mean loss of 0.003.
# 2. *Balance.* At the start (all logits 0) each sigmoid pulls its logit by 1/2: 3135 places pull down and 1 pulls up.
#    In the softmax the gradient is $p - t$: the right place is pulled up as strongly as all others together down.

# %%
two_peaks = np.zeros(3136)
two_peaks[[100, 2000]] = 50.0
p_softmax = np.exp(two_peaks - 50) / np.exp(two_peaks - 50).sum()
p_sigmoid = 1 / (1 + np.exp(-two_peaks))
assert np.isclose(p_softmax[100], 0.5) and np.isclose(p_sigmoid[[100, 2000]], 1).all()

p = 1 / 3136  # everywhere
silent = (-np.log(p) - 3135 * np.log(1 - p)) / 3136
print(f"a map that says nothing: mean sigmoid loss {silent:.4f}, softmax loss {np.log(3136):.2f}")
assert round(silent, 3) == 0.003

truth = np.zeros(3136)
truth[100] = 1
pull = {"sigmoid": 0.5 - truth, "softmax": 1 / 3136 - truth}  # gradients of the logits, all 0
up = {name: -g[g < 0].sum() for name, g in pull.items()}
down = {name: g[g > 0].sum() for name, g in pull.items()}
assert (up["sigmoid"], down["sigmoid"]) == (0.5, 1567.5) and np.isclose(up["softmax"], down["softmax"])

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 2, figsize=(9, 3.4))
for axes, name in zip(panels, ("sigmoid", "softmax")):
    bars = axes.barh(["up: the right\nplace", "down: 3135\nothers"], [up[name], down[name]], color=[ORANGE, BLUE])
    axes.bar_label(bars, [f"{v:.4g}" for v in (up[name], down[name])], padding=4)
    axes.set(title=f"{name}: pull on the logits", xlim=(0, 1.3 * max(down[name], up[name])))
panels[1].set_yticks([])
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# In the paper's words: the softmax "encourages a single point to be detected". Between the K maps there is no
# competition: each keypoint has its own softmax, as each class has its own mask. So the decoupling of the mask branch
# is still there, between keypoints; only within a map the places compete.

# %% [markdown]
# ### Exercise 2: the loss
#
# One box, `K` keypoints. The mean over the keypoints that count; 0 if none does. Subtract each map's maximum first,
# as in every softmax (notebook 11).


# %% exercise="softmax_place_loss"
def my_softmax_place_loss(logits, places, visible):
    """The mean of -log p[place] over the visible keypoints: logits (H, W, K), places (K,) -> a number.

    places: row * W + column of each keypoint.
    """
    ### BEGIN SOLUTION
    losses = []
    for k in np.flatnonzero(visible):
        z = logits[:, :, k].reshape(-1)
        z = z - z.max()
        losses.append(np.log(np.exp(z).sum()) - z[places[k]])
    return sum(losses) / max(len(losses), 1)
    ### END SOLUTION


# %% check="softmax_place_loss"
check.softmax_place_loss(my_softmax_place_loss)


# %% [markdown]
# What does the trained model get? We give it the true boxes, so that only the keypoint branch is asked:


# %%
def keypoint_logits(sample):
    """The model's maps (G, 56, 56, 8) in the true boxes of a sample."""
    rois = sample.boxes.astype(np.float32)
    with no_grad():
        levels = model.features(Tensor(model.transform([sample.image]).images))
        x = model.pool(levels, rois, np.zeros(len(rois), int), model.roi.keypoint_size, "keypoint")
        return model.keypoint_branch(x).data


logits = keypoint_logits(scene)[CAT]  # (56, 56, 8)
loss = my_softmax_place_loss(logits, place[0, 0], visible[0, 0])
np.testing.assert_allclose(loss, keypoint_loss(Tensor(logits[None]), place[0], visible[0]).item(), rtol=1e-5)
print(f"loss on the cat: {loss:.2f}, a mean probability of about {np.exp(-loss):.2f} in the right cell of 3136")
assert loss < start / 2

# %% [markdown] slideshow={"slide_type": "slide"}
# ### What the trained model says about the cat

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
heat = np.exp(logits - logits.max(axis=(0, 1)))
heat /= heat.sum(axis=(0, 1))  # (56, 56, 8): each map adds up to 1
assert np.allclose(heat.sum(axis=(0, 1)), 1, atol=1e-4)
figure, panels = plt.subplots(2, 4, figsize=(10, 5.4))
figure.suptitle("heat maps, enlarged around the truth (white circle)")
gray = scene.image[y1:y2, x1:x2].mean(axis=2)
for k, axes in enumerate(panels.flat):
    axes.imshow(gray, extent=(0, 56, 56, 0), cmap="Grays_r", vmin=-150, vmax=255)
    axes.imshow(heat[:, :, k], extent=(0, 56, 56, 0), cmap="inferno", alpha=np.minimum(1, 4 * heat[:, :, k] ** 0.5))
    row, column = np.unravel_index(place[0, 0, k], (56, 56))
    axes.plot(column + 0.5, row + 0.5, "o", fillstyle="none", color="white", markersize=34, markeredgewidth=2)
    axes.set(xticks=[], yticks=[], xlim=(column - 11, column + 12), ylim=(row + 12, row - 11))
    axes.set_title(f"{KEYPOINTS[k]}, p = {heat[:, :, k].max():.2f}", fontsize=13)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# A map has 56 x 56 cells; 23 x 23 of them are shown. p is the highest probability in any one of the 3136 cells. What is
# missing to 1 lies in the cells beside it: the network is a cell or two unsure, not torn between two places.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 Back into the picture
#
# 1. *Stretch* the map to the box's size in whole pixels, by **bicubic** interpolation.
# 2. Take the largest: **argmax**.
# 3. Pixel i has its middle at i + **1/2**. Box from 10 to 12.5: 3 pixels of 2.5/3; the middle one is at
#    10 + 1.5 · 2.5/3 = **11.25**.

# %% [markdown]
# *Bicubic*: a value between cells is a weighted sum of the four nearest ones along each axis, with weights that make a
# smooth curve through the cells. (Bilinear interpolation has its maximum always *on* a cell; a smooth curve can have it
# between two.) In matrices: `A @ map @ B.T`, one matrix an axis. The logit found there is the keypoint's *score*.

# %%
middle_one = np.zeros((1, 3, 3, 1))
middle_one[0, :, 1] = 5.0
answer = decode_keypoints(middle_one, np.array([[10.0, 0, 12.5, 2.5]]))[0, 0]
assert answer[0] == 11.25 == 10 + 1.5 * 2.5 / 3

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
cells = np.arange(8)


def peaks(truth_x):
    """A map of 8 cells with its peak at truth_x; the same stretched to 80 pixels; where each is largest, in cells."""
    bump = np.exp(-((cells + 0.5 - truth_x) ** 2) / 2)
    stretched = bicubic_matrix(8, 80) @ bump
    return bump, stretched, bump.argmax() + 0.5, (stretched.argmax() + 0.5) / 10


def draw_peak(axes, truth_x):
    """The map, the smooth curve through it, the truth and what is found."""
    bump, stretched, _, peak = peaks(truth_x)
    axes.bar(cells + 0.5, bump, 0.96, color=SKY, label="8 cells")
    axes.plot((np.arange(80) + 0.5) / 10, stretched, color=BLUE, linewidth=3, label="bicubic, 80 pixels")
    axes.axvline(truth_x, color="black", linestyle=":", linewidth=3, label=f"the truth, {truth_x:.2f}")
    axes.axvline(peak, color=ORANGE, linewidth=3, label=f"found, {peak:.2f}")
    axes.set(xlabel="cells of the map", ylabel="logit", ylim=(0, 1.1))


figure, axes = plt.subplots(figsize=(9, 3.4))
draw_peak(axes, 3.8)
axes.legend(loc="upper right")
_, _, of_cell, of_curve = peaks(3.8)
assert abs(of_curve - 3.8) < 0.15 < abs(of_cell - 3.8)  # the middle of the largest cell is 0.3 off
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The map has a cell of ten pixels here; the smooth curve finds the place better than a cell's middle. That is so where
# a box is larger than the map, as persons in photos are. Where the box is smaller than 56 pixels the "stretched" map
# has fewer places than the map itself, and something is lost: see below.

# %% [markdown]
# Move the truth: the largest cell stays or jumps, the curve's peak goes along.


# %% widget=True
def peak_at(truth=3.8):
    """One figure for one position of the slider."""
    axes = plt.subplots(figsize=(7, 3.6))[1]
    draw_peak(axes, truth)
    axes.set_title(f"largest cell {peaks(truth)[2]:.2f}, curve {peaks(truth)[3]:.2f}")
    plt.show()


try:
    from ipywidgets import FloatSlider, interact

    interact(peak_at, truth=FloatSlider(min=2.5, max=5.5, step=0.05, value=3.8))
except ImportError:  # no widgets installed
    peak_at()

# %% [markdown]
# Without a slider: three positions within one cell. The middle of the largest cell is 3.5 in all of them.

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 3, figsize=(11, 3.2), sharey=True)
for axes, truth in zip(panels, (3.1, 3.5, 3.9)):
    draw_peak(axes, truth)
    axes.set_title(f"truth {truth}: cell {peaks(truth)[2]}, curve {peaks(truth)[3]:.2f}", fontsize=13)
    assert peaks(truth)[2] == 3.5 and abs(peaks(truth)[3] - truth) < 0.15
plt.show()

# %% [markdown]
# ### Exercise 3: the simple way back
#
# Without stretching: the middle of the cell with the largest logit.


# %% exercise="keypoint_peak"
def my_keypoint_peak(logits, box):
    """The x, y in the picture, (2,), of the middle of the cell with the largest of logits (H, W) in box (4,)."""
    ### BEGIN SOLUTION
    height, width = logits.shape
    row, column = np.unravel_index(logits.argmax(), logits.shape)
    x1, y1, x2, y2 = box
    return np.array([x1 + (column + 0.5) * (x2 - x1) / width, y1 + (row + 0.5) * (y2 - y1) / height])
    ### END SOLUTION


# %% check="keypoint_peak"
check.keypoint_peak(my_keypoint_peak)

# %%
samples = [ToyScenes("test", seed=8, count=60)[i] for i in range(30)]
maps = [keypoint_logits(sample) for sample in samples]
decoded = [decode_keypoints(z, sample.boxes) for z, sample in zip(maps, samples)]
simple = [
    np.array([[my_keypoint_peak(z[g, :, :, k], s.boxes[g]) for k in range(8)] for g in range(len(z))])
    for z, s in zip(maps, samples)
]
truths = np.concatenate([sample.keypoints for sample in samples])  # (all animals, 8, 3)
decoded, simple = np.concatenate(decoded), np.concatenate(simple)
seen = truths[..., 2] == 2
found_by = {"bicubic": decoded, "largest cell": simple}
off = {name: np.linalg.norm((a[..., :2] - truths[..., :2])[seen], axis=-1) for name, a in found_by.items()}
for name, distance in off.items():
    print(f"{name:13} median distance {np.median(distance):.2f} pixels")
sizes = np.concatenate([s.boxes[:, 2:] - s.boxes[:, :2] for s in samples])
print(f"{(sizes < 56).mean():.0%} of the boxes' sides are below 56 pixels")
assert all(np.median(distance) < 1.5 for distance in off.values())

# %% [markdown]
# Half a pixel or so, either way. On these small animals stretching gains nothing: most boxes are smaller than the map,
# so the map is *shrunk* to whole pixels. The library does it all the same, as its trained relatives do (Detectron,
# torchvision), whose persons are large.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 How good is a pose? OKS
#
# Boxes and masks have the IoU. Keypoints have the *object keypoint similarity*:
#
# $$\text{OKS} = \operatorname{mean}_k \; \exp\left(-\frac{d_k^2}{2\, A\, (2 \sigma_k)^2}\right)$$
#
# $d_k$: distance in pixels. $A$: area of the object. $\sigma_k$: how exactly people place this keypoint.

# %% [markdown]
# **By hand.** An animal of area A = 50 · 50 = 2500, an eye ($\sigma$ = 0.025) found d = 2.5 pixels off:
# 2 · 2500 · 0.05² = 12.5, and exp(-6.25 / 12.5) = exp(-0.5) = **0.61**.
# A hip ($\sigma$ = 0.107) as far off: 2 · 2500 · 0.214² = 229, exp(-6.25 / 229) = **0.97**.
#
# COCO measured the sigmas: several people placed the same keypoints, and eyes varied least, hips most. Only labeled
# keypoints count, hidden ones too. Where OKS reaches a threshold (0.50 to 0.95) the pose is a match; from there on AP
# is computed as for boxes (notebook 14), with OKS in the place of IoU.

# %%
assert round(np.exp(-(2.5**2) / (2 * 2500 * (2 * 0.025) ** 2)), 2) == 0.61
assert round(np.exp(-(2.5**2) / (2 * 2500 * (2 * 0.107) ** 2)), 2) == 0.97
sigmas = np.array(ToyScenes.keypoint_sigmas)
assert sigmas[[1, 4]].tolist() == [0.025, 0.107]  # our eyes and backs have COCO's numbers for eyes and hips

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
area = float(scene.masks[CAT].sum())
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.9), width_ratios=[1, 1.25])
left.imshow(scene.image[y1:y2, x1:x2], extent=(x1, x2, y2, y1), alpha=0.6)
for k, (x, y, _) in enumerate(scene.keypoints[CAT]):
    radius = 2 * sigmas[k] * np.sqrt(2 * area * np.log(2))  # here exp(...) is 1/2
    left.add_patch(Circle((x, y), radius, fill=False, color=(ORANGE if k in (1, 2) else BLUE), linewidth=2.5))
left.set(xticks=[], yticks=[], title="circles: similarity 0.5")
distance = np.linspace(0, 15, 200)
for name, k, color in (("eye", 1, ORANGE), ("chest", 3, GREEN), ("back", 4, BLUE)):
    curve = np.exp(-(distance**2) / (2 * area * (2 * sigmas[k]) ** 2))
    right.plot(distance, curve, color=color, linewidth=4, label=f"{name}, {sigmas[k]}")
right.set(xlabel="pixels off", ylabel="similarity", title=f"area {area:.0f} pixels")
right.legend(title="sigma")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The circles show how tolerant the measure is. Two pixels decide over an eye of this cat; a back may be ten pixels off.
# For an animal twice as large each circle is twice as large: A is an area, so its root is a length.

# %% [markdown]
# ### Exercise 4: OKS


# %% exercise="oks"
def my_oks(found, truth, area, sigmas):
    """The mean similarity over the labeled keypoints of truth (K, 3), of found (K, 3), sigmas (K,): a number.

    At least one keypoint is labeled (visibility 1 or 2).
    """
    ### BEGIN SOLUTION
    squared = ((found[:, :2] - truth[:, :2]) ** 2).sum(axis=1)
    similarity = np.exp(-squared / (2 * area * (2 * sigmas) ** 2))
    return similarity[truth[:, 2] > 0].mean()
    ### END SOLUTION


# %% check="oks"
check.oks(my_oks)

# %% [markdown]
# COCO's own program, pycocotools, for the cat and what the model found of it:


# %% tags=["hide-input"]
def oks_of_coco(found, truth, area, sigmas):
    """What pycocotools gives for one object in one image."""
    entry = dict(id=1, image_id=1, category_id=1, iscrowd=0, area=area, bbox=[0, 0, 1, 1], num_keypoints=len(truth))
    both = [COCO(), COCO()]
    for coco, points in zip(both, (truth, found)):
        annotation = dict(entry, keypoints=points.ravel().tolist(), score=1.0)
        coco.dataset = dict(images=[dict(id=1)], categories=[dict(id=1)], annotations=[annotation])
        coco.createIndex()
    scoring = COCOeval(*both, "keypoints")
    scoring.params.kpt_oks_sigmas = sigmas
    scoring.evaluate()
    return scoring.ious[1, 1][0, 0]


# %%
best = box_ops.iou(scene.boxes[[CAT]], found.boxes)[0].argmax()
with contextlib.redirect_stdout(io.StringIO()):
    theirs = oks_of_coco(found.keypoints[best], scene.keypoints[CAT], area, sigmas)
mine = my_oks(found.keypoints[best], scene.keypoints[CAT], area, sigmas)
print(f"OKS of the cat's pose: {mine:.3f}, pycocotools {theirs:.3f}")
assert abs(mine - theirs) < 1e-6 and mine > 0.5

# %% [markdown] slideshow={"slide_type": "slide"}
# ### AP of boxes, masks and keypoints, on scenes that the model never saw

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
scores = evaluate(model, ToyScenes("test", seed=8, count=40), progress=False)
assert set(scores) == {"bbox", "segm", "keypoints"} and scores["keypoints"]["AP50"] > 0.5
figure, axes = plt.subplots(figsize=(9, 3.8))
for shift, (kind, color, name) in enumerate(
    (("bbox", SKY, "boxes"), ("segm", BLUE, "masks"), ("keypoints", ORANGE, "keypoints (OKS)"))
):
    values = [100 * scores[kind][number] for number in ("AP50", "AP75", "AP")]
    axes.bar_label(axes.bar(np.arange(3) + 0.27 * shift, values, 0.25, color=color, label=name), fmt="%.0f")
axes.set_xticks(np.arange(3) + 0.27, ["AP50", "AP75", "AP"])
axes.set(ylim=(0, 118), ylabel="average precision")
axes.legend(ncols=3, loc="upper center")
plt.show()

# %% [markdown]
# The paper on persons (COCO, ResNet-50-FPN): what one branch does to the others, and what RoIAlign does.

# %%
PAPER = {  # He et al. 2017, table 5: AP of persons' boxes, masks, keypoints, by which branches were trained
    "box": (52.5, None, None),
    "box, mask": (53.6, 45.8, None),
    "box, keypoints": (50.7, None, 64.2),
    "box, mask, keypoints": (52.0, 45.1, 64.7),
}
ROI = {"RoIPool": 59.8, "RoIAlign": 64.2}  # table 6: AP of keypoints
for name, values in PAPER.items():
    print(f"{name:22}", "  ".join(f"{v:5}" if v else "    -" for v in values))
assert round(PAPER["box, mask, keypoints"][2] - PAPER["box, keypoints"][2], 1) == 0.5  # masks help keypoints a little
assert PAPER["box, mask, keypoints"][1] < PAPER["box, mask"][1]  # but not the other way round
assert round(ROI["RoIAlign"] - ROI["RoIPool"], 1) == 4.4  # keypoints are very sensitive to alignment

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 Left and right in a mirrored picture
#
# Training mirrors half of the pictures. A place moves: x becomes W - x. **And names change**: what was the left eye is
# now a right eye.

# %%
order = flip_order(KEYPOINTS)
assert [KEYPOINTS[k] for k in order[[1, 2]]] == ["right_eye", "left_eye"] and order[0] == 0
assert PERSON_KEYPOINTS[flip_order(PERSON_KEYPOINTS)[5]] == "right_shoulder"
mirrored, wrong = flip(scene, order), flip(scene)  # with the exchange, without
assert np.allclose(flip(mirrored, order).keypoints, scene.keypoints, atol=1e-4)  # twice: as before

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 3, figsize=(10, 4.2))
for axes, sample, title in zip(
    panels, (scene, mirrored, wrong), ("as it is", "mirrored,\nnames exchanged", "mirrored,\nnames kept: wrong")
):
    axes.imshow(sample.image)
    for k, color, name in ((1, ORANGE, "left"), (2, BLUE, "right"), (6, ORANGE, "left"), (7, BLUE, "right")):
        x, y, _ = sample.keypoints[CAT, k]
        axes.plot(x, y, "o", color=color, markeredgecolor="white", markersize=12, label=name if k < 3 else None)
    left, top, right, bottom = sample.boxes[CAT]
    axes.set(xlim=(max(left - 4, 0), min(right + 4, 128)), ylim=(127, top - 4), xticks=[], yticks=[], title=title)
panels[0].legend(loc="upper left", fontsize=12)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# "Left" is the animal's or the person's left. Seen from the front the left eye is on the right of the picture; in the
# mirrored picture the eye on the right side is again what anybody would call a left eye. A network that is trained with
# names kept learns that left and right are the same thing, and puts both eyes into both maps, half and half.

# %% [markdown]
# Does the trained model know? Mirror a picture, find keypoints in it, mirror them back: they must be where they were,
# if the names are exchanged, and only then.
#
# ### Exercise 5: mirror keypoints


# %% exercise="mirror_keypoints"
def my_mirror_keypoints(keypoints, width, order):
    """The keypoints (K, 3) of the mirrored picture; order (K,): the old number of each; not labeled stays 0, 0, 0."""
    ### BEGIN SOLUTION
    mirrored = keypoints[order].copy()
    labeled = mirrored[:, 2] > 0
    mirrored[labeled, 0] = width - mirrored[labeled, 0]
    return mirrored
    ### END SOLUTION


# %% check="mirror_keypoints"
check.mirror_keypoints(my_mirror_keypoints)

# %%
np.testing.assert_allclose(my_mirror_keypoints(scene.keypoints[CAT], 128, order), mirrored.keypoints[CAT])
distances = {"exchanged": [], "kept": []}
for sample in samples[:15]:
    there = flip(sample, order)
    points = decode_keypoints(keypoint_logits(there), there.boxes)
    points[..., 0] = 128 - points[..., 0]
    both_eyes = (sample.keypoints[:, 1:3, 2] == 2).all(axis=1)
    for name, back in (("exchanged", points[:, order]), ("kept", points)):
        distances[name] += np.linalg.norm((back - sample.keypoints)[both_eyes, 1:3, :2], axis=-1).ravel().tolist()
for name, d in distances.items():
    print(f"eyes, names {name:10} median distance {np.median(d):.1f} pixels")
assert np.median(distances["exchanged"]) < 2 < np.median(distances["kept"])

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 Hidden keypoints, and absent ones
#
# - Visibility 1, **hidden**: it has a place, and is learned. The network guesses from the rest.
# - Visibility 0, **not labeled**: it is not learned, no loss, no gradient.
# - The softmax always adds up to 1, so **every** keypoint gets a place. Its score tells how sure.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
score = decoded[..., 2]
figure, axes = plt.subplots(figsize=(9, 3.8))
means = []
for visibility, color, name in ((2, GREEN, "2 seen"), (1, ORANGE, "1 hidden"), (0, RED, "0 not labeled")):
    values = score[truths[..., 2] == visibility]
    means.append(np.median(values))
    label = f"{name}: {len(values)}, median {means[-1]:.1f}"
    axes.hist(values, np.arange(-8, 30, 2), density=True, alpha=0.6, color=color, label=label)
axes.axvline(draw.SURE, color="black", linestyle="--", linewidth=3, label=f"drawn above {draw.SURE:.0f}")
axes.set(xlabel="score: the logit at the place found", ylabel="share", yticks=[])
axes.legend()
assert means[0] > means[1] > means[2]
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The score is a logit, not a probability. Nothing in the loss forces it to be low for absent keypoints, for a softmax
# does not change if all logits of a map are lowered together; it comes out like that because maps without evidence have
# no peak. So a threshold on it (2, as in Detectron) is a habit that works, not a law. And AP does not look at it: COCO
# ranks poses by the score of the box.

# %% [markdown]
# ## 8 Common misconceptions
#
# ### "The keypoint branch says that a keypoint is not there"
#
# It cannot. Give it a map without any evidence, all logits equal: it answers all the same.

# %%
nothing = decode_keypoints(np.zeros((1, 56, 56, 1), np.float32), np.array([[10.0, 20, 38, 48]], np.float32))[0, 0]
print("a place for nothing:", nothing)
assert (nothing[:2] == [10.5, 20.5]).all()  # the first pixel of the box

shifted = logits - 100.0  # all logits lower: the same probabilities, the same loss
np.testing.assert_allclose(my_softmax_place_loss(shifted, place[0, 0], visible[0, 0]), loss, rtol=1e-4)

# %% [markdown]
# ### "A keypoint outside of the box can still be found"
#
# The map ends where the box ends. Cut the cat's box at its nose, and the feet are looked for in the upper part.

# %%
cut = scene.boxes[[CAT]].copy()
cut[0, 3] = scene.keypoints[CAT, 0, 1] + 10
_, learned = keypoint_targets(scene.keypoints[None], cut[None], np.array([[CAT]]))
print("can be learned:", [name for name, yes in zip(KEYPOINTS, learned[0, 0]) if yes])
feet = decode_keypoints(np.moveaxis(one_hot, 0, -1)[None].astype(np.float32), cut)[0, 6:]
assert not learned[0, 0, 6:].any() and (feet[:, 1] <= cut[0, 3]).all()

# %% [markdown]
# ### "The corner of the cell is good enough"
#
# Without the half, everything is found half a cell too far left and up: in a box of 280 pixels 2.5 pixels, and for an
# eye of a small animal that is the difference between right and wrong.

# %%
wide = np.array([0.0, 0.0, 280.0, 280.0])
peaked = one_hot[0].astype(float)
row, column = np.argwhere(peaked)[0]
error = my_keypoint_peak(peaked, wide) - np.array([column, row]) * 5.0
assert error.tolist() == [2.5, 2.5]

# %% [markdown]
# ### "More pixels off is worse"
#
# Not by itself: OKS divides by the area. 3 pixels off in a large animal is better than 1 pixel off in a small one.

# %%
eye, sigma = np.array([[50.0, 50.0, 2.0]]), np.array([0.025])
large = my_oks(eye + [3.0, 0, 0], eye, area=100.0**2, sigmas=sigma)
small = my_oks(eye + [1.0, 0, 0], eye, area=20.0**2, sigmas=sigma)
print(f"3 pixels off at 100 x 100: {large:.2f}; 1 pixel off at 20 x 20: {small:.2f}")
assert large > small

# %% [markdown]
# The library's loss, for reading:

# %%
print(inspect.getsource(keypoint_loss))
assert len(PERSON_SKELETON) == 19  # the lines that a drawing of a person's pose has

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Recap
#
# 1. A keypoint is a one-hot mask of 56 x 56; a human pose is 17 of them; box, mask and keypoint share one framework.
# 2. Target: floor((x - x1) · 56 / w). Only labeled keypoints inside the box are learned, hidden ones too.
# 3. Loss: one softmax over 3136 places, ln 3136 = 8.05 at the start. It says "exactly one place".
# 4. Back: stretch, argmax, plus half a pixel. Every keypoint gets a place; its score says how sure.
# 5. OKS takes the place of IoU: distance in terms of the object's size and of how exactly people see that keypoint.

# %% [markdown]
# ## Quiz
#
# 1. A box from x = 10 to 38, 56 cells. In which cell is x = 24.0? And x = 38?
# 2. Why is the loss 8.05 before training?
# 3. Masks use a sigmoid, keypoints a softmax. Over what is the softmax, and why?
# 4. Why are the maps 56 x 56 where masks have 28 x 28?
# 5. The box is 112 pixels wide. How far off is a one-hot target at most, along x?
# 6. What becomes of a keypoint with visibility 1 in training? With visibility 0?
# 7. An eye is found 5 pixels off in an animal of 100 x 100 pixels. What is its similarity (sigma 0.025)?
# 8. You mirror pictures and forget to exchange the names. What do the heat maps of both eyes look like afterwards?
# 9. A dog stands behind a wall, only its head is seen. How many keypoints does the branch give, and how do you choose?
# 10. Why did RoIAlign gain 4.4 points of keypoint AP over RoIPool?
#
# <details><summary>Answers</summary>
#
# 1. floor(14 · 2) = 28; the last, 55.
# 2. All places are equal, p = 1/3136, and -ln(1/3136) = 8.05.
# 3. Over the places of one keypoint's map: exactly one place is right, so places compete.
# 4. A place must be finer than an outline; the paper found 28 to be too coarse for keypoints.
# 5. A cell is 2 pixels; from its middle to its border: 1 pixel.
# 6. Learned like one that is seen. Not learned: no loss and no gradient.
# 7. exp(-25 / (2 · 10000 · 0.0025)) = exp(-0.5) = 0.61.
# 8. Both have two peaks, at both eyes, each with about half of the probability.
# 9. All of them. By the score: those above a threshold are drawn.
# 10. A keypoint is one place; half a cell of rounding moves it by many pixels. Nothing averages that away.
#
# </details>
