"""The page of every notebook in the book, in a browser: all figures and formulas are there."""

import pytest

NO_TOOLS = "the course's tools are not installed: pip install -e '.[teach]'"
pytest.importorskip("nbformat", reason=NO_TOOLS)
for package in ("jupytext", "nbconvert", "myst_nb"):
    pytest.importorskip(package, reason=NO_TOOLS)

from minimask import course  # noqa: E402
from minimask.course import book  # noqa: E402
from tests import browser  # noqa: E402

SOURCES = sorted(course.FOLDER.glob("[0-9]*.py"))
each_notebook = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of the book on this machine."""
    folder = tmp_path_factory.mktemp("book") / "pages"
    book.write(folder)
    with browser.serve(folder) as address:
        yield address


@each_notebook
def test_pages_of_the_book_show_their_figures(path, address, chromium):
    with browser.open_page(chromium) as opened:
        page = opened.go(f"{address}/{path.stem}.html")
        assert browser.broken_images(page) == []
        assert page.locator("article h1").count() >= 1
        assert page.locator(".merror, [data-mml-node=merror]").count() == 0  # formulas that MathJax cannot read
