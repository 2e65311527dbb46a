"""The log of a training run: log.jsonl, with one JSON object per line, e.g. {"step": 1, "loss": 3.2, ...}."""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from minimask.errors import InputError
from minimask.run.files import write_files
from minimask.run.messages import say
from minimask.run.show import count_text

LOG = "log.jsonl"


@dataclass
class StepReport:
    """What the log reports about one step.

    step: index of the step, from 0.
    images: number of images in this worker's batch.
    learning_rate: the learning rate that the step used.
    losses: dict from the name of each part of the loss to its value.
    gradient_norm: length of the gradient, all parameters taken as one vector, before clipping.
    """

    step: int
    images: int
    learning_rate: float
    losses: dict
    gradient_norm: float


class Log:
    """Appends lines to the log file at `path`.

    step: the step at which the run starts or resumes. Lines up to this step are kept; later ones belong to steps that
        will be taken again, and are dropped. So are damaged lines; their number is printed.
    events: a tensorboard.Events that gets the same numbers, or None.

    Every method raises InputError if the file cannot be written.
    """

    def __init__(self, path, step=0, events=None):
        self.path, self.events = Path(path), events
        with self._naming():
            if step and self.path.exists():
                _keep_until(self.path, step)
            self.file = open(self.path, "ab" if step else "wb")

    def write(self, **values):
        """Append one line. Floats are rounded to 6 significant digits."""
        values = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in values.items()}
        with self._naming():
            self.file.write((json.dumps(values) + "\n").encode())
            self.file.flush()
            if self.events:
                self.events.write(**values)

    def flush(self):
        """Make sure that the lines are on the disk, so that no checkpoint is ahead of the log."""
        with self._naming():
            os.fsync(self.file.fileno())

    @contextlib.contextmanager
    def _naming(self):
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.path}: the log cannot be written ({error.strerror or error})") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.file.close()
            if self.events:
                self.events.close()


class NoLog(contextlib.nullcontext):
    """The log of the workers that write none."""

    def write(self, **values):
        """Do nothing."""

    def flush(self):
        """Do nothing."""


def _keep_until(path, step):
    """Leave only the complete lines about steps up to `step` in a log."""
    lines = path.read_bytes().splitlines(keepends=True)
    steps = [_step(line) for line in lines]
    kept = [line for line, number in zip(lines, steps) if number is not None and number <= step]

    damaged = steps.count(None) - (steps[-1:] == [None])  # a killed run may leave half of a last line
    if damaged:
        say(f"{path}: left out {count_text(damaged, 'damaged line')}; {count_text(len(kept), 'line')} could be read")
    if len(kept) < len(lines):
        write_files({path: b"".join(kept)})


def _step(line):
    """The step that a line of a log is about, None if it cannot be read."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if line.endswith(b"\n") and isinstance(step, int) else None
