"""Arms of one run, and its kinds of division: nothing that one does shows in another's numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.orchestrate.helpers import cxrtl, experiment, same, scores

MORE = """
[grid]
train.backbone = ["squeezenet1_1"]
train.budgets = [[2]]
[[arm]]
name = "mobilenet_v3_small"
"""


def test_arms(undisturbed: Path, tmp_path: Path) -> None:
    """An arm that joins a run changes no bit of another's predictions, whether done before or made with it."""
    for part in ("prepared", "runs"):
        shutil.copytree(undisturbed / part, tmp_path / part)
    run = tmp_path / "runs/small"
    hashes = json.loads((run / "experiment.resolved.json").read_text())
    shutil.rmtree(run / "mobilenet_v3_small/fold1")
    kept = {path: path.stat().st_mtime_ns for path in run.glob("*/fold0/*")}
    done = cxrtl("run", experiment(tmp_path, MORE), "--home", tmp_path, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    plan = next(json.loads(line)["plan"] for line in done.stdout.splitlines() if line.startswith('{"plan"'))
    assert (plan["trials"], plan["done"]) == (4, 1)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    found, alone = scores(tmp_path), scores(undisturbed)
    assert same({name: found[name] for name in alone}, alone)
    assert found.keys() - alone.keys() == {f"squeezenet1_1-budgets_2/fold{k}/predictions-2.parquet" for k in (0, 1)}
    now = json.loads((run / "experiment.resolved.json").read_text())
    assert now["run_hash"] != hashes["run_hash"] and now["arm_hashes"].items() > hashes["arm_hashes"].items()
    arms = json.loads((run / "summary.json").read_text())["arms"]
    assert arms == ["mobilenet_v3_small", "squeezenet1_1-budgets_2"]


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
