"""What students get: the notebooks without solutions and outputs, made by nbgrader from the same sources."""

import copy
from pathlib import Path

import nbformat
from nbgrader import preprocessors

from minimask.course import notebooks
from minimask.errors import InputError
from minimask.run.files import write_files

STEPS = (
    preprocessors.ClearSolutions,
    preprocessors.LockCells,
    preprocessors.ClearOutput,
    preprocessors.ComputeChecksums,
)


def student_copy(notebook):
    """The notebook as students get it: stubs that raise NotImplementedError, no outputs, no notes for the speaker."""
    notebook, resources = copy.deepcopy(notebook), {}
    notebook.cells = [cell for cell in notebook.cells if notebooks.slide_type(cell) != "notes"]
    for step in STEPS:
        notebook, resources = step().preprocess(notebook, resources)
    return notebook


def write(paths, folder, overwrite=False):
    """Write the students' copy of each source to `folder`; InputError where that would overwrite other work."""
    contents = {}
    for path in paths:
        notebook = student_copy(notebooks.read_source(path))
        contents[Path(folder) / f"{path.stem}.ipynb"] = (nbformat.writes(notebook) + "\n").encode()
    theirs = [path for path, data in contents.items() if path.exists() and path.read_bytes() != data]
    if theirs and not overwrite:
        raise InputError(
            f"{', '.join(map(str, theirs))}: there already, perhaps with somebody's work in it; nothing was written. "
            "Choose another folder, or add --overwrite"
        )
    write_files(contents)
    print(f"{len(contents)} notebooks with exercises in {folder}")
