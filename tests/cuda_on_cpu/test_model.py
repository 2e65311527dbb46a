"""The whole model on a GPU: training, inference, checkpoints and commands agree with the CPU, and nothing waits."""

import contextlib
import itertools
import json
import re
import types
import weakref

import numpy as np
import pytest
from PIL import Image

from minimask import checkpoint, device
from minimask.__main__ import main
from minimask.datasets.toy import ToyScenes
from minimask.errors import InputError
from minimask.kernels import cuda
from minimask.machine.gpu_steps import OBJECTS, Draws, Feeder, StepGraph, StepsOnGpu
from minimask.mask_head import restore
from minimask.mask_rcnn import sampling_generator
from minimask.run.finite import NotFiniteError
from minimask.run.log import LOG
from minimask.run.validation import validation_loss
from minimask.tensor import Function
from minimask.train import fit, make_optimizer
from tests.cuda_on_cpu.small_model import SMALL, no_sync, one_schedule, scenes, settings, small_model
from tests.cuda_on_cpu.training import (
    assert_same_steps,
    check_losses_and_gradients,
    check_training_steps,
    make_steps,
    make_steps_on_cpu,
)

BOTTLENECKS = dict(name="resnet50", norm="frozen", channels=(4, 4, 4, 8), stem="large")
VARIANTS = {
    "toy": {},
    "keypoints": dict(heads=dict(keypoints=8, keypoint_channels=(8,)), roi=dict(keypoint_size=4)),
    "group norm": dict(backbone=dict(norm="group")),
    "bottlenecks": dict(backbone=BOTTLENECKS),
    "groups": dict(
        backbone=dict(
            name="resnext50_32x4d",
            norm="frozen",
            channels=(16, 16, 16, 16),
            stem="large",
            groups=4,
            group_width=4,
        ),
    ),
    "c4": dict(backbone=dict(BOTTLENECKS, neck="c4"), rpn=dict(anchor_sizes=((16, 32, 64),))),
    "dilated c5": dict(backbone=dict(neck="c5", norm="frozen"), rpn=dict(anchor_sizes=((16, 32, 64),))),
    "roi_pool, mlp": dict(roi=dict(pooling="roi_pool"), heads=dict(mask="mlp")),
    "roi_warp, one mask": dict(roi=dict(pooling="roi_warp"), heads=dict(class_agnostic_masks=True)),
    "softmax, detectron2": dict(heads=dict(mask_loss="softmax"), conventions="detectron2", roi=dict(sampling_ratio=0)),
    "boxes only": dict(heads=dict(mask=None)),
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------- training steps


def test_training_steps_equal_the_cpu(gpu, request):
    """20 steps, or 3 under the slower schedules."""
    check_training_steps(gpu, 20 if "schedule0" in request.node.name else 3)


@pytest.mark.parametrize("variant", VARIANTS)
@one_schedule
def test_gradients_and_detections_equal_the_cpu(gpu, variant):
    """One training step and one inference with each of the parts that a model can have; nothing waits."""
    cpu, card = small_model(**VARIANTS[variant]), small_model(**VARIANTS[variant]).to("cuda")
    batch = scenes(cpu).batch(0)
    check_losses_and_gradients(gpu, cpu, card, batch, tolerance=1e-4)

    cpu.eval(), card.eval()
    expected, on_card = cpu.detect(batch), batch.to("cuda")
    with no_sync(gpu):
        found = card.detect(on_card)
    assert expected.valid.sum() > 10
    np.testing.assert_array_equal(found.valid.get(), expected.valid)
    found, real = found.to("cpu"), expected.valid
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    for name in ("masks", "keypoints"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            np.testing.assert_allclose(ours[real], theirs[real], atol=1e-3, err_msg=name)


@one_schedule
@pytest.mark.parametrize("precision, error", [("high", 1e-2), ("medium", 5e-2)])
def test_a_lower_precision_is_close(gpu, monkeypatch, precision, error):
    """TF32 has 10 fraction bits and BF16 has 7: products are off by up to 1e-3 and 8e-3, but not exact."""
    batch = scenes(small_model()).batch(0)
    found = {}
    for chosen in ("highest", precision):
        monkeypatch.setattr(device, "_matmul_precision", chosen)
        losses = small_model().to("cuda").losses(batch, Draws(sampling_generator(0, 0)))
        found[chosen] = np.array([loss.item() for loss in losses.values()])
    assert 1e-6 < np.abs(found[precision] - found["highest"]).max() < error


def test_a_model_on_the_gpu_predicts_from_pictures(gpu):
    cpu, card = small_model(), small_model().to("cuda")
    images = [ToyScenes("test", 64, 2)[i].image for i in range(2)]
    for ours, theirs in zip(card.predict(images), cpu.predict(images)):
        assert isinstance(ours.masks, np.ndarray)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-3)
        assert (ours.masks != theirs.masks).mean() < 1e-3
    assert card.training and card.device == "cuda" and cpu.device == "cpu"
    batch = card.transform(images)
    on_card = batch.to("cuda")
    assert on_card.to("cuda") is on_card and batch.to("cpu") is batch
    assert len(restore(card.eval().detect(on_card), on_card)) == 2


@one_schedule
def test_results_do_not_depend_on_the_run(gpu):
    """Two runs give the same bits, because no sum depends on the order in which threads arrive."""
    first, second = (make_steps(gpu, small_model().to("cuda"), 3) for _ in range(2))
    assert first == second


# ------------------------------------------------------------------------------------------------------- CUDA graphs


class GrowingScenes:
    """Batches of which some have room for more objects, so that ground truth comes in two shapes."""

    def __init__(self, model):
        self.loader = scenes(model)

    def iterate(self, start):
        for step in itertools.count(start):
            batch = self.loader.batch(step)
            if step in (2, 5):
                more = [(0, 0), (0, OBJECTS + 1 - batch.boxes.shape[1])]
                for name in ("boxes", "labels", "masks", "crowd", "valid", "keypoints"):
                    array = getattr(batch, name)
                    setattr(batch, name, np.pad(array, more + [(0, 0)] * (array.ndim - 2)))
            yield batch

    def batch(self, step):
        return next(self.iterate(step))


@one_schedule
def test_steps_as_graphs_equal_plain_steps(gpu, monkeypatch):
    """A replay uses the new batch, random numbers and learning rate; a second shape gets its own graph."""
    launches, capture = [], StepGraph._capture

    def capture_and_count(step_graph):
        capture(step_graph)
        launch = step_graph.graph.launch
        step_graph.graph = types.SimpleNamespace(launch=lambda s: launches.append(step_graph) or launch(s))

    monkeypatch.setattr(StepGraph, "_capture", capture_and_count)
    plain, graphs = small_model().to("cuda"), small_model().to("cuda")
    with cuda.as_in_a_graph():  # uses the same kernels, because cuBLAS rounds differently
        expected = make_steps(gpu, plain, 7, GrowingScenes(plain))
    assert not launches
    found = make_steps(gpu, graphs, 7, GrowingScenes(graphs), graph=True)
    assert len(launches) == 5 and len(set(map(id, launches))) == 2  # the first step of each shape is not a replay
    assert found == expected  # to the last bit
    for name, array in plain.state_dict().items():
        np.testing.assert_array_equal(graphs.state_dict()[name].get(), array.get(), err_msg=name)


@one_schedule
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_can_be_a_graph(gpu, variant):
    """While a step is captured, nothing waits for the GPU, calls cuBLAS or sends arrays from the host."""
    plain, graph = (small_model(**VARIANTS[variant]).to("cuda") for _ in range(2))
    with cuda.as_in_a_graph():
        expected = make_steps(gpu, plain, 2)
    assert make_steps(gpu, graph, 2, graph=True) == expected


@one_schedule
def test_more_shapes_than_graphs_are_computed_without_a_graph(gpu, monkeypatch):
    monkeypatch.setattr("minimask.machine.gpu_steps.MOST_GRAPHS", 1)
    cpu, card = small_model(), small_model().to("cuda")
    found = make_steps(gpu, card, 4, GrowingScenes(card), graph=True)
    assert_same_steps(found, make_steps_on_cpu(cpu, 4, GrowingScenes(cpu)))


@one_schedule
def test_messages_about_what_cannot_be_trained(gpu, tmp_path):
    with pytest.raises(InputError, match="CUDA graphs need a GPU"):
        fit(small_model(), None, settings(), tmp_path, cuda_graph=True)
    with pytest.raises(InputError, match="on a GPU parameters must be float32, got float64"):
        fit(small_model().to("cuda").to(np.float64), None, settings(), tmp_path)


# -------------------------------------------------------------------------------------------------- batches on the GPU


def test_the_feeder_copies_ahead_on_its_own_stream(gpu, monkeypatch):
    """Every batch arrives complete. One earlier batch is kept alive; the memory of the others is released."""
    model = small_model()
    loader = scenes(model)
    feeder = Feeder(loader.iterate(0))
    waits, wait = [], feeder.stream.wait_event
    monkeypatch.setattr(feeder.stream, "wait_event", lambda event: waits.append(event) or wait(event))
    earlier = []
    for step in range(4):
        with no_sync(gpu):
            batch = next(feeder)
        expected = loader.batch(step)
        assert batch.names == expected.names and isinstance(batch.original_sizes, np.ndarray)
        for name in ("images", "sizes", "boxes", "labels", "masks", "crowd", "valid", "keypoints"):
            np.testing.assert_array_equal(getattr(batch, name).get(), getattr(expected, name), err_msg=name)
        earlier.append(weakref.ref(batch))
        del batch
        assert [reference() is not None for reference in earlier] == [False] * (step - 1) + [True] * min(step + 1, 2)
        assert len(set(map(id, waits))) == step
    assert feeder.stream.is_non_blocking and feeder.stream.ptr != gpu.cuda.get_current_stream().ptr
    feeder.close()


# --------------------------------------------------------------------------- losses and gradients that are not finite


class NotFiniteGradient(Function):
    """y = 0, with a gradient that is not finite."""

    def forward(self, x):
        self.x = x
        return x.sum() * 0

    def backward(self, gy):
        return (self.x * np.float32(np.nan),)


def spoiled_scenes(model, bad_step):
    loader = scenes(model)
    for step in itertools.count():
        batch = loader.batch(step)
        if step == bad_step:
            batch.images[0, 5, 5] = np.nan
        yield batch


@pytest.mark.parametrize("graph", [False, True], ids=["plain", "graph"])
@one_schedule
def test_a_loss_that_is_not_finite_is_named_and_changes_no_weight(gpu, graph):
    """The host finds out only after it has launched the next step, and still no weight changes."""
    model, chosen = small_model().to("cuda"), settings()
    optimizer = make_optimizer(model, chosen)
    with StepsOnGpu(model, optimizer, chosen, graph) as steps:
        batches = steps.batches(spoiled_scenes(model, bad_step=3))
        for step in range(3):
            steps.run(next(batches), step)
        before = steps.gpu_optimizer.flat.data.copy().get()
        state = {name: array.copy() for name, array in optimizer.state_dict().items()}
        (third,) = steps.run(next(batches), 3)
        assert third.step == 2 and np.isfinite(third.gradient_norm)
        with pytest.raises(NotFiniteError, match=r"step 4: .*loss_mask.* are not finite .*toy train") as error:
            steps.run(next(batches), 4)
        assert all(name in str(error.value) for name in scenes(model).batch(3).names)
        np.testing.assert_array_equal(steps.gpu_optimizer.flat.data.get(), before)
        for name, array in optimizer.state_dict().items():
            if name != "steps":
                np.testing.assert_array_equal(array.get(), state[name].get(), err_msg=name)
        assert optimizer.steps == state["steps"] == 3
        assert steps.rest() == []
        steps.run(scenes(model).batch(5).to("cuda"), 5)  # training can go on
        (fifth,) = steps.rest()
        assert np.isfinite(fifth.gradient_norm) and (steps.gpu_optimizer.flat.data.get() != before).any()


@one_schedule
def test_a_gradient_that_is_not_finite_names_its_parameter(gpu, monkeypatch):
    model, chosen = small_model().to("cuda"), settings()
    optimizer = make_optimizer(model, chosen)
    parameter = model.roi_heads.box_head.fc7.weight
    losses = model.losses

    def spoiled(batch, rng):
        parts = losses(batch, rng)
        parts["loss_box_reg"] = parts["loss_box_reg"] + NotFiniteGradient()(parameter)
        return parts

    monkeypatch.setattr(model, "losses", spoiled)
    with StepsOnGpu(model, optimizer, chosen) as steps:
        steps.run(scenes(model).batch(0), 0)
        with pytest.raises(NotFiniteError, match="step 1: the gradient of roi_heads.box_head.fc7.weight is not"):
            steps.rest()


# ---------------------------------------------------------------------------------------------------- whole runs


class PowerCut(Exception):
    """Ends a run early."""


class ScenesUntil:
    """The batches of the steps before `end`; then PowerCut is raised."""

    def __init__(self, model, end):
        self.loader, self.dataset, self.end = scenes(model), range(12), end

    def iterate(self, start):
        for step in range(start, self.end):
            yield self.loader.batch(step)
        raise PowerCut


def run(model, folder, end=5, **options):
    """Train for 4 steps, or up to step `end`. Returns the contents of the last checkpoint."""
    with contextlib.suppress(PowerCut):
        chosen = settings(steps=4, save_every=2)
        fit(model, ScenesUntil(model, end), chosen, folder, progress=False, **options)
    return checkpoint.read(checkpoint.find(folder))


@one_schedule
def test_checkpoints_do_not_depend_on_the_device(gpu, tmp_path):
    """The same numbers give the same bytes, and a run that was started on one device can be resumed on the other."""
    cpu = small_model()
    paths = []
    for where in ("cpu", "cuda"):
        model = small_model().to(where)
        optimizer = make_optimizer(model, settings())
        paths.append(checkpoint.save(tmp_path / where, 0, model, optimizer, {"class_names": []}))
    assert paths[0].read_bytes() == paths[1].read_bytes()

    arrays, saved = run(cpu, tmp_path / "whole")
    assert saved["step"] == 4
    for first, second in (("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")):
        folder = tmp_path / f"{first} {second}"
        _, saved = run(small_model().to(first), folder, end=3)
        assert saved["step"] == 3  # the loader fails at the fourth batch; the steps before it are saved
        found, saved = run(small_model().to(second), folder, resume=True)
        assert saved["step"] == 4
        assert all(isinstance(array, np.ndarray) for array in found.values())
        for name, array in arrays.items():
            np.testing.assert_allclose(found[name], array, atol=2e-4, err_msg=f"{folder.name} {name}")
    lines = [json.loads(line) for line in (tmp_path / "cuda cuda" / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


@one_schedule
def test_a_run_validates_and_logs_on_the_gpu(gpu, tmp_path):
    model = small_model().to("cuda")
    chosen = settings(steps=3, validate_every=2)

    def validate(model):
        return validation_loss(model, scenes(model), 1)

    fit(model, scenes(model), chosen, tmp_path, validate=validate, progress=False, cuda_graph=True)
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2, 3]
    assert "validation_loss" in lines[2] and lines[3]["gradient_norm"] > 0


@one_schedule
def test_running_out_of_memory_says_what_to_lower(gpu, tmp_path):
    model = small_model().to("cuda")
    pool = gpu.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(size=pool.used_bytes() + 1_000_000)
    try:
        with pytest.raises(InputError) as error:
            fit(model, scenes(model, 8), settings(), tmp_path, progress=False)
    finally:
        pool.set_limit(size=0)
    size = r"[\d.]+ [kMG]B"
    message = f"memory is full: {size} were requested, {size} are held here, {size} of {size} are free; use fewer"
    assert re.search(message, str(error.value)) and "(--batch-size)" in str(error.value)


@one_schedule
def test_commands_with_a_device(gpu, tmp_path, capsys):
    """train, evaluate and predict with --device cuda."""
    changes = [f"--set={group}={json.dumps(values)}" for group, values in SMALL.items() if group != "transform"]
    folder = str(tmp_path / "run")
    assert main([
        "train", "--device", "cuda", "--cuda-graph", "--padded-size", "64", "64", "--steps", "3", "--toy-size", "64",
        "--min-size", "64", "--max-size", "64", "--batch-size", "2", "--output", folder, *changes,
    ]) == 0  # fmt: skip
    _, saved = checkpoint.read(checkpoint.find(folder))
    assert saved["step"] == 3 and saved["options"]["device"] == "cuda"
    photo = tmp_path / "photo.png"
    Image.fromarray(ToyScenes("test", 64, 1)[0].image).save(photo)
    found = {}
    for where in ("cpu", "cuda"):
        output = tmp_path / where
        arguments = ["--weights", folder, "--device", where, "--score", "0.05", "--output", str(output)]
        assert main(["predict", str(photo), *arguments]) == 0
        found[where] = json.loads((output / "photo.json").read_text())["detections"]
    assert len(found["cpu"]) == len(found["cuda"]) > 0
    for ours, theirs in zip(found["cuda"], found["cpu"]):
        assert ours["label"] == theirs["label"] and ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
    assert main(["train", "--cuda-graph", "--steps", "1", "--output", str(tmp_path / "no")]) == 2
    assert "cuda_graph needs device cuda" in capsys.readouterr().err
