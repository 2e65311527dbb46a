"""The order in which pytest-xdist gets the tests names files that exist, and spreads only what is meant."""

from pathlib import Path

import pytest

pytest.importorskip("xdist", reason="pytest-xdist is not installed: pip install -e '.[test]'")

from tests import scheduling  # noqa: E402

TESTS = Path(__file__).resolve().parent


def test_the_files_of_the_order_exist():
    files = {path.name for path in TESTS.rglob("test_*.py")}
    named = {name for name in (*scheduling.SPREAD, *scheduling.LONGEST) if name.endswith(".py")}
    assert named <= files


def test_notebooks_of_the_order_exist():
    notebooks = {f"[{path.stem}]" for path in (TESTS.parent / "notebooks").glob("[0-9]*.py")}
    assert {name for name in scheduling.LONGEST if name.startswith("[")} <= notebooks


def test_a_file_is_one_unit_and_a_notebook_too():
    assert scheduling.unit("tests/test_boxes.py::test_iou[a::b]") == "tests/test_boxes.py"
    one = "tests/test_notebooks.py::test_notebook_runs_and_its_stubs_are_recognized[12_training]"
    assert scheduling.unit(one) == one


def test_what_takes_longest_comes_first():
    long = "tests/test_notebooks.py::test_notebook_runs_and_its_stubs_are_recognized[12_training]"
    other = "tests/test_notebooks.py::test_notebook_runs_and_its_stubs_are_recognized[05_anchors_and_boxes]"
    short = "tests/test_boxes.py::test_iou[12_training]"
    assert scheduling.rank(long) < scheduling.rank(other) < scheduling.rank(short)
