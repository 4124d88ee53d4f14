"""How well predicted areas cover true ones.

With pixels as sets, Dice = 2·|T ∩ P| / (|T| + |P|) (Dice, Ecology 1945; 26:297) and IoU = |T ∩ P| / |T ∪ P| (Jaccard,
1912). `dice` and `iou` are means over images, each image counting once; `pooled_dice` and `pooled_iou` count every
pixel of all images once, so that large areas weigh more.

Empty areas: where truth and prediction are both empty the image is right, Dice = IoU = 1; where one is empty, 0. In the
pooled figures such an image adds nothing, or its one area. `hausdorff95`, the 95th percentile of the distances between
the outlines, in pixels, has no value where either is empty: its mean is over the other images (see `measured`).
"""

from __future__ import annotations

import numpy as np

from cxrtl.evaluate.metrics import BoolArray, IntArray
from cxrtl.evaluate.weighted import Sums
from cxrtl.predictions import FloatArray, Predictions

METRICS = ("dice", "iou", "pooled_dice", "pooled_iou", "hausdorff95")


def dice(truth: FloatArray, predicted: FloatArray, shared: FloatArray) -> FloatArray:
    """Of areas in pixels, any shape; 1 where both are empty."""
    both = truth + predicted
    return np.asarray(np.where(both > 0, 2 * shared / np.where(both > 0, both, 1), 1.0))


def iou(truth: FloatArray, predicted: FloatArray, shared: FloatArray) -> FloatArray:
    """Of areas in pixels, any shape; 1 where both are empty."""
    union = truth + predicted - shared
    return np.asarray(np.where(union > 0, shared / np.where(union > 0, union, 1), 1.0))


def image_dice(chosen: Predictions) -> FloatArray:
    """Each image's Dice, `[N, structures]`."""
    return np.stack([dice(*_areas(chosen, name)) for name in chosen.classes], axis=1)


def measured(chosen: Predictions, name: str) -> BoolArray:
    """The images with a Hausdorff distance of the structure `name`, `[N]`."""
    return np.asarray(chosen.frame[f"hausdorff95_{name}"].notna())


def sums(chosen: Predictions, name: str, codes: IntArray, patients: int) -> Sums:
    """`METRICS` of the structure `name` under patient weights; `codes` `[N]` are places 0 … `patients` − 1."""
    truth, predicted, shared = _areas(chosen, name)
    distance, known = chosen.frame[f"hausdorff95_{name}"].to_numpy(np.float64), measured(chosen, name)
    one = np.ones(len(truth))
    images = {
        "dice": (dice(truth, predicted, shared), one),
        "iou": (iou(truth, predicted, shared), one),
        "pooled_dice": (2 * shared, truth + predicted),
        "pooled_iou": (shared, truth + predicted - shared),
        "hausdorff95": (np.where(known, distance, 0.0), known.astype(np.float64)),
    }
    return Sums.of(images, codes, patients)


def _areas(chosen: Predictions, name: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    truth, predicted, shared = (
        chosen.frame[f"{kind}_{name}"].to_numpy(np.float64) for kind in ("truth", "predicted", "shared")
    )
    return truth, predicted, shared
