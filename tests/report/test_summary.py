"""Every number of `summary.json`, recomputed from the Parquet and JSON files by other code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_run import Fake
from scipy import stats
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from cxrtl.report.summary import summarise
from cxrtl.rundir import RunDir

multitest = pytest.importorskip("statsmodels.stats.multitest")
proportion = pytest.importorskip("statsmodels.stats.proportion")


def pooled(run: RunDir) -> pd.DataFrame:
    files = sorted(run.root.glob("*/fold*/**/predictions-*.parquet"))
    return pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)


def results(run: RunDir) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(run.root.glob("*/fold*/**/result.json"))]


def read(run: RunDir) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.path("summary.json").read_text())
    return found


def ratios(truth: pd.Series, called: pd.Series) -> dict[str, float]:
    return {
        "accuracy": sk.accuracy_score(truth, called),
        "sensitivity": sk.recall_score(truth, called),
        "specificity": sk.recall_score(~truth, ~called),
        "ppv": sk.precision_score(truth, called),
        "npv": sk.precision_score(~truth, ~called),
        "f1": sk.f1_score(truth, called),
    }


def test_every_value_is_recomputed(three: RunDir) -> None:
    summary, frame = read(three), pooled(three)
    assert len(summary["rows"]) == 9
    for row in summary["rows"]:
        part = frame[(frame["arm"] == row["arm"]) & (frame["iterations"] == row["iterations"])]
        truth, score = part["label"] == "effusion", part["score_effusion"]
        called = score >= 0.5
        wanted = ratios(truth, called) | {"auc": sk.roc_auc_score(truth, score)}
        assert {name: value["value"] for name, value in row["metrics"].items()} == pytest.approx(wanted)
        (tn, fp), (fn, tp) = sk.confusion_matrix(truth, called).tolist()
        assert row["confusion"] == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
        counts = (row["images"], row["positives"], row["patients"], row["folds"], row["complete"])
        assert counts == (1000, int(truth.sum()), 500, 10, True)
        areas = [
            sk.roc_auc_score(rows["label"] == "effusion", rows["score_effusion"]) for _, rows in part.groupby("fold")
        ]
        found = row["fold_auc"]
        assert (found["mean"], found["sd"]) == pytest.approx((np.mean(areas), np.std(areas, ddof=1)))
        assert found["gap"] == pytest.approx(wanted["auc"] - np.mean(areas))
        assert found["differs"] == (abs(found["gap"]) > 0.01)
    assert any(row["fold_auc"]["differs"] for row in summary["rows"])


def test_calibration_is_recomputed(three: RunDir) -> None:
    summary, frame = read(three), pooled(three)
    for row in summary["rows"]:
        part = frame[(frame["arm"] == row["arm"]) & (frame["iterations"] == row["iterations"])]
        truth, score = part["label"] == "effusion", part["score_effusion"]
        found = row["calibration"]
        assert found["brier"] == pytest.approx(sk.brier_score_loss(truth, score))
        share, mean = calibration_curve(truth, score, n_bins=10)
        assert [item["share"]["value"] for item in found["bins"]] == pytest.approx(share)
        assert [item["score"] for item in found["bins"]] == pytest.approx(mean)
        weight = np.array([item["images"] for item in found["bins"]]) / len(part)
        assert found["ece"] == pytest.approx(float(weight @ np.abs(share - mean)))
        parts = weight @ (share - mean) ** 2, weight @ (share - truth.mean()) ** 2, truth.var(ddof=0)
        assert (found["reliability"], found["resolution"], found["uncertainty"]) == pytest.approx(parts)


def test_operating_points_are_recomputed(three: RunDir) -> None:
    """Each fold's threshold from scikit-learn's ROC curve of the other folds; the calls counted image by image."""
    summary, frame = read(three), pooled(three)
    for row in summary["rows"]:
        part = frame[(frame["arm"] == row["arm"]) & (frame["iterations"] == row["iterations"])]
        for point in row["operating"]:
            called = pd.Series(False, index=part.index)
            for fold, threshold in enumerate(point["thresholds"]):
                others, mine = part[part["fold"] != fold], part["fold"] == fold
                truth = others["label"] == "effusion"
                false, true, cuts = sk.roc_curve(truth, others["score_effusion"], drop_intermediate=False)
                place = {
                    "youden": np.argmax(np.round(true - false, 9)),
                    "sensitivity": np.argmax(true >= 0.9 - 1e-9),
                    "specificity": np.flatnonzero(1 - false >= 0.9 - 1e-9)[-1],
                }[point["rule"]]
                assert threshold == pytest.approx(cuts[place], abs=1e-12)
                called |= mine & (part["score_effusion"] >= cuts[place])
            wanted = ratios(part["label"] == "effusion", called)
            assert {name: value["value"] for name, value in point["metrics"].items()} == pytest.approx(wanted)


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


def test_times_are_recomputed(three: RunDir) -> None:
    summary, found = read(three), results(three)
    for row in summary["rows"]:
        mine = [item for item in found if item["arm"] == row["arm"]]
        seconds = [
            point["train_seconds"]
            for item in mine
            for point in item["milestones"]
            if point["iterations"] == row["iterations"]
        ]
        time = row["time"]
        assert time["train_total"] == pytest.approx(sum(seconds))
        assert time["train_fold"] == pytest.approx(np.mean(seconds))
        assert (time["train_fold_min"], time["train_fold_max"]) == (min(seconds), max(seconds))
        last = sum(item["wall_seconds"] for item in mine) if row["iterations"] == 1000 else None
        assert time["wall_total"] == (None if last is None else pytest.approx(last))
    longest = [max(point["train_seconds"] for point in item["milestones"]) for item in found]
    assert summary["time"]["train"] == pytest.approx(sum(longest))
    assert (summary["time"]["wall"], summary["time"]["sessions"]) == (pytest.approx(5560.5), 2)


def test_fold_rows_are_recomputed(three: RunDir) -> None:
    summary, frame = read(three), pooled(three)
    assert len(summary["fold_rows"]) == 90
    groups = dict(list(frame.groupby(["arm", "iterations", "fold"])))
    for row in summary["fold_rows"]:
        part = groups[row["arm"], row["iterations"], row["fold"]]
        truth, score = part["label"] == "effusion", part["score_effusion"]
        wanted = ratios(truth, score >= 0.5)
        for name in ("accuracy", "sensitivity", "specificity"):
            assert row[name] == pytest.approx(wanted[name])
        assert row["auc"] == pytest.approx(sk.roc_auc_score(truth, score))


def test_intervals_resample_patients(three: RunDir) -> None:
    """A plain loop over resampled patients, with other draws, lands on the same bounds."""
    summary, frame = read(three), pooled(three)
    row = summary["rows"][2]
    part = frame[(frame["arm"] == row["arm"]) & (frame["iterations"] == row["iterations"])]
    places = list(part.reset_index(drop=True).groupby("patient_id").indices.values())
    truth, score = (part["label"] == "effusion").to_numpy(), part["score_effusion"].to_numpy()
    rng = np.random.default_rng(99)
    drawn = []
    for _ in range(500):
        again = np.concatenate([places[i] for i in rng.integers(len(places), size=len(places))])
        called = score[again] >= 0.5
        drawn.append((sk.roc_auc_score(truth[again], score[again]), np.mean(called == truth[again])))
    for name, values in zip(("auc", "accuracy"), np.transpose(drawn), strict=True):
        found = row["metrics"][name]
        assert found["method"] == "patient bootstrap (BCa)"
        assert (found["low"], found["high"]) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.008)


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


def test_differences_are_paired_with_the_first_arm(three: RunDir) -> None:
    summary = read(three)
    rows = {(row["arm"], row["iterations"]): row for row in summary["rows"]}
    assert [row["second"] for row in summary["differences"]] == ["resnet50-hflip", "scratch"]
    frame = pooled(three)
    for row in summary["differences"]:
        one, two = rows[row["first"], row["iterations"]], rows[row["second"], row["iterations"]]
        for name in ("auc", "accuracy", "sensitivity", "f1"):
            wanted = two["metrics"][name]["value"] - one["metrics"][name]["value"]
            assert row["metrics"][name]["value"] == pytest.approx(wanted)
        gains = np.subtract(*(fold_aucs(frame, row[arm], row["iterations"]) for arm in ("second", "first")))
        error = gains.std(ddof=1) * np.sqrt(1 / 10 + 1 / 9)
        assert row["metrics"]["fold_auc"]["value"] == pytest.approx(gains.mean())
        assert row["tests"]["fold_auc"]["p"] == pytest.approx(2 * stats.t.sf(abs(gains.mean()) / error, 9))
    for name in ("auc", "accuracy", "fold_auc"):
        tests = [row["tests"][name] for row in summary["differences"]]
        wanted = multitest.multipletests([test["p"] for test in tests], method="holm")[1]
        assert [test["p_holm"] for test in tests] == pytest.approx(wanted)


def fold_aucs(frame: pd.DataFrame, arm: str, iterations: int) -> np.ndarray:
    part = frame[(frame["arm"] == arm) & (frame["iterations"] == iterations)]
    groups = part.groupby("fold")
    return np.array([sk.roc_auc_score(rows["label"] == "effusion", rows["score_effusion"]) for _, rows in groups])


def test_further_measures_are_recomputed(three: RunDir) -> None:
    summary, frame = read(three), pooled(three)
    rows = summary["rows"]
    for row in rows:
        part = frame[(frame["arm"] == row["arm"]) & (frame["iterations"] == row["iterations"])]
        wanted = sk.average_precision_score(part["label"] == "effusion", part["score_effusion"])
        assert row["average_precision"]["value"] == pytest.approx(wanted)
        assert row["chance_p"] == pytest.approx(0.0005) if row["arm"] != "scratch" else row["chance_p"] > 0.0005
        time, share = row["time"]["train_fold"], row["metrics"]["accuracy"]["value"]
        beaten = [r for r in rows if r["time"]["train_fold"] < time and r["metrics"]["accuracy"]["value"] >= share]
        assert row["pareto"] == (not beaten)
    head = rows[summary["headline"]]["metrics"]
    sizes = {item["size"]: item for item in summary["sample_size"]}
    assert list(sizes) == [250, 500, 1000, 2000]
    for name in ("auc", "accuracy"):
        width = head[name]["high"] - head[name]["low"]
        assert (sizes[500][name], sizes[2000][name]) == pytest.approx((width, width / 2))


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
