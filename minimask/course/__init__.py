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
