"""A run's kinds of division, from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.orchestrate.helpers import cxrtl, experiment, scores


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "trials"), [("holdout", 1), ("repeated", 6)])
def test_kinds_of_division_from_end_to_end(tmp_path: Path, kind: str, trials: int) -> None:
    changes = (f"folds.kind={kind}", "folds.repeats=3", "folds.share=0.25", "train.budgets=[2]")
    words = [word for change in changes for word in ("--set", change)]
    done = cxrtl("run", experiment(tmp_path), "--home", tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs/small"
    assert (run / "report.html").exists() and len(scores(tmp_path)) == trials
    folds = pd.read_parquet(run / "folds.parquet")
    predicted = pd.concat(scores(tmp_path).values())
    patients = folds.set_index("image_id")["patient_id"]
    for fold, part in predicted.groupby("fold"):
        result = json.loads((run / f"mobilenet_v3_small/fold{fold}/result.json").read_text())
        assert result["test_images"] == len(part) and result["train_images"] == len(folds) - len(part)
        trained_on = patients.drop(part["image_id"])
        assert not set(part["patient_id"]) & set(trained_on)
    if kind == "repeated":
        assert predicted.groupby("image_id")["repeat"].apply(sorted).tolist() == [[0, 1, 2]] * len(folds)
    else:
        assert "repeat" not in predicted and len(predicted) == 12  # of 48 images, those of a quarter of the patients
