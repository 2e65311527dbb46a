"""How the cost of each stage grows with its work: a table of times, the fitted exponents, and a plot.

If twice the work takes twice the time, log(seconds) against log(work) is a line of slope 1, the exponent. If it is
below 1, part of the time does not depend on the work (Python around the kernels, threads that start). If it is above
1, something grows faster than the work and will become the bottleneck.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np

from minimask.run.files import write_files


@dataclass
class Series:
    """One piece of work of `ours` at several sizes.

    grows: the setting of the piece that changes. sizes: its values. settings: the other settings.
    power: the work grows with this power of the size (pixels are the side squared).
    most: the largest exponent that is acceptable.
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
        # Each box that is kept is compared with all that follow: between linear and quadratic.
        Series("nms", "nms", "boxes", BOXES, most=2.0),
        Series("paste masks", "paste", "masks", (5, 20, 50, 100, 200), dict(height=480, width=640)),
    ]


def exponent(work, seconds):
    """The slope of the least-squares line through (log work, log seconds)."""
    return float(np.polyfit(np.log(work), np.log(seconds), 1)[0])


def measure(series, side, rounds, seconds=0.1):
    """Measure a series. All sizes take turns, round by round, and the shortest time counts: other work only adds to it.

    side: our worker process. rounds: how often. seconds: time for each size in each round.
    Returns a dict: name, sizes, shortest seconds of each, exponent, largest acceptable exponent.
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
    """The first line of the table."""
    return f"\n{'time against size':28}  {'exponent':>8}  {'at most':>7}"


def show_row(row):
    """One aligned line: exponent, its bound, then each size with its time."""
    cells = "  ".join(f"{size}: {1e3 * t:.{3 if t < 0.01 else 1}f} ms" for size, t in zip(row["sizes"], row["seconds"]))
    verdict = "" if row["exponent"] <= row["most"] else "  grows too fast"
    return f"{row['name']:28}  {row['exponent']:8.2f}  {row['most']:7.1f}  {cells}{verdict}"


def plot(rows, path):
    """Draw the times of each row against its sizes, both logarithmic, into a png file. A power is a straight line."""
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
    write_files({path: lambda file: figure.savefig(file, format="png", dpi=110)})
