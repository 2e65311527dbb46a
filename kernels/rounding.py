"""Comparing float32 numbers with a threshold that a user gave in float64."""

import numpy as np


def round_down(threshold, dtype):
    """The largest number of `dtype` that is not above `threshold`: comparing with it gives the exact answer."""
    rounded = np.dtype(dtype).type(threshold)
    return rounded if float(rounded) <= threshold else np.nextafter(rounded, np.dtype(dtype).type(-np.inf))
