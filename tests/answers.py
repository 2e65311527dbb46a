"""Helpers for the tests of the exercises' checks: tests of right and wrong answers, and constants of notebooks."""

import ast
import re

import numpy as np
import pytest

from minimask import course
from minimask.check import CHECKS, CheckFailed


def tests_of(right, wrong):
    """Make two tests: right answers pass, and the message about a wrong answer names the case and the mistake.

    right: dict from the name of a check to a function that solves the exercise.
    wrong: tuples of the check's name, a wrong function, words from the case in which it fails, words from the message.
    """

    @pytest.mark.parametrize("name", right)
    def right_answers_pass(name, capsys):
        CHECKS[name](right[name])
        assert capsys.readouterr().out.startswith(f"{name}: correct in")

    @pytest.mark.parametrize("name, function, case, says", wrong)
    def wrong_answers_are_named(name, function, case, says):
        with pytest.raises(CheckFailed, match=re.escape(says)) as failed:
            CHECKS[name](function)
        assert case in str(failed.value)

    return right_answers_pass, wrong_answers_are_named


def shown_in(notebook, name):
    """The literal assigned to `name` in a notebook's source. notebook: its file name without .py."""
    for line in ast.parse((course.FOLDER / f"{notebook}.py").read_text(encoding="utf-8")).body:
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == name:
            return ast.literal_eval(line.value)
    raise AssertionError(f"{notebook} has no constant {name}")


# --------------------------------------------------------------- right answers that several notebooks use

LARGEST = np.log(1000 / 16)


def conv(x, w):
    y = np.zeros((*x.shape[:2], w.shape[3]))
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    for i, j in np.ndindex(3, 3):
        y += padded[i : i + x.shape[0], j : j + x.shape[1]] @ w[i, j]
    return y


def box_area(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def iou(a, b):
    result = np.zeros((len(a), len(b)))
    for i, (x1, y1, x2, y2) in enumerate(a):
        for j, (u1, v1, u2, v2) in enumerate(b):
            shared = max(0, min(x2, u2) - max(x1, u1)) * max(0, min(y2, v2) - max(y1, v1))
            union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared
            result[i, j] = shared / union if union > 0 else 0
    return result


def decode(deltas, anchors, weights, largest=LARGEST):
    deltas, size = deltas / weights, anchors[:, 2:] - anchors[:, :2]
    center = (anchors[:, :2] + anchors[:, 2:]) / 2 + deltas[:, :2] * size
    size = size * np.exp(np.minimum(deltas[:, 2:], largest))
    return np.concatenate([center - size / 2, center + size / 2], axis=1)
