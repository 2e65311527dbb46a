"""Short messages to the user, on stderr so that a command's results stay alone on stdout."""

import contextlib
import os
import sys


def say(text):
    """Print one line that begins with the program's name. If nobody can read it, that is no error."""
    with contextlib.suppress(OSError):
        print(f"minimask: {text}", file=sys.stderr, flush=True)


def printable(text):
    """A text on one line, with ? for characters that do something else than show: damaged files have such names."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


def say_problems(dataset):
    """Print what was left out of a data set, what is probably wrong in it, and what was read anyway."""
    report = str(getattr(dataset, "problems", ""))
    if report:
        say(report)


def print_what_can_be_printed():
    """From now on, characters that the console does not have are printed as "?" instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def close_pipe():
    """The reader of our output has gone (`| head -1`): whatever is printed from now on goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # a program without a console
                stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
