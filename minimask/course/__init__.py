"""The course: notebooks, slides, book and exercises, all made from the sources notebooks/NN_name.py.

notebooks.py   source -> notebook with outputs, beside the source
exercises.py   source -> what students get: the same without solutions
slides.py      notebook -> slides that need no network
book.py        all notebooks -> pages with navigation and search that need no network
coverage.py    which section teaches which slide of the two talks that the course follows
check_file.py  the checks of the exercises, for a student's own .py file
commands.py    all of these on the command line
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"  # the sources, in a checkout

# Where the project is public, "https://github.com/OWNER/NAME": then notebooks open with links to Colab and Binder.
REPOSITORY = ""

TOY_WEIGHTS = FOLDER.parent / "data" / "toy_weights.npz"
HOW_TOY_WEIGHTS_ARE_MADE = """python -m minimask train --keypoints --steps 4000 --learning-rate 0.0015 --output runs/toy
python -m minimask convert runs/toy --small --output data/toy_weights.npz"""


def toy_model():
    """(model, class_names): a small Mask R-CNN trained on drawn scenes, with masks and keypoints, ready to predict.

    Raises InputError with the commands that make the file where it is missing.
    """
    from minimask import checkpoint
    from minimask.errors import InputError

    if not TOY_WEIGHTS.exists():
        raise InputError(f"{TOY_WEIGHTS}: is not there; it is made in 20 minutes by\n{HOW_TOY_WEIGHTS_ARE_MADE}")
    model, class_names, _ = checkpoint.load_model(TOY_WEIGHTS)
    return model, class_names
