"""What the counts and the ranks say. A metric that the data leave undefined is None, never 0.

Every ratio is one row of `RATIOS`, linear in the counts (tp, fp, fn, tn), so that one image set, 2000 bootstrap
resamples and a leave-one-patient-out table go through the same arithmetic. Definitions: Altman & Bland, BMJ 1994;
308:1552 and 309:102; F1: van Rijsbergen, Information Retrieval, 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from cxrtl.errors import PredictionsError
from cxrtl.predictions import FloatArray

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

THRESHOLD = 0.5  # of two softmax scores the larger decides; no data chose it

# name → (numerator, denominator), each a weight of (tp, fp, fn, tn)
RATIOS: dict[str, tuple[tuple[int, int, int, int], tuple[int, int, int, int]]] = {
    "accuracy": ((1, 0, 0, 1), (1, 1, 1, 1)),
    "sensitivity": ((1, 0, 0, 0), (1, 0, 1, 0)),
    "specificity": ((0, 0, 0, 1), (0, 1, 0, 1)),
    "ppv": ((1, 0, 0, 0), (1, 1, 0, 0)),
    "npv": ((0, 0, 0, 1), (0, 0, 1, 1)),
    "f1": ((2, 0, 0, 0), (2, 1, 1, 0)),
}


@dataclass(frozen=True)
class Confusion:
    """Images by prediction and truth; `positive` is the second class."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def images(self) -> int:
        return self.tp + self.fp + self.fn + self.tn

    def parts(self, name: str) -> tuple[int, int]:
        """Numerator and denominator of a ratio, in images (F1: of 2·tp over 2·tp + fp + fn)."""
        counts = (self.tp, self.fp, self.fn, self.tn)
        above, below = RATIOS[name]
        return sum(a * c for a, c in zip(above, counts, strict=True)), sum(
            b * c for b, c in zip(below, counts, strict=True)
        )

    def ratio(self, name: str) -> float | None:
        """One of `RATIOS`, or None where its denominator is 0."""
        above, below = self.parts(name)
        return above / below if below else None


def confusion(truth: BoolArray, score: FloatArray, threshold: float = THRESHOLD) -> Confusion:
    """Count `truth` `[N]` against `score >= threshold`: a score on the threshold is called positive.

    Raises:
        PredictionsError: the two differ in length, or a score is not finite.
    """
    check(truth, score)
    called = score >= threshold
    return Confusion(
        tp=int((called & truth).sum()),
        fp=int((called & ~truth).sum()),
        fn=int((~called & truth).sum()),
        tn=int((~called & ~truth).sum()),
    )


def check(truth: BoolArray, score: FloatArray) -> None:
    """Raises PredictionsError unless both are `[N]` and every score is finite."""
    if truth.ndim != 1 or truth.shape != score.shape:
        raise PredictionsError(f"truth {truth.shape} and score {score.shape} must be one-dimensional and alike")
    if not np.isfinite(score).all():
        raise PredictionsError("scores hold values that are not finite: training diverged?")


def counts_to_ratios(counts: FloatArray) -> dict[str, FloatArray]:
    """All of `RATIOS` for `counts` `[B, 4]` of (tp, fp, fn, tn): name → `[B]`, NaN where undefined."""
    found = {}
    for name, (above, below) in RATIOS.items():
        numerator, denominator = counts @ np.array(above, float), counts @ np.array(below, float)
        with np.errstate(invalid="ignore", divide="ignore"):
            found[name] = np.where(denominator > 0, numerator / denominator, np.nan)
    return found


def auc(truth: BoolArray, score: FloatArray) -> float | None:
    """Area under the ROC curve: the share of (positive, negative) pairs ranked right, ties counting half.

    The Mann–Whitney form (Hanley & McNeil, Radiology 1982; 143:29). None where a class is absent.
    """
    check(truth, score)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return None
    ranks = rankdata(score)
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def fold_aucs(truth: BoolArray, score: FloatArray, fold: IntArray) -> dict[int, float | None]:
    """The AUC within each fold `[N]`, in fold order; None where a fold lacks a class."""
    return {int(k): auc(truth[fold == k], score[fold == k]) for k in np.unique(fold)}


def mean_sd(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n − 1) of what is defined; None where too few are."""
    known = np.array([value for value in values if value is not None])
    return (float(known.mean()) if len(known) else None, float(known.std(ddof=1)) if len(known) > 1 else None)
