"""The hand-out: notebooks without solutions and outputs, made by nbgrader from the course's sources."""

import copy
from pathlib import Path

import nbformat
from nbgrader import preprocessors

from minimask.course import notebooks
from minimask.errors import InputError
from minimask.run.files import check_writable, write_files

STEPS = (
    preprocessors.ClearSolutions,
    preprocessors.LockCells,
    preprocessors.ClearOutput,
    preprocessors.ComputeChecksums,
)


def student_copy(notebook):
    """Return the students' copy of a notebook: stubs that raise NotImplementedError, no outputs, no speaker notes."""
    notebook, resources = copy.deepcopy(notebook), {}
    notebook.cells = [cell for cell in notebook.cells if notebooks.slide_type(cell) != "notes"]
    for step in STEPS:
        notebook, resources = step().preprocess(notebook, resources)
    return notebook


def write(paths, folder, overwrite=False):
    """Write the students' copy of each source to `folder`.

    Raises InputError if that would replace a notebook that somebody has worked in, unless `overwrite` is true.
    """
    check_writable(folder)
    contents = {}
    for path in paths:
        notebook = student_copy(notebooks.read_source(path))
        contents[Path(folder) / f"{path.stem}.ipynb"] = (nbformat.writes(notebook) + "\n").encode()
    theirs = [path for path, data in contents.items() if path.exists() and path.read_bytes() != data]
    if theirs and not overwrite:
        raise InputError(
            f"{', '.join(map(str, theirs))}: exists already and may hold somebody's work; nothing was written. "
            "Choose another folder, or add --overwrite"
        )
    write_files(contents)
    print(f"wrote {len(contents)} notebooks with exercises to {folder}")
