# %% [markdown] slideshow={"slide_type": "slide"}
# # 07 Matching and sampling: what each box should have said
#
# **Question.** The network has looked at 8,064 anchors and said something about each. The picture has 3 animals.
# **Who tells each of the 8,064 boxes what it should have said?**
#
# - *Matching* answers: this box is an object, that one is background, and that one is let off.
# - *Sampling* chooses a few of them, because nearly all are background.

# %% [markdown] slideshow={"slide_type": "notes"}
# Ask the room: a picture has three objects and 8,064 boxes with an opinion. How many of the boxes should say "object"?
# Three? All that touch an animal? The answer of Faster R-CNN is five or six, and it takes four rules to get there.
# Everything today happens in training alone. In inference there is nobody who knows the answer.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, Rectangle

import minimask
from minimask import boxes as box_ops
from minimask import check, draw, mask_rcnn, targets
from minimask.anchors import AnchorGenerator
from minimask.datasets.toy import ToyScenes
from minimask.device import generator
from minimask.tensor import no_grad
from minimask.trace import Trace

plt.rcParams.update({"figure.figsize": (9, 4.2), "figure.dpi": 100, "font.size": 14})
plt.rcParams["figure.constrained_layout.use"] = True
ORANGE, SKY, RED, BLUE, GREEN = draw.COLORS[[0, 1, 2, 4, 6]] / 255
LABELS = {1: ("positive", BLUE, "-"), -1: ("ignored", ORANGE, "--"), 0: ("background", RED, ":")}


def outline(axes, box, color, style="-", width=3, label=None):
    """A box x1, y1, x2, y2 on the axes."""
    size = box[2] - box[0], box[3] - box[1]
    look = dict(fill=False, edgecolor=color, linewidth=width, linestyle=style)
    axes.add_patch(Rectangle(box[:2], *size, label=label, **look))


def show_scene(axes, sample, objects=True):
    """The picture, with its objects' boxes in white."""
    height, width = sample.image.shape[:2]
    axes.imshow(sample.image, extent=(0, width, height, 0))
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    for box in sample.boxes if objects else ():
        outline(axes, box, "white", width=4)


# %% [markdown]
# **Words of this notebook**
#
# - *Object*, or *ground truth*: a box, a class and a mask that a person drew (here: that the drawing program knows).
# - *Anchor*: one of the boxes from which the RPN starts (notebook 05). *Proposal*: a box that the RPN hands on
#   (notebook 06). *RoI*: a proposal that a head looks at (notebook 08).
# - *IoU*: the area that two boxes share, divided by the area that they cover together (notebook 05).
# - *Match*: to give each box a *label*: 1 **positive**, 0 **background** or -1 **ignored**; and each positive its
#   object.
# - *Sample*: to choose some of the boxes at random. Only these enter the losses (notebook 11).
# - *Target*: what a chosen box should have said.

# %% [markdown] slides=["T04"] slideshow={"slide_type": "slide"}
# ## 1 Region-based training: Fast and Faster R-CNN (T04)
#
# Detection as classification of **regions**: take boxes, match them, sample some, ask what is in them. Faster R-CNN
# does so twice, with the same two functions.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
# Plumbing: two rows of boxes with arrows between them.
ROWS = [
    ("RPN", ["8,064 anchors", "match\n0.3 and 0.7", "sample 256,\nhalf positive", "object or not?\nwhere exactly?"]),
    ("heads", ["proposals\n+ ground truth", "match\n0.5", "sample 512,\n1/4 positive", "which class?\nbox, mask"]),
]
figure, axes = plt.subplots(figsize=(10.5, 3.4))
for row, (name, steps) in enumerate(ROWS):
    axes.text(-0.85, -row, name, va="center", ha="center", fontsize=17, fontweight="bold")
    for column, text in enumerate(steps):
        color = {0: SKY, 3: GREEN}.get(column, ORANGE)
        axes.add_patch(Rectangle((column - 0.41, -row - 0.3), 0.82, 0.6, color=color, alpha=0.45))
        axes.text(column, -row, text, ha="center", va="center", fontsize=15)
        if column:
            ends = (column - 0.59, -row), (column - 0.41, -row)
            axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=22, linewidth=2))
down = (3, -0.3), (0, -0.7)
axes.add_patch(FancyArrowPatch(*down, arrowstyle="-|>", mutation_scale=22, linewidth=2, linestyle=":"))
axes.text(1.5, -0.5, "the best boxes become proposals", ha="center", va="center", backgroundcolor="white", fontsize=13)
axes.set(xlim=(-1.1, 3.45), ylim=(-1.4, 0.4))
axes.axis("off")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The numbers are those of the papers: Ren et al. 2015 for the upper row, Girshick 2015 for the lower one. R-CNN had the
# lower row alone, with regions from a program that knew nothing of the task. Faster R-CNN replaced that program by the
# upper row. Mask R-CNN changes nothing here: its mask branch learns on the positives of the lower row.

# %% [markdown]
# Both rows call `match` and `sample` of `minimask/targets.py`. This is where the numbers are:

# %%
published = mask_rcnn.build("resnet50_fpn")
assert (published.rpn.settings.low, published.rpn.settings.high) == (0.3, 0.7)
assert (published.rpn.settings.samples, published.rpn.settings.positive_fraction) == (256, 0.5)
assert (published.roi.iou, published.roi.samples, published.roi.positive_fraction) == (0.5, 512, 0.25)

model = minimask.load("toy")  # small, trained on drawn scenes
class_names = model.class_names
print("toy model:", model.rpn.settings.samples, "anchors and", model.roi.samples, "RoIs a picture")
anchors = np.concatenate(model.rpn.anchor_generator([(32, 32), (16, 16), (8, 8)], (128, 128)))
assert anchors.shape == (8064, 4)  # 6 a place, in a picture of 128 x 128 pixels

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 The table of overlaps
#
# One column for each anchor, one row for each object, an IoU in each cell. Here are ten of the 8,064 columns.

# %%
scenes = ToyScenes("test")
scene = scenes[67]
names = [class_names[label - 1] for label in scene.labels]
names = [f"{name} {i + 1}" for i, name in enumerate(names)]
table = box_ops.iou(anchors, scene.boxes)  # (8064, 3)
print(names, scene.boxes.tolist())


def some_anchors(table):
    """Ten anchors worth showing: the best of each object, some that overlap it less, and some that hardly do."""
    best = [i for g in range(3) for i in np.flatnonzero(table[:, g] == table[:, g].max())]  # 2 for the first object
    middle = [np.flatnonzero((table[:, g] > 0.4) & (table[:, g] < 0.6))[k] for g, k in enumerate((2, 1, 12))]
    places = [[70, 20, 110, 60], [96, 60, 124, 88], [4, 88, 32, 116]]  # near the anchors that are wanted
    little = [abs(anchors - place).sum(axis=1).argmin() for place in places]
    return np.array([*best, *middle, *little])


shown = some_anchors(table)
assert len(shown) == 10

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}


def draw_table(axes, table, names, columns="ABCDEFGHIJ", marks=()):
    """IoUs (A, G) as a heat map with a row an object."""
    axes.imshow(table.T, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (i, g), value in np.ndenumerate(table):
        color = "black" if value > 0.55 else "white"
        axes.text(i, g, f"{value:.2f}", ha="center", va="center", color=color, fontsize=14)
    axes.set_xticks(range(len(table)), columns[: len(table)])
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    for i, g in marks:
        axes.add_patch(Rectangle((i - 0.47, g - 0.47), 0.94, 0.94, fill=False, edgecolor="white", linewidth=4))


CORNERS = [[0, 0], [0, 1], [0, 1], [0, 1], [1, 0], [0, 0], [1, 0], [1, 1], [1, 1], [1, 1]]  # of the letters
TAG = dict(facecolor=(0, 0, 0, 0.7), linewidth=0, pad=2)


def draw_lettered(axes, sample, boxes, labels=None):
    """Boxes on the scene with letters; with labels in their colors and lines."""
    show_scene(axes, sample)
    for i, box in enumerate(boxes):
        _, color, style = LABELS[labels[i]] if labels is not None else ("", SKY, "-")
        outline(axes, box, color, style)
        x, y = np.clip([box[2 * CORNERS[i][0]], box[2 * CORNERS[i][1] + 1]], 5, 123)
        axes.text(x, y, "ABCDEFGHIJ"[i], ha="center", va="center", fontsize=13, color="white", bbox=TAG)


figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), width_ratios=[1.15, 1.9])
draw_lettered(left, scene, anchors[shown])
left.set_title("white: the objects")
draw_table(right, table[shown], names)
right.set_title("IoU of each anchor with each object")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Let the students find column A in the picture. A and B overlap the same object equally: the same anchor, one place
# further. Nobody reaches 1: anchors stand on a grid and have six shapes, and objects do not.

# %% [markdown]
# **By hand.** The cell of anchor A and the first object:

# %%
(x1, y1, x2, y2), (u1, v1, u2, v2) = anchors[shown[0]], scene.boxes[0]
print("anchor", anchors[shown[0]], " object", scene.boxes[0])
shared = (min(x2, u2) - max(x1, u1)) * (min(y2, v2) - max(y1, v1))
together = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared
print(f"shared {shared:.0f}, together {together:.0f}, IoU {shared / together:.3f}")
np.testing.assert_allclose(shared / together, table[shown[0], 0], rtol=1e-6)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 The rule: 0.7 and 0.3
#
# Look at a column's **largest** number, the anchor's best IoU:
#
# - **0.7 or more**: positive; it belongs to that object.
# - **below 0.3**: background.
# - **between**: ignored. It is neither a good example of an object nor of background.


# %% [markdown]
# ### Exercise 1: label by IoU
#
# `iou` is a table `(A, G)`, one row an anchor. Of objects that an anchor overlaps equally, take the first.


# %% exercise="label_by_iou"
def my_label_by_iou(iou, low, high):
    """The label of each anchor (A,): 1, 0 or -1, and the number of the object that it overlaps most (A,)."""
    ### BEGIN SOLUTION
    best = iou.max(axis=1)
    labels = np.full(len(iou), -1)
    labels[best >= high] = 1
    labels[best < low] = 0
    return labels, iou.argmax(axis=1)
    ### END SOLUTION


# %% check="label_by_iou"
check.label_by_iou(my_label_by_iou)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
labels, which = my_label_by_iou(table, 0.3, 0.7)
assert sorted(labels[shown].tolist()) == [-1] * 5 + [0] * 3 + [1] * 2
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), width_ratios=[1.15, 1.9])
draw_lettered(left, scene, anchors[shown], labels[shown])
draw_table(right, table[shown], names, marks=[(i, which[a]) for i, a in enumerate(shown)])
for i, label in enumerate(labels[shown]):
    short = {1: "pos.", 0: "back.", -1: "ign."}[label]
    right.text(i, 2.65, short, color=LABELS[label][1], ha="center", va="top", fontsize=15, weight="bold")
right.set_title("framed: each anchor's best IoU")
right.xaxis.tick_top()
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Blue is positive, orange dashed is ignored, red dotted is background. Look at A and B: the best that the first object
# has, and the rule ignores them. Nobody would ever learn to find this object. That is the next slide.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 Low-quality matches: no object goes without
#
# For **a third of the objects** no anchor reaches 0.7. So the RPN adds a rule:
#
# - The anchor that overlaps an **object** most is positive too, however small its IoU.
# - Equally good ones (a *tie*) all count.
# - It belongs to **its own** best object, which may be another one.
# - An object that **no** anchor touches gets none.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
tables = [box_ops.iou(anchors, scenes[i].boxes) for i in range(100)]
best_of_objects = np.concatenate([t.max(axis=0) for t in tables])  # of 353 objects
share = 100 * (best_of_objects < 0.7).mean()
assert round(share) == 33

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), width_ratios=[2, 1])
counts, edges, bars = left.hist(best_of_objects, np.arange(0.5, 0.96, 0.025), color=SKY, edgecolor="white")
for bar in bars:
    if bar.get_x() < 0.699:
        bar.set_facecolor(ORANGE)
left.axvline(0.7, color="black", linewidth=3, linestyle="--")
left.set(xlabel="IoU of an object's best anchor", ylabel="objects in 100 scenes")
left.text(0.505, counts.max() * 0.75, f"{share:.0f} in 100\nwould go without", color="black", fontsize=16)
show_scene(right, scene)
for a in shown[:2]:
    outline(right, anchors[a], BLUE)
right.set(xlim=(40, 96), ylim=(40, -8), title=f"a tie at {table[shown[0], 0]:.2f}: both")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Without this rule the network would be told that a third of all animals are not there, or are none of its business.
# Both A and B are the best of the cat, with exactly the same IoU: anchors stand on a grid, so ties are common. In 83
# of 353 objects the best anchor is not alone.

# %% [markdown]
# ### Exercise 2: the best of some object
#
# Given the table `(A, G)`, say of each anchor whether no other anchor beats it for **some** object. Mind the object
# that no anchor touches: its best IoU is 0, and *every* anchor "reaches" that.


# %% exercise="best_for_an_object"
def my_best_for_an_object(iou):
    """Whether each anchor overlaps some object at least as much as every other anchor does, and more than 0: (A,)."""
    ### BEGIN SOLUTION
    largest = iou.max(axis=0)  # (G,) each object's best
    return ((iou == largest) & (largest > 0)).any(axis=1)
    ### END SOLUTION


# %% check="best_for_an_object"
check.best_for_an_object(my_best_for_an_object)

# %%
assert np.flatnonzero(my_best_for_an_object(table)).tolist() == sorted(shown[:4].tolist())
ties = sum(int(((t == t.max(axis=0)).sum(axis=0) > 1).sum()) for t in tables)
print(ties, "of", len(best_of_objects), "objects have several best anchors")
assert ties == 83 and len(best_of_objects) == 353

# %% [markdown]
# **"Its own best object."** Two objects, two anchors. The first anchor is the best that object 1 has, but it overlaps
# object 0 more. It is a positive **of object 0**, and object 1 goes without after all. That is what the rule
# says, and it is rare: we count it.

# %%
two_anchors = np.array([[0, 0, 10, 10], [30, 30, 40, 40]], np.float32)
two_objects = np.array([[0, 0, 10, 12], [0, 0, 4, 10]], np.float32)
print(box_ops.iou(two_anchors, two_objects).round(2))


def matched(anchors, boxes, low=0.3, high=0.7, crowd=None, allow_low_quality=True):
    """The library's match for one picture without padding: labels (A,), object of each (A,)."""
    crowd = np.zeros(len(boxes), bool) if crowd is None else crowd
    labels, which = targets.match(anchors[None], boxes[None], ~crowd[None], crowd[None], low, high, allow_low_quality)
    return labels[0], which[0]


labels, which = matched(two_anchors, two_objects)
assert labels.tolist() == [1, 0] and which[0] == 0

positives_of_object = []
for i in range(300):
    boxes = scenes[i].boxes
    labels, which = matched(anchors, boxes)
    positives_of_object += np.bincount(which[labels == 1], minlength=len(boxes)).tolist()
counts = np.bincount(positives_of_object)
print("objects with 0, 1, 2, ... positive anchors:", counts.tolist())
assert 0 < counts[0] < 0.005 * counts.sum() and counts[1] > counts.sum() / 2

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 Crowds: neither object nor background
#
# Where people could not draw each object, they drew one region, a *crowd*: "many ducks".
#
# - A crowd is no object: nobody is trained to find its box.
# - A box that would be background is **ignored** if at least **half of the box** lies in it: there may well be a duck.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
crowded = ToyScenes("test", case="crowded")[2]
first, last = crowded.boxes[:, :2].min(axis=0), crowded.boxes[:, 2:].max(axis=0)
region = np.concatenate([first, last])[None]  # as if somebody had drawn one region around all
sides = anchors[:, 2:] - anchors[:, :2]
inside = (anchors >= 0).all(1) & (anchors <= 128).all(1) & (sides[:, 0] < 30) & (sides[:, 0] > 18)
some = anchors[inside][:: max(1, inside.sum() // 24)]
figure, panels = plt.subplots(1, 2, figsize=(9, 4.3))
for axes, is_crowd in zip(panels, (False, True)):
    labels, _ = matched(some, region, crowd=np.array([is_crowd]), allow_low_quality=False)
    show_scene(axes, crowded, objects=False)
    outline(axes, region[0], "white", width=5)
    for box, label in zip(some, labels):
        outline(axes, box, *LABELS[label][1:], width=2.5)
    told = ", ".join(f"{(labels == k).sum()} {name}" for k, (name, _, _) in LABELS.items() if (labels == k).any())
    axes.set_title(("a crowd" if is_crowd else "an object") + f":\n{told}")
assert (labels == -1).sum() > 8
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# White is the region. Left it is taken for an object: every small box in it has a tiny IoU and would be taught "nothing
# here", on top of a duck. Right it is marked as a crowd: these boxes are ignored. COCO marks crowds with iscrowd = 1.
# The measure is not IoU but the covered part of the box: a small box inside a large crowd is covered
# entirely, with an IoU near 0.

# %% [markdown]
# **By hand.** A box of 10 x 8 at x = 5 and a crowd that ends at x = 10: half of the box, 5 x 8 of 10 x 8, is inside. It
# is ignored. One pixel further to the right it is 4 x 8 of 10 x 8 = 0.4, and the box is background.

# %%
crowd_region = np.array([[0, 0, 10, 10]], np.float32)
two = np.array([[5, 0, 15, 8], [6, 0, 16, 8]], np.float32)
labels, _ = matched(two, crowd_region, crowd=np.array([True]))
assert labels.tolist() == [-1, 0] and targets.CROWD_COVER == 0.5

# %% [markdown]
# ## 6 All of it in code
#
# These are the rules in the words of the library:

# %%
print(targets.match.__doc__)

# %% [markdown]
# ### Exercise 3: match
#
# Everything together, for one picture. `crowd` `(G,)` says which of the `boxes` are crowds.
#
# 1. Label by the IoU with the boxes that are no crowds.
# 2. The best anchors of each object become positive.
# 3. Background of which at least half lies inside one crowd becomes ignored.
#
# Use `box_ops.iou` and what you wrote. Objects are numbered as in `boxes`, crowds included.


# %% exercise="match_anchors"
def my_match_anchors(anchors, boxes, crowd, low, high):
    """The label of each anchor (A,), 1, 0 or -1, and the object of each positive (A,), 0 for the others."""
    ### BEGIN SOLUTION
    iou = box_ops.iou(anchors, boxes)
    iou[:, crowd] = 0  # a crowd is no object
    labels, which = my_label_by_iou(iou, low, high)
    labels[my_best_for_an_object(iou)] = 1
    first = np.maximum(anchors[:, None, :2], boxes[:, :2])  # (A, G, 2) of what they share
    last = np.minimum(anchors[:, None, 2:], boxes[:, 2:])
    shared = np.maximum(last - first, 0).prod(axis=2)
    covered = shared * crowd / box_ops.area(anchors)[:, None]  # (A, G) part of the anchor
    labels[(labels == 0) & (covered.max(axis=1) >= 0.5)] = -1
    return labels, np.where(labels == 1, which, 0)
    ### END SOLUTION


# %% check="match_anchors"
check.match_anchors(my_match_anchors)

# %% [markdown]
# A wrong answer is told which rule it breaks:

# %%
try:
    check.match_anchors(lambda anchors, boxes, crowd, low, high: my_match_anchors(anchors, boxes, ~crowd, low, high))
except check.CheckFailed as failure:
    print(failure)

# %% [markdown]
# It agrees with the library for real anchors, crowds included, and with torchvision. What torchvision's matcher gives
# for six anchors and two objects is written down here, and a test compares it with torchvision itself. It writes the
# number of the object for a positive, -1 for background and -2 for ignored.

# %%
for i in range(20):
    boxes = scenes[i].boxes
    crowd = np.arange(len(boxes)) % 4 == 3
    labels, which = matched(anchors, boxes, crowd=crowd)
    mine, my_which = my_match_anchors(anchors, boxes, crowd, 0.3, 0.7)
    np.testing.assert_array_equal(mine, labels)
    np.testing.assert_array_equal(my_which[mine == 1], which[mine == 1])

TORCHVISION = [0, -2, -2, 1, -1, 1]  # Matcher(0.7, 0.3, allow_low_quality_matches=True)
SIX_ANCHORS = [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [20, 20, 30, 30], [99, 99, 110, 110], [20, 20, 40, 25]]
TWO_OBJECTS = [[0, 0, 10, 10], [20, 20, 40, 40]]
six, two = np.array(SIX_ANCHORS, np.float32), np.array(TWO_OBJECTS, np.float32)
labels, which = my_match_anchors(six, two, np.zeros(2, bool), 0.3, 0.7)
assert np.where(labels == 1, which, labels - 1).tolist() == TORCHVISION

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 The imbalance, in numbers
#
# Of the 8,064 anchors of a drawn scene, on average **5** are positive.
#
# - Always to say "background" is right for 99.9 % of the anchors, and finds nothing.
# - At the start every anchor pulls its score equally hard (notebook 11): 5 up, 7,699 down.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
labels_of = [matched(anchors, scenes[i].boxes)[0] for i in range(100)]
mean = {label: np.mean([(labels == label).sum() for labels in labels_of]) for label in LABELS}
always_background = mean[0] / (mean[0] + mean[1])
assert round(mean[1]) == 5 and round(mean[0]) == 7699 and always_background > 0.999

figure, axes = plt.subplots(figsize=(9, 3.6))
for place, (label, (_, color, _)) in enumerate(LABELS.items()):
    axes.barh(-place, mean[label], color=color, height=0.7)
    axes.text(mean[label] * 1.15, -place, f"{mean[label]:,.0f}", va="center", fontsize=20)
axes.set_yticks([0, -1, -2], [name for name, _, _ in LABELS.values()])
axes.set(xscale="log", xlim=(1, 40000), xlabel="anchors in a scene (each line: ten times as many)")
axes.grid(axis="x", alpha=0.4)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The axis is logarithmic, or the positives could not be seen. On real photos it is worse: the published model has
# 242,991 anchors on a picture of 800 x 1216 pixels, for seven objects or so. RetinaNet (2017) keeps all anchors and
# changes the loss; Faster R-CNN keeps the loss and samples.

# %%
levels = [(800 // stride, 1216 // stride) for stride in (4, 8, 16, 32)] + [(13, 19)]
assert sum(map(len, AnchorGenerator()(levels, (800, 1216)))) == 242_991

# Before anything is learned every score p is 0.5; the gradient is p minus what it should be, 0 or 1 (notebook 11).
pull_up, pull_down = 0.5 * mean[1], 0.5 * mean[0]
print(f"all anchors: {pull_down / pull_up:.0f} times as much pull down as up")
assert pull_down / pull_up > 1000

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 Sampling = top k by a random priority
#
# Wanted: 256 anchors at random, **at most half** of them positives, the rest background.
#
# - Each box gets a random number, its *priority*.
# - Of the positives those with the smallest are taken; then background fills up.
#
# By hand: 12 boxes, count 6, half positive.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
twelve = np.array([0, 1, 0, -1, 1, 0, 1, 0, 1, 0, 1, 0])
priority = np.array([62, 35, 7, 3, 81, 48, 12, 90, 27, 20, 55, 74]) / 100
chosen_positives, chosen_rest = [6, 8, 1], [2, 9, 5]  # 12, 27, 35 and 7, 20, 48: found with a finger

figure, axes = plt.subplots(figsize=(10, 3.4))
for i, (label, value) in enumerate(zip(twelve, priority)):
    name, color, _ = LABELS[label]
    taken = i in chosen_positives + chosen_rest
    axes.bar(i, value, color=color, alpha=1 if taken else 0.25, edgecolor="black", linewidth=4 if taken else 0)
    axes.text(i, value + 0.02, f".{round(100 * value):02d}", ha="center", fontsize=16)
axes.set_xticks(range(12), [{1: "pos", 0: "back", -1: "ign"}[label] for label in twelve])
axes.set(ylabel="priority", ylim=(0, 1.05), title="framed: taken")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Let the students do it with a finger. Five positives, three places for them: .12, .27 and .35. Then three of the six
# background boxes: .07, .20, .48. The ignored box has the smallest priority of all and is not even asked. It is the
# same as drawing names from a hat: the smallest of random numbers are a random choice.

# %% [markdown]
# ### Exercise 4: sample
#
# For one picture, with the priorities given. The result has `S = min(count, A)` places: first the positives by rising
# priority, at most `int(count * fraction)`, then background by rising priority. Places that cannot be filled have index
# 0 and are not `valid`. A priority is below 1. Hint: `np.argsort(np.where(labels == 1, priority, 2))`.


# %% exercise="sample_anchors"
def my_sample_anchors(labels, priority, count, fraction):
    """The numbers of the chosen boxes (S,), whether each is positive (S,), and whether each place is valid (S,)."""
    ### BEGIN SOLUTION
    count = min(count, len(labels))
    positives = np.argsort(np.where(labels == 1, priority, 2), kind="stable")
    positives = positives[: min((labels == 1).sum(), int(count * fraction))]
    rest = np.argsort(np.where(labels == 0, priority, 2), kind="stable")
    rest = rest[: min((labels == 0).sum(), count - len(positives))]
    indices = np.zeros(count, int)
    indices[: len(positives) + len(rest)] = np.concatenate([positives, rest])
    place = np.arange(count)
    return indices, place < len(positives), place < len(positives) + len(rest)
    ### END SOLUTION


# %% check="sample_anchors"
check.sample_anchors(my_sample_anchors)

# %%
indices, positive, valid = my_sample_anchors(twelve, priority, 6, 0.5)
assert indices.tolist() == chosen_positives + chosen_rest and valid.all() and positive.sum() == 3

# Every positive is chosen equally often: 3 of 5.
rng = generator(0)
often = np.zeros(12)
for _ in range(2000):
    indices, positive, _ = my_sample_anchors(twelve, rng.random(12), 6, 0.5)
    often[indices[positive]] += 1
print("chosen in 2,000 draws:", often[twelve == 1].astype(int).tolist())
assert abs(often[twelve == 1] / 2000 - 3 / 5).max() < 5 * np.sqrt(0.24 / 2000)  # five standard deviations

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 9 Why top k? One shape for every picture
#
# Pictures have different numbers of positives. `top k` gives **(N, S)** for all of them at once, and a mask `valid`.
#
# - No loop over pictures; one array goes to the loss.
# - On a graphics card, a size that depends on values makes the program wait for the card.
# - `valid` is the loss's weight: 0 for a place that is empty.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
rng = generator(3)
batch_labels = rng.choice([1, 0, -1], (5, 12), p=[0.3, 0.5, 0.2])
batch_labels[1] = np.where(np.arange(12) < 2, 1, -1)  # a picture that is nearly all crowd
batch_labels[3] = np.where(np.arange(12) < 8, 0, -1)  # a picture without objects
indices, positive, valid = targets.sample(batch_labels, 8, 0.5, rng)
assert indices.shape == positive.shape == valid.shape == (5, 8)

figure, panels = plt.subplots(1, 2, figsize=(10.5, 3.4), width_ratios=[12, 8])
shades = {1: BLUE, 0: RED, -1: ORANGE}
for (n, a), label in np.ndenumerate(batch_labels):
    panels[0].add_patch(Rectangle((a - 0.46, n - 0.46), 0.92, 0.92, color=shades[label], alpha=0.75))
    panels[0].text(a, n, {1: "p", 0: "b", -1: "i"}[label], ha="center", va="center", color="white", fontsize=15)
for (n, s), index in np.ndenumerate(indices):
    color = shades[batch_labels[n, index]] if valid[n, s] else "lightgray"
    panels[1].add_patch(Rectangle((s - 0.46, n - 0.46), 0.92, 0.92, color=color, alpha=0.75))
    text, ink = (str(index), "white") if valid[n, s] else ("-", "black")
    panels[1].text(s, n, text, ha="center", va="center", color=ink, fontsize=15)
for axes, width, title in zip(panels, (12, 8), ("labels (5, 12)", "sampled (5, 8): number of the box")):
    axes.set(xlim=(-0.5, width - 0.5), ylim=(4.5, -0.5), title=title, yticks=range(5), xticks=range(width))
panels[0].set(ylabel="picture", xlabel="p positive, b background, i ignored")
panels[1].set_xlabel("place; gray: not valid")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Five pictures, twelve boxes each, eight places. Picture 1 is nearly all crowd: two positives, no background, six empty
# places. Picture 3 has no object. All five fit one array. The loss multiplies by `valid`, so the empty places count
# nothing, and divides by how many are valid (notebook 11).

# %% [markdown]
# The library's `sample`. Its `top_k` is a partial sort: it does not sort the 8,000 that are not wanted.

# %%
print(inspect.getsource(targets.sample))
for n in range(5):
    drawn = generator(4).random((5, 12), dtype=np.float32)[n]  # what the library draws from the same seed
    theirs = [array[n] for array in targets.sample(batch_labels, 8, 0.5, generator(4))]
    mine = my_sample_anchors(batch_labels[n], drawn, 8, 0.5)
    np.testing.assert_array_equal(mine[0], theirs[0] * theirs[2])
    np.testing.assert_array_equal(mine[1], theirs[1])
    np.testing.assert_array_equal(mine[2], theirs[2])

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 10 RoI sampling: 512, a quarter positive, ground truth added
#
# The heads are trained on proposals, by the same two functions.
#
# - One threshold, **0.5**: nothing is ignored but crowds. The label is the **class** of the object, 0 for background.
# - The **ground truth boxes are proposals too**: else the heads see hardly a positive before the RPN has learned.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
training_scenes = [ToyScenes("train")[i] for i in range(16)]


def stages_of_a_step(model, samples, seed=0):
    """The Batch, and everything that one training step computes: anchors, labels, samples, targets, losses."""
    batch = model.transform(samples)
    model.train()
    with no_grad(), Trace() as stages:
        model.losses(batch, generator(seed, 0))
    return batch, stages


untrained = mask_rcnn.build("toy")
batch, before = stages_of_a_step(untrained, training_scenes)
_, after = stages_of_a_step(model, training_scenes)


def good_proposals(stages):
    """Of each picture: how many of its proposals overlap an object by 0.5 or more."""
    real = batch.valid & ~batch.crowd
    labels, _ = targets.match(stages["proposals"], batch.boxes, real, batch.crowd, 0.5, 0.5)
    return ((labels == 1) & stages["proposal_valid"]).sum(axis=1)


objects = batch.valid.sum(axis=1)
found, later = good_proposals(before), good_proposals(after)
assert (found + objects > found).all() and later.mean() > 3 * found.mean()

figure, axes = plt.subplots(figsize=(9.5, 3.6))
place = np.arange(16)
axes.bar(place, found, color=SKY, label="before training: proposals")
axes.bar(place, objects, bottom=found, color=GREEN, hatch="//", edgecolor="white", label="... and ground truth")
axes.plot(place, later, "ko", markersize=9, label="trained: proposals")
axes.set(xlabel="picture", ylabel="positives of 200", xticks=place[::3])
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Bars: a network with random weights. Its proposals are anchors that hardly moved; some pictures have one or two that
# overlap an object by half. With the ground truth added, every picture has at least as many positives as objects, and
# perfect ones. Dots: the trained network, where the ground truth boxes drown among dozens of good proposals.
#
# A quarter is Fast R-CNN's choice. Half could seldom be had: 256 good RoIs in a picture are many.

# %% [markdown]
# ### Exercise 5: RoIs and their classes
#
# Append the ground truth to the proposals, match with one threshold, and give each RoI the class of its object, or 0.
# Here there are no crowds. You can use `my_label_by_iou`; would the low-quality rule change anything?


# %% exercise="label_rois"
def my_label_rois(proposals, boxes, classes, threshold):
    """The RoIs, proposals then ground truth (P + G, 4), and the class of each, 0 for background (P + G,)."""
    ### BEGIN SOLUTION
    rois = np.concatenate([proposals, boxes])
    labels, which = my_label_by_iou(box_ops.iou(rois, boxes), threshold, threshold)
    return rois, np.where(labels == 1, classes[which], 0)
    ### END SOLUTION


# %% check="label_rois"
check.label_rois(my_label_rois)

# %% [markdown]
# The low-quality rule would change nothing: the best RoI of each object is its ground truth box itself, with an IoU of
# 1.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### What the box head learns from
#
# The RoIs that were sampled in one picture: 64 for the toy model, a quarter of them positive. (512 would be more than
# there are.)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
n = 3
rois, roi_labels, valid = (after[name][n] for name in ("rois", "roi_labels", "roi_valid"))
figure, panels = plt.subplots(1, 2, figsize=(9.5, 4.4))
for axes, positive in zip(panels, (True, False)):
    show_scene(axes, training_scenes[n])
    chosen = np.flatnonzero(valid & ((roi_labels > 0) == positive))
    for i in chosen:
        outline(axes, rois[i], *LABELS[int(positive)][1:], width=2)
    axes.set_title(f"{len(chosen)} " + ("positives" if positive else "background"))
assert (roi_labels > 0).sum() == 16 == model.roi.samples * model.roi.positive_fraction
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Left: the positives, which overlap their animal by half or more. Some show half an animal and still count. Right:
# background, most of it near the animals, because a trained RPN proposes nothing else. So these are hard examples, and
# nobody had to look for them.

# %% [markdown] slides=["T04"] slideshow={"slide_type": "slide"}
# ## 11 The targets: a class, and four numbers (T04)
#
# A positive should have said the **class** of its object, and how to **move** onto it (notebook 05):
#
# $$d_x = w_x\,\frac{x - x_a}{\text{width}_a}, \qquad d_w = w_w \log\frac{\text{width}}{\text{width}_a}$$
#
# RPN: all weights 1. Box head: **10, 10, 5, 5**, so that the four numbers vary by about 1.

# %% [markdown]
# Here x is the middle of the object, x_a that of the box that should move. **By hand**, with the weights 10, 10, 5, 5:
# a RoI of 40 x 40 at (10, 20), an object of 48 x 40 at (14, 20). The middles are 30 and 38: 8 / 40 = 0.2, times 10 is
# **2**. The widths are 40 and 48: log(48 / 40) = 0.182, times 5 is **0.91**. In y nothing moves: 0 and 0.

# %%
roi = np.array([10.0, 20, 50, 60])
target = np.array([14.0, 20, 62, 60])
numbers = box_ops.encode(target, roi, mask_rcnn.BOX_WEIGHTS)
print(numbers.round(3))
np.testing.assert_allclose(numbers, [2, 0, 0.9116, 0], atol=1e-4)
np.testing.assert_allclose(box_ops.decode(numbers, roi, mask_rcnn.BOX_WEIGHTS), target)  # and back

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
positive = after["roi_positive"]
weighted = after["box_targets"][positive]  # (positives, 4)
plain = weighted / mask_rcnn.BOX_WEIGHTS
print("standard deviation without weights", plain.std(axis=0).round(2), "with", weighted.std(axis=0).round(2))
assert (plain.std(axis=0) < 0.35).all() and (abs(np.log2(weighted.std(axis=0))) < 1).all()

figure, panels = plt.subplots(1, 2, figsize=(10, 3.2), sharey=True)
for axes, values, title in zip(panels, (plain, weighted), ("weights 1, 1, 1, 1", "weights 10, 10, 5, 5")):
    axes.boxplot(list(values.T), widths=0.6, showfliers=False, medianprops=dict(color=RED, linewidth=3))
    axes.set_xticks([1, 2, 3, 4], ["dx", "dy", "dw", "dh"])
    spread = ", ".join(f"{v:.2f}" for v in values.std(axis=0))
    axes.set_title(f"{title}\nstandard deviation {spread}", fontsize=14)
    axes.grid(axis="y", alpha=0.4)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Targets of the positives of one training step. RoIs that overlap their object by half or more are nearly right: what
# is left to say is small, about 0.1 for the place and 0.2 for the size. A loss of numbers that small would be drowned
# by the loss of the classes. The weights bring all four to about 1. They are constants of the model: who trains with
# 10, 10, 5, 5 must divide by them in inference (notebook 09).

# %% [markdown]
# ## 12 The same inside the model
#
# A training step kept what it computed. Our functions, picture by picture, find the same labels, and each sampled RoI
# has the class that ours gives it.

# %%
print(*(f"{name:13} {after[name].shape}" for name in ("rpn_labels", "rpn_sampled", "rois", "box_targets")), sep="\n")
for n, sample in enumerate(training_scenes):
    no_crowd = np.zeros(len(sample.boxes), bool)
    labels, which = my_match_anchors(after["anchors"], sample.boxes, no_crowd, 0.3, 0.7)
    np.testing.assert_array_equal(labels, after["rpn_labels"][n])
    np.testing.assert_array_equal(which[labels == 1], after["rpn_matches"][n][labels == 1])

    sampled, positive = after["rpn_sampled"][n], after["rpn_positive"][n]
    assert (labels[sampled] == positive)[after["rpn_valid"][n]].all()  # no ignored anchor among them
    ours, classes = my_label_rois(after["proposals"][n], sample.boxes, sample.labels, 0.5)
    for roi, label in zip(after["rois"][n], after["roi_labels"][n]):
        assert label in classes[(ours == roi).all(axis=1)]

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 13 Move the thresholds

# %% widget=True


def draw_thresholds(axes, low, high, allow_low_quality=True):
    """The scene with its positive anchors for two thresholds, and how many of each kind there are."""
    labels, _ = matched(anchors, scene.boxes, low, max(low, high), allow_low_quality=allow_low_quality)
    show_scene(axes, scene)
    for box in anchors[labels == 1]:
        outline(axes, box, BLUE, width=2)
    told = "\n".join(f"{(labels == k).sum()} {name}" for k, (name, _, _) in LABELS.items())
    rule = "" if allow_low_quality else ", no low-quality"
    axes.set_title(f"{low:.1f} and {high:.1f}{rule}\n{told}", fontsize=14)
    return np.bincount(labels + 1, minlength=3)


def thresholds(low=0.3, high=0.7, allow_low_quality=True):
    """One figure for one position of the sliders."""
    draw_thresholds(plt.subplots(figsize=(5, 5))[1], low, high, allow_low_quality)
    plt.show()


try:
    from ipywidgets import FloatSlider, interact

    slider = dict(min=0.1, max=0.9, step=0.05)
    low, high = FloatSlider(value=0.3, **slider), FloatSlider(value=0.7, **slider)
    interact(thresholds, low=low, high=high, allow_low_quality=True)
except ImportError:  # no widgets installed
    thresholds()

# %% [markdown]
# Without sliders, four positions:

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 4, figsize=(11.5, 4.3))
settings = [(0.3, 0.7, True), (0.3, 0.7, False), (0.5, 0.5, False), (0.3, 0.9, True)]
counted = [draw_thresholds(axes, *setting) for axes, setting in zip(panels, settings)]
assert counted[2][2] > 3 * counted[0][2] and counted[2][0] == 0  # 0.5: many positives, nothing ignored
assert counted[1][2] < counted[0][2]
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# From the left: the RPN's rule. Without low-quality matches the cat at the top has no anchor. One threshold of 0.5, as
# in the heads: many more positives, none ignored, and anchors that show half an animal count as good. A
# high threshold of 0.9: only the low-quality rule still makes positives.

# %% [markdown]
# ## 14 Common misconceptions
#
# ### "Ignored is another word for background"
#
# An ignored anchor is in no loss. Were they background, dozens of boxes in this scene that overlap an animal by
# more than a half would be taught "there is nothing".

# %%
labels, _ = matched(anchors, scene.boxes)
best = table.max(axis=1)
print(f"{(labels == -1).sum()} ignored anchors; {(best[labels == -1] > 0.5).sum()} of them have an IoU above 0.5")
sampled = targets.sample(labels[None], 256, 0.5, generator(0))[0][0]
assert (labels[sampled] != -1).all()
wrongly = targets.sample(np.maximum(labels, 0)[None], 256, 0.5, generator(0))[0][0]
assert (labels[wrongly] == -1).any()

# %% [markdown]
# ### "Every object gets one anchor"
#
# One, two, three or four; rarely none. Matching asks each *anchor*, and only the low-quality rule asks the object.

# %%
print("objects with 0, 1, 2, ... positive anchors:", counts[:6].tolist())
assert (counts[:4] > 0).all()

# %% [markdown]
# ### "Half of the sample is positive"
#
# *At most* half. Drawn scenes have five positive anchors: 5 in 128 is 1 in 26. That is still far from 1 in 1,500.

# %%
share = after["rpn_positive"].sum() / after["rpn_valid"].sum()
print(f"positives among the sampled anchors: {100 * share:.1f} %")
assert 0.01 < share < 0.1

# %% [markdown]
# ### "`iou == iou.max(axis=0)` is all that a low-quality match needs"
#
# Pictures of a batch have different numbers of objects, so the shorter lists are padded with empty boxes, which overlap
# nothing. Their best IoU is 0, and every anchor has it. Without `> 0` **all** anchors become positive:

# %%
padded = np.concatenate([table, np.zeros((len(table), 1), table.dtype)], axis=1)  # a fourth object that is padding
naive = (padded == padded.max(axis=0)).any(axis=1)
print("positives:", naive.sum(), "without `> 0`,", my_best_for_an_object(padded).sum(), "with it")
assert naive.all() and my_best_for_an_object(padded).sum() == 4

# %% [markdown]
# ### "A box in a crowd has a large IoU with it"
#
# The smaller the box, the smaller its IoU, even where it lies in the crowd entirely:

# %%
small_box, large_crowd = np.array([[20.0, 20, 30, 30]]), np.array([[0.0, 0, 100, 100]])
iou = box_ops.iou(small_box, large_crowd)[0, 0]
print(f"IoU {iou:.2f}, though the whole box lies in the crowd")
assert iou == 0.01 and my_match_anchors(small_box, large_crowd, np.array([True]), 0.3, 0.7)[0][0] == -1

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Recap
#
# 1. Matching gives each box a label by its best IoU: positive, background, or ignored between the thresholds.
# 2. The RPN: 0.7 and 0.3, plus the best anchors of each object, ties included. The heads: 0.5, and a class.
# 3. A crowd is neither: background that lies in it by half is ignored.
# 4. Nearly all boxes are background, so a few are sampled: the smallest random priorities, at most half positive.
# 5. Fixed shapes (N, S) and a mask `valid`; a positive's target is its object, encoded.

# %% [markdown]
# ## Quiz
#
# 1. An anchor has IoUs of 0.72 and 0.75 with two objects. What is its label, and whose is it?
# 2. An anchor's best IoU is 0.31, but no anchor overlaps that object more. Its label?
# 3. Which boxes are positives of an object that no anchor touches?
# 4. A box lies in a crowd by 60 % and overlaps an object by 0.8. Its label for the RPN?
# 5. Why is crowd cover measured as a part of the box and not as IoU?
# 6. There are 5 positives and 7,699 background anchors; 256 are sampled, half positive. How many of each?
# 7. Why are the smallest of random priorities a fair choice?
# 8. What would happen to `valid` in a picture that is all crowd?
# 9. Why is ground truth added to the proposals, and why not in inference?
# 10. Why are the box head's targets multiplied by 10, 10, 5, 5?
#
# <details><summary>Answers</summary>
#
# 1. Positive, of the second object, which it overlaps more.
# 2. Positive: a low-quality match.
# 3. None. Its best IoU is 0, and the rule asks for more than 0.
# 4. Positive. Only background is ignored for a crowd.
# 5. A small box inside a large crowd has a tiny IoU, yet it may show one of the crowd's objects.
# 6. 5 positives and 251 of background: at most half.
# 7. The priorities do not depend on the boxes, so each set of k boxes is equally likely to have the smallest.
# 8. No positives, no background: all places are not valid, the loss of this picture is 0.
# 9. So that the heads see positives before the RPN works. In inference nobody knows the ground truth.
# 10. A RoI that is a positive is nearly right, so its targets are small, 0.1 to 0.2; the weights bring them to about 1.
#
# </details>
