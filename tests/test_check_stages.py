"""check.stage: the library's own functions pass, and a difference is named with stage, case, index and both values."""

import functools

import numpy as np
import pytest

from minimask import boxes, check, losses, roi_align
from minimask.__main__ import main
from minimask.check import CheckFailed
from minimask.tensor import Tensor


@pytest.mark.parametrize("name", check.STAGES)
def test_the_library_passes(name, capsys):
    check.stage(name, check.STAGES[name].library, tensors=True)
    assert f'stage "{check.STAGES[name].library.__name__}": correct in' in capsys.readouterr().out


@pytest.mark.parametrize("name", check.STAGES)
def test_arrays_are_passed_and_another_result_fails(name):
    stage = check.STAGES[name]

    @functools.wraps(stage.library)
    def wrong(*arguments):
        assert not any(isinstance(argument, Tensor) for argument in arguments)
        result = stage.library(*[_wrapped(stage, i, a) for i, a in enumerate(arguments)])
        results = result if isinstance(result, tuple) else (result,)
        changed = np.array(results[0].data if isinstance(results[0], Tensor) else results[0])
        changed = ~changed if changed.dtype == bool else changed + 1
        return (changed, *results[1:]) if len(results) > 1 else changed

    with pytest.raises(AssertionError, match=f'stage "{stage.library.__name__}", "the defaults"') as failed:
        check.stage(name, wrong)
    assert " is " in str(failed.value) and "expected" in str(failed.value)


def _wrapped(stage, position, value):
    name = list(stage.random(np.random.default_rng(0)))[position : position + 1]
    if not name or name[0] not in stage.tensors:
        return value
    return [Tensor(item) for item in value] if isinstance(value, list) else Tensor(value)


def test_the_message_names_index_expected_and_found():
    def my_iou(a, b):
        table = boxes.iou(a, b)
        table[2:3, 1:2] = 7
        return table

    with pytest.raises(CheckFailed, match=r"The result at \[2, 1\] is 7, expected 0") as failed:
        check.stage("iou", my_iou)
    assert failed.value.index == (2, 1)


def test_without_a_case_of_the_signature():
    def my_nms(boxes_, scores, valid, threshold):
        return boxes.nms(boxes_, scores, valid, threshold)

    with pytest.raises(CheckFailed, match="cannot be called with the 5 arguments boxes, scores, valid, threshold, max"):
        check.stage("nms", my_nms)


def test_callable_objects(capsys):
    check.stage(
        "class_loss", functools.partial(lambda function, z, *rest: function(Tensor(z), *rest), losses.class_loss)
    )
    assert "correct" in capsys.readouterr().out


def test_places_without_a_box_may_hold_any_index(capsys):
    def my_nms(*arguments):
        indices, valid = boxes.nms(*arguments)
        return np.where(valid, indices, 12345), valid

    check.stage("nms", my_nms)
    assert "correct" in capsys.readouterr().out


def test_a_pooling_function_for_the_model_gets_tensors(capsys):
    def my_roi_align(features, *arguments):
        assert all(isinstance(feature, Tensor) for feature in features)
        return roi_align.roi_align(features, *arguments)

    check.stage("roi_align", my_roi_align, tensors=True)
    assert "correct" in capsys.readouterr().out


def test_unknown_stages():
    with pytest.raises(ValueError, match="there is no stage 'roialign'; did you mean 'roi_align'?"):
        check.stage("roialign", print)
    with pytest.raises(ValueError, match="there is no stage 'xyz'; there are: anchors, cell_anchors, iou"):
        check.stage("xyz", print)
    with pytest.raises(CheckFailed, match="this is an array of shape"):
        check.stage("iou", np.zeros(3))


def test_list_names_every_check_and_stage_with_its_signature(capsys):
    assert main(["check", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Checks of notebook 00") and "    my_iou(a, b)" in lines
    assert sum(line.startswith("    my_") for line in lines) == len(check.CHECKS)
    assert "    nms: nms(boxes, scores, valid, threshold, max_kept=None, groups=None)" in lines


def test_a_misspelled_function_is_named(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("from minimask.boxes import iou as my_box_iou, area as my_box_area\n")
    assert main(["check", str(path)]) == 0
    assert "skip  my_box_iou matches no check, did you mean iou?" in capsys.readouterr().out


def test_a_file_is_needed(capsys):
    assert main(["check"]) == 2
    assert "--list for the names of all checks" in capsys.readouterr().err
