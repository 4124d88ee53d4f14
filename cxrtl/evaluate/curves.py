"""Curves over all thresholds: ROC with a band that resamples patients, precision against recall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrtl.evaluate import bootstrap
from cxrtl.evaluate.intervals import LEVEL
from cxrtl.evaluate.metrics import BoolArray, IntArray, check
from cxrtl.predictions import FloatArray

BAND_RESAMPLES = 500
GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Steps:
    """`true` and `false` positives when every score at or above `threshold` is called; thresholds descend.

    All are `[P]`. The first threshold lies above every score, the last is the lowest score.
    """

    threshold: FloatArray
    true: IntArray
    false: IntArray


def steps(truth: BoolArray, score: FloatArray) -> Steps:
    """Count `truth` `[N]` at every distinct `score` `[N]`; N must not be 0."""
    check(truth, score)
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    threshold = np.concatenate([[np.nextafter(score.max(), np.inf)], score[order][ends]])
    true, false = (np.concatenate([[0], np.cumsum(mask[order])[ends]]) for mask in (truth, ~truth))
    return Steps(threshold, true, false)


@dataclass(frozen=True)
class Roc:
    """Points of the ROC curve, from (0, 0) to (1, 1): both `[P]`, shares of the images of a class."""

    false_positive_rate: FloatArray
    true_positive_rate: FloatArray


def roc(truth: BoolArray, score: FloatArray) -> Roc | None:
    """The empirical ROC curve, corners only; tied scores give one slanted step. None where a class is absent."""
    check(truth, score)
    if not truth.any() or truth.all():
        return None
    found = steps(truth, score)
    up, right = np.diff(found.true), np.diff(found.false)
    keep = np.concatenate([[True], up[:-1] * right[1:] != up[1:] * right[:-1], [True]])
    return Roc(found.false[keep] / found.false[-1], found.true[keep] / found.true[-1])


@dataclass(frozen=True)
class Band:
    """Bounds of the true positive rate at each false positive rate of `GRID`: both `[101]`."""

    low: FloatArray
    high: FloatArray


def roc_band(
    truth: BoolArray, score: FloatArray, patients: IntArray | None, level: float = LEVEL, seed: int = 0
) -> Band | None:
    """Pointwise band of the ROC curve: percentiles over `BAND_RESAMPLES` resamples of whole patients.

    At each false positive rate on its own (Fawcett, Pattern Recognit Lett 2006; 27:861, vertical averaging): the
    whole curve leaves such a band more often than 1 − `level`. None where a class is absent.
    """
    check(truth, score)
    if not truth.any() or truth.all():
        return None
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    codes = np.arange(len(truth)) if patients is None else np.unique(patients, return_inverse=True)[1]
    rates = []
    for weights in bootstrap.draws(int(codes.max()) + 1, len(truth), BAND_RESAMPLES, seed):
        of_images = weights[:, codes[order]]
        true, false = (np.cumsum(of_images * mask[order], axis=1)[:, ends] for mask in (truth, ~truth))
        for up, right in zip(true, false, strict=True):
            if up[-1] and right[-1]:
                rates.append(np.interp(GRID, np.append(0, right / right[-1]), np.append(0, up / up[-1])))
    low, high = np.quantile(rates, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return Band(low, high)


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision at each recall, recall ascending, both `[P]`, and the average precision."""

    recall: FloatArray
    precision: FloatArray
    average: float


def precision_recall(truth: BoolArray, score: FloatArray) -> PrecisionRecall | None:
    """Precision against recall; None without a positive image. Chance level is the share of positives.

    Average precision is the sum of precision times the gain in recall, without interpolation (Davis & Goadrich, ICML
    2006, on why); `estimates.average_precision` has its interval.
    """
    check(truth, score)
    if not truth.any():
        return None
    found = steps(truth, score)
    recall = found.true[1:] / found.true[-1]
    precision = found.true[1:] / (found.true[1:] + found.false[1:])
    return PrecisionRecall(recall, precision, float(np.diff(recall, prepend=0.0) @ precision))
