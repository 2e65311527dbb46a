# %% [markdown] slides=["L09"] slideshow={"slide_type": "slide"}
# # 03 The backbone: from a picture to feature maps (L09)
#
# **Question.** Two pixels have the same color. One lies on an animal, one on the ground. **What must a network
# compute at each place, so that they differ?**

# %%
import inspect
import time

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrow, Rectangle
from PIL import Image

import minimask
from minimask import check, conventions, device, draw, mask_rcnn, nn, presets
from minimask import functional as F
from minimask.backbone import RESNETS, BasicBlock, Bottleneck, resnet
from minimask.convolution import conv2d
from minimask.datasets.toy import ToyScenes
from minimask.losses import class_loss
from minimask.machine.threads import set_threads, threads
from minimask.normalization import batch_norm
from minimask.optim import SGD
from minimask.tensor import Tensor, no_grad
from minimask.trace import Trace

plt.rcParams.update({"figure.figsize": (9, 4.5), "figure.dpi": 100, "font.size": 14})
plt.rcParams["figure.constrained_layout.use"] = True
ORANGE, SKY, RED, BLUE, GREEN = draw.COLORS[[0, 1, 2, 4, 6]] / 255

# %% [markdown]
# **Words of this notebook**
#
# - *Feature map*: an array `(H, W, C)` that a network computes from a picture: `H x W` *cells* with `C` numbers each,
#   its *channels*. The numbers of one cell are its *feature vector*.
# - *Stride* of a map: how many pixels of the picture lie between two of its cells.
# - *Backbone*: the network that turns a picture into feature maps. Everything else in Mask R-CNN reads those, never the
#   picture.
# - *Level*: one of the backbone's maps. `C2` has stride 4 = 2², `C3` stride 8 = 2³, and so on to `C5`, stride 32.
# - *Depth*: how many convolutions (notebook 02) come one after the other. *ResNet-50*: a well-known backbone with 50
#   such layers, in *residual* blocks (section 3); *ResNet-18* is a small one, *ResNeXt* a relative (section 7).
# - *ImageNet*: a million photos, each with one of 1000 classes, on which backbones are trained first.
# - *PyTorch*: the library in which most networks are written; *torchvision*, *Detectron2*: two libraries on top of it,
#   with Mask R-CNNs whose trained weights are published (notebook 18).
# - *Normalization*: channels are shifted and scaled so that their numbers stay of a size (section 8).
#
# The picture of the question is a drawn scene. Among all pixels of its animals and all pixels around them, these two
# have exactly the same color:

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
scene = ToyScenes("test")[3]
animal = scene.masks.any(axis=0)  # (128, 128) bool


def spread_out(mask, by):
    """The mask and all pixels within `by` pixels of it."""
    wide = np.pad(mask, by)
    for y, x in np.ndindex(2 * by + 1, 2 * by + 1):
        if np.hypot(y - by, x - by) <= by:
            wide[y : y + mask.shape[0], x : x + mask.shape[1]] |= mask
    return wide[by:-by, by:-by]


inside, outside = np.argwhere(~spread_out(~animal, 4)), np.argwhere(~spread_out(animal, 6))
colors = scene.image.astype(int)
apart = abs(colors[tuple(inside.T)][:, None] - colors[tuple(outside.T)]).max(axis=2)  # (inside, outside)
a, b = np.unravel_index(apart.argmin(), apart.shape)
SAME = inside[a], outside[b]  # row, column of both pixels
print("largest difference in a color:", apart[a, b])
assert apart[a, b] == 0 and animal[tuple(SAME[0])] and not animal[tuple(SAME[1])]

figure, (axes, *zooms) = plt.subplots(1, 3, figsize=(9.5, 4.2), width_ratios=[2, 1, 1])
axes.imshow(scene.image)
axes.set(xticks=[], yticks=[])
for (y, x), zoom, color, name in zip(SAME, zooms, (ORANGE, BLUE), ("on an animal", "on the ground")):
    axes.plot(x, y, "o", markersize=24, markerfacecolor="none", markeredgecolor=color, markeredgewidth=5)
    zoom.imshow(scene.image[y - 3 : y + 4, x - 3 : x + 4])
    zoom.add_patch(Rectangle((2.5, 2.5), 1, 1, fill=False, edgecolor=color, linewidth=5))
    zoom.set(xticks=[], yticks=[], title=f"{name}\n{tuple(map(int, scene.image[y, x]))}")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecture:* the three numbers in brackets are red, green and blue of the framed pixel. Ask the room which of
# the two is the animal, from the framed pixel alone: nobody can tell. The squares of 7 x 7 pixels give a hint; from the
# picture everybody knows. So the answer lies in what is *around* a pixel, in circles of growing size: fur, an ear, a
# head, an animal. That is what depth buys.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 1 What goes in, what comes out
#
# - **In:** a picture `(H, W, 3)`. **Out:** four maps, each half as high and wide as the one before, with more channels.
# - Each cell describes what is around it in the picture. L09's "feature map of a deep network" is one of these.

# %%
resnet50 = resnet("resnet50")  # random weights: we look at shapes
with no_grad():
    levels = resnet50(Tensor(np.zeros((1, 224, 224, 3), np.float32)))
for k, (level, stride) in enumerate(zip(levels, resnet50.strides), start=2):
    print(f"C{k}  stride {stride:2}  {level.shape[1:]}  numbers: {level.data.size:7,}")
assert [level.shape[1:] for level in levels] == [(56, 56, 256), (28, 28, 512), (14, 14, 1024), (7, 7, 2048)]
assert resnet50.strides == [4, 8, 16, 32]

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(10, 4.2))
left = 0
shown = [("picture", 224, 3, "lightgray"), *((f"C{k}", x.shape[1], x.shape[3], c)
         for k, x, c in zip((2, 3, 4, 5), levels, (ORANGE, SKY, GREEN, RED)))]  # fmt: skip
for name, side, channels, color in shown:
    for layer in range(sheets := max(1, channels // 128)):  # one sheet stands for 128 channels
        place = left + 4 * (sheets - 1 - layer), -side / 2 + 4 * (sheets - 1 - layer)
        axes.add_patch(Rectangle(place, side, side, facecolor=color, edgecolor="black"))
    text = f"{name}\n{side} x {side}\nx {channels}"
    axes.text(left + side / 2, -122, text, ha="center", va="top", fontsize=16)
    left += max(side + 4 * sheets, 80) + 50
axes.set(xlim=(-5, left), ylim=(-200, 115), aspect="equal")
axes.axis("off")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# ResNet-50 and a picture of 224 x 224 pixels, to scale; a sheet stands for 128 channels. From each level to the next
# there are four times fewer cells and twice the channels, so half the numbers. Where something is gets coarser, what it
# is gets richer. Real detectors use pictures of 800 pixels; then C5 has 25 rows.

# %% [markdown]
# Why halve? A convolution on a map of half the sides costs a quarter, and a window of 3 x 3 cells reaches twice as far.
# Both are wanted, and both are measured below: cost in section 4, reach in section 9.
#
# In the course's trained model all this is smaller, so that it runs on any machine: a ResNet-18 with strides 2, 4, 8
# and 16 (so its levels are called C1 to C4) and 32 to 128 channels.

# %%
model = minimask.load("toy")
class_names = model.class_names
model.eval()  # in use, not in training: that matters to norms (section 8)
body = model.backbone.body
print(class_names, body.strides, body.out_channels)


def feature_maps(images):
    """The levels of the trained model for a list of pictures of one size: {"C1": (N, H, W, C), ...}."""
    with no_grad(), Trace() as stages:
        model.features(Tensor(model.transform(images).images))
    return {name: stages[name] for name in ("C1", "C2", "C3", "C4")}


maps = feature_maps([scene.image])
assert [maps[f"C{k}"].shape[1] for k in (1, 2, 3, 4)] == [128 // s for s in body.strides] == [64, 32, 16, 8]

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 Why not simply stack convolutions?
#
# **Left:** the gradient that arrives at the first layer, for each unit at the last. The chain rule multiplies a factor
# a layer: 0.8 to the power of 100 is 0.0000000002.
# **Right:** 26 layers learn to tell cats, dogs and ducks apart. Plain ones do not begin to.

# %% [markdown]
# In a *plain* stack each layer reads the one before. In a *residual* one every second layer's result is **added** to
# what went in: `x + F(x)`. First we send a random gradient through stacks of random weights, as they are before
# training. `gain` scales the weights; at gain 1 (*He initialization*) a convolution with ReLU keeps the size of its
# numbers on average.


# %%
def gradient_at_the_first_layer(depth, residual=False, normalized=False, gain=1.0, channels=16):
    """Size of the gradient that reaches the input of `depth` convolutions, relative to what was sent."""
    rng = np.random.default_rng(depth)
    one, zero = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    first = x = Tensor(rng.standard_normal((8, 8, 8, channels)).astype(np.float32), requires_grad=True)
    for _ in range(depth // 2):
        y = x
        for layer in range(2):
            w = rng.standard_normal((3, 3, channels, channels)) * gain * np.sqrt(2 / (9 * channels))
            y = conv2d(y, Tensor(w.astype(np.float32)), padding=1)
            if normalized:
                y = batch_norm(y, Tensor(one), Tensor(zero), zero.copy(), one.copy(), training=True)
            y = F.relu(y) if layer == 0 else y
        x = F.relu(x + y if residual else y)
    sent = rng.standard_normal(x.shape).astype(np.float32)
    x.backward(sent)
    return np.linalg.norm(first.grad) / np.linalg.norm(sent)


print("0.8 ** 100 =", 0.8**100)
before = threads()
set_threads(1)  # these layers are so small that to share them out takes longer than to compute them
DEPTHS = (2, 10, 25, 50, 75, 100)
KINDS = {  # what to draw: settings, color, line
    "plain, weights x 0.8": (dict(gain=0.8), ORANGE, "-"),
    "plain, weights x 1.2": (dict(gain=1.2), ORANGE, "--"),
    "plain, batch norm": (dict(normalized=True), RED, "-."),
    "residual, batch norm": (dict(normalized=True, residual=True), BLUE, "-"),
}
arrives = {name: [gradient_at_the_first_layer(d, **how[0]) for d in DEPTHS] for name, how in KINDS.items()}
for name, sizes in arrives.items():
    print(f"{name:22}", "  ".join(f"{size:8.1e}" for size in sizes))
assert arrives["plain, weights x 0.8"][-1] < 1e-9 and arrives["plain, weights x 1.2"][-1] > 1e4
assert arrives["plain, batch norm"][-1] > 1e5  # the norm keeps the maps of a size, but not the gradients
assert 1 < arrives["residual, batch norm"][-1] < 100

# %% [markdown]
# Three lessons. Without a norm the gradient of a plain stack is right for one gain only, and vanishes or explodes a
# little beside it. With *batch norm* (section 8) the gain no longer matters, but the gradient now grows with every
# layer, ten million times in a hundred. In a residual stack it grows about as fast as the depth: the sum hands the
# gradient back to `x` as it is, whatever `F` does.
#
# The same stacks, trained. Pictures of 16 x 16 pixels, one animal each:


# %%
def animals(split, scenes, side=16):
    """Each animal of some scenes, cut out: pictures (N, side, side, 3) from -1 to 1, and labels (N,) from 0."""
    pictures, labels = [], []
    for sample in (ToyScenes(split, seed=3)[i] for i in range(scenes)):
        for box, label in zip(sample.boxes, sample.labels):
            cut = Image.fromarray(sample.image).crop(tuple(map(int, box)))
            pictures.append(np.asarray(cut.resize((side, side), Image.Resampling.BOX)))
            labels.append(label - 1)
    return np.stack(pictures).astype(np.float32) / 128 - 1, np.array(labels)


class Stack(nn.Module):
    """depth convolutions with batch norm, the first with stride 2; the mean over all places; a class."""

    def __init__(self, depth, residual, channels=8):
        self.residual = residual
        self.convs = nn.ModuleList(
            nn.Conv2d(channels if i else 3, channels, 3, 1 if i else 2, 1, bias=False) for i in range(depth - 1)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels, relu=True) for _ in self.convs)
        self.classes = nn.Linear(channels, 3)

    def forward(self, x):
        x = self.norms[0](self.convs[0](x))
        for i in range(1, len(self.convs) - 1, 2):
            y = self.norms[i](self.convs[i](x))
            x = self.norms[i + 1](self.convs[i + 1](y), residual=x if self.residual else None)
        return self.classes(x.mean(axis=(1, 2)))


def train(depth, residual, steps=100, batch=32, learning_rate=0.05):
    """The loss of each step."""
    nn.seed_initializers(0)
    stack, rng, losses = Stack(depth, residual), np.random.default_rng(0), []
    optimizer = SGD(stack.parameters(), learning_rate)
    for step in range(steps):
        optimizer.lr = learning_rate * min(1, (step + 1) / 10)
        chosen = rng.choice(len(pictures), batch, replace=False)
        # the loss of a class, small if the right one gets the largest of three numbers: notebook 11
        loss = class_loss(stack(Tensor(pictures[chosen])), labels[chosen], np.ones(batch, np.float32))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.data))
    return np.array(losses)


pictures, labels = animals("train", 120)
start = time.perf_counter()
losses = {
    "plain, 8 layers": train(8, False),
    "plain, 26 layers": train(26, False),
    "residual, 26 layers": train(26, True),
}
set_threads(before)
print(f"{len(pictures)} animals, {time.perf_counter() - start:.0f} seconds")
chance = np.log(3)  # the loss of somebody who gives each of three classes 1/3 (notebook 11)
for name, loss in losses.items():
    print(f"{name:20} loss of the last 20 steps {loss[-20:].mean():.2f}   (chance {chance:.2f})")
assert losses["plain, 26 layers"][-20:].mean() > 1.0  # learned nothing
assert losses["residual, 26 layers"][-20:].mean() < losses["plain, 8 layers"][-20:].mean() < 0.9

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.3))
for name, (_, color, line) in KINDS.items():
    left.semilogy(DEPTHS, arrives[name], line, color=color, linewidth=3.5, label=name)
left.set(xlabel="layers", ylabel="gradient at the first layer", yticks=[1e-12, 1e-6, 1, 1e6])
left.legend(fontsize=11, loc="lower left")
for (name, loss), color, line in zip(losses.items(), (ORANGE, RED, BLUE), (":", "-.", "-")):
    right.plot(draw.smoothed(loss, 0.8), line, color=color, linewidth=3.5, label=name)
right.axhline(chance, color="gray", linewidth=1.5)
right.text(99, chance + 0.02, "guessing", ha="right", va="bottom")
right.set(xlabel="training step", ylabel="loss", ylim=(0, 1.6))
right.legend(fontsize=12, loc="lower left")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Both pictures are computed, not drawn. Left: note the axis, from a million-millionth to ten million. Right: the
# shallow plain stack learns, the deep one stays at guessing, though it could copy the shallow one and let its other
# layers do nothing. This is what He et al. 2016 report on their first page: 56 plain layers do worse than 20, on the
# *training* set, so it is not *overfitting*, learning by heart. Their remedy is the next slide: make "do nothing" the
# easiest thing to learn.

# %% [markdown]
# Turn the gain of a plain stack, and see how little it takes:


# %% widget=True
SHALLOW = (2, 10, 20, 30, 40)


def draw_gain(axes, gain):
    """The gradient at the first layer of stacks of 2 to 40 layers: plain with this gain, and residual."""
    sizes = [gradient_at_the_first_layer(depth, gain=gain) for depth in SHALLOW]
    axes.semilogy(SHALLOW, sizes, "o-", color=ORANGE, linewidth=3, label="plain")
    residual = [arrives["residual, batch norm"][DEPTHS.index(depth)] for depth in (2, 10, 25)]
    axes.semilogy((2, 10, 25), residual, "s--", color=BLUE, linewidth=3, label="residual, batch norm")
    axes.set(xlabel="layers", ylim=(1e-5, 1e5))
    axes.set_title(f"gain {gain:.2f}:\nafter 40 layers {sizes[-1]:.2g}", fontsize=13)
    return sizes[-1]


def gain_of(gain=1.0):
    """One figure for one position of the slider."""
    draw_gain(plt.subplots(figsize=(6, 4))[1], gain)
    plt.legend()
    plt.show()


try:
    from ipywidgets import FloatSlider, interact

    interact(gain_of, gain=FloatSlider(min=0.8, max=1.2, step=0.05, value=1.0, continuous_update=False))
except ImportError:  # no widgets installed
    gain_of()

# %% [markdown]
# Without a slider, three positions. A tenth more or less at each of 40 layers is a factor of nearly a hundred:
# 0.9 to the power of 40 is 0.015, 1.1 to the power of 40 is 45.

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True)
ends = [draw_gain(axes, gain) for axes, gain in zip(panels, (0.9, 1.0, 1.1))]
panels[0].set_ylabel("gradient at the first layer")
panels[2].legend(loc="lower right", fontsize=12)
assert ends[0] < 0.2 * ends[1] and ends[2] > 5 * ends[1]
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 The residual block
#
# $$y = \max(0,\; x + F(x)), \qquad F(x) = \text{conv}(\max(0, \text{conv}(x)))$$
#
# **By hand,** one cell, one channel, weights 0.5 and 0.2: $x = 2$; $F = 0.2 \cdot \max(0, 0.5 \cdot 2) = 0.2$;
# $y = 2.2$.
#
# Gradient: $1 + 0.2 \cdot 0.5 = \mathbf{1.1}$. Without the 1 it is **0.1**, and after ten blocks 0.0000000001.

# %%
x = Tensor(np.array([2.0]), requires_grad=True)
branch = 0.2 * F.relu(0.5 * x)
y = F.relu(x + branch)
y.backward(np.ones(1))
assert np.isclose(y.data, 2.2) and np.isclose(x.grad, 1.1)

x = Tensor(np.array([2.0]), requires_grad=True)
F.relu(0.2 * F.relu(0.5 * x)).backward(np.ones(1))
assert np.isclose(x.grad, 0.1)
print("ten blocks: plain", 0.1**10, " residual", round(1.1**10, 2))

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(10, 2.6))
axes.set(xlim=(0, 10), ylim=(0.2, 3.1))
axes.axis("off")
arrow = dict(arrowstyle="-|>", linewidth=3, color="black", shrinkA=0, shrinkB=0)
for left, text in ((1.6, "conv"), (3.2, "ReLU"), (4.8, "conv"), (8, "ReLU")):
    color = SKY if text == "conv" else "lightgray"
    axes.add_patch(Rectangle((left, 0.4), 1.1, 1, facecolor=color, edgecolor="black"))
    axes.text(left + 0.55, 0.9, text, ha="center", va="center")
for start, stop in ((0.7, 1.6), (2.7, 3.2), (4.3, 4.8), (5.9, 6.65), (7.25, 8), (9.1, 9.7)):
    axes.annotate("", (stop, 0.9), (start, 0.9), arrowprops=arrow)
axes.plot([1.1, 1.1, 6.95], [0.9, 2.3, 2.3], color=ORANGE, linewidth=4)
axes.annotate("", (6.95, 1.25), (6.95, 2.35), arrowprops={**arrow, "color": ORANGE, "linewidth": 4})
axes.text(4, 2.4, "the shortcut: x as it is; backward: the gradient as it is", ha="center", va="bottom", color=RED)
for place, text in ((0.4, "x = 2"), (2.95, "1.0"), (4.55, "1.0"), (6.3, "0.2"), (7.6, "2.2"), (9.75, "2.2")):
    axes.text(place, 1.08 if place > 1 else 0.9, text, ha="center", va="bottom" if place > 1 else "center")
axes.text(6.95, 0.9, "+", ha="center", va="center", fontsize=26)
axes.add_patch(plt.Circle((6.95, 0.9), 0.3, fill=False, linewidth=2))
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Two things to say. A block whose weights are all 0 does nothing, and adding such a block to a trained network never
# hurts: depth is free until it is useful. And the 1 in the gradient: along the orange line the gradient walks from the
# last layer to the first without being multiplied by anything. The ReLU comes *after* the sum; before it, a block could
# only ever add.

# %% [markdown]
# ### Exercise 1: a residual block
#
# Two 3 x 3 convolutions with a ReLU between them, the shortcut, and a ReLU at the end. There is no norm yet. Use
# `conv3x3`, which keeps the size of a map:


# %%
def conv3x3(x, w):
    """Convolution of a map (H, W, Cin) with weights (3, 3, Cin, Cout), padding 1: (H, W, Cout)."""
    return conv2d(x[None], w, padding=1).data[0]


# %% exercise="residual_block"
def my_residual_block(x, w1, w2):
    """max(0, x + F(x)) of a map x (H, W, C), F: conv3x3 with w1 (3, 3, C, C), ReLU, conv3x3 with w2: (H, W, C)."""
    ### BEGIN SOLUTION
    y = np.maximum(0, conv3x3(x, w1))
    return np.maximum(0, x + conv3x3(y, w2))
    ### END SOLUTION


# %% check="residual_block"
check.residual_block(my_residual_block)

# %% [markdown]
# The library's block of ResNet-18 is this one with a norm behind each convolution. Before training its norms do
# nothing, so it must give your numbers:

# %%
block = BasicBlock(4, 4, stride=1, norm="frozen").to(np.float64)
for norm in (block.bn1, block.bn2):
    norm.eps = 0.0
x = np.random.default_rng(0).standard_normal((5, 6, 4))
mine = my_residual_block(x, block.conv1.weight.data, block.conv2.weight.data)
np.testing.assert_allclose(block(Tensor(x[None])).data[0], mine, atol=1e-12)
print(inspect.getsource(BasicBlock.forward))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 The bottleneck: a seventeenth of the weights
#
# A map with 256 channels. **Two 3 x 3:** 2 · 9 · 256 · 256 = **1,179,648** weights.
#
# **Bottleneck:** 1 x 1 down to 64, 3 x 3 there, 1 x 1 back: 256·64 + 9·64·64 + 64·256 = **69,632**.
#
# Each weight is used once at each cell: on 56 x 56 cells 218 million *multiply-adds*, instead of 3,699 million.

# %%
plain = 2 * 9 * 256 * 256
narrow = 256 * 64, 9 * 64 * 64, 64 * 256
assert plain == 1_179_648 and narrow == (16_384, 36_864, 16_384) and sum(narrow) == 69_632
assert plain // sum(narrow) == 16 and round(plain / sum(narrow)) == 17
assert round(sum(narrow) * 56 * 56 / 1e6) == 218 and round(plain * 56 * 56 / 1e6) == 3699

block = resnet50.layer1[1]  # ResNet-50's own
assert [block.conv1.weight.data.size, block.conv2.weight.data.size, block.conv3.weight.data.size] == list(narrow)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9.5, 3))
start = 0
for size, color, name in zip((plain / 2, plain / 2), (RED, ORANGE), ("3 x 3, 256 to 256", "3 x 3, 256 to 256")):
    axes.barh(1, size / 1000, left=start, color=color, edgecolor="black")
    axes.text(start + size / 2000, 1, name, ha="center", va="center")
    start += size / 1000
start = 0
for size, color in zip(narrow, (SKY, BLUE, SKY)):
    axes.barh(0, size / 1000, left=start, color=color, edgecolor="black")
    start += size / 1000
axes.text(start + 15, 0, "1 x 1, 3 x 3, 1 x 1: 69,632", va="center")
axes.set_yticks([0, 1], ["bottleneck", "two 3 x 3"])
axes.set(xlabel="thousands of weights", xlim=(0, 1250))
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The expensive 3 x 3 works on a quarter of the channels. The bottleneck has one 3 x 3 where the other has two, so it
# reaches less far, but for the price of one wide block one gets seventeen of these. ResNet-18 and -34 have blocks of
# two 3 x 3 convolutions, ResNet-50, -101 and -152 bottlenecks; their deepest maps have four times as many channels.

# %% [markdown]
# ### Exercise 2: what a convolution costs
#
# Count its weights (there is no bias: a norm follows, which has one) and its multiply-adds. It is padded, so that a map
# of `height` rows has `height / stride` rows afterwards, rounded up. With *groups* (section 7) the channels are cut
# into that many equal parts: each output sees the inputs of its own part only.


# %% exercise="convolution_cost"
def my_convolution_cost(height, width, kernel, channels_in, channels_out, stride, groups):
    """(parameters, multiply-adds) of a convolution with a kernel x kernel window on a map of height x width cells."""
    ### BEGIN SOLUTION
    parameters = kernel * kernel * channels_in // groups * channels_out
    rows, columns = -(-height // stride), -(-width // stride)  # rounded up
    return parameters, parameters * rows * columns
    ### END SOLUTION


# %% check="convolution_cost"
check.convolution_cost(my_convolution_cost)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 ResNet-50: 25.6 million weights, 4.1 billion multiply-adds
#
# Four stages of 3, 4, 6 and 3 bottlenecks. Weights sit in the late stages, work is spread over all of them.

# %% [markdown]
# The walk through a network of bottlenecks: each convolution's weights, times the cells of its result.


# %%
def conv_costs(body, side=224):
    """(stage, parameters, multiply-adds) of each convolution of a ResNet of bottlenecks, for a square picture."""
    side //= 2
    yield 0, body.conv1.weight.data.size, body.conv1.weight.data.size * side**2
    side //= 2  # max pooling: the largest of 3 x 3 cells, with stride 2
    for stage in (1, 2, 3, 4):
        for block in getattr(body, f"layer{stage}"):
            convs = [block.conv1, block.conv2, block.conv3]
            for conv in convs:
                side //= conv.settings["stride"]
                yield stage, conv.weight.data.size, conv.weight.data.size * side**2
            if hasattr(block, "downsample"):  # the shortcut changes shape: a 1 x 1 convolution
                weights = block.downsample[0].weight.data.size
                yield stage, weights, weights * side**2


def parameters(module):
    """How many numbers are learned."""
    return sum(p.data.size for p in module.parameters())


CLASSES = 2048 * 1000 + 1000  # ImageNet's last layer, which a detector throws away
TORCHVISION = {  # what torchvision's models have, with that layer
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
}
counted = {}
for name, theirs in TORCHVISION.items():
    body_of = resnet(name, norm="batch")
    weights, work = parameters(body_of) + CLASSES, sum(cost[2] for cost in conv_costs(body_of))
    counted[name] = weights, work
    print(f"{name:17} {RESNETS[name][1]!s:14} {weights / 1e6:5.1f} M weights {work / 1e9:5.1f} G multiply-adds")
    assert weights == theirs
    if name == "resnet50":
        stages = np.zeros((5, 2))
        for stage, *cost in conv_costs(body_of):
            stages[stage] += cost
assert round(counted["resnet50"][0] / 1e6, 1) == 25.6 and round(counted["resnet50"][1] / 1e9, 1) == 4.1

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 2, figsize=(10, 4))
names = ["first\n7 x 7", "C2\n3 blocks", "C3\n4", "C4\n6", "C5\n3"]
for axes, numbers, unit, title in (
    (panels[0], stages[:, 0] / 1e6, "{:.2f}", "weights, millions"),
    (panels[1], stages[:, 1] / 1e9, "{:.2f}", "multiply-adds, billions, 224 x 224 pixels"),
):
    bars = axes.bar(names, numbers, color=["lightgray", ORANGE, SKY, GREEN, RED], edgecolor="black")
    axes.bar_label(bars, [unit.format(n) for n in numbers])
    axes.set_title(title, fontsize=14)
    axes.set(yticks=[], ylim=(0, 1.15 * numbers.max()))
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Read left and right together: from stage to stage the channels double, so a block has four times the weights, and it
# works on four times fewer cells, so it costs the same. A detector's picture has 800 x 1216 pixels, 19 times as many:
# almost 80 billion multiply-adds before the first box. That is why the backbone is computed once, for all regions.

# %% [markdown]
# In the batch norms there are 53,120 more numbers to learn; the rest is convolutions.

# %%
assert parameters(resnet("resnet50", norm="batch")) - int(stages[:, 0].sum()) == 53_120

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 Where a stage halves the map: stride and dilation
#
# - **1 x 1 with stride 2** (the paper, Detectron2): three quarters of the cells are never read.
# - **3 x 3 with stride 2** (torchvision): every cell is read.
# - **Dilation 2, no stride** ("dilated C5"): the map stays fine, the window has holes.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}


def times_read(kernel, stride, dilation, only=None, cells=8):
    """How often each cell of a map is read by a convolution (or by its output cell `only`): (cells, cells)."""
    x = Tensor(np.zeros((1, cells, cells, 1)), requires_grad=True)
    y = conv2d(x, np.ones((kernel, kernel, 1, 1)), None, stride, dilation * (kernel // 2), dilation)
    gy = np.ones(y.shape) if only is None else np.zeros(y.shape)
    if only is not None:
        gy[0, only[0], only[1]] = 1
    y.backward(gy)
    return x.grad[0, :, :, 0].astype(int)


paper, torchvision = times_read(1, 2, 1), times_read(3, 2, 1)
assert (paper > 0).sum() == 16 and (torchvision > 0).all()  # of 64
figure, panels = plt.subplots(1, 3, figsize=(10.5, 4.2))
for axes, counts, title in zip(
    panels,
    (paper, torchvision, times_read(3, 1, 2, only=(3, 3))),
    ("1 x 1, stride 2", "3 x 3, stride 2", "dilation 2: one window"),
):
    axes.imshow(counts > 0, cmap="Oranges", vmin=0, vmax=2)
    for (i, j), count in np.ndenumerate(counts):
        axes.text(j, i, count, ha="center", va="center", color="black" if count else "darkgray")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=15)
figure.supxlabel("how often each cell is read", fontsize=14)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Left and middle: a stage's first block, where the map is halved. On 56 x 56 cells the 1 x 1 with stride 2 reads 784 of
# 3136. Weights that were learned one way must be used that way: it is one of the switches in conventions.py. Right: in
# T14's table some methods have "C5-dilated". They want C5 at stride 16, twice as fine, with weights that learned at
# stride 32, so neighbors must stay twice as many cells apart.

# %%
print({name: values["stride_in_1x1"] for name, values in conventions.CONVENTIONS.items()})
assert 56**2 == 3136 and 28**2 == 784

# A whole block whose stride sits in its first 1x1: its shortcut is a 1x1 of stride 2 too, so what it skips is lost.
for in_1x1, share in ((True, 0.25), (False, 1.0)):
    nn.seed_initializers(0)
    block = Bottleneck(32, 32, stride=2, norm="frozen", stride_in_1x1=in_1x1)
    x = Tensor(np.random.default_rng(0).standard_normal((1, 8, 8, 32)).astype(np.float32), requires_grad=True)
    y = block(x)
    y.backward(np.random.default_rng(1).standard_normal(y.shape).astype(np.float32))
    assert (x.grad[0] != 0).any(axis=2).mean() == share

# What it costs: the papers' 3.8 billion are ResNet-50 with the stride in the 1x1, today's 4.1 with it in the 3x3.
work = [sum(c[2] for c in conv_costs(resnet("resnet50", stride_in_1x1=where))) for where in (True, False)]
assert [int(w / 1e8) / 10 for w in work] == [3.8, 4.0] and round(work[1] / 1e9, 1) == 4.1

# %% [markdown]
# **Dilation by hand.** A 3 x 3 window with dilation 2 reads cells -2, 0 and +2. A convolution of stride 2 followed by a
# plain one is the same as one without stride followed by a dilated one, read at every second cell. So the weights
# may stay as they are, while the map is four times as large (and costs four times as much):

# %%
rng = np.random.default_rng(0)
x, w1, w2 = rng.standard_normal((1, 12, 12, 2)), rng.standard_normal((3, 3, 2, 3)), rng.standard_normal((3, 3, 3, 4))
coarse = conv2d(conv2d(x, w1, stride=2, padding=1).data, w2, padding=1).data
fine = conv2d(conv2d(x, w1, padding=1).data, w2, padding=2, dilation=2).data
np.testing.assert_allclose(fine[:, ::2, ::2], coarse, atol=1e-12)
assert fine.shape == (1, 12, 12, 4) and coarse.shape == (1, 6, 6, 4)

dilated = resnet("resnet50", dilate_c5=True)
assert dilated.strides == [4, 8, 16, 16]
assert dilated.layer4[1].conv2.weight.shape == resnet50.layer4[1].conv2.weight.shape  # the same weights fit

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 ResNeXt: many narrow paths (Xie et al. 2017)
#
# The 3 x 3 is cut into 32 *groups* of 4 channels that do not see each other. That is cheap, so it may be wider:
#
# - ResNet: 256·64 + **9·64·64** + 64·256 = 69,632 weights
# - ResNeXt 32 x 4d: 256·128 + **9·128·4** + 128·256 = 70,144 weights, and the 3 x 3 has twice the channels.

# %%
resnext_block = resnet("resnext50_32x4d").layer1[1]
sizes = [conv.weight.data.size for conv in (resnext_block.conv1, resnext_block.conv2, resnext_block.conv3)]
assert sizes == [256 * 128, 9 * 128 * 4, 128 * 256] and sum(sizes) == 70_144
assert resnext_block.conv2.settings["groups"] == 32 and resnext_block.conv2.weight.shape == (3, 3, 4, 128)
assert [round(counted[name][0] / 1e6, 1) for name in ("resnet50", "resnext50_32x4d")] == [25.6, 25.0]

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 2, figsize=(9.5, 4.2))
for axes, channels, groups, name in ((panels[0], 64, 1, "ResNet"), (panels[1], 128, 32, "ResNeXt")):
    of_group = np.arange(channels) // (channels // groups)
    axes.imshow(of_group[:, None] == of_group, cmap="Blues", vmin=0, vmax=1.5, interpolation="nearest")
    axes.set(xlim=(-0.5, 127.5), ylim=(127.5, -0.5), xticks=[0, 64, 127], yticks=[0, 64, 127])
    axes.set(xlabel="channel out", ylabel="channel in", title=f"{name}: {channels} x {channels}")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The middle convolution of a bottleneck, seen as a table: which input channel has weights to which output channel (nine
# each, blue). On the left everything with everything: 4,096 pairs. On the right 32 blocks of 4 x 4, 512 pairs. What
# goes on between groups is left to the two 1 x 1 convolutions, which see all channels. "32 x 4d" reads: 32 paths, 4
# channels wide.

# %% [markdown]
# ### Exercise 3: groups are a convolution with zeros
#
# The weights of a grouped convolution are stored without the zeros: `w` is `(kh, kw, Cin / groups, Cout)`. Write them
# as the weights `(kh, kw, Cin, Cout)` of an ordinary one. The first `Cout / groups` outputs belong to the first group.


# %% exercise="dense_weights"
def my_dense_weights(w, groups):
    """The weights (kh, kw, Cin, Cout) of the ordinary convolution that equals the one in groups with weights w."""
    ### BEGIN SOLUTION
    kh, kw, inputs, channels_out = w.shape
    outputs = channels_out // groups
    dense = np.zeros((kh, kw, inputs * groups, channels_out))
    for g in range(groups):
        rows, columns = slice(g * inputs, (g + 1) * inputs), slice(g * outputs, (g + 1) * outputs)
        dense[:, :, rows, columns] = w[:, :, :, columns]
    return dense
    ### END SOLUTION


# %% check="dense_weights"
check.dense_weights(my_dense_weights)

# %% [markdown]
# With them the ordinary convolution gives what the grouped one gives, and we see how many multiply-adds are saved:

# %%
w = resnext_block.conv2.weight.data
x = rng.standard_normal((1, 6, 7, 128)).astype(np.float32)
in_groups = conv2d(x, w, padding=1, groups=32).data
np.testing.assert_allclose(conv2d(x, my_dense_weights(w, 32).astype(np.float32), padding=1).data, in_groups, atol=1e-4)
assert my_dense_weights(w, 32).size == 32 * w.size

# %% [markdown] slides=["T15", "T18"] slideshow={"slide_type": "slide"}
# ## Better features: ResNeXt in the talk's tables (T15, T18)
#
# Nothing else is changed: same heads, same training, same pictures (COCO). *AP* says how good, 0 to 100 (notebook 14).

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
TALK = {  # AP, AP50 of Mask R-CNN on COCO with FPN (notebook 04)
    "masks (T15)": {"ResNet-101": (35.7, 58.0), "ResNeXt-101": (37.1, 60.0)},
    "boxes (T18)": {"ResNet-101": (38.2, 60.3), "ResNeXt-101": (39.8, 62.3)},
}
gains = {what: np.subtract(*list(rows.values())[::-1]).round(1).tolist() for what, rows in TALK.items()}
assert gains == {"masks (T15)": [1.4, 2.0], "boxes (T18)": [1.6, 2.0]}

figure, panels = plt.subplots(1, 2, figsize=(10, 4.3), sharey=True)
for axes, (what, rows) in zip(panels, TALK.items()):
    for place, ((name, numbers), color) in enumerate(zip(rows.items(), (SKY, BLUE))):
        bars = axes.bar(np.arange(2) + 0.4 * place - 0.2, numbers, 0.38, color=color, label=name)
        axes.bar_label(bars, numbers)
    for place, gain in enumerate(gains[what]):
        top = max(row[place] for row in rows.values())
        axes.text(place, top + 5.5, f"+{gain}", ha="center", color=RED, fontsize=18)
    axes.set_xticks([0, 1], ["AP", "AP50"])
    axes.set(ylim=(0, 76), title=what)
panels[0].legend(loc="upper left")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# AP is average precision; AP50 is its mild form. The gain is about as large as that of
# RoIAlign or of the mask branch on boxes, and costs no idea at all in the detector: the same code reads other features.
# Better features help masks and boxes alike. On ImageNet, where backbones learn first, ResNeXt-50 makes 22.2 % errors
# and ResNet-50 23.9 %, with as many weights (Xie et al. 2017, table 3).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 Batch norm, and why detectors freeze it
#
# **Batch norm:** each channel minus its mean, over its standard deviation; then times γ plus β, which are learned. The
# mean is that of all cells of all pictures of the *batch*, those that are trained on at once.
#
# **Frozen:** mean and variance become constants. Then it is $a x + b$, which fits *into* the convolution before it:
# with mean 3, variance 4, γ = 4, β = 1: $a = 4/\sqrt 4 = 2$ and $b = 1 - 3 \cdot 2 = -5$.

# %% [markdown]
# **By hand.** A channel with the four cells 1, 3, 5, 7 has the mean 4 and the variance (9 + 1 + 1 + 9) / 4 = 5. So the
# norm in training makes of 7: (7 - 4) / √5 = 1.34, if γ = 1 and β = 0. The frozen one above makes of 7: 2 · 7 - 5 = 9,
# whatever the other cells are. (A small `eps` is added to the variance, so that nobody divides by 0.)

# %%
cells = np.array([1.0, 3, 5, 7]).reshape(1, 2, 2, 1)
one, zero = np.ones(1), np.zeros(1)
in_training = batch_norm(Tensor(cells), Tensor(one), Tensor(zero), zero.copy(), one.copy(), training=True, eps=0.0)
assert cells.mean() == 4 and cells.var() == 5
assert np.isclose(in_training.data[0, 1, 1, 0], (7 - 4) / np.sqrt(5)) and round((7 - 4) / np.sqrt(5), 2) == 1.34

frozen = nn.FrozenBatchNorm2d(1, eps=0.0).to(np.float64)
frozen.weight[:], frozen.bias[:], frozen.running_mean[:], frozen.running_var[:] = 4, 1, 3, 4
assert frozen(Tensor(cells)).data.ravel().tolist() == [-3, 1, 5, 9]
assert [float(v[0]) for v in frozen.scale_and_shift()] == [2, -5]

# %% [markdown]
# ### Why frozen?
#
# With few pictures in a batch its mean is noise: it says more about these pictures than about the channel. Detectors
# have large pictures, so one or two fit on a card, where training on ImageNet has 32. We take channels of the first map
# (the trained model's, before the norm) and see how far the mean of a batch is off, in deviations of the channel:

# %%
sample = np.stack([ToyScenes("train", seed=5)[i].image for i in range(64)])
batch = model.transform(list(sample)).images
with no_grad():
    before = conv2d(Tensor(batch), body.conv1.weight, **body.conv1.settings).data  # (64, 64, 64, 32)
truth, deviation = before.mean(axis=(0, 1, 2)), before.std(axis=(0, 1, 2))
off = {}
for count in (1, 2, 4, 8, 16, 32):
    means = before.reshape(64 // count, count, -1, before.shape[3]).mean(axis=(1, 2))  # (batches, C)
    off[count] = np.sqrt(((means - truth) ** 2).mean(axis=0)) / deviation  # (C,)
    print(f"{count:2} pictures a batch: the mean is off by {np.median(off[count]):.3f} deviations")
assert np.median(off[2]) > 2 * np.median(off[16])

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9, 3.6))
low, median, high = np.percentile(np.array(list(off.values())), [10, 50, 90], axis=1)
axes.fill_between(list(off), low, high, color=SKY, alpha=0.5, label="8 channels in 10")
axes.plot(list(off), median, "o-", color=BLUE, linewidth=3, label="median")
axes.set_xscale("log", base=2)
axes.set_xticks(list(off), list(off))
axes.set(xlabel="pictures in a batch", ylabel="mean is off by\n(deviations)", ylim=(0, None))
axes.legend()
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# For 32 pictures the mean is nearly right. For one or two it is off, in some channels by half a deviation, and in every
# step by another amount. So detectors keep the statistics from ImageNet as constants. Those who train from nothing, as
# our toy model does on small pictures with larger batches, use batch norm as it is, or group norm, which needs no batch
# at all.

# %% [markdown]
# ### Exercise 4: fold the norm into the convolution
#
# A convolution with weights `w` and a frozen norm behind it are **one** convolution with other weights and a bias:
#
# $$\gamma\, \frac{w \cdot x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta \;=\; (a\, w) \cdot x + b$$


# %% exercise="fold_batch_norm"
def my_fold_batch_norm(w, gamma, beta, mean, var, eps):
    """Weights (kh, kw, Cin, Cout) and bias (Cout,) of the convolution that equals convolution w, then batch norm."""
    ### BEGIN SOLUTION
    scale = gamma / np.sqrt(var + eps)
    return w * scale, beta - mean * scale
    ### END SOLUTION


# %% check="fold_batch_norm"
check.fold_batch_norm(my_fold_batch_norm)

# %% [markdown]
# In the trained model, first layer: convolution then norm, and your one convolution. The library does this for every
# layer in inference, and so reads and writes each map once where it would do so twice.

# %%
conv, norm = body.conv1, body.bn1
arrays = norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var
with no_grad():
    two = norm(conv(Tensor(batch[:4]))).data  # convolution, norm, ReLU
    w, b = my_fold_batch_norm(conv.weight.data, *arrays, norm.eps)
    one = conv2d(Tensor(batch[:4]), w, b, relu=True, **conv.settings).data
np.testing.assert_allclose(one, two, atol=1e-4)
print("largest difference", abs(one - two).max())

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 9 How far does a cell see?
#
# *Receptive field*: the square of pixels that can change a cell (notebook 02). It grows with every 3 x 3, and faster
# after every stride. A cell could see all of it, but looks mostly at the middle.

# %% [markdown]
# From notebook 02: a window of `k` cells adds `(k - 1)` times the stride up to there; dilation multiplies that. Along a
# residual network the longest way counts, the one through all convolutions.


# %%
def receptive_fields(body):
    """Side of the receptive field of each level of a ResNet, in pixels."""
    layers = [(body.conv1.weight.shape[0], body.conv1.settings)]
    if body.stem == "large":
        layers.append((3, dict(stride=2, dilation=1)))  # max pooling
    field, jump, found = 1, 1, []
    for stage in range(len(body.strides)):
        for block in getattr(body, f"layer{stage + 1}"):
            convs = [getattr(block, name) for name in ("conv1", "conv2", "conv3") if hasattr(block, name)]
            layers += [(conv.weight.shape[0], conv.settings) for conv in convs]
        for kernel, settings in layers:
            field += (kernel - 1) * settings["dilation"] * jump
            jump *= settings["stride"]
        layers = []
        found.append(field)
    return found


fields = {
    "ResNet-50, stride in the 3x3": receptive_fields(resnet50),
    "ResNet-50, stride in the 1x1": receptive_fields(resnet("resnet50", stride_in_1x1=True)),
    "ResNet-50, dilated C5": receptive_fields(dilated),
    "the toy model": receptive_fields(body),
}
for name, found in fields.items():
    print(f"{name:30} {found}")
assert fields["ResNet-50, stride in the 3x3"] == [35, 91, 267, 427]
assert fields["ResNet-50, stride in the 1x1"] == [35, 99, 291, 483]
assert fields["the toy model"] == [19, 47, 103, 215]

# %% [markdown]
# Where the stride sits decides how far C5 sees: 427 or 483 pixels. And now the truth about our trained model: we ask
# one cell in the middle of each level which pixels change it, by its gradient, over 24 scenes.

# %%
images = batch[:24]
looks = {}
device.winograd = False  # the plain sums: the faster way leaves rounding errors where there should be zeros
for k in range(3):
    x = Tensor(images.copy(), requires_grad=True)
    level = body(x)[k]
    gy = np.zeros(level.shape, np.float32)
    middle = level.shape[1] // 2
    gy[:, middle, middle] = np.random.default_rng(k).standard_normal((len(images), level.shape[3]))
    level.backward(gy)
    looks[f"C{k + 1}"] = abs(x.grad).sum(axis=(0, 3))  # (128, 128)
device.winograd = True

share = {}
for (name, look), field in zip(looks.items(), fields["the toy model"]):
    rows = np.flatnonzero(look.any(axis=1))
    assert rows[-1] - rows[0] + 1 <= field  # never further than the arithmetic says
    half = (rows[0] + rows[-1] + 1) // 2
    quarter = slice(half - field // 4, half + field // 4 + 1)
    share[name] = look[quarter, quarter].sum() / look.sum()
    print(f"{name}: sees {rows[-1] - rows[0] + 1} pixels; {100 * share[name]:.0f} % comes from the middle half of it")
assert min(share.values()) > 0.5  # the middle half is a quarter of the area

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 3, figsize=(10.5, 4.2))
for axes, (name, look), field in zip(panels, looks.items(), fields["the toy model"]):
    axes.imshow(np.sqrt(look / look.max()), cmap="cividis")
    rows, columns = (np.flatnonzero(look.any(axis=axis)) for axis in (1, 0))
    corner = columns[0] - 0.5, rows[0] - 0.5
    axes.add_patch(Rectangle(corner, field, field, fill=False, edgecolor=ORANGE, linewidth=3))
    axes.set(xticks=[0, 64, 127], yticks=[0, 64, 127], xlim=(-0.5, 127.5), ylim=(127.5, -0.5))
    axes.set_title(f"{name}: could see {field} x {field}\n{100 * share[name]:.0f} % from its middle half", fontsize=14)
figure.supxlabel("pixels; bright: what changes the cell most", fontsize=14)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Orange: the field by arithmetic. Bright: what really matters to a cell in the middle, by its gradient (the root is
# drawn, so that faint parts show). The middle half of the square is a quarter of its area and has most of the weight.
# C4's field, 215 pixels, is larger than the picture, so it is not shown. Back to the question: a pixel is 1 x 1; the
# cells of C3 see 103 x 103, and so they can know whether an ear is near.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 10 What do the maps hold?
#
# A feature vector has 32 to 128 numbers, a screen shows three. *PCA* finds the three directions in which vectors differ
# most, and we show those as red, green and blue: **same color, same features.**

# %% [markdown]
# PCA, principal component analysis, is one line: the singular value decomposition of all vectors, `np.linalg.svd`. Its
# first three right vectors are the directions. Before, we subtract from each place what it answers on average over 60
# scenes: cells at the border see the zeros of the padding, always, and that would be the strongest "feature" of all.


# %%
def vector_colors(vectors, place):
    """Pictures (N, H, W, 3) of feature maps (N, H, W, C), from 0 to 1: same color, same features.

    place: the average map (H, W, C) of many pictures, which is subtracted.
    """
    vectors = vectors - place
    vectors = vectors / (vectors.std(axis=(0, 1, 2)) + 1e-3 * vectors.std())
    directions = np.linalg.svd(vectors.reshape(-1, vectors.shape[3]), full_matrices=False)[2][:3]  # (3, C)
    shown = vectors @ directions.T
    low, high = np.percentile(shown, [2, 98], axis=(0, 1, 2))
    return np.clip((shown - low) / (high - low), 0, 1)


SCENES = [ToyScenes("test")[i] for i in range(60)]
maps = feature_maps([s.image for s in SCENES])
pictures_of = {name: vector_colors(x, x.mean(axis=0)) for name, x in maps.items()}
assert pictures_of["C3"].shape == (60, 16, 16, 3)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(2, 5, figsize=(11, 4.7))
for row, index in zip(panels, (3, 5)):
    row[0].imshow(SCENES[index].image)
    for axes, (name, shown) in zip(row[1:], pictures_of.items()):
        axes.imshow(shown[index])
        if index == 3:
            axes.set_title(f"{name}, stride {128 // shown.shape[1]}", fontsize=14)
    for axes in row:
        axes.set(xticks=[], yticks=[])
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Look at the stripes of the wallpaper: strong in C1, weak in C2, gone in C3. C1 shows edges, each direction in its own
# color, wherever they are. In C3 what is left are blobs where the animals stand. C4 has eight by eight cells and says
# roughly where something is. Fine and shallow, or deep and coarse: that conflict is notebook 04.

# %% [markdown]
# A number for it: how much of what a level holds is the wallpaper? We compare, in scene 3, the cells of the striped
# ground (no animal near) with all cells of all scenes: their variance, relative to that of all.

# %%
stripes = ~spread_out(SCENES[3].masks.any(axis=0), 6)
strength = {}
for name, x in maps.items():
    vectors = (x - x.mean(axis=0)) / (x.std(axis=(0, 1, 2)) + 1e-6)
    step = 128 // x.shape[1]
    ground = stripes[step // 2 :: step, step // 2 :: step]
    strength[name] = vectors[3][ground].var(axis=0).mean() / vectors.var(axis=(0, 1, 2)).mean()
print({name: round(float(value), 2) for name, value in strength.items()})
assert strength["C3"] < strength["C1"]

# %% [markdown] slides=["T05"] slideshow={"slide_type": "slide"}
# ## 11 FCN: semantic segmentation from feature maps (T05)
#
# *Semantic segmentation*: a class for every pixel. *FCN*: **every** layer is a convolution. A 1 x 1 convolution turns
# each feature vector into scores; the map of scores is enlarged to the picture.
#
# T05: a *meta-algorithm*, fast, accurate, intuitive, easy to use: any backbone, any size of picture, no regions.

# %% [markdown]
# Mask R-CNN's mask branch is such an FCN on each region (notebook 10). Here is the whole thing in a few lines: the
# backbone stays as it is, and the 1 x 1 convolution, "animal or not", is found by least squares: the weights for which
# the sum of squared errors over all cells is smallest (`np.linalg.solve`; a little is added to the matrix's diagonal,
# so that there is just one solution). We read C2, C3 and C4 together, enlarged to C2's 32 x 32 cells.


# %%
def stacked(maps, names):
    """Levels enlarged to C2's size, behind each other, and a 1 for the bias: (N, 32, 32, C)."""
    parts = [x.repeat(32 // x.shape[1], axis=1).repeat(32 // x.shape[1], axis=2) for x in map(maps.get, names)]
    return np.concatenate([*parts, np.ones((*parts[0].shape[:3], 1))], axis=3)


def animal_cells(scenes):
    """Whether there is an animal in the middle of each of 32 x 32 cells: (N, 32, 32) bool."""
    return np.stack([s.masks.any(axis=0)[2::4, 2::4] for s in scenes])


def overlap(found, truth):
    """Intersection over union of two masks: 1 if they are the same, 0 if they do not touch."""
    return (found & truth).sum() / (found | truth).sum()


def fit(names):
    """(weights of the 1 x 1 convolution, the score from which on a cell is "animal")."""
    x = stacked(learn_maps, names)
    x, y = x.reshape(-1, x.shape[3]), animal_cells(learn).ravel()
    w = np.linalg.solve(x.T @ x + 1e-4 * len(x) * np.eye(x.shape[1]), x.T @ y)
    scores = x @ w
    return w, max(np.linspace(0.1, 0.6, 26), key=lambda threshold: overlap(scores > threshold, y))


learn = [ToyScenes("train", seed=5)[i] for i in range(80)]
learn_maps = feature_maps([s.image for s in learn])
for kind, scenes in ((learn_maps, learn), (maps, SCENES)):
    kind["color"] = np.stack([s.image[2::4, 2::4] / 255 for s in scenes])
truth = animal_cells(SCENES)
quality = {}
for names in (["color"], ["C4"], ["C3", "C4"], ["C2", "C3", "C4"]):
    w, threshold = fit(names)
    scores = stacked(maps, names) @ w
    quality[" + ".join(names)] = overlap(scores > threshold, truth)
print({name: round(float(value), 2) for name, value in quality.items()}, "overlap with the truth, unseen scenes")
assert quality["C4"] < quality["C3 + C4"] < quality["C2 + C3 + C4"] and quality["color"] < quality["C4"]
assert quality["C2 + C3 + C4"] > 0.55

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 4, figsize=(11, 3.4), width_ratios=[1, 1, 1, 1.15])
panels[0].imshow(SCENES[5].image)
panels[1].imshow(scores[5], cmap="cividis", vmin=0, vmax=1)
panels[2].imshow(SCENES[5].masks.any(axis=0), cmap="cividis")
for axes, title in zip(panels, ("picture", "scores, 32 x 32", "truth")):
    axes.set(xticks=[], yticks=[], title=title)
bars = panels[3].barh(range(4), list(quality.values())[::-1], color=[BLUE, SKY, SKY, "lightgray"])
panels[3].bar_label(bars, [f"{value:.2f}" for value in list(quality.values())[::-1]], padding=3)
panels[3].set_yticks(range(4), ["C2, C3, C4", "C3, C4", "C4", "colors"])
panels[3].set(xlim=(0, 0.95), xticks=[], title="overlap")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# No region, no box: a score for each cell. From the colors alone, next to nothing. From the coarse C4 alone, blobs.
# Each finer level that joins in makes it better, as in the FCN paper (Long et al. 2015), whose FCN-32s, -16s and -8s
# read one, two and three levels. But it cannot count: two dogs side by side are one blob of "animal". Instances need
# regions, and that is where Mask R-CNN goes another way.

# %% [markdown]
# **What "fully convolutional" buys.** A matrix product at every cell *is* a 1 x 1 convolution. Nothing in it knows the
# size of the picture, so any size will do; and if the picture moves by a stride, the map moves by a cell.

# %%
x = stacked(maps, ["C2", "C3", "C4"])
np.testing.assert_allclose(conv2d(x[:2], w[None, None, :, None]).data[..., 0], x[:2] @ w, atol=1e-9)

wide = np.concatenate([SCENES[5].image, SCENES[3].image[:, :32]], axis=1)  # 128 x 160
with no_grad():
    here, moved = (body(Tensor(model.transform([cut]).images))[1].data for cut in (wide[:, :128], wide[:, 4:132]))
    whole = body(Tensor(np.zeros((1, 128, 160, 3), np.float32)))[1]
assert whole.shape == (1, 32, 40, 64)  # another size of picture, the same weights
edge = fields["the toy model"][1] // 2 // 4 + 1  # cells that see beyond the picture
np.testing.assert_allclose(here[:, edge:-edge, edge + 1 : -edge], moved[:, edge:-edge, edge : -edge - 1], atol=1e-3)

# %% [markdown]
# **The question of the beginning.** The two pixels of the same color, and their scores:

# %%
for (y, x), name in zip(SAME, ("on an animal", "on the ground")):
    print(f"{name:13} color {tuple(map(int, SCENES[3].image[y, x]))!s:16} score {scores[3][y // 4, x // 4]:.2f}")
assert scores[3][tuple(SAME[0] // 4)] > scores[3][tuple(SAME[1] // 4)] + 0.1

# %% [markdown] slides=["T13"] slideshow={"slide_type": "slide"}
# ## 12 A meta-algorithm: exchange the backbone (T13)
#
# Mask R-CNN asks one thing of its backbone: feature maps with known strides. So ResNet, ResNeXt, and FPN (notebook 04)
# can be exchanged like lenses.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(10.5, 3.9))
axes.set(xlim=(0, 10.6), ylim=(-0.4, 3.6))
axes.axis("off")
columns = (
    (0.1, ["picture"], "lightgray"),
    (2.0, ["ResNet-50", "ResNet-101", "ResNeXt-101"], ORANGE),
    (4.4, ["C4", "dilated C5", "FPN"], SKY),
    (6.7, ["RPN,\nRoIAlign"], "lightgray"),
    (8.7, ["classes, boxes", "masks", "keypoints"], "lightgray"),
)
for left, names, color in columns:
    width = 1.4 if left in (0.1, 6.7) else 1.8
    for i, name in enumerate(names):
        bottom = 1.6 - 1.1 * (i - (len(names) - 1) / 2) - 0.42
        axes.add_patch(Rectangle((left, bottom), width, 0.85, facecolor=color, edgecolor="black"))
        axes.text(left + width / 2, bottom + 0.42, name, ha="center", va="center", fontsize=13)
arrow = dict(width=0.08, head_width=0.3, length_includes_head=True, color="black")
for left in (1.53, 3.88, 6.23, 8.18):
    axes.add_patch(FancyArrow(left, 1.6, 0.44, 0, **arrow))
axes.text(2.9, 3.35, "choose one", ha="center", color=RED)
axes.text(5.3, 3.35, "choose one", ha="center", color=RED)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# T13 lists ResNet, ResNeXt and FPN. "Compatible with other improvements" means: what somebody else does to the orange
# and blue boxes, Mask R-CNN inherits without a change. The tables of the talk are rows of this picture: R101-C4,
# R101-FPN, X101-FPN. The code below runs six backbones through the same detector.

# %%
for name in RESNETS:
    settings = dict(channels=(16, 32, 64, 64), stem="fine")  # narrow, so that all six run in a moment
    detector = mask_rcnn.build("toy", backbone={"name": name, **settings}).eval()
    found = detector.predict([scene.image])[0]
    assert detector.backbone.body.strides == [2, 4, 8, 16]
    assert found.boxes.shape[1] == 4 and found.masks.shape[1:] == (128, 128)
    blocks = sum(RESNETS[name][1])
    print(f"{name:17} {blocks:2} blocks, {parameters(detector) / 1e6:3.1f} M weights: {len(found.boxes)} boxes, masks")
assert {"resnet50_c4", "resnet50_dilated_c5", "resnet50_fpn", "resnext101_fpn"} <= set(presets.PRESETS)

# %% [markdown]
# (What untrained detectors find means nothing. That they run, and answer in the same form, is the point.)
#
# ## 13 Common misconceptions
#
# ### "The shortcut lets the network skip layers, so it is less deep"
#
# All layers work, and their results are added up. A trained network without its branches, with the shortcuts alone, is
# not a shallower network, it is another one:

# %%
blocks = [b for k in range(1, 5) for b in getattr(body, f"layer{k}") if not hasattr(b, "downsample")]
with no_grad():
    image = Tensor(batch[:4])
    whole = body(image)[1].data
    kept = [b.bn2.weight.data.copy() for b in blocks], [b.bn2.bias.data.copy() for b in blocks]
    for b in blocks:
        b.bn2.weight.data[:], b.bn2.bias.data[:] = 0, 0  # the branch adds 0: only the shortcut is left
    without = body(image)[1].data
    for b, gamma, beta in zip(blocks, *kept):
        b.bn2.weight.data[:], b.bn2.bias.data[:] = gamma, beta
change = np.linalg.norm(whole - without) / np.linalg.norm(whole)
print(f"C2 without the branches: {100 * change:.0f} % of it is changed")
assert change > 0.2

# %% [markdown]
# ### "A bottleneck throws information away"
#
# The branch is narrow, but `x` goes past it on the shortcut. Two different inputs that give the same 64 numbers in the
# bottleneck still give different results:

# %%
down = rng.standard_normal((256, 64))  # a 1 x 1 convolution from 256 to 64 channels
lost = np.linalg.svd(down.T)[2][-1]  # a direction that it does not see
assert abs(lost @ down).max() < 1e-10
x = rng.standard_normal(256)
branch_of = [np.maximum(0, v @ down) @ down.T for v in (x, x + lost)]
np.testing.assert_allclose(*branch_of, atol=1e-8)  # the branch cannot tell them apart
assert np.isclose(np.linalg.norm((x + lost + branch_of[1]) - (x + branch_of[0])), 1)  # the block can

# %% [markdown]
# ### "In inference batch norm looks at the batch, too"
#
# Then a picture's result would depend on its neighbors. In training it does; in inference it must not:

# %%
with no_grad():
    body.eval()
    alone, in_company = body(Tensor(batch[:1]))[2].data, body(Tensor(batch[:4]))[2].data[:1]
    np.testing.assert_allclose(alone, in_company, atol=1e-3)
    statistics = {name: array.copy() for name, array in body.state_dict().items()}
    body.train()
    alone, in_company = body(Tensor(batch[:1]))[2].data, body(Tensor(batch[:4]))[2].data[:1]
    body.eval()
    body.load_state_dict(statistics)  # training moved the running means: put them back
print(f"in training the same picture differs by up to {abs(alone - in_company).max():.2f}")
assert abs(alone - in_company).max() > 0.1

# %% [markdown]
# ### "Groups make a network smaller"
#
# They make *one convolution* smaller. ResNeXt spends what is saved on more channels, and ends up with as many weights:

# %%
(resnet_weights, resnet_work), (resnext_weights, resnext_work) = counted["resnet50"], counted["resnext50_32x4d"]
assert abs(resnext_weights / resnet_weights - 1) < 0.03 and abs(resnext_work / resnet_work - 1) < 0.05

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Recap
#
# 1. A backbone turns a picture into maps C2 to C5: coarser and coarser, with more and more channels.
# 2. Plain stacks lose the gradient with depth, or blow it up; `x + F(x)` hands it back as it is.
# 3. Bottlenecks and groups buy depth and width for the same weights: ResNet-50 has 25.6 M, ResNeXt-50 25.0 M.
# 4. A frozen batch norm is a scale and a shift, and disappears in the convolution before it.
# 5. Better features help everything behind them: +1.4 mask AP and +1.6 box AP for ResNeXt.

# %% [markdown]
# ## Quiz
#
# 1. A picture has 800 x 1216 pixels. How many cells has C4, how many C5?
# 2. Why does a residual block with weights of 0 do no harm, and a plain layer with weights of 0 a lot?
# 3. In a plain stack each layer multiplies the gradient by 0.9. How much is left after 50 layers?
# 4. How many weights has a 3 x 3 convolution from 512 to 512 channels? In 32 groups?
# 5. From C3 to C4 the channels double and the sides halve. What happens to the cost of a bottleneck?
# 6. What is wrong with a 1 x 1 convolution of stride 2?
# 7. γ = 3, β = 1, mean 2, variance 9. What does the frozen norm make of x = 5?
# 8. Why does batch norm hurt with two pictures a batch?
# 9. Why can an FCN not tell two dogs that touch from one?
# 10. What must you change in Mask R-CNN to use ResNeXt?
#
# <details><summary>Answers</summary>
#
# 1. 50 x 76 and 25 x 38.
# 2. The block hands on x; the layer hands on zeros, and nothing comes back either.
# 3. 0.9^50 = 0.005.
# 4. 9 · 512 · 512 = 2,359,296; in 32 groups 73,728.
# 5. It stays: four times the weights, on a quarter of the cells.
# 6. Three quarters of the cells are never read; they were computed for nothing.
# 7. 3 · (5 - 2) / 3 + 1 = 4.
# 8. Mean and variance of so few pictures are noise, other noise in every step.
# 9. Every cell gets a class; nothing says which cells belong together.
# 10. The name of the backbone. The heads read feature maps, whoever makes them.
#
# </details>
