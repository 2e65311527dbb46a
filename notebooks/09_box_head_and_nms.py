# %% [markdown] slideshow={"slide_type": "slide"}
# # 09 Box head and NMS: from 200 RoIs to a few detections
#
# **Question.** The RPN proposed 200 boxes. The picture shows a handful of animals.
# **How do 200 boxes become one box an animal, each with a name?**
#
# - The *box head* says of each box which class it shows, and where exactly.
# - *Non-maximum suppression* (NMS) takes out those that say the same thing twice.

# %% [markdown] slideshow={"slide_type": "notes"}
# RoIAlign (notebook 08) has given each of the 200 proposals 7 x 7 bins of features. Today: what reads them, and what is
# done with the answers. The first half is learned, the second half, NMS, is a dozen lines in which nothing is learned.

# %%
import contextlib
import inspect
import time
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, Rectangle

import minimask
from minimask import box_head, check, draw
from minimask import boxes as box_ops
from minimask.convolution import Conv2dFunction, ConvTranspose2dFunction
from minimask.datasets.toy import ToyScenes
from minimask.functional import Linear, softmax_array
from minimask.mask_head import restore
from minimask.mask_rcnn import BOX_WEIGHTS
from minimask.tensor import Tensor, no_grad
from minimask.trace import Trace

plt.rcParams.update({"figure.figsize": (9, 4.2), "figure.dpi": 100, "font.size": 14})
plt.rcParams["figure.constrained_layout.use"] = True
ORANGE, SKY, RED, BLUE, GREEN, VIOLET = draw.COLORS[[0, 1, 2, 4, 6, 8]] / 255
CLASS_LOOKS = {1: (ORANGE, "-"), 2: (SKY, "--"), 3: (VIOLET, ":")}  # cat, dog, duck


def outline(axes, box, color, style="-", width=3):
    """A box x1, y1, x2, y2 on the axes."""
    size = box[2] - box[0], box[3] - box[1]
    axes.add_patch(Rectangle(box[:2], *size, fill=False, edgecolor=color, linewidth=width, linestyle=style))


def show_found(axes, image, boxes, labels, scores=None, width=3):
    """The picture with boxes in the colors and lines of their classes, and their scores if given."""
    axes.imshow(image, extent=(0, image.shape[1], image.shape[0], 0))
    for i in range(len(boxes) - 1, -1, -1):
        outline(axes, boxes[i], *CLASS_LOOKS[labels[i]], width)
        if scores is not None:
            where = np.clip(boxes[i, :2], 0, 116) + [1, 1]
            text = dict(fontsize=12, color="white", bbox=dict(facecolor=(0, 0, 0, 0.65), linewidth=0, pad=1))
            axes.text(*where, f"{class_names[labels[i] - 1]} {scores[i]:.2f}", va="top", clip_on=True, **text)
    axes.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0), xticks=[], yticks=[])


# %% [markdown]
# **Words of this notebook**
#
# - *RoI*: a proposal, a box in which the RPN (notebook 06) suspects an object. R of them; here R = 200.
# - *Class*: cat, dog, duck, numbered from 1. Class 0 is the *background*: no object. C classes with it; here C = 4.
# - *Logits*: C numbers that the network gives a RoI, any size. *Softmax* turns them into probabilities (notebook 11).
# - *Score*: the probability of a class other than the background.
# - *Deltas*: four numbers dx, dy, dw, dh that say how to move a box (notebook 05).
# - *Fully connected layer*: a matrix product; each result reads all inputs. *Hidden* is a layer whose numbers only the
#   next layer reads. `fc6` and `fc7` are the box head's two, named so since a network of 2012 with five layers before.
# - *To suppress*: to drop a box because a better one overlaps it too much.

# %%
model = minimask.load("toy")  # trained on drawn scenes: cats, dogs and ducks
class_names = model.class_names
model.eval()
scenes = ToyScenes("test")
scene = scenes[0]
batch = model.transform([scene.image])
with Trace() as stages:
    found = model.detect(batch)
print("RoI features", stages["box_features"].shape, " logits", stages["class_logits"].shape)
R, C = stages["class_logits"].shape
assert (R, C) == (200, 4) and class_names == ["cat", "dog", "duck"]

# %% [markdown] slides=["T08"] slideshow={"slide_type": "slide"}
# ## 1 Mask R-CNN = Faster R-CNN with an FCN on the RoIs (T08)
#
# Blue is Faster R-CNN. Green is what Mask R-CNN adds: an *FCN*, a network of convolutions alone (notebook 10), that
# draws a mask inside each RoI. **Today: the box head.**

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
# Plumbing: boxes with text, in a row, with arrows; a stack of boxes stands for "once for each RoI".


def block(axes, x, y, text, color=SKY, stack=False, width=0.82, height=0.6):
    """A box with text around (x, y)."""
    for shift in (0.08, 0.04, 0) if stack else (0,):
        corner = x - width / 2 + shift, y - height / 2 + shift
        axes.add_patch(Rectangle(corner, width, height, facecolor="white", zorder=2))
        axes.add_patch(Rectangle(corner, width, height, facecolor=(*color, 0.45), edgecolor="black", zorder=2))
    axes.text(x, y, text, ha="center", va="center", fontsize=14, zorder=3)


def arrow(axes, start, end):
    """An arrow from start to end."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=20, linewidth=2, color="black"))


def in_a_row(axes, y, steps, first=0):
    """Blocks (text, color, stack) from left to right, with arrows."""
    for i, (text, color, stack) in enumerate(steps):
        block(axes, first + i, y, text, color, stack)
        if i:
            arrow(axes, (first + i - 0.5 if stack else first + i - 0.59, y), (first + i - 0.41, y))


figure, axes = plt.subplots(figsize=(11.5, 3.4))
parts = [("picture", SKY, False), ("backbone\nand FPN", SKY, False), ("RPN", SKY, False), ("RoIAlign", SKY, True)]
in_a_row(axes, 0, parts)
block(axes, 4.2, 0.5, "box head", SKY, True)
block(axes, 5.25, 0.5, "class, box", SKY, True)
block(axes, 4.2, -0.5, "FCN", GREEN, True)
block(axes, 5.25, -0.5, "mask", GREEN, True)
for y in (0.5, -0.5):
    arrow(axes, (3.5, 0), (3.79, y))
    arrow(axes, (4.7, y), (4.84, y))
axes.text(4.5, -1.05, "stacks: once for each RoI", ha="center", fontsize=13)
axes.set(xlim=(-0.5, 5.8), ylim=(-1.2, 1))
axes.axis("off")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The whole idea of the paper in one picture: take a detector that is known to work, add a small network on each RoI.
# Everything in blue was there in 2015, except that RoIAlign was RoIPool. The FCN was there in 2015 too, for whole
# pictures (Long et al.).

# %% [markdown] slides=["T09"] slideshow={"slide_type": "slide"}
# ## 2 Parallel heads: three generations (T09)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(12, 5.4))
rows = {
    "(slow) R-CNN\n2014": [
        ("picture", SKY, False), ("crop", ORANGE, True), ("network", RED, True), ("class, box", SKY, True)
    ],
    "Fast/er R-CNN\n2015": [
        ("picture", SKY, False), ("network", RED, False), ("RoIPool", ORANGE, True), ("box head", SKY, True),
        ("class, box", SKY, True),
    ],
    "Mask R-CNN\n2017": [
        ("picture", SKY, False), ("network", RED, False), ("RoIAlign", ORANGE, True), ("box head", SKY, True),
        ("class, box", SKY, True),
    ],
}  # fmt: skip
for row, (name, parts) in enumerate(rows.items()):
    axes.text(-0.6, -1.15 * row, name, ha="right", va="center", fontsize=16, fontweight="bold")
    in_a_row(axes, -1.15 * row, parts)
block(axes, 3, -3.2, "mask head", GREEN, True)
block(axes, 4, -3.2, "mask", GREEN, True)
arrow(axes, (2.5, -2.35), (2.59, -3.1))
arrow(axes, (3.5, -3.2), (3.59, -3.2))
axes.set(xlim=(-2.05, 4.6), ylim=(-3.6, 0.5))
axes.axis("off")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Follow the red block. R-CNN cuts 200 pieces out of the picture and runs the whole network on each. Fast R-CNN runs it
# once and cuts the pieces out of the feature map. Faster R-CNN also makes the proposals with the same features. Mask
# R-CNN adds a second head, in parallel with the first: neither reads the other's answer.

# %% [markdown]
# ### Counting the operations
#
# How much does sharing save? We count the multiplications of our toy model, which has the same parts. Nearly all are in
# convolutions, and a fully connected layer is one, of 1 x 1 pixels. A convolution with a kernel `(kh, kw, Cin, Cout)`
# needs `kh kw Cin` multiplications for each number of its result.


# %%
@contextlib.contextmanager
def counting():
    """Inside `with counting() as count`, count[0] grows by the multiplications of each convolution and dense layer."""
    count, forward, transposed = [0], Conv2dFunction.forward, ConvTranspose2dFunction.forward
    dense = Linear.forward

    def convolution(self, x, w, *rest):
        y = forward(self, x, w, *rest)
        count[0] += y.size * w[..., 0].size  # (kh, kw, Cin) for each number of y
        return y

    def transposed_convolution(self, x, w, *rest):
        count[0] += x.size * w[:, :, 0].size  # (kh, kw, Cout) for each number of x (notebook 10)
        return transposed(self, x, w, *rest)

    def dense_layer(self, x, w, b):
        count[0] += x.size * w.shape[1]  # M for each number of x
        return dense(self, x, w, b)

    with (
        mock.patch.object(Linear, "forward", dense_layer),
        mock.patch.object(Conv2dFunction, "forward", convolution),
        mock.patch.object(ConvTranspose2dFunction, "forward", transposed_convolution),
    ):
        yield count


def multiplications(function, *arguments):
    """How many multiplications a call needs."""
    with no_grad(), counting() as count:
        function(*arguments)
    return count[0]


roi, roi14 = (Tensor(np.zeros((1, k, k, 64), np.float32)) for k in (7, 14))
cost = {
    "network": multiplications(model.backbone.body, Tensor(batch.images)),  # of a picture, or of a crop of that size
    "network and FPN": multiplications(model.features, Tensor(batch.images)),
    "box head": multiplications(model.box_branch, roi),
    "mask head": multiplications(model.mask_branch, roi14, np.array([1])),
}
for name, number in cost.items():
    print(f"{name:16} {number / 1e6:8.1f} million multiplications")
assert cost["box head"] == 7 * 7 * 64 * 256 + 256 * 256 + 256 * (4 + 16)  # by hand: two hidden layers, 4 + 16 outputs

# %%
detected = int(found.valid.sum())  # masks are drawn for detections only
total = {
    "(slow) R-CNN": R * (cost["network"] + cost["box head"]),
    "Fast/er R-CNN": cost["network and FPN"] + R * cost["box head"],
}
total["Mask R-CNN"] = total["Fast/er R-CNN"] + detected * cost["mask head"]
ratio = total["(slow) R-CNN"] / total["Fast/er R-CNN"]
for name, number in total.items():
    print(f"{name:14} {number / 1e9:6.1f} thousand million")
print(f"sharing saves a factor of {ratio:.0f}")
assert 100 < ratio < 120 and 1.5 < total["Mask R-CNN"] / total["Fast/er R-CNN"] < 1.85


def seconds(function, *arguments, repeats=3):
    """The shortest of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return min(times)


with no_grad():  # and is it true of the clock?
    one, ten = Tensor(batch.images), Tensor(np.repeat(batch.images, 10, axis=0))
    shared = seconds(model.features, one) + seconds(model.box_branch, Tensor(stages["box_features"]))
    cropped = R / 10 * seconds(model.backbone.body, ten)
print(f"measured: {1000 * shared:.0f} ms with shared features, {1000 * cropped:.0f} ms with {R} crops")
assert cropped > 10 * shared

# %% [markdown] slides=["T09"] slideshow={"slide_type": "slide"}
# ## 3 Crop then network, or network then crop? (T09)
#
# Our toy model, 200 RoIs. R-CNN resizes each crop to the size of the network's input. **Sharing saves a factor of
# 100.** Masks are drawn for *detections* only, and add about two thirds to what is left.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(10.5, 3.6))
pieces = {
    "(slow) R-CNN": [("network", R * cost["network"], RED), ("box head", R * cost["box head"], SKY)],
    "Fast/er R-CNN": [("network", cost["network and FPN"], RED), ("box head", R * cost["box head"], SKY)],
}
pieces["Mask R-CNN"] = [*pieces["Fast/er R-CNN"], ("mask head", detected * cost["mask head"], GREEN)]
for row, (name, parts) in enumerate(pieces.items()):
    assert sum(number for _, number, _ in parts) == total[name]
    axes.text(total[name] / 1e9 * 1.1, -row, f"{total[name] / 1e9:.1f}", va="center", fontsize=18)
    left = 0.0
    for part, number, color in parts:
        bar = axes.barh(-row, number / 1e9, left=left, color=color, height=0.65)
        bar.set_label(part if row == 2 else None)
        left += number / 1e9
axes.set_yticks([0, -1, -2], total)
axes.set(xscale="log", xlim=(0.3, 300), xlabel="thousand million multiplications a picture (each line: 10 times)")
axes.grid(axis="x", alpha=0.4)
axes.legend(loc="lower right")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The axis is logarithmic: each line is ten times the one before. R-CNN used 2,000 crops, so it was worse: 47 seconds a
# picture on a graphics card of 2014, says its successor's paper. Could R-CNN use smaller crops? With a quarter of the
# pixels it would need a quarter of the operations, still 25 times as many, and see less.

# %% [markdown] slides=["L18"] slideshow={"slide_type": "slide"}
# ## 4 In parallel, in the spirit of Fast R-CNN (L18)
#
# Class, box and mask are three answers to one question, side by side. None waits for another.
#
# **Proof:** put random numbers in the mask branch. Boxes and scores stay the same to the last bit; only the masks are
# nonsense.

# %%
broken = minimask.load("toy")
broken.eval()
rng = np.random.default_rng(0)
for part in (broken.roi_heads.mask_head, broken.roi_heads.mask_predictor):
    for parameter in part.parameters():
        parameter.data[...] = rng.normal(0, 0.1, parameter.shape)
nonsense = broken.detect(batch)
np.testing.assert_array_equal(nonsense.boxes, found.boxes)
np.testing.assert_array_equal(nonsense.scores, found.scores)
assert abs(nonsense.masks - found.masks).max() > 0.5

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 2, figsize=(9.5, 4.2))
for axes, result, title in zip(panels, (found, nonsense), ("trained mask branch", "random mask branch")):
    prediction = restore(result, batch)[0]
    prediction.keypoints = None
    axes.imshow(draw.draw_prediction(scene.image, prediction, class_names, 0.8, caption=False, side=384))
    axes.set(title=title, xticks=[], yticks=[])
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Earlier methods worked in series. MNC (2016) drew a mask first and classified what was in the mask; DeepMask and its
# relatives proposed masks and then classified them. If the mask was bad, so was the class. Here the class does not
# depend on the mask. In inference the order is a matter of thrift: masks are drawn for the detections only, since most
# RoIs will be thrown away.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 The box head: two fully connected layers
#
# - In: 7 x 7 bins of 64 channels for each RoI (published models: 256).
# - *Flatten*: 7 · 7 · 64 = **3,136** numbers in a row.
# - Two hidden layers with ReLU, then two outputs: C class logits and 4 C deltas.

# %%
print(inspect.getsource(box_head.TwoLayerHead))
sizes = {name: p.shape for name, p in model.roi_heads.named_parameters() if name.startswith("box") and p.ndim == 2}
for name, (rows, columns) in sizes.items():
    print(f"{name:28} {rows:5} x {columns:4} = {rows * columns:7,} weights")
assert sizes["box_head.fc6.weight"] == (7 * 7 * 64, 256)
assert 7 * 7 * 256 * 1024 == 12_845_056  # fc6 of the published model: its largest layer, 29 % of 44 million weights

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
order = np.arange(12).reshape(2, 2, 3)  # place of each number in the row: (k, k, C) flattened
channels_first = np.arange(12).reshape(3, 2, 2).transpose(1, 2, 0)
figure, panels = plt.subplots(1, 2, figsize=(10, 3.6))
titles = "(k, k, C): a bin's channels together", "(C, k, k): a channel's bins together"
for axes, numbers, title in zip(panels, (order, channels_first), titles):
    for (i, j, c), place in np.ndenumerate(numbers):
        axes.add_patch(Rectangle((j + c / 3, i), 1 / 3, 1, facecolor=[ORANGE, SKY, GREEN][c], alpha=0.6))
        axes.text(j + (c + 0.5) / 3, i + 0.5, place, ha="center", va="center", fontsize=20)
    for line in range(3):
        axes.plot([line, line], [0, 2], "k", linewidth=3)
        axes.plot([0, 2], [line, line], "k", linewidth=3)
    axes.set(xlim=(-0.02, 2.02), ylim=(2.02, -0.02), xticks=[], yticks=[], title=title)
figure.supxlabel("2 x 2 bins, 3 channels (colors): the place of each number in the row", fontsize=14)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The order does not matter to a network that learns with it, but weights of one order are nonsense in the other. This
# project flattens (k, k, C); PyTorch keeps channels first, so its weights are reordered when they are loaded.
#
# Unlike the mask head, this one gives up the layout: each hidden number sees all bins. A class is a statement about the
# whole box.

# %% [markdown]
# ### Exercise 1: the head
#
# `x` is `(R, k, k, C)`. Flatten, multiply by `w6`, add `b6`, ReLU (what is negative becomes 0); the same with `w7` and
# `b7`.


# %% exercise="box_head"
def my_box_head(x, w6, b6, w7, b7):
    """The hidden numbers of each RoI (R, width), from its features x (R, k, k, C), by two layers with ReLU."""
    ### BEGIN SOLUTION
    x = x.reshape(len(x), -1)  # (R, k k C)
    x = np.maximum(x @ w6 + b6, 0)
    return np.maximum(x @ w7 + b7, 0)
    ### END SOLUTION


# %% check="box_head"
check.box_head(my_box_head)

# %%
head = model.roi_heads.box_head
weights = [p.data for p in (head.fc6.weight, head.fc6.bias, head.fc7.weight, head.fc7.bias)]
hidden = my_box_head(stages["box_features"], *weights)
with no_grad():
    np.testing.assert_allclose(hidden, head(Tensor(stages["box_features"])).data, rtol=1e-3, atol=1e-3)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 Class scores: softmax
#
# $$p_c = \frac{e^{z_c}}{\sum_j e^{z_j}}$$
#
# By hand: logits 1, 3, 0, -1. Powers of e: 2.7, 20.1, 1.0, 0.4; together 24.2. So **0.11, 0.83, 0.04, 0.02**: cat.

# %%
by_hand = np.exp([1, 3, 0, -1]) / 24.2
np.testing.assert_allclose(softmax_array(np.array([1.0, 3, 0, -1])), by_hand, atol=2e-3)
assert by_hand.round(2).tolist() == [0.11, 0.83, 0.04, 0.02]
probability = softmax_array(stages["class_logits"])  # (200, 4): background, cat, dog, duck
np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
rois = stages["proposals"][0]
sure = [int(probability[:, c].argmax()) for c in range(4)]  # the RoI surest of each class
unsure = int(np.sort(probability, axis=1)[:, -1].argmin())
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=[1, 1.5])
show_found(left, scene.image, np.zeros((0, 4)), [])
for k, (i, color) in enumerate(zip([*sure[1:], sure[0], unsure], (ORANGE, SKY, GREEN, RED, BLUE))):
    outline(left, rois[i], color, width=4)
    left.text(*np.clip(rois[i, :2], 2, 118), "ABCDE"[k], va="top", fontsize=15, color="white", backgroundcolor=color)
    right.bar(np.arange(4) + (k - 2) * 0.17, probability[i], 0.16, color=color, label="ABCDE"[k])
right.set_xticks(range(4), ["background", *class_names])
right.set(ylabel="probability", ylim=(0, 1.05))
right.legend(ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.16), columnspacing=1)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Five of the 200 RoIs: the surest of each class, and E, the least sure of all. The probabilities of a RoI add up
# to 1, so classes compete: more cat is less dog. The masks will not compete (notebook 10).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 Each class has its own box
#
# 4 C deltas: if it is a cat, move so; if it is a dog, move so. *Decode*: divide by the weights **10, 10, 5, 5**, then
#
# $$x = x_a + \text{width}_a\, \frac{d_x}{10}, \qquad \text{width} = \text{width}_a\, e^{\,d_w / 5}$$

# %% [markdown]
# These are the weights by which the targets were multiplied in training (notebook 07). **By hand**, the number of
# notebook 07 backwards: a RoI of 40 x 40 at (10, 20), deltas 2, 0, 0.91, 0. Its middle, 30, moves by 40 · 2 / 10 = 8
# to 38. Its width becomes 40 · e^(0.91 / 5) = 48. So x goes from 38 - 24 = 14 to 38 + 24 = 62.

# %%
box = box_ops.decode(np.array([2, 0, 0.9116, 0]), np.array([10.0, 20, 50, 60]), BOX_WEIGHTS)
print(box.round(2))
np.testing.assert_allclose(box, [14, 20, 62, 60], atol=1e-3)

# %% [markdown]
# ### Exercise 2: a box for each class
#
# A row of `deltas` is dx, dy, dw, dh of class 0, then those of class 1, and so on. A width or height may grow at most
# by a factor of 1000/16 (`box_ops.decode` sees to it, and takes boxes with any leading axes).


# %% exercise="class_boxes"
def my_class_boxes(deltas, rois):
    """The box of each class (R, C, 4), from deltas (R, 4 C) with weights 10, 10, 5, 5, and the RoIs (R, 4)."""
    ### BEGIN SOLUTION
    deltas = deltas.reshape(len(rois), -1, 4)  # (R, C, 4)
    return box_ops.decode(deltas, rois[:, None], (10, 10, 5, 5))
    ### END SOLUTION


# %% check="class_boxes"
check.class_boxes(my_class_boxes)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
every_box = my_class_boxes(stages["box_deltas"], rois)  # (200, 4, 4)
apart = 1 - box_ops.iou(every_box[:, 1:], every_box[:, 1:]).min(axis=(1, 2))
apart[probability[:, 0] > 0.3] = 0
chosen = [int((apart * (probability.argmax(axis=1) == c)).argmax()) for c in (1, 2)]  # one of a cat, one of a dog
figure, panels = plt.subplots(1, 2, figsize=(9.5, 4.1))
for axes, i in zip(panels, chosen):
    show_found(axes, scene.image, every_box[i, 1:], [1, 2, 3])
    outline(axes, rois[i], "black", width=4)
    near = np.concatenate([rois[i, None], every_box[i, 1:]])
    (x, y), side = near.reshape(-1, 2).min(axis=0) - 8, np.ptp(near.reshape(-1, 2), axis=0).max() + 16
    axes.set(xlim=(x, x + side), ylim=(y + side, y))
    axes.set_title(", ".join(f"{name} {p:.2f}" for name, p in zip(class_names, probability[i, 1:])))
figure.supxlabel("black: the RoI; orange: if it is a cat; blue dashed: a dog; violet dotted: a duck", fontsize=14)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Two RoIs and where each class would move them. Only the box of the true class was ever trained for such a RoI; the
# others follow what they learned elsewhere. Each of these boxes with its class is a candidate.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 Candidates: far too many
#
# 200 RoIs, 3 classes: **600 candidates**. A *score threshold* of 0.05 removes what hardly anything speaks for.
# What is left still says everything several times.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
scores = probability[:, 1:].ravel()  # (600,)
labels = np.tile([1, 2, 3], R)
boxes = box_ops.clip(every_box[:, 1:].reshape(-1, 4), scene.image.shape[:2])
likely = scores > 0.05
kept, kept_valid = box_ops.nms(boxes[None], scores[None], likely[None], 0.5, groups=labels[None])
kept = kept[0][kept_valid[0]]
sure_kept = kept[scores[kept] > 0.7]
funnel = {"candidates": np.arange(600), "score > 0.05": np.flatnonzero(likely), "after NMS": kept}
funnel["... score > 0.7"] = sure_kept
figure, panels = plt.subplots(1, 4, figsize=(12, 3.7))
for axes, (name, some) in zip(panels, funnel.items()):
    show_found(axes, scene.image, boxes[some], labels[some], width=1 if len(some) > 100 else 2.5)
    axes.set_title(f"{len(some)}\n{name}")
assert len(funnel["score > 0.05"]) < 300 and len(kept) == found.valid.sum() and len(sure_kept) < 12
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Where do the copies come from? Many anchors overlap one animal, RPN's own suppression is generous (IoU 0.7), and the
# head moves all of them onto the same animal: the better the head, the more equal the copies. NMS is the third panel.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 9 NMS by hand
#
# Repeat: take the **best** box that is left; drop all that overlap it by **more** than the threshold.
#
# Five boxes of 10 x 10 pixels, threshold 0.5. Those 3 pixels apart share 7 x 10 of 13 x 10: IoU **0.54**.

# %%
five = np.array([[3, 0, 13, 10], [0, 0, 10, 10], [6, 0, 16, 10], [28, 0, 38, 10], [27, 0, 37, 10]], float)
five_scores = np.array([0.8, 0.9, 0.7, 0.5, 0.6])
overlaps = box_ops.iou(five, five)
print(overlaps.round(2))
assert overlaps.round(2)[1].tolist() == [0.54, 1, 0.25, 0, 0] and overlaps[0, 2].round(2) == 0.54

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
steps = [  # box taken, boxes dropped by it, boxes taken before
    ("take B (0.9): A goes", 1, [0], []),
    ("take C (0.7): nothing goes", 2, [], [1]),
    ("take E (0.6): D goes", 4, [3], [1, 2]),
]
figure, panels = plt.subplots(3, 1, figsize=(11, 4.8))
gone = []
for axes, (title, taken, dropped, before) in zip(panels, steps):
    gone += dropped
    for i, x in enumerate([8, -2, 18, 40, 25]):
        color = BLUE if i == taken else GREEN if i in before else RED if i in gone else "gray"
        drawn = five[i] + [0, 0.5 * i, 0, 0.5 * i]
        outline(axes, drawn, color, ":" if i in gone else "-", 6 if i == taken else 3)
        axes.text(x, 5 + 0.5 * i, f"{'ABCDE'[i]}\n.{10 * five_scores[i]:.0f}", ha="center", va="center", color=color)
    axes.text(46, 6, title, fontsize=19, va="center")
    axes.set(xlim=(-4, 90), ylim=(-1, 13), aspect="equal")
    axes.axis("off")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Boxes are drawn a little apart in height so that they can be seen; in truth they stand in one row. Blue: taken now.
# Green: taken before. Red dotted: dropped. The catch is C: it overlaps A by 0.54, but A has been dropped by then, and
# who is dropped drops nobody. C overlaps B by 0.25 only, and stays.

# %% [markdown]
# ### Exercise 3: NMS
#
# `boxes` `(R, 4)`, `scores` `(R,)`. Return the indices of the boxes that stay, as an array of integers, in descending
# order of score. Of equal scores the lower index is better: sort with `np.argsort(-scores, kind="stable")`. There
# may be no boxes at all.


# %% exercise="nms"
def my_nms(boxes, scores, threshold):
    """The indices of the boxes that stay (K,), best first: each overlaps no better one that stays by > threshold."""
    ### BEGIN SOLUTION
    left = np.argsort(-scores, kind="stable")
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        overlap = box_ops.iou(boxes[best][None], boxes[left])[0]
        left = left[overlap <= threshold]
    return np.array(kept, int)
    ### END SOLUTION


# %% check="nms"
check.nms(my_nms)

# %%
assert my_nms(five, five_scores, 0.5).tolist() == [1, 2, 4]  # B, C, E, as by hand

# %% [markdown]
# Now against the library, and against torchvision. For 120 boxes around eight places torchvision keeps these 18 of them
# at a threshold of 0.3; a test holds the constants to a file that torchvision made.


# %% tags=["hide-input"]
def crowded_boxes(count=120):
    """Boxes around a few centers with distinct scores: (count, 4) and (count,) float32."""
    rng = np.random.RandomState(0)
    center = rng.uniform(20, 80, (8, 2))[rng.randint(0, 8, count)] + rng.normal(0, 4, (count, 2))
    side = rng.uniform(10, 30, (count, 2))
    boxes = np.concatenate([center - side / 2, center + side / 2], axis=1).astype(np.float32)
    return boxes, (rng.permutation(count) / count).astype(np.float32)


# %%
TORCHVISION = [25, 0, 90, 58, 70, 54, 34, 48, 66, 109, 117, 79, 15, 7, 80, 16, 57, 99]
many, many_scores = crowded_boxes()
mine = my_nms(many, many_scores, 0.3)
print(mine)
assert mine.tolist() == TORCHVISION

everyone = np.ones((1, 120), bool)
for function in (box_ops.nms, box_ops.nms.plain):
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
        theirs, valid = function(many[None], many_scores[None], everyone, threshold)
        np.testing.assert_array_equal(my_nms(many, many_scores, threshold), theirs[0][valid[0]])

# %% [markdown]
# The library's function works on several pictures at once and returns fixed shapes with a mask `valid` (notebook 07
# says why):

# %%
print(inspect.getsource(box_ops.nms))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 10 Class by class
#
# A dog in front of a cat: their boxes overlap, and **both are right**. So a box suppresses only boxes of **its own
# class**. The result is sorted by score over all classes.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}


def truth_lost(sample, threshold):
    """How many true boxes NMS would drop if they were the candidates, across classes and class by class."""
    n = len(sample.boxes)
    falling = np.linspace(0.9, 0.8, n, dtype=np.float32)
    all_valid, groups = np.ones((1, n), bool), sample.labels[None]
    runs = [
        box_ops.nms(sample.boxes[None], falling[None], all_valid, threshold, groups=g)[1] for g in (None, groups)
    ]
    return [n - int(valid.sum()) for valid in runs]


lost = np.array([truth_lost(scenes[i], 0.3) for i in range(200)])
print("true boxes lost in 200 scenes: across classes", lost[:, 0].sum(), " class by class", lost[:, 1].sum())
assert lost[:, 0].sum() > 2 * lost[:, 1].sum()

i = int((lost[:, 0] - lost[:, 1]).argmax())
figure, panels = plt.subplots(1, 2, figsize=(9.5, 4.4))
for axes, per_class in zip(panels, (False, True)):
    sample = scenes[i]
    falling = np.linspace(0.9, 0.8, len(sample.boxes), dtype=np.float32)
    groups = sample.labels[None] if per_class else None
    stay, valid = box_ops.nms(sample.boxes[None], falling[None], falling[None] > 0, 0.3, groups=groups)
    stay = stay[0][valid[0]]
    show_found(axes, sample.image, sample.boxes[stay], sample.labels[stay], width=4)
    axes.set_title(("class by class" if per_class else "across classes") + f": {len(stay)} of {len(falling)} stay")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Here the candidates are the true boxes themselves, so whatever goes is an error of NMS alone. Across the classes
# animals vanish behind their neighbors. Class by class that happens only among animals of one kind.

# %% [markdown]
# ### Exercise 4: NMS of several classes
#
# `labels` `(R,)` are the classes. You can call `my_nms` once for each class and sort afterwards, or once for all, on
# boxes that have been moved so far apart, class by class, that no two classes touch.


# %% exercise="nms_of_classes"
def my_nms_of_classes(boxes, scores, labels, threshold):
    """The indices of the boxes that stay (K,), best first, where only boxes of one class suppress each other."""
    ### BEGIN SOLUTION
    far = np.abs(boxes).max(initial=0) * 2 + 1
    return my_nms(boxes + (labels * far)[:, None], scores, threshold)
    ### END SOLUTION


# %% check="nms_of_classes"
check.nms_of_classes(my_nms_of_classes)

# %% [markdown]
# ## 11 All of it
#
# ### Exercise 5: detections
#
# For one picture, in this order:
#
# 1. Softmax of the logits; the scores are the probabilities of the classes 1 .. C - 1.
# 2. The box of each class, cut at the picture's border (`box_ops.clip(boxes, (height, width))`).
# 3. Candidates: score **above** `score_threshold`, and both sides at least 0.01 pixels
#    (`box_ops.large_enough(boxes, 0.01)`).
# 4. NMS class by class.
# 5. The best `max_detections`.


# %% exercise="detections"
def my_detections(logits, deltas, rois, height, width, score_threshold, nms_threshold, max_detections):
    """Boxes (D, 4), labels (D,) and scores (D,), best first, from logits (R, C), deltas (R, 4 C) and RoIs (R, 4)."""
    ### BEGIN SOLUTION
    scores = softmax_array(logits)[:, 1:]  # (R, C - 1)
    boxes = box_ops.clip(my_class_boxes(deltas, rois)[:, 1:], (height, width))
    labels = np.broadcast_to(np.arange(1, logits.shape[1]), scores.shape)
    good = (scores > score_threshold) & box_ops.large_enough(boxes, 0.01)
    boxes, labels, scores = boxes[good], labels[good], scores[good]
    kept = my_nms_of_classes(boxes, scores, labels, nms_threshold)[:max_detections]
    return boxes[kept], labels[kept], scores[kept]
    ### END SOLUTION


# %% check="detections"
check.detections(my_detections)

# %% [markdown]
# On the trained model's own numbers it finds what the model found:

# %%
raw = stages["class_logits"], stages["box_deltas"], stages["proposals"][0]
mine = my_detections(*raw, *scene.image.shape[:2], 0.05, 0.5, 100)
valid = found.valid[0]
np.testing.assert_array_equal(mine[1], found.labels[0][valid])
np.testing.assert_allclose(mine[0], found.boxes[0][valid], atol=1e-3)
np.testing.assert_allclose(mine[2], found.scores[0][valid], atol=1e-5)
print(len(mine[0]), "detections, as the model's own")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 12 Before and after
#
# Two scenes. **Before**: every candidate with a score above 0.05. **After**: NMS, and a score above 0.7.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}


def run(samples):
    """The Batch of some samples, and what the model says of each proposal: the arguments of `box_head.detect`."""
    batch = model.transform(samples)
    with Trace() as stages:
        model.detect(batch)
    valid = stages["proposal_valid"]
    logits, deltas = np.zeros((*valid.shape, C), np.float32), np.zeros((*valid.shape, 4 * C), np.float32)
    logits[valid], deltas[valid] = stages["class_logits"], stages["box_deltas"]
    return logits, deltas, stages["proposals"], valid, batch.sizes


def detected_in(answers, n=0, **thresholds):
    """Boxes, labels and scores of picture n at some thresholds."""
    found = box_head.detect(*(array[n : n + 1] for array in answers), **thresholds)
    return [array[0][found.valid[0]] for array in (found.boxes, found.labels, found.scores)]


shown = [scenes[i] for i in (8, 4)]
answers = run(shown)
figure, panels = plt.subplots(1, 4, figsize=(12, 3.5))
for n, sample in enumerate(shown):
    before = detected_in(answers, n, nms_threshold=1.0, max_detections=600)
    after = detected_in(answers, n, nms_threshold=0.5, score_threshold=0.7)
    show_found(panels[2 * n], sample.image, *before[:2], width=1)
    show_found(panels[2 * n + 1], sample.image, *after)
    panels[2 * n].set_title(f"before: {len(before[0])}")
    panels[2 * n + 1].set_title(f"after: {len(after[0])}")
    assert len(after[0]) < 10 < len(before[0])
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# An NMS threshold of 1 drops nothing, since no IoU is greater than 1. NMS works class by class, so a box that could be
# two classes is reported twice, unless the score threshold takes one of them: that is what happened to the thin boxes
# in other colors around each animal.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 13 Two knobs: NMS threshold and score threshold

# %% widget=True
crowd_scenes = ToyScenes("test", case="crowded")
crowd_samples = [crowd_scenes[i] for i in range(24)]
crowd_answers = run(crowd_samples)


def neighbors_lost(n):
    """How many detections of scene n a low NMS threshold drops, if a high one finds about as many as there are."""
    few, some = (len(detected_in(crowd_answers, n, nms_threshold=t, score_threshold=0.5)[0]) for t in (0.1, 0.5))
    return some - few - 2 * abs(some - len(crowd_samples[n].boxes))


chosen_scene = max(range(24), key=neighbors_lost)


def draw_thresholds(axes, nms_threshold, score_threshold):
    """What is detected in a crowded scene at two thresholds."""
    found = detected_in(crowd_answers, chosen_scene, nms_threshold=nms_threshold, score_threshold=score_threshold)
    show_found(axes, crowd_samples[chosen_scene].image, *found[:2], width=2.5)
    axes.set_title(f"NMS {nms_threshold:.2f}, score {score_threshold:.2f}:\n{len(found[0])} found", fontsize=16)
    return len(found[0])


def thresholds(nms_threshold=0.5, score_threshold=0.5):
    """One figure for one position of the sliders."""
    draw_thresholds(plt.subplots(figsize=(5, 5))[1], nms_threshold, score_threshold)
    plt.show()


try:
    from ipywidgets import FloatSlider, interact

    sliders = [FloatSlider(value=0.5, min=0.05, max=0.95, step=0.05) for _ in range(2)]
    interact(thresholds, nms_threshold=sliders[0], score_threshold=sliders[1])
except ImportError:  # no widgets installed
    thresholds()

# %% [markdown]
# Without sliders, four positions:

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 4, figsize=(12, 4.1))
positions = [(0.1, 0.5), (0.5, 0.5), (0.9, 0.5), (0.5, 0.05)]
numbers = [draw_thresholds(axes, *position) for axes, position in zip(panels, positions)]
figure.supxlabel(f"in truth: {len(crowd_samples[chosen_scene].boxes)} animals", fontsize=16)
assert numbers[0] < numbers[1] < numbers[2] and numbers[3] > numbers[1]
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# NMS threshold too low: true neighbors go. Too high: copies stay. Score threshold too low: whatever the head half
# believes is reported. There is no position that is right for every scene; the next slide measures which is best on
# average.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 14 Precision and recall as thresholds move
#
# A detection is *right* if it overlaps an object of its class, not yet found, by IoU 0.5 or more.
#
# - **Precision**: how many of the detections are right. **Recall**: how many of the objects are found.


# %%
def precision_and_recall(answers, samples, nms_threshold):
    """Scores of all detections, falling, and precision and recall of those that score at least as much."""
    scores, right = [], []
    for n, sample in enumerate(samples):
        taken = np.zeros(len(sample.boxes), bool)
        for box, label, score in zip(*detected_in(answers, n, nms_threshold=nms_threshold, max_detections=600)):
            overlap = box_ops.iou(box[None], sample.boxes)[0] * (sample.labels == label) * ~taken
            best = overlap.argmax()
            scores.append(score)
            right.append(overlap[best] >= 0.5)
            taken[best] |= right[-1]
    order = np.argsort(-np.array(scores), kind="stable")
    hits = np.array(right)[order].cumsum()
    return np.array(scores)[order], hits / np.arange(1, len(hits) + 1), hits / sum(len(s.boxes) for s in samples)


def at(curve, score):
    """Precision and recall at a score threshold."""
    scores, precision, recall = curve
    last = int((scores > score).sum()) - 1
    return float(precision[last]), float(recall[last])


curves = {t: precision_and_recall(crowd_answers, crowd_samples, t) for t in np.arange(0.1, 1, 0.1).round(1)}
for t in (0.1, 0.5, 0.9):
    print(f"NMS threshold {t}: precision {at(curves[t], 0.5)[0]:.2f}, recall {at(curves[t], 0.5)[1]:.2f} at score 0.5")

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.9))
scores, precision, recall = curves[0.5]
left.plot(scores, precision, color=BLUE, linewidth=4, label="precision")
left.plot(scores, recall, "--", color=RED, linewidth=4, label="recall")
left.set(xlabel="score threshold (NMS at 0.5)", ylim=(0, 1.03), xlim=(0.05, 1))
left.legend(loc="lower center")
for t, color, style in ((0.1, RED, ":"), (0.5, BLUE, "-"), (0.9, ORANGE, "--")):
    _, precision, recall = curves[t]
    right.plot(recall, precision, style, color=color, linewidth=4, label=f"NMS at {t}")
    right.plot(*at(curves[t], 0.5)[::-1], "o", color=color, markersize=13, markeredgecolor="black")
right.set(xlabel="recall", ylabel="precision", ylim=(0, 1.03), xlim=(0, 1.03))
right.legend(loc="lower left", title="dots: score 0.5")
high, low = at(curves[0.5], 0.9), at(curves[0.5], 0.1)
assert high[0] > low[0] and high[1] < low[1]  # a higher score threshold: more precise, and more is missed
assert at(curves[0.9], 0.5)[0] < at(curves[0.5], 0.5)[0]  # copies cost precision
assert at(curves[0.1], 0.5)[1] < at(curves[0.5], 0.5)[1]  # dropped neighbors cost recall
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# 24 crowded scenes. Left: the score threshold trades precision for recall. Right: each curve is one NMS threshold, and
# the score threshold runs along it. 0.1 ends early: what NMS dropped cannot be found at any score. 0.9
# lies low: of ten copies at most one is right. Average precision (notebook 14) is the area under such a curve. That is
# why detectors keep scores down to 0.05 when they are measured, and show a person only those above 0.5 or 0.7.

# %% [markdown]
# ### The price of NMS
#
# NMS assumes that two boxes of one class that overlap much are one object. For an animal in front of another of its
# kind that is false, and no threshold is right for both copies and neighbors:

# %% tags=["hide-input"]
recalls = [curve[2][-1] for curve in curves.values()]
precisions = [at(curve, 0.5)[0] for curve in curves.values()]
figure, axes = plt.subplots(figsize=(9, 3.6))
axes.plot(list(curves), recalls, "o--", color=RED, linewidth=3, markersize=10, label="recall, all scores")
axes.plot(list(curves), precisions, "s-", color=BLUE, linewidth=3, markersize=10, label="precision at score 0.5")
axes.set(xlabel="NMS threshold", ylim=(0, 1.05), xticks=list(curves))
axes.legend()
axes.grid(alpha=0.4)
assert recalls[0] < recalls[4] and precisions[-1] < precisions[4] / 2
plt.show()

# %% [markdown]
# ## 15 The fast version
#
# Our loop in Python computes one row of overlaps for each box that stays. The library's kernel is the same sweep,
# compiled. The array code (`nms.plain`) computes the whole table.

# %%
boxes_2000, scores_2000 = crowded_boxes(2000)
everyone = np.ones((1, 2000), bool)
call = boxes_2000[None], scores_2000[None], everyone, 0.7
box_ops.nms(*call)  # compiled before it is timed
rows = {
    "loop over those that stay": seconds(my_nms, boxes_2000, scores_2000, 0.7),
    "array code, whole table": seconds(box_ops.nms.plain, *call, repeats=1),
    "kernel, Numba": seconds(box_ops.nms, *call),
}
for name, t in rows.items():
    print(f"{name:28} {1000 * t:8.1f} ms")
fast, fast_valid = box_ops.nms(*call)
np.testing.assert_array_equal(my_nms(boxes_2000, scores_2000, 0.7), fast[fast_valid])
assert rows["kernel, Numba"] < rows["loop over those that stay"]

# %% [markdown]
# ## 16 Common misconceptions
#
# ### "NMS drops every box that overlaps a better one"
#
# A better one **that stays**. In a row of boxes the first drops the second, and the third is free again. If dropped
# boxes could still drop others, whole rows would vanish:

# %%
row = np.array([[3 * i, 0, 3 * i + 10, 10] for i in range(6)], float)
falling = np.linspace(0.9, 0.4, 6)
overlap = box_ops.iou(row, row)
wrong = [i for i in range(6) if not (overlap[i, :i] > 0.5).any()]
print("right:", my_nms(row, falling, 0.5).tolist(), " dropped ones still drop:", wrong)
assert my_nms(row, falling, 0.5).tolist() == [0, 2, 4] and wrong == [0]

# %% [markdown]
# ### "The width is x2 - x1 + 1"
#
# It was, in programs of the 2000s that counted pixels by their numbers. Here a corner is a place, and pixel 3 reaches
# from 3 to 4. With + 1, two small boxes seem to overlap more than they do:

# %%
small = np.array([[0, 0, 2, 2], [1, 0, 3, 2]], float)
exact = box_ops.iou(small[:1], small[1:])[0, 0]
plus_one = box_ops.iou(small[:1] + [0, 0, 1, 1], small[1:] + [0, 0, 1, 1])[0, 0]
print(f"IoU {exact:.2f}, with + 1 {plus_one:.2f}")
assert exact < 0.4 < plus_one

# %% [markdown]
# ### "The best score has the best box"
#
# NMS keeps the box with the best **score**, which is about the class. Another one may fit better, and is dropped:

# %%
worse, pairs = 0, 0
for n, sample in enumerate(crowd_samples):
    every = detected_in(crowd_answers, n, nms_threshold=1.0, max_detections=600)
    for box, label in zip(sample.boxes, sample.labels):
        overlap = box_ops.iou(box[None], every[0])[0] * (every[1] == label)
        near = np.flatnonzero(overlap > 0.5)  # candidates for this object, the best first
        if len(near) > 1:
            pairs += 1
            worse += overlap[near[0]] < overlap[near].max()
print(f"for {worse} of {pairs} animals a box with a lower score fits better")
assert worse > pairs / 4

# %% [markdown]
# ### "A RoI yields one detection"
#
# Each class with a score above the threshold is a candidate with its own box. An animal that could be a cat or a dog is
# reported as both:

# %%
above = (probability[:, 1:] > 0.05).sum(axis=1)
print("RoIs with 0, 1, 2, 3 classes above 0.05:", np.bincount(above, minlength=4).tolist())
assert (above > 1).any()

# %% [markdown]
# ### "Scores of the classes add up to 1"
#
# Those of all classes **with the background** do. Without it little may be left:

# %%
print("least sum of the three animals' probabilities:", probability[:, 1:].sum(axis=1).min().round(4))
assert probability[:, 1:].sum(axis=1).min() < 0.1

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Recap
#
# 1. Network once, then crop: on our model 109 times fewer operations than crop, then network.
# 2. Class, box and mask are read in parallel from the same RoI features.
# 3. The box head: flatten, two layers, C logits and 4 C deltas; softmax, and a box for each class.
# 4. NMS: take the best, drop what overlaps it by more than the threshold, repeat; class by class.
# 5. NMS and score threshold trade precision for recall; neighbors of one class are the price.

# %% [markdown]
# ## Quiz
#
# 1. Why does R-CNN need so many more operations than Fast R-CNN?
# 2. What would change in the boxes if the mask branch had random weights?
# 3. How many weights has the first layer of a box head that reads 7 x 7 bins of 256 channels, with 1,024 outputs?
# 4. A model has 81 classes with the background. How many numbers does the box head put out for each RoI?
# 5. Deltas 0, 0, 0, 3.47 of a class, a RoI 30 pixels high. How high is its box?
# 6. Boxes A, B, C with scores 0.9, 0.8, 0.7; B overlaps A and C by 0.54, A overlaps C by 0.25. What stays at 0.5?
# 7. And what stays at a threshold of 0.7?
# 8. Two boxes overlap by exactly the threshold. Does the better one drop the other?
# 9. Why does a detector that is measured keep scores down to 0.05?
# 10. Why is the mask branch run on detections only, though it is trained on RoIs?
#
# <details><summary>Answers</summary>
#
# 1. It runs the network on each crop; Fast R-CNN runs it once and crops the feature map.
# 2. Nothing: neither head reads the other's answer.
# 3. 7 · 7 · 256 · 1,024 = 12.8 million.
# 4. 81 logits and 4 · 81 = 324 deltas.
# 5. 30 · e^(3.47 / 5) = 60 pixels.
# 6. A and C. A drops B, and B, being dropped, drops nothing.
# 7. All three.
# 8. No: only an IoU greater than the threshold drops.
# 9. Average precision looks at the whole curve of precision over recall; the low scores are its right end.
# 10. Thrift: masks are expensive and most RoIs are thrown away. Detections are also the better boxes.
#
# </details>
