"""TensorBoard: the numbers of the log as event files, written by tensorboardX or PyTorch if one of them is installed.

python -m minimask train --tensorboard --output runs/mine
tensorboard --logdir runs
"""

import importlib

from minimask.errors import InputError

FOLDER = "tensorboard"  # in the folder of a run
WRITERS = ("tensorboardX", "torch.utils.tensorboard")


def writer_class():
    """The SummaryWriter of an installed library. Raises InputError that names the package to install."""
    for name in WRITERS:
        try:
            return importlib.import_module(name).SummaryWriter
        except ImportError:
            continue
    raise InputError("train: tensorboard needs the package tensorboardX: pip install tensorboardX")


def event_files(folder):
    """Paths of the event files in the folder of a run."""
    return sorted((folder / FOLDER).glob("events.out.tfevents.*"))


class Events:
    """Writes the lines of a log as TensorBoard's scalars into FOLDER/tensorboard.

    folder: the folder of the run.
    step: the step at which the run starts or resumes; TensorBoard hides what was written about later ones.
    """

    def __init__(self, folder, step):
        self.writer = writer_class()(str(folder / FOLDER), purge_step=step + 1)

    def write(self, step, **values):
        """Write the numbers of one line of the log."""
        for name, value in values.items():
            self.writer.add_scalar(_tag(name), value, step)

    def close(self):
        """Write what is not on the disk yet."""
        self.writer.close()


def _tag(name):
    """TensorBoard groups what has the same beginning: loss/total, loss/mask, validation/box_AP, run/lr."""
    if name == "loss":
        return "loss/total"
    for start in ("loss", "validation"):
        if name.startswith(f"{start}_"):
            return f"{start}/{name.removeprefix(f'{start}_')}"
    return f"run/{name}"
