"""Slides of the notebooks: reveal.js pages made by nbconvert that need nothing from the network.

The cells with a `slide_type` are on the slides. A cell with a figure shows the figure alone, unless it is tagged
"show-input"; the tags "hide-input" and "hide-output" are obeyed.
"""

import copy
import html
import importlib.resources
import re
from pathlib import Path

from nbconvert import SlidesExporter
from traitlets.config import Config

from minimask.course import notebooks
from minimask.run.files import write_files

ON_SLIDES = ("slide", "subslide", "fragment", "notes")

# What a page loads, from the packages of the index that bring it along: sphinx-revealjs and django-static-mathjax.
REVEAL = {
    "reveal/reveal.js": "dist/reveal.js",
    "reveal/notes.js": "plugin/notes/notes.js",
    "reveal/dist/reveal.css": "dist/reveal.css",
    "reveal/dist/theme/white.css": "dist/theme/white.css",
}
MATHJAX = "es5/tex-svg-full.js"


def assets():
    """Dict from the name beside the pages to the content of reveal.js's and MathJax's files."""
    reveal = importlib.resources.files("sphinx_revealjs") / "_static" / "revealjs"
    found = {name: (reveal / path).read_bytes() for name, path in REVEAL.items()}
    white = found["reveal/dist/theme/white.css"].decode()  # asks for a font that is not needed
    found["reveal/dist/theme/white.css"] = "".join(
        line for line in white.splitlines(True) if "@import" not in line
    ).encode()
    return found | {"tex-svg-full.js": mathjax()}


def mathjax():
    """MathJax 3 in one file, which draws formulas as SVG and asks for no fonts."""
    return (importlib.resources.files("mathjax") / "static" / "mathjax" / MATHJAX).read_bytes()


def page(notebook, name):
    """The slides of one notebook, as HTML."""
    notebook = copy.deepcopy(notebook)
    notebook.metadata["title"] = notebooks.title(notebook)
    notebook.cells = [cell for cell in notebook.cells if notebooks.slide_type(cell) in ON_SLIDES]
    heading = notebook.metadata["title"]
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := re.search(r"^#+ +(.+)$", cell.source, re.M)):
            heading = found[1].strip()
        cell.metadata.setdefault("alt", f"Figure: {heading}")  # what is read aloud in its place
        figures = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
        tags = cell.metadata.get("tags", [])
        if figures and "show-input" not in tags:
            cell.metadata["tags"] = sorted({*tags, "hide-input"})
            cell.outputs = figures
    remove = dict(enabled=True, remove_input_tags={"hide-input"}, remove_all_outputs_tags={"hide-output"})
    exporter = SlidesExporter(
        template_name="slides",
        extra_template_basedirs=[str(Path(__file__).parent / "templates")],
        reveal_url_prefix="reveal",
        reveal_theme="white",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        config=Config(TagRemovePreprocessor=remove),
    )
    return exporter.from_notebook_node(notebook, resources={"metadata": {"name": name}})[0]


def write(folder, source=notebooks.course.FOLDER, numbers=()):
    """Write the slides of the notebooks to `folder`, with a page that lists them and how long they take."""
    built = {name: n for name, n in notebooks.read_built(source, numbers).items() if notebooks.slide_count(n)}
    contents = {Path(folder, name): data for name, data in assets().items()}
    for name, notebook in built.items():
        contents[Path(folder, f"{name}.html")] = page(notebook, name).encode()
    contents[Path(folder, "index.html")] = index(built).encode()
    write_files(contents)
    print(f"{len(built)} lectures: {Path(folder, 'index.html')}")


def index(built):
    """The page that lists the lectures."""
    rows = "\n".join(
        f'<tr><td>{name[:2]}</td><td><a href="{name}.html">{html.escape(notebooks.title(notebook))}</a></td>'
        f"<td>{notebooks.slide_count(notebook)}</td><td>{notebooks.minutes(notebook)} min</td></tr>"
        for name, notebook in built.items()
    )
    total = sum(map(notebooks.minutes, built.values()))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Mask R-CNN from scratch: lectures</title>
<style>
body {{ font: 20px/1.5 Helvetica, Arial, "Liberation Sans", sans-serif; max-width: 50em; margin: 2em auto }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ padding: 0.3em 0.6em; text-align: left; border-bottom: 1px solid #ddd }}
</style>
</head>
<body>
<h1>Mask R-CNN from scratch: lectures</h1>
<p>Arrow keys or space turn the pages, Esc shows them all, F fills the screen, S opens the speaker's notes.</p>
<table>
<tr><th></th><th>Lecture</th><th>Slides</th><th>About</th></tr>
{rows}
<tr><td></td><td>together</td><td>{sum(map(notebooks.slide_count, built.values()))}</td><td>{total} min</td></tr>
</table>
</body>
</html>
"""
