# %% [markdown] slides=["L18", "T11"] slideshow={"slide_type": "slide"}
# # 10 The mask head: one small picture for each class (L18, T11)
#
# **Question.** The box head (notebook 09) says: in this box there is a dog. **Which points of the box are the dog?**
#
# - The box head answers with 1 class and 4 numbers.
# - The mask head answers with 28 x 28 numbers, for each class.
# - They work in parallel (L18), and the answer stays aligned pixel to pixel (T11).

# %% [markdown] slideshow={"slide_type": "notes"}
# Ask first: how would you make a network draw? Most will say "a layer with 784 outputs". That is the wrong answer of
# section 4, and it is worth having it in the room early. What to learn from is section 8; the loss is notebook 11; how
# 28 x 28 numbers become pixels of a photo is notebook 13.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

import minimask
from minimask import boxes as box_ops
from minimask import check, draw, mask_rcnn, nn
from minimask.convolution import conv2d, conv_transpose2d
from minimask.datasets.toy import ToyScenes
from minimask.device import generator
from minimask.losses import mask_loss
from minimask.mask_head import (
    FCNMaskHead,
    MaskPredictor,
    MLPMaskHead,
    mask_probabilities,
    mask_targets,
    paste_masks,
)
from minimask.optim import AdamW
from minimask.roi_align import bilinear, sampling_points
from minimask.tensor import Tensor, no_grad
from minimask.trace import Trace

plt.rcParams.update({"figure.figsize": (9, 4.5), "figure.dpi": 100, "font.size": 14})
plt.rcParams["figure.constrained_layout.use"] = True
ORANGE, SKY, RED, YELLOW, BLUE, PURPLE, GREEN = draw.COLORS[:7] / 255

# %% [markdown]
# **Words of this notebook**
#
# - *RoI*: a box in the picture; its *features* are the `k x k x C` numbers that RoIAlign reads for it (notebook 08).
# - *Head*: a small network that answers a question about each RoI from its features.
# - *Cell*: one place of a map, with its `C` numbers, the *channels*.
# - *Logit*: any number, from minus to plus infinity; the *sigmoid* 1 / (1 + e^-z) makes a probability of a logit z.
# - *FCN*, fully convolutional network: a network of convolutions alone. *MLP*, multi-layer perceptron: a network of
#   fully connected layers, in which every output number reads every input number.
# - *Mask*: for each pixel, or cell, whether it belongs to the object; *soft*, if it is a probability.
# - *IoU* of two masks: pixels in both, divided by pixels in at least one (for boxes: notebook 05).
# - *AP*, average precision: how good the found masks are, 0 to 100 (notebook 14); AP50 is mild, AP75 strict.
#
# We use a small Mask R-CNN that was trained on drawn cats, dogs and ducks. Its mask head is the paper's with 64
# channels instead of 256.

# %%
model = minimask.load("toy")
class_names = model.class_names
model.eval()
NAMES = ["bg", *class_names]  # label 0 is the background
HEADS = model.roi_heads
assert NAMES == ["bg", "cat", "dog", "duck"]  # L20


def roi_features(scene, boxes):
    """What the mask head reads for boxes (R, 4) of a scene: (R, 14, 14, 64)."""
    batch = model.transform([scene.image])
    which_image = np.zeros(len(boxes), int)
    with no_grad():
        return model.pool(model.features(Tensor(batch.images)), boxes, which_image, model.roi.mask_size, "mask")


def mask_logits(scene, boxes):
    """What the mask head says of boxes (R, 4) of a scene: (R, 28, 28, 4), a logit for each class."""
    with no_grad():
        return model.mask_branch(roi_features(scene, boxes)).data


def mask_iou(a, b):
    """Pixels in both masks, divided by pixels in at least one."""
    return (a & b).sum() / max((a | b).sum(), 1)


# %% [markdown]
# For the figures: of each class one animal that the network draws well, from 24 scenes that it has not seen.

# %% tags=["hide-input"]
scenes = [ToyScenes("test", seed=10)[i] for i in range(24)]
every_logits = [mask_logits(scene, scene.boxes) for scene in scenes]  # at the true boxes
best = {}
for scene, logits in zip(scenes, every_logits):
    soft = mask_probabilities(logits, scene.labels)
    found = paste_masks(soft, scene.boxes, 128, 128, whole_pixels=False)
    for g, (label, box) in enumerate(zip(scene.labels.tolist(), scene.boxes)):
        overlap = mask_iou(found[g], scene.masks[g] > 0)
        if (box[2:] - box[:2]).min() >= 24 and overlap > best.get(label, (0,))[0]:
            best[label] = overlap, scene, g
for label in (1, 2, 3):
    overlap, scene, g = best[label]
    print(f"{NAMES[label]:4} of {scene.name}, box {scene.boxes[g].astype(int)}, IoU with the truth {overlap:.2f}")
assert sorted(best) == [1, 2, 3] and min(b[0] for b in best.values()) > 0.6


def window(axes, scene, box, margin=6):
    """The scene around a box."""
    axes.imshow(scene.image, extent=(0, 128, 128, 0))
    axes.set(xlim=(box[0] - margin, box[2] + margin), ylim=(box[3] + margin, box[1] - margin), xticks=[], yticks=[])


def outline(axes, box, color, style="-"):
    size = box[2] - box[0], box[3] - box[1]
    axes.add_patch(Rectangle(box[:2], *size, fill=False, edgecolor=color, linewidth=3, linestyle=style))


# %% [markdown] slides=["L18"] slideshow={"slide_type": "slide"}
# ## 1 In parallel, in the spirit of Fast R-CNN (L18)
#
# Fast R-CNN put several stages into one network. Mask R-CNN adds **one more head beside the others**:

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(10, 4.2))


def block(x, y, text, color, width=1.75, height=0.9):
    axes.add_patch(Rectangle((x, y - height / 2), width, height, facecolor=color, edgecolor="black", linewidth=2))
    axes.text(x + width / 2, y, text, ha="center", va="center", fontsize=16)


def arrow(start, end):
    axes.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", linewidth=3, color="black"))


block(0, 0, "backbone,\nFPN", "white")
block(2.3, 0, "RPN:\nRoIs", "white")
for y, size, head, answer, color in (
    (1, "7 x 7", "box head", "class\nbox", SKY),
    (-1, "14 x 14", "mask head", "28 x 28 for\neach class", ORANGE),
):
    block(4.6, y, f"RoIAlign\n{size}", "white")
    block(6.9, y, head, color)
    block(9.2, y, answer, "white")
    arrow((4.05, 0), (4.6, y))
    arrow((6.35, y), (6.9, y))
    arrow((8.65, y), (9.2, y))
arrow((1.75, 0), (2.3, 0))
axes.set(xlim=(-0.1, 11.1), ylim=(-1.8, 1.8), xticks=[], yticks=[])
axes.axis("off")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Earlier methods (MNC, FCIS) found masks first and classified them afterwards, or made the class from the mask, and
# had trouble where objects overlap. Here neither head waits for the other, neither reads the other's answer. In
# training both work on the same RoIs. At inference the mask head may wait, because it is cheaper: only the boxes that
# are left at the end get a mask, and these boxes fit better than the proposals did.

# %% [markdown]
# Is it so in the code? We look at every stage of one prediction (notebook 00 introduces `Trace`), then at which
# numbers the mask loss can change.

# %%
scene = best[2][1]
with Trace() as stages:
    model.predict([scene.image])
for name in ("box_features", "class_logits", "box_deltas", "mask_features", "mask_logits", "mask_probabilities"):
    print(f"{name:20} {stages[name].shape}")
found, proposed = stages["mask_features"].shape[0], stages["box_features"].shape[0]
assert found < proposed  # masks for what is found, not for all that was proposed
assert stages["box_features"].shape[1:3] == (7, 7) and stages["mask_features"].shape[1:3] == (14, 14)

batch, zero = model.transform([scene.image]), np.zeros(1, int)
x = model.pool(model.features(Tensor(batch.images)), scene.boxes[:1], zero, 14, "mask")
logits = model.mask_branch(x)
mask_loss(logits, scene.labels[:1], np.ones((1, 28, 28), np.float32), np.array([True])).backward()
reached = [name.removeprefix("roi_heads.") for name, p in model.named_parameters() if p.grad is not None]
reached = {name.split(".")[0] for name in reached}
print("the gradient of the mask loss reaches:", *sorted(reached))
assert reached == {"backbone", "mask_head", "mask_predictor"}  # not the box head
for p in model.parameters():
    p.grad = None

# %% [markdown] slides=["L21", "L23", "L25"] slideshow={"slide_type": "slide"}
# ## 2 The whole head (L21, L23, L25)
#
# Four convolutions (L21), one deconvolution (L23), one 1x1 convolution (L25). Nothing else.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(12, 4.2))
stages_of_head = [("RoI", 14, "C"), *[("", 14, "256")] * 4, ("", 28, "256"), ("logits", 28, "classes")]
steps = ["3x3\nReLU"] * 4 + ["deconv\n2x2, stride 2\nReLU", "1x1"]
x = 0.0
for i, (name, side, channels) in enumerate(stages_of_head):
    size = side / 14
    color = ORANGE if i == 6 else "lightgray" if i == 0 else SKY
    for depth in (0.2, 0.1, 0):
        axes.add_patch(Rectangle((x + depth, -size / 2 - depth), size, size, facecolor=color, edgecolor="black"))
    axes.text(x + size / 2, -size / 2 - 0.5, f"{side} x {side}\nx {channels}", ha="center", va="top", fontsize=15)
    axes.text(x + size / 2, 0, name, ha="center", va="center")
    if i < 6:
        wide = 2.1 if i == 4 else 0.95
        axes.text(x + size + 0.18 + wide / 2, 0.25, steps[i], ha="center", fontsize=13)
        start, end = (x + size + 0.22, 0), (x + size + wide + 0.15, 0)
        axes.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", linewidth=3))
    x += size + (2.3 if i == 4 else 1.15)
axes.set(xlim=(-0.1, x - 0.6), ylim=(-2.4, 1.9))
axes.axis("off")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Read from left to right. A 3x3 convolution with a border of zeros keeps 14 x 14 (notebook 02). Only the deconvolution
# changes the grid. At no point does the grid disappear: every blue square is still a picture of the RoI. This is the
# head for an FPN backbone (He et al. 2017, figure 4, right).

# %% [markdown]
# **One number by hand.** The first convolution of the paper's head has 3 · 3 · 256 weights for each of its 256
# channels, and 256 biases: 589 824 + 256 = **590 080** numbers to learn. The library's head has the same:

# %%
paper_head = FCNMaskHead(256), MaskPredictor(256, 256, num_classes=81)  # COCO: 80 classes and the background


def count(*modules):
    """How many numbers modules learn."""
    return sum(p.size for module in modules for p in module.parameters())


for name, p in [*paper_head[0].named_parameters(), *paper_head[1].named_parameters()]:
    print(f"{name:26} {str(p.shape):18} {p.size:9,}")
print(f"{'together':45} {count(*paper_head):9,}")
assert 3 * 3 * 256 * 256 + 256 == 590_080 == count(paper_head[0][0])

with no_grad():
    a_roi = Tensor(np.zeros((1, 14, 14, 256), np.float32))
    assert paper_head[0](a_roi).shape == (1, 14, 14, 256)  # L21: the grid stays
    assert paper_head[1](paper_head[0](a_roi)).shape == (1, 28, 28, 81)  # L23, L25

# %% [markdown]
# ### Exercise 1: how many numbers does a mask head learn?
#
# - `in_channels`: channels of the RoI features; `channels`: of each 3x3 convolution, such as `(256, 256, 256, 256)`.
# - `width`: channels of the 2x2 deconvolution; `num_classes`: of the 1x1 convolution, with the background.
#
# Every layer has a bias for each channel that it makes. The deconvolution's weights are `(2, 2, in, width)`.


# %% exercise="mask_head_size"
def my_mask_head_size(in_channels, channels, width, num_classes):
    """The number of weights and biases of a mask head: 3x3 convolutions, a 2x2 deconvolution, a 1x1 convolution."""
    ### BEGIN SOLUTION
    total = 0
    for out_channels in channels:
        total += 3 * 3 * in_channels * out_channels + out_channels
        in_channels = out_channels
    total += 2 * 2 * in_channels * width + width
    return total + width * num_classes + num_classes
    ### END SOLUTION


# %% check="mask_head_size"
check.mask_head_size(my_mask_head_size)

# %%
assert my_mask_head_size(256, (256,) * 4, 256, 81) == count(*paper_head) == 2_643_537
assert my_mask_head_size(64, (64,) * 4, 64, 4) == count(HEADS.mask_head, HEADS.mask_predictor)  # the toy model's

# %% [markdown] slides=["L21"] slideshow={"slide_type": "slide"}
# ## 3 Convolution x 4 (L21)
#
# One 3x3 convolution sees 1 cell around. Four in a row see 4: **9 x 9** of the 14 x 14 cells.

# %% [markdown]
# By hand: 1 + 2 + 2 + 2 + 2 = 9, for each convolution adds a cell on both sides. In code we send a gradient of 1 back
# from one cell (notebook 01) through convolutions whose weights are all 1, and count the cells where it arrives.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 4, figsize=(11, 3.4))
for depth, axes in enumerate(panels, start=1):
    head = FCNMaskHead(1, (1,) * depth)
    for name, p in head.named_parameters():
        p.data[:] = 1.0 if name.endswith("weight") else 0.0
    x = Tensor(np.ones((1, 14, 14, 1), np.float32), requires_grad=True)
    gy = np.zeros((1, 14, 14, 1), np.float32)
    gy[0, 7, 7] = 1
    head(x).backward(gy)
    seen = x.grad[0, :, :, 0] > 0
    side = int(seen.any(axis=0).sum())
    assert side == 1 + 2 * depth and seen.sum() == side**2
    axes.imshow(np.where(seen[..., None], SKY, 1.0), extent=(0, 14, 14, 0))
    axes.add_patch(Rectangle((7, 7), 1, 1, color=RED))
    axes.set(xticks=range(15), yticks=range(15), title=f"{depth}: {side} x {side}")
    axes.set_xticklabels([])
    axes.set_yticklabels([])
    axes.grid(color="gray", linewidth=0.8)
    axes.tick_params(length=0)
assert side == 9
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Blue: what the red cell reads, after one, two, three and four convolutions. 9 of 14 cells is two thirds of the box:
# enough to see a neck from the ear. And each cell of the RoI features has itself seen a large part of the picture,
# because the backbone came before. The cells outside the grid are the zeros of the padding.

# %% [markdown] slides=["L19"] slideshow={"slide_type": "slide"}
# ## 4 Keep the layout: an FCN, not a vector (L19)
#
# The other way: make one long **vector** of the RoI features, and use fully connected layers.

# %% [markdown]
# That is an MLP. It can draw anything. What it costs, for the paper's sizes (He et al. 2017, table 2e, has two hidden
# layers of 1024):

# %%
features_of_roi = 14 * 14 * 256
mlp_numbers = (features_of_roi + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * 28 * 28 * 81
assert features_of_roi == 50_176
small_mlp = MLPMaskHead(14 * 14 * 2, 8, num_classes=3)  # the same formula, for one that is quickly made
assert count(small_mlp) == (14 * 14 * 2 + 1) * 8 + (8 + 1) * 8 + (8 + 1) * 28 * 28 * 3
times = mlp_numbers / count(*paper_head)
print(f"FCN {count(*paper_head):,}, MLP {mlp_numbers:,}: {times:.0f} times as many")
assert round(times) == 44

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
TABLE_2E = {"MLP": (31.5, 53.7, 32.8), "FCN": (33.6, 55.2, 35.3)}  # ResNet-50-FPN on COCO: AP, AP50, AP75
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), width_ratios=[1, 1.5])
bars = left.bar(["MLP", "FCN"], [mlp_numbers / 1e6, count(*paper_head) / 1e6], color=[RED, BLUE])
left.bar_label(bars, [f"{mlp_numbers / 1e6:.0f} million", f"{count(*paper_head) / 1e6:.1f} million"])
left.set(title="numbers to learn", ylim=(0, 135), yticks=[])
for i, (name, color) in enumerate([("MLP", RED), ("FCN", BLUE)]):
    bars = right.bar(np.arange(3) + 0.4 * i - 0.2, TABLE_2E[name], 0.38, color=color, label=name)
    right.bar_label(bars)
right.set_xticks(range(3), ["AP", "AP50", "AP75"])
right.set(title="He et al. 2017, table 2e", ylim=(0, 75), yticks=[])
right.legend(ncols=2, loc="upper left")
assert round(TABLE_2E["FCN"][0] - TABLE_2E["MLP"][0], 1) == 2.1
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# 44 times as many numbers to learn, and 2.1 AP worse (AP: notebook 14). More layers in the MLP do not help: the
# paper's second MLP also has 31.5. What is missing is not size. The next slide shows what it is.

# %% [markdown] slides=["L19", "T11"] slideshow={"slide_type": "slide"}
# ### What the MLP loses: the input shifts by one cell (L19, T11)
#
# Both learn to draw ellipses **in the middle**. Then the ellipse moves, cell by cell.

# %% [markdown]
# First without any learning. Shift the RoI features by one cell: the FCN's answer shifts by two cells of its grid,
# which is twice as fine, and is otherwise **the same number for number**, apart from the border. The word for that is
# *equivariant*: shift, then compute, is compute, then shift. An MLP with other weights for every place has no reason
# to do so.

# %%
nn.seed_initializers(0)
fcn = nn.Sequential(FCNMaskHead(1, (8, 8, 8, 8)), MaskPredictor(8, 8, 1))
mlp = MLPMaskHead(14 * 14, 64, 1)
rng = np.random.default_rng(0)
x = rng.standard_normal((1, 14, 14, 1)).astype(np.float32)
inner = (slice(None), slice(10, 18), slice(12, 18))  # so far from the border that the padding is not seen
for name, net in (("FCN", fcn), ("MLP", mlp)):
    with no_grad():
        before, after = net(Tensor(x)).data, net(Tensor(np.roll(x, 1, axis=2))).data
    off = abs(after - np.roll(before, 2, axis=2))[inner].max() / abs(before[inner]).max()
    print(f"{name}: shifted input and shifted output differ by {100 * off:.5f} % of the largest number")
    assert (off < 1e-4) == (name == "FCN")

# %% [markdown]
# Now with learning: both nets see 150 batches of 16 noisy ellipses whose middle lies in the middle of the 14 x 14
# cells, and learn the 28 x 28 mask with the loss of notebook 11 and the optimizer AdamW of notebook 12.


# %%
def ellipses(rng, count, shift=0):
    """Noisy 14 x 14 features of ellipses `shift` cells right of the middle, and their 28 x 28 masks."""
    x, masks = np.empty((count, 14, 14, 1), np.float32), np.empty((count, 28, 28), np.float32)
    place = (np.arange(28) + 0.5) / 2 - 7  # of the mask's cells, in cells of the features
    for i in range(count):
        (a, b), turn, (x0, y0) = rng.uniform(2, 3.5, 2), rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5, 2)
        right, down = np.meshgrid(place - x0 - shift, place - y0)
        u, v = np.cos(turn) * right + np.sin(turn) * down, np.cos(turn) * down - np.sin(turn) * right
        masks[i] = (u / a) ** 2 + (v / b) ** 2 <= 1
        x[i, :, :, 0] = masks[i].reshape(14, 2, 14, 2).mean((1, 3)) + 0.3 * rng.standard_normal((14, 14))
    return x, masks


for net in (fcn, mlp):
    rng, optimizer = np.random.default_rng(1), AdamW(net.parameters(), lr=3e-3)
    for _ in range(150):
        x, masks = ellipses(rng, 16)
        loss = mask_loss(net(Tensor(x)), np.zeros(16, int), masks, np.ones(16, bool))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def drawn(net, x):
    """The masks (R, 28, 28) that a net draws: where its logit is at least 0."""
    with no_grad():
        return net(Tensor(x)).data[..., 0] >= 0


shifts, quality = range(5), {"FCN": [], "MLP": []}
for shift in shifts:
    x, masks = ellipses(np.random.default_rng(2), 60, shift)
    for name, net in (("FCN", fcn), ("MLP", mlp)):
        quality[name].append(np.mean([mask_iou(a, b > 0) for a, b in zip(drawn(net, x), masks)]))
for name, net in (("FCN", fcn), ("MLP", mlp)):
    print(f"{name}: {count(net):6,} numbers learned, IoU by shift", np.round(quality[name], 2))
assert max(quality["FCN"]) - min(quality["FCN"]) < 0.05 and min(quality["FCN"]) > 0.7
assert quality["MLP"][0] > 0.7 and quality["MLP"][1] < quality["MLP"][0] - 0.03 and quality["MLP"][4] < 0.4

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure = plt.figure(figsize=(11, 4.4))
left, right = figure.subfigures(1, 2, width_ratios=[1.25, 1])
panels = left.subplots(3, 4)
for column, shift in enumerate((0, 1, 2, 4)):
    x, masks = ellipses(np.random.default_rng(5), 1, shift)
    pictures = x[0, :, :, 0], drawn(fcn, x)[0], drawn(mlp, x)[0]
    for row, (axes, picture) in enumerate(zip(panels[:, column], pictures)):
        axes.imshow(picture, cmap="Grays", extent=(0, 28, 28, 0), vmin=0, vmax=1.3)
        if row:
            axes.contour(np.arange(28) + 0.5, np.arange(28) + 0.5, masks[0], [0.5], colors=[ORANGE], linewidths=3)
        axes.set(xticks=[], yticks=[])
    panels[0, column].set_title(f"shift {shift}")
for axes, name in zip(panels[:, 0], ("input", "FCN", "MLP")):
    axes.set_ylabel(name)
axes = right.subplots()
for (name, values), color, style in zip(quality.items(), (BLUE, RED), ("o-", "s--")):
    axes.plot(shifts, values, style, color=color, linewidth=4, markersize=10, label=name)
axes.set(xlabel="shifted by, in cells", ylabel="IoU with the truth", ylim=(0, 1), xticks=shifts)
axes.legend(loc="lower left")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Orange is the truth. The convolution has never seen an ellipse that is not in the middle, and draws it as well as the
# others: its weights are the same at every place. The MLP has learned "ink in the middle" with weights of its own for
# every place; one cell further it has no knowledge. It would have to see every object at every place. That is what
# L19 means by keeping the spatial layout, and a reason for the 2.1 AP of the slide before.

# %% [markdown] slides=["T11"] slideshow={"slide_type": "slide"}
# ## 5 Pixel-to-pixel aligned (T11)
#
# We move the RoI, not the animal. In the 28 x 28 cells the mask must move **against** the RoI, in the picture it must
# **stay**.

# %% [markdown]
# RoIAlign and the FCN together keep the alignment: a cell of the mask answers for its own piece of the picture,
# wherever the RoI lies. Try it with the trained model: a duck and a RoI around it that slides by up to 4 pixels to
# either side.

# %%
_, duck_scene, duck = best[3]
DUCK = duck_scene.boxes[duck : duck + 1] + np.float32([-4, -4, 4, 4])  # with a margin


def moved_mask(shift):
    """RoI (4,) moved right by `shift` pixels, the soft mask in its 28 x 28 cells, and the mask in the picture."""
    box = DUCK + np.float32([shift, 0, shift, 0])
    soft = mask_probabilities(mask_logits(duck_scene, box), np.array([3]))
    return box[0], soft[0], paste_masks(soft, box, 128, 128, whole_pixels=False)[0]


def middle(mask):
    """The mean column of a mask."""
    return float((mask.sum(axis=0) * (np.arange(mask.shape[1]) + 0.5)).sum() / mask.sum())


shift = np.arange(-4, 5)
in_roi, in_picture = np.transpose([[middle(mask >= 0.5) for mask in moved_mask(s)[1:]] for s in shift])
cell = (DUCK[0, 2] - DUCK[0, 0]) / 28  # pixels
print("RoI moved by          ", shift)
print("mask moved in the RoI ", ((in_roi - in_roi[4]) * cell).round(1), "pixels")
print("mask moved in picture ", (in_picture - in_picture[4]).round(1), "pixels")
assert np.ptp(in_picture) < 1.5 < 5 < np.ptp(in_roi) * cell


# %% widget=True
def draw_moved(axes, below, shift):
    """The RoI and its mask in the picture, and below the 28 x 28 cells."""
    box, soft, picture = moved_mask(shift)
    window(axes, duck_scene, DUCK[0])
    outline(axes, box, ORANGE)
    pixels = np.arange(128) + 0.5
    axes.contour(pixels, pixels, picture, [0.5], colors="white", linewidths=4)
    axes.set_title(f"RoI moved by {shift:+.0f}\nmask in the picture at {middle(picture):.1f}", fontsize=13)
    below.imshow(soft, cmap="Grays", vmin=0, vmax=1)
    below.axvline(middle(soft >= 0.5) - 0.5, color=RED, linewidth=3)
    below.set(xticks=[], yticks=[])
    below.set_title(f"mask in the RoI at {middle(soft >= 0.5):.1f}", fontsize=13)


def show_moved(shift=0):
    """One figure for one position of the slider."""
    draw_moved(*plt.subplots(1, 2, figsize=(9, 4))[1], shift)
    plt.show()


try:
    from ipywidgets import IntSlider, interact

    interact(show_moved, shift=IntSlider(min=-4, max=4, value=4, description="pixels"))
except ImportError:  # no widgets installed
    show_moved(4)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(2, 3, figsize=(9.5, 4.9))
for column, shift in enumerate((-4, 0, 4)):
    draw_moved(*panels[:, column], shift)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Above: the RoI (orange) moves by 8 pixels from left to right, the mask (white) stays on the duck. Below: in the
# RoI's own 28 x 28 cells the duck moves to the left, by as much. The red line is the mask's middle. Nobody told the
# head where the RoI lies. This is why a box that fits badly still gives a mask that fits.

# %% [markdown] slides=["L23"] slideshow={"slide_type": "slide"}
# ## 6 Deconvolution: 14 x 14 becomes 28 x 28 (L23)
#
# **Each cell stamps its 2 x 2 patch**: its number times the kernel. By hand, on 2 x 2 cells:

# %% [markdown]
# Its better name is *transposed convolution*: the gradient of a convolution with stride 2, used forwards (notebook 02).
# With a 2x2 kernel and stride 2 the stamps lie side by side and never overlap. The side of the result is
# (14 - 1) · 2 + 2 = 28.
#
# $$y_{2i + a,\; 2j + b} = x_{ij}\, w_{ab} \qquad a, b \in \{0, 1\}$$
#
# With channels the stamp of a cell is the sum over its channels, each with a kernel of its own; then the bias is added.

# %%
cells = np.array([[1.0, 2], [0, 3]])
kernel = np.array([[1.0, -1], [2, 0]])
by_hand = np.array([[1, -1, 2, -2], [2, 0, 4, 0], [0, 0, 3, -3], [0, 0, 6, 0.0]])

stamped = np.zeros((4, 4))
for i in range(2):
    for j in range(2):
        stamped[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = cells[i, j] * kernel
np.testing.assert_array_equal(stamped, by_hand)

w = kernel[:, :, None, None]  # (kh, kw, in channels, out channels)
by_library = conv_transpose2d(Tensor(cells[None, :, :, None]), Tensor(w), stride=2).data[0, :, :, 0]
np.testing.assert_allclose(by_library, by_hand)
assert (14 - 1) * 2 + 2 == 28

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 3, figsize=(10, 4.2), width_ratios=[1, 1, 1.5])
inks = [ORANGE, SKY, GREEN, PURPLE]
for axes, numbers, title in zip(panels, (cells, kernel, by_hand), ("2 x 2 cells", "the kernel", "4 x 4 cells")):
    side = len(numbers)
    for (i, j), value in np.ndenumerate(numbers):
        color = (1, 1, 1) if title == "the kernel" else inks[2 * (2 * i // side) + 2 * j // side]
        axes.add_patch(Rectangle((j, i), 1, 1, facecolor=(*color, 0.6), edgecolor="black"))
        axes.text(j + 0.5, i + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=22)
    axes.set(xlim=(-0.02, side + 0.02), ylim=(side + 0.02, -0.02), title=title, aspect="equal")
    axes.axis("off")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Do the lower right cell with the class: 3 times the kernel is 3, -3, 6, 0, and goes to the lower right quarter. Then
# ask for the upper right one. Colors: each cell, and the four numbers that it stamps. The kernel is learned, so the
# network may decide how an edge inside a cell looks; repeating each number four times would be the kernel of ones.

# %% [markdown]
# ### Exercise 2: the deconvolution
#
# `x (H, W, Cin)`, weights `w (2, 2, Cin, Cout)`, bias `b (Cout,)`. The number in channel `o` at row `2 i + p`, column
# `2 j + q` is the sum over channels `c` of `x[i, j, c] * w[p, q, c, o]`, plus `b[o]`. No ReLU.
#
# Hint: `x @ w[p, q]` is `(H, W, Cout)`: place `(p, q)` of all stamps at once. `result[p::2, q::2]` is where they go.


# %% exercise="deconvolution"
def my_deconvolution(x, w, b):
    """The transposed 2x2 convolution with stride 2 of x (H, W, Cin): (2 H, 2 W, Cout)."""
    ### BEGIN SOLUTION
    height, width, _ = x.shape
    result = np.zeros((2 * height, 2 * width, w.shape[3]))
    for p in range(2):
        for q in range(2):
            result[p::2, q::2] = x @ w[p, q]
    return result + b
    ### END SOLUTION


# %% check="deconvolution"
check.deconvolution(my_deconvolution)

# %% [markdown]
# It is what the trained model computes in its layer `conv5_mask`:

# %%
with no_grad():
    after_four = HEADS.mask_head(Tensor(roi_features(duck_scene, DUCK).data))  # (1, 14, 14, 64)
    theirs = HEADS.mask_predictor.conv5_mask(after_four).data[0]
layer = HEADS.mask_predictor.conv5_mask
mine = np.maximum(my_deconvolution(after_four.data[0], layer.weight.data, layer.bias.data), 0)  # and its ReLU
np.testing.assert_allclose(mine, theirs, atol=1e-4)

# %% [markdown]
# Why 2x2 and not 3x3? Stamps of 3x3 with stride 2 overlap: some cells get one stamp, some two, some four. With equal
# weights that draws a checkerboard, which the network must first unlearn.

# %%
ones = Tensor(np.ones((1, 4, 4, 1)))
for side in (2, 3):
    stamps = conv_transpose2d(ones, Tensor(np.ones((side, side, 1, 1))), stride=2).data[0, 1:7, 1:7, 0].astype(int)
    print(f"{side}x{side}, stamps on each cell: {sorted(set(stamps.ravel().tolist()))}\n{stamps}")
    assert set(stamps.ravel().tolist()) == ({1} if side == 2 else {1, 2, 4})

# %% [markdown] slides=["L25"] slideshow={"slide_type": "slide"}
# ## 7 Mask generation: 28 x 28 x classes (L25)
#
# The 1x1 convolution: at each cell, 256 numbers times 256 weights, summed, once for each class.

# %% [markdown]
# **By hand**, with three channels: a cell holds (2, 0, 1); the cat's weights are (1, 5, -1) and its bias 0.5. Its logit
# is 2 · 1 + 0 · 5 + 1 · (-1) + 0.5 = **1.5**, and the sigmoid of that 1 / (1 + e^-1.5) = **0.82**: a cat, with 82 %.

# %%
logit = np.array([2.0, 0, 1]) @ np.array([1.0, 5, -1]) + 0.5
assert logit == 1.5 and round(1 / (1 + np.exp(-logit)), 2) == 0.82

logits_layer = HEADS.mask_predictor.mask_fcn_logits
by_matrix = theirs @ logits_layer.weight.data[0, 0] + logits_layer.bias.data  # (28, 28, 64) @ (64, 4)
np.testing.assert_allclose(by_matrix, mask_logits(duck_scene, DUCK)[0], atol=1e-4)
assert by_matrix.shape == (28, 28, len(NAMES))  # L25: 28 x 28 x classes

# %% [markdown]
# The whole head in four lines of array code; it agrees with the model:

# %%
x = roi_features(duck_scene, DUCK)
layers = [x.data[0]]
with no_grad():
    for convolution in HEADS.mask_head:  # L21: four times 3x3 and ReLU
        x = convolution(x)
        layers.append(x.data[0])
layers.append(np.maximum(my_deconvolution(layers[-1], layer.weight.data, layer.bias.data), 0))  # L23
layers.append(layers[-1] @ logits_layer.weight.data[0, 0] + logits_layer.bias.data)  # L25
np.testing.assert_allclose(layers[-1], mask_logits(duck_scene, DUCK)[0], atol=1e-4)
print([a.shape for a in layers])

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
answer = 1 / (1 + np.exp(-layers[-1][:, :, 3]))  # the duck's probabilities


def clearest(layer):
    """The channel of a layer that is most like the answer."""
    small = answer.reshape(14, 2, 14, 2).mean((1, 3)) if len(layer) == 14 else answer
    varies = layer.std(axis=(0, 1)) > 1e-6
    channels = layer.reshape(-1, layer.shape[2]).T
    alike = [np.corrcoef(small.ravel(), x)[0, 1] if v else 0 for x, v in zip(channels, varies)]
    return layer[:, :, int(np.argmax(alike))]


figure, panels = plt.subplots(2, 4, figsize=(9.5, 4.4))
window(panels[0, 0], duck_scene, DUCK[0], margin=0)
panels[0, 0].set_title("the RoI", fontsize=13)
titles = ["RoIAlign, 14 x 14", "1st 3x3", "2nd", "3rd", "4th", "deconv, 28 x 28"]
for axes, values, title in zip(panels.flat[1:], layers, titles):
    axes.imshow(clearest(values), cmap="cividis")
    axes.set_title(title, fontsize=13)
panels[1, 3].imshow(answer, cmap="Grays", vmin=0, vmax=1)
panels[1, 3].set_title("1x1, sigmoid: duck", fontsize=13)
for axes in panels.flat:
    axes.set(xticks=[], yticks=[], aspect="auto")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# A trained model, and of each layer's 64 channels the one that is most like the answer. From RoIAlign on it is a
# picture of the duck: nothing to unpack, the layout was never lost (L19). The convolutions clean up, the deconvolution
# doubles the grid, the 1x1 convolution decides. (The deconvolution's four kernel places are learned apart, hence the
# weave in its channel; the 1x1 convolution adds 64 such channels up.)

# %% [markdown] slides=["L20"] slideshow={"slide_type": "slide"}
# ## 8 Decoupled: a mask for each class, and the class branch chooses (L20)
#
# {bg, cat, dog, duck}: four masks for each RoI. The box head says which one counts.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(3, 5, figsize=(9.5, 5))
for row, label in zip(panels, (1, 2, 3)):
    _, scene, g = best[label]
    window(row[0], scene, scene.boxes[g], margin=2)
    row[0].set_ylabel(f"class:\n{NAMES[label]}", rotation=0, ha="right", va="center")
    logits = mask_logits(scene, scene.boxes[g : g + 1])[0]  # (28, 28, 4)
    for c, axes in enumerate(row[1:]):
        axes.imshow(1 / (1 + np.exp(-logits[:, :, c])), cmap="Grays", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=ORANGE if c == label else "gray", linewidth=6 if c == label else 1)
    for axes in row:
        axes.set_aspect("auto")
for axes, name in zip(panels[0], ["RoI", *NAMES]):
    axes.set_title(name)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Rows are RoIs, columns are the four masks; framed is the one that the class branch chooses. Look at the others: they
# are not empty, and they need not be: the cat's mask of a dog may be most of the dog. Nobody ever looks at it, neither
# in training nor afterwards. Column bg is there because labels count from 1, and is never trained.

# %% [markdown]
# How good would the other classes' masks be? For all animals of the 24 scenes:

# %% tags=["hide-input"]
table, seen = np.zeros((4, 4)), np.zeros(4)
for scene, logits in zip(scenes, every_logits):
    for c in range(4):
        masks = paste_masks(mask_probabilities(logits, 0 * scene.labels + c), scene.boxes, 128, 128, whole_pixels=False)
        for label, found, truth in zip(scene.labels, masks, scene.masks > 0):
            table[label, c] += mask_iou(found, truth)
    seen += np.bincount(scene.labels, minlength=4)
table = table[1:] / seen[1:, None]  # rows cat, dog, duck
print("mean IoU with the truth of the mask of class\n      ", *[f"{name:>6}" for name in NAMES])
for label, row in enumerate(table, start=1):
    print(f"{NAMES[label]:>6}", *[f"{value:6.2f}" for value in row])
own = np.mean([table[i, i + 1] for i in range(3)])
others = np.mean([table[i, c + 1] for i in range(3) for c in range(3) if c != i])
alike = (table[0, 2] + table[1, 1]) / 2
print(f"own class {own:.2f}, cat for dog or dog for cat {alike:.2f}, any other class {others:.2f}")
assert own > alike > 0.4 and alike > others

# %% [markdown]
# Cats and dogs are often mistaken for one another, and then the other's mask still serves; a duck's mask of a cat is
# useless, but that mistake is rare. The paper goes further: with *class-agnostic* masks, one for all classes, trained
# on all, it has 29.7 AP, with one for each class 30.3 (ResNet-50-C4): "which pixels" hardly depends on "what".
#
# ### Exercise 3: the masks that count
#
# `logits (R, M, M, C)`, `labels (R,)`: for each box, the sigmoid of the channel of its label.
#
# Hint: `logits[r, :, :, labels[r]]` is one box's; with `np.arange(R)` instead of `r`, all are.


# %% exercise="class_masks"
def my_class_masks(logits, labels):
    """For each box the probabilities of its class's mask: (R, M, M), from 0 to 1."""
    ### BEGIN SOLUTION
    chosen = logits[np.arange(len(labels)), :, :, labels]  # (R, M, M)
    return 1 / (1 + np.exp(-chosen))
    ### END SOLUTION


# %% check="class_masks"
check.class_masks(my_class_masks)

# %%
for scene, logits in zip(scenes, every_logits):
    theirs = mask_probabilities(logits, scene.labels)
    np.testing.assert_allclose(my_class_masks(logits, scene.labels), theirs, rtol=1e-5)

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Sigmoid against softmax, at one cell
#
# Softmax makes the classes **compete**: $p_c = e^{z_c} / \sum_k e^{z_k}$, all together 1. A sigmoid asks each alone.

# %% [markdown]
# **By hand.** The logits of a cell are bg -1, cat 1, dog 0.9, duck -3: surely an animal, cat or dog. The exponentials
# are 0.37, 2.72, 2.46, 0.05, together 5.60.
#
# - Softmax: cat 2.72 / 5.60 = **0.49**, dog 2.46 / 5.60 = 0.44. Below 0.5: the cell is *not* in the cat's mask, and
#   would not be in the dog's. Yet the background has only 0.07.
# - Sigmoid: cat 1 / (1 + e^-1) = **0.73**, dog 0.71. In the mask, whichever the class branch chooses.

# %%
one_cell = np.array([-1.0, 1, 0.9, -3])
softmax = np.exp(one_cell) / np.exp(one_cell).sum()
sigmoid = 1 / (1 + np.exp(-one_cell))
assert softmax.round(2).tolist() == [0.07, 0.49, 0.44, 0.01]
assert sigmoid.round(2).tolist() == [0.27, 0.73, 0.71, 0.05]
for kind, expected in (("softmax", softmax), ("sigmoid", sigmoid)):
    for label in range(4):
        found = mask_probabilities(one_cell[None, None, None], np.array([label]), kind)
        np.testing.assert_allclose(found, expected[label])

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
TABLE_2B = {"softmax": (24.8, 44.1, 25.1), "sigmoid": (30.3, 51.2, 31.5)}  # ResNet-50-C4 on COCO: AP, AP50, AP75
assert np.round(np.subtract(TABLE_2B["sigmoid"], TABLE_2B["softmax"]), 1).tolist() == [5.5, 7.1, 6.4]
paper = dict(facecolor="white", linewidth=0, pad=1)
figure, (left, middle_panel, right) = plt.subplots(1, 3, figsize=(11, 4), width_ratios=[1, 1, 1.2])
for axes, values, kind, color in ((left, softmax, "softmax", RED), (middle_panel, sigmoid, "sigmoid", BLUE)):
    axes.bar_label(axes.bar(NAMES, values, color=color), [f"{v:.2f}" for v in values], padding=4, bbox=paper)
    axes.axhline(0.5, color="black", linewidth=2, linestyle="--")
    axes.set(title=f"one cell: {kind}", ylim=(0, 1), yticks=[0, 0.5, 1])
for i, (kind, color) in enumerate((("softmax", RED), ("sigmoid", BLUE))):
    bars = right.bar(np.arange(3) + 0.4 * i - 0.2, TABLE_2B[kind], 0.38, color=color, label=kind)
    right.bar_label(bars, fontsize=12)
right.set_xticks(range(3), ["AP", "AP50", "AP75"])
right.set(title="He et al. 2017, table 2b", ylim=(0, 70), yticks=[])
right.legend(loc="upper left", ncols=2, fontsize=12)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Left and middle: the same four logits. With softmax no class reaches 0.5 and the cell falls out of the mask, though
# everybody agrees that it is an animal. FCNs for semantic segmentation use softmax, because there each pixel must get
# one class. Here the class is known already, from the whole box. Right: 24.8 against 30.3 mask AP, 5.5 points, for one
# changed line.

# %% [markdown]
# The same in training: the gradient of the sigmoid's loss touches the box's own class alone, softmax's pushes on all.

# %%
z, rows = np.tile(one_cell, (1, 2, 2, 1)), {}
for kind in ("sigmoid", "softmax"):
    tensor = Tensor(z.copy(), requires_grad=True)
    mask_loss(tensor, np.array([1]), np.ones((1, 2, 2)), np.array([True]), kind).backward()
    rows[kind] = tensor.grad[0].sum(axis=(0, 1))
    print(f"{kind}: gradient of the logits of {NAMES}: {rows[kind].round(2)}")
assert np.flatnonzero(rows["sigmoid"]).tolist() == [1] and np.count_nonzero(rows["softmax"]) == 4

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 9 What it should say: mask targets
#
# The truth, **cropped by the RoI** and averaged in 28 x 28 cells: RoIAlign of the object's mask.

# %% [markdown]
# A RoI is not the object's true box: it is any proposal whose IoU with it is at least 0.5 (notebook 07). What lies
# outside of the RoI is not to be drawn, so the target is the part of the object that is in the RoI.
#
# **By hand.** The object is the left half of 8 x 8 pixels, the RoI all of them, and the target has 4 x 4 cells: 2
# pixels a cell. The cells in a row are then 1, 1, 0, 0. So says RoIAlign with `aligned=True`. Without the half pixel
# the samples lie at 0.5, 1.5, 2.5, 3.5, ...: between the pixels 3 and 4 the mask is 1/2, and the second cell is
# (1 + 0.5) / 2 = 0.75. The mask is then cut half a pixel too early.

# %%
left_half = np.zeros((1, 1, 8, 8), np.uint8)
left_half[0, 0, :, :4] = 1
all_of_it, first_object = np.array([[[0, 0, 8, 8]]], np.float32), np.zeros((1, 1), int)
assert mask_targets(left_half, all_of_it, first_object, 4, aligned=True)[0, 0, 0].tolist() == [1, 1, 0, 0]
assert mask_targets(left_half, all_of_it, first_object, 4, aligned=False)[0, 0, 0].tolist() == [1, 0.75, 0, 0]
TORCHVISION = [1, 0.75, 0, 0]  # torchvision's project_masks_on_boxes, which is not aligned: the same
print(inspect.getsource(mask_targets))

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
_, dog_scene, dog = best[2]
truth, box = dog_scene.masks[dog], dog_scene.boxes[dog]
w, h = box[2:] - box[:2]
rois = np.float32([box, box + [-0.1 * w, -0.15 * h, 0.1 * w, 0.1 * h], box + [0.25 * w, 0, 0.05 * w, -0.25 * h]])
overlap = box_ops.iou(rois, box[None])[:, 0]
assert (overlap >= 0.5).all()  # all three are positives
targets = mask_targets(truth[None, None], rois[None], np.zeros((1, 3), int), 28, aligned=True)[0]
figure, panels = plt.subplots(1, 4, figsize=(11, 3.7), width_ratios=[1.35, 1, 1, 1])
window(panels[0], dog_scene, box, margin=9)
looks = (ORANGE, "-"), (SKY, "--"), (RED, ":")
for roi, target, (color, style), axes, o in zip(rois, targets, looks, panels[1:], overlap):
    outline(panels[0], roi, color, style)
    axes.imshow(target, cmap="Grays", vmin=0, vmax=1, aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"RoI of IoU {o:.2f}", fontsize=13)
    axes.spines[:].set(color=color, linewidth=5, linestyle=style)
panels[0].set_title("three RoIs", fontsize=13)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# One dog, three RoIs that are all positives, three different targets. The right one cuts the dog: the head is asked
# to draw the rest. That also trains the alignment of section 5: the same animal at many places of the 28 x 28 cells.
# Only positives have a target; a RoI of the background has no mask to learn.

# %% [markdown]
# ### Exercise 4: the target of a RoI
#
# `mask (H, W)` of 0 and 1, `box (4,)`, `size x size` cells with `samples x samples` points in each. `aligned` as in
# RoIAlign. `binary`: whether a cell is 1 from 0.5 on, else 0.
#
# From notebook 08: `sampling_points(box, 1.0, size, samples, aligned)` gives the points `(size, size, s, s, 2)` and
# `bilinear(mask[:, :, None], points)` reads a map of one channel there: `(size, size, s, s, 1)`. The mask is a map of
# stride 1, hence the scale 1.0.


# %% exercise="mask_target"
def my_mask_target(mask, box, size, samples, aligned, binary):
    """The part of a mask (H, W) that lies in the box, averaged to (size, size) cells from 0 to 1."""
    ### BEGIN SOLUTION
    points = sampling_points(box, 1.0, size, samples, aligned)
    cells = bilinear(mask[:, :, None], points)[..., 0].mean(axis=(2, 3))
    return (cells >= 0.5).astype(float) if binary else cells
    ### END SOLUTION


# %% check="mask_target"
check.mask_target(my_mask_target)

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Soft or binary?
#
# A cell covered to 40 % by the object: 0.4, or 0? torchvision learns from the left one, Detectron2 from the right one.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
sizes = {scene.masks[g].sum(): (scene, g) for scene in scenes for g in range(len(scene.boxes))}
figure, panels = plt.subplots(2, 4, figsize=(10, 4.8))
for row, area in zip(panels, (min(a for a in sizes if a > 60), max(sizes))):
    scene, g = sizes[area]
    box, truth = scene.boxes[g], scene.masks[g]
    soft, binary = (
        mask_targets(truth[None, None], box[None, None], first_object, 28, True, kind)[0, 0] for kind in (False, True)
    )
    window(row[0], scene, box, margin=0)
    x1, y1, x2, y2 = box.astype(int)
    for axes, picture in zip(row[1:], (truth[y1:y2, x1:x2], soft, binary)):
        axes.imshow(picture, cmap="Grays", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
    for axes in row:
        axes.set_aspect("auto")
    row[0].set_ylabel(f"{x2 - x1} x {y2 - y1}\npixels", rotation=0, ha="right", va="center")
    between = ((soft > 0.01) & (soft < 0.99)).mean()
    assert set(np.unique(binary)) <= {0, 1} and between > 0.02
    print(f"{x2 - x1} x {y2 - y1} pixels: {100 * between:.0f} % of the cells are neither 0 nor 1")
for axes, title in zip(panels[0], ("RoI", "truth, pixels", "soft, 28 x 28", "binary, 28 x 28")):
    axes.set_title(title, fontsize=13)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Above an animal that is smaller than 28 pixels: the target has more cells than the object has pixels, and gray is
# interpolation between pixels. Below one that is larger: a cell covers several pixels and gray is their average. What
# gray is worth when the mask goes back into the picture is measured in notebook 13.

# %% [markdown]
# ## 10 Common misconceptions
#
# ### "Deconvolution undoes a convolution"
#
# It has the shape of the way back, not its effect. A 2x2 convolution with stride 2 makes 4 numbers of 16; no operation
# gets the 16 back. What does hold is that the two are *transposes* of one another: $\langle A x, y \rangle =
# \langle x, A^T y \rangle$.

# %%
rng = np.random.default_rng(3)
x, w = rng.standard_normal((1, 4, 4, 1)), rng.standard_normal((2, 2, 1, 1))
forth = conv2d(Tensor(x), Tensor(w), stride=2).data  # (1, 2, 2, 1)
back = conv_transpose2d(Tensor(forth), Tensor(w), stride=2).data  # (1, 4, 4, 1)
print("before", x[0, 0, :, 0].round(2), " forth and back", back[0, 0, :, 0].round(2))
assert back.shape == x.shape and not np.allclose(back, x)
y = rng.standard_normal((1, 2, 2, 1))
np.testing.assert_allclose((forth * y).sum(), (x * conv_transpose2d(Tensor(y), Tensor(w), stride=2).data).sum())

# %% [markdown]
# ### "The masks of the other classes are empty"
#
# They are whatever comes: in training nobody looks at them. Section 8 measured it; here is the fraction of cells of a
# RoI that other classes' masks fill.

# %%
filled = []
for scene, logits in zip(scenes, every_logits):
    for label, z in zip(scene.labels, logits):
        filled += [(z[:, :, c] >= 0).mean() for c in (1, 2, 3) if c != label]
print(f"the other classes' masks fill {100 * np.mean(filled):.0f} % of the cells")
assert np.mean(filled) > 0.05  # not empty

# %% [markdown]
# ### "Channel 0 is the mask of the background"
#
# A positive RoI never has label 0, so the gradient of channel 0 is always 0: it is never trained. The background of a
# mask is where the object's own channel is below 0.5.

# %%
tensor = Tensor(every_logits[0].copy(), requires_grad=True)
labels, valid = scenes[0].labels, np.ones(len(scenes[0].labels), bool)
mask_loss(tensor, labels, np.ones(tensor.shape[:3], np.float32), valid).backward()
assert not tensor.grad[..., 0].any() and tensor.grad[..., labels[0]].any()

# %% [markdown]
# ### "The mask head learns from all RoIs"
#
# The box head does; the mask head learns from positives alone. One training step of a fresh model:

# %%
fresh = mask_rcnn.build("toy")
with Trace() as stages:
    fresh(fresh.transform(scenes[:2]), generator(0, 0))
for_boxes, positives = len(stages["box_features"]), int(stages["roi_positive"].sum())
for_masks = len(stages["mask_features"])
print(f"RoIs in the box head: {for_boxes}, of these positive: {positives}; RoIs in the mask head: {for_masks}")
assert for_masks == positives < for_boxes

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Recap
#
# 1. The mask head stands beside the box head and reads the same RoIs; neither reads the other's answer.
# 2. It is an FCN: four 3x3 convolutions, a deconvolution 14 x 14 to 28 x 28, a 1x1 convolution. The layout is kept.
# 3. So it is aligned: move the RoI, and the mask stays in the picture. An MLP needs 44 times the numbers and is worse.
# 4. One sigmoid mask for each class, and the class branch chooses: 30.3 AP, where competing classes have 24.8.
# 5. It learns from positives: the object's mask, cropped by the RoI with RoIAlign, soft or binary.

# %% [markdown]
# ## Quiz
#
# 1. Which numbers do box head and mask head share?
# 2. The RoI features are 14 x 14 x 256. What shape has the head's answer for COCO, and why not 80 classes?
# 3. How far around does a cell of the fourth convolution see, in cells of the RoI features?
# 4. Where do most of the 2.6 million numbers of the FCN head lie, and where those of the MLP?
# 5. A RoI moves by 3 pixels to the right; a cell of the mask is 2 pixels wide. How does the mask move in the cells?
# 6. The cells 5 and 7 lie side by side; the kernel is (1, 2 / 0, -1). What is stamped?
# 7. Why is there no checkerboard with a 2x2 kernel and stride 2?
# 8. The box head takes a dog for a cat. What happens to the mask?
# 9. At a cell, cat and dog have the logit 2 each, everything else -5. What do softmax and sigmoid say of the cat?
# 10. Two RoIs have the same object. Do they have the same target?
#
# <details><summary>Answers</summary>
#
# 1. The backbone, the FPN and the RoIs. Each has a RoIAlign and layers of its own.
# 2. 28 x 28 x 81: the background is counted, though its channel is never used.
# 3. Four cells in each direction: 9 x 9.
# 4. In the four 3x3 convolutions, 590 080 each. Of the MLP's, 51 million are in the first layer, which reads the
#    vector, and 65 million in the last, which writes one.
# 5. By 1.5 cells to the left, so that it stays in the picture.
# 6. 5, 10, 7, 14 in the upper row, 0, -5, 0, -7 in the lower one.
# 7. The stamps do not overlap: each cell gets exactly one.
# 8. The cat's mask is taken. It is a little worse, since the classes look alike and do not compete; but the object
#    counts as wrong in the measurement, for its class is.
# 9. Softmax: just below 0.5, for two share the 1. Sigmoid: 0.88.
# 10. Only if the RoIs are equal: the target is what lies in the RoI.
#
# </details>
