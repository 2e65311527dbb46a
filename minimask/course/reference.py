"""The API reference in the book: one page per module, made from the docstrings by Sphinx's autodoc.

Docstrings here are plain text: a summary, then one line "name: meaning" per argument, then "Returns ..." and
"Raises ...". `tidy` turns them into reStructuredText just before Sphinx reads them.
"""

import importlib.util
import pkgutil
import re

import minimask

# Heading in the table of contents -> modules of minimask, in reading order; "" is the package itself.
PARTS = {
    "Reference: the front door": [""],
    "Reference: engine": "tensor functional nn optim device convolution normalization".split(),
    "Reference: stages": (
        "image structures backbone fpn anchors boxes rpn targets losses roi_pool roi_align box_head mask_head "
        "keypoint_head mask_rcnn presets conventions trace train evaluate checkpoint"
    ).split(),
    "Reference: subpackages": "systems datasets draw weights run machine check".split(),
}

# Lines of Sphinx's conf.py. Packages that only a GPU or several workers need are not imported.
SETTINGS = """
autodoc_member_order = "bysource"
autodoc_mock_imports = ["cupy", "cupyx", "cuda", "mpi4py"]
autodoc_preserve_defaults = True
autodoc_typehints = "none"
add_module_names = False
default_role = "code"


def setup(app):
    from minimask.course import reference

    app.connect("autodoc-process-docstring", reference.process_docstring)
"""


def write(folder):
    """Write the pages of the reference to `folder` in reStructuredText. Returns a dict: heading -> names of pages."""
    folder.mkdir()
    written = {}
    for heading, modules in PARTS.items():
        for module in modules:
            name = f"minimask.{module}".rstrip(".")
            if importlib.util.find_spec(name) is not None:
                (folder / f"{name}.rst").write_text(_page(name), encoding="utf-8")
                written.setdefault(heading, []).append(name)
    return written


def _page(name):
    if name == "minimask":
        return _front_door()
    if hasattr(importlib.import_module(name), "__path__"):
        return _wing(name)
    return _heading(name) + _automodule(name)


def _front_door():
    """Return the page of the package itself: its docstring, then its public functions and where the rest is."""
    lines = [_heading("minimask"), ".. automodule:: minimask\n   :no-members:\n"]
    for name in getattr(minimask, "__all__", ()):
        thing = getattr(minimask, name)
        home = getattr(thing, "__module__", "minimask")
        if callable(thing) and not isinstance(thing, type) and home.startswith("minimask"):
            lines.append(f".. autofunction:: minimask.{name}\n   :no-index:\n")
    return "\n".join(lines)


def _wing(name):
    """Return the page of a subpackage: its docstring and members, then each of its modules."""
    package = importlib.import_module(name)
    parts = [_heading(name), _automodule(name)]
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            full = f"{name}.{module.name}"
            shadowed = callable(getattr(package, module.name, None))  # datasets.toy is a function, too
            parts.append(_heading(full, "-") + _automodule(full) + shadowed * "   :no-index:\n")
    return "\n".join(parts)


def _heading(text, underline="="):
    return f"{text}\n{underline * len(text)}\n\n"


def _automodule(name):
    return f".. automodule:: {name}\n   :members:\n   :no-undoc-members:\n"


# ----------------------------------------------------------------------------------------------------- plain docstrings

ARGUMENT = re.compile(r"^(\w+(?:, \w+)*|\*{1,2}\w+): (.*)$")
OUTCOME = re.compile(r"^(Returns|Raises|Yields)\b(.*)$")


def process_docstring(app, what, name, obj, options, lines):
    """Sphinx's event "autodoc-process-docstring": rewrite `lines` in place."""
    lines[:] = tidy("\n".join(lines)).splitlines()


def tidy(text):
    """Return a plain docstring as reStructuredText.

    Indented paragraphs, such as commands and tables in plain text, become literal blocks. Lines "name: meaning" become
    a list, in which indented or wrapped lines continue the entry above. Everything else is ordinary text.
    """
    summary, *rest = _paragraphs(text) or [[""]]
    paragraphs = [_text_with_block(summary), *(_paragraph(lines) for lines in rest)]
    return "\n\n".join(paragraphs) + "\n"


def _paragraphs(text):
    """Yield the lines of each paragraph; indented paragraphs that follow each other are one."""
    current, found = [], []
    for line in [*text.expandtabs().splitlines(), ""]:
        if line.strip():
            current.append(line.rstrip())
        elif current:
            if found and _is_indented(current) and _is_indented(found[-1]):
                found[-1] += ["", *current]
            else:
                found.append(current)
            current = []
    return found


def _is_indented(lines):
    return all(not line or line.startswith("  ") for line in lines)


def _paragraph(lines):
    if _is_indented(lines):
        return "::\n\n" + "\n".join(f"    {line}" if line else "" for line in lines)
    if lines[0].startswith((":", "..", "- ", ">>>")):  # already reStructuredText
        return "\n".join(lines)
    if not any(ARGUMENT.match(line) for line in lines):
        return _text_with_block(lines)
    found, in_list = [], False
    for line in lines:
        argument, outcome = ARGUMENT.match(line), OUTCOME.match(line)
        if argument:
            found += [] if in_list else [""]
            found.append(f"- ``{argument[1]}``: {_escape(argument[2])}")
            in_list = True
        elif outcome:
            found += ["", f"**{outcome[1]}**{_escape(outcome[2])}"]
            in_list = False
        else:
            found.append(("  " if in_list else "") + _escape(line.strip()))
    return "\n".join(found)


def _text_with_block(lines):
    """Return text whose indented last lines, if any, are a literal block."""
    end = next((i for i, line in enumerate(lines) if i and line.startswith("    ")), len(lines))
    text = "\n".join(_escape(line.strip()) for line in lines[:end])
    if end == len(lines):
        return text
    return text + "\n\n::\n\n" + "\n".join(f"    {line}" for line in lines[end:])


def _escape(text):
    """Return text whose asterisks, bars and final underscores mean themselves; `code` becomes ``code``."""
    parts = re.split(r"(`+[^`]+`+)", text)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"``{part.strip('`')}``"
        else:
            parts[i] = re.sub(r"([*|\\]|_\b)", r"\\\1", part)
    return "".join(parts)
