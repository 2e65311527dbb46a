"""Short messages to the user, on stderr so that a command's results stay alone on stdout."""

import sys


def say(text):
    """Print one line that begins with the program's name."""
    print(f"minimask: {text}", file=sys.stderr, flush=True)
