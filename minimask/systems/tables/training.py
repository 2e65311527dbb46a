"""One run of the tables: a row and a seed become a trained model, and the model becomes numbers."""

import functools
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import minimask
from minimask.datasets.loader import InMemory, Loader
from minimask.datasets.toy import ToyScenes
from minimask.mask_rcnn import MaskRCNN, build
from minimask.presets import class_of, complete, saved
from minimask.run.files import write_files
from minimask.systems.crops import CropSystem
from minimask.systems.tables.measure import measure
from minimask.systems.tables.rows import BY_NAME
from minimask.systems.tables.trunk import Trunk, attach, copy_body
from minimask.systems.test_time import Augmented
from minimask.train import TrainSettings, make_optimizer, rate_factor, training_step

CLASSES = ToyScenes.class_names


@dataclass(frozen=True)
class Plan:
    """What all runs of one way have in common.

    way: "quick" (heads on a frozen trunk) or "full" (end to end). trunk: "masks" or "pixels", for quick.
    steps, batch_size: of training. train, test: numbers of scenes. split: "test", or "val" to choose settings on.
    """

    way: str
    trunk: str = "masks"
    steps: int = 250
    batch_size: int = 4
    train: int = 500
    test: int = 80
    split: str = "test"


PLANS = {"quick": Plan("quick"), "full": Plan("full", steps=1600, train=2000, test=300)}
RATE = 1.5e-3  # the learning rate of a row for which none was chosen
PIXEL_STEPS = 800  # of the FCN whose body is the trunk of pixels


def run(name, seed, plan, rate=RATE, folder=None):
    """Train a row with one seed and measure it.

    name: of the row. rate: learning rate. folder: where the trunk of pixels is kept (see `trunk_weights`).
    Returns a dict for json; its "numbers" are those of `measure.measure`.
    """
    began, cpu = time.perf_counter(), time.process_time()
    row = BY_NAME[name]
    model = build(row.build, classes=CLASSES, seed=seed, **row.groups)
    scenes = {split: scenes_of(split, plan, row.size) for split in ("train", plan.split)}
    current = None
    if plan.way == "quick":
        copy_body(model, trunk_weights(plan.trunk, folder))
        if reads_kept_features(model):
            current = attach(model, trunk_of(model, row, plan), plan.split)

    train(model, scenes["train"], seed, plan, rate)
    trained, trained_cpu = time.perf_counter() - began, time.process_time() - cpu
    look = (lambda batch: current.use(plan.split, batch.image_ids)) if current else None
    return {
        "row": name,
        "seed": seed,
        "plan": asdict(plan),
        "rate": rate,
        "build": row.build,
        "settings": saved(row.groups),
        "parameters": sum(p.size for p in model.parameters()),
        "seconds": round(trained, 1),
        "cpu_seconds": round(trained_cpu, 1),
        "version": minimask.__version__,
        "numbers": measure(model, scenes[plan.split], look),
        "other": {
            other.name: measure(Augmented(model, **other.test), scenes[plan.split])
            for other in BY_NAME.values()
            if other.trained_as == name and plan.way in other.ways
        },
    }


def train(model, scenes, seed, plan, rate):
    """Train on batches that depend on the seed alone, not on the row."""
    settings = TrainSettings(steps=plan.steps, learning_rate=rate, seed=seed)
    model.train()
    optimizer = make_optimizer(model, settings)
    flip = plan.way == "full"  # kept features cannot be mirrored
    loader = Loader(scenes, model.transform, plan.batch_size, seed, flip=flip)
    for step in range(plan.steps):
        optimizer.lr = rate * rate_factor(settings, step, step / plan.steps)
        training_step(model, loader.batch(step), optimizer, settings, step)
    model.eval()
    if hasattr(model, "finish_training"):
        model.finish_training(scenes)


# ----------------------------------------------------------------- what runs share; computed once in each process


@functools.lru_cache(maxsize=6)
def _scenes(split, size, count):
    return InMemory(ToyScenes(split, size=size, count=count), gigabytes=2.0)


def scenes_of(split, plan, size=128):
    """The drawn scenes of a split."""
    return _scenes(split, size, plan.train if split == "train" else plan.test)


def reads_kept_features(model):
    """Whether a model's heads can learn from kept features: it sees whole images, and has heads."""
    return isinstance(model, MaskRCNN) and not isinstance(model, CropSystem)


@functools.lru_cache(maxsize=2)
def trunk_weights(kind, folder=None):
    """Name -> array. "masks": the weights of the model in this package; "pixels": those of an FCN.

    folder: the FCN is kept there, in trunk-pixels.npz, and trained only if the file is missing.
    """
    if kind == "masks":
        return minimask.load("toy").state_dict()
    path = None if folder is None else Path(folder) / "trunk-pixels.npz"
    if path is not None and path.exists():
        with np.load(path) as arrays:
            return dict(arrays)
    fcn = build("fcn", classes=CLASSES, seed=0)
    train(fcn, _scenes("train", 128, 2000), 0, Plan("full", steps=PIXEL_STEPS), RATE)
    if path is not None:
        write_files({path: lambda file: np.savez(file, **fcn.state_dict())})
    return fcn.state_dict()


_trunks = {}  # the last one alone: a trunk's features take hundreds of megabytes


def trunk_key(row):
    """Rows with the same key share their kept features: the same body and neck, read in the same way."""
    kind = class_of(row.build, MaskRCNN)
    features = kind.features.__qualname__ if hasattr(kind, "features") else ""
    return repr(complete(row.groups, row.build)["backbone"]), features


def trunk_of(model, row, plan):
    """The kept features for a model whose body has the trunk's weights."""
    key = trunk_key(row), plan
    if key not in _trunks:
        _trunks.clear()
        scenes = {split: scenes_of(split, plan) for split in ("train", plan.split)}
        _trunks[key] = Trunk(model, minimask.load("toy"), scenes)
    return _trunks[key]
