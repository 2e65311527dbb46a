"""What each MPI worker does in the tests of distributed training.

    mpiexec -n K python -m tests.workers TASK FILE [ARGUMENT ...]

If a test compares the result, the first worker writes it to FILE.
"""

import hashlib
import sys

import numpy as np

from minimask import mask_rcnn, normalization, presets
from minimask.datasets.loader import Loader
from minimask.datasets.toy import ToyScenes
from minimask.errors import InputError
from minimask.machine import distributed
from minimask.machine.threads import set_threads, threads
from minimask.run.commands import tell
from minimask.run.validation import validation_loss
from minimask.tensor import Parameter
from minimask.train import TrainSettings, fit, make_optimizer, rate_factor, training_step
from tests.helpers import SMALL

STEPS, BATCH = 10, 8
MODELS = {
    # the toy preset with all its batch norms but fewer channels
    "batch_norm": ("toy", dict(backbone=dict(SMALL["backbone"], stem="fine"))),
    # group norm, keypoints, masks with a softmax over classes
    "keypoints": (
        "small",
        dict(
            backbone=dict(SMALL["backbone"], stem="small"),
            heads=dict(keypoints=8, keypoint_channels=(16,), mask_loss="softmax"),
            transform=dict(min_size=64, max_size=96),
        ),
    ),
}


class Mixed:
    """Scenes that alternate between 64 x 64 and 96 x 96 pixels; every third one keeps only its first object."""

    def __init__(self, count=40):
        self.scenes = [ToyScenes(split="train", size=size, count=count) for size in (64, 96)]
        self.keypoint_order = self.scenes[0].keypoint_order

    def __len__(self):
        return len(self.scenes[0])

    def __getitem__(self, i):
        sample = self.scenes[i % 2][i]
        if i % 3 == 0:
            for name in ("boxes", "labels", "masks", "crowd", "keypoints"):
                setattr(sample, name, getattr(sample, name)[:1])
        return sample


def steps(name, optimizer, rate):
    """Take ten steps with a float64 model. Returns a dict of arrays: losses, gradient norms and weights."""
    preset, settings = MODELS[name]
    small = {"heads": SMALL["heads"]}
    model = mask_rcnn.build(preset, 4, seed=1, **presets.merge(small, settings)).to("float64").train()
    settings = TrainSettings(steps=STEPS, optimizer=optimizer, learning_rate=float(rate), warm_up=2, schedule="step")
    optimizer = make_optimizer(model, settings)
    loader = Loader(Mixed(), model.transform, BATCH, share=(distributed.rank(), distributed.size()))
    losses, norms = [], []
    for step in range(STEPS):
        optimizer.lr = settings.learning_rate * rate_factor(settings, step, step / STEPS)
        batch = distributed.same_size(loader.batch(step))
        parts, norm = training_step(model, batch, optimizer, settings, step)
        losses.append(list(parts.values()))
        norms.append(norm)
    return {"losses": np.array(losses), "norms": np.array(norms), **model.state_dict()}


def task_steps(path, *arguments):
    """Take the steps, check that all workers end with the same bits, and write the result."""
    result = steps(*arguments)
    bits = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in result.values())).hexdigest()
    assert len(set(distributed.all_of([bits]))) == 1
    if distributed.is_first():
        np.savez(path, **result)


def task_same_state(path):
    """Workers that start with different weights and step counts get those of the first worker."""
    model = mask_rcnn.build("toy", 4, seed=10 + distributed.rank(), **MODELS["batch_norm"][1])
    optimizer = make_optimizer(model, TrainSettings(steps=1))
    optimizer.steps = 7 + distributed.rank()
    optimizer.state["m"][0][...] = distributed.rank() + 1
    distributed.same_state(model, optimizer)
    if distributed.rank() == 1:
        first = mask_rcnn.build("toy", 4, seed=10, **MODELS["batch_norm"][1]).state_dict()
        assert all((array == first[name]).all() for name, array in model.state_dict().items())
        assert optimizer.steps == 7 and (optimizer.state["m"][0] == 1).all()


def task_validate(path, folder):
    """A run in which the first worker validates on its own batches while the others wait."""
    model = mask_rcnn.build("toy", 4, **MODELS["batch_norm"][1])
    settings = TrainSettings(steps=3, schedule="step", validate_every=2)
    loader = Loader(Mixed(), model.transform, 4, share=(distributed.rank(), distributed.size()))
    calls = []

    def validate(model):
        calls.append(distributed.size())
        return validation_loss(model, Loader(Mixed(), model.transform, 2), steps=1)

    fit(model, loader, settings, folder, validate=validate, progress=False)
    calls = distributed.all_of([calls])
    if distributed.is_first():
        assert calls == [[1], []]


def task_batch_norm(path, dtype):
    """Batch norm and its gradients on unevenly distributed rows: worker i has i + 1 of them."""
    x, gy, gamma, beta, running = batch_norm_inputs(dtype, distributed.size())
    first = distributed.rank() * (distributed.rank() + 1) // 2
    mine = slice(first, first + distributed.rank() + 1)
    rows = [gather_rows(a) for a in batch_norm(x[mine], gy[mine], gamma, beta, running)]
    if distributed.is_first():
        y, gx, *others = ([row for part in result for row in part] for result in rows)
        # each worker has its part of the gradients of gamma and beta; the running statistics are the same in all
        others = [np.array(a).reshape(distributed.size(), -1) for a in others]
        np.savez(path, y=y, gx=gx, ggamma=others[0].sum(0), gbeta=others[1].sum(0), mean=others[2], var=others[3])


def gather_rows(array):
    """A list of the arrays of all workers."""
    return distributed.all_of([array])


def batch_norm_inputs(dtype, workers):
    """x, gy (N, 3, 5, 6), gamma, beta (6,) and running statistics (2, 6), with N = 1 + 2 + ... + workers."""
    rng = np.random.default_rng(5)
    shape = workers * (workers + 1) // 2, 3, 5, 6
    x = rng.standard_normal(shape) * np.arange(1, 7) + 50 + 10 * rng.standard_normal((shape[0], 1, 1, 6))
    gy, gamma, beta = rng.standard_normal(shape), rng.standard_normal(6), rng.standard_normal(6)
    return *(a.astype(dtype) for a in (x, gy, gamma, beta)), np.stack([np.zeros(6), np.ones(6)]).astype(dtype)


def batch_norm(x, gy, gamma, beta, running):
    """y, gx, ggamma, gbeta, and the running mean and variance afterwards."""
    x, gamma, beta = Parameter(x), Parameter(gamma), Parameter(beta)
    mean, var = running.copy()
    y = normalization.batch_norm(x, gamma, beta, mean, var, training=True)
    y.backward(gy)
    return y.data, x.grad, gamma.grad, beta.grad, mean, var


def task_threads(path):
    """Write the number of threads that each worker uses."""
    assert distributed.own_device("cpu") == "cpu"
    counts = distributed.all_of([threads()])
    if distributed.is_first():
        np.savez(path, threads=counts)


def task_fail(path, kind):
    """Only worker 1 fails, because of an unreadable image or a bug; the others wait for it."""
    if distributed.rank() == 1:
        if kind == "input":
            raise InputError("photos/7.png: not a readable image")
        raise ZeroDivisionError("a mistake in the program")
    distributed.total(np.ones(3))


if __name__ == "__main__":
    set_threads(1 if sys.argv[1] != "threads" else threads())
    with distributed.session(tell):
        globals()[f"task_{sys.argv[1]}"](*sys.argv[2:])
