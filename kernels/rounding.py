"""Compare float32 numbers with a threshold given in float64."""

import numpy as np


def round_down(threshold, dtype):
    """The largest number of `dtype` that is not above `threshold`: x > threshold is exact for any x of that dtype."""
    rounded = np.dtype(dtype).type(threshold)
    return rounded if float(rounded) <= threshold else np.nextafter(rounded, np.dtype(dtype).type(-np.inf))
