"""How the tests are distributed over the processes of pytest-xdist: file by file, those that take longest first.

The tests of a file stay in one process, so that its fixtures are prepared once. The tests in the files of `SPREAD` take
long and share nothing, so each of them is handed out alone. (`--dist loadgroup` could do this with marks, but under
pytest 9.2 it ignores them: github.com/pytest-dev/pytest-xdist/issues/1386.)
"""

from xdist.scheduler import LoadFileScheduling

SPREAD = ("test_notebooks.py", "test_planted_bugs.py", "test_distributed.py")

# These start first, in this order, so that all processes end at about the same time.
LONGEST = (
    "test_nvrtc.py",
    "[12_training]",
    "[17_your_own_data]",
    "test_course_book.py",
    "test_maskrcnn2go.py",
    "test_address_sanitizer.py",
    "test_run_folder.py",
    "test_course.py",
    "test_resume.py",
    "test_systems_regions.py",
    "test_notebook_runs",
    "test_planted_bugs.py",
    "test_distributed.py",
)


class ByFile(LoadFileScheduling):
    """`--dist loadfile`, except that the tests in the files of `SPREAD` are handed out one by one."""

    def _split_scope(self, nodeid):
        return unit(nodeid)


def unit(nodeid):
    """The name of what one process runs at a time: the file of a test or, in the files of `SPREAD`, the test itself."""
    file = nodeid.partition("::")[0]
    return nodeid if file.endswith(SPREAD) else file


def rank(nodeid):
    """The position of a test in the order: that of its unit in `LONGEST`; the others follow."""
    return next((position for position, part in enumerate(LONGEST) if part in unit(nodeid)), len(LONGEST))
