"""Intervals that resample whole patients, because the images of one patient resemble each other.

Cluster bootstrap: Field & Welsh, JRSS B 2007; 69:369. Bias-corrected and accelerated bounds (BCa): Efron, JASA 1987;
82:171, with the acceleration from leaving out one patient at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from cxrtl.evaluate.intervals import LEVEL, Interval, quantile
from cxrtl.evaluate.metrics import THRESHOLD, BoolArray, IntArray, check, counts_to_ratios
from cxrtl.predictions import FloatArray

METHOD = "patient bootstrap (BCa)"
RESAMPLES = 2000
_CELLS = 4_000_000  # weights held at once: 32 MB


@dataclass(frozen=True)
class Resampled:
    """A metric's value in each resample `[B]` and with each patient left out `[P]`; NaN where undefined."""

    resamples: FloatArray
    left_out: FloatArray


def resample(
    truth: BoolArray,
    score: FloatArray,
    patients: IntArray,
    threshold: float = THRESHOLD,
    resamples: int = RESAMPLES,
    seed: int = 0,
    ranks: bool = True,
) -> dict[str, Resampled]:
    """Draw P of P patients with replacement, `resamples` times, and recompute every ratio and, with `ranks`, the AUC.

    `truth`, `score`, `patients` (any codes) are `[N]`. The same seed and patients give the same draws, whatever the
    scores.
    """
    check(truth, score)
    codes = np.unique(patients, return_inverse=True)[1]
    size = int(codes.max()) + 1
    table = _patient_counts(truth, score >= threshold, codes, size)
    pairs = _Pairs.of(truth, score, codes) if ranks else None
    counts, areas = [], []
    for weights in draws(size, len(truth), resamples, seed):
        counts.append(weights @ table)
        if pairs:
            areas.append(pairs.auc(weights))
    ratios = counts_to_ratios(np.concatenate(counts))
    without = counts_to_ratios(table.sum(axis=0) - table)
    found = {name: Resampled(ratios[name], without[name]) for name in ratios}
    if pairs:
        found["auc"] = Resampled(np.concatenate(areas), pairs.auc_left_out(size))
    return found


def draws(patients: int, images: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """How often each patient was drawn: `[rows, patients]`, in blocks that together hold `resamples` rows."""
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // max(images, patients))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(patients, size=(rows, patients)) + np.arange(rows)[:, None] * patients
        counted = np.bincount(drawn.ravel(), minlength=rows * patients)
        yield counted.reshape(rows, patients).astype(np.float64)


def bca(value: float, drawn: Resampled, level: float = LEVEL) -> Interval | None:
    """The BCa interval of `value`.

    None where it would mean nothing: more than 5 % of the resamples leave the metric undefined, or all resamples
    lie on one side of the value or on it (as with a perfect score).
    """
    known = drawn.resamples[np.isfinite(drawn.resamples)]
    if len(known) < 0.95 * len(drawn.resamples) or len(known) < 2 or np.ptp(known) == 0:
        return None
    tie = 1e-12  # the same ratio summed in another order is the same ratio
    below = float(np.mean(known < value - tie) + 0.5 * np.mean(np.abs(known - value) <= tie))
    if not 0 < below < 1:
        return None
    bias = float(norm.ppf(below))
    acceleration = _acceleration(drawn.left_out)
    reach = quantile(level)
    shares = []
    for z in (bias - reach, bias + reach):
        shrink = 1 - acceleration * z
        if shrink <= 0:  # beyond the pole the adjustment turns round: take the outermost resample
            shares.append(float(z > 0))
        else:
            shares.append(float(norm.cdf(bias + z / shrink)))
    low, high = np.quantile(known, shares)
    return Interval(float(low), float(high), METHOD, level)


def _acceleration(left_out: FloatArray) -> float:
    known = left_out[np.isfinite(left_out)]
    distance = known.mean() - known if len(known) else known
    spread = float((distance**2).sum()) ** 1.5
    return float((distance**3).sum()) / (6 * spread) if spread > 0 else 0.0


def _patient_counts(truth: BoolArray, called: BoolArray, codes: IntArray, patients: int) -> FloatArray:
    """(tp, fp, fn, tn) of each patient: `[patients, 4]`."""
    cell = np.where(truth, np.where(called, 0, 2), np.where(called, 1, 3))
    return np.bincount(codes * 4 + cell, minlength=patients * 4).reshape(patients, 4).astype(np.float64)


@dataclass(frozen=True)
class _Pairs:
    """Images sorted by score, for AUCs under patient weights. All arrays `[N]`, `starts` `[distinct scores]`."""

    truth: BoolArray
    score: FloatArray
    codes: IntArray
    starts: IntArray

    @classmethod
    def of(cls, truth: BoolArray, score: FloatArray, codes: IntArray) -> _Pairs:
        order = np.argsort(score, kind="stable")
        starts = np.concatenate([[0], np.flatnonzero(np.diff(score[order])) + 1])
        return cls(truth[order], score[order], codes[order], starts)

    def auc(self, weights: FloatArray) -> FloatArray:
        """AUC under patient `weights` `[B, patients]`: `[B]`, NaN where a class weighs nothing."""
        of_images = weights[:, self.codes]
        positive = np.add.reduceat(of_images * self.truth, self.starts, axis=1)
        negative = np.add.reduceat(of_images * ~self.truth, self.starts, axis=1)
        below = np.cumsum(negative, axis=1) - negative / 2
        total = positive.sum(axis=1) * negative.sum(axis=1)
        right = (positive * below).sum(axis=1)
        return np.where(total > 0, right / np.where(total > 0, total, 1), np.nan)

    def auc_left_out(self, patients: int) -> FloatArray:
        """AUC without each patient in turn, `[patients]`, from pair counts rather than by recomputing P times."""
        truth, codes = self.truth, self.codes
        wins = self._wins()
        positives = np.bincount(codes[truth], minlength=patients)
        negatives = np.bincount(codes[~truth], minlength=patients)
        lost = np.bincount(codes, weights=wins, minlength=patients)
        for patient in np.flatnonzero((positives > 0) & (negatives > 0)):  # their own pairs were taken off twice
            mine = codes == patient
            gap = self.score[mine & truth][:, None] - self.score[mine & ~truth][None, :]
            lost[patient] -= float((gap > 0).sum() + 0.5 * (gap == 0).sum())
        total = (positives.sum() - positives) * (negatives.sum() - negatives)
        left = wins[truth].sum() - lost
        return np.where(total > 0, left / np.where(total > 0, total, 1), np.nan)

    def _wins(self) -> FloatArray:
        """Each image's pairs ranked right (a tie counts half), `[N]`; the positives' sum equals the negatives'."""
        lengths = np.diff(np.append(self.starts, len(self.truth)))
        positive = np.add.reduceat(self.truth.astype(np.float64), self.starts)
        negative = lengths - positive
        below = np.cumsum(negative) - negative / 2
        above = positive.sum() - np.cumsum(positive) + positive / 2
        return np.where(self.truth, np.repeat(below, lengths), np.repeat(above, lengths))
