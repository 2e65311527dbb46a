"""Statements about the package that stand in several places agree, and the packaging lists every folder and file."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from minimask.machine import python_version
from tests.lecture import ENGINE, STAGES

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def project():
    """pyproject.toml as a dict."""
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_requirements_are_those_of_pyproject(project):
    extras = project["project"]["optional-dependencies"]
    lists = [
        project["project"]["dependencies"],
        *(extras[name] for name in ("test", "systems", "notebooks", "lab", "teach")),
    ]
    wanted = {normal(line) for lines in lists for line in lines if not line.startswith("minimask[")}
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert {normal(line) for line in lines if not line.startswith("#")} == wanted


def normal(requirement):
    """A requirement without spaces and with one kind of quotes."""
    return requirement.replace(" ", "").replace('"', "'")


def test_every_package_is_listed(project):
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "minimask").rglob("__init__.py")}
    packages = {".".join(folder.parts) for folder in folders}
    packages |= {"minimask.kernels", "minimask.data", "minimask.notebooks"}  # mapped from folders beside minimask/
    assert set(project["tool"]["setuptools"]["packages"]) == packages
    for folder in project["tool"]["setuptools"]["package-dir"].values():
        assert (ROOT / folder).is_dir()


def test_package_data_exists(project):
    setuptools = project["tool"]["setuptools"]
    for package, patterns in setuptools["package-data"].items():
        folder = ROOT / setuptools["package-dir"].get(package, package.replace(".", "/"))
        for pattern in patterns:
            assert list(folder.glob(pattern)), f"{package}: nothing matches {pattern}"
    for pattern in project["project"]["license-files"]:
        assert list(ROOT.glob(pattern)), pattern


def test_versions_of_python_are_the_same_everywhere(project):
    prefix = "Programming Language :: Python :: 3."
    minors = sorted(int(c.removeprefix(prefix)) for c in project["project"]["classifiers"] if c.startswith(prefix))
    assert project["project"]["requires-python"] == f">=3.{minors[0]},<3.{minors[-1] + 1}"
    assert (python_version.OLDEST, python_version.NEWEST) == ((3, minors[0]), (3, minors[-1]))
    said = f"Python 3.{minors[0]} to 3.{minors[-1]}"
    for name in ("README.md", "Makefile"):
        assert said in (ROOT / name).read_text(encoding="utf-8"), f"{name} does not say {said}"


@pytest.mark.parametrize("version", [(3, 9), (3, 15)])
def test_other_versions_of_python_are_refused_in_one_sentence(monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", (*version, 1, "final", 0))
    monkeypatch.setitem(sys.modules, "numba", None)  # as if it was not installed
    message = f"minimask runs on Python 3.10 to 3.14, .*; this is Python 3.{version[1]}$"
    with pytest.raises(ImportError, match=message):
        python_version.check()
    monkeypatch.setattr(sys, "argv", ["-m"])
    with pytest.raises(SystemExit, match=message):
        python_version.check()


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_the_first_and_the_last_version_of_python_pass(monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    monkeypatch.setitem(sys.modules, "numba", None)
    python_version.check()


def test_a_newer_python_with_numba_is_welcome(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 15, 0, "final", 0))
    python_version.check()


def test_version_is_the_same_everywhere(project):
    import minimask

    version = project["project"]["version"]
    assert minimask.__version__ == version
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_lines_of_the_lecture_are_counted():
    """README and guide say how long the engine and the stages are; tests/lecture.py says which modules these are."""
    modules = [ROOT / "minimask" / f"{name}.py" for name in ENGINE + STAGES]
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in modules)
    for path in (ROOT / "README.md", ROOT / "notebooks" / "guide" / "layout.md"):
        (said,) = re.findall(r"about ([\d,]+) lines", path.read_text(encoding="utf-8"))
        assert abs(int(said.replace(",", "")) - lines) <= 100, f"{path.name} says {said}, there are {lines}"


def test_readme_shows_the_lines_of_the_docstring():
    """tests/test_front_door.py runs the lines of the docstring; the README loads the model that needs no run."""
    import minimask

    (readme,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    documented = minimask.__doc__.replace('load("runs/toy")', 'load("toy")')
    assert len(statements(readme)) >= 7
    for statement in statements(readme):
        assert statement in statements(documented)


def statements(text):
    """The lines of a text without their comments."""
    lines = [line.partition("  #")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line]


def commands(path):
    """The arguments of each call of minimask in the code blocks of a page, as lists of words."""
    found = []
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), re.S | re.M)
    for text in (text for language, text in blocks if not language):
        for line in text.replace("\\\n", " ").splitlines():
            call = re.match(r"(?:mpiexec -n 4 )?(?:\S*python -m )?minimask (.*)", line)
            if call:
                found.append(shlex.split(call[1], comments=True))
    return found


def test_commands_of_the_pages_exist():
    from minimask.__main__ import make_parsers

    parser, _ = make_parsers()
    calls = [words for path in PAGES for words in commands(path)]
    assert len(calls) > 20
    for words in calls:
        if "--help" not in words:
            parser.parse_args(words)


def test_python_of_the_pages_is_valid():
    for path in PAGES:
        for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S):
            compile(block.replace(", ...)", ")"), path.name, "exec")


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md"]
PAGES += sorted((ROOT / "notebooks" / "guide").glob("*.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_to_files_and_headings(path):
    text = path.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", text):
        page = path.parent / target if target else path
        assert page.exists(), f"{path.name}: no file {target}"
        if anchor:
            assert anchor[1:] in anchors(page), f"{path.name}: no heading {anchor} in {page.name}"


def anchors(page):
    """The anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_book_has_every_page_of_the_guide():
    if importlib.util.find_spec("myst_nb") is None:
        pytest.skip("the course's tools are not installed: pip install -e '.[teach]'")
    from minimask.course import book

    assert sorted(book.GUIDE) == sorted(path.stem for path in (ROOT / "notebooks" / "guide").glob("*.md"))
