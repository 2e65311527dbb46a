"""The course on the command line: for each command its help, examples, arguments and what it runs."""

from pathlib import Path

from minimask import course
from minimask.errors import InputError


def notebooks_arguments(parser):
    """The options of `python -m minimask notebooks`."""
    parser.add_argument("numbers", nargs="*", metavar="NN", help="numbers of notebooks (default: all)")
    _sources(parser)
    parser.add_argument("--check", action="store_true", help="only tell where notebooks disagree with their sources")


def run_notebooks(args):
    """Build the notebooks, or compare them with their sources; returns the exit status."""
    notebooks = _load("notebooks")
    paths = notebooks.sources(args.notebooks, args.numbers)
    return notebooks.check(paths) if args.check else notebooks.build(paths)


def exercises_arguments(parser):
    """The options of `python -m minimask exercises`."""
    parser.add_argument("output", metavar="OUT_DIR", help="folder for the students' notebooks")
    parser.add_argument("--only", dest="numbers", nargs="+", default=[], metavar="NN", help="only these notebooks")
    _sources(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace notebooks that are there, and work in them")


def run_exercises(args):
    """Write the students' copies."""
    exercises = _load("exercises")
    exercises.write(exercises.notebooks.sources(args.notebooks, args.numbers), args.output, args.overwrite)


def slides_arguments(parser):
    """The options of `python -m minimask slides`."""
    parser.add_argument("output", metavar="OUT_DIR", help="folder for the slides")
    parser.add_argument("--only", dest="numbers", nargs="+", default=[], metavar="NN", help="only these notebooks")
    _sources(parser)


def run_slides(args):
    """Write the slides."""
    _load("slides").write(args.output, args.notebooks, args.numbers)


def book_arguments(parser):
    """The options of `python -m minimask book`."""
    parser.add_argument("output", metavar="OUT_DIR", help="folder for the pages")
    parser.add_argument("--only", dest="numbers", nargs="+", default=[], metavar="NN", help="only these notebooks")
    _sources(parser)


def run_book(args):
    """Write the book."""
    _load("book").write(args.output, args.notebooks, args.numbers)


def coverage_arguments(parser):
    """The options of `python -m minimask coverage`."""
    _sources(parser)
    parser.add_argument("--markdown", action="store_true", help="as the table in the README")


def run_coverage(args):
    """Print which section teaches which slide; returns the exit status."""
    return _load("coverage").print_table(args.notebooks, args.markdown)


def check_arguments(parser):
    """The options of `python -m minimask check`."""
    parser.add_argument("file", metavar="FILE.py", help="Python file with functions my_NAME")
    parser.add_argument("--only", metavar="NAME", help="only this check")


def run_check(args):
    """Check a student's file; returns the exit status."""
    return _load("check_file").run(args.file, args.only)


# name: (help, examples, function that adds the arguments, function that runs it)
COMMANDS = {
    "check": (
        "check the functions in a file of yours that solve the course's exercises",
        """  python -m minimask check my_boxes.py
  python -m minimask check my_boxes.py --only iou
""",
        check_arguments,
        run_check,
    ),
    "notebooks": (
        "build the course's notebooks from their sources: convert, run, write",
        """  python -m minimask notebooks             all of them
  python -m minimask notebooks 08 11
  python -m minimask notebooks --check     only compare
""",
        notebooks_arguments,
        run_notebooks,
    ),
    "exercises": (
        "write the notebooks as students get them, without solutions",
        "  python -m minimask exercises handout\n",
        exercises_arguments,
        run_exercises,
    ),
    "slides": (
        "write slides of the notebooks that need no network",
        "  python -m minimask slides lectures\n",
        slides_arguments,
        run_slides,
    ),
    "book": (
        "write the notebooks as a book of web pages that needs no network",
        """  python -m minimask book pages
  python -m http.server --directory pages     then open http://localhost:8000
""",
        book_arguments,
        run_book,
    ),
    "coverage": (
        "list which section of which notebook teaches which slide of the talks",
        "  python -m minimask coverage\n",
        coverage_arguments,
        run_coverage,
    ),
}


def _sources(parser):
    parser.add_argument(
        "--notebooks",
        type=Path,
        default=course.FOLDER,
        metavar="DIR",
        help="folder of the sources (default: the course's)",
    )


def _load(module):
    """Import a module of the course; InputError if one of Jupyter's packages is not installed."""
    import importlib

    try:
        return importlib.import_module(f"minimask.course.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("minimask"):
            raise
        raise InputError(
            f"{error.name} is not installed; this and what else is needed: python -m pip install -e '.[notebooks]'"
        ) from None
