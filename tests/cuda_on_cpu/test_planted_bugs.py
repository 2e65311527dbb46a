"""Mistakes planted in the kernels. A test must find each of them, since a test that cannot fail proves nothing.

On a GPU, such mistakes give wrong numbers only now and then, or only for some shapes.
"""

import importlib
import inspect
import shutil
import sys
from dataclasses import dataclass, field

import pytest

from minimask import device, image
from minimask.kernels import cuda
from minimask.machine import gpu_steps
from tests.cuda_on_cpu.conftest import stand_in_or_skip
from tests.cuda_on_cpu.training import check_training_steps

CHECKED = 3  # the schedule that checks every memory access; see conftest.py


@dataclass
class Bug:
    file: str  # in kernels/
    right: str  # text in the file, and its replacement
    wrong: str
    test: str  # module.function
    arguments: dict = field(default_factory=dict)
    schedule: int = 0
    found: str = "."  # a pattern that the error must match


BUGS = {
    # memory
    "add: one number too many": Bug(
        "add.cu", "GRID_LOOP(i, count)", "GRID_LOOP(i, count + 1)", "test_add.test_add", {"shape": (3, 700)}, CHECKED,
        "reads outside of all arrays",
    ),
    "take: the last row again": Bug(
        "take.cu", "row / taken * rows + indices[row]", "row / taken * rows + indices[row] + 1",
        "test_take.test_take_of_rows_that_begin_between_words",
    ),
    "take: past the end": Bug(
        "take.cu", "array[from * words + i % words]", "array[from * words + i % words + 1]",
        "test_take.test_take_of_rows_that_begin_between_words", {}, CHECKED, "reads outside of all arrays",
    ),
    "max_pool: <= instead of <": Bug(
        "max_pool.cu", "row < min(rows, y / sy + 1)", "row <= min(rows, y / sy + 1)",
        "test_max_pool.test_the_pooling_of_resnet", {"channels": 3}, CHECKED, "outside of all arrays",
    ),
    "roi_pool: list of boxes past its end": Bug(
        "roi_pool.cu", "if (near) list[place] = r;", "list[place + 1] = r;",
        "test_roi_pool.test_more_boxes_than_a_block_has_threads", {}, CHECKED, "index outside|race",
    ),
    "conv: reads beyond the map": Bug(
        "conv_window.cuh", "(unsigned)x < s.g.width", "(unsigned)x <= s.g.width",
        "test_convolution.test_groups",
        {"groups": 3, "inner": 5, "outer": 16, "stride": 1, "dilation": 1},
    ),
    # barriers and atomics
    "block_sum: no barrier": Bug(
        "common.cuh", "if (lane == 0) sums[warp] = value;\n  __syncthreads();", "if (lane == 0) sums[warp] = value;",
        "test_losses.test_binary_cross_entropy", {"shape": (2, 200)}, CHECKED, "race",
    ),
    "block_sum: no second barrier": Bug(
        "common.cuh", "__syncthreads();  // sums may be used again", "",
        "test_optimizer.test_a_loss_that_is_not_finite_changes_nothing", {}, CHECKED, "race",
    ),
    "scatter_add: no barrier before the next tile": Bug(
        "scatter_add.cu", "__syncthreads();  // everyone is done with the tile before", "",
        "test_functional.test_taking_elements_by_index", {"name": "rows"}, CHECKED, "race",
    ),
    "match: no atomic": Bug(
        "match.cu", "atomicMax(&largest_here[g], __float_as_int(value));",
        "largest_here[g] = max(largest_here[g], __float_as_int(value));",
        "test_match.test_match_equals_its_array_code", {"n": 1, "a": 257, "g": 130, "shared": False}, CHECKED, "race",
    ),
    "match: the tile is overwritten too early": Bug(
        "match.cu", "    __syncthreads();\n    if (threadIdx.x < in_tile && largest_here",
        "    if (threadIdx.x < in_tile && largest_here",
        "test_match.test_match_equals_its_array_code", {"n": 1, "a": 257, "g": 130, "shared": False}, CHECKED, "race",
    ),
    "nms: no barrier before the walk": Bug(
        "nms.cu", "      __syncthreads();\n\n      if (threadIdx.x == 0) {", "      if (threadIdx.x == 0) {",
        "test_nms.test_nms_equals_its_array_code", {"images": 2, "count": 200, "max_kept": 20}, CHECKED, "race",
    ),
    "top_k: no atomic in the list": Bug(
        "top_k.cu", "list[atomicAdd(&found, 1)] = k;", "list[found++] = k;",
        "test_top_k.test_top_k_orders_equal_scores_by_index", {}, CHECKED, "race",
    ),
    "normalization: no barrier in the block's sum": Bug(
        "normalization.cu", "of_a[threadIdx.x] = a, of_b[threadIdx.x] = b;\n    __syncthreads();",
        "of_a[threadIdx.x] = a, of_b[threadIdx.x] = b;",
        "test_normalization.test_a_mean_far_from_zero", {}, CHECKED, "race",
    ),
    "keypoints: no barrier before the last warp": Bug(
        "keypoints.cu", "if (lane == 0) peaks[warp] = best;\n  __syncthreads();", "if (lane == 0) peaks[warp] = best;",
        "test_keypoints.test_the_peak_is_found_in_each_stripe", {}, CHECKED, "race",
    ),
    "roi_align: no barrier before the next weights": Bug(
        "roi_align.cu", "__syncthreads();  // before the next boxes' weights", "",
        "test_roi_align.test_more_boxes_than_a_block_has_threads", {}, CHECKED, "race",
    ),
    "roi_align: additions without atomics": Bug(
        "roi_align.cu", "atomicAdd(gmap + cell * channels, weight * g);", "gmap[cell * channels] += weight * g;",
        "test_roi_align.test_atomic_additions_give_the_same_sums", {"pooling": "average", "channels": 3}, CHECKED,
        "race",
    ),
    "conv_weights: the tile is overwritten too early": Bug(
        "conv_weights.cu", "if (step + 1 < steps) store((step + 1) % 2);", "if (step + 1 < steps) store(step % 2);",
        "test_convolution.test_several_tiles", {"shape": (1, 40, 18, 4, 4, 3), "enough": 1}, CHECKED, "race",
    ),
    "conv_tensor: no wait for the copies": Bug(
        "conv_tensor.cu", "copies_wait<STAGES - 2>();", "copies_wait<STAGES>();",
        "test_convolution.test_several_tiles_on_tensor_cores",
        {"precision": "high", "shape": (70, 1, 1, 200, 65, 1), "enough": 264},
    ),
    "conv_tensor: no barrier after the copies": Bug(
        "conv_tensor.cu", "    __syncthreads();            // for everybody", "    // for everybody",
        "test_convolution.test_several_tiles_on_tensor_cores",
        {"precision": "high", "shape": (70, 1, 1, 200, 65, 1), "enough": 264}, CHECKED, "race",
    ),
    "conv: no barrier before the next step": Bug(
        "conv_direct.cu", "if (step + 1 < steps) store((step + 1) % 2);\n    __syncthreads();",
        "if (step + 1 < steps) store((step + 1) % 2);",
        "test_convolution.test_several_tiles", {"shape": (1, 40, 18, 4, 4, 3), "enough": 1}, CHECKED, "race",
    ),
    # arithmetic
    "conv: one pixel too many": Bug(
        "conv_direct.cu", "if (pixel >= s.pixels()) continue;", "if (pixel > s.pixels()) continue;",
        "test_convolution.test_several_tiles", {"shape": (1, 40, 18, 4, 4, 3), "enough": 1}, CHECKED,
        "writes outside|reads outside",
    ),
    "conv_grouped: the weights' stride": Bug(
        "conv_grouped.cu", "weight[c * g.w_in]", "weight[c]",
        "test_convolution.test_groups", {"groups": 3, "inner": 5, "outer": 16, "stride": 1, "dilation": 1},
    ),
    "conv: ReLU before the residual": Bug(
        "conv_window.cuh", "if (residual) sum += residual[at];",
        "if (relu) sum = fmaxf(sum, 0); if (residual) sum += residual[at];",
        "test_convolution.test_groups", {"groups": 40, "inner": 1, "outer": 1, "stride": 1, "dilation": 1},
    ),
    "conv: the stride of the other axis": Bug(
        "conv_window.cuh", "left = s.x.start + p.column * s.x.stride;", "left = s.x.start + p.column * s.y.stride;",
        "test_convolution.test_groups", {"groups": 40, "inner": 1, "outer": 1, "stride": (1, 3), "dilation": (2, 1)},
    ),
    "roi_align: x and y exchanged": Bug(
        "roi_align.cu", "return map_axis(box[1], box[3], level.scale", "return map_axis(box[0], box[2], level.scale",
        "test_roi_align.test_tiny_maps_and_maps_larger_than_a_tile", {"shape": (2, 17, 9, 4)},
    ),
    "roi_align: a box at the tile's border is left out": Bug(
        "roi_align.cu", "fmaxf(axis.start, end) + 1 >= first", "fmaxf(axis.start, end) >= first + 1",
        "test_roi_align.test_tiny_maps_and_maps_larger_than_a_tile", {"shape": (2, 17, 9, 4)},
    ),
    "roi_align: half a pixel": Bug(
        "roi_align.cu", "aligned ? 0.5f : 0.0f", "0.0f",
        "test_roi_align.test_tiny_maps_and_maps_larger_than_a_tile", {"shape": (2, 17, 9, 4)},
    ),
    "max_pool: the last of equal values wins": Bug(
        "max_pool.cu", "value.at[v] > best.at[v]", "value.at[v] >= best.at[v]",
        "test_max_pool.test_nan_wins_and_minus_infinity_keeps_its_position",
    ),
    "boxes: height instead of width": Bug(
        "boxes.cu", "ww * logf(fmaxf(box.width, side)", "ww * logf(fmaxf(box.height, side)",
        "test_boxes.test_encode", {"shape": (2, 300), "weights": (10, 10, 5, 5)},
    ),
    "match: > instead of >=": Bug(
        "match.cu", "own_best >= high ? 1", "own_best > high ? 1",
        "test_match.test_an_iou_equal_to_a_limit_counts_as_above",
    ),
    "nms: >= instead of >": Bug(
        "nms.cu", "iou(chunk[i], candidate) > threshold", "iou(chunk[i], candidate) >= threshold",
        "test_nms.test_ties_and_the_exact_threshold",
    ),
    "top_k: the larger index of equal scores wins": Bug(
        "top_k.cu", "return (Key)~rising << 32 | index;", "return (Key)~rising << 32 | ~index;",
        "test_top_k.test_top_k_orders_equal_scores_by_index",
    ),
    "losses: the mean over too many elements": Bug(
        "losses.cu", "gz[i] = gradient / *n;", "gz[i] = gradient / count;",
        "test_losses.test_mask_loss", {"kind": "sigmoid", "boxes": 4, "size": 7, "channels": 3},
    ),
    "losses: e^z without subtracting the largest logit": Bug(
        "losses.cu", "total += expf(z[c] - largest);", "total += expf(z[c]) / expf(largest);",
        "test_losses.test_logits_that_overflow",
    ),
    "optimizer: decay before the gradient is scaled": Bug(
        "optimizer.cu", "g * scale + decay * p", "(g + decay * p) * scale",
        "test_optimizer.test_steps_equal_the_cpu", {"name": "SGD"},
    ),
    "normalization: the variance of a sample": Bug(
        "normalization.cu", "square / pixels - d * d", "square / (pixels - 1) - d * d",
        "test_normalization.test_passes_equal_the_array_code", {"shape": (2, 600, 64), "blocks": None},
    ),
    "paste_mask: the pixel's corner": Bug(
        "paste_mask.cu", "axis.offset + i + 0.5f", "axis.offset + i",
        "test_paste_mask.test_paste", {"height": 40, "width": 50, "whole_pixels": True},
    ),
    "resize: different rounding": Bug(
        "resize.cu", "return (y * high + h - 1) / h;", "return y * high / h;",
        "test_resize.test_resize", {"resize": image.resize_nearest, "name": "up, not a multiple"},
    ),
    "keypoints: the last of equal logits wins": Bug(
        "keypoints.cu", "a.y < b.y ||", "a.y > b.y ||",
        "test_keypoints.test_the_first_of_equal_logits_wins", {"height": 70, "width": 100},
    ),
}  # fmt: skip


def run(bug, folder):
    """Run the test of a bug with the sources in `folder`."""
    minicuda, stand_in = stand_in_or_skip()
    module, name = bug.test.split(".")
    test = getattr(importlib.import_module(f"tests.cuda_on_cpu.{module}"), name)
    arguments = dict(bug.arguments, gpu=stand_in)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minicuda, "ORDER", bug.schedule)
        patch.setattr(minicuda, "CHECK", bug.schedule == CHECKED)
        patch.setattr(cuda, "FOLDER", folder)
        patch.setattr(cuda, "_modules", {})
        for replaced, module in stand_in.MODULES.items():
            patch.setitem(sys.modules, replaced, module)
        if "monkeypatch" in inspect.signature(test).parameters:
            arguments["monkeypatch"] = patch
        if "precision" in arguments:
            patch.setattr(device, "_matmul_precision", arguments["precision"])
        test(**arguments)


@pytest.mark.parametrize("name", BUGS)
def test_planted_bugs_are_found(name, tmp_path):
    bug = BUGS[name]
    minicuda, _ = stand_in_or_skip()
    run(bug, cuda.FOLDER)  # without the bug, the test passes
    for path in [*cuda.FOLDER.glob("*.cu"), *cuda.FOLDER.glob("*.cuh")]:
        shutil.copy(path, tmp_path)
    text = (tmp_path / bug.file).read_text(encoding="utf-8")
    assert text.count(bug.right) == 1, f"{bug.file} contains {text.count(bug.right)} times {bug.right!r}"
    (tmp_path / bug.file).write_text(text.replace(bug.right, bug.wrong), encoding="utf-8")
    with pytest.raises((AssertionError, minicuda.KernelError), match=bug.found):
        run(bug, tmp_path)


# ---------------------------------------------------------------- mistakes of the host


def forget_wait_event(stand_in, patch):
    patch.setattr(stand_in.cuda.Stream, "wait_event", lambda self, event: None)


def forget_to_wait_for_results(stand_in, patch):
    patch.setattr(stand_in.cuda.Event, "synchronize", lambda self: None)


def look_at_a_loss(stand_in, patch):
    total = gpu_steps.sum_of
    patch.setattr(
        gpu_steps, "sum_of", lambda losses: total({name: loss * float(loss.data) for name, loss in losses.items()})
    )


@pytest.mark.parametrize(
    "plant, error",
    [
        (forget_wait_event, "."),
        (forget_to_wait_for_results, "nan|finite"),
        (look_at_a_loss, "float.*waits for the GPU"),
    ],
)
def test_mistakes_of_the_host_are_found(plant, error):
    minicuda, stand_in = stand_in_or_skip()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minicuda, "ORDER", 1)
        for replaced, module in stand_in.MODULES.items():
            patch.setitem(sys.modules, replaced, module)
        plant(stand_in, patch)
        with pytest.raises(
            (AssertionError, ArithmeticError, IndexError, RuntimeError, ValueError), match=f"(?i){error}"
        ):
            check_training_steps(stand_in, 3)
