# %% [markdown] slideshow={"slide_type": "slide"}
# # 06 The region proposal network
#
# **Question.** For a picture our small model has 8064 anchors, boxes that are always there; a large one has 217,413.
# Three of them matter, or thirty. **Which ones deserve a closer look?**

# %%
import inspect
import time

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from PIL import Image

import minimask
from minimask import boxes, check, draw, mask_rcnn, targets
from minimask import rpn as library
from minimask.datasets.toy import ToyScenes
from minimask.functional import sigmoid_array
from minimask.tensor import Tensor, no_grad
from minimask.trace import Trace

plt.rcParams.update({"figure.figsize": (9, 4.5), "figure.dpi": 100, "font.size": 14})
plt.rcParams["figure.constrained_layout.use"] = True
ORANGE, SKY, RED, BLUE, GREEN = draw.COLORS[[0, 1, 2, 4, 6]] / 255

SCENES = ToyScenes("test")  # drawn pictures of 128 x 128 pixels that the model has never seen
model = minimask.load("toy")  # trained on other such pictures
class_names = model.class_names
scene = SCENES[8]
with Trace() as stages:  # keeps what each part computes
    model.detect(model.transform([scene.image]))


def outline(axes, box, color, style="-", label=None, width=3):
    """A box x1, y1, x2, y2 on the axes."""
    look = dict(fill=False, edgecolor=color, linewidth=width, linestyle=style, zorder=5)
    axes.add_patch(Rectangle(box[:2], box[2] - box[0], box[3] - box[1], label=label, **look))


def show_boxes(axes, image, some, color=ORANGE, style="-", width=1.5, **settings):
    """A picture with boxes (R, 4); its axes count pixels from corner to corner."""
    axes.imshow(image, extent=(0, image.shape[1], image.shape[0], 0), interpolation="nearest")
    for box in some:
        outline(axes, box, color, style, width=width)
    axes.set(xticks=[], yticks=[], xlim=(0, image.shape[1]), ylim=(image.shape[0], 0), **settings)


# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
ANCHORS, PROPOSALS = stages["anchors"], stages["proposals"][0]
assert ANCHORS.shape == (8064, 4) and PROPOSALS.shape == (200, 4)
figure, panels = plt.subplots(1, 3, figsize=(11, 4.2))
show_boxes(panels[0], scene.image, ANCHORS[::4], "black", width=0.5, title="anchors (every 4th)")
show_boxes(panels[1], scene.image, PROPOSALS[:30], title="best 30 of 200 proposals")
show_boxes(panels[2], scene.image, scene.boxes, BLUE, width=4, title="the truth: 3 objects")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Left is what notebook 05 made, right is what we want in the end. Today: from the left picture to the middle one. Note
# what the middle picture is not: it is not the answer. It has ten boxes around one duck, and it does not know that it
# is a duck. It only must not lose anything.

# %% [markdown]
# **Words of this notebook**
#
# - *Feature map*, *level*, *place*, *stride*: notebooks 03 and 04. *Box*, *anchor*, *deltas*, *IoU*, `encode` and
#   `decode`: notebook 05.
# - *Region proposal network*, RPN: the part that says for each anchor whether there is an object, and how the anchor
#   must move. *Proposal*: a box that comes out of it. *RoI*, region of interest: a proposal that goes on to RoIAlign.
# - *Logit*: any real number, the larger the surer. The *sigmoid* 1 / (1 + exp(-logit)) makes a number between 0 and 1
#   of it, here the *objectness*, the *score* of a proposal.
# - *Non-maximum suppression*, NMS: of boxes that overlap much only the best stays.
# - *Recall*: the share of the true objects that are found.

# %% [markdown] slides=["L06"] slideshow={"slide_type": "slide"}
# ## 1 The first of two questions (L06)
#
# - **RPN**: of *each anchor*: is there any object, and roughly where? Cheap.
# - **Box head** (notebook 09): of *each proposal*: what is it, and where exactly? Expensive.
#
# Why not ask the box head about every anchor?

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
places, per_place = 32 * 32 + 16 * 16 + 8 * 8, 6
channels, width = 64, 256
assert stages["box_features"].shape == (200, 7, 7, channels) and places * per_place == len(ANCHORS)
rpn_work = places * (3 * 3 * channels * channels + channels * 5 * per_place)  # multiplications
head_work = 7 * 7 * channels * width + width * width + width * 5 * (len(class_names) + 1)  # of one box
work = {
    "RPN, 8064 anchors": rpn_work,
    "box head, 200 proposals": 200 * head_work,
    "box head, 8064 anchors": 8064 * head_work,
}
assert [round(n / 1e6) for n in work.values()] == [52, 175, 7044]

figure, axes = plt.subplots(figsize=(9, 2.8))
bars = axes.barh(list(work), [n / 1e9 for n in work.values()], color=[ORANGE, BLUE, RED])
axes.bar_label(bars, [f" {n / 1e9:.2f}" for n in work.values()])
axes.set(xlabel="thousand million multiplications", xlim=(0, 8))
axes.invert_yaxis()
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The RPN costs a third of what the box head costs for 200 proposals, and saves looking at 8064: forty times as much.
# For a photo of 800 x 1088 pixels it is the same with larger numbers: 217,413 anchors, 1000 proposals. The RPN reads
# the features that are there anyway; that was the idea that made R-CNN "Faster".

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 The network: three convolutions
#
# At each place of a map of C channels, with P anchors a place:
#
# - a 3 x 3 convolution, C to C channels, then max(0, x)
# - a 1 x 1 convolution to **P** numbers: a logit for each anchor
# - a 1 x 1 convolution to **4P** numbers: four deltas for each anchor
#
# One head for all levels. Logit 2.2: score 1 / (1 + exp(-2.2)) = **0.90**.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
BLOCKS = [  # x, y, what it is, color
    (0, 1, "features of\none level\nh x w x 64", SKY),
    (3, 1, "3 x 3 conv.\nh x w x 64", "gainsboro"),
    (6, 2, "1 x 1 conv.\nh x w x 6", "gainsboro"),
    (6, 0, "1 x 1 conv.\nh x w x 24", "gainsboro"),
    (9, 2, "6 anchors:\nobject or not?", ORANGE),
    (9, 0, "6 anchors:\ndx, dy, dw, dh", ORANGE),
]
figure, axes = plt.subplots(figsize=(10, 3.2))
for x, y, text, color in BLOCKS:
    axes.add_patch(Rectangle((x, y), 2.2, 1.5, facecolor=color, edgecolor="black", alpha=0.8, linewidth=2))
    axes.text(x + 1.1, y + 0.75, text, ha="center", va="center", fontsize=14)
for start, end in (((2.2, 1.75), (3, 1.75)), ((5.2, 1.95), (6, 2.75)), ((5.2, 1.55), (6, 0.75)),
                   ((8.2, 2.75), (9, 2.75)), ((8.2, 0.75), (9, 0.75))):  # fmt: skip
    axes.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", linewidth=3))
axes.set(xlim=(-0.1, 11.3), ylim=(-0.1, 3.6))
axes.axis("off")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Why 3 x 3 first? So that a place sees its neighbors before it decides. Why 1 x 1 then? Each place decides for itself.
# A convolution is a small network that slides over the map: Faster R-CNN's paper calls it a sliding window. The same
# weights on every level, because a duck 20 pixels long looks on the fine level like one of 80 on the coarse level.

# %%
assert round(1 / (1 + np.exp(-2.2)), 2) == 0.90
assert sigmoid_array(np.array([0.0]))[0] == 0.5  # logit 0: undecided
print(inspect.getsource(library.RPNHead))

# %% [markdown]
# `side_by_side` computes both 1 x 1 convolutions in one pass over the map; the result is that of two calls.
#
# How many numbers does the head learn? That depends neither on the size of the picture nor on the number of levels:

# %%
head = model.rpn.head
for name, parameter in head.named_parameters():
    print(f"{name:20} {parameter.shape}")
learned = sum(parameter.data.size for _, parameter in head.named_parameters())
assert learned == (3 * 3 * 64 + 1) * 64 + (64 + 1) * 6 + (64 + 1) * 24
published = library.RPNHead(256, 3)  # of ResNet-50-FPN: 256 channels, 3 anchors a place
large = sum(parameter.data.size for _, parameter in published.named_parameters())
assert large == (3 * 3 * 256 + 1) * 256 + (256 + 1) * 3 + (256 + 1) * 12 == 593_935
print(f"\n{learned:,} numbers here, {large:,} in the published model of 44 million")

# %% [markdown]
# We let it look at our scene. Each level gives a map of P = 6 logits and a map of 4P = 24 deltas per place:

# %%
with no_grad():
    batch = model.transform([scene.image])
    levels = model.features(Tensor(batch.images))[model.rpn_first_level :]
    maps = [head(level) for level in levels]
for level, (logits, deltas) in zip(levels, maps):
    print("features", level.shape, "logits", logits.shape, "deltas", deltas.shape)
assert [logits.shape for logits, _ in maps] == [(1, 32, 32, 6), (1, 16, 16, 6), (1, 8, 8, 6)]
assert [deltas.shape for _, deltas in maps] == [(1, 32, 32, 24), (1, 16, 16, 24), (1, 8, 8, 24)]

# %% [markdown]
# ### Exercise 1: one row for each anchor
#
# The anchors are a list in the order row, column, anchor (notebook 05). Bring the head's two maps of one level into the
# same order. At each place `deltas` holds dx, dy, dw, dh of the first anchor, then of the second, and so on.


# %% exercise="rpn_outputs"
def my_rpn_outputs(logits, deltas):
    """Maps (h, w, P) and (h, w, 4 P) -> logits (h w P,) and deltas (h w P, 4), one row for each anchor."""
    ### BEGIN SOLUTION
    return logits.reshape(-1), deltas.reshape(-1, 4)
    ### END SOLUTION


# %% check="rpn_outputs"
check.rpn_outputs(my_rpn_outputs)

# %% [markdown]
# That it is so short is no accident: the channels come last, in memory too. Where they come first, as in PyTorch, the
# axes must be exchanged before, and whoever forgets that gives each anchor the numbers of another one.

# %%
with no_grad():  # the library does the same, and puts the levels one after the other
    logits, deltas, anchors_by_level = model.rpn(levels, batch.images.shape[1:3])
LOGITS, DELTAS = logits.data[0], deltas.data[0]
mine = [my_rpn_outputs(logits.data[0], deltas.data[0]) for logits, deltas in maps]
np.testing.assert_array_equal(np.concatenate([logits for logits, _ in mine]), LOGITS)
np.testing.assert_array_equal(np.concatenate([deltas for _, deltas in mine]), DELTAS)
np.testing.assert_array_equal(LOGITS, stages["objectness"][0])  # as in the whole model's pass

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 Objectness: where each level sees something
#
# The best score of the six anchors at each place: bright where the network says "object".

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
SCORES = sigmoid_array(LOGITS)
STRIDES, COUNTS = (4, 8, 16), [len(a) for a in anchors_by_level]
by_level = np.split(SCORES, np.cumsum(COUNTS)[:-1])

figure, panels = plt.subplots(1, 3, figsize=(11, 4.3))
for axes, scores, stride, sizes in zip(panels, by_level, STRIDES, model.rpn.anchor_generator.sizes):
    side = 128 // stride
    best = scores.reshape(side, side, 6).max(axis=2)  # (h, w)
    show_boxes(axes, scene.image, scene.boxes, SKY, "--", 2.5)
    shade = np.zeros((side, side, 4))  # black, the less sure the darker
    shade[..., 3] = 0.75 * (1 - best)
    axes.imshow(shade, extent=np.array([0, 128, 128, 0]) - stride / 2)  # place (0, 0) is the pixel corner (0, 0)
    axes.set(xlim=(0, 128), ylim=(128, 0), title=f"stride {stride}\nanchors {sizes[0]}, {sizes[1]}")
plt.show()

overlaps = boxes.iou(ANCHORS, scene.boxes).max(axis=1)  # (8064,) with the nearest object
on, off = SCORES[overlaps >= 0.5].mean(), SCORES[overlaps < 0.3].mean()
print(f"mean score of anchors with IoU of at least 0.5: {on:.2f}, below 0.3: {off:.3f}")
assert on > 10 * off

# %% [markdown] slideshow={"slide_type": "notes"}
# Each level answers for objects of its size: the fine level lights up at the small duck, the coarse one inside the
# large one. Nobody told the network which level is whose; it follows from which anchors were called objects in training
# (notebook 07). Bright does not mean correct: it means "look here again".

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 From 8064 anchors to 200 proposals
#
# 1. Of each level the best 500 by logit.
# 2. Move them: `decode(deltas, anchors)`.
# 3. Cut them at the picture's border.
# 4. Drop those without size.
# 5. Suppress, within each level, what overlaps a better one by more than 0.7.
# 6. The best 200 of all levels.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
best, level_of = [], np.repeat([0, 1, 2], [min(500, count) for count in COUNTS])
FIRST = np.cumsum([0, *COUNTS])  # where each level's anchors begin
for start, stop in zip(FIRST[:-1], FIRST[1:]):
    best.append(start + targets.top_k(LOGITS[None, start:stop], min(500, stop - start))[0])
best = np.concatenate(best)
moved = boxes.clip(boxes.decode(DELTAS[best], ANCHORS[best]), np.array([128, 128]))
real = boxes.large_enough(moved, 1e-3)
_, stays = boxes.nms(moved[None], SCORES[best][None], real[None], 0.7, groups=level_of[None])
left_over = {
    "anchors": len(ANCHORS), "1 best of each level": len(best), "2-4 moved and cut": int(real.sum()),
    "5 suppressed": int(stays.sum()), "6 best of all": min(200, int(stays.sum())),
}  # fmt: skip
assert left_over["anchors"] == 8064 and left_over["1 best of each level"] == 500 + 500 + 384
assert left_over["6 best of all"] == len(PROPOSALS) == 200

figure, axes = plt.subplots(figsize=(9, 2.8))
bars = axes.barh(list(left_over), left_over.values(), color=ORANGE)
axes.bar_label(bars, [f" {count}" for count in left_over.values()])
axes.set(xlim=(0, 9000), xticks=[])
axes.invert_yaxis()
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The first step throws away most and looks at the score alone: that is cheap. The suppression compares boxes with
# boxes, which is expensive, so it comes late. "Within each level" means that a small box is never suppressed by a large
# one of another level.

# %% [markdown]
# The library's function does that for a batch of pictures at once:

# %%
print(inspect.getsource(library.RPN.proposals))

# %% [markdown]
# ### Exercise 2: the best anchors
#
# `np.argsort` sorts by rising value. Equal scores: the lower index first (`kind="stable"` keeps the order of equal
# ones).


# %% exercise="best_anchors"
def my_best_anchors(scores, count):
    """Indices of the `count` largest scores (A,), in descending order of score, equal ones by index; all if fewer."""
    ### BEGIN SOLUTION
    return np.argsort(-scores, kind="stable")[:count]
    ### END SOLUTION


# %% check="best_anchors"
check.best_anchors(my_best_anchors)

# %% [markdown] slideshow={"slide_type": "slide"}
# ### The best anchors of each level, moved
#
# Dashed: the anchors with the five best scores of each level. Solid: where their deltas put them.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 3, figsize=(11, 4))
gained = []
for k, axes in enumerate(panels):
    best = FIRST[k] + my_best_anchors(LOGITS[FIRST[k] : FIRST[k + 1]], 5)
    moved = boxes.decode(DELTAS[best], ANCHORS[best])
    gained.append([boxes.iou(some, scene.boxes).max(axis=1).mean() for some in (ANCHORS[best], moved)])
    show_boxes(axes, scene.image, ANCHORS[best], ORANGE, "--", 2)
    for box in moved:
        outline(axes, box, BLUE, width=2.5)
    axes.set(
        xlim=(-10, 138), ylim=(138, -10), title="stride {}\nmean IoU {:.2f} -> {:.2f}".format(STRIDES[k], *gained[k])
    )
plt.show()
fifty = np.concatenate([FIRST[k] + my_best_anchors(LOGITS[FIRST[k] : FIRST[k + 1]], 50) for k in range(3)])
good = fifty[overlaps[fifty] >= 0.5]
before = overlaps[good].mean()
after = boxes.iou(boxes.decode(DELTAS[good], ANCHORS[good]), scene.boxes).max(axis=1).mean()
print(f"of the best 50 per level {len(good)} have IoU 0.5 or more: {before:.2f} on average, after the move {after:.2f}")
assert after > before

# %% [markdown] slideshow={"slide_type": "notes"}
# The solid boxes gather around the animals; many are nearly the same box, for neighboring anchors were sent to one
# object. That is what the next step is for.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 Non-maximum suppression
#
# Take the best box. Drop all that overlap it by more than the threshold. Go on with the best that is left.
#
# **By hand**, threshold 0.7: A (0.9), B (0.8), C (0.6), each 10 x 10. B is A moved by 1: IoU 9/11 = **0.82**, B goes.
# C is A moved by 4: IoU 6/14 = **0.43**, C stays.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
three = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [4, 0, 14, 10]])
three_scores = np.array([0.9, 0.8, 0.6])
np.testing.assert_allclose(boxes.iou(three[:1], three)[0], [1, 9 / 11, 6 / 14])

figure, panels = plt.subplots(1, 2, figsize=(9, 3.2))
for axes, some, title in zip(panels, ([0, 1, 2], [0, 2]), ("before", "after")):
    for k in some:
        outline(axes, three[k] + [0, k, 0, k], (BLUE, RED, GREEN)[k], ("-", "--", "-")[k], width=5)  # drawn lower
        axes.text(
            three[k, 2] - 0.4, 9.3 + k, "ABC"[k], color=(BLUE, RED, GREEN)[k], ha="right", fontsize=18, weight="bold"
        )
    axes.set(xlim=(-1, 15), ylim=(13, -1), xticks=[0, 1, 4, 10, 11, 14], yticks=[], title=title)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# B and C are drawn a little lower so that the lines can be told apart; they are not moved down. Ask: what would happen
# with a threshold of 0.4? C goes too, and if C was another animal beside A, it is lost. 0.7 is a careful threshold, for
# proposals must not lose objects. After the box head NMS comes again, by class and at 0.5: notebook 09 has the whole
# story, with what happens to crowds.

# %% [markdown]
# ### Exercise 3: one round
#
# Which of `others` go, if `box` stays? "More than" is meant: an IoU of exactly the threshold stays. Use `boxes.iou`, or
# your own of notebook 05.


# %% exercise="suppressed"
def my_suppressed(box, others, threshold):
    """Whether each of others (R, 4) overlaps box (4,) by an IoU of more than the threshold: (R,) truth values."""
    ### BEGIN SOLUTION
    return boxes.iou(box[None], others)[0] > threshold
    ### END SOLUTION


# %% check="suppressed"
check.suppressed(my_suppressed)

# %% [markdown]
# With that the whole procedure is a loop:


# %%
def suppress(some, threshold):
    """Indices of the boxes (R, 4) that stay; they come in descending order of score."""
    left, kept = np.arange(len(some)), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[~my_suppressed(some[best], some[left], threshold)]
    return np.array(kept, dtype=int)


assert suppress(three, 0.7).tolist() == [0, 2] and suppress(three, 0.4).tolist() == [0]
kept, valid = boxes.nms(three[None], three_scores[None], np.ones((1, 3), bool), 0.7)  # the library: a batch
assert kept[0][valid[0]].tolist() == [0, 2]

# %% [markdown]
# ### Exercise 4: the proposals of one level
#
# Steps 1 to 5, and the best `after` of what is left. `boxes.decode`, `boxes.clip`, `boxes.large_enough` and
# `sigmoid_array` do what their names say; for step 5 there is `suppress` above. A box has a size if both sides are at
# least 0.001 pixels.


# %% exercise="level_proposals"
def my_level_proposals(anchors, logits, deltas, image_size, before, threshold, after):
    """One level's boxes (R, 4) and scores (R,), in descending order of score; image_size is (height, width)."""
    ### BEGIN SOLUTION
    best = my_best_anchors(logits, before)
    found = boxes.decode(deltas[best], anchors[best])
    found = boxes.clip(found, np.array(image_size))
    scores = sigmoid_array(logits[best])
    large = boxes.large_enough(found, 1e-3)
    found, scores = found[large], scores[large]
    kept = suppress(found, threshold)[:after]
    return found[kept], scores[kept]
    ### END SOLUTION


# %% check="level_proposals"
check.level_proposals(my_level_proposals)

# %% [markdown]
# All levels together are what the model does, to the last digits. `before` is 500, `after` all, and step 6 is one more
# sorting:


# %%
def my_proposals(logits, deltas, before=500, threshold=0.7, after=200):
    """Steps 1 to 6 for a scene."""
    found, scores = [], []
    for start, stop in zip(FIRST[:-1], FIRST[1:]):
        level = slice(start, stop)
        some = my_level_proposals(ANCHORS[level], logits[level], deltas[level], (128, 128), before, threshold, before)
        found.append(some[0])
        scores.append(some[1])
    found, scores = np.concatenate(found), np.concatenate(scores)
    best = my_best_anchors(scores, after)
    return found[best], scores[best], len(found)


mine, my_scores, survivors = my_proposals(LOGITS, DELTAS)
np.testing.assert_allclose(my_scores, stages["proposal_scores"][0][: len(mine)], atol=1e-6)
np.testing.assert_allclose(mine, PROPOSALS[: len(mine)], atol=1e-4)
looked_at = sum(min(500, count) for count in COUNTS)
print(f"{len(ANCHORS)} anchors -> {looked_at} are moved -> {survivors} after the suppression -> {len(mine)} proposals")

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Before and after the suppression

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
everything, its_scores, count = my_proposals(LOGITS, DELTAS, threshold=2.0, after=2000)
assert 0.8 * looked_at < count <= looked_at == 1384  # no IoU is above 2; a few were moved out of the picture
figure, panels = plt.subplots(1, 2, figsize=(11, 5))
show_boxes(panels[0], scene.image, everything[:100], width=1.2, title=f"before: best 100 of {count}")
show_boxes(panels[1], scene.image, mine[:40], width=1.2, title=f"after: best 40 of {survivors}")
for axes in panels:
    for box in scene.boxes:
        outline(axes, box, BLUE, width=4)
plt.show()
near = [(boxes.iou(some[:100], scene.boxes) >= 0.7).sum() for some in (everything, mine)]
print(f"of the best 100, so many have IoU 0.7 with an object: before {near[0]}, after {near[1]}")
assert near[0] > near[1] >= len(scene.boxes)

# %% [markdown] slideshow={"slide_type": "notes"}
# Left: the best 100, and nearly all sit on the three animals; the next objects would have to wait for rank 101. Right:
# each animal keeps a few, and places become free for what is less sure. That makes the list short. It has a price that
# section 6 will show: now and then the box that goes would have fitted a little better than the one that stays.

# %% [markdown]
# The package draws proposals with their scores: the brighter, the surer.

# %%
drawn = draw.draw_proposals(scene.image, mine, my_scores, count=40, title="proposals after the suppression")
Image.fromarray(drawn).quantize(64)  # fewer colors make a smaller file

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 How many proposals are enough?
#
# *Recall* at k: the share of all true objects that one of the best k proposals fits, that is, with an IoU of at least
# 0.5 (or 0.7).

# %% [markdown]
# What the RPN has lost, no later part can find again. So this is the number to watch.
#
# ### Exercise 5: recall
#
# At least: an IoU of exactly the threshold counts. Without proposals nothing is found.


# %% exercise="proposal_recall"
def my_proposal_recall(proposals, truth, threshold):
    """The share of the boxes truth (G, 4) that some proposal (R, 4) overlaps by an IoU of at least the threshold."""
    ### BEGIN SOLUTION
    best = boxes.iou(truth, proposals).max(axis=1, initial=0.0)  # (G,)
    return float((best >= threshold).mean())
    ### END SOLUTION


# %% check="proposal_recall"
check.proposal_recall(my_proposal_recall)

# %% [markdown]
# By hand, for our scene: three objects. If the best proposal alone fits one of them, recall at 1 is 1/3. With one
# proposal it cannot be more.

# %%
for k in (1, 3, 10, 30, 200):
    print(f"recall at {k:3}: {my_proposal_recall(mine[:k], scene.boxes, 0.5):.2f}")
assert my_proposal_recall(mine[:1], scene.boxes, 0.5) <= 1 / 3
assert my_proposal_recall(mine, scene.boxes, 0.5) == 1


# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
def rpn_of(model, sample):
    """What the RPN says about a scene: logits (8064,), deltas (8064, 4), proposals (R, 4)."""
    with no_grad():
        batch = model.transform([sample.image])
        levels = model.features(Tensor(batch.images))[model.rpn_first_level :]
        logits, deltas, anchors = model.rpn(levels, batch.images.shape[1:3])
        found, _, valid = model.rpn.proposals(logits.data, deltas.data, anchors, batch.sizes)
    return logits.data[0], deltas.data[0], found[0][valid[0]]


def recalls(lists, threshold):
    """Recall over all scenes for each k of KEPT; lists: one (R, 4) for each scene."""
    fits = [boxes.iou(s.boxes, found) >= threshold for s, found in zip(SOME, lists)]  # (G, R) each
    return [100 * np.concatenate([f[:, :k].any(axis=1) for f in fits]).mean() for k in KEPT]


SOME = [SCENES[i] for i in range(60)]
KEPT = np.array([1, 2, 3, 5, 10, 20, 50, 100, 200])
said = [rpn_of(model, s) for s in SOME]
untrained = mask_rcnn.build(**model.settings).eval()  # the same network with random weights
lists = {
    "proposals": [found for _, _, found in said],
    "without suppression": [boxes.decode(d, ANCHORS)[my_best_anchors(l, 200)] for l, d, _ in said],
    "best anchors, not moved": [ANCHORS[my_best_anchors(l, 200)] for l, _, _ in said],
    "an untrained network's": [rpn_of(untrained, s)[2] for s in SOME],
}
curves = {t: {name: recalls(values, t) for name, values in lists.items()} for t in (0.5, 0.7)}

figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True)
for axes, (threshold, found) in zip(panels, curves.items()):
    for (name, values), color, style in zip(found.items(), (BLUE, ORANGE, GREEN, RED), ("-", "--", "-.", ":")):
        axes.plot(KEPT, values, style, color=color, linewidth=4, label=name)
    axes.set_xscale("log")
    axes.set_xticks([1, 3, 10, 30, 100, 200], [1, 3, 10, 30, 100, 200])
    axes.set(xlabel="proposals kept", title=f"IoU of at least {threshold}", ylim=(0, 103))
    axes.grid(alpha=0.4)
panels[0].set_ylabel("recall, % of the objects")
panels[0].legend(loc=(0.4, 0.42), fontsize=11)
plt.show()
for threshold, found in curves.items():
    for name, values in found.items():
        print(f"IoU {threshold}: {name:24}", " ".join(f"{k}: {v:.0f} %" for k, v in zip(KEPT[3::2], values[3::2])))
assert curves[0.5]["proposals"][-1] > 95 and curves[0.5]["proposals"][4] > 70
assert curves[0.5]["proposals"][4] > curves[0.5]["without suppression"][4]
assert curves[0.7]["proposals"][-1] > curves[0.7]["best anchors, not moved"][-1] + 10
assert curves[0.5]["an untrained network's"][5] < 50

# %% [markdown] slideshow={"slide_type": "notes"}
# 60 scenes, 3.5 objects each. Blue against dashed orange: suppression makes the first places count. Green: the moves
# matter for the strict measure. Red: it is not luck; a random network needs many more. And the blue curve flattens:
# from 50 to 200 little is gained, so 200 are enough here. Far right, at 0.7, orange passes blue: who has room for 200
# loses a little by suppression. Models for photos keep 1000 in use and 2000 in training.

# %% [markdown]
# Choose how many are kept, and look at any of the scenes:


# %% widget=True
def draw_kept(axes, number, kept):
    """The best `kept` proposals of a scene, and the recall."""
    sample, found = SOME[number], said[number][2][:kept]
    recall = my_proposal_recall(found, sample.boxes, 0.5)
    show_boxes(axes, sample.image, found, title=f"{kept} kept: recall {100 * recall:.0f} %")
    for box in sample.boxes:
        hit = boxes.iou(box[None], found).max() >= 0.5
        outline(axes, box, BLUE if hit else RED, "-" if hit else "--", width=4)


def kept(number=19, count=10):
    """One figure for one position of the sliders."""
    draw_kept(plt.subplots(figsize=(5, 5.3))[1], number, count)
    plt.show()


try:
    from ipywidgets import IntSlider, interact

    interact(kept, number=IntSlider(19, 0, 59, description="scene"), count=IntSlider(10, 1, 200, description="kept"))
except ImportError:  # no widgets installed
    kept()

# %% [markdown] slideshow={"slide_type": "slide"}
# ### 3, 10 and 50 proposals
#
# Orange: proposals. Blue: objects that one of them fits. Red, dashed: missed.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 3, figsize=(11, 4))
for axes, k in zip(panels, (3, 10, 50)):
    draw_kept(axes, 19, k)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# With three proposals at most three of six animals can be found, so recall is at most 50 %. With ten all of them are.
# Fifty add nothing here; they are for the scenes where an animal is hidden or looks like the meadow.

# %% [markdown] slides=["L10"] slideshow={"slide_type": "slide"}
# ## 7 What goes on to RoIAlign: a list of boxes (L10)
#
# The lecture's list: (112, 45)-(219, 213), (268, 44)-(361, 280), (67, 106)-(177, 195).
#
# Ours, for each object the best that fits it:

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
fits = boxes.iou(scene.boxes, mine) >= 0.5  # (3, 200)
first_fit = fits.argmax(axis=1)  # in descending order of score, so the first is the best
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=[1, 1.4])
show_boxes(left, scene.image, [])
right.axis("off")
for k, (place, color, style) in enumerate(zip(np.sort(first_fit), (ORANGE, SKY, RED), ("-", "--", ":"))):
    x1, y1, x2, y2 = mine[place]
    outline(left, mine[place], color, style, width=5)
    right.add_patch(
        Rectangle((0, 0.76 - 0.34 * k), 0.1, 0.12, fill=False, edgecolor=color, linestyle=style, linewidth=5)
    )
    text = f"({x1:.1f}, {y1:.1f})-({x2:.1f}, {y2:.1f})\nscore {my_scores[place]:.2f}, place {place + 1} of {len(mine)}"
    right.text(0.16, 0.82 - 0.34 * k, text, va="center", fontsize=18)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The same form as in the lecture: two corners in pixels of the picture. Two differences. The numbers are not whole,
# which is why notebook 08 makes such a fuss about rounding. And there is no word about cat or duck. In notebook 05 we
# saw which deltas make the lecture's three RoIs out of their nearest anchors.

# %%
# Whatever lies behind: boxes are (R, 4), in pixels, sorted by score, inside the picture, R known in advance.
assert stages["proposals"].shape == (1, 200, 4) and (np.diff(my_scores) <= 0).all()
assert mine.min() >= 0 and mine.max() <= 128
print(mine[:5].round(1))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 What it learns from
#
# - Each anchor is called object, background, or neither, by its IoU with the true boxes (notebook 07).
# - Two losses (notebook 11): **objectness**, is the score right? **Box**, are the deltas right?
#
# The loss of a yes or no is minus the logarithm of the probability given to the right answer. An untrained network says
# logit 0, score 1/2, everywhere: -log(1/2) = **0.693**.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
names = {"loss_objectness": "objectness", "loss_rpn_box_reg": "box"}
samples = SOME[:16]
losses = {}
for who, network in (("untrained", untrained), ("trained", model)):
    with no_grad():
        batch = network.transform(samples)
        levels = network.features(Tensor(batch.images))[network.rpn_first_level :]
        logits, deltas, anchors = network.rpn(levels, batch.images.shape[1:3])
        found = network.rpn.losses(logits, deltas, anchors, batch, np.random.default_rng(0))
    losses[who] = {names[name]: float(value.data) for name, value in found.items()}
print(losses)
assert abs(losses["untrained"]["objectness"] - np.log(2)) < 0.03
assert losses["trained"]["objectness"] < 0.25 and losses["trained"]["box"] < losses["untrained"]["box"]

figure, panels = plt.subplots(1, 2, figsize=(9, 3.2))
for axes, name in zip(panels, names.values()):
    bars = axes.bar(list(losses), [values[name] for values in losses.values()], color=[RED, BLUE], width=0.6)
    axes.bar_label(bars, [f"{values[name]:.3f}" for values in losses.values()])
    axes.set(title=f"{name} loss", ylim=(0, 1.25 * losses["untrained"][name]))
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# These numbers are of scenes that were not trained on. The gradient of both losses flows through the three convolutions
# into the pyramid and the backbone. It does not flow through the proposals: they are taken as constants.

# %% [markdown]
# ## 9 The fast version
#
# Two steps take time: to find the best of many, and the suppression. For the first there is `np.argpartition`, which
# finds the best 500 without sorting the rest; `targets.top_k` does the same in a compiled kernel. For the second there
# is a kernel that compares a box only with those that are kept so far, and stops when there are enough. The array
# code (`boxes.nms.plain`) keeps the whole table of overlaps.

# %%
rng = np.random.default_rng(0)
photo_logits = rng.normal(size=(1, 163_200)).astype(np.float32)  # the finest level of a photo
some = boxes.decode(DELTAS, ANCHORS)[my_best_anchors(LOGITS, 1000)]
call = some[None], np.sort(rng.random((1, 1000)).astype(np.float32))[:, ::-1], np.ones((1, 1000), bool), 0.7
boxes.nms(*call)  # the first call compiles


def milliseconds(function, *arguments, repeats=3):
    """The shortest of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


rows = {
    "best 1000 of 163,200: sort all": milliseconds(my_best_anchors, photo_logits[0], 1000),
    "best 1000 of 163,200: targets.top_k": milliseconds(targets.top_k, photo_logits, 1000),
    "suppression of 1000: loop": milliseconds(suppress, some, 0.7),
    "suppression of 1000: array code": milliseconds(boxes.nms.plain, *call),
    "suppression of 1000: kernel": milliseconds(boxes.nms, *call),
}
for name, t in rows.items():
    print(f"{name:36} {t:8.2f} ms")
np.testing.assert_array_equal(targets.top_k(photo_logits, 1000)[0], my_best_anchors(photo_logits[0], 1000))
by_kernel, real = boxes.nms(*call)
np.testing.assert_array_equal(by_kernel[0][real[0]], suppress(some, 0.7))
assert rows["suppression of 1000: kernel"] < rows["suppression of 1000: loop"]

# %% [markdown]
# ## 10 Common misconceptions
#
# ### "The RPN finds cats, dogs and ducks"
#
# It has one score an anchor, whatever the number of classes: it is *class-agnostic*. It knows "thing".

# %%
best_of = {name: [] for name in class_names}
for sample, (its_logits, _, _) in zip(SOME, said):
    overlap = boxes.iou(sample.boxes, ANCHORS)
    for label, row in zip(sample.labels, overlap):
        best_of[class_names[label - 1]].append(sigmoid_array(its_logits[row >= 0.5]).max(initial=0.0))
for name, values in best_of.items():
    print(f"{name:5} mean of the best score on it: {np.mean(values):.2f}")
assert head.cls_logits.weight.shape[3] == 6  # one for each anchor of a place; no classes
assert min(map(np.mean, best_of.values())) > 0.6

# %% [markdown]
# ### "Proposals are the detections"
#
# Most of the 200 fit nothing. Recall is high, *precision*, the share of the proposals that fit an object, is low. The
# box head sorts that out.

# %%
precision = {
    k: np.mean([(boxes.iou(found[:k], s.boxes) >= 0.5).any(axis=1).mean() for s, (_, _, found) in zip(SOME, said)])
    for k in (5, 20, 200)
}
print("share of the proposals that fit an object:", {k: f"{p:.0%}" for k, p in precision.items()})
assert precision[200] < 0.5 < 0.95 < curves[0.5]["proposals"][-1] / 100

# %% [markdown]
# ### "The more proposals the better"
#
# Recall ends where it ends; what each of them costs in the box head goes on.

# %%
for k in (20, 50, 200):
    gain = curves[0.5]["proposals"][list(KEPT).index(k)]
    print(f"{k:3} proposals: recall {gain:.1f} %, box head {k * head_work / 1e6:.0f} million multiplications")
at = dict(zip(KEPT, curves[0.5]["proposals"]))
assert at[200] - at[50] < 5

# %% [markdown]
# ### "The order of the proposals does not matter"
#
# Only the first k are kept. Shuffle them, and recall at 20 falls.

# %%
shuffled = recalls([rng.permutation(found) for _, _, found in said], 0.5)
twenty = list(KEPT).index(20)
print(f"recall at 20: {at[20]:.0f} %, shuffled {shuffled[twenty]:.0f} %")
assert shuffled[twenty] < at[20] - 5

# %% [markdown]
# ### "The losses of the heads teach the RPN where to put its boxes"
#
# Proposals are plain numbers: no gradient passes through them. The RPN learns from its own two losses alone. (It does
# share the features with the heads, and those learn from all losses.)

# %%
assert isinstance(logits, Tensor)
proposals, _, _ = model.rpn.proposals(logits.data, deltas.data, anchors, batch.sizes)
assert type(proposals) is np.ndarray  # not a Tensor

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Recap
#
# 1. The RPN asks of each anchor: object or not, and how to move? Three convolutions, one head for all levels.
# 2. Per place P logits and 4P deltas; the sigmoid of a logit is the score. No classes.
# 3. Best of each level, move, cut, drop, suppress, best of all: 8064 anchors become 200 proposals.
# 4. NMS keeps the best of boxes that overlap by more than 0.7, so that the first places go to different objects.
# 5. Recall is what counts: what is lost here is lost. It is learned from two losses, objectness and box.

# %% [markdown]
# ## Quiz
#
# 1. A level of 25 x 34 places has 3 anchors a place. How many logits and how many deltas does the RPN give for it?
# 2. Two anchors have logits 0 and 3. What are their scores?
# 3. Why does the head have the same number of parameters for a picture twice as large?
# 4. Three boxes 10 x 10 begin at x = 0, 2 and 4, with scores 0.9, 0.8, 0.7, same y. Which stay at threshold 0.5?
# 5. And if the middle one has the best score?
# 6. Why is a box cut at the border before the suppression, not after it?
# 7. Five objects, 100 proposals; three objects have a proposal with IoU 0.5 or more. Recall, and what can precision be?
# 8. Why are the best 500 taken of each level, and not the best 1500 of all?
# 9. What is the objectness loss of a network that gives 0 as every logit?
# 10. The box head finds a duck in a proposal with score 0.3. Is that a contradiction?
#
# <details><summary>Answers</summary>
#
# 1. 25 x 34 x 3 = 2550 logits and 10,200 deltas.
# 2. 0.5 and 1 / (1 + exp(-3)) = 0.95.
# 3. It is a convolution: the same weights at every place.
# 4. IoU of neighbors: 8/12 = 0.67; of the first and third: 6/14 = 0.43. The middle one goes, the third stays: it is
#    compared only with boxes that stay.
# 5. Then it suppresses both others, and it alone stays.
# 6. Two boxes that differ only outside of the picture are the same box for us; so one of them should go.
# 7. Recall 0.6. Precision is at least 3/100 if no proposal fits two objects; it can be anything above.
# 8. The finest level has three quarters of all anchors: it could fill all places, and large objects would be lost.
# 9. log 2 = 0.693.
# 10. No: the RPN only orders; what it lets through is judged anew.
#
# </details>
