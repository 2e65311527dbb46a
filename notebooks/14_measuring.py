# %% [markdown] slideshow={"slide_type": "slide"}
# # 14 Measuring: how good is it, in one number?
#
# **Question.** The talk says: Mask R-CNN 35.7, last year's winner 33.6. **35.7 of what?**
#
# - Not per cent of the objects, and not per cent of the pixels.
# - It is *average precision*, AP. This notebook computes it, step by step, until it agrees with COCO's own program.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecture:* collect guesses for "35.7 of what" and keep them on the board. Everything in the talk's tables is
# this one number. It has four steps: overlap, matching, precision and recall, average. Each is an exercise of a few
# lines, and together they give what pycocotools gives, to the last digit.

# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

import minimask
from minimask import boxes as box_ops
from minimask import check, draw
from minimask.datasets.toy import ToyScenes
from minimask.evaluate import coco_average_precision, evaluate, predict_samples
from minimask.run.report import format_table, xywh

plt.rcParams.update({"figure.figsize": (9, 4.5), "figure.dpi": 100, "font.size": 14})
plt.rcParams["figure.constrained_layout.use"] = True
ORANGE, SKY, RED, YELLOW, BLUE, PURPLE, GREEN = draw.COLORS[:7] / 255

# %% [markdown]
# **Words of this notebook**
#
# - *Truth*: the objects that people, or the program that drew the scene, marked. *Detection*: what a network found: a
#   class, a box, a mask, and a *score* from 0 to 1, how sure it is (notebook 09).
# - *Overlap*, or *IoU*, intersection over union: shared area by area of either.
# - *Threshold*: the least IoU with which a detection counts as right.
# - *Precision*: how many of the detections are right. *Recall*: how many of the objects are found.
# - *COCO*: a collection of photos with marked objects of 80 classes, and the rules of measuring that go with it.
#   *pycocotools* is the program that applies them; `minimask.evaluate` calls it.

# %% [markdown] slides=["T14", "T15"] slideshow={"slide_type": "slide"}
# ## 1 The talk's table: masks on COCO (T14, T15)
#
# "Without bells and whistles, 2 AP better than the 2016 winner", 200 ms a picture. With ResNeXt as the backbone
# (notebook 03) still better.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
MASKS = {  # T14, T15: mask AP and AP50 on COCO
    "MNC\nR101-C4": (24.6, 44.3),
    "FCIS +OHEM\nR101-C5-dilated": (29.2, 49.5),
    "FCIS+++ +OHEM\nR101-C5-dilated": (33.6, 54.5),
    "Mask R-CNN\nR101-C4": (33.1, 54.9),
    "Mask R-CNN\nR101-FPN": (35.7, 58.0),
    "Mask R-CNN\nX101-FPN": (37.1, 60.0),
}


def bars(table, ours):
    """AP and, paler, AP50 of each row; `ours`: how many rows at the end are the talk's own."""
    figure, axes = plt.subplots(figsize=(10, 0.3 + 0.72 * len(table)))
    for row, (ap, ap50) in enumerate(table.values()):
        color = BLUE if row >= len(table) - ours else ORANGE
        axes.barh(row, ap50, color=color, alpha=0.35)
        axes.barh(row, ap, color=color)
        axes.text(ap - 0.5, row, f"AP {ap}", ha="right", va="center", color="white", fontweight="bold")
        axes.text(ap50 + 0.5, row, f"AP50 {ap50}", va="center")
    axes.set_yticks(range(len(table)), table, fontsize=12)
    axes.set(xlim=(0, 80), xlabel="AP and AP50")
    axes.invert_yaxis()
    plt.show()


bars(MASKS, ours=3)
ap = {name.replace("\n", " "): numbers[0] for name, numbers in MASKS.items()}
assert round(ap["Mask R-CNN R101-FPN"] - ap["FCIS+++ +OHEM R101-C5-dilated"], 1) == 2.1  # "2 AP better"
assert round(ap["Mask R-CNN X101-FPN"] - ap["Mask R-CNN R101-FPN"], 1) == 1.4  # what ResNeXt adds

# %% [markdown] slideshow={"slide_type": "notes"}
# Orange: earlier methods (notebook 00 has a sentence on each). MNC won in 2015, FCIS+++ in 2016. OHEM, online hard
# example mining, is a way to choose what to learn from; "+++" stands for more tricks: test at several sizes, flipped
# pictures, more. R101 is ResNet-101, X101 ResNeXt-101; C4 and C5 are the level used, FPN the pyramid (notebook 04).
# AP50 is always far above AP: why, is section 6.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 Three objects, five detections
#
# All of this notebook on one page of squared paper: objects A, B, C (filled) and what a network found (outlines with
# scores). **How good is it?** Two are found well, one roughly, one twice, and one detection is wrong.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
TRUTH = np.array([[10, 10, 30, 30], [50, 10, 70, 30], [30, 60, 60, 80]], float)  # A, B, C: x1, y1, x2, y2
FOUND = np.array(  # best score first
    [[12, 10, 32, 30], [50, 10, 70, 25], [10, 11, 30, 31], [80, 70, 95, 90], [35, 60, 65, 80]], float
)
SCORES = np.array([0.95, 0.9, 0.7, 0.6, 0.4])


def draw_page(axes, matches=None):
    """The objects, and the detections: blue if right, red if wrong, orange if not yet judged."""
    for box, name in zip(TRUTH, "ABC"):
        axes.add_patch(Rectangle(box[:2], *(box[2:] - box[:2]), facecolor="lightgray"))
        axes.text(*(box[:2] + box[2:]) / 2, name, ha="center", va="center", fontsize=18)
    for d, (box, score) in enumerate(zip(FOUND, SCORES)):
        right = matches is not None and matches[d] >= 0
        color = ORANGE if matches is None else BLUE if right else RED
        look = dict(fill=False, edgecolor=color, linewidth=3, linestyle="-" if right or matches is None else "--")
        axes.add_patch(Rectangle(box[:2], *(box[2:] - box[:2]), **look))
        place, align = ((box[0], box[3] + 1), "top") if d == 2 else ((box[0], box[1] - 1), "bottom")
        axes.text(*place, f"{score:.2f}", color=color, va=align, fontweight="bold")
    axes.set(xlim=(0, 100), ylim=(95, 0), aspect="equal", xlabel="pixels")


figure, axes = plt.subplots(figsize=(6.5, 5))
draw_page(axes)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# A is found twice, with 0.95 and, a pixel lower, with 0.70. The 0.60 lies on nothing. Ask: should C, found with 0.40
# and 5 pixels off, count? Everybody will say "it depends on how exact you want it". That is why there is a threshold,
# and why COCO uses ten of them.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 Step 1: overlap, IoU
#
# Object B is 20 x 20, its detection 20 x 15 and lies inside. Shared: 300. Either: 400.
#
# $$\text{IoU} = \frac{300}{400} = 0.75$$
#
# For masks the same, in pixels. Shared: 6, either: 12 + 9 - 6 = 15, IoU 0.4.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
assert box_ops.iou(FOUND[1:2], TRUTH[1:2])[0, 0] == 0.75
first, second = np.zeros((2, 5, 9), bool)
first[1:4, 1:5] = second[1:4, 3:6] = True
assert (first & second).sum() == 6 and (first | second).sum() == 12 + 9 - 6 == 15
figure, panels = plt.subplots(1, 3, figsize=(10, 2.6))
shown = (first + 2 * second, f"12 and {second.sum()} pixels"), (3 * (first & second), "shared: 6"), (
    4 * (first | second), "either: 15",
)  # fmt: skip
palette = np.array([[0.95, 0.95, 0.95], ORANGE, SKY, BLUE, GREEN])
for axes, (numbers, title) in zip(panels, shown):
    axes.imshow(palette[numbers])
    axes.set_xticks(np.arange(-0.5, 9), [])
    axes.set_yticks(np.arange(-0.5, 5), [])
    axes.grid(color="white")
    axes.set_title(title)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Subtract the shared pixels once: 12 + 9 counts them twice. IoU punishes both, to say too much and to say too little.

# %% [markdown]
# ### Exercise 1: IoU of masks
#
# Each of one list of masks with each of another. Hint: a mask as a row of H x W zeros and ones; then the shared pixels
# of all pairs are one matrix product.


# %% exercise="mask_iou"
def my_mask_iou(a, b):
    """IoU of each of the masks a (A, H, W) bool with each of b (B, H, W): (A, B), 0 for two empty masks."""
    ### BEGIN SOLUTION
    pixels = a.shape[1] * a.shape[2]
    a, b = a.reshape(len(a), pixels).astype(float), b.reshape(len(b), pixels).astype(float)
    shared = a @ b.T
    either = a.sum(axis=1)[:, None] + b.sum(axis=1) - shared
    return np.where(either > 0, shared / np.maximum(either, 1), 0.0)
    ### END SOLUTION


# %% check="mask_iou"
check.mask_iou(my_mask_iou)


# %% [markdown]
# Boxes with whole corners, filled, are masks. So both kinds of IoU must agree on our page:


# %%
def filled(boxes, height=100, width=100):
    """Masks of boxes with whole corners: (R, height, width) bool."""
    y, x = np.mgrid[:height, :width] + 0.5
    x1, y1, x2, y2 = boxes.T[:, :, None, None]
    return (x > x1) & (x < x2) & (y > y1) & (y < y2)


overlaps = box_ops.iou(FOUND, TRUTH)
np.testing.assert_allclose(my_mask_iou(filled(FOUND), filled(TRUTH)), overlaps)
print("rows: detections, best score first; columns: A, B, C\n", overlaps.round(3))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 Step 2: match detections with objects
#
# In descending order of score, each detection takes the **free** object of its class with which it overlaps most, if
# the IoU is **at least** the threshold. It is then *right*; all others are *wrong*. Each object is taken once.

# %% [markdown]
# **By hand**, threshold 0.5. The 0.95 overlaps A with 0.818 and takes it. The 0.90 takes B (0.75). The 0.70 overlaps A
# with 0.905, better than the first, but A is taken: wrong. The 0.60 overlaps nothing: wrong. The 0.40 takes C (0.714).
#
# At a threshold of 0.75, B's detection is still right (at *least*), C's is not. At 0.9 a strange thing happens: the
# 0.95 is not good enough any more and leaves A free for the 0.70.
#
# ### Exercise 2: match
#
# Of objects that a detection overlaps equally, it takes the first.


# %% exercise="match_detections"
def my_match_detections(overlaps, threshold):
    """For each detection the index of the object it finds, or -1: (D,) integers.

    overlaps (D, G): IoU of detections, best score first, with objects. In this order each detection takes the object
    with the greatest IoU of those that are free and reach the threshold.
    """
    ### BEGIN SOLUTION
    matches = np.full(len(overlaps), -1)
    free = np.ones(overlaps.shape[1], dtype=bool)
    for d, row in enumerate(overlaps):
        reached = free & (row >= threshold)
        if reached.any():
            matches[d] = np.where(reached, row, -1).argmax()
            free[matches[d]] = False
    return matches
    ### END SOLUTION


# %% check="match_detections"
check.match_detections(my_match_detections)

# %%
assert my_match_detections(overlaps, 0.5).tolist() == [0, 1, -1, -1, 2]
assert my_match_detections(overlaps, 0.75).tolist() == [0, 1, -1, -1, -1]
assert my_match_detections(overlaps, 0.9).tolist() == [-1, -1, 0, -1, -1]

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 3, figsize=(11, 3.9), sharey=True)
for axes, threshold in zip(panels, (0.5, 0.75, 0.9)):
    draw_page(axes, my_match_detections(overlaps, threshold))
    axes.set_title(f"IoU at least {threshold}")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Blue: right. Red, dashed: wrong. The second detection of A is wrong at 0.5 even though it fits better than the first:
# what counts is the order of the scores. This is why non-maximum suppression (notebook 09) matters so much for AP.


# %% widget=True
def matched(threshold=0.5):
    """The page for one position of the slider."""
    draw_page(plt.subplots(figsize=(6.5, 5))[1], my_match_detections(overlaps, threshold))
    plt.show()


try:
    from ipywidgets import FloatSlider, interact

    interact(matched, threshold=FloatSlider(min=0.5, max=0.95, step=0.05, value=0.5, description="IoU"))
except ImportError:  # no widgets installed
    matched(0.5)

# %% [markdown]
# Without a slider: the matches at all of COCO's thresholds (-1: wrong; 0, 1, 2: finds A, B, C).

# %%
THRESHOLDS = np.linspace(0.5, 0.95, 10)
for threshold in THRESHOLDS:
    print(f"{threshold:.2f}", my_match_detections(overlaps, threshold))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 Step 3: precision and recall
#
# Go through the detections in descending order of score, and after each say: of those so far how many are right
# (**precision**), and of the three objects how many are found (**recall**).
#
# | score | 0.95 | 0.90 | 0.70 | 0.60 | 0.40 |
# |---|---|---|---|---|---|
# | right? | yes | yes | no | no | yes |
# | precision | 1/1 | 2/2 | 2/3 | 2/4 | 3/5 |
# | recall | 1/3 | 2/3 | 2/3 | 2/3 | 3/3 |

# %% [markdown] slideshow={"slide_type": "notes"}
# Each column is one possible program: "believe everything down to this score". A careful one has precision 1 and finds
# two of three; a bold one finds all and is wrong twice. Neither number alone says how good the network is: say nothing
# and precision is fine; say everything and recall is fine.

# %% [markdown]
# ### Exercise 3: precision and recall


# %% exercise="precision_recall"
def my_precision_recall(hits, objects):
    """Precision and recall after each detection: two arrays (D,).

    hits (D,) bool: whether each detection is right, best score first. objects: the number of objects there are.
    """
    ### BEGIN SOLUTION
    found = np.cumsum(hits)
    return found / np.arange(1, len(hits) + 1), found / objects
    ### END SOLUTION


# %% check="precision_recall"
check.precision_recall(my_precision_recall)

# %%
precision, recall = my_precision_recall(my_match_detections(overlaps, 0.5) >= 0, 3)
np.testing.assert_allclose(precision, [1 / 1, 2 / 2, 2 / 3, 2 / 4, 3 / 5])
np.testing.assert_allclose(recall, [1 / 3, 2 / 3, 2 / 3, 2 / 3, 3 / 3])

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 Step 4: average precision, AP
#
# For each of 101 recalls 0, 0.01, ... 1: the **best precision** with which at least so many objects are found; 0 if so
# many never are. Their mean is AP.
#
# Here: 67 recalls up to 2/3 with precision 1, 34 with 0.6: (67 + 34 x 0.6) / 101 = **0.865**

# %% [markdown]
# The best precision *from there on* fills dips: who may choose where to stop never stops in a dip. This is what is
# meant by *interpolated*.
#
# ### Exercise 4: average precision


# %% exercise="average_precision"
def my_average_precision(precision, recall):
    """Mean over the recalls 0, 0.01, ... 1 of the greatest precision where recall is at least that (0 if nowhere)."""
    ### BEGIN SOLUTION
    best = [max(precision[recall >= r], default=0.0) for r in np.linspace(0, 1, 101)]
    return float(np.mean(best))
    ### END SOLUTION


# %% check="average_precision"
check.average_precision(my_average_precision)

# %%
np.testing.assert_allclose(my_average_precision(precision, recall), (67 + 34 * 0.6) / 101)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
recalls = np.linspace(0, 1, 101)


def draw_curve(axes, precision, recall):
    """Precision over recall, and the interpolated values whose mean is AP."""
    best = [max(precision[recall >= r], default=0.0) for r in recalls]
    axes.bar(recalls, best, width=0.006, color=SKY, label="best from there on,\nat 101 recalls")
    axes.plot(recall, precision, "o-", color=RED, linewidth=2, label="after each detection")
    axes.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.03), ylim=(0, 1.08))


figure, axes = plt.subplots(figsize=(9, 4))
draw_curve(axes, precision, recall)
axes.set_title(
    f"IoU at least 0.5: AP50 = mean of the bars = {my_average_precision(precision, recall):.3f}", fontsize=14
)
axes.legend(loc="upper right")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The red line is the table of the slide before. Two wrong detections in a row pull it down to 0.5, the last right one
# lifts it to 0.6; the bars skip the dip. The picture is also the answer to "35.7 of what": of the area of this square,
# in per cent, averaged over classes and thresholds.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 Ten thresholds: AP is strict
#
# COCO's **AP** is the mean over the IoU thresholds 0.50, 0.55, ... 0.95 (and over the classes). **AP50** and **AP75**
# are two of the ten.

# %%
ap_at = np.array(
    [my_average_precision(*my_precision_recall(my_match_detections(overlaps, t) >= 0, 3)) for t in THRESHOLDS]
)
page = dict(
    images=[dict(id=1, height=100, width=100)],
    categories=[dict(id=1)],
    annotations=[dict(image_id=1, category_id=1, bbox=xywh(box)) for box in TRUTH],
)
results = [dict(image_id=1, category_id=1, bbox=xywh(b), score=s) for b, s in zip(FOUND, SCORES.tolist())]
theirs = coco_average_precision(page, results, "bbox")
np.testing.assert_allclose([ap_at.mean(), ap_at[0], ap_at[5]], [theirs["AP"], theirs["AP50"], theirs["AP75"]])
print({name: round(theirs[name], 3) for name in ("AP", "AP50", "AP75")})

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9, 3.9))
axes.bar(THRESHOLDS, ap_at, width=0.035, color=SKY)
for i, name in ((0, "AP50"), (5, "AP75")):
    axes.text(THRESHOLDS[i], ap_at[i] + 0.02, f"{name}\n{ap_at[i]:.2f}", ha="center")
axes.axhline(ap_at.mean(), color=RED, linewidth=3)
axes.text(0.965, ap_at.mean() + 0.02, f"AP {ap_at.mean():.2f}", ha="right", color=RED)
axes.set(xlabel="IoU threshold", ylabel="average precision", xticks=THRESHOLDS, ylim=(0, 1.12), xlim=(0.47, 0.98))
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# One page of squared paper, and pycocotools gives the same three numbers as the four functions. AP rewards exact boxes:
# a method may gain five points of AP and none of AP50. This is also why AP50 is 20 points above AP in all the talk's
# tables.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 A trained network, 20 scenes, all of COCO's numbers
#
# - **Classes**: AP of each, then the mean. A rare class counts as much as a frequent one.
# - **Sizes**: AP$_S$, AP$_M$, AP$_L$: objects under 32 x 32, up to 96 x 96, and larger. Others are *ignored*: neither
#   right nor wrong, found or not.
# - **Most**: at most 100 detections a picture. AR1, AR10, AR100: the recall with at most so many.

# %% [markdown]
# To ignore takes two matchings: first with the objects that count; who finds none may still match one that is ignored,
# and is then ignored itself, as is one that finds nothing and has itself the wrong size. The rest is the four
# functions, and loops.

# %%
model = minimask.load("toy")
class_names = model.class_names
scenes = ToyScenes("test", seed=8, count=20)
pairs = [
    pair for group in predict_samples(model, scenes, range(20), batch_size=4) for pair in zip(*group)
]  # (sample, prediction) of each scene
SIZES = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2)}  # in these scenes nothing is larger


def judged(sample, prediction, label, kind, most=100):
    """Of one class in one scene: scores, IoU with the objects, areas of detections and of objects."""
    mine, objects = np.flatnonzero(prediction.labels == label), sample.labels == label
    mine = mine[np.argsort(-prediction.scores[mine], kind="stable")][:most]
    true_masks = sample.masks[objects].astype(bool)
    if kind == "segm":
        masks = prediction.masks[mine]
        overlaps, areas = my_mask_iou(masks, true_masks), masks.sum(axis=(1, 2))
    else:
        boxes = prediction.boxes[mine].astype(float)
        overlaps, areas = box_ops.iou(boxes, sample.boxes[objects].astype(float)), box_ops.area(boxes)
    return prediction.scores[mine], overlaps, areas, true_masks.sum(axis=(1, 2))


def precision_and_recall(scenes_of_class, threshold, low, high):
    """Over all scenes, best score first, for objects of an area from low to high; None if there are none."""
    scores, hits, objects = [], [], 0
    for score, overlaps, areas, true_areas in scenes_of_class:
        count = (true_areas >= low) & (true_areas <= high)
        hit = my_match_detections(overlaps[:, count], threshold) >= 0
        ignored = ~hit & ((areas < low) | (areas > high))
        ignored[~hit] |= my_match_detections(overlaps[~hit][:, ~count], threshold) >= 0
        scores, hits = scores + [score[~ignored]], hits + [hit[~ignored]]
        objects += count.sum()
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return my_precision_recall(np.concatenate(hits)[order], objects) if objects else None


def coco_numbers(pairs, kind, most=100):
    """AP, AP50, AP75, APs, APm and the recall AR with at most `most` detections of a class in a scene."""
    by_class = [[judged(*pair, label, kind, most) for pair in pairs] for label in (1, 2, 3)]
    numbers = {}
    for size, (low, high) in SIZES.items():
        curves = [[precision_and_recall(c, t, low, high) for t in THRESHOLDS] for c in by_class]
        curves = [of_class for of_class in curves if of_class[0] is not None]
        table = np.array([[my_average_precision(*curve) for curve in of_class] for of_class in curves])
        numbers[f"AP{size}"] = table.mean()
        if not size:
            numbers.update(AP50=table[:, 0].mean(), AP75=table[:, 5].mean())
            numbers[f"AR{most}"] = np.mean([[max(r, default=0) for _, r in of_class] for of_class in curves])
    return numbers


# %% [markdown]
# And the library, through pycocotools:

# %%
theirs = evaluate(model, scenes, batch_size=4, progress=False)
for kind in ("bbox", "segm"):
    mine = {**coco_numbers(pairs, kind, 1), **coco_numbers(pairs, kind, 10), **coco_numbers(pairs, kind)}
    for name, number in mine.items():
        assert abs(number - theirs[kind][name]) < 1e-6, (kind, name)
    print(kind, {name: round(float(number), 4) for name, number in mine.items()})
print()
print(format_table(theirs))

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 3, figsize=(11, 3.5), sharey=True)
for axes, label in zip(panels, (1, 2, 3)):
    of_class = [judged(*pair, label, "segm") for pair in pairs]
    for threshold, color, style in ((0.5, BLUE, "-"), (0.75, ORANGE, "--"), (0.9, RED, ":")):
        p, r = precision_and_recall(of_class, threshold, 0, 1e10)
        best = [max(p[r >= x], default=0.0) for x in recalls]
        axes.plot(recalls, best, style, color=color, linewidth=3, label=f"IoU {threshold}")
    axes.set(title=class_names[label - 1], xlabel="recall", ylim=(0, 1.05))
panels[0].set_ylabel("precision")
panels[0].legend(loc="lower left", fontsize=12)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Masks of the small network that ships with the course. Dashed and dotted: the same detections, asked for more
# exactness. Nothing is found at recalls where a curve has dropped to 0. The cell before compares our own numbers with
# pycocotools to 1e-6, for boxes and for masks: AP, AP50, AP75, both sizes and three recalls.

# %% [markdown] slides=["T16", "T17", "T18"] slideshow={"slide_type": "slide"}
# ## 9 The talk's table: boxes on COCO (T16, T17, T18)
#
# Now it can be read. RoIAlign (T16): +1.1. Trained with masks too, which helps boxes (T17): +0.9. ResNeXt (T18): +1.6.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
BOXES = {  # T16, T17, T18: box AP and AP50 on COCO
    "Faster R-CNN+++, R101-C4": (34.9, 55.7),
    "Faster R-CNN w FPN, R101-FPN": (36.2, 59.1),
    "Faster R-CNN, G-RMI": (34.7, 55.5),
    "Faster R-CNN w TDM": (36.8, 57.7),
    "Faster R-CNN, RoIAlign, R101-FPN": (37.3, 59.6),
    "Mask R-CNN, R101-FPN": (38.2, 60.3),
    "Mask R-CNN, X101-FPN": (39.8, 62.3),
}
ap = [numbers[0] for numbers in BOXES.values()]
assert np.round([ap[4] - ap[1], ap[5] - ap[4], ap[6] - ap[5]], 1).tolist() == [1.1, 0.9, 1.6]
assert all(ap50 - strict > 20 for strict, ap50 in BOXES.values())
bars(BOXES, ours=3)

# %% [markdown] slideshow={"slide_type": "notes"}
# The first blue bar is Faster R-CNN with nothing changed but RoIAlign (notebook 08), against the second orange one,
# with the same backbone and pyramid: AP +1.1, AP50 only +0.5, because exact places pay at strict thresholds. The second
# blue bar predicts boxes alone when it is measured, but has learned with the mask loss too (notebook 11). G-RMI and TDM
# have Inception-ResNet-v2 as backbone.

# %% [markdown] slides=["T19"] slideshow={"slide_type": "slide"}
# ## 10 COCO 2017, a single model (T19)
#
# **47.9** box AP, **42.6** mask AP, by the authors' Mask R-CNN, which leading teams of the competition used too.
#
# Masks are harder than boxes, in every row of the talk:

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
BOTH = {"R101-FPN": (38.2, 35.7), "X101-FPN": (39.8, 37.1), "2017,\nsingle model": (47.9, 42.6)}  # boxes, masks
figure, axes = plt.subplots(figsize=(9, 3.8))
for shift, which, color, name in ((-0.2, 0, ORANGE, "boxes"), (0.2, 1, BLUE, "masks")):
    heights = [numbers[which] for numbers in BOTH.values()]
    axes.bar_label(axes.bar(np.arange(3) + shift, heights, 0.38, color=color, label=name))
axes.set_xticks(range(3), BOTH)
axes.set(ylabel="AP", ylim=(0, 56))
axes.legend(loc="upper left")
assert all(box > mask for box, mask in BOTH.values())
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# "Single model": one network, no vote of several. The list of what was added since the paper is in the authors' talk at
# the COCO workshop, not in this deck.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 11 Crowds
#
# A heap of apples is marked as one region: a *crowd*. Detections in it are **ignored**. For a crowd the overlap is the
# shared area by the area of the *detection*, and any number may match it.

# %%
with_crowd = copy.deepcopy(page)
with_crowd["annotations"].append(dict(image_id=1, category_id=1, bbox=[75, 60, 25, 35], iscrowd=1))
without = coco_average_precision(page, results, "bbox")["AP50"]
ignored = coco_average_precision(with_crowd, results, "bbox")["AP50"]
np.testing.assert_allclose([without, ignored], [(67 + 34 * 3 / 5) / 101, (67 + 34 * 3 / 4) / 101])
print(f"AP50 {without:.3f}, with the crowd {ignored:.3f}")

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(6.2, 4.6))
draw_page(axes, my_match_detections(overlaps, 0.5))
axes.add_patch(Rectangle((75, 60), 25, 35, facecolor="white", edgecolor="lightgray", hatch="//", zorder=0))
axes.text(75, 58, "crowd", fontweight="bold")
axes.set_title(f"0.60 is ignored: AP50 {without:.2f} becomes {ignored:.2f}", fontsize=14)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The hatched region is our page with a crowd added around the wrong detection. It is not right now, but nobody counts
# it: precision at the end is 3 of 4, not 3 of 5. In training crowds are left out too (notebook 07).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 12 What half a pixel costs
#
# A square of side `s`, found half a pixel too far right and too low: shared $(s - \frac12)^2$, either
# $2s^2 - (s - \frac12)^2$. For s = 8 the IoU is 0.78: it fails four of the ten thresholds.


# %%
def iou_of_shifted(side, shift=0.5):
    """IoU of a square with itself moved by `shift` in x and y."""
    shared = (side - shift) ** 2
    return shared / (2 * side**2 - shared)


assert np.isclose(iou_of_shifted(8), 56.25 / 71.75)
passed = {side: int((iou_of_shifted(side) >= THRESHOLDS).sum()) for side in (8, 16, 32, 96)}
print("thresholds passed, of ten:", passed)
assert passed == {8: 6, 16: 8, 32: 9, 96: 10}

small = ToyScenes("test", case="small", count=30)
small_truth = small.to_coco()


def perfect_but(shift):
    """COCO's numbers of the truth itself as detections, every box moved by `shift` right and down."""
    found = [
        dict(image_id=a["image_id"], category_id=a["category_id"], score=1.0)
        | dict(bbox=[a["bbox"][0] + shift, a["bbox"][1] + shift, *a["bbox"][2:]])
        for a in small_truth["annotations"]
    ]
    return coco_average_precision(small_truth, found, "bbox")


shifts = np.array([0, 0.25, 0.5, 1.0])
moved = {shift: perfect_but(shift) for shift in shifts}
for shift, numbers in moved.items():
    print(f"{shift:4} pixels: AP {numbers['AP']:.3f}, AP50 {numbers['AP50']:.3f}")
assert np.isclose(moved[0]["AP"], 1) and moved[0.5]["AP"] < 0.93 and moved[0.5]["AP50"] > 0.95

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.9))
sides = np.geomspace(4, 200, 200)
left.hlines(THRESHOLDS, 4, 200, color="lightgray")
left.plot(sides, iou_of_shifted(sides), color=BLUE, linewidth=3)
left.set_xscale("log", base=2)
left.set_xticks([4, 8, 16, 32, 96], [4, 8, 16, 32, 96])
left.set(xlabel="side of the square, pixels", ylabel="IoU, half a pixel off", ylim=(0.45, 1))
for shift, which, color, name in ((-0.2, "AP50", ORANGE, "AP50"), (0.2, "AP", BLUE, "AP")):
    heights = [numbers[which] for numbers in moved.values()]
    drawn = right.bar(np.arange(4) + shift, heights, 0.38, color=color, label=name)
    right.bar_label(drawn, fmt="%.2f", fontsize=11)
right.set_xticks(range(4), ["exact", "1/4", "1/2", "1"])
right.set(xlabel="all boxes moved, pixels", ylabel="AP of the truth itself", ylim=(0, 1.3))
right.legend(loc="upper right", ncols=2)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Right: the truth itself, of 30 scenes of small animals, handed in as detections, but moved. Nothing is missing, no
# class is wrong, and still AP falls while AP50 hardly notices. This is what all the care for half pixels is for: in
# RoIAlign (08), in pasting masks (13), and in the last column of a box (exercise 2 of notebook 00).

# %% [markdown]
# ## 13 Common misconceptions
#
# ### "AP is accuracy, the share of right answers"
#
# Three objects, found by the three best detections, then 997 wrong ones with lower scores. The share of right
# detections is 0.3 %. AP is 1: wrong answers *after* the last right one cost nothing.

# %%
hits = np.arange(1000) < 3
assert my_average_precision(*my_precision_recall(hits, 3)) == 1.0 and hits.mean() == 0.003
assert np.isclose(my_average_precision(*my_precision_recall(hits[::-1], 3)), 0.003)  # the same answers, worst first

# %% [markdown] slideshow={"slide_type": "slide"}
# ### A misconception: "First drop the unsure detections, then measure"
#
# A score threshold can only lose: what is dropped can be right, and if it is wrong it costs nothing at the end of the
# curve. Thresholds are for showing pictures.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
least = np.array([0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95])
kept = []
for threshold in least:
    only = copy.deepcopy([prediction for _, prediction in pairs])
    for prediction in only:
        sure = prediction.scores >= threshold
        prediction.boxes, prediction.labels = prediction.boxes[sure], prediction.labels[sure]
        prediction.masks, prediction.scores = prediction.masks[sure], prediction.scores[sure]
    kept.append(coco_numbers([(sample, p) for (sample, _), p in zip(pairs, only)], "segm")["AP"])
assert (np.diff(kept) <= 1e-12).all() and np.isclose(kept[0], theirs["segm"]["AP"], atol=0.01)
figure, axes = plt.subplots(figsize=(9, 3.9))
axes.plot(least, kept, "o-", color=BLUE, linewidth=3)
axes.set(
    xlabel="detections with a lower score are dropped",
    ylabel="mask AP, 20 scenes",
    ylim=(min(kept) - 0.05, max(kept) + 0.03),
)
axes.grid(alpha=0.4)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The curve can only fall, whatever the network: to drop the end of the list cuts the precision-recall curve off on the
# right and leaves the rest as it was. Published numbers are measured with thresholds of 0.05 or lower.

# %% [markdown]
# ### "Scores must be honest probabilities"
#
# Only their order counts. Cube them all: AP stays what it was.

# %%
cubed = copy.deepcopy(pairs)
for _, prediction in cubed:
    prediction.scores = prediction.scores.astype(float) ** 3
assert abs(coco_numbers(cubed, "bbox")["AP"] - theirs["bbox"]["AP"]) < 1e-6

# %% [markdown]
# ### "To report an object twice does no harm"
#
# Two objects, found by the best and the third detection. If the second is a double, it is wrong, and stands before a
# right one.

# %%
once, twice = np.array([True, True]), np.array([True, False, True])
assert my_average_precision(*my_precision_recall(once, 2)) == 1.0
with_double = my_average_precision(*my_precision_recall(twice, 2))
np.testing.assert_allclose(with_double, (51 + 50 * 2 / 3) / 101)
print(f"AP {with_double:.3f}")

# %% [markdown]
# ### "A difference of one point is a better network"
#
# Not on few pictures. The same network, measured on five groups of four scenes:

# %%
groups = [coco_numbers(pairs[start::5], "segm")["AP"] for start in range(5)]
print("mask AP of each group:", np.round(groups, 3))
assert max(groups) - min(groups) > 0.01  # COCO's table rows differ by 0.01 to 0.02: on about 20,000 photos

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Recap
#
# 1. IoU says how well two boxes or masks fit; a threshold makes right or wrong of it.
# 2. In descending order of score, each detection takes the best free object; a second one of the same object is wrong.
# 3. Precision over recall, best from there on, mean over 101 recalls, then over ten thresholds and the classes: AP.
# 4. Ignored, neither right nor wrong: other sizes (AP$_S$, AP$_M$, AP$_L$), and what lies in a crowd.
# 5. Only the order of scores counts; half a pixel costs small objects a lot.

# %% [markdown]
# ## Quiz
#
# 1. Two boxes of 10 x 10 share 5 x 10. What is their IoU?
# 2. A detection fits an object with IoU 0.9; a better scored one has taken the object with 0.6. What happens at 0.5?
#    And at 0.7?
# 3. Five detections, right, wrong, right, wrong, wrong, four objects. Precision and recall at the end?
# 4. And AP at this threshold?
# 5. Why is AP hardly ever above AP50?
# 6. A picture has no objects of a class, and one detection of it. Does AP notice?
# 7. Why does RoIAlign gain more AP than AP50?
# 8. What is done with an object of 40 x 40 pixels that is found, when AP$_S$ is computed?
# 9. A network gives every detection the score 0.99 if it is sure and 0.98 if not. Can its AP be 1?
# 10. 35.7 of what?
#
# <details><summary>Answers</summary>
#
# 1. 50 / (100 + 100 - 50) = 1/3.
# 2. At 0.5 it is wrong, the object is taken. At 0.7 the first one is wrong, and it is right.
# 3. Precision 2/5, recall 2/4.
# 4. Recalls 0 to 0.25: 26 with 1; 0.26 to 0.5: 25 with 2/3; the rest 0. (26 + 25 x 2/3) / 101 = 0.42.
# 5. It is the mean over ten thresholds, of which 0.5 is the mildest; a stricter one as a rule finds less.
# 6. Yes, if the class has objects in other pictures: the detection is wrong, and counts by its score.
# 7. It moves boxes and masks by fractions of a cell, which a threshold of 0.5 does not see.
# 8. It is ignored, and the detection that found it too.
# 9. Yes, if all right ones are sure and all wrong ones not: only the order counts.
# 10. Per cent of the area under precision over recall, averaged over 80 classes and ten IoU thresholds.
#
# </details>
