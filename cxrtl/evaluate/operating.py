"""Thresholds chosen without the images they are used on.

Rule: for held-out fold k, the threshold is chosen on the pooled out-of-fold scores of the *other* folds (same arm,
same budget) and carried to fold k. No image of fold k helps to choose the threshold that calls it.

Caveat: the models that scored those other folds trained on fold k's images, so the choice is not wholly blind to
them; and a threshold chosen on other models' scores fits fold k's model only as far as the models agree in
calibration. Inner splits of every training fold would mend the first at k times the cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cxrtl.evaluate import bootstrap
from cxrtl.evaluate.curves import steps
from cxrtl.evaluate.estimates import Estimate, estimate
from cxrtl.evaluate.intervals import LEVEL
from cxrtl.evaluate.metrics import BoolArray, IntArray
from cxrtl.predictions import FloatArray

RULES = ("youden", "sensitivity", "specificity")


@dataclass(frozen=True)
class OperatingPoint:
    """What one rule gives: the threshold carried to each fold, and the metrics of the calls.

    `metrics` holds every ratio, and with a prevalence `ppv_at` and `npv_at`. It is empty where some fold could be
    given no threshold (its other folds lack a class).
    """

    rule: str
    target: float | None
    thresholds: Mapping[int, float | None]
    metrics: Mapping[str, Estimate]


def choose(truth: BoolArray, score: FloatArray, rule: str, target: float | None = None) -> float | None:
    """The threshold (`score >= threshold` is called positive) that `rule` picks on `truth` `[N]` and `score` `[N]`.

    `youden`: the largest sensitivity + specificity (Youden, Cancer 1950; 3:32); `sensitivity`: the highest threshold
    with sensitivity ≥ `target`; `specificity`: the lowest with specificity ≥ `target`. Candidates are the scores
    themselves and one above them all; of equals the highest wins. None where a class is absent.

    Raises:
        ValueError: the rule is unknown.
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is none of {RULES}")
    if not truth.any() or truth.all():
        return None
    found = steps(truth, score)
    positives, negatives = int(found.true[-1]), int(found.false[-1])
    if rule == "youden":
        gain = found.true * negatives - found.false * positives  # whole numbers: ties are ties
        return float(found.threshold[np.argmax(gain)])
    slack = 1e-9  # 0.9 of ten images is nine of them, whatever the rounding
    reached = target if target is not None else 1.0
    if rule == "sensitivity":
        return float(found.threshold[np.argmax(found.true >= reached * positives - slack)])
    right = negatives - found.false
    return float(found.threshold[np.flatnonzero(right >= reached * negatives - slack)[-1]])


def carry(
    truth: BoolArray, score: FloatArray, fold: IntArray, rule: str, target: float | None = None
) -> dict[int, float | None]:
    """For each fold of `fold` `[N]`, the threshold that `rule` picks on the images of all other folds."""
    return {int(k): choose(truth[fold != k], score[fold != k], rule, target) for k in np.unique(fold)}


def operate(
    truth: BoolArray,
    score: FloatArray,
    fold: IntArray,
    patients: IntArray | None,
    rule: str,
    target: float | None = None,
    prevalence: float | None = None,
    level: float = LEVEL,
) -> OperatingPoint:
    """The metrics of calls at carried thresholds, with intervals that hold the thresholds fixed. Arrays are `[N]`."""
    thresholds = carry(truth, score, fold, rule, target)
    if not thresholds or None in thresholds.values():
        return OperatingPoint(rule, target, thresholds, {})
    margin = score - np.array([thresholds[int(k)] for k in fold], dtype=np.float64)  # called where ≥ 0
    found = estimate(truth, margin, patients, threshold=0.0, level=level, ranks=False)
    if prevalence is not None:
        found |= _at_prevalence(truth, margin, patients, prevalence, level)
    return OperatingPoint(rule, target, thresholds, found)


def predictive(sensitivity: FloatArray, specificity: FloatArray, prevalence: float) -> tuple[FloatArray, FloatArray]:
    """PPV and NPV at a prevalence, by Bayes' theorem (Altman & Bland, BMJ 1994; 309:102); NaN where undefined."""
    true, false = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    right, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(true / (true + false)), np.asarray(right / (right + missed))


def _at_prevalence(
    truth: BoolArray, margin: FloatArray, patients: IntArray | None, prevalence: float, level: float
) -> dict[str, Estimate]:
    """`ppv_at` and `npv_at` with bootstrap intervals; the resamples are of patients, or of images where unknown."""
    codes = np.arange(len(truth)) if patients is None else patients
    drawn = bootstrap.resample(truth, margin, codes, threshold=0.0, ranks=False)
    called = margin >= 0
    pair = np.array([called[truth].mean()]), np.array([1 - called[~truth].mean()])
    values = predictive(*pair, prevalence)
    resamples, left_out = (
        predictive(getattr(drawn["sensitivity"], part), getattr(drawn["specificity"], part), prevalence)
        for part in ("resamples", "left_out")
    )
    found = {}
    for place, name in enumerate(("ppv_at", "npv_at")):
        value = float(values[place][0])
        known = np.isfinite(value)
        spread = bootstrap.Resampled(resamples[place], left_out[place])
        found[name] = Estimate(value if known else None, bootstrap.bca(value, spread, level) if known else None)
    return found
