"""Predictions refuse to hold what cannot be, whatever the task."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cxrtl.errors import PredictionsError
from cxrtl.predictions import Predictions
from cxrtl.rundir import read_predictions, write_predictions


def predictions(**columns: object) -> Predictions:
    base = {"image_id": ["i", "j"], "patient_id": ["p", "q"], "fold": 0, "arm": "a", "iterations": 5}
    scores = {"label": ["n", "y"], "score_n": [0.9, 0.2], "score_y": [0.1, 0.8]}
    return Predictions(pd.DataFrame({**base, **scores, **columns}), ("n", "y"))


def test_truth_and_score_follow_the_positive_class() -> None:
    assert predictions().truth.tolist() == [False, True] and predictions().score.tolist() == [0.1, 0.8]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"score_y": [0.1, 0.9]}, "no probabilities"),
        ({"score_y": [0.1, float("nan")]}, "no probabilities"),
        ({"score_y": [-0.1, 0.8], "score_n": [1.1, 0.2]}, "no probabilities"),
        ({"label": ["n", "z"]}, "not among"),
    ],
)
def test_scores_and_labels_are_checked(columns: dict[str, object], message: str) -> None:
    with pytest.raises(PredictionsError, match=message):
        predictions(**columns)


def test_pooling_nothing_or_different_classes_is_refused() -> None:
    with pytest.raises(PredictionsError, match="no fold is done"):
        Predictions.concat([])
    other = Predictions(predictions().frame.rename(columns={"score_n": "score_m"}).assign(label="y"), ("m", "y"))
    with pytest.raises(PredictionsError, match="different classes"):
        Predictions.concat([predictions(), other])


def findings(**columns: object) -> Predictions:
    base = {"image_id": ["i", "j"], "patient_id": ["p", "q"], "fold": 0, "arm": "a", "iterations": 5, "label": ""}
    values = {"label_x": [1, float("nan")], "label_z": [0, 1], "score_x": [0.9, 0.8], "score_z": [0.7, 0.4]}
    return Predictions(pd.DataFrame({**base, **values, **columns}), ("x", "z"), "multilabel")


def test_findings_are_scored_each_by_itself_and_may_be_not_stated() -> None:
    assert findings().scores.tolist() == [[0.9, 0.7], [0.8, 0.4]]
    assert pd.isna(findings().labels).tolist() == [[False, False], [True, False]]
    with pytest.raises(PredictionsError, match="none of 1, 0"):
        findings(label_z=[0, 2])
    with pytest.raises(PredictionsError, match="no probabilities"):
        findings(score_z=[0.7, 1.4])


def areas(**columns: object) -> Predictions:
    base = {"image_id": ["i"], "patient_id": ["p"], "fold": 0, "arm": "a", "iterations": 5, "label": ""}
    values = {"truth_lung": [10], "predicted_lung": [12], "shared_lung": [9], "hausdorff95_lung": [1.5]}
    return Predictions(pd.DataFrame({**base, **values, **columns}), ("lung",), "segmentation")


def test_areas_cannot_share_more_than_they_have() -> None:
    assert areas().classes == ("lung",)
    with pytest.raises(PredictionsError, match="share more"):
        areas(shared_lung=[11])


@pytest.mark.parametrize("found", [predictions(), findings(), areas()])
def test_predictions_outlive_their_file(found: Predictions, tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.parquet", found)
    again = read_predictions(tmp_path / "p.parquet")
    assert (again.classes, again.task) == (found.classes, found.task) and again.frame.equals(found.frame)
