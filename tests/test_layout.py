"""The package stays readable in an afternoon: how long its files and functions are, and what one step is made of."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import minimask
from minimask import boxes, convolution, keypoint_head, losses, mask_head, normalization, roi_align, roi_pool, targets
from tests.lecture import ENGINE, STAGES

ROOT = Path(minimask.__file__).resolve().parent
FILES = sorted(ROOT.rglob("*.py"))
KERNELS = sorted((ROOT.parent / "kernels").glob("*.py"))


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def test_the_engine_and_the_stages_are_short():
    assert sum(lines(ROOT / f"{name}.py") for name in ENGINE + STAGES) <= 4500


def test_the_flat_files_are_the_lecture():
    flat = {path.stem for path in ROOT.glob("*.py")} - {"__init__", "__main__"}
    about_the_model = {"presets", "conventions", "trace", "train", "evaluate", "checkpoint", "errors"}
    assert flat == {*ENGINE, *STAGES, *about_the_model}
    assert len(flat) <= 30


def test_one_step_is_in_the_twenty_files_that_the_docstring_names():
    part = minimask.__doc__.split("One training step is in these twenty files")[1].split("How an operation")[0]
    named = re.findall(r"(\w+\.py)", part)
    assert len(named) == len(set(named)) == 20
    assert sum(lines(ROOT / name) for name in named) <= 4000


@pytest.mark.parametrize("path", FILES + KERNELS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_file_over_400_lines_and_no_function_over_60(path):
    assert lines(path) <= 400
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


@pytest.mark.parametrize(
    "module", [boxes, convolution, keypoint_head, losses, mask_head, normalization, roi_align, roi_pool, targets]
)
def test_the_source_of_an_operation_is_its_algorithm(module):
    operations = [f for f in vars(module).values() if hasattr(f, "plain") and f.__module__ == module.__name__]
    assert operations
    for operation in operations:
        source = inspect.getsource(operation)
        assert "@accelerated(" in source and len(source.splitlines()) < 40
