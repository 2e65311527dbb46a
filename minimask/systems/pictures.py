"""What each system of the talk finds in the same four drawn scenes.

    python -m minimask.systems.pictures fcis toy_c5 --true-boxes       two systems, one below the other
    python -m minimask.systems.pictures --minutes 10                   all of them

Two scenes are crowded: one animal hides a part of another. He et al. (2017, section 4.1 and figure 6) report that FCIS
makes systematic mistakes there, edges that do not exist among them; overlapping objects share its score maps. In the
third scene a bar cuts animals into pieces; the fourth is an ordinary one.

With --true-boxes, FCIS and Mask R-CNN draw only masks, into the true boxes of the true classes: what they differ in
then are the masks alone.

A system that has no run in the output folder yet is trained first. Its body starts with the weights of the small model
that comes with minimask, as far as they fit.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

import minimask
from minimask.datasets import toy
from minimask.draw import draw_prediction, draw_sample, grid, save_picture
from minimask.errors import InputError
from minimask.mask_head import mask_probabilities, paste_masks
from minimask.presets import PRESETS
from minimask.run.settings import check_name
from minimask.systems import SYSTEMS
from minimask.systems.fcis import FCIS
from minimask.systems.tables.measure import masks_in
from minimask.systems.tables.trunk import copy_body
from minimask.tensor import Tensor

SCENES = (("crowded", 0), ("crowded", 3), ("disconnected", 0), (None, 0))  # case and index of test scenes
NAMES = [*(name for name in PRESETS if name.startswith("toy")), *SYSTEMS]
SIDE = 384  # pixels of a picture


def scenes():
    """The four scenes, a list of Samples."""
    return [toy("test", case=case)[index] for case, index in SCENES]


def trained(name, folder, **options):
    """The model of the run in `folder`; if there is none, a preset or system is trained there.

    name: what to build. options: of minimask.train, such as minutes=2.
    """
    if not Path(folder).exists():
        model = minimask.build(name, classes=toy().class_names)
        copy_body(model, minimask.load("toy").state_dict())
        minimask.train(model, toy(), output=folder, **options)
    return minimask.load(folder)


def masks_in_true_boxes(model, sample):
    """The masks that a system draws into the true boxes of the true classes: (G, H, W) bool, in pixels of the sample.

    model: a MaskRCNN with masks, or FCIS; its transform must not resize the sample.
    Raises InputError for another one.
    """
    batch = model.transform([sample])
    boxes, labels = batch.boxes[0, batch.valid[0]], batch.labels[0, batch.valid[0]]
    with model.inference():
        if isinstance(model, FCIS):
            maps = model.roi_heads.maps(model.roi_heads.reduce(model.features(Tensor(batch.images))[-1]))
            _, _, logits = model.read(maps, boxes[None])
            soft = mask_probabilities(logits.data, labels)
        elif hasattr(getattr(model, "roi_heads", None), "mask_predictor"):
            soft = masks_in(model, batch, boxes, labels, np.zeros(len(labels), np.int64))
        else:
            raise InputError(f"{type(model).__name__} draws no masks into given boxes: leave out --true-boxes")
    return paste_masks(soft, boxes, *sample.image.shape[:2], whole_pixels=False)


def page(models, score=0.5, true_boxes=False):
    """A page with the four scenes in columns: the truth in the first row, then a row for each model.

    models: name -> model.
    score: objects with a lower score are left out.
    true_boxes: the models draw nothing but masks, into the true boxes.
    Returns (H, W, 3) uint8.
    """
    samples = scenes()
    names = toy().class_names
    style = dict(class_names=names, caption=False, side=SIDE, text=15)
    pictures = [draw_sample(sample, keypoints=False, **style) for sample in samples]
    titles = [f"ground truth ({case or 'ordinary'})" for case, _ in SCENES]
    for name, model in models.items():
        for sample in samples:
            if true_boxes:
                drawn = dataclasses.replace(sample, masks=masks_in_true_boxes(model, sample))
                pictures.append(draw_sample(drawn, keypoints=False, **style))
            else:
                found = model.predict(sample.image)
                pictures.append(draw_prediction(sample.image, found, score_threshold=score, **style))
        titles += [name] * len(samples)
    return grid(pictures, columns=len(samples), titles=titles)


def main(argv=None):
    """Train what is missing, and draw the page."""
    parser = argparse.ArgumentParser(prog="python -m minimask.systems.pictures", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"systems (default: all): {', '.join(NAMES)}")
    parser.add_argument("--output", type=Path, default=Path("runs/systems"), help="folder (default: runs/systems)")
    parser.add_argument("--minutes", type=float, default=4, help="training of a system without a run (default: 4)")
    parser.add_argument("--score", type=float, default=0.5, help="leave out objects below this (default: 0.5)")
    parser.add_argument("--true-boxes", action="store_true", help="draw only masks, into the true boxes")
    args = parser.parse_args(argv)
    names = args.names or NAMES
    for name in names:
        check_name("system", name, NAMES)
    options = dict(minutes=args.minutes, batch_size=4, learning_rate=1.5e-3)
    models = {name: trained(name, args.output / name, **options) for name in names}
    path = args.output / "pictures.png"
    save_picture(path, page(models, args.score, args.true_boxes))
    print(f"see {path}")


if __name__ == "__main__":
    sys.exit(main())
