# ---
# jupyter:
#   time_limit: 180
# ---

# %% [markdown] slideshow={"slide_type": "slide"}
# # 17 Your own data
#
# **Question.** You have photos of your own, and things in them that no trained model knows. **How do you get from a
# folder of photos to a model that finds them?**
#
# photos + annotations → check → split → start from trained weights → measure → look

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecture:* everything here is done on drawn scenes, so that it runs in a minute anywhere. We pretend that they
# are photos: they lie in a folder, with a COCO file beside them, and from then on nothing knows that they were
# drawn. Ask who in the room has photos to try: cells, leaves, parts, birds.

# %%
import contextlib
import copy
import io
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from minimask import check, draw, mask_rcnn, presets, weights
from minimask.__main__ import main
from minimask.datasets.augmentation import flip, turn
from minimask.datasets.coco import CocoDataset, split, to_coco
from minimask.datasets.loader import InMemory, Loader
from minimask.datasets.photos import read_image
from minimask.datasets.segmentation import decode_segmentation
from minimask.datasets.toy import ToyScenes
from minimask.errors import InputError
from minimask.evaluate import evaluate
from minimask.run.predict import predict_files
from minimask.train import TrainSettings, fit

plt.rcParams.update({"figure.figsize": (9, 4.5), "figure.dpi": 100, "font.size": 14})
plt.rcParams["figure.constrained_layout.use"] = True
ORANGE, SKY, RED, BLUE, GREEN = draw.COLORS[[0, 1, 2, 4, 6]] / 255
TEMPORARY = tempfile.TemporaryDirectory()  # deleted at the end
FOLDER = Path(TEMPORARY.name)

# %% [markdown]
# **Words of this notebook**
#
# - *Annotation*: what a person said about one object: its class, its outline.
# - *COCO file*: one json file with the annotations of a folder of photos. Most tools for annotating can write it.
# - *Polygon*: an outline as corners x, y. *RLE*, run-length encoding: a mask as lengths of runs of 0 and of 1.
# - *Crowd*: a region with many objects that nobody drew one by one.
# - *Head*: a last layer of the model that depends on the classes. *Fine-tuning*: to train on, from trained weights.
# - *Split*: photos to train on, and others, never trained on, for *validation*. *AP*: notebook 14. *Loss*: notebook 11.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 1 Photos and one json file
#
# ```
# photos/photo_000.png, photo_001.png, ...
# all.json
#   "images":      [{"id": 0, "file_name": "photo_000.png"}, ...]
#   "categories":  [{"id": 7, "name": "four legs"}, {"id": 9, "name": "bird"}]
#   "annotations": [{"image_id": 0, "category_id": 7, "iscrowd": 0,
#                    "bbox": [x, y, width, height], "segmentation": ...}, ...]
# ```
#
# Two new classes: *four legs* (a cat or a dog) and *bird* (a duck). Ids may be any integers.

# %%
scenes = ToyScenes("train", seed=17, count=60)
(FOLDER / "photos").mkdir()
coco = to_coco(scenes)  # a COCO dict of any data set
coco["categories"] = [{"id": 7, "name": "four legs"}, {"id": 9, "name": "bird"}]
for image in coco["images"]:
    image["file_name"] = f"photo_{image['id']:03d}.png"
    Image.fromarray(scenes[image["id"]].image).save(FOLDER / "photos" / image["file_name"])
for annotation in coco["annotations"]:
    annotation["category_id"] = {1: 7, 2: 7, 3: 9}[annotation["category_id"]]  # cat, dog, duck
    del annotation["keypoints"], annotation["num_keypoints"]
(FOLDER / "all.json").write_text(json.dumps(coco))

print(len(coco["images"]), "photos,", len(coco["annotations"]), "objects; one of them:")
print({**coco["annotations"][0], "segmentation": {"size": [128, 128], "counts": "..."}})

# %% [markdown] slideshow={"slide_type": "slide"}
# ### First of all: draw it

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
dataset = CocoDataset(FOLDER / "photos", FOLDER / "all.json")
pictures = [draw.draw_sample(dataset[i], dataset.class_names, caption=False, side=400) for i in (1, 11, 15)]
figure, panels = plt.subplots(1, 3, figsize=(10, 3.5))
for axes, picture, i in zip(panels, pictures, (1, 11, 15)):
    axes.imshow(picture)
    axes.set(xticks=[], yticks=[], title=dataset.images[i]["file_name"])
plt.show()
assert dataset.class_names == ("four legs", "bird") and dataset.category_ids == (7, 9)  # labels 1 and 2

# %% [markdown] slideshow={"slide_type": "notes"}
# The first thing to do with any data set is this picture. A wrong file shows here in a second: boxes moved by half an
# object, masks mirrored, names exchanged. In the file a label is a category's id; the model's labels are 1, 2, ... in
# the order of the ids, and 0 is the background.

# %% [markdown]
# COCO's box is `x, y, width, height`; the model's is `x1, y1, x2, y2`. To mix them up is the commonest error of all.
#
# ### Exercise 1: boxes for COCO


# %% exercise="coco_boxes"
def my_coco_boxes(boxes):
    """Boxes (N, 4) x1, y1, x2, y2 as COCO writes them: (N, 4) x, y, width, height."""
    ### BEGIN SOLUTION
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    ### END SOLUTION


# %% check="coco_boxes"
check.coco_boxes(my_coco_boxes)

# %%
of_first = [a["bbox"] for a in coco["annotations"] if a["image_id"] == 0]
np.testing.assert_allclose(my_coco_boxes(dataset[0].boxes), of_first)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 An outline in three ways
#
# | | `"segmentation"` | good for |
# |---|---|---|
# | polygons | `[[x1, y1, x2, y2, x3, y3, ...], ...]` | drawn by hand; several pieces are several lists |
# | RLE | `{"size": [h, w], "counts": [4, 2, 6]}` | exact masks, holes |
# | compressed RLE | `{"size": [h, w], "counts": "..."}` | the same, shorter |

# %% [markdown]
# **By hand.** RLE goes **down the columns**, and begins with how many *zeros* there are. A mask of 3 rows and 4 columns
# with ones in column 1, rows 1 and 2: column 0 has 3 zeros, column 1 one more, so **4** zeros, **2** ones, then **6**
# zeros. They add up to 12 = 3 · 4.
#
# A polygon's area: add up $x_i y_{i+1} - x_{i+1} y_i$ around it, halve it, drop the sign. For the corners (0, 0),
# (4, 0), (0, 3): 0 + 12 + 0, so 6, which is half of 4 · 3.

# %%
block = decode_segmentation({"size": [3, 4], "counts": [4, 2, 6]}, 3, 4)
print(block)
assert block[1:, 1].tolist() == [1, 1] and block.sum() == 2

# %% [markdown]
# ### Exercise 2: run lengths


# %% exercise="rle_counts"
def my_rle_counts(mask):
    """The lengths of the runs of mask (H, W) bool, down the columns, that of zeros first, maybe 0: integers."""
    ### BEGIN SOLUTION
    counts, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return np.array(counts)
    ### END SOLUTION


# %% check="rle_counts"
check.rle_counts(my_rle_counts)

# %% [markdown]
# ### Exercise 3: the area of a polygon


# %% exercise="polygon_area"
def my_polygon_area(polygon):
    """The area inside a polygon, given as in COCO: one array x1, y1, x2, y2, ... of its corners."""
    ### BEGIN SOLUTION
    x, y = polygon[0::2], polygon[1::2]
    return abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
    ### END SOLUTION


# %% check="polygon_area"
check.polygon_area(my_polygon_area)

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
kite = [30.0, 8, 52, 40, 30, 56, 8, 40]
kite_mask = decode_segmentation([kite], 64, 64)
assert abs(kite_mask.sum() - my_polygon_area(np.array(kite))) < 0.05 * kite_mask.sum()
mask = dataset[1].masks[0].astype(bool)
counts = my_rle_counts(mask)
assert (decode_segmentation({"size": [128, 128], "counts": counts.tolist()}, 128, 128) == mask).all()
text = next(a for a in coco["annotations"] if a["image_id"] == 1)["segmentation"]["counts"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8))
left.imshow(kite_mask, cmap="Blues", vmax=1.5, extent=(0, 64, 64, 0))
left.plot(*np.reshape(kite + kite[:2], (-1, 2)).T, "o-", color=ORANGE, linewidth=3)
left.set(title=f"polygon: 8 numbers, area {my_polygon_area(np.array(kite)):.0f}", xlim=(0, 64), ylim=(64, 0))
right.imshow(mask, cmap="Blues", vmax=1.5)
right.set_title(f"a mask: {mask.size} pixels,\n{len(counts)} runs, {len(text)} characters")
right.set(xticks=[], yticks=[])
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# For annotating by hand polygons are enough. How many corners? As many as it takes for the outline to be within a pixel
# or two of the edge at the size at which the network sees the photo; more is lost work.

# %% [markdown]
# How many corners does an animal take? Choose, and see how much of the mask the polygon keeps (IoU, notebook 14):


# %% widget=True
outline = max(plt.contour(np.arange(128) + 0.5, np.arange(128) + 0.5, mask, [0.5]).allsegs[0], key=len)  # (points, 2)
plt.close()


def with_corners(count):
    """A polygon with `count` corners, evenly spread along the outline, and the mask inside of it."""
    corners = outline[np.arange(count) * len(outline) // count]
    return corners, decode_segmentation([corners.ravel().tolist()], 128, 128).astype(bool)


def draw_corners(axes, count):
    """The mask, and its polygon."""
    corners, inside = with_corners(count)
    axes.imshow(mask, cmap="Blues", vmax=1.5, extent=(0, 128, 128, 0))
    axes.plot(*np.concatenate([corners, corners[:1]]).T, "o-", color=ORANGE, linewidth=3)
    axes.set(xticks=[], yticks=[], xlim=outline[:, 0].min() + [-4, np.ptp(outline[:, 0]) + 4])
    axes.set_ylim(outline[:, 1].max() + 4, outline[:, 1].min() - 4)
    axes.set_title(f"{count} corners: IoU {(inside & mask).sum() / (inside | mask).sum():.2f}")


def corners(count=12):
    """One figure for one position of the slider."""
    draw_corners(plt.subplots(figsize=(5, 4.5))[1], count)
    plt.show()


try:
    from ipywidgets import IntSlider, interact

    interact(corners, count=IntSlider(12, 3, 60))
except ImportError:  # no widgets installed
    corners()

# %% [markdown]
# Without a slider, three positions:

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 3, figsize=(11, 3.8))
for axes, count in zip(panels, (5, 12, 40)):
    draw_corners(axes, count)
kept = [(with_corners(n)[1] & mask).sum() / (with_corners(n)[1] | mask).sum() for n in (5, 12, 40)]
assert kept[0] < kept[1] < kept[2] and kept[2] > 0.8
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 What errors look like
#
# The whole file is checked when it is opened. The first thing that cannot be used is **named**: file, id, what was
# found. Better a message now than a model that learns nonsense for an hour.
#
# - annotation 1 **has no segmentation**; masks cannot be learned from boxes alone
# - annotation 1 **has a polygon of 2 points**; it takes at least 3
# - annotation 1 **is of category 8**, which is not among the categories

# %%
breaks = {
    "no outline": lambda c: c["annotations"][0].pop("segmentation"),
    "a polygon of two points": lambda c: c["annotations"][0].update(segmentation=[[5, 5, 9, 9]]),
    "a mask of another size": lambda c: c["annotations"][0]["segmentation"].update(size=[64, 64]),
    "an unknown class": lambda c: c["annotations"][0].update(category_id=8),
    "a box outside": lambda c: c["annotations"][0].update(bbox=[500, 500, 10, 10]),
    "a photo that is missing": lambda c: c["images"][0].update(file_name="holiday.png"),
}
for what, spoil in breaks.items():
    spoiled = copy.deepcopy(coco)
    spoil(spoiled)
    try:
        CocoDataset(FOLDER / "photos", spoiled)
        raise AssertionError(f"{what} was not noticed")
    except InputError as error:
        print(f"{what}:\n    {str(error).replace(str(FOLDER), '.')}")

# %% [markdown]
# What is **not** an error: a photo without annotations (it is trained as background: if there are objects in it that
# nobody drew, the network learns *not* to find them), and a *crowd*. A crowd is neither object nor background: what
# lies in it is not trained at all, and not counted in measuring.

# %%
crowded = copy.deepcopy(coco)
crowded["annotations"][0].update(iscrowd=1, segmentation=[kite])
crowded["annotations"][0].pop("bbox")  # then the box is that of the outline
sample = CocoDataset(FOLDER / "photos", crowded)[0]
assert sample.crowd[0] and not sample.crowd[1:].any()
assert sample.boxes[0].tolist() == [8, 8, 52, 56]

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 Split: never measure on what was trained on
#
# - Every third photo, by file name, is for validation: `split(coco, every=3)`.
# - Photos that are **alike** (one film, one place, one patient) belong on **one side**. Else the model is asked what it
#   has seen, and the number is a lie.

# %%
train_part, val_part = split(coco, every=3)
train_set, val_set = (CocoDataset(FOLDER / "photos", part) for part in (train_part, val_part))
names = [{image["file_name"] for image in part["images"]} for part in (train_part, val_part)]
print(f"{len(train_set)} photos to train on, {len(val_set)} for validation")
assert not names[0] & names[1] and len(names[0] | names[1]) == 60

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(10, 2.6))
for row, (title, side_of) in enumerate({
    "every third photo": lambda i: i % 3 == 0, "every third film": lambda i: i // 4 % 3 == 0
}.items()):  # fmt: skip
    for i in range(24):
        color = ORANGE if side_of(i) else SKY
        axes.add_patch(plt.Rectangle((i + i // 4 * 0.5, -1.4 * row), 0.9, 0.9, color=color))
    axes.text(-0.4, 0.45 - 1.4 * row, title, ha="right", va="center")
axes.text(0, 1.15, "24 photos of six films; blue: to train on, orange: for validation")
axes.set(xlim=(-6, 27), ylim=(-1.5, 1.8))
axes.axis("off")
plt.show()

# %% [markdown]
# ### Exercise 4: a split by groups


# %% exercise="split_by_group"
def my_split_by_group(groups, every):
    """Which photos are for validation, (N,) bool; groups (N,): the place of each. Of the places in rising order, those
    at 0, every, 2 every, ... are chosen, each with all of its photos.
    """
    ### BEGIN SOLUTION
    places = np.unique(groups)  # sorted
    return np.isin(groups, places[::every])
    ### END SOLUTION


# %% check="split_by_group"
check.split_by_group(my_split_by_group)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 Start from trained weights, with new heads
#
# What finds edges, fur and eyes does not depend on the classes. So:
#
# - **keep** backbone, pyramid, RPN, and the heads up to their last layers;
# - **replace** the layers that have one output a class.
#
# `weights.load_into(model, path, replace_heads=True)`


# %%
def new_model():
    """The toy model for our two classes (and the background), with the shipped weights and new heads."""
    model = mask_rcnn.build("toy", classes=dataset.class_names)
    model.name_classes(dataset.class_names, dataset.category_ids)
    return model, weights.load_into(model, weights.toy_weights(), replace_heads=True)


model, report = new_model()
print(report)
assert all("box_predictor" in name or "mask_predictor" in name for name in report.replaced)
assert not report.missing and not report.misfit and all("keypoint" in name for name in report.skipped)


def ap50(model):
    """AP50 of boxes and of masks on the photos for validation, 0 to 100."""
    scores = evaluate(model.eval(), val_set, progress=False)
    return [100 * scores[kind]["AP50"] for kind in ("bbox", "segm")]


before = ap50(model)
print("before: AP50 of boxes {:.0f}, of masks {:.0f}".format(*before))
assert max(before) < 25  # new heads know nothing

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
PARTS = {"ResNet": "backbone.body", "pyramid": "backbone.fpn", "RPN": "rpn", "box head": "roi_heads.box_",
         "mask head": "roi_heads.mask_"}  # fmt: skip
state = {name: array.size for name, array in weights.to_torchvision(model.state_dict()).items()}
figure, axes = plt.subplots(figsize=(10, 3))
for row, start in enumerate(PARTS.values()):
    total = sum(size for name, size in state.items() if name.startswith(start))
    new = sum(state[name] for name in report.replaced if name.startswith(start))
    axes.barh(row, total, color=ORANGE if new else BLUE)
    axes.text(total + 15_000, row, f"{total - new:,} kept" + (f", {new:,} new" if new else ""), va="center")
axes.set_yticks(range(5), PARTS)
axes.invert_yaxis()
axes.set(xlabel="numbers in the model", xlim=(0, 1_900_000), xticks=[])
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The report says what became of each array. "new" are the heads; "skipped" is the keypoint branch, which our data has
# no use for. On real photos the file would be weights trained on COCO (notebook 18), not these; the line is the same.

# %% [markdown]
# Now fine-tune: 40 steps of 4 photos, so each of the 40 photos is seen four times. Three runs, to learn something:
#
# 1. from the shipped weights, on 40 photos;
# 2. from the shipped weights, on only 5 of them;
# 3. from random weights, on 40 photos.

# %%
STEPS = 40


def fine_tune(model, data, name):
    """Train for STEPS steps; the log lies in the folder `name`."""
    settings = TrainSettings(steps=STEPS, learning_rate=1e-3, schedule="cosine", warm_up=5)
    loader = Loader(InMemory(data), model.transform, batch_size=4)  # shuffled, every second one mirrored
    info = {"class_names": list(data.class_names), "category_ids": list(data.category_ids)}
    fit(model.train(), loader, settings, FOLDER / name, info, progress=False)
    return ap50(model)


five = CocoDataset(FOLDER / "photos", train_part, image_ids=[image["id"] for image in train_part["images"][:5]])
scores = {"before": before, "40 photos": fine_tune(model, train_set, "run")}
fives_model, _ = new_model()
scores["5 photos"] = fine_tune(fives_model, five, "run_5")
scores["40 photos,\nrandom start"] = fine_tune(mask_rcnn.build("toy", num_classes=3), train_set, "run_random")
for name, values in scores.items():
    print(f"{name.replace(chr(10), ' '):24} AP50 boxes {values[0]:5.1f}, masks {values[1]:5.1f}")
assert min(scores["40 photos"]) > 50 > 2 * max(scores["40 photos,\nrandom start"])

# %% [markdown] slideshow={"slide_type": "slide"}
# ### A start from trained weights is worth more than photos

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9, 4.3))
for shift, (kind, color) in enumerate((("boxes", SKY), ("masks", BLUE))):
    values = [pair[shift] for pair in scores.values()]
    axes.bar_label(axes.bar(np.arange(4) + 0.38 * shift, values, 0.36, color=color, label=kind), fmt="%.0f")
axes.set_xticks(np.arange(4) + 0.19, list(scores))
axes.set(ylabel="AP50 on photos not trained on", ylim=(0, 110), title=f"{STEPS} steps of 4 photos")
axes.legend()
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Be honest about the second bar. Five photos are enough here because the network had seen thousands of such drawings,
# and cats, dogs and ducks at that; only the names are new. And 20 photos for validation make a number that another 20
# photos would move by several points. The last bar is the same network and the same steps from random weights: nothing.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 How many photos?
#
# Nobody knows in advance; **measure it**: train on a quarter, a half, all. Still rising? More photos will help.
#
# | what is new | photos to begin with |
# |---|---|
# | names only: things the network knows | 5 to 50 |
# | things, in ordinary photos | 50 to 500 |
# | another kind of picture (microscope, X-ray) | 200 to thousands |

# %% [markdown]
# These are rules of thumb, not results; they depend on how much the objects vary. What counts besides the number:
# *variety* (100 photos of one afternoon are one photo), *every* object in a photo annotated, photos like those that
# the model will be used on, and at least 30 objects of each class for validation, or the numbers mean little.
#
# How little? The AP of 20 photos is a sample. Evaluate the same model on two halves of the validation photos:

# %%
halves = [evaluate(model, val_set, progress=False, indices=range(i, 20, 2))["bbox"]["AP"] for i in (0, 1)]
print("the same model, AP of boxes on two times ten photos: {:.3f} and {:.3f}".format(*halves))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 Augmentation: more from the same photos
#
# Change a photo so that the answer is still known, and only as the world does:
#
# - `flip` (on by default): most things, but not text, not left and right hands;
# - `turns`: pictures without a top, from a microscope or from above;
# - `scale_jitter`: things at other distances.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
sample = train_set[3]
figure, panels = plt.subplots(1, 3, figsize=(10, 3.5))
versions = {"as it is": sample, "flip": flip(sample), "turn": turn(sample)}
for axes, (name, version) in zip(panels, versions.items()):
    axes.imshow(draw.draw_sample(version, dataset.class_names, caption=False, side=400))
    axes.set(xticks=[], yticks=[], title=name)
    for mask, box in zip(version.masks, version.boxes):  # masks and boxes go along
        x = np.flatnonzero(mask.any(axis=0))
        assert (x[0], x[-1] + 1) == (box[0], box[2])
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 Find them in a photo
#
# `predict_files(model, photos, folder)` writes, for each photo, a picture and a json with the objects' names.

# %%
photo = FOLDER / "photos" / sorted(names[1])[5]
written = predict_files(model, [photo], FOLDER / "found")
record = json.loads(written[0][2].read_text())
for one in record["detections"]:
    print(f"{one['name']:10} {one['score']:.2f}  box {np.round(one['box']).tolist()}")
assert record["detections"]

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
number = next(i for i, image in enumerate(val_set.images) if image["file_name"] == photo.name)
truth = draw.draw_sample(val_set[number], dataset.class_names, caption=False, side=512)
figure, panels = plt.subplots(1, 2, figsize=(9, 4.5))
for axes, picture, name in zip(panels, (truth, read_image(written[0][1])), ("the truth", "found")):
    axes.imshow(picture)
    axes.set(xticks=[], yticks=[], title=name)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Look for what is wrong, not for what is right: an animal found twice, a mask that stops too early. After 40 steps
# there is some of each. A longer training would mend most of it; try 500 steps.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 9 The same as command lines
#
# ```
# python -m minimask split all.json --every 3
# python -m minimask train --images photos \
#     --annotations all_train.json --weights data/toy_weights.npz \
#     --new-heads --steps 40 --output runs/mine
# python -m minimask evaluate --weights runs/mine \
#     --images photos --annotations all_val.json
# python -m minimask predict holiday.jpg --weights runs/mine
# ```

# %% [markdown]
# The keypoint branch of the shipped weights is left out, for our data has no answers for it (`--keypoints` would keep
# it). Here the same lines with two steps only, called from Python:

# %%
photos, mine = str(FOLDER / "photos"), str(FOLDER / "mine")
start = ["--weights", str(weights.toy_weights()), "--new-heads", "--steps", "2", "--output", mine]
commands = [
    ["split", str(FOLDER / "all.json"), "--every", "3"],
    ["train", "--images", photos, "--annotations", str(FOLDER / "all_train.json"), *start],
    ["predict", str(photo), "--weights", mine, "--output", str(FOLDER / "found_again")],
]
for command in commands:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(command) == 0
    print("done:", command[0])
assert (FOLDER / "all_val.json").exists() and (FOLDER / "found_again" / f"{photo.stem}.png").exists()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 10 When it fails, look here, in this order
#
# 1. **Draw the ground truth** (`draw.draw_sample`): most failures are in the file.
# 2. **Train on 4 photos, test on the same 4.** If that fails, it is not for want of photos.
# 3. **Which part of the loss stays high?** objectness: sizes of anchors; classifier: names; mask: outlines.
# 4. **Loss falls, validation AP does not**: too few or too similar photos, or a wrong split.
# 5. **Look at what was found**, at a low score: missed, doubled, wrong name, bad edge?

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
curves = draw.loss_curves(draw.read_log(FOLDER / "run" / "log.jsonl"))
figure, axes = plt.subplots(figsize=(9, 3.6))
colors = dict(zip([name for name in curves if name.startswith("loss_")], (RED, GREEN, ORANGE, SKY, BLUE)))
for name, color in colors.items():
    steps, values = curves[name]
    label = name.removeprefix("loss_").replace("_", " ")
    axes.plot(steps, draw.smoothed(values, 0.8), color=color, linewidth=3, label=label)
axes.set(xlabel="step", ylabel="loss, smoothed", ylim=(0, None))
axes.legend(ncols=2)
steps, values = curves["loss"]
assert np.mean(values[-8:]) < np.mean(values[:8])
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# The losses of mask and classifier start high and fall fast: their last layers are the new ones. Objectness was low
# from the start, for the RPN does not depend on the classes. In a run of your own, a part that does not move tells
# where to look.

# %% [markdown]
# Are the anchors of the right size? An anchor is a first guess of a box (notebook 05). If your objects are much smaller
# or larger than all anchors, the RPN has nothing to begin with:

# %%
sides = np.concatenate([np.sqrt((s.boxes[:, 2:] - s.boxes[:, :2]).prod(axis=1)) for s in train_set])
anchors = np.array(presets.PRESETS["toy"]["rpn"]["anchor_sizes"]).ravel()
print(f"objects: {np.percentile(sides, [5, 50, 95]).round()} pixels (5 %, half, 95 %); anchors: {anchors}")
assert anchors[0] / 2 < np.percentile(sides, 5) and np.percentile(sides, 95) < 2 * anchors[-1]

# %% [markdown]
# ## 11 Common misconceptions
#
# ### "The box in the file is x1, y1, x2, y2"
#
# If you write corners where COCO has width and height, nothing fails: the boxes are only too large, and the model
# learns them.

# %%
corners = copy.deepcopy(val_part)
for annotation in corners["annotations"]:
    x, y, w, h = annotation["bbox"]
    annotation["bbox"] = [x, y, x + w, y + h]
spoiled = CocoDataset(FOLDER / "photos", corners)
areas = [np.concatenate([(s.boxes[:, 2:] - s.boxes[:, :2]).prod(axis=1) for s in data]) for data in (val_set, spoiled)]
print(f"boxes are {np.median(areas[1] / areas[0]):.1f} times as large in the median")
assert np.median(areas[1] / areas[0]) > 1.5

# %% [markdown]
# ### "It works: the AP on my photos is high"
#
# On which photos? The run with 5 photos, asked on its own 5 and on the others:

# %%
on_five = [100 * evaluate(fives_model, data, progress=False)["segm"]["AP"] for data in (five, val_set)]
print("AP of masks: {:.0f} on the five photos it was trained on, {:.0f} on others".format(*on_five))
assert on_five[0] > on_five[1]

# %% [markdown]
# ### "I left the small ones out, they only disturb"
#
# An object without an annotation is background, and the network is punished for finding it. Leave out every bird of the
# file: what a bird's place is then worth in training is "nothing here".

# %%
without = copy.deepcopy(train_part)
without["annotations"] = [a for a in without["annotations"] if a["category_id"] != 9]
birds = len(train_part["annotations"]) - len(without["annotations"])
empty = [len(s.boxes) == 0 for s in CocoDataset(FOLDER / "photos", without)]
print(f"{birds} birds are background now; {sum(empty)} photos have no object at all, and are trained on as such")
assert birds > 20

# %% [markdown]
# ### "New classes need a new network"
#
# Count the numbers that were new:

# %%
state = model.state_dict()
new = sum(state[name].size for name in report.replaced)
print(f"{new} of {sum(array.size for array in state.values())} numbers were new")
assert new < 0.01 * sum(array.size for array in state.values())

# %%
TEMPORARY.cleanup()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Recap
#
# 1. Photos in a folder and one COCO json: images, categories, annotations. Boxes are x, y, width, height.
# 2. Draw the ground truth first. The file is checked when it is opened, and the error names the place.
# 3. Split so that photos that are alike are on one side.
# 4. Start from trained weights and replace only what depends on the classes: less than 1 % of the numbers.
# 5. Measure before and after, on photos not trained on; then look at them.

# %% [markdown]
# ## Quiz
#
# 1. A box from (10, 20) to (38, 48): what stands in COCO's `bbox`?
# 2. A mask of 2 rows and 2 columns is all ones. What are its counts?
# 3. What is the area of the polygon [0, 0, 4, 0, 0, 3]?
# 4. You annotated only the large birds in each photo. What does the model learn about the small ones?
# 5. What is a crowd good for?
# 6. Your photos come from ten films. How do you split them?
# 7. Which layers are replaced for new classes, and why not the RPN?
# 8. AP on the training photos is 90, on the others 20. What do you do?
# 9. Even on four photos that it is trained on the model finds nothing. Where do you look first?
# 10. When should `flip` be switched off?
#
# <details><summary>Answers</summary>
#
# 1. 10, 20, 28, 28.
# 2. 0, 4: no zeros, then four ones.
# 3. 6.
# 4. That they are background: it learns not to find them.
# 5. For regions that nobody wants to draw one by one: not trained on, not counted.
# 6. By films: all photos of a film on one side.
# 7. The last layers of box and mask head, with an output a class. The RPN only asks "object or not?".
# 8. More photos, and more different ones; augmentation; fewer steps.
# 9. At the ground truth, drawn. Then at the sizes of objects and anchors, and at the learning rate.
# 10. Where mirrored things are other things: text, traffic signs, left and right hands.
#
# </details>
