"""The error for bad input: what a person gave us (a file, a setting) cannot be used, and the message says why."""


class InputError(ValueError):
    """A file, argument or setting of the user's cannot be used. The command line prints it without a traceback."""
