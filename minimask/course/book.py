"""The book: notebooks with their outputs, the guide and the API reference as web pages, made by Sphinx and MyST-NB.

The pages load nothing from the network. Serve them with: python -m http.server --directory OUT_DIR
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import myst_nb  # noqa: F401  (here, so that a missing package is reported before anything is built)
import nbformat
import sphinx  # noqa: F401
import sphinx_book_theme  # noqa: F401
import sphinx_copybutton  # noqa: F401

from minimask.course import notebooks, reference, slides
from minimask.errors import InputError
from minimask.run.files import check_writable

TITLE = "Mask R-CNN from scratch"
GUIDE = "using own_data published_weights systems gpu speed layout trace instructors slides contributing".split()

SETTINGS = f"""
project = title = html_title = {TITLE!r}
author = "The minimask authors"
extensions = ["myst_nb", "sphinx_copybutton", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_ipywidgets_js = {{}}
nb_merge_streams = True
highlight_language = "none"
smartquotes = False
mathjax_path = "tex-svg-full.js"
mathjax3_config = {{"options": {{"enableMenu": False}}}}
html_theme = "sphinx_book_theme"
html_static_path = ["_own"]
html_css_files = ["book.css"]
html_show_copyright = False
html_context = {{"default_mode": "light"}}
html_theme_options = {{"navbar_persistent": [], "use_download_button": False, "show_toc_level": 2}}
copybutton_exclude = ".linenos, .gp, .go"
"""

# The theme leaves 690 pixels to the text of a window of 1280: too few for our figures and for code of 120 columns.
STYLE = """
.bd-main .bd-content .bd-article-container { max-width: 64rem; }
.bd-page-width { max-width: 100rem; }
.bd-sidebar-primary { flex: 0 0 16rem; }
@media (max-width: 1700px) { .bd-sidebar-secondary { display: none; } }
div.highlight pre, div.cell_output pre { font-size: 0.77rem; padding: 0.75rem; }
div.cell_output pre { white-space: pre-wrap; }
div.cell_output table, .bd-article table { font-size: 0.85rem; display: block; overflow-x: auto; }
div.cell_output img { max-width: 100%; height: auto; }
dl.py { margin-bottom: 1.5rem; }
dl.py dt { overflow-wrap: anywhere; }
"""


def write(folder, source=notebooks.course.FOLDER, numbers=()):
    """Write the pages of the notebooks to `folder`, with the guide and the API reference.

    source: folder of the notebooks' sources; its subfolder `guide`, if any, is the guide.
    numbers: only these notebooks; all of them by default.
    """
    check_writable(folder)
    built = notebooks.read_built(source, numbers)
    with tempfile.TemporaryDirectory(prefix="minimask_book_") as place:
        place = Path(place)
        for name, notebook in built.items():
            nbformat.write(page(notebook), place / f"{name}.ipynb")
        guide = copy_guide(Path(source, "guide"), place / "guide")
        api = reference.write(place / "reference") if guide else {}
        (place / "index.md").write_text(front_page(built, guide, api), encoding="utf-8")
        (place / "_own").mkdir()
        for name, content in {**slides.mathjax(), "book.css": STYLE.encode()}.items():
            (place / "_own" / name).write_bytes(content)
        quiet = 'suppress_warnings = ["myst.xref_missing"]\n' if numbers else ""  # links to notebooks left out
        (place / "conf.py").write_text(SETTINGS + quiet + reference.SETTINGS, encoding="utf-8")
        run_sphinx(place, place / "_build")
        shutil.copytree(place / "_build", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    print(f"{len(built)} notebooks: {Path(folder, 'index.html')}")


def page(notebook):
    """Return the notebook as the book shows it: no speaker notes; solutions, widgets and the first imports folded."""
    notebook.cells = [cell for cell in notebook.cells if notebooks.slide_type(cell) != "notes"]
    first_code = next((cell for cell in notebook.cells if cell.cell_type == "code"), None)
    for cell in notebook.cells:
        if cell is first_code or "exercise" in cell.metadata or cell.metadata.get("widget"):
            cell.metadata["tags"] = sorted({*cell.metadata.get("tags", []), "hide-input"})
    return notebook


def copy_guide(source, target):
    """Copy the guide's pages and return the names of those that exist, in reading order."""
    found = [name for name in GUIDE if (source / f"{name}.md").exists()]
    if found:
        target.mkdir()
        for name in found:
            (target / f"{name}.md").write_bytes((source / f"{name}.md").read_bytes())
    return found


def front_page(built, guide, api):
    """Return the first page: what the book is, and its contents."""
    chapters = [f"[{notebooks.title(notebook)}]({name}.ipynb)" for name, notebook in built.items()]
    pages = [f"[](guide/{name}.md)" for name in guide]
    lines = [f"# {TITLE}\n\nEvery number from pixel to mask, in notebooks that run.\n", *(f"- {c}" for c in chapters)]
    lines += ["\n## Guide\n", *(f"- {page}" for page in pages)] if pages else []
    lines += ["", _contents("The course", built)]
    if guide:
        lines.append(_contents("Guide", [f"guide/{name}" for name in guide]))
    lines += [_contents(caption, [f"reference/{name}" for name in names]) for caption, names in api.items()]
    return "\n".join(lines)


def _contents(caption, pages):
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])


def run_sphinx(source, target):
    """Build the pages in `target`. Raises InputError with Sphinx's message if that fails; prints its warnings."""
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-d", str(source / "_doctrees")]
    done = subprocess.run([*command, str(source), str(target)], capture_output=True, text=True)
    if done.returncode or not (target / "index.html").exists():
        raise InputError(f"the book could not be built:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    for warning in [line for line in done.stderr.splitlines() if "WARNING" in line or "ERROR" in line]:
        print(warning.replace(f"{source}/", ""), file=sys.stderr)
