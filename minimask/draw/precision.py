"""Precision against recall."""

import numpy as np

from minimask.draw.colors import COLORS, unit
from minimask.draw.curves import TEXT, render


def plot_precision_recall(curves):
    """Draw precision against recall, one panel per kind of result.

    curves: dict from a kind ("box", "mask") to a dict from a name ("IoU 0.50") to precision (R,) over evenly spaced
        values of recall from 0 to 1.
    Returns (H, W, 3) uint8. Raises ValueError if there are no curves.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not curves:
        raise ValueError("plot_precision_recall: no curves")
    figure = Figure(figsize=(6.2 * len(curves), 6.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    inks, dashes = [unit(COLORS[i]) for i in (4, 2, 6, 5)], ["-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2))]
    for axes, (kind, lines) in zip(panels, curves.items()):
        for i, (name, precision) in enumerate(lines.items()):
            recall = np.linspace(0, 1, len(precision))
            axes.plot(recall, precision, color=inks[i % 4], linestyle=dashes[i % 4], linewidth=2.5, label=name)
        axes.set(xlim=(0, 1), ylim=(0, 1.03))
        axes.set_xlabel("recall: share of the objects that is found", fontsize=TEXT)
        axes.set_ylabel("precision: share of right detections", fontsize=TEXT)
        axes.set_title(f"{kind}es" if kind.endswith("x") else f"{kind}s", fontsize=TEXT + 1)
        axes.tick_params(labelsize=TEXT - 1)
        axes.grid(alpha=0.3)
        below = dict(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False)  # where no curve is
        axes.legend(fontsize=TEXT - 2, columnspacing=1.2, handlelength=2.2, **below)
    return render(figure)
