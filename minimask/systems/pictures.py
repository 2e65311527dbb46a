"""What each system of the talk finds in the same four drawn scenes.

    python -m minimask.systems.pictures fcis toy_c5              two systems, one below the other
    python -m minimask.systems.pictures --minutes 2              all of them

Two scenes are crowded: one animal hides a part of another. There FCIS makes its typical mistakes, masks that leak into
the neighbor and edges that do not exist (He et al. 2017, section 4.1 and figure 6), because overlapping objects share
its score maps. In the third scene a bar cuts animals into pieces; the fourth is an ordinary one.

A system that has no run in the output folder yet is trained first. Its body starts with the weights of the small model
that comes with minimask, if the two bodies are alike, so that a minute or two of training is enough to see something.
"""

import argparse
import sys
from pathlib import Path

import minimask
from minimask.datasets import toy
from minimask.draw import draw_prediction, draw_sample, grid, save_picture
from minimask.presets import PRESETS
from minimask.systems import SYSTEMS

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
        start_with_trained_body(model)
        minimask.train(model, toy(), output=folder, **options)
    return minimask.load(folder)


def start_with_trained_body(model):
    """Copy the body of the small model that comes with minimask. Returns whether it fits; if not, nothing changes."""
    body, own = "backbone.body.", model.state_dict()
    arrays = {name: array for name, array in minimask.load("toy").state_dict().items() if name.startswith(body)}
    arrays = {name: array for name, array in arrays.items() if name in own or "layer4" not in name}  # C4 ends before
    if any(name not in own or own[name].shape != array.shape for name, array in arrays.items()):
        return False
    model.load_state_dict({**own, **arrays})
    return True


def page(models, score=0.5):
    """A page with the four scenes in columns: the truth in the first row, then a row for each model.

    models: name -> model. score: objects with a lower score are left out.
    Returns (H, W, 3) uint8.
    """
    samples = scenes()
    names = toy().class_names
    style = dict(class_names=names, caption=False, side=SIDE, text=15)
    pictures = [draw_sample(sample, keypoints=False, **style) for sample in samples]
    titles = [f"ground truth ({case or 'ordinary'})" for case, _ in SCENES]
    for name, model in models.items():
        found = [model.predict(sample.image) for sample in samples]
        pictures += [draw_prediction(s.image, f, score_threshold=score, **style) for s, f in zip(samples, found)]
        titles += [name] * len(samples)
    return grid(pictures, columns=len(samples), titles=titles)


def main(argv=None):
    """Train what is missing, and draw the page."""
    parser = argparse.ArgumentParser(prog="python -m minimask.systems.pictures", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"systems (default: all): {', '.join(NAMES)}")
    parser.add_argument("--output", type=Path, default=Path("runs/systems"), help="folder (default: runs/systems)")
    parser.add_argument("--minutes", type=float, default=1.5, help="training of a system without a run (default: 1.5)")
    parser.add_argument("--score", type=float, default=0.5, help="leave out objects below this (default: 0.5)")
    args = parser.parse_args(argv)
    names = args.names or NAMES
    options = dict(minutes=args.minutes, batch_size=4, learning_rate=1.5e-3)
    models = {name: trained(name, args.output / name, **options) for name in names}
    path = args.output / "pictures.png"
    save_picture(path, page(models, args.score))
    print(f"see {path}")


if __name__ == "__main__":
    sys.exit(main())
