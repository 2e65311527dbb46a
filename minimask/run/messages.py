"""Short messages to the user, on stderr so that a command's results stay alone on stdout."""

import sys


def say(text):
    """Print one line that begins with the program's name."""
    print(f"minimask: {text}", file=sys.stderr, flush=True)


def say_problems(dataset):
    """Print what was left out of a data set, what is probably wrong in it, and what was read all the same."""
    report = str(getattr(dataset, "problems", ""))
    if report:
        say(report)
