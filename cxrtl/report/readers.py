"""What readers said of the same images, by the same measures, and each arm against each reader.

A column `reader_<name>` of the image table holds a class name an image, or in a binary task a score in 0 … 1; empty
where the reader did not read the image. Labels take part as predictions that are sure of one class: they have no AUC
and no second place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cxrtl.evaluate.judge import judge
from cxrtl.evaluate.paired import common
from cxrtl.predictions import Predictions
from cxrtl.records import READER
from cxrtl.report.contrast import adjusted, difference
from cxrtl.report.load import Loaded
from cxrtl.report.measures import value_of
from cxrtl.report.shape import DifferenceRow, Reader

RANKED = ("auc", "macro_auc")


def readers(loaded: Loaded) -> list[Reader]:
    """Every reader in the order of the columns; none in tasks other than binary and multiclass."""
    columns = [] if loaded.subjects is None else [name for name in loaded.subjects if str(name).startswith(READER)]
    if loaded.subjects is None or loaded.predictions.task not in ("binary", "multiclass"):
        return []
    found = [_reader(loaded, str(name), loaded.subjects[["image_id", name]]) for name in columns]
    adjusted([row for reader in found for row in reader["differences"]])
    return found


def _reader(loaded: Loaded, column: str, frame: pd.DataFrame) -> Reader:
    name = column.removeprefix(READER)
    read = as_predictions(loaded, name, frame.set_index("image_id")[column])
    if read is None:
        return Reader(name=name, kind="", images=0, metrics={}, differences=[])
    kind, said = read
    metrics = {
        metric: value_of(item) for metric, item in judge(said).metrics.items() if kind == "scores" or _of_labels(metric)
    }
    rows = []
    for recipe in loaded.recipes:
        budgets = [
            length for length in recipe.train.budgets if len(loaded.predictions.select(recipe.name, length).frame)
        ]
        if budgets:
            arm = loaded.predictions.select(recipe.name, budgets[-1])
            rows.append(_against(loaded, kind, name, said, recipe.name, budgets[-1], arm))
    return Reader(name=name, kind=kind, images=len(said.frame), metrics=metrics, differences=rows)


def as_predictions(loaded: Loaded, name: str, column: pd.Series[Any]) -> tuple[str, Predictions] | None:
    """`labels` or `scores`, and the reader's word on each image that he read and an arm predicted; None where the
    column holds neither, or nothing."""
    frame = loaded.predictions.frame
    truth = frame[["image_id", "patient_id", "label"]].drop_duplicates("image_id").sort_values("image_id")
    classes = loaded.predictions.classes
    text = truth["image_id"].map(column).map(lambda item: "" if pd.isna(item) else str(item).strip())
    truth, text = truth[text != ""], text[text != ""]
    if text.empty:
        return None
    scores = pd.to_numeric(text, errors="coerce")
    if text.isin(classes).all():
        kind, table = "labels", text.to_numpy()[:, None] == np.array(classes)
    elif len(classes) == 2 and scores.between(0, 1).all():
        kind, table = "scores", np.stack([1 - scores, scores], axis=1)
    else:
        return None
    own = {f"score_{item}": table[:, place].astype(np.float64) for place, item in enumerate(classes)}
    made = truth.assign(fold=0, arm=name, iterations=0, **own).reset_index(drop=True)
    return kind, Predictions(made, classes, loaded.predictions.task)


def _of_labels(metric: str) -> bool:
    return metric not in RANKED and (metric == "top1" or not metric.startswith("top"))


def _against(
    loaded: Loaded, kind: str, name: str, said: Predictions, arm: str, iterations: int, chosen: Predictions
) -> DifferenceRow:
    """Arm minus reader. A reader has no folds, so that nothing is tested over them."""
    one, two = common(chosen, said)
    row = difference(loaded, name, arm, iterations, (two, one))
    kept = [metric for metric in row["metrics"] if not metric.startswith("fold_")]
    kept = kept if kind == "scores" else [metric for metric in kept if _of_labels(metric)]
    row["metrics"] = {metric: row["metrics"][metric] for metric in kept}
    row["tests"] = {metric: test for metric, test in row["tests"].items() if metric in (*kept, "accuracy")}
    return row
