"""Whether a score of 0.8 means that 8 of 10 such images are positive.

Scores fall into `BINS` bins of equal width, [0, 0.1), [0.1, 0.2), … [0.9, 1]; empty bins are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrtl.evaluate.intervals import LEVEL, Interval, wilson
from cxrtl.evaluate.metrics import BoolArray, IntArray, brier
from cxrtl.predictions import FloatArray

BINS = 10


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
    """The reliability diagram, the expected calibration error, and the parts of the Brier score.

    Brier = `reliability` − `resolution` + `uncertainty` + `within`. The first three are Murphy's (J Appl Meteorol
    1973; 12:595): reliability is the squared distance of the bins from the diagonal (0 is best), resolution that of
    their shares from the base rate (large is best), uncertainty what the base rate alone would score. They add up
    for scores that take one value a bin; `within` is what scores that vary inside bins leave over (Stephenson,
    Coelho & Jolliffe, Weather Forecast 2008; 23:752). `ece` is the mean distance |share − score| of the bins,
    weighted by images (Naeini, Cooper & Hauskrecht, AAAI 2015): it depends on the bins, so they are stated.
    """

    bins: tuple[Bin, ...]
    ece: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


def calibrate(
    truth: BoolArray, score: FloatArray, patients: IntArray | None = None, bins: int = BINS, level: float = LEVEL
) -> Calibration | None:
    """Calibration of `score` `[N]`, a probability of `truth` `[N]`; `patients` `[N]` codes. None without images.

    Raises:
        PredictionsError: shapes differ or scores are not finite.
    """
    whole = brier(truth, score)
    if whole is None:
        return None
    place = np.clip(np.floor(score * bins), 0, bins - 1).astype(np.int64)
    found = [_bin(k / bins, (k + 1) / bins, place == k, truth, score, patients, level) for k in np.unique(place)]
    weight = np.array([item.images for item in found]) / len(truth)
    share, mean = (np.array([getattr(item, name) for item in found]) for name in ("share", "score"))
    base = float(truth.mean())
    reliability, resolution = float(weight @ (mean - share) ** 2), float(weight @ (share - base) ** 2)
    uncertainty = base * (1 - base)
    within = whole - (reliability - resolution + uncertainty)
    ece = float(weight @ np.abs(share - mean))
    return Calibration(tuple(found), ece, reliability, resolution, uncertainty, within)


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
