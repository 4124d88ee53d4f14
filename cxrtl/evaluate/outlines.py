"""Two areas against each other: their pixels, and how far apart their outlines are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Areas = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
PERCENTILE = 95


def counts(truth: Areas, predicted: Areas) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Pixels of the truth, of the prediction, and of both, `[N]` each, of areas `[N, H, W]`."""
    truth_size, predicted_size, shared = (
        area.sum(axis=(1, 2)).astype(np.float64) for area in (truth, predicted, truth & predicted)
    )
    return truth_size, predicted_size, shared


def hausdorff95(truth: Areas, predicted: Areas) -> float:
    """The larger of the two 95th percentiles of the distance from one outline to the nearest point of the other.

    Areas `[H, W]`; pixels; NaN where one is empty. An outline is the pixels of an area with one of their four
    neighbours outside it or beyond the image. The 95th percentile in place of the maximum, of each direction by itself:
    Huttenlocher et al., IEEE TPAMI 1993; Maier-Hein et al., Nature Methods 2024.
    """
    if not truth.any() or not predicted.any():
        return float("nan")
    outlines = [area & ~ndimage.binary_erosion(area) for area in (truth, predicted)]
    there, back = (
        np.percentile(ndimage.distance_transform_edt(~to)[start], PERCENTILE)
        for start, to in (outlines, outlines[::-1])
    )
    return float(max(there, back))
