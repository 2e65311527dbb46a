"""The numbers around the first wrong one, as text or as a picture."""

import io
import sys

import numpy as np

from minimask.check.words import short

WINDOW = 7  # rows and columns shown around the first wrong cell


def _planes(found, expected, index, grid):
    """The two-dimensional part of both arrays that contains an element, cut to WINDOW rows and columns around it.

    index: of the element. grid: the two axes that are rows and columns.
    Returns (found, expected, (row, column) of the element, (row, column) where the cut starts).
    """
    if found.ndim == 1:
        found, expected, index, grid = found[None], expected[None], (0, *index), (-2, -1)
    rows, columns = (axis % found.ndim for axis in grid)
    take = tuple(slice(None) if axis in (rows, columns) else i for axis, i in enumerate(index))
    planes = [array[take] if rows < columns else array[take].T for array in (found, expected)]
    place = [index[rows], index[columns]]
    start = [min(max(0, i - WINDOW // 2), max(0, n - WINDOW)) for i, n in zip(place, planes[0].shape)]
    window = tuple(slice(i, i + WINDOW) for i in start)
    return planes[0][window], planes[1][window], tuple(place), tuple(start)


def close(found, expected, rtol, atol):
    """Where two arrays agree: floats within the tolerance, everything else exactly."""
    if found.dtype.kind == "f" or expected.dtype.kind == "f":
        return np.isclose(found, expected, rtol, atol, equal_nan=True)
    return found == expected


def text_grid(found, expected, index, grid=(-2, -1), rtol=1e-6, atol=1e-8):
    """The numbers around the first wrong element, found and expected, as lines of text. Wrong ones have a star."""
    found, expected, (row, column), (top, left) = _planes(found, expected, index, grid)
    wrong = ~close(found, expected, rtol, atol)
    lines = []
    for title, plane in (("found (* is wrong)", found), ("expected", expected)):
        cells = [[short(value) for value in line] for line in plane]
        width = max(8, *(len(text) + 2 for line in cells for text in line))
        lines += [f"{title}:", " " * 5 + "".join(f"{left + j:>{width}}" for j in range(plane.shape[1]))]
        for i, line in enumerate(cells):
            marked = [("*" if w and plane is found else "") + text for text, w in zip(line, wrong[i])]
            lines.append(f"{top + i:>5}" + "".join(f"{text:>{width}}" for text in marked))
    return "\n".join(lines)


def draw_grid(found, expected, index, grid=(-2, -1), rtol=1e-6, atol=1e-8):
    """A Matplotlib figure of the cells around the first wrong one, found next to expected. Wrong ones are framed."""
    from matplotlib.figure import Figure

    whole = found.shape
    found, expected, (row, column), (top, left) = _planes(found, expected, index, grid)
    wrong = ~close(found, expected, rtol, atol)
    finite = np.concatenate([found[np.isfinite(found)], expected[np.isfinite(expected)]]).astype(float)
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    figure = Figure(figsize=(9, 1.6 + 4.2 * min(1.0, found.shape[0] / found.shape[1])), layout="constrained")
    for axes, plane, title in zip(figure.subplots(1, 2), (found, expected), ("found", "expected")):
        axes.imshow(plane.astype(float), cmap="Grays", vmin=low, vmax=high + (high - low) + (high == low))
        for (i, j), value in np.ndenumerate(plane):
            axes.text(j, i, short(value), ha="center", va="center", fontsize=11)
            if wrong[i, j]:
                first = (top + i, left + j) == (row, column)
                axes.add_patch(_frame(i, j, "#d55e00", 4 if first else 1.5))  # vermillion
        axes.set_title(title, fontsize=14)
        axes.set_xticks(range(plane.shape[1]), range(left, left + plane.shape[1]))
        axes.set_yticks(range(plane.shape[0]), range(top, top + plane.shape[0]))
        axes.tick_params(labelsize=12)
    at = ", ".join(map(str, index))
    figure.suptitle(f"first wrong: [{at}] of a result of shape {whole}; wrong cells are framed", fontsize=12)
    return figure


def _frame(i, j, color, width):
    from matplotlib.patches import Rectangle

    inset = 0.45
    return Rectangle((j - inset, i - inset), 2 * inset, 2 * inset, fill=False, edgecolor=color, linewidth=width)


def in_notebook():
    """Whether this code runs in a Jupyter kernel."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return getattr(shell, "kernel", None) is not None


def display_figure(figure):
    if figure is not None:
        from IPython.display import Image, display

        file = io.BytesIO()
        figure.savefig(file, dpi=100)
        display(Image(file.getvalue()))
