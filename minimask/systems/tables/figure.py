"""The tables as a figure: each system's AP beside the deck's, and each claim's difference with its interval."""

from minimask.draw.colors import COLORS, unit
from minimask.draw.curves import TEXT, render
from minimask.systems.tables.report import judged, series
from minimask.systems.tables.rows import BY_NAME, ROWS
from minimask.systems.tables.verdicts import mean_and_error

INK = {"shown": unit(COLORS[6]), "opposite": unit(COLORS[2]), "not shown": (0.45,) * 3, "too few seeds": (0.45,) * 3}


def plot_tables(group, way, title):
    """Draw one group of runs of one way, {row: {seed: numbers}} (see report.by_group). Returns (H, W, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    claims = judged(group, way)
    height = 1.6 + 0.36 * max(sum(row.name in group for row in ROWS), len(claims))
    figure = Figure(figsize=(23, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1])
    _systems(left, group)
    _claims(right, claims)
    figure.suptitle(title, fontsize=TEXT + 3)
    return render(figure)


def _systems(axes, group):
    """Points for box AP and mask AP with their standard errors, hollow ones for the deck's numbers on COCO."""
    rows = [row for row in ROWS if row.name in group][::-1]
    for number, color, shift in (("mask AP", COLORS[4], 0.14), ("box AP", COLORS[1], -0.14)):
        places, means, errors = [], [], []
        for y, row in enumerate(rows):
            values = series(group[row.name], number)
            if values:
                mean, error = mean_and_error(list(values.values()))
                places.append(y + shift), means.append(mean), errors.append(error or 0)
        axes.errorbar(means, places, xerr=errors, fmt="o", color=unit(color), markersize=8, capsize=4, label=number)
        theirs = [(row.theirs[number], y + shift) for y, row in enumerate(rows) if number in row.theirs]
        hollow = dict(markerfacecolor="none", markersize=8, color=unit(color), label=f"{number} on COCO, larger bodies")
        axes.plot(*(zip(*theirs) if theirs else ([], [])), "D", **hollow)
    axes.set_yticks(range(len(rows)), [row.title for row in rows], fontsize=TEXT - 2)
    axes.set_xlabel("AP in percent (± standard error)", fontsize=TEXT - 1)
    axes.set_xlim(left=0)
    _finish(axes, len(rows))


def _claims(axes, claims):
    """The mean difference of each claim and twice its standard error, colored by the verdict."""
    for text, color in INK.items():
        found = [(len(claims) - 1 - i, v) for i, (_, v) in enumerate(claims) if v.text == text]
        if found:
            places, verdicts = zip(*found)
            errors = [2 * (v.error or 0) for v in verdicts]
            differences = [v.difference for v in verdicts]
            axes.errorbar(differences, places, xerr=errors, fmt="o", color=color, markersize=8, capsize=4, label=text)
    names = [
        f"{claim.source}: {BY_NAME[claim.worse].title} < {BY_NAME[claim.better].title} ({claim.number})"
        for claim, _ in claims[::-1]
    ]
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(names)), names, fontsize=TEXT - 3)
    axes.set_xlabel("difference of AP in percent (± 2 standard errors)", fontsize=TEXT - 1)
    _finish(axes, len(names))


def _finish(axes, rows):
    axes.set_ylim(-0.7, rows - 0.3)
    axes.grid(alpha=0.3)
    axes.tick_params(axis="x", labelsize=TEXT - 2)
    axes.legend(fontsize=TEXT - 3, loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=2, frameon=False)
