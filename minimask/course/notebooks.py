"""Build a notebook from its source: notebooks/NN_name.py becomes NN_name.ipynb, with outputs, beside it.

The source is a Python file in Jupytext's percent format. The course gives a meaning to this metadata of a cell:

    slides=["L13"]                          the slides that this section teaches; its heading names them too
    slideshow={"slide_type": "slide"}       the cell is on a slide ("slide", "subslide", "fragment") or in its "notes"
    exercise="iou"                          the student writes what stands between ### BEGIN and ### END SOLUTION
    check="iou"                             the next cell, which checks what the student wrote
    widget=True                             interactive; its output is dropped, because a static version follows
    tags=["show-input"]                     on a slide, a cell with a figure shows its code too

and to this metadata in the header of the source: `minutes`, the length of the lecture, and `time_limit`, the seconds
that the notebook may run.
"""

import base64
import hashlib
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat.v4 import new_markdown_cell
from nbgrader.nbgraderformat import MetadataValidator
from PIL import Image

from minimask import course
from minimask.errors import InputError
from minimask.run.files import check_writable_file, write_files

NAME = re.compile(r"(\d\d)_\w+\.py")
TIME_LIMIT = 120  # seconds, unless the notebook's header says otherwise
WIDGET = "application/vnd.jupyter.widget-view+json"

# The kernel's settings. They make the output the same on every machine: matplotlib's pictures get one size and carry no
# version number, and the user's own IPython settings are ignored.
IPYTHON = """
c.InlineBackend.figure_formats = {"png"}
c.InlineBackend.rc = {"figure.dpi": 100}
c.InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "metadata": {"Software": None}}
c.HistoryManager.enabled = False
c.IPKernelApp.log_level = 40
"""


def sources(folder=course.FOLDER, numbers=()):
    """Return the paths of the sources NN_name.py in a folder, sorted by number.

    numbers: only these notebooks, for example "08" or "8". Raises InputError if there is no such notebook.
    """
    folder = Path(folder)
    found = {m[1]: path for path in sorted(folder.glob("*.py")) if (m := NAME.fullmatch(path.name))}
    if not found:
        raise InputError(f"{folder}: there is no notebook source (NN_name.py) in this folder")
    if not numbers:
        return list(found.values())
    missing = [n for n in numbers if n.zfill(2) not in found]
    if missing:
        raise InputError(f"{folder}: there is no notebook {', '.join(missing)}, only {', '.join(found)}")
    return [found[n.zfill(2)] for n in numbers]


def copy(paths, folder):
    """Copy sources, with the list of slides and the guide, to another folder. Returns the paths of the copies.

    Raises InputError if the folder already holds a different file of that name.
    """
    home = paths[0].parent
    originals = [*paths, *home.glob("slides.json"), *home.glob("guide/*.md")]
    contents = {Path(folder, path.relative_to(home)): path.read_bytes() for path in originals}
    changed = [str(path) for path, data in contents.items() if path.exists() and path.read_bytes() != data]
    if changed:
        raise InputError(f"{', '.join(changed)}: differs from the course's own; choose another folder (--output)")
    write_files(contents)
    return [Path(folder, path.name) for path in paths]


def read_source(path):
    """Return the notebook of a source, without outputs. Raises InputError if its cells contradict each other."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata.pop("jupytext", None)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    if course.REPOSITORY:
        notebook.cells.insert(0, _badges(Path(path).stem))
    ids = set()
    for i, cell in enumerate(notebook.cells):
        _add_nbgrader(notebook.cells, i, path)
        digest = hashlib.sha256(cell.source.encode()).hexdigest()
        cell["id"] = next(new for j in range(len(digest)) if (new := digest[j : j + 8]) not in ids)
        ids.add(cell["id"])
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = None, []
    try:
        nbformat.validate(notebook)
        MetadataValidator().validate_nb(notebook)
    except Exception as error:  # each library has several kinds
        raise InputError(f"{path}: {error}") from error
    return notebook


def _badges(stem):
    repository = course.REPOSITORY.rstrip("/").removeprefix("https://github.com/")
    links = {
        "Open in Colab": f"https://colab.research.google.com/github/{repository}/blob/HEAD/notebooks/{stem}.ipynb",
        "Open in Binder": f"https://mybinder.org/v2/gh/{repository}/HEAD?labpath=notebooks/{stem}.ipynb",
    }
    text = " | ".join(f"[{name}]({link})" for name, link in links.items())
    return new_markdown_cell(f"{text} (there, first run `%pip install git+{course.REPOSITORY}`)")


def _add_nbgrader(cells, i, path):
    """Translate the metadata of an exercise, or of its check, into nbgrader's."""
    cell = cells[i]
    exercise, check = cell.metadata.get("exercise"), cell.metadata.get("check")
    begins, ends = (len(re.findall(rf"^ *### {word} SOLUTION$", cell.source, re.M)) for word in ("BEGIN", "END"))
    where = f"{path}: exercise {exercise or check!r}"
    if exercise:
        after = cells[i + 1].metadata.get("check") if i + 1 < len(cells) else None
        if after != exercise:
            raise InputError(f"{where}: the next cell must carry check={exercise!r}")
        if not begins or begins != ends:
            raise InputError(f"{where}: needs ### BEGIN SOLUTION and ### END SOLUTION, each alone on its line")
        cell.metadata["nbgrader"] = _nbgrader(exercise, solution=True)
    elif check:
        if not i or cells[i - 1].metadata.get("exercise") != check:
            raise InputError(f"{where}: the cell before its check must carry exercise={check!r}")
        cell.metadata["nbgrader"] = _nbgrader(f"{check}_check", grade=True, locked=True, points=1)
    elif begins or ends:
        raise InputError(f"{path}: a cell with a solution has no exercise=NAME: {cell.source.splitlines()[0]}")


def _nbgrader(grade_id, solution=False, grade=False, locked=False, **more):
    return dict(grade_id=grade_id, solution=solution, grade=grade, locked=locked, task=False, schema_version=3, **more)


# ------------------------------------------------------------------------------------------------------------- running


def execute(notebook, folder, limit=None):
    """Run all cells in a fresh kernel, and put their outputs into the notebook.

    folder: working directory of the kernel.
    limit: seconds for all cells together; by default the notebook's own limit.
    Raises InputError naming the cell that failed or took too long. Cells tagged "raises-exception" may fail.
    """
    limit = limit or notebook.metadata.get("time_limit", TIME_LIMIT)
    end = time.monotonic() + limit
    with tempfile.TemporaryDirectory(prefix="minimask_ipython_") as settings:
        profile = Path(settings, "profile_default")
        profile.mkdir()
        (profile / "ipython_kernel_config.py").write_text(IPYTHON)
        paths = [str(course.FOLDER.parent), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "IPYTHONDIR": settings,
            "PYTHONHASHSEED": "0",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        client = NotebookClient(
            notebook,
            timeout_func=lambda cell: max(1, int(end - time.monotonic())),
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
        )
        # nbclient imitates the output widget of a notebook and sometimes waits for it forever. Without widgets, the
        # figure of an interactive cell becomes an ordinary output, which is dropped below: a static version follows.
        client.widget_registry = {}
        try:
            client.execute(env=environment)
        except CellExecutionError as error:
            raise InputError(str(error).rstrip()) from None
        except CellTimeoutError as error:
            raise InputError(f"did not finish within {limit} seconds: {str(error).splitlines()[0]}") from None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown = [] if cell.metadata.get("widget") else cell.outputs
            cell.outputs = [_settled(output) for output in shown if WIDGET not in output.get("data", {})]
            cell.metadata.pop("execution", None)
    notebook.metadata["language_info"] = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    notebook.metadata.pop("widgets", None)


def _settled(output):
    """Return an output without what changes from run to run (memory addresses), and with a smaller picture."""
    data = output.get("data", {})
    if "image/png" in data:
        data["image/png"] = _palette(data["image/png"])
    if "text/plain" in data:
        data["text/plain"] = re.sub(r" at 0x[0-9a-f]{6,}", "", data["text/plain"])
    return output


def _palette(png):
    """Return a PNG (base64) reduced to 256 colors, which is enough for figures and a third of the size."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    small = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def build(paths):
    """Convert and run each source, and write the notebook beside it."""
    for path in paths:
        check_writable_file(path.with_suffix(".ipynb"))
    for path in paths:
        start = time.monotonic()
        print(f"{path.name} ...", end=" ", flush=True)
        notebook = read_source(path)
        try:
            execute(notebook, path.parent)
        except InputError as error:
            print("failed")
            raise InputError(f"{path}: {error}") from None
        target = path.with_suffix(".ipynb")
        write_files({target: (nbformat.writes(notebook) + "\n").encode()})
        print(f"{target.name} ({target.stat().st_size / 1e6:.1f} MB) in {time.monotonic() - start:.0f} s")


# ----------------------------------------------------------------------------------------------------------- comparing


def differences(path):
    """List how a source and the notebook beside it differ, in one sentence each.

    Outputs are not compared: each code cell must merely have been run.
    """
    target = path.with_suffix(".ipynb")
    if not target.exists():
        return [f"{target.name} is missing"]
    ours, theirs = read_source(path), nbformat.read(target, as_version=4)
    found = []
    if ours.metadata != theirs.metadata:
        found.append(f"{target.name}: the notebook's metadata differ")
    if len(ours.cells) != len(theirs.cells):
        found.append(f"{target.name}: has {len(theirs.cells)} cells, {path.name} has {len(ours.cells)}")
    for i, (a, b) in enumerate(zip(ours.cells, theirs.cells)):
        what = [key for key in ("cell_type", "source", "metadata", "id") if a[key] != b.get(key)]
        if what:
            found.append(f"{target.name}: cell {i} differs in its {' and '.join(what)}: {_first_line(a)}")
            break  # after an inserted cell, all others differ as well
        if b.cell_type == "code" and b.source.strip():
            errors = [o for o in b.outputs if o.output_type == "error"]
            if b.execution_count is None or errors and "raises-exception" not in b.metadata.get("tags", []):
                found.append(f"{target.name}: cell {i} {'failed' if errors else 'was not run'}: {_first_line(b)}")
    return found


def _first_line(cell):
    return cell.source.strip().partition("\n")[0]


def title(notebook):
    """Return the notebook's first heading."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := re.search(r"^# +(.+)$", cell.source, re.M)):
            return found[1].strip()
    return "untitled"


def slide_count(notebook):
    """Return the number of slides in a notebook."""
    return sum(slide_type(cell) in ("slide", "subslide") for cell in notebook.cells)


def slide_type(cell):
    """Return "slide", "subslide", "fragment" or "notes", or None if the cell is only in the notebook."""
    return cell.metadata.get("slideshow", {}).get("slide_type")


def minutes(notebook):
    """Return the minutes the lecture takes: the number in the notebook's header, or two minutes per slide."""
    return notebook.metadata.get("minutes") or 2 * slide_count(notebook)


def read_built(folder=course.FOLDER, numbers=()):
    """Return a dict from each notebook's name (NN_name) to the notebook with its outputs.

    Raises InputError if a notebook is missing or no longer matches its source.
    """
    found = {}
    for path in sources(folder, numbers):
        if not path.with_suffix(".ipynb").exists() and path.is_relative_to(course.PACKAGE):
            raise InputError(
                f"{path.stem}: an installed minimask has the notebooks' sources, but not their outputs. Build them "
                "with: python -m minimask notebooks --output course; then add --notebooks course to this command"
            )
        problems = differences(path)
        if problems:
            raise InputError(f"{problems[0]}; build it with: python -m minimask notebooks {path.name[:2]}")
        found[path.stem] = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    return found


def check(paths):
    """Print how notebooks differ from their sources. Returns the exit status."""
    problems = [problem for path in paths for problem in differences(path)]
    for problem in problems:
        print(problem)
    if problems:
        print("build them again with: python -m minimask notebooks", file=sys.stderr)
    return 1 if problems else 0
