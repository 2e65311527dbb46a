"""losses.png and metrics.csv in the folder of a run: what its log says, as a picture and for a spreadsheet."""

import csv
import io
import time
from pathlib import Path

from minimask.run.files import write_files
from minimask.run.log import LOG
from minimask.run.messages import say

KINDS = ("box", "mask", "keypoint")  # of average precision in the log
PICTURE, TABLE = "losses.png", "metrics.csv"
WINDOW = 20  # steps over which the curves are averaged in a long run; in a short one fewer
SHARE = 0.02  # of the run's time that drawing may take, if checkpoints come quickly


class Metrics:
    """Keeps the picture and the table of a run up to date. A failure is printed once and stops nothing."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.next = 0.0  # when to draw again
        self.failed = False

    def refresh(self, last=False):
        """Write both files anew, unless they were written a moment ago. last: write them in any case."""
        begin = time.monotonic()
        if self.failed or (begin < self.next and not last):
            return
        try:
            self._write()
        except Exception as error:  # a broken font cache, a full disk: training goes on
            say(f"{self.folder / PICTURE} could not be drawn ({error}); training goes on")
            self.failed = True
        end = time.monotonic()
        self.next = end + (end - begin) / SHARE

    def _write(self):
        from minimask.draw import picture_bytes, plot_losses, read_log

        records = read_log(self.folder / LOG)
        count = sum("loss" in record for record in records)
        if count:
            window = min(WINDOW, max(1, count // WINDOW))
            picture = plot_losses(records, smoothing=1 - 1 / window, title=_title(records))
            write_files({self.folder / PICTURE: picture_bytes(picture), self.folder / TABLE: table(records)})


def _title(records):
    """What validation found last, to stand above the curves; None if there was none."""
    for record in reversed(records):
        found = {kind: record[f"validation_{kind}_AP"] for kind in KINDS if f"validation_{kind}_AP" in record}
        if found:
            scores = ", ".join(f"{kind} AP {score:.3f}" for kind, score in found.items())
            return f"training loss and its parts\nvalidation at step {record['step']}: {scores}"
    return None


def table(records):
    """The records of a log as CSV, in bytes: a row per step, a column per name. Validation stands in its step's row."""
    rows = {}
    for record in records:
        rows.setdefault(record.get("step"), {}).update(record)
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows.values())
    return text.getvalue().encode()
