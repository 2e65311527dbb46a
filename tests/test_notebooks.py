"""The course itself: each notebook runs from a clean kernel and matches its source.

Each notebook is run once, within its own time limit, in the way students work: before the solution of an exercise, its
stub is run and checked, and the check must report that the function is not written yet.
"""

import copy

import pytest

NO_TOOLS = "the course's tools are not installed: pip install -e '.[teach]'"
nbformat = pytest.importorskip("nbformat", reason=NO_TOOLS)
for package in ("jupytext", "nbclient", "nbgrader", "nbconvert", "ipykernel"):
    pytest.importorskip(package, reason=NO_TOOLS)

from minimask import course  # noqa: E402
from minimask.course import coverage, exercises, notebooks  # noqa: E402

NAMES = """
00_start_here 01_tensors_and_autograd 02_convolution 03_backbone 04_feature_pyramid 05_anchors_and_boxes 06_rpn
07_matching_and_sampling 08_roi_align 09_box_head_and_nms 10_mask_head 11_losses 12_training 13_from_28x28_to_the_mask
14_measuring 15_keypoints 16_kernels 17_your_own_data 18_published_weights
""".split()
SOURCES = sorted(course.FOLDER.glob("[0-9]*.py"))
MISSING = sorted(set(NAMES) - {path.stem for path in SOURCES})
NOT_YET = f"not written yet: {', '.join(MISSING)}"
LONGEST = 240  # seconds, for the notebooks that train

each_notebook = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


@each_notebook
def test_notebook_is_what_its_source_says(path):
    assert path.stem in NAMES
    assert notebooks.differences(path) == []


@each_notebook
def test_notebook_runs_and_its_stubs_are_recognized(path):
    notebook = notebooks.read_source(path)
    limit = notebook.metadata.get("time_limit", notebooks.TIME_LIMIT)
    assert limit <= LONGEST
    students = copy.deepcopy(notebook)
    for step in exercises.STEPS[:1]:
        students, _ = step().preprocess(students, {})
    cells, tried = [], []
    for cell, stub in zip(notebook.cells, students.cells):
        if "exercise" in cell.metadata:
            tried.append(copy.deepcopy(notebook.cells[notebook.cells.index(cell) + 1]))
            tried[-1].metadata["tags"] = ["raises-exception"]
            cells += [stub, tried[-1]]
        cells.append(cell)
    notebook.cells = cells
    notebooks.execute(notebook, path.parent, limit)
    for cell in tried:
        said = [output.evalue for output in cell.outputs if output.output_type == "error"]
        assert len(said) == 1 and "not written yet" in said[0], f"the check of the stub of {cell.source} says {said}"


@each_notebook
def test_notebook_has_exercises(path):
    found = [cell for cell in notebooks.read_source(path).cells if "exercise" in cell.metadata]
    assert len(found) >= 3


@pytest.mark.skipif(bool(MISSING), reason=NOT_YET)
def test_every_slide_of_the_talks_has_a_section():
    assert coverage.problems() == []


@pytest.mark.skipif(bool(MISSING), reason=NOT_YET)
def test_guide_lists_the_sections():
    page = (course.FOLDER / "guide" / "slides.md").read_text(encoding="utf-8")
    assert coverage.markdown() in page, "python -m minimask coverage --markdown prints the table that is missing"


def test_sections_name_their_slides():
    if not SOURCES:
        pytest.skip(NOT_YET)
    assert [problem for problem in coverage.problems() if "no section teaches" not in problem] == []
