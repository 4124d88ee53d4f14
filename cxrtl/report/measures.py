"""What is computed of one arm at one budget, in the types of `summary.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

import numpy as np

from cxrtl.config import Report
from cxrtl.errors import PredictionsError
from cxrtl.evaluate import estimates
from cxrtl.evaluate.calibration import calibrate
from cxrtl.evaluate.chance import chance_p
from cxrtl.evaluate.compare import pareto
from cxrtl.evaluate.estimates import Estimate
from cxrtl.evaluate.intervals import Interval
from cxrtl.evaluate.judge import Judged, against_rest, first_repeat, patients_of, point, rows
from cxrtl.evaluate.metrics import Confusion, IntArray, auc, confusion, mean_sd
from cxrtl.evaluate.operating import operate
from cxrtl.evaluate.paired import LEADING
from cxrtl.predictions import Predictions
from cxrtl.report.shape import (
    Calibration,
    CalibrationBin,
    Counts,
    FoldAuc,
    FoldRow,
    Operating,
    Part,
    Row,
    Value,
    Width,
)

GAP = 0.01  # between pooled and mean-fold AUC; beyond it the page says that folds differ in calibration


def value_of(found: Estimate) -> Value:
    return value(found.value, found.interval)


def value(number: float | None, interval: Interval | None) -> Value:
    if interval is None:
        return Value(value=number, low=None, high=None, method=None)
    return Value(value=number, low=interval.low, high=interval.high, method=interval.method)


def folds_of(chosen: Predictions) -> IntArray:
    """The fold of each image, `[N]`."""
    return chosen.frame["fold"].to_numpy(dtype="int64")


def threshold_table(chosen: Predictions) -> dict[str, list[int]]:
    """True and false positives, `tp` and `fp`, at each threshold 0.00, 0.01, … 1.00: what the page's slider shows."""
    found = [confusion(chosen.truth, chosen.score, step / 100) for step in range(101)]
    return {"tp": [item.tp for item in found], "fp": [item.fp for item in found]}


def parts_of(chosen: Predictions, judged: Judged) -> list[Part]:
    """Each class, finding or structure, in its own order; none in binary."""
    once = Predictions(chosen.frame.drop_duplicates("image_id"), chosen.classes, chosen.task)
    found = []
    for name, metrics in judged.parts.items():
        if chosen.task == "segmentation":
            truth = once.frame[f"truth_{name}"].to_numpy() > 0
        else:
            truth = against_rest(once, name)[0]
        values = {metric: value_of(item) for metric, item in metrics.items()}
        found.append(Part(name=name, images=len(truth), positives=int(truth.sum()), metrics=values))
    return found


def add_binary(row: Row, chosen: Predictions, knobs: Report) -> None:
    """What only two classes have; repeats are counted one after the other, as images of their own.

    Operating points and the test against chance take the first repeat alone: in the others the images of a fold are
    in other folds, where they would choose the threshold that calls them, and be permuted apart from themselves.
    """
    once = first_repeat(chosen)
    row["positives"] = int(chosen.frame["image_id"][chosen.truth].nunique())
    row["confusion"] = counts_of(confusion(chosen.truth, chosen.score))
    row["average_precision"] = average_precision(chosen)
    row["chance_p"] = chance_p(once.truth, once.score, folds_of(once), patients_of(once))
    row["calibration"] = calibration(chosen)
    row["operating"] = operating(once, knobs)
    row["fold_auc"] = within_folds(chosen, row["metrics"]["auc"]["value"])


def average_precision(chosen: Predictions) -> Value:
    return value_of(estimates.average_precision(chosen.truth, chosen.score, patients_of(chosen)))


def within_folds(chosen: Predictions, pooled: float | None) -> FoldAuc:
    """The task's leading measure in each fold, against `pooled`."""
    fold, lead = folds_of(chosen), LEADING[chosen.task]
    found = {int(k): point(rows(chosen, fold == k))[lead] for k in np.unique(fold)}
    mean, sd = mean_sd(list(found.values()))
    gap = None if pooled is None or mean is None else pooled - mean
    return FoldAuc(
        mean=mean,
        sd=sd,
        folds=sum(value is not None for value in found.values()),
        undefined=[fold for fold, value in found.items() if value is None],
        gap=gap,
        differs=gap is not None and abs(gap) > GAP and lead.endswith("auc"),
    )


def fold_rows(chosen: Predictions, seconds: Mapping[int, float], tops: Sequence[int]) -> list[FoldRow]:
    """One arm at one budget, fold by fold; `seconds` is fold → training time."""
    fold, made = folds_of(chosen), []
    for k in np.unique(fold):
        part = rows(chosen, fold == k)
        row = FoldRow(
            arm=str(part.frame["arm"].iloc[0]),
            iterations=int(part.frame["iterations"].iloc[0]),
            fold=int(k),
            images=len(part.frame),
            train_seconds=seconds[int(k)],
        )
        if chosen.task == "binary":
            found = confusion(part.truth, part.score)
            row["positives"], row["confusion"] = found.tp + found.fn, counts_of(found)
            row["accuracy"], row["sensitivity"] = found.ratio("accuracy"), found.ratio("sensitivity")
            row["specificity"], row["auc"] = found.ratio("specificity"), auc(part.truth, part.score)
        else:
            row["metrics"] = point(part, tops)
        made.append(row)
    return made


def counts_of(found: Confusion) -> Counts:
    return Counts(tp=found.tp, fp=found.fp, fn=found.fn, tn=found.tn)


def mark_pareto(rows: list[Row], name: str) -> None:
    """Set `pareto` of every row: the measure `name` against training time of a fold."""
    known = [row for row in rows if row["metrics"][name]["value"] is not None]
    times = np.array([row["time"]["train_fold"] for row in known])
    shares = np.array([row["metrics"][name]["value"] for row in known], dtype=np.float64)
    for row, mark in zip(known, pareto(times, shares), strict=True):
        row["pareto"] = bool(mark)


def sample_size(row: Row, names: Sequence[str]) -> list[Width]:
    """What the row's intervals of the measures `names` would span from half, twice and four times as many patients.

    A standard error falls with the square root of their number (Hanley & McNeil, Radiology 1982; 143:29, for the
    AUC), all else equal: the same mix of patients, the same images of each, the same recipe.
    """
    size = row["patients"] or row["images"]

    def width(name: str, times: float) -> float | None:
        low, high = row["metrics"][name]["low"], row["metrics"][name]["high"]
        return None if low is None or high is None else (high - low) / sqrt(times)

    return [{"size": round(size * times), **{name: width(name, times) for name in names}} for times in (0.5, 1, 2, 4)]


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
    return Calibration(bins=bins, measures={name: value_of(item) for name, item in found.measures.items()})


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
