"""The book: pages of all notebooks with navigation and search, made by Jupyter Book from the outputs that are there.

The pages ask for nothing from the network. The search needs a web server: python -m http.server --directory OUT_DIR
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from minimask.course import notebooks, slides
from minimask.errors import InputError

TITLE = "Mask R-CNN from scratch"
# Jupyter Book's usual extensions, without Thebe, which would load scripts from the network.
EXTENSIONS = [
    "sphinx_togglebutton", "sphinx_copybutton", "myst_nb", "jupyter_book", "sphinx_comments", "sphinx_external_toc",
    "sphinx_design", "sphinx_book_theme", "sphinx.ext.mathjax",
]  # fmt: skip
SETTINGS = {
    "title": TITLE,
    "author": "minimask",
    "logo": "",
    "execute": {"execute_notebooks": "off"},
    "html": {"use_repository_button": False, "use_issues_button": False, "use_edit_page_button": False},
    "parse": {"myst_enable_extensions": ["amsmath", "dollarmath"]},
    "sphinx": {
        "config": {
            "extensions": EXTENSIONS,
            "mathjax_path": "tex-svg-full.js",
            "html_static_path": ["_math"],
            "html_context": {"default_mode": "light"},
            "html_theme_options": {"navbar_persistent": []},
            "nb_ipywidgets_js": {},
            "html_show_copyright": False,
        }
    },
}
COMMAND = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]


def write(folder, source=notebooks.course.FOLDER, numbers=()):
    """Write the pages of the notebooks to `folder`."""
    built = notebooks.read_built(source, numbers)
    with tempfile.TemporaryDirectory(prefix="minimask_book_") as place:
        place = Path(place)
        for name, notebook in built.items():
            notebook.cells = [cell for cell in notebook.cells if notebooks.slide_type(cell) != "notes"]
            for cell in notebook.cells:
                if "exercise" in cell.metadata:  # its solution is folded
                    cell.metadata["tags"] = sorted({*cell.metadata.get("tags", []), "hide-input"})
            nbformat.write(notebook, place / f"{name}.ipynb")
        (place / "_math").mkdir()
        (place / "_math" / "tex-svg-full.js").write_bytes(slides.mathjax())
        (place / "index.md").write_text(front_page(built), encoding="utf-8")
        contents = {"format": "jb-book", "root": "index", "chapters": [{"file": name} for name in built]}
        for file, content in (("_config.yml", SETTINGS), ("_toc.yml", contents)):
            (place / file).write_text(json.dumps(content, indent=1))  # JSON is YAML
        done = subprocess.run([*COMMAND, str(place)], capture_output=True, text=True)
        pages = place / "_build" / "html"
        if done.returncode or not (pages / "index.html").exists():
            raise InputError(f"the book could not be built:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        for warning in [line for line in done.stderr.splitlines() if "WARNING" in line or "ERROR" in line]:
            print(warning.replace(f"{place}/", ""), file=sys.stderr)
        shutil.copytree(pages, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".buildinfo", "*.doctree"))
    print(f"{len(built)} notebooks: {Path(folder, 'index.html')}")


def front_page(built):
    """The first page: what the book is, and its chapters."""
    lines = [f"{name[:2]}. [{notebooks.title(notebook)}]({name}.ipynb)" for name, notebook in built.items()]
    return f"# {TITLE}\n\nEvery number from pixel to mask, in notebooks that run.\n\n" + "\n\n".join(lines) + "\n"
