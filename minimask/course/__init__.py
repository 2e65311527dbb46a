"""The course: notebooks, hand-outs, slides and a book, all made from the sources notebooks/NN_name.py.

notebooks.py   source -> notebook with outputs, beside the source
exercises.py   source -> the students' notebook: the same, without solutions
slides.py      notebook -> slides that work without a network
book.py        notebooks, guide and docstrings -> web pages with navigation and search, also without a network
reference.py   docstrings -> the pages of the API reference in the book
coverage.py    which section teaches which slide of the two talks that the course follows
check_file.py  runs the checks of the exercises on a student's own .py file
commands.py    all of these on the command line
"""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def _place(name):
    """A folder that an installed minimask holds inside itself, and a checkout beside it."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


FOLDER = _place("notebooks")  # the notebooks' sources; in a checkout the built notebooks too
TOY_WEIGHTS = _place("data") / "toy_weights.npz"

# For example "https://github.com/OWNER/NAME" once the project has a public address: the notebooks then get links that
# open them in Colab and Binder.
REPOSITORY = ""

HOW_TO_INSTALL = "pip install 'minimask[teach]' (in a checkout: pip install -e '.[teach]')"
HOW_TOY_WEIGHTS_ARE_MADE = """python -m minimask train --keypoints --steps 4000 --learning-rate 0.0015 --output runs/toy
python -m minimask convert runs/toy --small --output data/toy_weights.npz"""


def toy_model():
    """Return (model, class_names): a small Mask R-CNN with keypoints, trained on drawn scenes and ready to predict.

    Raises InputError if its file is missing; the message gives the commands that make it.
    """
    from minimask import checkpoint
    from minimask.errors import InputError

    if not TOY_WEIGHTS.exists():
        raise InputError(
            f"{TOY_WEIGHTS}: this file is missing. These commands make it in about 20 minutes:\n"
            f"{HOW_TOY_WEIGHTS_ARE_MADE}"
        )
    model, class_names, _ = checkpoint.load_model(TOY_WEIGHTS)
    return model, class_names
