"""What flows between stages refuses to hold what it should not."""

from __future__ import annotations

import pandas as pd
import pytest

from cxrtl.errors import ManifestError, PredictionsError
from cxrtl.records import Manifest, Predictions


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


def test_manifest_lists_each_image_once() -> None:
    frame = pd.DataFrame({"image_id": ["i", "i"], "patient_id": "", "study_id": "", "label": "n", "path": "x"})
    with pytest.raises(ManifestError, match="more than once"):
        Manifest(frame, ("n", "y"))
