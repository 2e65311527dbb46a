"""The slides of every notebook in a browser: nothing is cut off, all figures and slides are there."""

import pytest

NO_TOOLS = "the course's tools are not installed: pip install -e '.[teach]'"
nbformat = pytest.importorskip("nbformat", reason=NO_TOOLS)
for package in ("jupytext", "nbconvert"):
    pytest.importorskip(package, reason=NO_TOOLS)

from minimask import course  # noqa: E402
from minimask.course import notebooks, slides  # noqa: E402
from tests import browser  # noqa: E402

SOURCES = sorted(course.FOLDER.glob("[0-9]*.py"))
each_notebook = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def lectures(tmp_path_factory):
    """The folder of the slides."""
    folder = tmp_path_factory.mktemp("lectures")
    slides.write(folder)
    return folder


@each_notebook
def test_slides_fit_and_show_their_figures(path, lectures, chromium):
    built = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    with browser.open_page(chromium) as opened:
        seen = browser.look_at_slides(opened, (lectures / f"{path.stem}.html").as_uri())
    problems = [f"slide {i + 1} ({slide.title}): {text}" for i, slide in enumerate(seen) for text in slide.problems]
    assert not problems, "\n".join(problems)
    assert len(seen) == notebooks.slide_count(built)
    assert sum(slide.figures for slide in seen) == sum(map(figures_on_slides, built.cells))


def figures_on_slides(cell):
    """The number of figures of a cell that are on a slide."""
    shown = notebooks.slide_type(cell) in slides.ON_SLIDES and "hide-output" not in cell.metadata.get("tags", [])
    return sum("image/png" in output.get("data", {}) for output in cell.get("outputs", [])) if shown else 0
