"""Whether a score of 0.8 means that 8 of 10 such images are positive.

Scores fall into `BINS` bins of equal width, [0, 0.1), [0.1, 0.2), … [0.9, 1]; empty bins are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cxrtl.evaluate.estimates import Estimate, dense, resampled
from cxrtl.evaluate.intervals import LEVEL, Interval, wilson
from cxrtl.evaluate.metrics import BoolArray, IntArray, check
from cxrtl.predictions import FloatArray

BINS = 10
MEASURES = ("brier", "reliability", "resolution", "uncertainty", "within", "ece")
RESAMPLED = ("brier", "ece")  # those with an interval


@dataclass(frozen=True)
class Bin:
    """The images whose score lies in [`low`, `high`): their mean `score`, and the `share` that is positive."""

    low: float
    high: float
    images: int
    score: float
    share: float
    interval: Interval | None  # Wilson, of the share; over patients where one holds several images


@dataclass(frozen=True)
class Calibration:
    """The reliability diagram, and `MEASURES` by name: the Brier score, its parts, the expected calibration error.

    Brier = reliability − resolution + uncertainty + within. The first three are Murphy's (J Appl Meteorol 1973;
    12:595): reliability is the squared distance of the bins from the diagonal (0 is best), resolution that of their
    shares from the base rate (large is best), uncertainty what the base rate alone would score. They add up for scores
    that take one value a bin; `within` is what scores that vary inside bins leave over (Stephenson, Coelho &
    Jolliffe, Weather Forecast 2008; 23:752). `ece` is the mean distance |share − score| of the bins, weighted by
    images (Naeini, Cooper & Hauskrecht, AAAI 2015): it depends on the bins, so they are stated.

    Chance alone sets bins apart from the diagonal, so that ECE, reliability and resolution come out too large, and
    larger still in a resample (Bröcker, Clim Dyn 2012; 39:655). BCa allows for it, so that ECE's interval may lie
    below it. The parts of the Brier score have none: they describe this set.
    """

    bins: tuple[Bin, ...]
    measures: dict[str, Estimate]


def calibrate(
    truth: BoolArray, score: FloatArray, patients: IntArray | None = None, bins: int = BINS, level: float = LEVEL
) -> Calibration | None:
    """Calibration of `score` `[N]`, a probability of `truth` `[N]`; `patients` `[N]` codes. None without images.

    Raises:
        PredictionsError: shapes differ or scores are not finite.
    """
    check(truth, score)
    if not len(truth):
        return None
    place = np.clip(np.floor(score * bins), 0, bins - 1).astype(np.int64)
    found = [_bin(k / bins, (k + 1) / bins, place == k, truth, score, patients, level) for k in np.unique(place)]
    codes, size = dense(patients, len(truth))
    measures = resampled(Binned.of(truth, score, place, bins, codes, size), size, len(truth), level)
    return Calibration(
        tuple(found),
        {name: item if name in RESAMPLED else replace(item, interval=None) for name, item in measures.items()},
    )


@dataclass(frozen=True)
class Binned:
    """`MEASURES` under patient weights. `sums` `[P, bins, 3]` holds each patient's images, scores and positives in
    each bin, `squares` `[P]` his squared distances of score from truth."""

    sums: FloatArray
    squares: FloatArray

    @classmethod
    def of(
        cls, truth: BoolArray, score: FloatArray, place: IntArray, bins: int, codes: IntArray, patients: int
    ) -> Binned:
        """From images: all arrays `[N]`, `place` the bin and `codes` the patient's place."""

        def total(at: IntArray, cells: int, values: FloatArray) -> FloatArray:
            return np.bincount(at, weights=values, minlength=cells).astype(np.float64)

        parts = (np.ones(len(truth)), score, truth.astype(np.float64))
        sums = np.stack([total(codes * bins + place, patients * bins, part) for part in parts], axis=1)
        return cls(sums.reshape(patients, bins, 3), total(codes, patients, (score - truth) ** 2))

    def under(self, weights: FloatArray) -> dict[str, FloatArray]:
        return _measures(np.tensordot(weights, self.sums, 1), weights @ self.squares)

    def left_out(self) -> dict[str, FloatArray]:
        return _measures(self.sums.sum(axis=0) - self.sums, self.squares.sum() - self.squares)


def _measures(sums: FloatArray, squares: FloatArray) -> dict[str, FloatArray]:
    """`sums` `[B, bins, 3]` and `squares` `[B]` as `Binned` has them → `MEASURES`, each `[B]`; NaN without images."""
    images, score, positive = np.moveaxis(sums, 2, 0)
    filled = np.where(images > 0.5, images, np.inf)  # what an empty bin would add is 0
    with np.errstate(invalid="ignore", divide="ignore"):
        share = images / images.sum(axis=1, keepdims=True)
        base = (share * positive / filled).sum(axis=1)
        gap = (score - positive) / filled
        found = {
            "brier": squares / images.sum(axis=1),
            "reliability": (share * gap**2).sum(axis=1),
            "resolution": (share * (positive / filled - base[:, None]) ** 2).sum(axis=1),
            "uncertainty": base * (1 - base),
            "ece": (share * np.abs(gap)).sum(axis=1),
        }
    found["within"] = found["brier"] - found["reliability"] + found["resolution"] - found["uncertainty"]
    return {name: found[name] for name in MEASURES}


def _bin(
    low: float,
    high: float,
    mask: BoolArray,
    truth: BoolArray,
    score: FloatArray,
    patients: IntArray | None,
    level: float,
) -> Bin:
    share, images = float(truth[mask].mean()), int(mask.sum())
    trials = images if patients is None else len(np.unique(patients[mask]))
    interval = wilson(share * trials, trials, level, "Wilson" if patients is None else "Wilson over patients")
    return Bin(float(low), float(high), images, float(score[mask].mean()), share, interval)
