"""The benchmark's pieces of work give the same results on a GPU as on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minimask import mask_rcnn
from minimask.benchmark import common, models, ours
from minimask.benchmark.cases import all_cases
from minimask.benchmark.common import fingerprint
from tests.cuda_on_cpu.small_model import SMALL, one_schedule

pytestmark = one_schedule
MAP = dict(height=6, width=9)
SETTINGS = {  # small sizes for each piece
    "conv": dict(MAP, n=2, inputs=4, outputs=8, size=3, stride=1, groups=1),
    "conv_transpose": dict(MAP, n=2, inputs=4, outputs=4),
    "max_pool": dict(shape=[1, 8, 6, 4]),
    "batch_norm": dict(shape=[2, 4, 4, 4]),
    "loss": dict(anchors=12, rois=8, masks=3, classes=4),
    "roi_align": dict(images=2, height=64, width=96, channels=4, rois=6, size=2, canonical=112),
    "nms": dict(boxes=100),
    "match": dict(images=2, anchors=50, objects=3, height=64, width=64),
    "paste": dict(masks=3, height=20, width=30),
    "optimizer": dict(arrays=3, shape=[3, 5]),
}


@pytest.fixture
def on_card(gpu, monkeypatch):
    return lambda: monkeypatch.setattr(ours, "DEVICE", "cuda")


def small(case):
    """The case with small sizes; direction and kind stay the same."""
    kept = {name: value for name, value in case.settings.items() if name in ("direction", "kind")}
    return case.piece, {**SETTINGS[case.piece], **kept}


def second_result(piece, settings):
    """The result of running a piece a second time: the first run must leave nothing behind."""
    run = ours.PIECES[piece](**settings)
    run()
    return fingerprint(ours.to_arrays(run()))


def test_each_kernel_does_the_same_work(on_card):
    cases = {str(small(case)): small(case) for case in all_cases("unused", "cuda") if case.group != "whole"}
    expected = {name: second_result(*case) for name, case in cases.items()}
    on_card()
    for name, case in cases.items():
        found = second_result(*case)
        assert [size for size, _ in found] == [size for size, _ in expected[name]], name
        assert [mean for _, mean in found] == pytest.approx([mean for _, mean in expected[name]], rel=1e-5), name
    assert len(cases) == 21


def test_our_side_on_a_card(gpu):
    """The process that runs minimask: what it reports about itself, times, and memory of the GPU."""
    install = "from tests.cuda_on_cpu import stand_in; stand_in.install(); " if hasattr(gpu, "no_sync") else ""
    code = f"{install}import sys; sys.argv[1:] = 'cuda', 'high'; from minimask.benchmark import ours; ours.main()"
    work = {"piece": "max_pool", "settings": {"direction": "forward", "shape": [1, 8, 6, 4]}}
    requests = [{"about": True}, {**work, "seconds": 0.001}, {**work, "memory": True}]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    place = dict(cwd=Path(__file__).resolve().parents[2], env={**os.environ, "NUMBA_NUM_THREADS": "1"})
    done = subprocess.run([sys.executable, "-c", code], input=lines, capture_output=True, text=True, **place)
    about, times, memory = map(json.loads, done.stdout.splitlines())
    assert "CuPy" in about["versions"] and about["versions"].endswith("precision high")
    assert times["seconds"][0] > 0 and 4 * 8 * 6 * 4 <= memory["peak"] < 2**30


@pytest.fixture
def small_models(monkeypatch):
    """Replaces the models of whole-model cases by one with few channels, and uses two pictures."""
    build = mask_rcnn.build

    def small(preset, num_classes, seed=0):
        return build("toy", num_classes=num_classes, seed=seed, **SMALL)

    monkeypatch.setattr(mask_rcnn, "build", small)
    samples = models.toy_samples()[:2]
    monkeypatch.setattr(models, "toy_samples", lambda: samples)


@pytest.mark.parametrize("graph", [False, True])
def test_training_step(on_card, small_models, graph):
    on_card()
    step = models.gpu_toy_step("unused", graph)
    losses = [float(ours.to_arrays(step())[0]) for _ in range(4)]
    assert all(1 < loss < 10 for loss in losses) and len(set(losses)) == 4
    assert common.times(step, 0.001, lambda: None)


def test_inference(on_card, small_models, tmp_path):
    from minimask.weights import to_torchvision

    model = mask_rcnn.build("resnet50_fpn", num_classes=91).eval()
    np.save(tmp_path / "photo.npy", models.blurred_noise(48, 64))
    np.savez(tmp_path / "resnet50_weights.npz", **to_torchvision(model.state_dict()))
    found = model.detect(model.transform([np.load(tmp_path / "photo.npy")]))
    expected = [a[found.valid] for a in (found.boxes, found.labels, found.scores, found.masks)]
    on_card()
    results = ours.to_arrays(models.gpu_inference(tmp_path)())
    assert [a.shape for a in results] == [a.shape for a in expected]
    for ours_, theirs in zip(results, expected):
        assert abs(ours_ - theirs).max(initial=0) <= 1e-4 * abs(theirs).max(initial=1)
