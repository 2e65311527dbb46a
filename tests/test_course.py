"""The course's tools, tested on a course of one notebook: sources, notebooks, hand-out, slides, book, coverage."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minimask.course import check_file, commands
from minimask.errors import InputError

NO_TOOLS = "the course's tools are not installed: pip install -e '.[teach]'"
nbformat = pytest.importorskip("nbformat", reason=NO_TOOLS)
for package in ("jupytext", "nbclient", "nbgrader", "nbconvert", "ipykernel"):
    pytest.importorskip(package, reason=NO_TOOLS)

from minimask.check.engine import CheckFailed  # noqa: E402
from minimask.course import coverage, exercises, notebooks  # noqa: E402
from tests import browser  # noqa: E402

SOURCE = '''\
# ---
# jupyter:
#   minutes: 7
# ---

# %% [markdown] slides=["L13"] slideshow={"slide_type": "slide"}
# # Halves (L13)
#
# What is half of $x$?
#
# $$y = \\frac{x}{2}$$

# %% [markdown] slideshow={"slide_type": "notes"}
# Ask the room first.

# %%
import matplotlib.pyplot as plt
import numpy as np

from minimask.check.engine import Check

HALF = Check(lambda x: x / 2, {"three": dict(x=np.array([1.0, 2.0, 3.0]))}, covers="three numbers", name="half")

# %% [markdown] slides=["L14", "L15"] slideshow={"slide_type": "slide"}
# ## Halving twice (L14-L15)

# %% slideshow={"slide_type": "fragment"}
half = np.arange(3) / 2
print(half)

# %% [markdown]
# Now you.

# %% exercise="half"
def my_half(x):
    """Half of each element of x, an array of any shape; x stays as it is."""
    ### BEGIN SOLUTION
    return x / 2
    ### END SOLUTION

# %% check="half"
HALF(my_half)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ## A picture

# %% slideshow={"slide_type": "-"}
print("this is not on a slide")

# %% slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(9, 4.5))
axes.plot(my_half(np.arange(10.0)))
axes.set_xlabel("x")
axes

# %% tags=["raises-exception"]
HALF(lambda x: x + 1)
'''


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A folder with the source of one notebook, and the notebook built from it."""
    folder = tmp_path_factory.mktemp("course") / "notebooks"
    folder.mkdir()
    (folder / "03_halves.py").write_text(SOURCE)
    (folder / "slides.json").write_text(json.dumps({"L13": "map", "L14": "divide", "L15": "sample"}))
    run("notebooks", "--notebooks", folder)
    return folder


def run(name, *arguments):
    """Run one of the course's commands. Returns its exit status."""
    parser = argparse.ArgumentParser(prog=f"minimask {name}")
    _, _, add_arguments, main = commands.COMMANDS[name]
    add_arguments(parser)
    return main(parser.parse_args([str(a) for a in arguments])) or 0


def changed(course, tmp_path, old, new):
    """Copy the course, change the source of its notebook without building it again, and return the source's path."""
    for path in course.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    source = tmp_path / "03_halves.py"
    assert old in SOURCE
    source.write_text(SOURCE.replace(old, new))
    return source


# ------------------------------------------------------------------------------------------------------ the notebooks


def test_notebook_has_outputs(course):
    notebook = nbformat.read(course / "03_halves.ipynb", as_version=4)
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert "half: correct in 1 case (three numbers).\n" in [o.get("text") for o in outputs]
    assert [o["data"]["text/plain"] for o in outputs if o.output_type == "execute_result"] == ["<Axes: xlabel='x'>"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 2  # the plot, and the picture of the failing check
    (error,) = [o for o in outputs if o.output_type == "error"]
    assert error.traceback[0].startswith('CheckFailed: half, "three":') and "engine.py" not in str(error.traceback)


def test_nbgrader_metadata(course):
    cells = nbformat.read(course / "03_halves.ipynb", as_version=4).cells
    found = [cell.metadata.nbgrader for cell in cells if "nbgrader" in cell.metadata]
    assert [(m.grade_id, m.solution, m.grade) for m in found] == [("half", True, False), ("half_check", False, True)]


def test_building_again_changes_nothing(course):
    before = (course / "03_halves.ipynb").read_bytes()
    run("notebooks", "3", "--notebooks", course)
    assert (course / "03_halves.ipynb").read_bytes() == before


def test_check_prints_nothing_if_nothing_differs(course, capsys):
    assert run("notebooks", "--check", "--notebooks", course) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("x / 2\n", "x * 2\n", "differs in its source"),
        ('"slide_type": "subslide"', '"slide_type": "slide"', "cell 8 differs in its metadata: ## A picture"),
        ("minutes: 7", "minutes: 8", "the notebook's metadata differ"),
        ("# Now you.", "# Now you.\n\n# %%\n1 + 1", "has 12 cells, 03_halves.py has 13"),
    ],
)
def test_check_finds_what_differs(course, tmp_path, capsys, old, new, said):
    changed(course, tmp_path, old, new)
    assert run("notebooks", "--check", "--notebooks", tmp_path) == 1
    assert said in capsys.readouterr().out


def test_check_finds_what_was_not_run(course, tmp_path):
    source = changed(course, tmp_path, "1.0", "1.0")
    nbformat.write(notebooks.read_source(source), source.with_suffix(".ipynb"))
    assert notebooks.differences(source) == [
        "03_halves.ipynb: cell 2 was not run: import matplotlib.pyplot as plt",
        "03_halves.ipynb: cell 4 was not run: half = np.arange(3) / 2",
        *notebooks.differences(source)[2:],
    ]


@pytest.mark.parametrize(
    "old, new, said",
    [
        ('# %% check="half"', "# %%", "exercise 'half': the next cell must carry check='half'"),
        ('# %% exercise="half"', "# %%", "a cell with a solution has no exercise=NAME"),
        ("    ### END SOLUTION\n", "", "needs ### BEGIN SOLUTION and ### END SOLUTION"),
    ],
)
def test_incomplete_exercise(course, tmp_path, old, new, said):
    with pytest.raises(InputError, match=re.escape(said)):
        notebooks.read_source(changed(course, tmp_path, old, new))


def test_cell_that_fails_is_named(course, tmp_path, capsys):
    changed(course, tmp_path, "half = np", "1 / 0\nhalf = np")
    with pytest.raises(InputError, match="ZeroDivisionError"):
        run("notebooks", "--notebooks", tmp_path)
    assert (tmp_path / "03_halves.ipynb").read_bytes() == (course / "03_halves.ipynb").read_bytes()


def test_cell_that_takes_too_long_is_stopped(course, tmp_path):
    changed(course, tmp_path, "minutes: 7", "time_limit: 3")
    source = tmp_path / "03_halves.py"
    source.write_text(source.read_text().replace("print(half)", "import time; time.sleep(100)"))
    with pytest.raises(InputError, match="did not finish within 3 seconds"):
        run("notebooks", "--notebooks", tmp_path)


def test_no_such_notebook(course):
    with pytest.raises(InputError, match="there is no notebook 7, only 03"):
        run("notebooks", "7", "--notebooks", course)


def test_links_to_hosted_notebooks(course, monkeypatch):
    assert "colab" not in notebooks.read_source(course / "03_halves.py").cells[0].source
    monkeypatch.setattr(notebooks.course, "REPOSITORY", "https://github.com/somebody/something")
    first = notebooks.read_source(course / "03_halves.py").cells[0].source
    assert "https://colab.research.google.com/github/somebody/something/blob/HEAD/notebooks/03_halves.ipynb" in first
    assert "https://mybinder.org/v2/gh/somebody/something/HEAD?labpath=notebooks/03_halves.ipynb" in first


def test_build_in_another_folder(course, tmp_path):
    run("notebooks", "--notebooks", course, "--output", tmp_path)
    assert (tmp_path / "03_halves.ipynb").read_bytes() == (course / "03_halves.ipynb").read_bytes()
    assert run("coverage", "--notebooks", tmp_path) == 0
    (tmp_path / "03_halves.py").write_text("# %%\n1 + 1\n")
    with pytest.raises(InputError, match="03_halves.py: differs from the course's own"):
        run("notebooks", "--notebooks", course, "--output", tmp_path)


# ------------------------------------------------------------------------------------------------------ the exercises


def test_students_stubs_fail_and_solutions_pass(course):
    master = notebooks.read_source(course / "03_halves.py")
    students = exercises.student_copy(master)
    names, without_solution = {}, {}
    for cell, stub in zip([c for c in master.cells if notebooks.slide_type(c) != "notes"], students.cells, strict=True):
        if cell.cell_type != "code" or "raises-exception" in cell.metadata.get("tags", []):
            continue
        if "check" in cell.metadata:
            with pytest.raises(CheckFailed, match="my_half is not written yet"):
                exec(stub.source, without_solution)
        elif "exercise" in cell.metadata:
            assert "SOLUTION" not in stub.source and "x / 2" not in stub.source
            assert '"""Half of each element' in stub.source
            without_solution = dict(names)
            exec(stub.source, without_solution)
        exec(cell.source, names)


def test_students_copies_have_no_outputs(course, tmp_path):
    run("exercises", tmp_path / "handout", "--notebooks", course)
    notebook = nbformat.read(tmp_path / "handout" / "03_halves.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    stub = next(cell for cell in notebook.cells if "exercise" in cell.metadata)
    assert stub.source.endswith("    # YOUR CODE HERE\n    raise NotImplementedError()")


def test_students_work_is_not_overwritten(course, tmp_path):
    run("exercises", tmp_path, "--notebooks", course)
    run("exercises", tmp_path, "--notebooks", course)  # nobody has worked in them yet
    path = tmp_path / "03_halves.ipynb"
    work = path.read_text().replace("raise NotImplementedError()", "return x / 2")
    path.write_text(work)
    with pytest.raises(InputError, match="03_halves.ipynb: exists already and may hold somebody's work"):
        run("exercises", tmp_path, "--notebooks", course)
    assert path.read_text() == work
    run("exercises", tmp_path, "--notebooks", course, "--overwrite")
    assert path.read_text() != work


# --------------------------------------------------------------------------------------------- the check of a file


@pytest.fixture
def one_check(monkeypatch):
    """There are two checks: of a function that halves, and of one that divides by three."""
    from minimask import check

    half = check.Check(lambda x: x / 2, {"three": dict(x=np.array([1.0, 2.0, 3.0]))}, covers="numbers", name="half")
    third = check.Check(lambda x: x / 3, {"three": dict(x=np.array([1.0, 2.0, 3.0]))}, covers="numbers", name="third")
    monkeypatch.setattr(check, "CHECKS", {"half": half, "third": third})


@pytest.mark.parametrize(
    "source, status, said",
    [
        ("def my_half(x):\n    return x / 2\n", 0, "pass  half: correct in 1 case (numbers).\n1 passed, 0 failed\n"),
        (
            "def half(x):\n    return x / 3\n",
            1,
            'FAIL  half, "three":\n    half(x=[1., 2., 3.])\nThe result at [0] is ',
        ),
        (
            "def half(x):\n    raise NotImplementedError\n",
            1,
            "todo  half: half is not written yet.\n0 passed, 1 failed",
        ),
    ],
)
def test_file(one_check, tmp_path, capsys, source, status, said):
    path = tmp_path / "mine.py"
    path.write_text(source)
    assert run("check", path) == status
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    "source, arguments, said",
    [
        ("x = 1 / 0\n", [], "stops in line 1 with ZeroDivisionError: division by zero"),
        ("def half(x)\n", [], "stops in line 1 with SyntaxError"),
        ("import sys\nsys.exit('done')\n", [], "stops in line 2 with SystemExit: done"),
        ("y = 1\n", [], "has no function my_NAME with NAME one of: half, third"),
        ("def half(x):\n    return x / 2\n", ["--only", "third"], "has no function my_NAME with NAME one of: third"),
        ("", ["--only", "quarter"], "there is no check 'quarter'; there are: half, third"),
    ],
)
def test_file_that_cannot_be_checked(one_check, tmp_path, source, arguments, said):
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(InputError, match=re.escape(said)):
        run("check", path, *arguments)


def test_file_named_by_a_relative_path(one_check, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("\nx = 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="mine.py: stops in line 2 with ZeroDivisionError"):
        run("check", "mine.py")


def test_function_that_matches_no_check(one_check, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("def my_half(x):\n    return x / 2\n\ndef my_thrid(x):\n    return x / 3\n")
    assert run("check", path) == 0
    assert "skip  my_thrid matches no check, did you mean third?" in capsys.readouterr().out


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        check_file.load(tmp_path / "nothing.py")


# ------------------------------------------------------------------------------------------------------- the coverage


def test_coverage(course, capsys):
    assert run("coverage", "--notebooks", course) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["L13", "map", "03_halves", "Halves", "(L13)"],
        ["L14", "divide", "03_halves", "Halving", "twice", "(L14-L15)"],
        ["L15", "sample", "03_halves", "Halving", "twice", "(L14-L15)"],
    ]
    assert lines[-1] == "all 3 slides have a section"


@pytest.mark.parametrize(
    "old, new, said",
    [
        ('slides=["L13"]', "", "no section teaches L13 (map)"),
        ('slides=["L13"]', 'slides=["L13", "L99"]', "03_halves: slide L99 is not in slides.json"),
        ("(L14-L15)", "(L14)", "03_halves: no heading with L15 in it: 'Halving twice (L14)'"),
    ],
)
def test_coverage_with_problems(course, tmp_path, capsys, old, new, said):
    changed(course, tmp_path, old, new)
    assert run("coverage", "--notebooks", tmp_path) == 1
    assert said in capsys.readouterr().out
    assert said in coverage.problems(tmp_path)


# ------------------------------------------------------------------------------------------------- slides and the book


@pytest.fixture(scope="module")
def lectures(course, tmp_path_factory):
    """The folder of the slides."""
    folder = tmp_path_factory.mktemp("lectures")
    run("slides", folder, "--notebooks", course)
    return folder


@pytest.fixture(scope="module")
def pages(course, tmp_path_factory):
    """The folder of the book."""
    pytest.importorskip("myst_nb", reason=NO_TOOLS)
    folder = tmp_path_factory.mktemp("book") / "pages"
    run("book", folder, "--notebooks", course)
    return folder


def test_slides_show_what_is_marked(lectures):
    text = (lectures / "03_halves.html").read_text()
    assert "this is not on a slide" not in text and "Now you" not in text
    assert "np.arange(3)" in re.sub("<[^>]*>", "", text)  # code ...
    assert "plt.subplots" not in re.sub("<[^>]*>", "", text) and "&lt;Axes" not in text  # ... but not that of a figure
    assert re.findall('alt="(.*?)"', text) == ["Figure: A picture"]
    assert "7 min" in (lectures / "index.html").read_text()


def test_slides_in_a_browser(lectures):
    with browser.open_browser() as opened:
        slides = browser.look_at_slides(opened, (lectures / "03_halves.html").as_uri())
        assert [slide.title for slide in slides] == ["Halves (L13)", "Halving twice (L14-L15)", "A picture"]
        assert [slide.problems for slide in slides] == [[], [], []]
        assert [slide.figures for slide in slides] == [0, 0, 1]
        assert [slide.formulas for slide in slides] == [2, 0, 0]
        assert slides[0].notes == "Ask the room first."


def test_speaker_notes_open_in_a_window(lectures):
    with browser.open_browser() as opened:
        page = opened.go((lectures / "03_halves.html").as_uri())
        page.wait_for_function("window.Reveal && Reveal.isReady()")
        with page.expect_popup() as popup:
            page.keyboard.press("s")
        popup.value.get_by_text("Ask the room first.").wait_for()


def test_a_figure_below_many_lines_becomes_smaller(course, tmp_path):
    lines = "\n".join(f"# - line {i}" for i in range(6))
    changed(course, tmp_path, "# ## A picture", f"# ## A picture\n#\n{lines}")
    run("notebooks", "--notebooks", tmp_path)
    run("slides", tmp_path / "out", "--notebooks", tmp_path)
    with browser.open_browser() as opened:
        slide = browser.look_at_slides(opened, (tmp_path / "out" / "03_halves.html").as_uri())[2]
        assert slide.title == "A picture" and slide.problems == []
        height, natural = opened.page.evaluate("[...document.images].map(i => [i.offsetHeight, i.naturalHeight])[0]")
        assert 0.75 * natural <= height < natural


def test_a_slide_that_is_too_full_is_found(lectures, tmp_path):
    for path in lectures.rglob("*.*"):
        copy = tmp_path / path.relative_to(lectures)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    page = tmp_path / "03_halves.html"
    text = page.read_text()
    script = "<script>console.error('oh'); fetch('https://example.org/x').catch(() => 0)</script>"
    wide = f"<span style='white-space: nowrap'>{'H' * 99}</span>"
    text = text.replace("What is half of", "What<br>" * 30 + "is half of").replace("Halving twice", wide + script)
    page.write_text(text)
    with browser.open_browser() as opened:
        first, second, _ = browser.look_at_slides(opened, page.as_uri())
        assert re.fullmatch(r"extends down to \d+ of 720 pixels", first.problems[0])
        assert re.fullmatch(r"extends right to \d+ of 1280 pixels: H+.*", second.problems[0])
        assert "console: oh" in opened.problems
        assert "requests https://example.org/x from the network" in opened.problems
        opened.problems.clear()


def test_book_in_a_browser(pages):
    with browser.serve(pages) as address, browser.open_browser() as opened:
        page = opened.go(f"{address}/03_halves.html")
        assert page.locator("article h1").inner_text().startswith("Halves (L13)")
        assert page.locator("mjx-container svg").count() == 2
        assert page.get_by_text("Ask the room first").count() == 0
        assert page.locator("nav.bd-links a", has_text="Halves").count() == 1
        assert browser.broken_images(page) == []
        page = opened.go(f"{address}/search.html?q=halving")
        page.wait_for_selector("#search-results li a")
        assert "03_halves.html" in page.locator("#search-results li a").first.get_attribute("href")


def test_pages_bring_the_licenses_of_their_scripts(lectures, pages):
    for path in (lectures / "reveal" / "LICENSE", lectures / "LICENSE-MathJax.txt"):
        assert "Copyright" in path.read_text() or "Apache License" in path.read_text()
    assert "Apache License" in (pages / "_static" / "LICENSE-MathJax.txt").read_text()


def test_nothing_in_the_pages_is_loaded_from_the_network(lectures, pages):
    for path in [*lectures.glob("*.html"), *pages.glob("*.html")]:
        loads = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"(https?:)?//[^\"]*", path.read_text())
        assert not loads, f"{path.name} loads from the network"


def test_commands_need_no_jupyter_to_show_their_help():
    code = "import sys, minimask.course.commands; sys.exit(any(m in sys.modules for m in ('jupytext', 'nbformat')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[1]).returncode == 0


DOCSTRING = """Crop features inside *each* box.

The worked number, in `cells`:

    (112, 45) / 16 = (7, 2.8)

features: list of (N, H, W, C) arrays,
    finest level first.
boxes, index: (R, 4) and (R,) arrays.
Returns (R, size_, C).
Raises ValueError if |boxes| differ.
"""


def test_plain_docstring_becomes_restructured_text():
    pytest.importorskip("myst_nb", reason=NO_TOOLS)
    from minimask.course import reference

    assert reference.tidy(DOCSTRING).splitlines() == [
        r"Crop features inside \*each\* box.",
        "",
        "The worked number, in ``cells``:",
        "",
        "::",
        "",
        "        (112, 45) / 16 = (7, 2.8)",
        "",
        "",
        "- ``features``: list of (N, H, W, C) arrays,",
        "  finest level first.",
        "- ``boxes, index``: (R, 4) and (R,) arrays.",
        "",
        r"**Returns** (R, size\_, C).",
        "",
        r"**Raises** ValueError if \|boxes\| differ.",
    ]
