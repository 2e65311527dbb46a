"""The systems with region proposals on a GPU: losses, gradients and detections equal those of the CPU."""

import numpy as np
import pytest

import minimask
from tests.cuda_on_cpu.small_model import one_schedule, scenes
from tests.cuda_on_cpu.training import check_losses_and_gradients

SMALL = {
    "backbone": {"channels": [8, 8, 8, 8]},
    "rpn": {"samples": 16, "pre_nms": [40, 40], "post_nms": [20, 20]},
    "roi": {"samples": 8},
    "transform": {"min_size": 64, "max_size": 64},
}
HEADS = {"heads": {"box_width": 16, "mask_channels": [8], "mask_width": 8}}
SYSTEMS = {
    "fcis": {"system": {"parts": 2, "cells": 4, "width": 8}},
    "fcis, hard examples": {"system": {"parts": 2, "cells": 4, "width": 8, "hardest": 6}},
    "mnc": {"system": {"cells": 4, "mask_width": 8, "width": 8}},
    "tdm": {"system": {"lateral_channels": 4, "channels": 8}, **HEADS},
    "g_rmi": {"heads": {"box_width": 16}},
}


@pytest.mark.parametrize("name", SYSTEMS)
@one_schedule
def test_a_step_and_detections_equal_the_cpu(gpu, name):
    groups = {**SMALL, **SYSTEMS[name]}
    cpu, card = (minimask.build(name.split(",")[0], 4, seed=0, **groups) for _ in range(2))
    card.to("cuda")
    batch = scenes(cpu).batch(0)
    check_losses_and_gradients(gpu, cpu, card, batch, tolerance=1e-3)

    cpu.eval(), card.eval()
    expected, found = cpu.detect(batch), card.detect(batch.to("cuda")).to("cpu")
    assert expected.valid.sum() > 10
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert (found.masks is None) == (expected.masks is None) == (name == "g_rmi")
    if name != "g_rmi":
        np.testing.assert_allclose(found.masks[expected.valid], expected.masks[expected.valid], atol=1e-3)
