"""Masks that stay run lengths (RLE) until their pixels are needed, and are decoded at the size that is needed.

As pixels, the masks of 2,000 objects in a photo of 16 megapixels take 32 GB. Training only looks at them in the resized
photo, where an object covers a few hundred pixels.

The result is what torchvision computes, to the last pixel: polygons are drawn at the size of the photo, and pixel i of
the resized mask copies pixel floor(i * H / height). But a polygon is drawn as run lengths, which take memory only for
its outline, and the runs are resized instead of the pixels. (It would be simpler to scale the polygon's points and draw
it small, but that gives another mask: for 401 polygons of COCO in photos resized to 256 pixels, its IoU with
torchvision's mask is 0.75 on average for small objects, 0.91 for medium and 0.97 for large ones.)
"""

import numpy as np

from minimask.datasets.segmentation import encode_segmentation, rle_counts


class EncodedMasks(np.lib.mixins.NDArrayOperatorsMixin):
    """The masks of G objects, which can be read like the (G, H, W) uint8 array that they stand for.

    masks[g] decodes one mask; np.asarray(masks), masks.sum(), masks > 0, ... decode all of them. Some of the objects,
    masks[chosen], and a part of the image, masks[:, y1:y2, x1:x2] or masks[:, :, ::-1], stay encoded.

    ends: G arrays (m,) int64: where each run ends. Pixels are counted column by column, and the first run is outside.
    height: the height of the photo in pixels.
    rows, columns: the rows (H,) and columns (W,) of the photo that are shown, ascending or descending.
    transposed: whether rows and columns are exchanged afterwards.
    """

    ndim, dtype = 3, np.dtype(np.uint8)

    def __init__(self, ends, height, rows, columns, transposed=False):
        self.ends, self.height, self.rows, self.columns, self.transposed = ends, height, rows, columns, transposed

    @classmethod
    def of(cls, segmentations, height, width):
        """The masks of checked COCO segmentations (polygons or RLE) in a photo of height x width pixels."""
        codes = [encode_segmentation(segmentation, height, width) for segmentation in segmentations]
        return cls([np.cumsum(rle_counts(c["counts"])) for c in codes], height, np.arange(height), np.arange(width))

    @property
    def shape(self):
        sides = len(self.rows), len(self.columns)
        return (len(self.ends), *(sides[::-1] if self.transposed else sides))

    @property
    def nbytes(self):
        """How many bytes the run lengths take."""
        return sum(ends.nbytes for ends in self.ends)

    def __len__(self):
        return len(self.ends)

    def __repr__(self):
        return f"EncodedMasks(shape={self.shape})"

    # -------------------------------------------------------------------------------------------- like an array

    def __getitem__(self, index):
        first, *others = index if isinstance(index, tuple) else (index,)
        if isinstance(first, (int, np.integer)):
            one = EncodedMasks([self.ends[first]], self.height, self.rows, self.columns, self.transposed)
            return np.asarray(one)[(0, *others)]
        if not _is_selection(first) or len(others) > 2 or not all(isinstance(other, slice) for other in others):
            return np.asarray(self)[index]
        ends = [self.ends[g] for g in np.arange(len(self))[first]]
        down, across = (*others, slice(None), slice(None))[:2]
        if self.transposed:
            down, across = across, down
        return EncodedMasks(ends, self.height, self.rows[down], self.columns[across], self.transposed)

    def __iter__(self):
        return (self[g] for g in range(len(self)))

    def swapaxes(self, first, second):
        """Rows and columns exchanged: masks.swapaxes(1, 2)."""
        if {first % 3, second % 3} != {1, 2}:
            return np.asarray(self).swapaxes(first, second)
        return EncodedMasks(self.ends, self.height, self.rows, self.columns, not self.transposed)

    def __array__(self, dtype=None, copy=None):
        out = np.zeros(self.shape, self.dtype if dtype is None else dtype)
        return self.decode(out, *(np.arange(side) for side in self.shape[1:]))

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if any(isinstance(target, EncodedMasks) for target in options.get("out") or ()):
            return NotImplemented  # masks += 1: they can only be read
        inputs = [np.asarray(value) if isinstance(value, EncodedMasks) else value for value in inputs]
        return getattr(ufunc, method)(*inputs, **options)

    def __getattr__(self, name):  # any, sum, max, astype, ...
        if name.startswith("_") or not hasattr(np.ndarray, name):
            raise AttributeError(f"EncodedMasks has no {name}")
        return getattr(np.asarray(self), name)

    # ------------------------------------------------------------------------------------------------- decoding

    def decode(self, out, rows, columns):
        """Write the masks, at these rows and columns of (H, W), into `out`, which must be zero.

        Only the part of `out` where an object lies is written, so the rest of a fresh array takes no memory.

        out: (G, len(rows), len(columns)), of any type of numbers.
        rows, columns: int, ascending.
        Returns out.
        """
        target = out
        if self.transposed:
            target, rows, columns = out.swapaxes(1, 2), columns, rows
        rows, columns = self.rows[rows], self.columns[columns]
        if (np.diff(rows) < 0).any():
            target, rows = target[:, ::-1], rows[::-1]
        if (np.diff(columns) < 0).any():
            target, columns = target[:, :, ::-1], columns[::-1]

        rows, row_of = np.unique(rows, return_inverse=True)  # rows of the photo; which of them each row gets
        columns, column_of = np.unique(columns, return_inverse=True)
        places, windows, parts = self._parts(rows, columns)
        downs, acrosses = np.searchsorted(row_of, windows[:, :2]), np.searchsorted(column_of, windows[:, 2:])
        for g, (top, _, left, _), down, across, part in zip(places, windows, downs, acrosses, parts):
            down, across = slice(*down), slice(*across)
            if len(rows) < len(row_of):  # rows are repeated
                part = part[row_of[down] - top]
            if len(columns) < len(column_of):
                part = part[:, column_of[across] - left]
            target[g, down, across] = part
        return out

    def _parts(self, rows, columns):
        """The part of each mask around its pixels, where only these rows and columns of the photo are left.

        Returns the indices (n,) of the masks that have a pixel there, windows (n, 4) of top, bottom, left and right,
        and a list of n arrays (bottom - top, right - left) uint8.
        """
        height = len(rows)
        owner = np.repeat(np.arange(len(self)), [len(ends) for ends in self.ends])
        inside = np.concatenate([np.arange(len(ends)) % 2 == 1 for ends in self.ends] or [np.zeros(0, bool)])
        ends = _fewer_pixels(np.concatenate([*self.ends, np.zeros(0, int)]), self.height, rows, columns)
        starts = np.append(0, ends[:-1])  # wrong for the first run of a mask, which is outside
        used = inside & (starts < ends)
        owner, starts, ends = owner[used], starts[used], ends[used]
        if not len(owner):
            return [], np.zeros((0, 4), int), []

        first_of = np.flatnonzero(np.diff(owner, prepend=-1))  # the first run of each mask that has pixels
        left, right = starts[first_of] // height, (ends[np.append(first_of[1:], len(ends)) - 1] - 1) // height + 1
        one_column = starts // height == (ends - 1) // height
        top = np.minimum.reduceat(np.where(one_column, starts % height, 0), first_of)
        bottom = np.maximum.reduceat(np.where(one_column, (ends - 1) % height + 1, height), first_of)

        base = np.cumsum(np.append(0, (right - left) * height))  # where the columns of each mask begin in `pixels`
        shift = np.repeat(base[:-1] - left * height, np.diff(np.append(first_of, len(ends))))
        runs = np.stack([starts + shift, ends + shift], axis=1).ravel()  # outside, inside, outside, ...
        values = np.append(np.arange(len(runs)) % 2, 0).astype(np.uint8)
        pixels = np.repeat(values, np.diff(runs, prepend=0, append=base[-1]))  # (base[-1],)
        bands = [band.reshape(-1, height) for band in np.split(pixels, base[1:-1])]  # (right - left, height) each
        parts = [band[:, first:last].T for band, first, last in zip(bands, top, bottom)]
        return owner[first_of], np.stack([top, bottom, left, right], axis=1), parts


def _is_selection(index):
    """Whether an index chooses some of the objects."""
    return isinstance(index, slice) or (isinstance(index, (list, np.ndarray)) and np.ndim(index) == 1)


def _fewer_pixels(ends, height, rows, columns):
    """The run ends of a mask of which only these rows and columns (ascending) are left.

    ends: (m,), counted in columns of `height` pixels. A run now ends at the first pixel that is left at or after its
    old end.
    """
    column, row = np.divmod(ends, height)
    position = np.searchsorted(columns, column)
    kept = np.append(columns, -1)[position] == column  # otherwise it ends with the column before
    return position * len(rows) + np.where(kept, np.searchsorted(rows, row), 0)
