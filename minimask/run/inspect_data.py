"""What is in a data set of photos with a COCO file: numbers, problems, a page of samples, histograms."""

import collections
from pathlib import Path

import numpy as np

from minimask.datasets.coco import CocoDataset
from minimask.errors import InputError
from minimask.run.inspection import Inspection, row, wrapped_row

SAMPLES, COLUMNS, SIDE = 9, 3, 480  # pictures on the page of samples; the longer side of each in pixels
LABEL = 15  # pixels: the text of its labels
CLASSES_SHOWN = 25
PLACES_SHOWN = 100  # places of each kind of problem
MOST_LABELS = 20  # objects of a sample that are labeled; more labels would hide them
MOST_PIXELS = 2e9  # of the masks of one sample
BLUE, RED, GREEN = "#3b6fb6", "#c0392b", "#1b7837"
SMALL, LARGE = 32, 96  # sides in pixels between which COCO calls an object medium


def inspect_data(images, annotations):
    """The Inspection of the photos in a folder and the COCO file of their objects.

    The numbers are those of what can be used. Raises InputError if nothing can.
    """
    dataset = CocoDataset(images, annotations, skip_bad=True)
    problems = dataset.problems
    refusal = "training refuses this file; --skip-bad goes on without what has problems" if len(problems) else ""
    try:
        dataset.check_learnable()
    except InputError as error:
        refusal = str(error)

    facts = numbers_of(dataset)
    facts["problems"] = {kind: len(places) for kind, places in problems.kinds.items()}
    facts["doubts"] = {kind: len(places) for kind, places in problems.doubts.items()}
    lines = describe(dataset, facts) + problems.report(PLACES_SHOWN).splitlines()
    pictures = {"samples.png": lambda: draw_samples(dataset), "histograms.png": lambda: draw_histograms(dataset)}
    return Inspection(facts, lines, refusal, pictures)


def numbers_of(dataset):
    """The numbers of a data set by name."""
    objects = dataset.coco_dict["annotations"]
    counts = [len(found) for found in _per_image(dataset)]
    sides = object_sides(dataset)
    small, large = int((sides < SMALL).sum()), int((sides >= LARGE).sum())
    return {
        "images": len(dataset),
        "images_without_objects": counts.count(0),
        "objects": len(objects),
        "crowds": sum(annotation["iscrowd"] for annotation in objects),
        "objects_per_image": [min(counts), max(counts), round(float(np.mean(counts)), 3)],
        "sizes": {"small": small, "medium": len(sides) - small - large, "large": large},
        "median_side": round(float(np.median(sides)), 3) if len(sides) else None,
        "classes": dict(class_counts(dataset)),
        "keypoints": list(dataset.keypoint_names or ()),
        "objects_with_keypoints": sum(any(v > 0 for v in (a.get("keypoints") or ())[2::3]) for a in objects),
    }


def describe(dataset, facts):
    """The numbers of a data set as lines of text."""
    low, high, mean = facts["objects_per_image"]
    lines = [
        row("images", f"{facts['images']}, {facts['images_without_objects']} of them without an object"),
        row("sizes", _image_sizes(dataset.images)),
        row("objects", f"{facts['objects']}, {facts['crowds']} of them crowds"),
        row("per image", f"{low} to {high} objects, {mean:.1f} on average"),
    ]
    if facts["objects"]:
        kinds = ", ".join(f"{count} {name}" for name, count in facts["sizes"].items())
        limits = f"limits: {SMALL} x {SMALL} and {LARGE} x {LARGE} pixels"
        lines.append(row("object sizes", f"{kinds} ({limits}); median side {facts['median_side']:.0f} pixels"))

    counts = list(facts["classes"].items())
    width = max(len(name) for name, _ in counts)
    empty = sum(count == 0 for _, count in counts)
    lines.append(row("classes", f"{len(counts)}" + (f", {empty} of them without an object" if empty else "")))
    lines += [f"  {name:{width}}  {count:>6}" for name, count in counts[:CLASSES_SHOWN]]
    if len(counts) > CLASSES_SHOWN:
        lines.append(f"  and {len(counts) - CLASSES_SHOWN} more")
    if facts["keypoints"]:
        lines += wrapped_row("keypoints", ", ".join(facts["keypoints"]))
        lines.append(row("", f"{facts['objects_with_keypoints']} objects have some"))
    return lines


def _image_sizes(images):
    sizes = collections.Counter((image["width"], image["height"]) for image in images)
    common = [f"{w} x {h} ({count})" for (w, h), count in sizes.most_common(4)]
    return ", ".join(common) + (f" and {len(sizes) - 4} more" if len(sizes) > 4 else "") + " (width x height, images)"


def _per_image(dataset):
    """The annotations of each image, as a list of lists."""
    by_image = collections.defaultdict(list)
    for annotation in dataset.coco_dict["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    return [by_image[image["id"]] for image in dataset.images]


def class_counts(dataset):
    """[(class name, number of objects), ...], the most frequent first."""
    counts = collections.Counter(annotation["category_id"] for annotation in dataset.coco_dict["annotations"])
    named = [(name, counts[identity]) for name, identity in zip(dataset.class_names, dataset.category_ids)]
    return sorted(named, key=lambda pair: -pair[1])


def object_sides(dataset):
    """The square root of each object's area in pixels: the file's area, or else that of the box. (N,)"""
    from minimask.datasets.coco_objects import box_of

    sides = []
    for annotation in dataset.coco_dict["annotations"]:
        area = annotation.get("area")
        if area is None:
            x1, y1, x2, y2 = box_of(annotation)
            area = (x2 - x1) * (y2 - y1)
        sides.append(np.sqrt(area))
    return np.array(sides, np.float64)


# ------------------------------------------------------------------------------------------------------------ pictures


def draw_samples(dataset):
    """A page of samples with their masks, boxes and labels. (H, W, 3) uint8"""
    from minimask import draw
    from minimask.draw.resizing import resized

    counts = collections.Counter(annotation["image_id"] for annotation in dataset.coco_dict["annotations"])
    usable = [
        index
        for index, image in enumerate(dataset.images)
        if counts[image["id"]] and counts[image["id"]] * image["height"] * image["width"] < MOST_PIXELS
    ] or list(range(len(dataset)))
    chosen = [usable[i] for i in np.unique(np.linspace(0, len(usable) - 1, SAMPLES).astype(int))]
    pictures, titles = [], []
    for index in chosen:
        try:
            sample = resized(dataset[index], SIDE)
        except InputError:  # a photo that cannot be read is among the problems already
            continue
        labels = len(dataset.class_names) > 1 and len(sample.boxes) <= MOST_LABELS
        names = dataset.class_names if labels else [""] * len(dataset.class_names)
        pictures.append(
            draw.draw_sample(sample, names, skeleton=dataset.skeleton, caption=False, side=SIDE, text=LABEL)
        )
        titles.append(f"{Path(sample.name).name}: {len(sample.boxes)} object{'s' * (len(sample.boxes) != 1)}")
    if not pictures:
        raise InputError(f"{dataset.source}: none of the photos can be drawn")
    return draw.grid(pictures, columns=min(COLUMNS, len(pictures)), titles=titles)


def draw_histograms(dataset):
    """How many objects there are of each class, of each size, and per image. (H, W, 3) uint8"""
    from minimask.draw.curves import TEXT, new_figure, render

    counts = class_counts(dataset)[:CLASSES_SHOWN]
    figure, axes = new_figure(17, max(5.6, 1.2 + 0.3 * len(counts)))
    axes.remove()
    panels = figure.subplots(1, 3)
    _draw_classes(panels[0], counts, len(dataset.class_names))
    _draw_sizes(panels[1], object_sides(dataset))
    _draw_per_image(panels[2], [len(found) for found in _per_image(dataset)])
    for axes in panels:
        axes.tick_params(labelsize=TEXT - 1)
        axes.xaxis.label.set_size(TEXT)
        axes.yaxis.label.set_size(TEXT)
        axes.title.set_size(TEXT + 1)
    return render(figure)


def _draw_classes(axes, counts, classes):
    """A bar per class. counts: [(name, number), ...], the most frequent first. classes: how many there are."""
    from minimask.draw.curves import TEXT

    names, numbers = zip(*reversed(counts))
    bars = axes.barh([name[:24] for name in names], numbers, color=BLUE)
    axes.bar_label(bars, padding=3, fontsize=TEXT - 2)
    axes.margins(x=0.2)
    axes.set_ylim(min(-0.6, len(counts) / 2 - 3.5), max(len(counts) - 0.4, len(counts) / 2 + 2.5))
    axes.xaxis.get_major_locator().set_params(nbins=4, integer=True)
    axes.set_xlabel("objects")
    axes.set_title(f"the {len(counts)} most frequent of {classes} classes" if classes > len(counts) else "classes")


def _draw_sizes(axes, sides):
    """A histogram of the square roots of the objects' areas, with COCO's limits of small and large."""
    from minimask.draw.curves import TEXT

    if len(sides):
        low, high = max(1.0, sides.min() * 0.9), max(2.0, sides.max() * 1.1)
        axes.hist(sides, bins=np.geomspace(low, high, 30), color=BLUE)
        axes.set_xscale("log")
        ticks = [tick for tick in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096) if low <= tick <= high]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        for limit, text, ink in ((SMALL, "small below 32", RED), (LARGE, "large from 96 on", GREEN)):
            if low < limit < high:
                axes.axvline(limit, color=ink, linestyle="--" if limit == SMALL else ":", linewidth=2.5, label=text)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=TEXT - 2, framealpha=0.9)
            axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend
    axes.set_xlabel("square root of the area in pixels")
    _count_of(axes, "objects", "sizes of objects")


def _draw_per_image(axes, numbers):
    """A histogram of the numbers of objects per image."""
    step = max(1, -(-(max(numbers) + 1) // 40))
    axes.hist(numbers, bins=np.arange(0, max(numbers) + 2 * step, step) - 0.5, color=BLUE)
    axes.set_xlabel("objects in an image")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _count_of(axes, "images", "objects per image")


def _count_of(axes, what, title):
    axes.set_ylabel(what)
    axes.set_title(title)
    axes.grid(alpha=0.3, axis="y")
    axes.yaxis.get_major_locator().set_params(integer=True)
