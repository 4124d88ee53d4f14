"""What pooling refuses, and what it lets through."""

from __future__ import annotations

import pandas as pd
import pytest

from cxrtl.errors import PredictionsError
from cxrtl.evaluate.pool import Missing, pool
from cxrtl.predictions import Predictions

BUDGETS = {"a": (10, 20), "b": (10,)}


def expected(n: int = 8) -> pd.DataFrame:
    label = ["normal", "effusion"] * (n // 2)
    return pd.DataFrame({"image_id": [f"i{i}" for i in range(n)], "fold": [i % 4 for i in range(n)], "label": label})


def predictions(frame: pd.DataFrame | None = None) -> Predictions:
    if frame is None:
        parts = [
            expected().assign(arm=arm, iterations=length, patient_id="", score_normal=0.4, score_effusion=0.6)
            for arm, lengths in BUDGETS.items()
            for length in lengths
        ]
        frame = pd.concat(parts, ignore_index=True)
    return Predictions(frame, ("normal", "effusion"))


def test_complete() -> None:
    pooled = pool(predictions(), expected(), BUDGETS)
    assert pooled.missing == () and len(pooled.predictions.frame) == 24


@pytest.mark.parametrize("partial", [False, True])
def test_never_let_through(partial: bool) -> None:
    frame = predictions().frame

    def refused(changed: pd.DataFrame, match: str, folds: pd.DataFrame | None = None) -> None:
        with pytest.raises(PredictionsError, match=match):
            pool(predictions(changed), expected() if folds is None else folds, BUDGETS, partial)

    refused(pd.concat([frame, frame.iloc[[3]]], ignore_index=True), "i3.*Two trials")
    refused(frame.assign(fold=frame["fold"].where(frame.index != 5, 0)), "i5.*trained on them")
    refused(
        frame.assign(image_id=frame["image_id"].where(frame.index != 5, "stranger")), "stranger.*no fold holds them out"
    )
    refused(frame.assign(label=frame["label"].where(frame.index != 5, "normal")), "i5.*another label")
    refused(frame.assign(iterations=frame["iterations"].where(frame.index != 5, 99)), "99 iterations belong to no arm")
    refused(frame.assign(arm="c"), "'c'.*belong to no arm")
    refused(frame, "list 8 image", pd.concat([expected(), expected()], ignore_index=True))


def test_missing_images_need_partial() -> None:
    frame = predictions().frame
    cut = frame[~((frame["arm"] == "a") & (frame["iterations"] == 20) & (frame["fold"] > 1))]
    with pytest.raises(PredictionsError, match=r"a at 20: 4 image\(s\) of fold\(s\) 2, 3"):
        pool(predictions(cut), expected(), BUDGETS)
    assert pool(predictions(cut), expected(), BUDGETS, partial=True).missing == (Missing("a", 20, 4, (2, 3)),)


def test_an_arm_without_any_prediction_is_missing() -> None:
    frame = predictions().frame
    found = pool(predictions(frame[frame["arm"] == "a"]), expected(), BUDGETS, partial=True)
    assert found.missing == (Missing("b", 10, 8, (0, 1, 2, 3)),)


def test_repeated_division_holds_each_image_out_once_a_repeat() -> None:
    twice = pd.concat([expected(), expected().assign(fold=lambda f: f["fold"] + 4)], ignore_index=True)
    scored = twice.assign(arm="a", iterations=10, patient_id="", score_normal=0.4, score_effusion=0.6)
    pooled = pool(predictions(scored), twice, {"a": (10,)})
    assert pooled.missing == () and len(pooled.predictions.frame) == 16
    found = pool(predictions(scored[scored["fold"] != 6]), twice, {"a": (10,)}, partial=True)
    assert found.missing == (Missing("a", 10, 2, (6,)),)
    with pytest.raises(PredictionsError, match=r"i2.*trained on them"):
        pool(predictions(scored.assign(fold=scored["fold"].where(scored.index != 10, 7))), twice, {"a": (10,)})
