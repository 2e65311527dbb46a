"""Slides of the notebooks: reveal.js pages, made by nbconvert, that load nothing from the network.

Cells with a `slide_type` are on the slides. A cell with a figure shows only the figure, unless it is tagged
"show-input". The tags "hide-input" and "hide-output" work as in Jupyter.
"""

import copy
import html
import re
from pathlib import Path

from nbconvert import SlidesExporter
from traitlets.config import Config

from minimask.course import notebooks
from minimask.run.files import check_writable, write_files

ON_SLIDES = ("slide", "subslide", "fragment", "notes")

STATIC = Path(__file__).parent / "static"  # copies of reveal.js and MathJax, with their licenses

# Where nbconvert's template expects the files of reveal.js.
REVEAL = {
    "reveal/reveal.js": "reveal.js",
    "reveal/notes.js": "notes.js",
    "reveal/dist/reveal.css": "reveal.css",
    "reveal/dist/theme/white.css": "white.css",
    "reveal/LICENSE": "LICENSE",
}


def assets():
    """Return a dict from names beside the pages to the contents of reveal.js's and MathJax's files."""
    found = {name: (STATIC / "reveal" / file).read_bytes() for name, file in REVEAL.items()}
    white = found["reveal/dist/theme/white.css"].decode()
    lines = [line for line in white.splitlines(keepends=True) if "@import" not in line]  # a font that we do not use
    found["reveal/dist/theme/white.css"] = "".join(lines).encode()
    return found | mathjax()


def mathjax():
    """Return the files of MathJax 3, which draws formulas as SVG and needs no fonts: its script and its license."""
    names = {"tex-svg-full.js": "tex-svg-full.js", "LICENSE-MathJax.txt": "LICENSE"}
    return {name: (STATIC / "mathjax" / file).read_bytes() for name, file in names.items()}


def page(notebook, name):
    """Return the slides of one notebook as HTML."""
    notebook = copy.deepcopy(notebook)
    notebook.metadata["title"] = notebooks.title(notebook)
    notebook.cells = [cell for cell in notebook.cells if notebooks.slide_type(cell) in ON_SLIDES]
    heading = notebook.metadata["title"]
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := re.search(r"^#+ +(.+)$", cell.source, re.M)):
            heading = found[1].strip()
        cell.metadata.setdefault("alt", f"Figure: {heading}")  # for screen readers
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
    """Write the slides of the notebooks to `folder`, and a page that lists the lectures with their lengths."""
    check_writable(folder)
    built = {name: n for name, n in notebooks.read_built(source, numbers).items() if notebooks.slide_count(n)}
    contents = {Path(folder, name): data for name, data in assets().items()}
    for name, notebook in built.items():
        contents[Path(folder, f"{name}.html")] = page(notebook, name).encode()
    contents[Path(folder, "index.html")] = index(built).encode()
    write_files(contents)
    print(f"{len(built)} lectures: {Path(folder, 'index.html')}")


def index(built):
    """Return the page that lists the lectures, as HTML."""
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
<p>Arrow keys or space: next slide. Esc: overview. F: full screen. S: speaker notes.</p>
<table>
<tr><th></th><th>Lecture</th><th>Slides</th><th>Time</th></tr>
{rows}
<tr><td></td><td>Total</td><td>{sum(map(notebooks.slide_count, built.values()))}</td><td>{total} min</td></tr>
</table>
</body>
</html>
"""
