# %% [markdown] slideshow={"slide_type": "slide"}
# # 00 Start here: what is in the picture, and which pixels exactly?
#
# **Question.** Two cats, a dog and a duck stand in each other's way. A program has to answer:
# **how many are there, what are they, and which pixels belong to which?**
#
# Mask R-CNN answers all three. This course builds it, from NumPy up.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecture:* this first notebook needs no mathematics. It says what is asked for, what goes in and what comes
# out, runs a trained network once, and shows which notebook explains which part. Slide ids in brackets, (T02) or (L04),
# are those of the two talks that the course follows: T is the talk of the paper's authors, L a university lecture.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle

import minimask
from minimask import check, draw
from minimask.datasets.toy import ToyScenes
from minimask.systems import taxonomy
from minimask.tensor import no_grad
from minimask.trace import Trace

plt.rcParams.update({"figure.figsize": (9, 4.5), "figure.dpi": 100, "font.size": 14})
plt.rcParams["figure.constrained_layout.use"] = True
ORANGE, SKY, RED, YELLOW, BLUE, PURPLE, GREEN = draw.COLORS[:7] / 255

# %% [markdown]
# **Words of this notebook**
#
# - *Picture*: an array `(H, W, 3)` of integers from 0 to 255: for each of `H` rows and `W` columns red, green, blue.
# - *Class*: a kind of thing, here cat, dog, duck. *Label*: the number of a class: 1, 2, 3. 0 is the *background*.
# - *Object*, or *instance*: one single cat. Two cats are two instances of one class.
# - *Box*: `x1, y1, x2, y2`, the left, upper, right and lower end of an object, in pixels from the upper left corner.
# - *Mask*: an array `(H, W)` of True and False: which pixels are the object.
# - *Network*: a function from a picture to an answer, in many simple steps with millions of numbers, its *weights*. It
#   is *trained*: the weights are found from examples with known answers (notebooks 01 and 12).
# - *Features*: numbers that a network computes to describe what is at a place of the picture (notebook 03).
# - *Score*: how sure a network is of an object that it has found, 0 to 1.
#
# The pictures of this course are drawn by a program, so that the right answer is known to the pixel. They are numbered.
# We look for the first one with the lecture's four animals, two cats, a dog and a duck, in which the cats touch:


# %%
def touch(a, b):
    """Whether a pixel of mask a has a pixel of mask b above, below, left or right of it."""
    grown = np.pad(a, 1)
    grown = grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:]
    return bool((grown & b).any())


def has_four_animals(sample):
    """Labels 1, 1, 2, 3 in some order, the two cats touching, every animal at least 350 pixels."""
    masks = sample.masks.astype(bool)
    if sorted(sample.labels) != [1, 1, 2, 3] or masks.sum(axis=(1, 2)).min() < 350:
        return False
    return touch(*masks[sample.labels == 1])


drawn = ToyScenes("test", seed=4)
number = next(i for i in range(len(drawn)) if has_four_animals(drawn[i]))
scene = drawn[number]
order = np.argsort(scene.labels, kind="stable")  # cats first, as in the lecture
image, names = scene.image, drawn.class_names
masks, labels, boxes = scene.masks[order].astype(bool), scene.labels[order], scene.boxes[order]
assert [names[label - 1] for label in labels] == ["cat", "cat", "dog", "duck"]
print(f"scene {number}: picture {image.shape}, masks {masks.shape}, labels {labels}")

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(4.2, 4.2))
axes.imshow(image)
axes.set(xticks=range(0, 129, 32), yticks=range(0, 129, 32), xlabel="x, pixels", ylabel="y, pixels")
plt.show()

# %% [markdown] slides=["T02"] slideshow={"slide_type": "slide"}
# ## 1 Three tasks on one picture (T02)
#
# *Object detection*: a box and a class for each object. *Semantic segmentation*: a class for each pixel.
# *Instance segmentation*: a class **and the pixels** of each object.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
CLASS_COLORS = np.array([[0.92, 0.92, 0.92], BLUE, YELLOW, GREEN])  # background, cat, dog, duck
OBJECT_COLORS = np.array([ORANGE, SKY, RED, PURPLE])


def show_classes(axes, classes):
    """A map (H, W) of labels, in the colors of the classes."""
    axes.imshow(classes, cmap=ListedColormap(CLASS_COLORS), vmin=0, vmax=3, interpolation="nearest")


def show_boxes(axes, boxes, labels, texts=True):
    """Boxes with the names of their classes."""
    for box, label, color in zip(boxes, labels, OBJECT_COLORS):
        size = box[2] - box[0], box[3] - box[1]
        axes.add_patch(Rectangle(box[:2] - 0.5, *size, fill=False, edgecolor=color, linewidth=3))
        if texts:
            look = dict(facecolor=color, edgecolor="none", pad=1.5)
            axes.text(box[0], box[1] - 2, names[label - 1], fontsize=12, bbox=look)


def show_masks(axes, masks, image):
    """Each object in a color of its own."""
    axes.imshow(image)
    for mask, color in zip(masks, OBJECT_COLORS):
        axes.imshow(np.concatenate([np.broadcast_to(color, (*mask.shape, 3)), 0.75 * mask[:, :, None]], axis=2))
        axes.contour(mask, [0.5], colors="black", linewidths=1)


classes_of_pixels = (masks * labels[:, None, None]).max(axis=0)  # here no two masks share a pixel
assert masks.sum(axis=0).max() == 1
figure, panels = plt.subplots(1, 3, figsize=(11, 4.3))
panels[0].imshow(image)
show_boxes(panels[0], boxes, labels)
show_classes(panels[1], classes_of_pixels)
show_masks(panels[2], masks, image)
for axes, title in zip(panels, ("detection: 4 boxes", "semantic: 3 classes", "instances: 4 objects")):
    axes.set_title(title)
    axes.set(xticks=[], yticks=[])
patches_of_color = [Patch(color=color, label=name) for color, name in zip(CLASS_COLORS[1:], names)]
panels[1].legend(handles=patches_of_color, loc="lower left", fontsize=11)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Left: boxes tell the two cats apart, but not where their legs end. Middle: every pixel has a class, but the two cats
# have become one blue shape; nobody can say from this map that they are two. Right: both. Ask the room which of the
# three a self-driving car needs, a farmer who counts sheep, a phone that blurs the background.

# %% [markdown]
# ### Exercise 1: how many pixels has each object?
#
# A mask is True where the object is. **By hand:** a mask that is True in columns 1 to 3 of rows 1 and 2 has
# 3 x 2 = 6 pixels.


# %% exercise="mask_areas"
def my_mask_areas(masks):
    """The number of pixels of each of the masks (k, H, W) bool: (k,) integers."""
    ### BEGIN SOLUTION
    return masks.sum(axis=(1, 2))
    ### END SOLUTION


# %% check="mask_areas"
check.mask_areas(my_mask_areas)

# %%
for label, area in zip(labels, my_mask_areas(masks)):
    print(f"{names[label - 1]:5}{area:6} pixels, {100 * area / image[:, :, 0].size:.1f} % of the picture")

# %% [markdown]
# ### Exercise 2: the box of a mask
#
# Pixel 3 is not a point: it covers x from 3 to 4. So a mask whose columns are 2, 3 and 4 reaches from x1 = 2 to x2 = 5
# and is 3 wide. (Half a pixel seems little. Notebook 14 shows what it costs.)


# %% exercise="box_of_mask"
def my_box_of_mask(mask):
    """The smallest box x1, y1, x2, y2 around a mask (H, W) bool that is not empty: (4,) floats."""
    ### BEGIN SOLUTION
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=float)
    ### END SOLUTION


# %% check="box_of_mask"
check.box_of_mask(my_box_of_mask)

# %%
np.testing.assert_array_equal([my_box_of_mask(mask) for mask in masks], boxes)  # the boxes that came with the scene

# %% [markdown] slides=["L03"] slideshow={"slide_type": "slide"}
# ## 2 Instance segmentation = detection + segmentation (L03)
#
# - From **detection**: find every object, with a bounding box and a class label.
# - From **semantic segmentation**: produce the mask, pixel by pixel.
#
# From instances both other answers follow. The way back is closed.

# %% [markdown] slideshow={"slide_type": "notes"}
# This is the one idea of the course: *first* find boxes, *then* draw a mask inside each box. Inside one box only one
# object is asked for, so the mask branch need not tell cats apart; the box has done that already. The exercises show
# that masks give boxes and classes of pixels; section 3 that neither boxes nor classes of pixels give masks.

# %% [markdown]
# ### Exercise 3: from instances to classes of pixels
#
# The masks that a network finds may overlap. They come best first, so where several claim a pixel the first one gets
# it.


# %% exercise="semantic_map"
def my_semantic_map(masks, labels):
    """The label of each pixel, 0 for none, from masks (k, H, W) bool and labels (k,); the first mask wins: (H, W)."""
    ### BEGIN SOLUTION
    classes = np.zeros(masks.shape[1:], dtype=int)
    for mask, label in zip(masks[::-1], labels[::-1]):  # the last first, so that the first is painted over it
        classes[mask] = label
    return classes
    ### END SOLUTION


# %% check="semantic_map"
check.semantic_map(my_semantic_map)

# %%
np.testing.assert_array_equal(my_semantic_map(masks, labels), classes_of_pixels)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 3, figsize=(11, 4))
show_masks(panels[0], masks, image)
panels[1].imshow(image)
show_boxes(panels[1], [my_box_of_mask(mask) for mask in masks], labels)
show_classes(panels[2], my_semantic_map(masks, labels))
for axes, title in zip(panels, ("the instances", "their boxes (exercise 2)", "their classes (exercise 3)")):
    axes.set_title(title)
    axes.set(xticks=[], yticks=[])
plt.show()

# %% [markdown] slides=["T03"] slideshow={"slide_type": "slide"}
# ## 3 The hard one of the three (T03)
#
# The talk (2017): on the leaderboards of COCO and of Cityscapes, instance segmentation has **fewer entries**.
#
# Why? Neither of the other two answers contains it. Count objects in 60 crowded scenes:

# %% [markdown]
# COCO and Cityscapes are collections of photos with known answers; a leaderboard lists how well programs do on them.
# Why not take a semantic map and call each connected patch of a class an object? A *patch* is a set of pixels that are
# connected up, down, left or right. We count patches in scenes of many animals of one kind, given the *perfect* map:


# %%
def patches(mask):
    """The number of patches of a mask: each pixel takes the largest number among its neighbors until none changes."""
    numbers = np.where(mask, 1 + np.arange(mask.size).reshape(mask.shape), 0)
    while True:
        n = np.pad(numbers, 1)
        largest = np.max([n[1:-1, 1:-1], n[:-2, 1:-1], n[2:, 1:-1], n[1:-1, :-2], n[1:-1, 2:]], axis=0) * mask
        if (largest == numbers).all():
            return len(np.unique(numbers[mask]))
        numbers = largest


assert patches(np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]], bool)) == 2
cats = masks[:2].any(axis=0)
each = [patches(mask) for mask in masks[:2]]
print(f"our scene: the cats alone have {each[0]} and {each[1]} patches, together {patches(cats)}")
assert patches(cats) < sum(each)  # they melt together

crowded = ToyScenes("test", case="crowded")
counted, filled = [], []
for i in range(60):
    sample = crowded[i]
    kind = np.bincount(sample.labels).argmax()  # the class with most animals
    of_kind = sample.masks[sample.labels == kind].astype(bool)
    counted.append((len(of_kind), patches(of_kind.any(axis=0))))
    sizes = sample.boxes[:, 2:] - sample.boxes[:, :2]
    filled += (sample.masks.sum(axis=(1, 2)) / sizes.prod(axis=1)).tolist()
objects, found = np.array(counted).T
wrong = (objects != found).mean()
print(f"counted wrong in {100 * wrong:.0f} % of the crowded scenes")
print(f"of a box, {100 * np.mean(filled):.0f} % is the object on average, {100 * np.min(filled):.0f} % at least")
assert wrong > 0.5 and np.mean(filled) < 0.5

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
pairs, times = np.unique(counted, axis=0, return_counts=True)
right_ones = pairs[:, 0] == pairs[:, 1]
for which, color, text in ((right_ones, BLUE, "right"), (~right_ones, RED, "wrong")):
    left.scatter(*pairs[which].T, s=60 * times[which], color=color, label=text)
left.plot([0, 8], [0, 8], color="black", linewidth=1)
left.set(xlabel="animals of one kind", ylabel="patches of the perfect map", xlim=(0.5, 7.5), ylim=(0, 9.5))
left.set_title(f"classes of pixels: {100 * wrong:.0f} % counted wrong", fontsize=14)
legend = left.legend(loc="upper left")
for handle in legend.legend_handles:
    handle.set_sizes([80])
right.hist(100 * np.array(filled), bins=np.arange(10, 101, 10), color=ORANGE, edgecolor="white")
right.set(xlabel="% of the box that is the object", ylabel="animals")
right.set_title(f"boxes: only {100 * np.mean(filled):.0f} % object", fontsize=14)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The deck's bar charts have no numbers in their text, so none are given here. What can be computed: even the *perfect*
# class of every pixel miscounts most crowded scenes, because neighbors melt together (below the line) or one animal
# is cut in pieces by something before it (above the line). And of a perfect
# box less than half is the object.

# %% [markdown] slides=["L04"] slideshow={"slide_type": "slide"}
# ## 4 Input and output, formally (L04)
#
# - **In:** a picture $I$; classes $C = \{c_1, \dots, c_n\}$, here {cat, dog, duck}.
# - **Out:** for each of $k$ objects a box $r_i$, a label $l_i$, a mask $m_i$.
#
# Here $k = 4$ and $l$ = cat, cat, dog, duck.

# %%
C = ("cat", "dog", "duck")
assert C == tuple(names)
k = len(labels)
l = [C[label - 1] for label in labels]
r, m = boxes, masks
assert k == 4 and l == ["cat", "cat", "dog", "duck"]
assert r.shape == (k, 4) and m.shape == (k, *image.shape[:2])
for i in range(k):
    print(f"l{i + 1} = {l[i]:5} r{i + 1} = {r[i].astype(int)}  m{i + 1}: {m[i].sum()} pixels True")

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 5, figsize=(12, 2.9))
panels[0].imshow(image)
show_boxes(panels[0], boxes, labels, texts=False)
panels[0].set_title("$I$ and $r$")
for i, axes in enumerate(panels[1:]):
    axes.imshow(masks[i], cmap=ListedColormap([(0.92, 0.92, 0.92), OBJECT_COLORS[i]]))
    axes.set_title(f"$m_{i + 1}$, $l_{i + 1}$ = {l[i]}")
for axes in panels:
    axes.set(xticks=[], yticks=[])
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# k is not known beforehand: it is part of the answer. That is what makes detection different from telling the class of
# a whole picture, and why notebooks 05 to 09 exist: a network has a fixed number of outputs, a picture any number of
# objects.

# %% [markdown] slides=["T07"] slideshow={"slide_type": "slide"}
# ## 5 Earlier methods: from boxes, or from pixels (T07)
#
# **R-CNN driven**: find regions first, then say what each is and which pixels.
#
# **FCN driven**: classify pixels first, then sort them into objects.
#
# Mask R-CNN is of the first family, with a small FCN inside each region.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9, 5.4))
axes.imshow(taxonomy.draw_taxonomy())
axes.axis("off")
plt.show()

# %% [markdown]
# *R-CNN*: a network that classifies regions of a picture (notebooks 05 to 09). *FCN*, fully convolutional network: one
# that classifies every pixel (notebook 03). *RoI*, region of interest: a box in which an object may be.
#
# All of these systems can be trained here: `minimask.build("mnc")` makes the one with `mnc` below its name. Most are
# one short file each; the guide has a page about them.
#
# | method | driven by | in one sentence |
# |---|---|---|
# | SDS, Hariharan et al. 2014 | R-CNN | proposes regions, computes features of each and of its box, classifies them |
# | hypercolumns, Hariharan et al. 2015 | R-CNN | refines a detection's mask with many layers' features at each pixel |
# | CFM, Dai et al. 2015 | R-CNN | cuts the shared feature map, not the picture, with the proposed segments |
# | MNC, Dai et al. 2016 | R-CNN | one after the other: boxes, then masks, then classes of the masks; won COCO 2015 |
# | FCIS, Li et al. 2017 | R-CNN | maps for the parts of an object answer class, box and mask at once; won COCO 2016 |
# | Arnab & Torr 2017 | R-CNN | lets boxes of a detector and classes of pixels vote for the instance of each pixel |
# | PFN, Liang et al. 2015 | FCN | every pixel says where the box of its object is; pixels that agree are one object |
# | InstanceCut, Kirillov et al. 2017 | FCN | classes of pixels, cut apart at predicted borders between instances |
# | deep watershed, Bai & Urtasun 2017 | FCN | predicts for each pixel how deep inside it lies; objects are the basins |
#
# In section 3 we tried the simplest FCN-driven method, patches of a class, and saw what that family has to repair.

# %% [markdown] slideshow={"slide_type": "notes"}
# R-CNN driven methods inherit the detector's mistakes: what is not found has no mask. FCN driven ones inherit the
# counting problem of the slide before. MNC and FCIS, the winners of 2015 and 2016, are the rivals in the talk's tables
# (notebook 14).

# %% [markdown] slides=["T06", "T26"] slideshow={"slide_type": "slide"}
# ## 6 The goals, and the conclusion (T06, T26)
#
# The talk begins and ends with one list. Fast/Faster R-CNN (boxes, notebook 05) and FCN (pixels) had it all; instance
# segmentation had not:

# %% [markdown] slideshow={"slide_type": "fragment"}
# | goal | what is meant | where this course tests it |
# |---|---|---|
# | a meta-algorithm | a frame with exchangeable parts (section 8): backbone, pyramid, heads | 03, 04, 15 |
# | good speed | 200 ms a picture on a graphics card of 2017; one pass, all heads share the features | 16 |
# | good accuracy | better than the winners of 2015 and 2016 | 14 |
# | intuitive | a mask is classified pixels in a box | 10, 13 |
# | easy to use | one training, one file of settings, public code (Detectron) | 12, 17, 18 |

# %% [markdown] slideshow={"slide_type": "notes"}
# A meta-algorithm is not one network but a way of putting networks together. Come back to this slide at the end of the
# course: the conclusion of the talk (T26) is the same list with ticks, and the announcement of Detectron, the code.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 Run it
#
# `model = minimask.load("toy")`, then `model.predict([image])`.
#
# A small Mask R-CNN that was trained on such scenes, but has never seen this one. In: only the picture.

# %%
model = minimask.load("toy")
class_names = model.class_names
assert tuple(class_names) == C
model.predict([image])  # the first call translates the inner loops to machine code
start = time.perf_counter()
prediction = model.predict([image])[0]
seconds = time.perf_counter() - start
print(f"{seconds:.2f} seconds on the processor")
sure = prediction.scores >= 0.5
for label, score, box in zip(prediction.labels[sure], prediction.scores[sure], prediction.boxes[sure]):
    print(f"{C[label - 1]:5} score {score:.2f}  box {box.round(1)}")

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
pictures = (
    draw.draw_sample(scene, names, keypoints=False, caption=False, side=512),
    draw.draw_prediction(image, prediction, class_names, caption=False, side=512),
)
figure, panels = plt.subplots(1, 2, figsize=(9, 4.6))
for axes, picture, title in zip(panels, pictures, ("the truth", "found, with scores of at least 0.5")):
    axes.imshow(picture)
    axes.set_title(title)
    axes.axis("off")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Colors only tell neighbors apart; the outline of a box (solid, dashed, dotted) and the text tell the class. Dots are
# keypoints, such as eyes and paws (notebook 15). Look closely at the borders: that is what notebook 13 is about.

# %% [markdown]
# The network says much more than we have shown, each with a score. Choose from which score on an object is drawn:


# %% widget=True
def draw_found(axes, least):
    """What the network found with a score of at least `least`."""
    axes.imshow(draw.draw_prediction(image, prediction, class_names, least, caption=False, side=512))
    axes.set_title(f"score at least {least:.2f}:\n{(prediction.scores >= least).sum()} found")
    axes.axis("off")


def found_from(score=0.5):
    """One figure for one position of the slider."""
    draw_found(plt.subplots(figsize=(5, 5.5))[1], score)
    plt.show()


try:
    from ipywidgets import FloatSlider, interact

    interact(found_from, score=FloatSlider(value=0.5, min=0.05, max=0.99, step=0.01))
except ImportError:  # no widgets installed
    found_from()

# %% [markdown]
# Without a slider, three positions. Low, and it reports animals that are not there; high, and it misses some that are.

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 3, figsize=(11, 4.5))
for axes, least in zip(panels, (0.05, 0.5, 0.98)):
    draw_found(axes, least)
assert (prediction.scores >= 0.05).sum() > len(masks) > (prediction.scores >= 0.98).sum()
plt.show()

# %% [markdown]
# How good is that? For each true object we take the found mask of its class that fits best. How well two masks fit is
# their *intersection over union*, IoU: shared pixels by pixels of either, 1 for the same (notebook 14).

# %%
fits = []
for mask, label in zip(masks, labels):
    same_class = prediction.masks[sure & (prediction.labels == label)]
    fits.append(max([(mask & other).sum() / (mask | other).sum() for other in same_class], default=0.0))
    print(f"{C[label - 1]:5} IoU {fits[-1]:.2f}")
assert sum(fit > 0.5 for fit in fits) >= 3  # of four

# %% [markdown]
# Your three functions work on what was found just as on the truth:

# %%
found = prediction.masks[sure]
assert my_mask_areas(found).min() > 0
agree = (my_semantic_map(found, prediction.labels[sure]) == classes_of_pixels).mean()
print(f"{100 * agree:.1f} % of the pixels get the right class")
assert agree > 0.9

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 Inside: the map of the course
#
# Each box is a stage of the network, and the numbers are the notebooks that build it.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(12, 4.6))
STAGES = [  # text, x, y, color
    ("picture\n00", 0, 1, "white"), ("backbone\n02, 03", 2, 1, SKY), ("pyramid\n04", 4, 1, SKY),
    ("RPN: boxes\n05, 06, 07", 6, 2.2, ORANGE), ("RoIAlign\n08", 8, 1, ORANGE), ("box head\n09", 10, 2.2, YELLOW),
    ("mask head\n10", 10, 1, YELLOW), ("keypoints\n15", 10, -0.2, YELLOW), ("boxes, labels", 12, 2.2, "white"),
    ("masks\n13", 12, 1, "white"), ("points", 12, -0.2, "white"),
]  # fmt: skip
for text, x, y, color in STAGES:
    axes.add_patch(FancyBboxPatch((x - 0.75, y - 0.4), 1.5, 0.8, boxstyle="round,pad=0.05", facecolor=color))
    axes.text(x, y, text, ha="center", va="center", fontsize=13)
for a, b in [(0, 1), (1, 2), (2, 3), (2, 4), (3, 4), (4, 5), (4, 6), (4, 7), (5, 8), (6, 9), (7, 10)]:
    (x1, y1), (x2, y2) = STAGES[a][1:3], STAGES[b][1:3]
    axes.annotate("", (x2 - 0.8, y2), (x1 + 0.8, y1), arrowprops=dict(arrowstyle="-|>", linewidth=2))
below = "under everything: 01 tensors, 02 convolution, 16 kernels     to learn: 07, 11 losses, 12 training"
below += "\nto measure: 14     to use: 17 your own data, 18 published weights"
axes.text(6, -1.2, below, ha="center", va="center")
axes.set(xlim=(-1, 13), ylim=(-1.7, 2.8))
axes.axis("off")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Left to right is one pass. The RPN proposes boxes; RoIAlign cuts the features of each box out of the pyramid, all to
# one size; three heads look at the cut-outs side by side. Sky blue is done once a picture, orange and yellow once a
# box.

# %% [markdown]
# | question | notebook |
# |---|---|
# | What computes gradients, and how? | 01 tensors and autograd |
# | What is a convolution, forward, backward, transposed? | 02 convolution |
# | From a picture to features, and at several sizes? | 03 backbone, 04 feature pyramid |
# | Where may objects be? | 05 anchors and boxes, 06 RPN |
# | Which box should have said what? | 07 matching and sampling |
# | How is a box cut out of a feature map? | 08 RoIAlign |
# | Which class, which box, which pixels? | 09 box head and NMS, 10 mask head |
# | How wrong is that, and how does it get better? | 11 losses, 12 training |
# | How do 28 x 28 numbers become a mask in the picture? | 13 from 28x28 to the mask |
# | How good is it? | 14 measuring |
# | Other heads, and speed? | 15 keypoints, 16 kernels |
# | Your photos, and large networks? | 17 your own data, 18 published weights |
#
# None of this is hidden. A *trace* keeps what each stage computed in one pass. Shapes are the number of pictures (or
# boxes), then height, width, and how many numbers there are at each place, the *channels*:

# %%
with no_grad(), Trace() as stages:  # no_grad: without the notes that training needs (notebook 01)
    model.detect(model.transform([image]))
WHERE = {
    "images": "00", "C3": "03", "P3": "04", "anchors": "05", "objectness": "06", "proposals": "06",
    "box_features": "08", "class_logits": "09", "mask_features": "08", "mask_logits": "10", "keypoints": "15",
}  # fmt: skip
for name, notebook in WHERE.items():
    print(f"{name:15} {str(stages[name].shape):20} notebook {notebook}")
assert stages["images"].shape[-1] == 3 and stages["mask_logits"].shape[1:3] == (28, 28)

# %% [markdown]
# **How a notebook works.** A question, words, a number by hand, code, a picture, and a check against the library.
# Exercises have a cell with a function to complete and a line `check.NAME(my_function)` that says what is wrong:

# %%
try:
    check.box_of_mask(lambda mask: my_box_of_mask(mask) - [0, 0, 1, 1])
except check.CheckFailed as failure:
    print(failure)

# %% [markdown]
# ## 9 Common misconceptions
#
# ### "Semantic segmentation can count"
#
# It knows that a pixel is cat, not which cat. Exchange the two cats' identities, or join them: the map stays the same.

# %%
joined = np.stack([masks[0] | masks[1], masks[2], masks[3]])
np.testing.assert_array_equal(my_semantic_map(joined, labels[1:]), my_semantic_map(masks, labels))  # 3 objects, or 4

# %% [markdown] slideshow={"slide_type": "slide"}
# ### A misconception: "A good box is nearly a mask"
#
# Take all of the true box for the mask. Its IoU with the true mask is the share of the box that is object.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 4, figsize=(11, 3.5))
ious = []
for axes, mask, box, label in zip(panels, masks, boxes.astype(int), labels):
    full = np.zeros_like(mask)
    full[box[1] : box[3], box[0] : box[2]] = True
    ious.append((mask & full).sum() / (mask | full).sum())
    assert ious[-1] == mask.sum() / full.sum()
    axes.imshow(full.astype(int) + mask, cmap=ListedColormap(["white", RED, BLUE]), vmin=0, vmax=2)
    axes.set(xlim=(box[0] - 4, box[2] + 3), ylim=(box[3] + 3, box[1] - 4), xticks=[], yticks=[])
    axes.set_title(f"{C[label - 1]}: IoU {ious[-1]:.2f}")
assert sum(iou < 0.5 for iou in ious) == 3
figure.supxlabel("blue: the object; red: also in its box", fontsize=14)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The red pixels are background or another animal. Three of the four perfect boxes, taken for masks, would not even pass
# the mildest threshold in use, an IoU of 0.5 (notebook 14).

# %% [markdown]
# ### "A mask is one piece without holes"
#
# A fence before a cat cuts its mask in pieces. It stays one object, with one box:

# %%
behind = ToyScenes("test", case="disconnected")
pieces = [patches(mask.astype(bool)) for i in range(10) for mask in behind[i].masks]
print("pieces of each animal:", pieces)
assert max(pieces) >= 2

# %% [markdown]
# ### "x comes first, as in mathematics"
#
# Boxes have x first, arrays the row, y. `mask[y, x]`. A box cut out the wrong way round misses its object:

# %%
x1, y1, x2, y2 = boxes[-1].astype(int)
right_way, wrong_way = masks[-1][y1:y2, x1:x2].sum(), masks[-1][x1:x2, y1:y2].sum()
print(f"pixels of the duck: mask[y1:y2, x1:x2] {right_way}, mask[x1:x2, y1:y2] {wrong_way}")
assert right_way == masks[-1].sum() and wrong_way < right_way / 2

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Recap
#
# 1. Detection gives boxes and labels, semantic segmentation a class for each pixel, instance segmentation the pixels
#    of each object.
# 2. In: a picture and classes. Out: k boxes, labels, masks; k is part of the answer.
# 3. Boxes and classes of pixels follow from masks, not the other way round: that makes it the hard one.
# 4. Earlier methods began with regions (R-CNN) or with pixels (FCN); Mask R-CNN puts an FCN into each region.
# 5. One pass: backbone, pyramid, RPN, RoIAlign, three heads. Each has its notebook.

# %% [markdown]
# ## Quiz
#
# 1. A picture shows three sheep. How many boxes, how many classes of pixels, how many masks are right?
# 2. Two cats touch. What do you see of that in a semantic map?
# 3. A mask has columns 10 to 19. What are x1, x2 and the width of its box?
# 4. Which of these are known before the network runs: I, C, k, r, l, m?
# 5. What are the shapes of r, l and m for k objects in a picture of H x W?
# 6. Why can counting patches give too many objects as well as too few?
# 7. Name one method of each family before Mask R-CNN.
# 8. An R-CNN driven method does not find a dog. What does its mask branch say about the dog?
# 9. What does "meta-algorithm" mean?
#
# <details><summary>Answers</summary>
#
# 1. Three boxes, one class (and the background), three masks.
# 2. Nothing: one patch of cat. (Only its shape is odd.)
# 3. x1 = 10, x2 = 20, width 10: pixel 19 ends at 20.
# 4. I and C. The other four are the answer.
# 5. (k, 4), (k,), (k, H, W).
# 6. Too few where neighbors of a class melt together; too many where something cuts one animal in pieces.
# 7. R-CNN driven: SDS, hypercolumns, CFM, MNC, FCIS, Arnab & Torr. FCN driven: PFN, InstanceCut, deep watershed.
# 8. Nothing: it only looks into boxes.
# 9. A way of putting parts together in which each part (backbone, pyramid, head) can be exchanged for a better one.
#
# </details>
