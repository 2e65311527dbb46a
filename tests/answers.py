"""What the tests of the exercises' checks share: right and wrong answers, and constants that a notebook shows."""

import ast
import re

import pytest

from minimask import course
from minimask.check import CHECKS, CheckFailed


def tests_of(right, wrong):
    """Two tests: that right answers pass, and that wrong ones are named.

    right: name of a check -> a function that solves it. wrong: tuples of the check's name, a function that does not,
    words that name the case it fails in, words that say what is wrong.
    """

    @pytest.mark.parametrize("name", right)
    def right_answers_pass(name, capsys):
        CHECKS[name](right[name])
        assert capsys.readouterr().out.startswith(f"{name}: right")

    @pytest.mark.parametrize("name, function, case, says", wrong)
    def wrong_answers_are_named(name, function, case, says):
        with pytest.raises(CheckFailed, match=re.escape(says)) as failed:
            CHECKS[name](function)
        assert case in str(failed.value)

    return right_answers_pass, wrong_answers_are_named


def shown_in(notebook, name):
    """The literal that the source of a notebook (its file's name without .py) assigns to a name."""
    for line in ast.parse((course.FOLDER / f"{notebook}.py").read_text(encoding="utf-8")).body:
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == name:
            return ast.literal_eval(line.value)
    raise AssertionError(f"{notebook} has no constant {name}")
