"""The course on the command line: help, examples, arguments and function of each command."""

import importlib
from pathlib import Path

from minimask import course
from minimask.errors import InputError


def notebooks_arguments(parser):
    """Add the arguments of `python -m minimask notebooks`."""
    parser.add_argument("numbers", nargs="*", metavar="NN", help="numbers of the notebooks (default: all)")
    _add_source_folder(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="copy the sources to DIR and build them there")
    parser.add_argument("--check", action="store_true", help="build nothing; report where notebooks and sources differ")


def run_notebooks(args):
    """Build the notebooks, or compare them with their sources. Returns the exit status."""
    notebooks = _load("notebooks")
    paths = notebooks.sources(args.notebooks, args.numbers)
    if args.check:
        return notebooks.check(paths)
    return notebooks.build(notebooks.copy(paths, args.output) if args.output else paths)


def exercises_arguments(parser):
    """Add the arguments of `python -m minimask exercises`."""
    _add_output_and_choice(parser, "folder for the students' notebooks")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace notebooks that exist, including any work in them"
    )


def run_exercises(args):
    """Write the students' copies."""
    exercises = _load("exercises")
    exercises.write(exercises.notebooks.sources(args.notebooks, args.numbers), args.output, args.overwrite)


def slides_arguments(parser):
    """Add the arguments of `python -m minimask slides`."""
    _add_output_and_choice(parser, "folder for the slides")


def run_slides(args):
    """Write the slides."""
    _load("slides").write(args.output, args.notebooks, args.numbers)


def book_arguments(parser):
    """Add the arguments of `python -m minimask book`."""
    _add_output_and_choice(parser, "folder for the pages")


def run_book(args):
    """Write the book."""
    _load("book").write(args.output, args.notebooks, args.numbers)


def coverage_arguments(parser):
    """Add the arguments of `python -m minimask coverage`."""
    _add_source_folder(parser)
    parser.add_argument("--markdown", action="store_true", help="print the table of notebooks/guide/slides.md")


def run_coverage(args):
    """Print which section teaches which slide. Returns the exit status."""
    return _load("coverage").print_table(args.notebooks, args.markdown)


def check_arguments(parser):
    """Add the arguments of `python -m minimask check`."""
    parser.add_argument(
        "file", nargs="?", metavar="FILE.py", help="Python file with your functions, each called my_NAME or NAME"
    )
    parser.add_argument("--list", action="store_true", help="list all checks and stages with their signatures")
    parser.add_argument("--only", metavar="NAME", help="run only this check")


def run_check(args):
    """Check a student's file. Returns the exit status."""
    if args.list:
        print(_load("check_file").check.listing())
        return 0
    if args.file is None:
        raise InputError("check: give a Python file with your functions, or --list for the names of all checks")
    return _load("check_file").run(args.file, args.only)


# name: (help, examples, function that adds the arguments, function that runs the command)
COMMANDS = {
    "check": (
        "check your own solutions of the course's exercises, in a Python file",
        """  python -m minimask check my_boxes.py
  python -m minimask check my_boxes.py --only iou
  python -m minimask check --list
""",
        check_arguments,
        run_check,
    ),
    "notebooks": (
        "build the course's notebooks from their sources and run them",
        """  python -m minimask notebooks                    all of them, beside their sources
  python -m minimask notebooks 08 11
  python -m minimask notebooks --output course    elsewhere, for example if minimask was installed by pip
  python -m minimask notebooks --check
""",
        notebooks_arguments,
        run_notebooks,
    ),
    "exercises": (
        "write the students' notebooks, without solutions",
        "  python -m minimask exercises handout\n",
        exercises_arguments,
        run_exercises,
    ),
    "slides": (
        "write slides with speaker notes that work without a network",
        """  python -m minimask slides lectures
  python -m minimask slides lectures --notebooks course    after: python -m minimask notebooks --output course
""",
        slides_arguments,
        run_slides,
    ),
    "book": (
        "write notebooks, guide and API reference as web pages that work without a network",
        """  python -m minimask book pages
  python -m http.server --directory pages     then open http://localhost:8000
""",
        book_arguments,
        run_book,
    ),
    "coverage": (
        "list which section of which notebook teaches which slide of the two talks",
        "  python -m minimask coverage\n",
        coverage_arguments,
        run_coverage,
    ),
}


def _add_output_and_choice(parser, output):
    parser.add_argument("output", metavar="OUT_DIR", help=output)
    parser.add_argument("--only", dest="numbers", nargs="+", default=[], metavar="NN", help="only these notebooks")
    _add_source_folder(parser)


def _add_source_folder(parser):
    parser.add_argument(
        "--notebooks",
        type=Path,
        default=course.FOLDER,
        metavar="DIR",
        help="folder of the sources (default: the course's)",
    )


def _load(module):
    """Import a module of the course. Raises InputError if one of the packages that it needs is not installed."""
    try:
        return importlib.import_module(f"minimask.course.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("minimask"):
            raise
        raise InputError(
            f"{error.name} is not installed. Install everything the course's tools need with: {course.HOW_TO_INSTALL}"
        ) from None
