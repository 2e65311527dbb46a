"""Proposals, samples and detections on the GPU equal those on the CPU, also in a CUDA graph, and nothing waits."""

import numpy as np
import pytest

from minimask import targets
from minimask.anchors import AnchorGenerator
from minimask.box_head import detect
from minimask.device import generator
from minimask.rpn import RPN
from minimask.run.model_settings import RoISettings, RPNSettings
from minimask.structures import Batch
from minimask.tensor import Tensor
from minimask.trace import Trace
from tests.cases import FixedNumbers, HostNumbers, head_outputs, no_sync

SIZES = np.array([[60, 90], [64, 40]])
SHAPES = (16, 24), (8, 12), (4, 6)
OBJECTS = dict(
    boxes=np.float32([[[3, 4, 20, 30], [40, 10, 80, 50], [0, 0, 90, 60]], [[5, 6, 30, 40], [0] * 4, [0] * 4]]),
    labels=np.array([[1, 2, 0], [2, 0, 0]]),
    crowd=np.array([[False, False, True], [False] * 3]),
    valid=np.array([[True, True, True], [True, False, False]]),
)


def case(seed=0):
    """An RPN, random logits (2, A) and random deltas (2, A, 4)."""
    sizes = (16,), (32,), (64,)
    rpn = RPN(8, RPNSettings(anchor_sizes=sizes, samples=32, pre_nms=(200, 150), post_nms=(120, 100)))
    rng, count = np.random.default_rng(seed), 3 * sum(h * w for h, w in SHAPES)
    logits = rng.normal(size=(2, count)).astype(np.float32)
    deltas = (0.3 * rng.normal(size=(2, count, 4))).astype(np.float32)
    return rpn, logits, deltas


def anchors_of(module):
    return AnchorGenerator(((16,), (32,), (64,)))(SHAPES, (64, 96), module)


def batch_of(module):
    arrays = {name: module.asarray(x) for name, x in OBJECTS.items()}
    return Batch(images=None, sizes=module.asarray(SIZES), original_sizes=None, **arrays)


@pytest.mark.parametrize("training", [True, False])
def test_proposals(gpu, training):
    rpn, *predictions = case()
    rpn.train(training)
    expected = rpn.proposals(*predictions, anchors_of(np), SIZES)
    anchors, sizes, on_card = anchors_of(gpu), gpu.asarray(SIZES), [gpu.asarray(x) for x in predictions]
    with no_sync(gpu):
        found = rpn.proposals(*on_card, anchors, sizes)
    assert found[0].dtype == np.float32 and found[0].shape == (2, 120 if training else 100, 4)
    np.testing.assert_array_equal(found[2].get(), expected[2])
    np.testing.assert_allclose(found[1].get(), expected[1], rtol=1e-6)
    np.testing.assert_allclose(found[0].get(), expected[0], rtol=1e-5, atol=1e-4)


def test_what_the_rpn_samples(gpu):
    rpn, *predictions = case()
    with Trace() as expected:
        losses = rpn.losses(*map(Tensor, predictions), anchors_of(np), batch_of(np), generator(5))
    with Trace() as found:
        tensors = [Tensor(gpu.asarray(x)) for x in predictions]
        on_card = rpn.losses(*tensors, anchors_of(gpu), batch_of(gpu), HostNumbers(gpu, 5))
    assert list(found) == list(expected) and expected["rpn_positive"].any()
    for name, x in expected.items():
        assert found[name].dtype == x.dtype
        np.testing.assert_allclose(found[name], x, rtol=1e-5, atol=1e-5, err_msg=name)
    for name, loss in losses.items():
        np.testing.assert_allclose(on_card[name].data.get(), loss.data, rtol=1e-5)


def sampled_rois(module, rng):
    """A function that calls `sample_rois` on the proposals of `case`, with arrays of `module`."""
    rpn, *predictions = case()
    batch = batch_of(module)
    boxes, _, valid = rpn.proposals(*map(module.asarray, predictions), anchors_of(module), batch.sizes)
    return lambda: targets.sample_rois(boxes, valid, batch, RoISettings(samples=48), rng)


def test_what_the_heads_sample(gpu):
    expected = sampled_rois(np, generator(6))()
    sample = sampled_rois(gpu, HostNumbers(gpu, 6))
    with no_sync(gpu):
        found = sample()
    assert expected[3].sum() > 3
    for a, b in zip(found[1:], expected[1:]):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.get(), b)
    np.testing.assert_allclose(found[0].get(), expected[0], rtol=1e-5, atol=1e-4)


def test_detect(gpu):
    logits, deltas, proposals = head_outputs()
    valid = np.random.default_rng(0).random((2, 40)) < 0.9
    expected = detect(logits, deltas, proposals, valid, SIZES, max_detections=30)
    on_card = [gpu.asarray(x) for x in (logits, deltas, proposals, valid, SIZES)]
    with no_sync(gpu):
        found = detect(*on_card, max_detections=30)
    assert expected.valid.sum() > 40
    np.testing.assert_array_equal(found.valid.get(), expected.valid)
    np.testing.assert_array_equal(found.labels.get(), expected.labels)
    np.testing.assert_allclose(found.scores.get(), expected.scores, rtol=1e-6)
    np.testing.assert_allclose(found.boxes.get(), expected.boxes, rtol=1e-5, atol=1e-4)


def test_in_a_graph(gpu):
    """The RPN's proposals and samples are captured once; the replay computes them from different numbers."""
    rpn, *first = case(0)
    _, *second = case(1)
    (logits, deltas), anchors, batch = map(gpu.asarray, first), anchors_of(gpu), batch_of(gpu)
    total = sum(len(x) for x in anchors)
    priorities = [np.random.default_rng(i).random((2, total), dtype=np.float32) for i in range(2)]
    static = FixedNumbers(gpu.asarray(priorities[0]))

    def step():
        boxes, _, valid = rpn.proposals(logits, deltas, anchors, batch.sizes)
        losses = rpn.losses(Tensor(logits), Tensor(deltas), anchors, batch, static)
        return boxes, valid, *(loss.data for loss in losses.values())

    pool, stream = gpu.cuda.MemoryPool(), gpu.cuda.Stream(non_blocking=True)
    with stream, gpu.cuda.using_allocator(pool.malloc):
        step()  # compiles the kernels and sends tables before the capture
        stream.begin_capture()
        results = step()
        graph = stream.end_capture()
        logits[...], deltas[...] = map(gpu.asarray, second)
        static.numbers[...] = gpu.asarray(priorities[1])
        graph.launch(stream)
        stream.synchronize()
    boxes, _, valid = rpn.proposals(*second, anchors_of(np), SIZES)
    losses = rpn.losses(*map(Tensor, second), anchors_of(np), batch_of(np), FixedNumbers(priorities[1]))
    np.testing.assert_array_equal(results[1].get(), valid)
    np.testing.assert_allclose(results[0].get(), boxes, rtol=1e-5, atol=1e-4)
    for found, loss in zip(results[2:], losses.values()):
        np.testing.assert_allclose(found.get(), loss.data, rtol=1e-5)


def test_float64_runs_the_array_code(gpu):
    """Gradient checks run in float64, for which there are no kernels; the results equal those on the CPU."""
    rpn, *predictions = case()
    predictions = [x.astype(np.float64) for x in predictions]
    anchors = [x.astype(np.float64) for x in anchors_of(np)]
    expected = rpn.proposals(*predictions, anchors, SIZES)
    on_card = [gpu.asarray(x) for x in predictions]
    found = rpn.proposals(*on_card, [gpu.asarray(x) for x in anchors], gpu.asarray(SIZES))
    for a, b in zip(found, expected):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a.get(), b, rtol=1e-12)
    every = np.concatenate(anchors)[None]
    objects = OBJECTS["boxes"].astype(np.float64), OBJECTS["valid"] & ~OBJECTS["crowd"], OBJECTS["crowd"]
    expected = targets.match(every, *objects, 0.3, 0.7, allow_low_quality=True)
    found = targets.match(*map(gpu.asarray, (every, *objects)), 0.3, 0.7, allow_low_quality=True)
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a.get(), b)
