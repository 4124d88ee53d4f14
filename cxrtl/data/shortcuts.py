"""Could the label be guessed without the organ? Metadata alone, and the image's rim alone, try to tell it.

For each, ridge regression of the label (±1) on standardised features (for two classes Fisher's discriminant, shrunk),
fitted on the images that train for a fold and scored on those it holds out: the run's own folds, so that no patient is
on both sides. An AUC near 0.5 is what a clean set gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrtl.evaluate.estimates import estimate, patient_codes
from cxrtl.evaluate.metrics import BoolArray
from cxrtl.predictions import FloatArray
from cxrtl.records import INDEX_COLUMNS, READER, IntArray

MOST_LEVELS = 20  # of a text column; rarer values count as one
MOST_FITTED = 5000  # images of a fit, evenly spaced over the training folds
RIM = 2  # pixels of 32 × 32, on each side
CORNER = 8  # a corner is this part of the side
GREYS = 8  # bins of a corner's histogram
Features = FloatArray | npt.NDArray[np.float32]
_OF_LABEL = ("finding:", "label_", "cause", READER)  # columns that are the label in other words


@dataclass(frozen=True)
class Probe:
    """What `features` say of `target`: pooled AUC over the folds, its interval by patients, and how to read it."""

    features: str
    target: str
    images: int
    auc: float | None
    low: float | None
    high: float | None
    reading: str


def probe(
    features: Mapping[str, Features], targets: Mapping[str, FloatArray], division: IntArray, owners: Sequence[str]
) -> list[Probe]:
    """One row for each of `features` (`[N, d]`) and `targets` (`[N]`: 1, 0, or NaN where it is not stated).

    `division` `[N]` is each image's fold, -1 for training only; `owners` `[N]` says whose images belong together.
    """
    found = []
    for name, values in features.items():
        for target, truth in targets.items():
            score = _scored(values, truth, division)
            known = ~np.isnan(score)
            positive = truth[known] == 1
            codes = patient_codes([owner for owner, take in zip(owners, known, strict=True) if take])
            both = bool(positive.any() and not positive.all())
            auc = estimate(positive, score[known], codes)["auc"] if both else None
            low, high = (auc.interval.low, auc.interval.high) if auc and auc.interval else (None, None)
            value = auc.value if auc else None
            found.append(Probe(name, target, int(known.sum()), value, low, high, reading(low)))
    return found


def reading(low: float | None) -> str:
    """By the interval's lower end."""
    if low is None:
        return "could not be tried"
    if low > 0.9:
        return "tells the label almost by itself: a model may learn this instead of the disease"
    if low > 0.6:
        return "tells something of the label: results may owe a part to it"
    return "tells a little of the label" if low > 0.5 else "nothing shown"


def _scored(values: Features, truth: FloatArray, division: IntArray) -> FloatArray:
    """`[N]`, held-out scores; NaN where there is none."""
    score = np.full(len(truth), np.nan)
    stated = ~np.isnan(truth)
    for fold in np.unique(division[division >= 0]):
        train, test = np.flatnonzero((division != fold) & stated), np.flatnonzero((division == fold) & stated)
        train = train[np.linspace(0, len(train) - 1, min(len(train), MOST_FITTED)).astype(int)] if len(train) else train
        if len(np.unique(truth[train])) == 2 and len(test):
            score[test] = _ridge(values[train], truth[train] * 2 - 1, values[test])
    return score


def _ridge(values: Features, sign: FloatArray, asked: Features) -> FloatArray:
    values, asked = values.astype(np.float64), asked.astype(np.float64)
    middle, spread = values.mean(axis=0), values.std(axis=0)
    spread[spread < 1e-9] = np.inf  # a constant says nothing
    x, count = (values - middle) / spread, values.shape[1]
    weights = np.linalg.solve(x.T @ x + count * np.eye(count), x.T @ (sign - sign.mean()))
    answer: FloatArray = (asked - middle) / spread @ weights
    return answer


def metadata(index: pd.DataFrame) -> dict[str, FloatArray]:
    """Each further column of `index` by itself, and all of them together; those that restate the label are left out."""
    names = [str(name) for name in index if name not in INDEX_COLUMNS and not str(name).startswith(_OF_LABEL)]
    columns = {name: _encoded(index[name]) for name in names if index[name].nunique(dropna=False) > 1}
    together = {"all metadata": np.concatenate(list(columns.values()), axis=1)} if len(columns) > 1 else {}
    return {**columns, **together}


def _encoded(values: pd.Series[Any]) -> FloatArray:
    """Numbers as they are, beside a mark for blanks; text as one column a value."""
    if values.dtype.kind in "iuf":
        number = values.to_numpy(dtype=np.float64)
        blank = ~np.isfinite(number)
        middle = float(np.median(number[~blank])) if (~blank).any() else 0.0
        return np.stack([np.where(blank, middle, number), blank], axis=1)
    text = values.fillna("").astype(str)
    levels = sorted(text.value_counts(sort=True).index[:MOST_LEVELS])
    return np.stack([(text == level).to_numpy(dtype=np.float64) for level in levels], axis=1)


def rim(reduced: npt.NDArray[np.uint8], corners: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Features of the outermost pixels of `reduced` `[N, 32, 32]` and of `corners` `[N, d]`: where markers stand."""
    side = reduced.shape[1]
    edge: BoolArray = np.ones((side, side), dtype=bool)
    edge[RIM : side - RIM, RIM : side - RIM] = False
    return np.concatenate([reduced[:, edge].astype(np.float32), corners], axis=1)


def corner_histograms(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """`[N, H, W]` to `[N, 4 * GREYS]`: the share of each grey level in each corner."""
    cut = pixels.shape[1] // CORNER
    places = [(slice(0, cut), slice(0, cut)), (slice(0, cut), slice(-cut, None))]
    places += [(slice(-cut, None), slice(0, cut)), (slice(-cut, None), slice(-cut, None))]
    bins = pixels >> 5  # 256 greys to 8
    parts = [
        (bins[:, rows, columns].reshape(len(pixels), -1) == grey).mean(axis=1, dtype=np.float32)
        for rows, columns in places
        for grey in range(GREYS)
    ]
    return np.stack(parts, axis=1)
