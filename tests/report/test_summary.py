"""What `summary.json` holds and by which rules; `test_recompute` computes every number of it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from fake_run import Fake

from cxrtl.report.summary import summarise
from cxrtl.rundir import RunDir

proportion = pytest.importorskip("statsmodels.stats.proportion")


def pooled(run: RunDir) -> pd.DataFrame:
    files = sorted(run.root.glob("*/fold*/**/predictions-*.parquet"))
    return pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)


def read(run: RunDir) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.path("summary.json").read_text())
    return found


def test_predictive_values_at_a_stated_prevalence(small: RunDir) -> None:
    path = small.path("experiment.resolved.json")
    resolved = json.loads(path.read_text())
    resolved["experiment"]["report"] = {"prevalence": 0.1, "sensitivity_target": 0.8}
    path.write_text(json.dumps(resolved))
    summary = summarise(small)
    assert summary["prevalence"] == 0.1
    for point in summary["rows"][0]["operating"]:
        found = {name: value["value"] or 0 for name, value in point["metrics"].items()}
        true, false = 0.1 * found["sensitivity"], 0.9 * (1 - found["specificity"])
        assert found["ppv_at"] == pytest.approx(true / (true + false))
    assert [point["target"] for point in summary["rows"][0]["operating"]] == [None, 0.8, 0.9]


def test_one_image_a_patient_uses_wilson_and_delong(make: Callable[[Fake], RunDir]) -> None:
    run = make(Fake(arms=1, folds=2, budgets=(20,), images=120, per_patient=1, published=False))
    row = summarise(run)["rows"][0]
    methods = {name: value["method"] for name, value in row["metrics"].items()}
    assert methods["accuracy"] == "Wilson" and methods["f1"] == "Wilson (Jaccard)" and methods["auc"] == "DeLong"
    low, high = proportion.proportion_confint(
        row["confusion"]["tp"] + row["confusion"]["tn"], row["images"], method="wilson"
    )
    assert (row["metrics"]["accuracy"]["low"], row["metrics"]["accuracy"]["high"]) == pytest.approx((low, high))


def test_published_values_and_their_place(three: RunDir) -> None:
    summary = read(three)
    assert len(summary["published"]) == 3
    for item in summary["published"]:
        assert [verdict["arm"] for verdict in item["against"]] == summary["arms"]
        for verdict in item["against"]:
            (row,) = [r for r in summary["rows"] if (r["arm"], r["iterations"]) == (verdict["arm"], item["iterations"])]
            for name, said in verdict["metrics"].items():
                value, ours = item["metrics"][name], row["metrics"][name]
                wanted = "below" if value < ours["low"] else "above" if value > ours["high"] else "inside"
                assert said == wanted


def test_headline_is_the_first_arms_last_budget_not_the_best(three: RunDir) -> None:
    summary = read(three)
    row = summary["rows"][summary["headline"]]
    assert (row["arm"], row["iterations"]) == ("resnet50", 1000)


def test_data_and_certificate(three: RunDir) -> None:
    summary = read(three)
    folds = pd.read_parquet(three.path("folds.parquet"))
    assert summary["data"]["counts"] == folds["label"].value_counts().to_dict()
    assert (summary["data"]["images"], summary["data"]["patients"]) == (1000, 500)
    assert summary["data"]["most_images_of_a_patient"] == 2
    assert summary["data"]["skipped"] == {"truncated": 2, "not_an_image": 1}
    assert summary["leakage"]["passed"] and summary["stamps"] == []
    settings = {item["knob"]: item for item in summary["settings"]}
    assert settings["init"]["differs"] and settings["init"]["values"] == ["imagenet", "imagenet", "scratch"]
    assert not settings["rate"]["differs"]


def test_no_nan_reaches_the_file(three: RunDir) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(three.path("summary.json").read_text(), parse_constant=refuse)


def test_independent_budgets_have_their_own_trainings(make: Callable[[Fake], RunDir]) -> None:
    run = make(Fake(arms=1, folds=2, budgets=(10, 20), images=60, independent=True))
    summary = summarise(run)
    assert summary["trials_wanted"] == summary["trials_done"] == 4
    assert all(row["time"]["wall_total"] is not None for row in summary["rows"])
