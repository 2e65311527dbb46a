"""Shared by the tests of the exercises' checks: tests of right and wrong answers, and the constants of a notebook."""

import ast
import re

import pytest

from minimask import course
from minimask.check import CHECKS, CheckFailed


def tests_of(right, wrong):
    """Make two tests: right answers pass, and for wrong ones the message names case and mistake.

    right: dict from the name of a check to a function that solves it.
    wrong: tuples of the check's name, a wrong function, words of the case in which it fails, words of the message.
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
    """The literal that a notebook's source (its file name without .py) assigns to a name."""
    for line in ast.parse((course.FOLDER / f"{notebook}.py").read_text(encoding="utf-8")).body:
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == name:
            return ast.literal_eval(line.value)
    raise AssertionError(f"{notebook} has no constant {name}")
