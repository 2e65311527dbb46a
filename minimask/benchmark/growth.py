"""How the cost of each stage grows with its work: a table of times, the fitted exponents, and a plot.

If twice the work takes twice the time, log(seconds) against log(work) is a line of slope 1: the exponent. Below 1, part
of the time does not depend on the work (what Python does around the kernels, threads that start); above 1 something
grows faster than the work, and will be slow first.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Series:
    """One piece of work of `ours` at several sizes.

    grows: what changes, the setting of the piece. power: of the size in the work (pixels are the side squared).
    most: the largest exponent that is as it should be.
    """

    name: str
    piece: str
    grows: str
    sizes: tuple
    settings: dict = field(default_factory=dict)
    power: int = 1
    most: float = 1.1

    @property
    def title(self):
        return f"{self.name}, {self.grows}"


ROIS = dict(images=1, height=800, width=1088, channels=256, canonical=224, size=7)
SIDES, BATCHES = (64, 128, 256, 512, 1024), (1, 2, 4, 8, 16)
OBJECTS, ROI_COUNTS, BOXES = (1, 5, 20, 50, 100, 200), (100, 250, 500, 1000, 2000), (500, 1000, 2000, 4000, 8000)


def all_series():
    """Every series: the whole step and inference, then the stages."""
    image = dict(images=1, height=800, width=1088)
    return [
        Series("training step", "step", "images", BATCHES, dict(side=128, objects=4)),
        Series("training step", "step", "side", SIDES, dict(images=1, objects=4), power=2),
        Series("training step", "step", "objects", OBJECTS, dict(images=1, side=256)),
        Series("inference", "detect", "images", BATCHES, dict(side=128)),
        Series("inference", "detect", "side", SIDES, dict(images=1), power=2),
        Series("roi align forward", "roi_align", "rois", ROI_COUNTS, dict(ROIS, direction="forward")),
        Series("roi align backward", "roi_align", "rois", ROI_COUNTS, dict(ROIS, direction="backward")),
        Series("matching", "match", "objects", OBJECTS, dict(image, anchors=20000)),
        Series("matching", "match", "anchors", (5000, 20000, 80000, 320000), dict(image, objects=20)),
        # Each box that is kept looks at all that follow: between the boxes and their square.
        Series("nms", "nms", "boxes", BOXES, most=2.0),
        Series("paste masks", "paste", "masks", (5, 20, 50, 100, 200), dict(height=480, width=640)),
    ]


def exponent(work, seconds):
    """The slope of the line through (log work, log seconds) with the least squared error."""
    return float(np.polyfit(np.log(work), np.log(seconds), 1)[0])


def measure(series, side, rounds, seconds=0.1):
    """A row: dict of the series' name, sizes, the least seconds of each, exponent. `side` is our worker process.

    Round by round all sizes take turns, and the least counts: what else the machine does can only add.
    """
    best = [np.inf] * len(series.sizes)
    for _ in range(rounds):
        for i, size in enumerate(series.sizes):
            answer = side.ask(piece=series.piece, settings={**series.settings, series.grows: size}, seconds=seconds)
            best[i] = min(best[i], *answer["seconds"])
    side.ask(forget=True)
    slope = exponent([size**series.power for size in series.sizes], best)
    return {"name": series.title, "sizes": list(series.sizes), "seconds": best, "exponent": slope, "most": series.most}


def heading():
    """The table's first line."""
    return f"\n{'time against size':28}  {'exponent':>8}  {'at most':>7}"


def show_row(row):
    """One aligned line: exponent, bound, then each size with its time."""
    cells = "  ".join(f"{size}: {1e3 * t:.{3 if t < 0.01 else 1}f} ms" for size, t in zip(row["sizes"], row["seconds"]))
    verdict = "" if row["exponent"] <= row["most"] else "  grows too fast"
    return f"{row['name']:28}  {row['exponent']:8.2f}  {row['most']:7.1f}  {cells}{verdict}"


def plot(rows, path):
    """Draw each row's times against its sizes, both logarithmic, into a png file: a straight line is a power."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(row["name"].split(", ")[1] for row in rows))
    across = min(4, len(kinds))
    down = -(-len(kinds) // across)
    figure = Figure(figsize=(3.6 * across, 3.2 * down), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(down, across, sharey=True, squeeze=False).flat
    for axes, kind in itertools.zip_longest(places, kinds):
        if kind is None:
            axes.axis("off")
            continue
        for row in rows:
            name, grows = row["name"].split(", ")
            if grows == kind:
                milliseconds = [1e3 * t for t in row["seconds"]]
                axes.loglog(row["sizes"], milliseconds, "o-", label=f"{name}: {row['exponent']:.2f}")
                axes.set_xticks(row["sizes"], map(str, row["sizes"]), fontsize=8)
                axes.set_xticks([], minor=True)
        axes.set_xlabel(kind if kind != "side" else "side (the exponent is that of side x side)")
        axes.grid(True, alpha=0.3)
        axes.legend(fontsize=8, title="exponents", title_fontsize=8)
    figure.supylabel("milliseconds")
    figure.savefig(path, format="png", dpi=110)
