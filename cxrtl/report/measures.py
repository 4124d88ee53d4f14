"""What is computed of one arm at one budget, in the types of `summary.json`."""

from __future__ import annotations

from cxrtl.config import Report
from cxrtl.errors import PredictionsError
from cxrtl.evaluate.calibration import calibrate
from cxrtl.evaluate.estimates import Estimate, patient_codes
from cxrtl.evaluate.intervals import Interval
from cxrtl.evaluate.metrics import IntArray
from cxrtl.evaluate.operating import operate
from cxrtl.records import Predictions
from cxrtl.report.shape import Calibration, CalibrationBin, Operating, Value


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
    return patient_codes(chosen.frame["patient_id"].tolist())


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
