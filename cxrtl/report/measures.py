"""What is computed of one arm at one budget, in the types of `summary.json`."""

from __future__ import annotations

from math import sqrt

import numpy as np

from cxrtl.config import Report
from cxrtl.errors import PredictionsError
from cxrtl.evaluate.calibration import calibrate
from cxrtl.evaluate.chance import chance_p
from cxrtl.evaluate.compare import pareto
from cxrtl.evaluate.curves import precision_recall
from cxrtl.evaluate.estimates import Estimate, patient_codes
from cxrtl.evaluate.intervals import Interval
from cxrtl.evaluate.metrics import IntArray, confusion
from cxrtl.evaluate.operating import operate
from cxrtl.predictions import Predictions
from cxrtl.report.shape import Calibration, CalibrationBin, Operating, Row, Value, Width


def value_of(found: Estimate) -> Value:
    return value(found.value, found.interval)


def value(number: float | None, interval: Interval | None) -> Value:
    if interval is None:
        return Value(value=number, low=None, high=None, method=None)
    return Value(value=number, low=interval.low, high=interval.high, method=interval.method)


def folds_of(chosen: Predictions) -> IntArray:
    """The fold of each image, `[N]`."""
    return chosen.frame["fold"].to_numpy(dtype="int64")


def patients_of(chosen: Predictions) -> IntArray | None:
    """As `patient_codes`, `[N]`."""
    return patient_codes(chosen.owners)


def average_precision(chosen: Predictions) -> Value:
    found = precision_recall(chosen.truth, chosen.score, patients_of(chosen))
    return value(found.average, found.interval) if found else value(None, None)


def chance(chosen: Predictions) -> float | None:
    return chance_p(chosen.truth, chosen.score, folds_of(chosen), patients_of(chosen))


def threshold_table(chosen: Predictions) -> dict[str, list[int]]:
    """True and false positives, `tp` and `fp`, at each threshold 0.00, 0.01, … 1.00: what the page's slider shows."""
    found = [confusion(chosen.truth, chosen.score, step / 100) for step in range(101)]
    return {"tp": [item.tp for item in found], "fp": [item.fp for item in found]}


def mark_pareto(rows: list[Row]) -> None:
    """Set `pareto` of every row: accuracy against training time of a fold."""
    known = [row for row in rows if row["metrics"]["accuracy"]["value"] is not None]
    times = np.array([row["time"]["train_fold"] for row in known])
    shares = np.array([row["metrics"]["accuracy"]["value"] for row in known], dtype=np.float64)
    for row, mark in zip(known, pareto(times, shares), strict=True):
        row["pareto"] = bool(mark)


def sample_size(row: Row) -> list[Width]:
    """What the row's intervals would measure from half, twice and four times as many patients.

    A standard error falls with the square root of their number (Hanley & McNeil, Radiology 1982; 143:29, for the
    AUC), all else equal: the same mix of patients, the same images of each, the same recipe.
    """
    size = row["patients"] or row["images"]

    def width(name: str, times: float) -> float | None:
        low, high = row["metrics"][name]["low"], row["metrics"][name]["high"]
        return None if low is None or high is None else (high - low) / sqrt(times)

    return [
        Width(size=round(size * times), auc=width("auc", times), accuracy=width("accuracy", times))
        for times in (0.5, 1, 2, 4)
    ]


def calibration(chosen: Predictions) -> Calibration:
    found = calibrate(chosen.truth, chosen.score, patients_of(chosen))
    if found is None:
        raise PredictionsError("there is no prediction to calibrate")
    bins = [
        CalibrationBin(
            low=item.low, high=item.high, images=item.images, score=item.score, share=value(item.share, item.interval)
        )
        for item in found.bins
    ]
    return Calibration(
        bins=bins,
        ece=found.ece,
        brier=found.reliability - found.resolution + found.uncertainty + found.within,
        reliability=found.reliability,
        resolution=found.resolution,
        uncertainty=found.uncertainty,
        within=found.within,
    )


def operating(chosen: Predictions, knobs: Report) -> list[Operating]:
    """Youden's point, and those for the sensitivity and the specificity that the experiment asks for."""
    rules = (("youden", None), ("sensitivity", knobs.sensitivity_target), ("specificity", knobs.specificity_target))
    fold, patients = folds_of(chosen), patients_of(chosen)
    rows = []
    for rule, target in rules:
        found = operate(chosen.truth, chosen.score, fold, patients, rule, target, knobs.prevalence)
        metrics = {name: value_of(item) for name, item in found.metrics.items()}
        thresholds = [found.thresholds[k] for k in sorted(found.thresholds)]
        rows.append(Operating(rule=rule, target=target, thresholds=thresholds, metrics=metrics))
    return rows
