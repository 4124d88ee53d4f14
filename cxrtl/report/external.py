"""A run's models on another set: the statistics of the report, beside what cross-validation had promised.

Scores are means over the folds' models. Thresholds come from the training run's out-of-fold scores, pooled over all
folds, and are carried over: no image of the other set helps to choose one. Out-of-fold scores are each of one model, so
a threshold carried to their mean may sit a little off; that is part of what is measured here.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from cxrtl.errors import PredictionsError
from cxrtl.evaluate import curves
from cxrtl.evaluate.estimates import estimate
from cxrtl.evaluate.intervals import LEVEL
from cxrtl.evaluate.judge import judge, patients_of
from cxrtl.evaluate.metrics import THRESHOLD, auc, confusion
from cxrtl.evaluate.operating import choose
from cxrtl.evaluate.paired import LEADING
from cxrtl.predictions import Predictions
from cxrtl.records import Prepared, Task
from cxrtl.report import numbers, vocabulary
from cxrtl.report.load import Loaded
from cxrtl.report.measures import average_precision, calibration, counts_of, parts_of, value_of
from cxrtl.report.page import fill
from cxrtl.report.shape import Calibration, Counts, Part, Value
from cxrtl.report.style import GRID, Drawing, colour, new, save, styled
from cxrtl.rundir import write_bytes, write_json, write_predictions

EXTERNAL_VERSION = 2


class Side(TypedDict):
    """What is set side by side: out of fold in the training run, or the ensemble on the other set.

    `parts` are those of the classes or findings; what may be absent belongs to binary tasks.
    """

    images: int
    patients: int | None
    metrics: dict[str, Value]
    parts: list[Part]
    positives: NotRequired[int]
    confusion: NotRequired[Counts]
    average_precision: NotRequired[Value]
    calibration: NotRequired[Calibration]


class Carried(TypedDict):
    """A threshold chosen on the training run by `rule`, and what it gives on the other set; None without a class."""

    rule: str
    target: float | None
    threshold: float | None
    metrics: dict[str, Value]


class Overlap(TypedDict):
    """Images and patients of the other set that the models knew from training, and how many images left for it."""

    images: int
    patients: int
    removed: int
    note: str


class External(TypedDict):
    """Everything the page says; shares lie in 0 … 1. `operating` is empty but in binary tasks."""

    version: int
    level: float
    threshold: float
    run: str
    run_hash: str
    arm: str
    iterations: int
    models: int
    set: str
    dataset_hash: str
    image_size: int
    task: Task
    classes: list[str]
    flow: list[dict[str, Any]]
    skipped: dict[str, int]
    overlap: Overlap
    here: Side
    promised: Side
    operating: list[Carried]


def external(
    loaded: Loaded, chosen: Predictions, found: Predictions, name: str, prepared: Prepared, overlap: Overlap
) -> External:
    """Judge `found`, the ensemble's scores on `prepared`, beside `chosen`, the same arm's out-of-fold scores.

    Raises:
        PredictionsError: no image is left.
    """
    if found.frame.empty:
        raise PredictionsError(f"no image of {name!r} is left to evaluate on")
    first = chosen.frame.iloc[0]
    return External(
        version=EXTERNAL_VERSION,
        level=LEVEL,
        threshold=THRESHOLD,
        run=loaded.experiment.name,
        run_hash=str(loaded.resolved["run_hash"]),
        arm=str(first["arm"]),
        iterations=int(first["iterations"]),
        models=loaded.k,
        set=name,
        dataset_hash=prepared.dataset_hash,
        image_size=prepared.image_size,
        task=found.task,
        classes=list(found.classes),
        flow=[asdict(step) for step in prepared.flow],
        skipped=prepared.skipped,
        overlap=overlap,
        here=_side(found, loaded),
        promised=_side(chosen, loaded),
        operating=_carried(loaded, chosen, found) if found.task == "binary" else [],
    )


def _side(part: Predictions, loaded: Loaded) -> Side:
    judged, ids = judge(part, loaded.experiment.report.top_k), part.frame["patient_id"]
    side = Side(
        images=part.frame["image_id"].nunique(),
        patients=None if (ids == "").any() else int(ids.nunique()),
        metrics={name: value_of(item) for name, item in judged.metrics.items()},
        parts=parts_of(part, judged),
    )
    if part.task == "binary":
        side["positives"] = int(part.frame["image_id"][part.truth].nunique())
        side["confusion"] = counts_of(confusion(part.truth, part.score))
        side["average_precision"] = average_precision(part)
        side["calibration"] = calibration(part)
    return side


def _carried(loaded: Loaded, chosen: Predictions, found: Predictions) -> list[Carried]:
    knobs = loaded.experiment.report
    rows = []
    for rule, target in (
        ("youden", None),
        ("sensitivity", knobs.sensitivity_target),
        ("specificity", knobs.specificity_target),
    ):
        threshold = choose(chosen.truth, chosen.score, rule, target)
        metrics = {}
        if threshold is not None:
            margin = found.score - threshold
            judged = estimate(found.truth, margin, patients_of(found), threshold=0.0, ranks=False)
            metrics = {name: value_of(item) for name, item in judged.items()}
        rows.append(Carried(rule=rule, target=target, threshold=threshold, metrics=metrics))
    return rows


def said(found: External) -> str:
    """The result in a sentence, the change from cross-validation included."""
    lead = LEADING[found["task"]]
    here, before = found["here"]["metrics"][lead], found["promised"]["metrics"][lead]
    name = vocabulary.name(lead)
    if here["value"] is None:
        return f"{name} is undefined: {found['set']} lacks a class."
    place = ""
    if before["value"] is not None and here["low"] is not None and here["high"] is not None:
        inside = here["low"] <= before["value"] <= here["high"]
        place = f", which lies {'inside' if inside else 'outside'} this interval"
    return (
        f"{name} {numbers.area(here['value'])} ({numbers.bounds(lead, here)}) on {found['set']}; cross-validation in "
        f"the training run had given {numbers.area(before['value'])} ({numbers.bounds(lead, before)}){place}."
    )


def write_external(found: External, scores: Predictions, chosen: Predictions, folder: Path) -> Path:
    """Write `external.json`, `external.html`, `predictions.parquet` (hashed ids) and `figures/`; returns the page."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    write_predictions(folder / "predictions.parquet", scores)
    write_json(folder / "external.json", found)
    with styled():
        binary, figures = found["task"] == "binary", folder / "figures"
        drawings = [_roc(found, scores, chosen, figures), _reliability(found, figures)] if binary else []
    text = fill("external.html", e=found, said=said(found), drawings=drawings)
    write_bytes(folder / "external.html", text.encode())
    return folder / "external.html"


def _roc(found: External, scores: Predictions, chosen: Predictions, folder: Path) -> Drawing:
    figure, axes = new(4.3, 4.3)
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1)
    names = (found["set"], f"{found['run']}, out of fold")
    for place, (name, part) in enumerate(zip(names, (scores, chosen), strict=True)):
        curve = curves.roc(part.truth, part.score)
        if curve is None:
            continue
        if place == 0 and (band := curves.roc_band(part.truth, part.score, patients_of(part))):
            axes.fill_between(curves.GRID, band.low, band.high, color=colour(0), alpha=0.15, linewidth=0)
        label = f"{name[:30]}  {numbers.area(auc(part.truth, part.score))}"
        x, y = curve.false_positive_rate, curve.true_positive_rate
        axes.plot(x, y, label=label, linewidth=1.4, color=colour(place), linestyle=("-", "--")[place])
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal", xlabel="1 − specificity", ylabel="sensitivity")
    axes.legend(loc="lower right", title="AUC")
    return save(figure, folder, "external-roc", "ROC curves on the other set, with its band, and out of fold.")


def _reliability(found: External, folder: Path) -> Drawing:
    figure, axes = new(4.3, 4.3)
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1)
    for place, side in enumerate((found["here"], found["promised"])):
        bins = side["calibration"]["bins"]
        x, y = np.array([(item["score"], item["share"]["value"]) for item in bins], dtype=float).T
        ece = numbers.area(side["calibration"]["measures"]["ece"]["value"])
        label = f"{(found['set'], 'out of fold')[place][:30]}  {ece}"
        axes.plot(x, y, color=colour(place), marker="os"[place], markersize=4, label=label)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xlabel="mean score of a bin")
    axes.set_ylabel(f"share that is {found['classes'][1][:22]}")
    axes.legend(loc="upper left", title="ECE")
    return save(figure, folder, "external-calibration", "Reliability diagrams on the other set and out of fold.")
