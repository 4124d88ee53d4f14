"""Every metric with the interval that suits the data: what the report calls.

Images of different patients (or of unknown ones) count as independent: Wilson and DeLong. As soon as one patient
holds several images, whole patients are resampled instead. Where resampling has nothing to say (a perfect score,
a class that most resamples miss), the counts are reduced to one image a patient, which can only widen the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxrtl.evaluate import bootstrap
from cxrtl.evaluate.delong import delong
from cxrtl.evaluate.intervals import LEVEL, Interval, auc_interval, boyd, f1_interval, newcombe, wilson
from cxrtl.evaluate.metrics import RATIOS, THRESHOLD, BoolArray, Confusion, IntArray, auc, check, confusion
from cxrtl.evaluate.weighted import Precision, Statistic, values
from cxrtl.predictions import FloatArray

METRICS = (*RATIOS, "auc")


@dataclass(frozen=True)
class Estimate:
    """A metric's value and interval; None where the data leave it undefined."""

    value: float | None
    interval: Interval | None


def patient_codes(patient_ids: Sequence[str]) -> IntArray | None:
    """A code for each image's patient, `[N]`; None where no known patient holds two images.

    An image of an unknown patient ("") counts as a patient of its own.
    """
    names = [name or f"\0{row}" for row, name in enumerate(patient_ids)]
    codes = np.unique(names, return_inverse=True)[1] if names else np.empty(0, np.int64)
    return codes.astype(np.int64) if len(np.unique(codes)) < len(codes) else None


def estimate(
    truth: BoolArray,
    score: FloatArray,
    patients: IntArray | None,
    threshold: float = THRESHOLD,
    level: float = LEVEL,
    seed: int = 0,
    ranks: bool = True,
) -> dict[str, Estimate]:
    """`METRICS` of `truth` `[N]` and `score` `[N]` with two-sided intervals; `patients` as `patient_codes` gives.

    Without `ranks` the AUC is left out: for scores whose ranks mean nothing.
    """
    counts = confusion(truth, score, threshold)
    values = {name: counts.ratio(name) for name in RATIOS} | ({"auc": auc(truth, score)} if ranks else {})
    if patients is None:
        intervals = {name: _independent(name, counts, level) for name in RATIOS}
        intervals["auc"] = _auc_interval(values.get("auc"), truth, score, None, level)
        return {name: Estimate(value, intervals[name]) for name, value in values.items()}
    drawn = bootstrap.resample(truth, score, patients, threshold, seed=seed, ranks=ranks)
    found = {}
    for name, value in values.items():
        interval = None if value is None else bootstrap.bca(value, drawn[name], level)
        if value is not None and interval is None:
            interval = _by_patient(name, value, truth, score, patients, threshold, level)
        found[name] = Estimate(value, interval)
    return found


def average_precision(truth: BoolArray, score: FloatArray, patients: IntArray | None, level: float = LEVEL) -> Estimate:
    """Average precision of `truth` `[N]` and `score` `[N]`, undefined without a positive image.

    Patients, or images where no patient holds two, are resampled; where that has nothing to say, `intervals.boyd`.
    """
    check(truth, score)
    if not truth.any():
        return Estimate(None, None)
    codes, size = dense(patients, len(truth))
    found = resampled(Precision.of(truth, score, codes, size), size, len(truth), level)["average_precision"]
    if found.value is None or found.interval:
        return found
    return Estimate(found.value, boyd(found.value, len(np.unique(codes[truth])), level))


def dense(patients: IntArray | None, images: int) -> tuple[IntArray, int]:
    """Each image's patient as a place 0 … P − 1, `[N]`, and P; every image its own where `patients` is None."""
    codes = np.arange(images) if patients is None else np.unique(patients, return_inverse=True)[1]
    return codes, int(codes.max(initial=-1)) + 1


def resampled(statistic: Statistic, patients: int, images: int, level: float = LEVEL) -> dict[str, Estimate]:
    """Each value of `statistic` with its BCa interval over `patients` patients, who hold `images` images."""
    drawn = bootstrap.redraw(statistic, patients, images)
    return {
        name: Estimate(value, None if value is None else bootstrap.bca(value, drawn[name], level))
        for name, value in values(statistic, patients).items()
    }


def _independent(name: str, counts: Confusion, level: float) -> Interval | None:
    return f1_interval(counts, level) if name == "f1" else wilson(*counts.parts(name), level)


def _auc_interval(
    area: float | None, truth: BoolArray, score: FloatArray, patients: IntArray | None, level: float
) -> Interval | None:
    """DeLong's interval; Newcombe's where the variance is 0 or cannot be had. With `patients`, their number counts."""
    if area is None:
        return None
    groups = [int(mask.sum()) if patients is None else len(np.unique(patients[mask])) for mask in (truth, ~truth)]
    if not 0 < area < 1 or min(groups) < 2:
        return newcombe(area, groups[0], groups[1], level)
    variance = float(delong(truth, score[None], patients).covariance[0, 0])
    method = "DeLong" if patients is None else "Obuchowski"
    return auc_interval(area, variance, level, method)


def _by_patient(
    name: str,
    value: float,
    truth: BoolArray,
    score: FloatArray,
    patients: IntArray,
    threshold: float,
    level: float,
) -> Interval | None:
    """The fallback where the bootstrap is silent: as many trials as patients stand in the denominator."""
    if name == "auc":
        return _auc_interval(value, truth, score, patients, level)
    called = score >= threshold
    cells = {"tp": truth & called, "fp": ~truth & called, "fn": truth & ~called, "tn": ~truth & ~called}
    weights = dict(zip(cells, RATIOS[name][1], strict=True))
    counted = np.any([cells[cell] for cell, weight in weights.items() if weight], axis=0)
    trials = len(np.unique(patients[counted]))
    if name != "f1":
        return wilson(value * trials, trials, level, "Wilson over patients")
    share = value / (2 - value)  # the Jaccard index that belongs to F1
    jaccard = wilson(share * trials, trials, level)
    if jaccard is None:
        return None
    low, high = (2 * bound / (1 + bound) for bound in (jaccard.low, jaccard.high))
    return Interval(low, high, "Wilson over patients", level)
