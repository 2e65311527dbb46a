# %% [markdown] slideshow={"slide_type": "slide"}
# # 11 Losses: how wrong is it, in one number?
#
# **Question.** A network says for 784 points how likely each belongs to the cat. At 70 of them it is wrong.
# **How wrong is that, in one number, and which way must each of the 784 move?**
#
# - One number: the *loss*. Training does nothing but make it smaller.
# - Which way: its *gradient*, and that will turn out to be very simple.

# %% [markdown] slideshow={"slide_type": "notes"}
# Ask the room for proposals: the share of wrong points? It has no slope: nudge one prediction from 0.30 to 0.31, and
# the share stays what it is. Training needs a number that every nudge changes. Notebook 07 said what each box should
# have answered, notebooks 09 and 10 made the answers. Today they are compared.

# %%
import matplotlib.pyplot as plt
import numpy as np

import minimask
from minimask import check, draw, losses, mask_rcnn
from minimask.datasets.toy import ToyScenes
from minimask.functional import sigmoid_array
from minimask.losses import mask_loss
from minimask.mask_head import mask_probabilities, mask_targets
from minimask.tensor import Tensor, no_grad
from minimask.trace import Trace

plt.rcParams.update({"figure.figsize": (9, 4.2), "figure.dpi": 100, "font.size": 14})
plt.rcParams["figure.constrained_layout.use"] = True
ORANGE, SKY, RED, BLUE, GREEN = draw.COLORS[[0, 1, 2, 4, 6]] / 255

# %% [markdown]
# **Words of this notebook**
#
# - *Target* `t`: what should have been said (notebook 07). *Prediction*: what was said.
# - *Logit* `z`: the raw number that a layer gives, from minus to plus infinity. *Probability* `p`: from 0 to 1.
# - *Sigmoid*: makes one of the other, $p = \sigma(z) = 1 / (1 + e^{-z})$. $\sigma(0) = 0.5$.
# - *Softmax*: makes probabilities that add up to 1 of the logits of several classes,
#   $p_i = e^{z_i} / \sum_j e^{z_j}$.
# - *Cross-entropy*: minus the logarithm of the probability that was given to the truth. `ln` is the natural logarithm.
# - *Normalizer*: what a sum of losses is divided by.
# - *RoI*: a box that the heads look at (notebooks 06 and 08). *Positive*: a RoI that has found an object;
#   *sampled*: one of those chosen to learn from (notebook 07).

# %% [markdown] slides=["L26"] slideshow={"slide_type": "slide"}
# ## 1 Three tasks, three losses, one sum (L26)
#
# $$L = L_{cls} + L_{reg} + L_{mask}$$
#
# For each RoI: which class, which box, which mask. Background has a class only. The RPN (notebook 06) adds two more.

# %% [markdown]
# A sum, so the gradient is a sum too: each head learns from its own loss, and what all heads share (RoIAlign's feature
# maps, the backbone) learns from all three at once. There are no weights in front; the paper leaves all of them at 1.
#
# What do such numbers look like? A model with random weights and a trained one look at the same eight scenes:

# %%
trained = minimask.load("toy")
class_names = trained.class_names
scenes = [ToyScenes("val")[i] for i in range(8)]


def losses_of(model):
    """The parts of the loss on the eight scenes, name -> number, and what each stage computed."""
    batch = model.transform(scenes)
    with no_grad(), Trace() as stages:
        parts = model.losses(batch, mask_rcnn.sampling_generator(0, 0))
    return {name: part.item() for name, part in parts.items()}, stages


NAMES = {  # the five that every Mask R-CNN has
    "loss_objectness": "object? (RPN)",
    "loss_rpn_box_reg": "box (RPN)",
    "loss_classifier": "class",
    "loss_box_reg": "box",
    "loss_mask": "mask",
}
fresh = mask_rcnn.build("toy").train()
before, stages_before = losses_of(fresh)
after, stages = losses_of(trained.eval())
for name, what in NAMES.items():
    print(f"{what:14} random weights {before[name]:6.3f}   trained {after[name]:6.3f}")
assert abs(before["loss_objectness"] - np.log(2)) < 0.05  # two answers, no idea: ln 2
assert abs(before["loss_classifier"] - np.log(4)) < 0.15  # four classes (with background), no idea: ln 4
assert all(after[name] < before[name] for name in NAMES if name != "loss_box_reg")

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9, 3.8))
for place, (values, color, label) in enumerate([(before, ORANGE, "random weights"), (after, BLUE, "trained")]):
    heights = [values[name] for name in NAMES]
    bars = axes.bar(np.arange(5) + 0.4 * place - 0.2, heights, 0.38, color=color, label=label)
    axes.bar_label(bars, [f"{height:.2f}" for height in heights])
axes.axhline(np.log(2), color="gray", linestyle=":", linewidth=2)
axes.text(1, np.log(2) + 0.04, "ln 2", color="gray", ha="center")
axes.axhline(np.log(4), color="gray", linestyle=":", linewidth=2)
axes.text(1, np.log(4) + 0.04, "ln 4", color="gray", ha="center")
axes.set_xticks(range(5), NAMES.values())
axes.set(ylabel="loss", ylim=(0, 1.15 * max(before.values())))
axes.legend()
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Read the orange bars first. Who has no idea and knows it says 0.5 to a yes-or-no question and pays ln 2 = 0.69; with
# four classes it is ln 4 = 1.39. The first and the third bar start there, and that is the first thing to look at in any
# training. The mask's bar starts higher: random weights there give large logits, so it is sure, and wrong.
# And one bar grows in training: the box's. Section 10 says why that is no bad sign. (The trained model has a branch
# for keypoints with a sixth loss, notebook 15.)

# %% [markdown] slides=["L27"] slideshow={"slide_type": "slide"}
# ## 2 What the mask loss compares (L27)
#
# $M_{gt}$: the true mask, cut out by the box, on 28 x 28 points. $M_{pred}$: what the network says there.

# %%
scene, g = max(((s, g) for s in scenes for g in range(len(s.boxes))), key=lambda place: place[0].masks[place[1]].sum())
box, label = scene.boxes[g : g + 1], scene.labels[g : g + 1]
M_gt = mask_targets(scene.masks[None], box[None], np.array([[g]]), 28, aligned=True)[0, 0]
with no_grad():
    levels = trained.features(Tensor(trained.transform([scene.image]).images))
    logits = trained.mask_branch(trained.pool(levels, box, np.zeros(1, int), 14, "mask")).data.astype(float)
assert logits.shape == (1, 28, 28, 4)  # a mask for each class and the background
M_pred = mask_probabilities(logits, label)[0]
assert M_gt.shape == M_pred.shape == (28, 28)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
x1, y1, x2, y2 = box[0].astype(int)
at_each_point = -(M_gt * np.log(M_pred) + (1 - M_gt) * np.log(1 - M_pred))
figure, panels = plt.subplots(1, 4, figsize=(10, 3.2))
shown = [
    (scene.image[y1:y2, x1:x2], f"the {class_names[label[0] - 1]}'s box", {}),
    (M_gt, "$M_{gt}$", dict(cmap="gray", vmin=0, vmax=1)),
    (M_pred, "$M_{pred}$", dict(cmap="gray", vmin=0, vmax=1)),
    (at_each_point, "loss at each point", dict(cmap="Oranges", vmin=0, vmax=2)),
]
for axes, (values, title, look) in zip(panels, shown):
    axes.imshow(values, extent=(0, 28, 28, 0), **look)
    axes.set(title=title, xticks=[0, 28], yticks=[0, 28])
plt.show()
print(f"loss: the average of the right picture, {at_each_point.mean():.3f}")
assert np.isclose(
    at_each_point.mean(), mask_loss(Tensor(logits), label, M_gt[None], np.array([True])).item(), atol=1e-4
)

# %% [markdown] slideshow={"slide_type": "notes"}
# Left the truth in the box, then the true mask on the 28 x 28 grid, then the prediction of the trained model, and at
# the right what each point pays: nothing inside, nothing outside, all of it along the edge, where the network wavers
# and the target itself is between 0 and 1 (a cell that the edge cuts).

# %% [markdown] slides=["L28"] slideshow={"slide_type": "slide"}
# ## 3 Average binary cross-entropy (L28)
#
# $$L_{mask} = -\frac{1}{N} \sum_{(x,y)} M_{gt} \ln M_{pred} + (1 - M_{gt}) \ln (1 - M_{pred}),
# \quad N = 28 \times 28 = 784$$
#
# Of the two terms one is always 0 (if $M_{gt}$ is 0 or 1): the other is ln of *the probability given to the truth*.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
assert 28 * 28 == 784
p = np.linspace(0.001, 0.999, 500)
figure, axes = plt.subplots(figsize=(9, 3.7))
axes.plot(p, -np.log(p), color=BLUE, linewidth=4, label="object, t = 1: -ln p")
axes.plot(p, -np.log(1 - p), "--", color=RED, linewidth=4, label="background, t = 0: -ln(1 - p)")
axes.plot(0.5, np.log(2), "ko", markersize=11)
axes.annotate("no idea: 0.69", (0.5, np.log(2)), (0.44, 2.0), ha="center", arrowprops=dict(arrowstyle="-"))
axes.set(xlabel="p, what was predicted", ylabel="what the point pays", ylim=(0, 5), xlim=(0, 1))
axes.legend(loc="upper center", framealpha=1)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The lecture writes the minus before the sum and calls the sum's terms L_BCE; each term is negative or 0. Right and
# sure costs nothing. No idea costs ln 2. Wrong and sure costs as much as one likes: the curve has no end. So a network
# that is trained with it learns to be as sure as it is right, and no surer; section 5 shows that in numbers.

# %% [markdown]
# Why a logarithm? The network gives the whole mask a probability: that of its first point times that of its second
# and so on, 784 factors. Training makes the truth as probable as possible. The logarithm turns the product into a sum,
# and the minus turns "as large as possible" into "as small as possible".

# %%
factors = np.array([0.9, 0.7, 0.5, 0.8])  # given to the truth at four points
assert np.isclose(-np.log(np.prod(factors)), -np.log(factors).sum())

# %% [markdown] slides=["L29"] slideshow={"slide_type": "slide"}
# ## 4 Point by point (L29)
#
# | point | $M_{gt}$ | $M_{pred}$ | $M_{gt} \ln M_{pred} + (1 - M_{gt}) \ln(1 - M_{pred})$ | |
# |---|---|---|---|---|
# | first | 0.0 | 0.1 | 0.0 · ln 0.1 + 1.0 · ln 0.9 | **-0.105** |
# | second | 1.0 | 0.7 | 1.0 · ln 0.7 + 0.0 · ln 0.3 | **-0.357** |
# | ... | 1.0 | 0.5 | 1.0 · ln 0.5 + 0.0 · ln 0.5 | **-0.693** |
# | | 1.0 | 0.8 | 1.0 · ln 0.8 + 0.0 · ln 0.2 | **-0.223** |

# %%
LECTURE_GT, LECTURE_PRED = np.array([0.0, 1.0, 1.0, 1.0]), np.array([0.1, 0.7, 0.5, 0.8])
terms = []
for t, p in zip(LECTURE_GT, LECTURE_PRED):
    terms.append(t * np.log(p) + (1.0 - t) * np.log(1.0 - p))
    print(f"{t:.1f} x ln({p:.1f}) + (1.0 - {t:.1f}) x ln(1.0 - {p:.1f}) = {terms[-1]:.3f}")
assert np.round(terms, 3).tolist() == [-0.105, -0.357, -0.693, -0.223]
assert round(-sum(terms), 3) == 1.378 and round(-np.mean(terms), 3) == 0.345  # their sum; their average

# %% [markdown]
# ### All 784 points
#
# Where the lecture has dots, let every other point of the object be predicted as 0.8 and of the background as 0.1.
# The object: 14 x 20 = **280** points. Then 504 x 0.105 + 278 x 0.223 + 0.357 + 0.693 = 116.2, and **/ 784 = 0.148**.

# %%
SQUARE_GT = np.zeros((28, 28))
SQUARE_GT[4:24, 7:21] = 1.0  # 20 rows, 14 columns
SQUARE_PRED = np.where(SQUARE_GT == 1, 0.8, 0.1)
POINTS = [(0, 0), (4, 7), (20, 15), (20, 16)]  # row, column of the lecture's four
for (row, column), p in zip(POINTS, LECTURE_PRED):
    SQUARE_PRED[row, column] = p
assert SQUARE_GT.sum() == 280 and (SQUARE_PRED == 0.8).sum() == 278 and (SQUARE_PRED == 0.1).sum() == 504

by_hand = (504 * -np.log(0.9) + 278 * -np.log(0.8) - np.log(0.7) - np.log(0.5)) / 784
one_by_one = 0.0
for y in range(28):
    for x in range(28):
        t, p = SQUARE_GT[y, x], SQUARE_PRED[y, x]
        one_by_one -= (t * np.log(p) + (1 - t) * np.log(1 - p)) / 784
assert round(by_hand, 3) == 0.148 and np.isclose(by_hand, one_by_one)

logits_of_square = np.log(SQUARE_PRED / (1 - SQUARE_PRED))[None, :, :, None]  # one RoI, one class: (1, 28, 28, 1)
one = np.zeros(1, int), SQUARE_GT[None], np.array([True])  # its channel, target, and that it counts
library = mask_loss(Tensor(logits_of_square), *one).item()
assert np.isclose(library, by_hand)
print(f"by hand {by_hand:.6f}   by a loop {one_by_one:.6f}   the library {library:.6f}")

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 3, figsize=(10, 3.7))
for axes, values, title in zip(panels, (SQUARE_GT, SQUARE_PRED), ("$M_{gt}$", "$M_{pred}$")):
    axes.imshow(values, cmap="gray", vmin=0, vmax=1)
    axes.set(title=title, xticks=[0, 27], yticks=[0, 27])
    for (row, column), name in zip(POINTS, "1234"):
        axes.plot(column, row, "o", color=ORANGE, markersize=7, markeredgecolor="black")
        corner = {"1": (3, 1.5), "2": (4, 6), "3": (12.5, 18), "4": (18.5, 22)}[name]
        plate = dict(boxstyle="round,pad=0.1", facecolor="white", edgecolor="black")
        axes.text(*corner, name, fontsize=15, ha="center", va="center", bbox=plate)
square_loss = -(SQUARE_GT * np.log(SQUARE_PRED) + (1 - SQUARE_GT) * np.log(1 - SQUARE_PRED))
picture = panels[2].imshow(square_loss, cmap="Oranges", vmin=0, vmax=0.7)
panels[2].set(title="what each point pays", xticks=[0, 27], yticks=[0, 27])
figure.colorbar(picture, ax=panels[2], shrink=0.8)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The four orange dots are the lecture's points. Ask: which of the four pays most? The 0.5, for it says nothing. One
# point more or less hardly matters, as everything is divided by 784: the four together are 0.0018 of the 0.148.
# The rectangle is our tool for today, because what comes out is known before anything runs.

# %% [markdown]
# ### Exercise 1: average binary cross-entropy
#
# The lecture's formula, with one rule more: what if `p` is exactly 0 or 1? Then `np.log(0)` is minus infinity, and
# `0 * -inf` is not a number. As in PyTorch, **a logarithm below -100 counts as -100**. Hint: `np.maximum`.


# %% exercise="bce"
def my_bce(p, t):
    """The average binary cross-entropy of probabilities p for targets t, any one shape; no ln below -100: a number."""
    ### BEGIN SOLUTION
    with np.errstate(divide="ignore"):  # no warning for ln 0
        of_object, of_background = np.maximum(np.log(p), -100), np.maximum(np.log(1 - p), -100)
    return -np.mean(t * of_object + (1 - t) * of_background)
    ### END SOLUTION


# %% check="bce"
check.bce(my_bce)

# %% [markdown]
# Wrong answers are told what they did. Somebody who exchanged prediction and target would read:

# %%
try:
    check.bce(lambda p, t: my_bce(t, p))
except check.CheckFailed as failure:
    print(failure)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 A prediction moves
#
# The true rectangle again. The prediction is the same rectangle, moved right by d points; it says *s* where it sees
# object and 1 - *s* elsewhere (s: how sure). Moved by d, **2 · 20 · d = 40 d** points are wrong:
#
# $$L = \frac{784 - 40d}{784}\,(-\ln s) + \frac{40d}{784}\,(-\ln(1 - s))$$


# %%
def moved_prediction(d, sure):
    """The rectangle moved right by d points, with probability `sure` inside and 1 - sure outside."""
    return np.where(np.roll(SQUARE_GT, d, axis=1) == 1, sure, 1 - sure)


def formula(d, sure):
    return ((784 - 40 * d) * -np.log(sure) + 40 * d * -np.log(1 - sure)) / 784


for d in (0, 1, 7):
    for sure in (0.6, 0.9, 0.99):
        assert np.isclose(my_bce(moved_prediction(d, sure), SQUARE_GT), formula(d, sure))

# By hand: moved by 2, 80 of 784 points are wrong; with s = 0.9 that is 0.898 x 0.105 + 0.102 x 2.303 = 0.330.
assert round(0.898 * 0.105 + 0.102 * 2.303, 2) == round(formula(2, 0.9), 2) == 0.33


# %% widget=True
def draw_prediction(panels, d, sure):
    """What is predicted, what each point pays, on two axes."""
    prediction = moved_prediction(d, sure)
    pays = -(SQUARE_GT * np.log(prediction) + (1 - SQUARE_GT) * np.log(1 - prediction))
    for axes, values, look in zip(
        panels, (prediction, pays), (dict(cmap="gray", vmax=1), dict(cmap="Oranges", vmax=3))
    ):
        axes.imshow(values, vmin=0, **look)
        axes.contour(SQUARE_GT, [0.5], colors=[BLUE], linewidths=3)
        axes.set(xticks=[], yticks=[])
    panels[0].set_title(f"moved by {d}, s = {sure:.2f}")
    panels[1].set_title(f"loss {pays.mean():.3f}")


def moved(d=2, sure=0.9):
    """One figure for one position of the sliders."""
    draw_prediction(plt.subplots(1, 2)[1], d, sure)
    plt.show()


try:
    from ipywidgets import FloatSlider, IntSlider, interact

    sliders = dict(d=IntSlider(min=0, max=7, value=2), sure=FloatSlider(min=0.5, max=0.99, step=0.01, value=0.9))
    interact(moved, **sliders)
except ImportError:  # no widgets installed
    moved()

# %% [markdown]
# Without sliders: two positions. Blue is the true outline; at the right, what each point pays.

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 4, figsize=(11, 3.2))
draw_prediction(panels[:2], 2, 0.9)
draw_prediction(panels[2:], 2, 0.99)
plt.show()

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5))
shifts = np.arange(8)
for sure, color, style in ((0.6, GREEN, ":"), (0.9, ORANGE, "-"), (0.99, RED, "--")):
    left.plot(shifts, [formula(d, sure) for d in shifts], style, color=color, linewidth=4, label=f"s = {sure}")
left.set(xlabel="moved by d points", ylabel="loss", title="the surer, the steeper")
left.legend()
s = np.linspace(0.5, 0.995, 200)
right.plot(s, formula(4, s), color=BLUE, linewidth=4)
best = s[formula(4, s).argmin()]
right.plot(best, formula(4, best), "k*", markersize=18)
right.annotate(f"best: s = {best:.2f},\nthe share that is right", (best, formula(4, best)), (0.5, 0.85),
               arrowprops=dict(arrowstyle="-"))  # fmt: skip
right.set(xlabel="s, how sure", ylabel="loss", title="moved by 4: 160 of 784 wrong", ylim=(0.4, 1.1))
assert abs(best - (1 - 160 / 784)) < 0.01
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Left: each point of shift costs the same, but the price depends on how sure the prediction is. With s = 0.6 hardly
# anything, with 0.99 a lot: the loss is not about the mask alone, but about the probabilities.
# Right: the mask is moved by 4, and we only ask how sure one should be. The loss is smallest at s = 0.80, which is the
# share of points that are right. That is what cross-entropy teaches: to say 80 % where one is right 4 times in 5.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 Logits: the formula that does not break
#
# As the lecture writes it, it fails: $e^{1000}$ is infinite, and in float32 $\sigma(17)$ *is* 1, so $\ln(1 - p)$ is
# $-\infty$. With the sigmoid put into the formula, and simplified:
#
# $$-t \ln p - (1-t)\ln(1-p) \;=\; \max(z, 0) - zt + \ln(1 + e^{-|z|})$$
#
# **By hand,** z = 1000, t = 0: 1000 - 0 + ln(1 + 0) = **1000**.

# %% [markdown]
# First the failure, for logits of 1000, -1000 and 20:

# %%
z = np.float32([1000, -1000, 20])
with np.errstate(all="ignore"):
    print("e^z / (1 + e^z)             ", np.exp(z) / (1 + np.exp(z)))
    rounded = 1 / (1 + np.exp(-z))
    print("ln(1 - p), p = 1 / (1+e^-z) ", np.log(1 - rounded))
assert rounded[2] == 1  # the sigmoid of 20 is 0.999999998; rounded to float32 it is 1

# %% [markdown]
# `nan`, not a number, is infinity divided by infinity; the true values of the first line are 1, 0 and 1. And the true
# logarithms are -1000, 0 and -20, not minus infinity. In float32, which networks compute in, it needs no 1000: from a
# logit of 17 on the sigmoid *is* 1. Do such logits occur? These are the trained model's mask logits:

# %%
mask_logits = stages["mask_logits"]
beyond = (abs(mask_logits) > 17).mean()
print(f"from {mask_logits.min():.1f} to {mask_logits.max():.1f}; beyond 17: {100 * beyond:.2f} % of {mask_logits.size}")
assert 1 / (1 + np.exp(-np.float32(17))) == 1 > 1 / (1 + np.exp(-np.float32(16)))
assert abs(mask_logits).max() > 10

# %% [markdown]
# Now the way out. With $p = 1/(1 + e^{-z})$ the two logarithms are $-\ln p = \ln(1 + e^{-z})$ and
# $-\ln(1-p) = z + \ln(1 + e^{-z})$. Together:
#
# $$-t \ln p - (1-t)\ln(1-p) \;=\; z - zt + \ln(1 + e^{-z})$$
#
# For positive z that is fine. For negative z take $e^{-z}$ out of the logarithm:
# $z + \ln(1 + e^{-z}) = \ln(1 + e^{z})$. Both cases in one: $\max(z, 0) - zt + \ln(1 + e^{-|z|})$, where
# $e^{-|z|}$ is never above 1.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
z = np.linspace(-30, 30, 601).astype(np.float32)
with np.errstate(all="ignore"):
    naive = -np.log(1 - 1 / (1 + np.exp(-z)))
stable = np.maximum(z, 0) + np.log1p(np.exp(-abs(z)))  # t = 0
figure, axes = plt.subplots(figsize=(9, 3.3))
axes.plot(z, stable, color=SKY, linewidth=9, label="max(z, 0) - zt + ln(1 + e^-|z|)")
axes.plot(z, np.where(np.isfinite(naive), naive, np.nan), "--", color=RED, linewidth=3, label="-ln(1 - sigmoid(z))")
axes.plot(z[np.isinf(naive)], 31 + 0 * z[np.isinf(naive)], ".", color=RED, label="... is infinite")
axes.set(xlabel="logit z (float32), background: t = 0", ylabel="loss", ylim=(-1, 33))
axes.legend(loc="upper left")
first_infinite = z[np.isinf(naive)][0]
assert 16 < first_infinite < 17.5 and np.isfinite(stable).all()
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The derivation is in the notebook; the last form has only e^-|z|, which lies between 0 and 1 for any z. The
# red line is inexact long before it breaks, for of 1 - p only a few digits are left. On paper it is the same formula;
# in a computer one of them trains and the other one ends a training with NaN after hours. Every library has a function
# for this, called "with logits".


# %%
def stable_loss(z, t):
    return np.maximum(z, 0) - z * t + np.log1p(np.exp(-abs(z)))


z, t = np.random.default_rng(0).normal(0, 3, 1000), np.random.default_rng(1).integers(0, 2, 1000)
assert np.isclose(stable_loss(z, t).mean(), my_bce(sigmoid_array(z), t))  # the same, where both can be computed
assert stable_loss(1000.0, 0) == 1000 and stable_loss(-1000.0, 0) == 0

# %% [markdown]
# `np.log1p(x)` is ln(1 + x), exact for tiny x too: `np.log(1 + 1e-20)` is 0, `np.log1p(1e-20)` is 1e-20.
#
# ### Exercise 2: from logits


# %% exercise="bce_with_logits"
def my_bce_with_logits(z, t):
    """The average binary cross-entropy of logits z, from -1000 to 1000, for targets t of the same shape: a number."""
    ### BEGIN SOLUTION
    return np.mean(np.maximum(z, 0) - z * t + np.log1p(np.exp(-abs(z))))
    ### END SOLUTION


# %% check="bce_with_logits"
check.bce_with_logits(my_bce_with_logits)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 The gradient: p - t
#
# $$\frac{\partial}{\partial z}\left[\,z - zt + \ln(1 + e^{-z})\,\right] = 1 - t - \frac{e^{-z}}{1 + e^{-z}} = p - t$$
#
# **What was said minus what should have been said.** Averaged over N points: (p - t) / N. By hand, for L29's points:
# 0.1 - 0 = **0.1**, 0.7 - 1 = **-0.3**, 0.5 - 1 = **-0.5**, 0.8 - 1 = **-0.2**.

# %%
z = np.log(LECTURE_PRED / (1 - LECTURE_PRED))
by_hand = np.array([0.1, -0.3, -0.5, -0.2])
change = np.zeros(4)
for i in range(4):  # the definition: move one logit a little up and down (notebook 01)
    little = 1e-6 * (np.arange(4) == i)
    change[i] = (stable_loss(z + little, LECTURE_GT).sum() - stable_loss(z - little, LECTURE_GT).sum()) / 2e-6
np.testing.assert_allclose(change, by_hand, atol=1e-8)

leaf = Tensor(z, requires_grad=True)  # and by the library
losses.Loss(losses.binary_cross_entropy, LECTURE_GT, np.ones(4))(leaf).backward()
np.testing.assert_allclose(leaf.grad, by_hand, atol=1e-12)
print("gradient of L29's four logits:", leaf.grad.round(3))

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
z = np.linspace(-8, 8, 400)
p = sigmoid_array(z)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
left.plot(z, -np.log(p), color=BLUE, linewidth=4, label="cross-entropy, -ln p")
left.plot(z, (p - 1) ** 2 / 2, "--", color=ORANGE, linewidth=4, label="squared error, (p - 1)² / 2")
left.set(xlabel="logit z of an object point (t = 1)", ylabel="loss", title="the loss")
left.legend()
right.plot(z, p - 1, color=BLUE, linewidth=4, label="p - t")
right.plot(z, (p - 1) * p * (1 - p), "--", color=ORANGE, linewidth=4, label="(p - t) p (1 - p)")
right.set(xlabel="logit z", title="its gradient", ylim=(-1.1, 0.3))
right.legend(loc="lower right")
at_minus_6 = sigmoid_array(np.array(-6.0))
assert at_minus_6 - 1 < -0.99 and abs((at_minus_6 - 1) * at_minus_6 * (1 - at_minus_6)) < 0.003
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Why not the squared error? Look at a point that is wrong and sure, z = -6. Cross-entropy pulls with all its force, 1.
# The squared error's gradient has the slope of the sigmoid in it, which is nearly 0 there: it pulls with 0.0025, four
# hundred times less. Who is most wrong learns least. The logarithm of the loss cancels the exponential of the sigmoid,
# and that is why those two belong together.

# %% [markdown]
# ### Exercise 3: the gradient
#
# Of your `my_bce_with_logits`, in one line. Careful with the sigmoid of 1000: the package's `sigmoid_array` computes
# $e^{-|z|}$ only, as you did; or write your own.


# %% exercise="bce_gradient"
def my_bce_gradient(z, t):
    """The gradient of the average binary cross-entropy by the logits z, for targets t: an array like z."""
    ### BEGIN SOLUTION
    e = np.exp(-abs(z))
    p = np.where(z >= 0, 1, e) / (1 + e)
    return (p - t) / z.size
    ### END SOLUTION


# %% check="bce_gradient"
check.bce_gradient(my_bce_gradient)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 The mask loss looks at one class
#
# The head predicts a mask for *each* class (notebook 10), but of a cat's box **only the cat channel** is compared. The
# others have gradient 0: no class competes with another.

# %%
four = np.zeros((2, 28, 28, 4))  # 2 RoIs, 4 classes, all logits 0: p = 0.5 everywhere
leaf = Tensor(four, requires_grad=True)
labels, valid = np.array([1, 3]), np.array([True, False])  # a cat that counts, and a place that does not
loss = mask_loss(leaf, labels, np.stack([SQUARE_GT, SQUARE_GT]), valid)
assert np.isclose(loss.item(), np.log(2))
loss.backward()
assert [abs(leaf.grad[0, :, :, c]).sum() > 0 for c in range(4)] == [False, True, False, False]
assert not leaf.grad[1].any()
np.testing.assert_allclose(leaf.grad[0, :, :, 1], (0.5 - SQUARE_GT) / 784)  # (p - t) / (points x RoIs that count)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 5, figsize=(10, 2.7))
panels[0].imshow(SQUARE_GT, cmap="gray")
panels[0].set_title("target")
for c, (axes, name) in enumerate(zip(panels[1:], ["background", *class_names])):
    axes.imshow(784 * leaf.grad[0, :, :, c], cmap="RdBu_r", vmin=-0.7, vmax=0.7)
    axes.set_title(name + (" (true)" if c == 1 else ""))
for axes in panels:
    axes.set(xticks=[], yticks=[])
panels[2].set_xlabel("inside: -0.5\noutside: +0.5")
panels[1].set_xlabel("0")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The gradient of the four channels, times 784. Training goes against the gradient: blue logits go up, red ones down.
# With a softmax over the classes instead, where classes compete at each pixel, the paper loses 5.5 points of mask AP
# (table 2b: 24.8 instead of 30.3). Which class it is has been decided once, for the whole RoI, by the class branch.

# %% [markdown]
# **Normalizer.** Average over the points of a mask, then over the RoIs that count. These are the *positive* RoIs:
# background has no mask. **By hand:** two masks with losses 0.2 and 0.6, and a third place that is background:
# (0.2 + 0.6) / 2 = 0.4.
#
# The competing version is in the library too, `kind="softmax"`; there all channels have a gradient:

# %%
leaf = Tensor(four, requires_grad=True)
mask_loss(leaf, labels, np.stack([SQUARE_GT, SQUARE_GT]), valid, kind="softmax").backward()
assert all(abs(leaf.grad[0, :, :, c]).sum() > 0 for c in range(4))
PAPER = {"softmax": 24.8, "sigmoid": 30.3}  # He et al. 2017, table 2b: mask AP, ResNet-50-C4
assert round(PAPER["sigmoid"] - PAPER["softmax"], 1) == 5.5

# %% [markdown]
# ### Exercise 4: the mask loss
#
# Use `my_bce_with_logits` for each box that counts. Where none does, the loss is 0.


# %% exercise="mask_loss"
def my_mask_loss(logits, labels, targets, valid):
    """The mask loss of logits (R, M, M, C) for classes labels (R,), targets (R, M, M), over the boxes valid (R,)."""
    ### BEGIN SOLUTION
    total = 0.0
    for r in range(len(logits)):
        if valid[r]:
            total += my_bce_with_logits(logits[r, :, :, labels[r]], targets[r])
    return total / max(valid.sum(), 1)
    ### END SOLUTION


# %% check="mask_loss"
check.mask_loss(my_mask_loss)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 9 The class loss: cross-entropy of one out of C
#
# A RoI has exactly one class (or is background, class 0). So: softmax, and minus ln of the true class.
#
# **By hand.** Logits 1, 2, 0, 0, a cat (1): $e^z$ = 2.72, 7.39, 1, 1, sum 12.11. p = 7.39 / 12.11 = 0.61, loss
# -ln 0.61 = **0.494**. Gradient: p minus 1 at the true class, p elsewhere: **0.22, -0.39, 0.08, 0.08**.

# %%
logits, label = np.array([[1.0, 2, 0, 0]]), np.array([1])
e = np.exp(logits)
p = e / e.sum()
assert np.round(e, 2).tolist() == [[2.72, 7.39, 1, 1]] and round(e.sum(), 2) == 12.11
leaf = Tensor(logits, requires_grad=True)
loss = losses.class_loss(leaf, label, np.array([True]))
loss.backward()
assert round(loss.item(), 3) == round(-np.log(p[0, 1]), 3) == 0.494
np.testing.assert_allclose(leaf.grad, p - [[0, 1, 0, 0]], atol=1e-12)
assert leaf.grad.round(2).tolist() == [[0.22, -0.39, 0.08, 0.08]]

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3))
names = ["background", *class_names]
wanted = np.array([0, 1, 0, 0])
bars = left.bar(np.arange(4) - 0.2, p[0], 0.38, color=BLUE, label="said: p")
left.bar_label(bars, [f"{value:.2f}" for value in p[0]])
left.bar(np.arange(4) + 0.2, wanted, 0.38, color=ORANGE, label="wanted: t")
left.set(ylim=(0, 1.15), title="softmax")
left.legend()
bars = right.bar(np.arange(4), leaf.grad[0], 0.5, color=GREEN)
right.bar_label(bars, [f"{value:.2f}" for value in leaf.grad[0]], padding=2)
right.axhline(0, color="black")
right.set(ylim=(-0.6, 0.45), title="gradient: p - t")
for axes in (left, right):
    axes.set_xticks(range(4), names)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The same rule as for the mask, p minus t, now with a vector. The four numbers add up to 0: what one class gains
# the others lose. That is what "compete" means, and for the class of a RoI it is right.

# %% [markdown]
# **Normalizer:** the number of sampled RoIs, background included. Large logits break this formula too; the way out is
# to subtract the largest logit of the row first, which changes nothing: $e^{z - m} / \sum e^{z - m}$ has $e^{-m}$ above
# and below.

# %%
large = np.array([[0.0, 1000, 0, 0]])
with np.errstate(all="ignore"):
    assert np.isnan(np.exp(large) / np.exp(large).sum()).any()
shifted = large - large.max()
assert (np.exp(shifted) / np.exp(shifted).sum()).tolist() == [[0, 1, 0, 0]]

# %% [markdown]
# ### Exercise 5: the class loss


# %% exercise="class_loss"
def my_class_loss(logits, labels, sampled):
    """The mean cross-entropy of logits (R, C) for labels (R,), over the RoIs sampled (R,); 0 where none is."""
    ### BEGIN SOLUTION
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    each = -log_p[np.arange(len(labels)), labels]
    return (each * sampled).sum() / max(sampled.sum(), 1)
    ### END SOLUTION


# %% check="class_loss"
check.class_loss(my_class_loss)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 10 The box loss: smooth L1
#
# The head gives four numbers (notebook 09), whose error is d. A square near 0, a line further out (β = 1/9):
#
# $$\ell(d) = \frac{d^2}{2\beta} \;\text{ if } |d| < \beta, \quad \text{else } |d| - \frac{\beta}{2}, \qquad
# \ell'(d) = \mathrm{clip}(d / \beta, -1, 1)$$
#
# **By hand:** d = 0.1: 0.1² · 9/2 = **0.045**. d = 1: 1 - 1/18 = **0.944**.


# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
def smooth_l1(d, beta=1 / 9):
    return np.where(abs(d) < beta, d**2 / (2 * beta), abs(d) - beta / 2)


assert np.isclose(smooth_l1(0.1), 0.045) and round(float(smooth_l1(1.0)), 3) == 0.944
d = np.linspace(-1.5, 1.5, 601)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
for beta, color, style, name in ((1 / 9, BLUE, "-", "smooth L1, β = 1/9"), (1, GREEN, "--", "smooth L1, β = 1")):
    left.plot(d, smooth_l1(d, beta), style, color=color, linewidth=4, label=name)
    right.plot(d, np.clip(d / beta, -1, 1), style, color=color, linewidth=4)
left.plot(d, d**2 / 2 * 9, ":", color=RED, linewidth=3, label="square, 9 d² / 2")
right.plot(d, 9 * d, ":", color=RED, linewidth=3)
left.set(xlabel="error d", title="loss", ylim=(0, 1.6))
right.set(xlabel="error d", title="gradient", ylim=(-2.5, 2.5))
left.legend(fontsize=12, loc="upper center", framealpha=1)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The square alone pulls the harder the larger the error, without an end: one box that is far off, perhaps wrongly
# labeled, would outshout all others. The absolute value alone pulls with 1 even for the smallest error, so it shakes
# around the right value. Smooth L1 takes the good half of both. Beta says where they meet; 1/9 is the choice of Faster
# R-CNN's first code for the RPN, and with it nearly everything is L1. Its gradient is the error once more, said minus
# wanted, here times 9, and cut off at 1.

# %% [markdown]
# The gradient by hand: d = 0.1 gives 0.1 · 9 = 0.9, d = 1 gives 1, d = -0.05 gives -0.45.

# %%
leaf = Tensor(np.array([[[0.1, 1.0, -0.05, -2.0]]]), requires_grad=True)  # one image, one anchor, four deltas
one_anchor = np.ones((1, 1))
losses.rpn_box_loss(leaf, np.zeros((1, 1, 4)), one_anchor, one_anchor).backward()
np.testing.assert_allclose(leaf.grad, [[[0.9, 1.0, -0.45, -1.0]]])

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Divided by what? By the *sampled* RoIs, not by the positives
#
# Background has no box to learn. 64 RoIs are sampled of an image, of which P are positive, 1 to 16.
# Sum over P boxes, divided by **64**: each box weighs 1/64, like each class. Divided by **P**: 1/P.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9, 3.6))
P = np.arange(1, 17)
axes.plot(P, 1 / P, "o--", color=RED, linewidth=3, label="divided by the positives: 1/P")
axes.plot(P, np.full(16, 1 / 64), "o-", color=BLUE, linewidth=3, label="divided by the sampled: 1/64")
axes.annotate(
    "alone in its image: 64 times\nthe pull of its class", (1, 1), (2.5, 0.72), arrowprops=dict(arrowstyle="-")
)
axes.set(xlabel="P, positives among the 64 sampled RoIs of an image", ylabel="weight of one box", ylim=(0, 1.1))
axes.set_xticks([1, 4, 8, 12, 16])
axes.legend(loc="center right")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# L26 says that L is defined on each RoI: class loss plus, if it is an object, box loss. So both must be divided by the
# same number, that of the RoIs. Otherwise one lucky positive in an otherwise empty image would pull on its box as
# hard as sixteen in a full one. It also means: the box loss is small as long as few RoIs are positive. Keep that in
# mind for the next slide. (The mask loss is divided by the positives, as the paper defines it as an average; with
# a quarter of the RoIs positive it weighs four times what it would.)

# %% [markdown]
# **By hand.** One positive with errors 0.1, 1, 0, 0 and one background RoI, both sampled: (0.045 + 0.944) / 2 = 0.495.
# The four numbers of a box are added up, not averaged. The labels pick the deltas of the box's own class.

# %%
deltas = np.zeros((2, 16))  # 2 RoIs, 4 numbers for each of 4 classes
deltas[0, 4:8] = [0.1, 1, 0, 0]  # of class 1
deltas[1] = 5.0  # background: nobody looks
labels, positive, sampled = np.array([1, 0]), np.array([True, False]), np.array([True, True])
loss = losses.box_loss(Tensor(deltas), labels, np.zeros((2, 4)), positive, sampled)
assert np.isclose(loss.item(), (smooth_l1(0.1) + smooth_l1(1.0)) / 2) and round(loss.item(), 3) == 0.495

# %% [markdown]
# ### Exercise 6: the box loss


# %% exercise="box_loss"
def my_box_loss(deltas, targets, positive, sampled, beta):
    """Smooth L1 of deltas (R, 4) and targets (R, 4), summed over the positive (R,), divided by the sampled (R,)."""
    ### BEGIN SOLUTION
    size = abs(deltas - targets)
    each = np.where(size < beta, size**2 / (2 * beta), size - beta / 2).sum(axis=1)  # (R,)
    return (each * positive).sum() / max(sampled.sum(), 1)
    ### END SOLUTION


# %% check="box_loss"
check.box_loss(my_box_loss)

# %% [markdown] slideshow={"slide_type": "slide"}
# ### A misconception: "The box loss grows, so the training is broken"
#
# In section 1 it grew, from random weights to a trained model. Look at what is asked:


# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
def box_numbers(stages):
    """Positives, the box loss, and what it would be if the head left every proposal as it is (all deltas 0)."""
    positive, valid = stages["roi_positive"].reshape(-1), stages["roi_valid"].reshape(-1)
    labels, targets = stages["roi_labels"].reshape(-1), stages["box_targets"].reshape(-1, 4)
    own = stages["box_deltas"].reshape(len(labels), -1, 4)[np.arange(len(labels)), labels]
    return positive.sum(), *(my_box_loss(d, targets, positive, valid, 1 / 9) for d in (own, 0 * own))


rows = [box_numbers(stages_before), box_numbers(stages)]
assert np.isclose(rows[0][1], before["loss_box_reg"], atol=1e-4)
assert rows[1][0] > 1.5 * rows[0][0]  # more positives
assert rows[0][1] > 0.9 * rows[0][2] and rows[1][1] < 0.6 * rows[1][2]  # nothing gained; much gained
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.3), width_ratios=[1, 2])
left.bar([0, 1], [row[0] for row in rows], 0.5, color=[ORANGE, BLUE])
left.set_xticks([0, 1], ["random", "trained"])
left.set_title("positive RoIs of 512")
for place, (values, color, label) in enumerate(
    [([row[2] for row in rows], "lightgray", "boxes left as they are"), ([row[1] for row in rows], BLUE, "box loss")]
):
    bars = right.bar(np.arange(2) + 0.4 * place - 0.2, values, 0.38, color=color, label=label)
    right.bar_label(bars, [f"{value:.2f}" for value in values])
right.set_xticks([0, 1], ["random weights", "trained"])
right.set_title("the same RoIs without and with the head")
right.margins(y=0.2)
right.legend(loc="upper left")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# With random weights the proposals are so bad that the only positives are a few lucky ones and the true boxes, which
# are put among the RoIs (notebook 07), and for those the right answer is "leave it". Trained, the RPN proposes boxes
# that are nearly right, many count as positive, and each has something left to correct. The question has become
# harder; the head answers most of it. So compare a loss only with losses that answer the same question.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 11 All five, and what each is divided by
#
# | loss | of | divided by |
# |---|---|---|
# | object or not (RPN) | binary cross-entropy | sampled anchors |
# | box (RPN) | smooth L1, positives | sampled anchors |
# | class | cross-entropy | sampled RoIs |
# | box | smooth L1, positives | sampled RoIs |
# | mask | binary cross-entropy, own class | positive RoIs x 784 |

# %% [markdown] slideshow={"slide_type": "notes"}
# The RPN's two are the same two formulas again, for anchors instead of RoIs. Learn the table by its last column:
# that is where implementations differ, and where results that cannot be reproduced come from. (A model with keypoints
# has a sixth: cross-entropy over the 3136 places of a map, divided by the visible keypoints, notebook 15.)

# %% [markdown]
# **The RPN's two by hand.** Three anchors with logits 0, the third not sampled: (ln 2 + ln 2) / 2 = 0.693. One positive
# anchor of two sampled ones with errors 0.1, 1, 0, 0: again (0.045 + 0.944) / 2 = 0.495.

# %%
loss = losses.objectness_loss(Tensor(np.zeros((1, 3))), np.array([[1, 0, 1]]), np.array([[1, 1, 0]]))
assert np.isclose(loss.item(), np.log(2))
errors = np.array([[[0.1, 1, 0, 0], [5, 5, 5, 5.0]]])  # the second anchor is background
loss = losses.rpn_box_loss(Tensor(errors), 0 * errors, np.array([[1, 0]]), np.array([[1, 1]]))
assert round(loss.item(), 3) == 0.495

# %% [markdown]
# Now with the numbers of a real step. The trained model's pass over the eight scenes was kept, stage by stage. Your
# functions must give the five losses that the model gave:

# %%
image = np.arange(8)[:, None]
at = image, stages["rpn_sampled"]  # the sampled anchors of each image
valid, positive = stages["rpn_valid"], stages["rpn_positive"]
deltas, targets = stages["rpn_deltas"][at], stages["rpn_targets"]  # (8, 128, 4)
mine = {"loss_objectness": my_bce_with_logits(stages["objectness"][at][valid], positive[valid])}
mine["loss_rpn_box_reg"] = my_box_loss(
    *(a.reshape(-1, *a.shape[2:]) for a in (deltas, targets, positive, valid)), 1 / 9
)

labels, positive, valid = (stages[f"roi_{name}"].reshape(-1) for name in ("labels", "positive", "valid"))
mine["loss_classifier"] = my_class_loss(stages["class_logits"], labels, valid)
own = stages["box_deltas"].reshape(-1, 4, 4)[np.arange(len(labels)), labels]
mine["loss_box_reg"] = my_box_loss(own, stages["box_targets"].reshape(-1, 4), positive, valid, 1 / 9)

first = np.flatnonzero(stages["roi_positive"][:, :16])  # positives stand in the first places
targets = stages["mask_targets"].reshape(-1, 28, 28)[first]
labels = stages["roi_labels"][:, :16].reshape(-1)[first]
mine["loss_mask"] = my_mask_loss(stages["mask_logits"].astype(float), labels, targets, np.ones(len(first), bool))
for name, what in NAMES.items():
    print(f"{what:14} mine {mine[name]:.6f}   the model's {after[name]:.6f}")
    assert np.isclose(mine[name], after[name], rtol=1e-4, atol=1e-6)

# %% [markdown]
# ### The same numbers as PyTorch
#
# PyTorch is the library that most detectors are trained with. What its three functions give for these inputs was
# written down once; a test computes them again where it is installed.

# %%
LOGITS = [2.0, -1.0, 0.5, 0.0, -3.0, 1.5, 8.0, -0.25]
WANTED = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.5]  # for binary cross-entropy
LABELS = [1, 2]  # for cross-entropy of the logits as two rows of four
ERRORS = [0.1, 1.0, -0.05, -2.0]  # for smooth L1, beta = 1/9, summed
TORCH = {
    "binary_cross_entropy_with_logits": 0.5073361992835999,
    "cross_entropy": 1.6720646619796753,
    "smooth_l1_loss": 2.945138931274414,
}
z, t, errors = np.array(LOGITS), np.array(WANTED), np.array([ERRORS])
yes = np.array([True])
ours = {
    "binary_cross_entropy_with_logits": my_bce_with_logits(z, t),
    "cross_entropy": my_class_loss(z.reshape(2, 4), np.array(LABELS), np.array([True, True])),
    "smooth_l1_loss": my_box_loss(errors, 0 * errors, yes, yes, 1 / 9),
}
for name, theirs in TORCH.items():
    print(f"{name:33} ours {ours[name]:.6f}   torch {theirs:.6f}")
    assert abs(ours[name] - theirs) < 1e-6

# %% [markdown]
# ## 12 Common misconceptions
#
# ### "A lower loss is a better mask"
#
# A mask is what lies above 0.5. Here is one that is perfect and has the higher loss: it is right everywhere, but says
# only 0.6. The other one is moved by 1, and sure.

# %%
timid, sure = moved_prediction(0, 0.6), moved_prediction(1, 0.95)


def mask_iou(prediction):
    """Intersection over union of the mask, where at least 0.5 is predicted, and the rectangle."""
    found, truth = prediction >= 0.5, SQUARE_GT == 1
    return (found & truth).sum() / (found | truth).sum()


for name, prediction in (("timid, in place", timid), ("sure, moved by 1", sure)):
    print(f"{name:17} loss {my_bce(prediction, SQUARE_GT):.3f}   IoU {mask_iou(prediction):.2f}")
assert my_bce(timid, SQUARE_GT) > 2 * my_bce(sure, SQUARE_GT) and mask_iou(timid) == 1 > 0.9 > mask_iou(sure)

# %% [markdown]
# ### "A loss of 0.69 is a good start, it is below 1"
#
# Answering 0.5 everywhere, without having looked, gives ln 2 = 0.693 for *any* target: what knowing nothing costs.

# %%
for share in (0.0, 0.36, 1.0):
    target = (np.random.default_rng(0).random((28, 28)) < share).astype(float)
    assert np.isclose(my_bce(np.full((28, 28), 0.5), target), np.log(2))
share = SQUARE_GT.mean()  # who knows that 36 % are object, and nothing else, does a little better
assert round(share, 2) == 0.36 and 0.6 < my_bce(np.full((28, 28), share), SQUARE_GT) < 0.66

# %% [markdown]
# ### "A soft target makes the loss 0 when it is met"
#
# A cell at the edge that is half inside has t = 0.5. Predicting exactly 0.5 is right and costs ln 2. What is 0 there is
# the gradient. So the mask loss of a perfect network is not 0.

# %%
half = np.full((28, 28), 0.5)
assert np.isclose(my_bce(half, half), np.log(2)) and not my_bce_gradient(np.zeros((28, 28)), half).any()
least = my_bce(np.clip(M_gt, 0, 1), M_gt.astype(float))
print(f"the least that the mask of section 2 can cost: {least:.3f}; it costs {at_each_point.mean():.3f}")
assert 0.01 < least < at_each_point.mean()

# %% [markdown]
# ### "Clipping p to [1e-7, 1 - 1e-7] is as good as the logit form"
#
# It is finite, but where it clips it is flat: the gradient is 0. Who is surest and most wrong learns nothing any more.


# %%
def clipped(z):
    """The loss of a background point with a clipped probability."""
    return -np.log(1 - np.clip(sigmoid_array(z), 1e-7, 1 - 1e-7))


z = np.array([30.0])
slope = (clipped(z + 1e-3) - clipped(z - 1e-3)) / 2e-3
print(f"z = 30, background: slope of the clipped loss {slope[0]:.3f}, of the logit form {my_bce_gradient(z, 0 * z)[0]}")
assert slope[0] == 0 and np.isclose(my_bce_gradient(z, 0 * z)[0], 1)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Recap
#
# 1. L = Lcls + Lreg + Lmask (+ the RPN's two): one number that every nudge changes.
# 2. The mask loss is the average binary cross-entropy over 28 x 28 points of the box's own class.
# 3. Compute it from logits: max(z, 0) - zt + ln(1 + e^-|z|). From probabilities it breaks at z = 17.
# 4. Its gradient is p - t, as is the class loss's. Smooth L1's is the error too: times 9, cut off at 1.
# 5. The last column matters: sampled anchors, sampled RoIs, positive RoIs x 784.

# %% [markdown]
# ## Quiz
#
# 1. What does a point with target 1 and prediction 0.7 pay, and what is the gradient of its logit (N = 1)?
# 2. What is N in L28, and why does the loss not depend on how large the animal is in the picture?
# 3. A prediction is 0.5 everywhere. What is its mask loss, for which target?
# 4. Why must the sigmoid and the logarithm not be computed one after the other?
# 5. Why is the squared error of a probability slow where the network is most wrong?
# 6. A RoI is a dog. Which of the 4 x 784 mask logits have a gradient?
# 7. Sampled are 64 RoIs, 16 of them positive. By what are the sums of class, box and mask loss divided?
# 8. An error of a box number is 0.2, β = 1/9. What does it cost, and what is its gradient?
# 9. In a batch there is no object at all. Which losses are 0, and why not NaN?
# 10. Your box loss grows from 0.1 to 0.4 in the first hundred steps. What do you look at before you worry?
#
# <details><summary>Answers</summary>
#
# 1. -ln 0.7 = 0.357; 0.7 - 1 = -0.3.
# 2. 28 x 28 = 784, the points of the predicted map: each box is cut out and resized to that.
# 3. ln 2 = 0.693, for any.
# 4. The sigmoid is rounded to 1 (in float32 from z = 17 on), and ln(1 - 1) is minus infinity.
# 5. Its gradient has the factor p (1 - p), which is nearly 0 where p is nearly 0 or 1.
# 6. The 784 of the dog's channel.
# 7. 64, 64, and 16 x 784.
# 8. 0.2 is beyond β: 0.2 - 1/18 = 0.144; the gradient is 1.
# 9. Both box losses and the mask loss: their sums are empty, and the normalizer is at least 1.
# 10. How many RoIs are positive: the loss is divided by the sampled ones, so it grows with the positives.
#
# </details>
