"""Which section of which notebook teaches which slide of the two talks. notebooks/slides.json lists the slides."""

import json
import re
from pathlib import Path

from minimask import course
from minimask.course import notebooks


def slide_titles(folder=course.FOLDER):
    """Return a dict from a slide's id (T: the authors' talk, L: the lecture) to its title."""
    return json.loads(Path(folder, "slides.json").read_text(encoding="utf-8"))


def sections(folder=course.FOLDER):
    """Return a list of (slide's id, notebook's name, heading of the section that teaches it)."""
    found = []
    for path in notebooks.sources(folder):
        for cell in notebooks.read_source(path).cells:
            heading = re.search(r"^#+ +(.+)$", cell.source, re.M) if cell.cell_type == "markdown" else None
            found += [(i, path.stem, heading[1].strip() if heading else "") for i in cell.metadata.get("slides", [])]
    return found


def problems(folder=course.FOLDER):
    """List, one sentence each, the ids that are unknown, have no section or are not named in its heading."""
    titles, found = slide_titles(folder), sections(folder)
    unknown = [f"{name}: slide {i} is not in slides.json" for i, name, _ in found if i not in titles]
    unnamed = [f"{name}: no heading with {i} in it: {text!r}" for i, name, text in found if not _names(text, i)]
    taught = {i for i, _, _ in found}
    return unknown + unnamed + [f"no section teaches {i} ({title})" for i, title in titles.items() if i not in taught]


def _names(heading, slide):
    """Return whether a heading names a slide: as "L13", or within a range such as "L12-L14"."""
    for first, last in re.findall(r"\b([A-Z]\d\d)(?: ?[-–] ?([A-Z]?\d\d))?\b", heading):
        if first == slide or last and first[0] == slide[0] and int(first[1:]) <= int(slide[1:]) <= int(last[-2:]):
            return True
    return False


def print_table(folder=course.FOLDER, as_markdown=False):
    """Print slide, title, notebook and section of each slide, then the problems. Returns the exit status."""
    if as_markdown:
        print(markdown(folder), end="")
        return 0
    found = sections(folder)
    for slide, title in slide_titles(folder).items():
        places = [(name, heading) for i, name, heading in found if i == slide] or [("-", "")]
        for name, heading in places:
            print(f"{slide}  {title[:52]:<52}  {name:<28}  {heading}")
    wrong = problems(folder)
    print("\n" + "\n".join(wrong) if wrong else f"\nall {len(slide_titles(folder))} slides have a section")
    return 1 if wrong else 0


def markdown(folder=course.FOLDER):
    """Return the Markdown table of notebooks/guide/slides.md: slide, title, and the sections that teach it."""
    found = sections(folder)
    lines = ["| slide | what it teaches | notebook: section |", "|---|---|---|"]
    for slide, title in slide_titles(folder).items():
        places = [f"[{name[:2]}](../{name}.ipynb): {heading}" for i, name, heading in found if i == slide]
        lines.append(f"| {slide} | {title} | {'<br>'.join(places)} |")
    return "\n".join(lines) + "\n"
