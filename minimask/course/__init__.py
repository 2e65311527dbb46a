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

# The notebooks' sources are inside an installed minimask; in a checkout they are beside it, with the built notebooks.
FOLDER = PACKAGE / "notebooks"
if not FOLDER.is_dir():
    FOLDER = PACKAGE.parent / "notebooks"

# For example "https://github.com/OWNER/NAME" once the project has a public address: the notebooks then get links that
# open them in Colab and Binder.
REPOSITORY = ""

HOW_TO_INSTALL = "pip install 'minimask[teach]' (in a checkout: pip install -e '.[teach]')"
