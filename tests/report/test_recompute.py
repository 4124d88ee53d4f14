"""Every number of summary.json again, from predictions-*.parquet and result.json, by code that is not ours.

scikit-learn, scipy and statsmodels where they have it; the textbook's formula, written plainly, where they have not.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_run import Fake, make_run
from scipy import stats
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from cxrtl.report.summary import summarise
from cxrtl.rundir import RunDir

FAKE = Fake(arms=3, folds=4, budgets=(250, 500), images=240)
ALONE = Fake(arms=3, folds=3, budgets=(250,), images=150, per_patient=1, grouped=False)
COUNTS = ("tn", "fp", "fn", "tp")
MONTE_CARLO = 0.012  # how far bounds of two bootstraps of 2000 may lie apart


def read(run: RunDir) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in run.root.glob("*/fold*/predictions-*.parquet")])


@pytest.fixture(scope="module", params=[FAKE, ALONE], ids=["patients", "images"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, dict[str, Any]]:
    run = make_run(tmp_path_factory.mktemp("recompute") / "run", request.param)
    summarise(run)
    return run, json.loads(run.path("summary.json").read_text())


def parts(run: RunDir, summary: dict[str, Any]) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    frame = read(run).assign(truth=lambda f: f["label"] == "effusion", score=lambda f: f["score_effusion"])
    keys = ["arm", "iterations"]
    return [
        (row, frame[(frame[keys] == [row["arm"], row["iterations"]]).all(axis=1)].sort_values("image_id"))
        for row in summary["rows"]
    ]


def ratios(truth: np.ndarray, called: np.ndarray) -> dict[str, float]:
    return {
        "accuracy": sk.accuracy_score(truth, called),
        "sensitivity": sk.recall_score(truth, called),
        "specificity": sk.recall_score(~truth, ~called),
        "ppv": sk.precision_score(truth, called),
        "npv": sk.precision_score(~truth, ~called),
        "f1": sk.f1_score(truth, called),
    }


def values(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    return {name: item["value"] for name, item in found.items()}


def test_rows(both: tuple[RunDir, dict[str, Any]]) -> None:
    run, summary = both
    results = [json.loads(path.read_text()) for path in run.root.glob("*/fold*/result.json")]
    for row, part in parts(run, summary):
        truth, score = part["truth"].to_numpy(), part["score"].to_numpy()
        called = score >= summary["threshold"]
        assert [row["confusion"][name] for name in COUNTS] == sk.confusion_matrix(truth, called).ravel().tolist()
        wanted = ratios(truth, called) | {"auc": sk.roc_auc_score(truth, score)}
        assert values(row["metrics"]) == pytest.approx(wanted)
        assert row["average_precision"]["value"] == pytest.approx(sk.average_precision_score(truth, score))
        by_fold = [sk.roc_auc_score(group["truth"], group["score"]) for _, group in part.groupby("fold")]
        found = row["fold_auc"]
        assert (found["mean"], found["sd"]) == pytest.approx((np.mean(by_fold), np.std(by_fold, ddof=1)))
        assert found["gap"] == pytest.approx(wanted["auc"] - np.mean(by_fold)) and found["folds"] == len(by_fold)
        assert found["differs"] == (abs(found["gap"]) > 0.01) and found["undefined"] == []
        assert (row["images"], row["positives"], row["folds"]) == (len(part), truth.sum(), part["fold"].nunique())
        assert row["patients"] == (part["patient_id"].nunique() if summary["data"]["grouped"] else None)
        mine = [result for result in results if result["arm"] == row["arm"]]
        seconds = [m["train_seconds"] for r in mine for m in r["milestones"] if m["iterations"] == row["iterations"]]
        time = row["time"]
        assert [time["train_total"], time["train_fold"], time["train_fold_min"], time["train_fold_max"]] == (
            pytest.approx([sum(seconds), np.mean(seconds), min(seconds), max(seconds)])
        )
        last = row["iterations"] == max(mine[0]["budgets"])
        assert time["wall_total"] == (pytest.approx(sum(r["wall_seconds"] for r in mine)) if last else None)
    beaten = [
        any(
            a["metrics"]["accuracy"]["value"] >= b["metrics"]["accuracy"]["value"]
            and a["time"]["train_fold"] <= b["time"]["train_fold"]
            for a in summary["rows"]
            if a is not b
        )
        for b in summary["rows"]
    ]
    assert [row["pareto"] for row in summary["rows"]] == [not one for one in beaten]


def test_calibration(both: tuple[RunDir, dict[str, Any]]) -> None:
    run, summary = both
    for row, part in parts(run, summary):
        truth, score, found = part["truth"].to_numpy(), part["score"].to_numpy(), row["calibration"]
        assert found["brier"] == pytest.approx(sk.brier_score_loss(truth, score))
        bins = part.groupby(pd.cut(score, np.linspace(0, 1, 11), right=False), observed=True)
        shares, means, sizes = bins["truth"].mean(), bins["score"].mean(), bins.size()
        assert [item["share"]["value"] for item in found["bins"]] == pytest.approx(shares.tolist())
        assert [item["score"] for item in found["bins"]] == pytest.approx(means.tolist())
        assert [item["images"] for item in found["bins"]] == sizes.tolist()
        weight, base = sizes / len(part), truth.mean()
        assert found["ece"] == pytest.approx((weight * (shares - means).abs()).sum())
        assert found["reliability"] == pytest.approx((weight * (shares - means) ** 2).sum())
        assert found["resolution"] == pytest.approx((weight * (shares - base) ** 2).sum())
        assert found["uncertainty"] == pytest.approx(base * (1 - base))
        rest = found["brier"] - found["reliability"] + found["resolution"] - found["uncertainty"]
        assert found["within"] == pytest.approx(rest)
        units = bins["patient_id"].nunique() if summary["data"]["grouped"] else sizes
        for item, share, trials in zip(found["bins"], shares, units, strict=True):
            wanted = proportion_confint(share * trials, trials, method="wilson")
            assert (item["share"]["low"], item["share"]["high"]) == pytest.approx(wanted, abs=1e-9)


def test_operating_points(both: tuple[RunDir, dict[str, Any]]) -> None:
    run, summary = both
    for row, part in parts(run, summary):
        for point in row["operating"]:
            called = np.zeros(len(part), bool)
            for fold, threshold in enumerate(point["thresholds"]):
                mine = (part["fold"] == fold).to_numpy()
                others = part[~mine]
                false, true, cuts = sk.roc_curve(others["truth"], others["score"], drop_intermediate=False)
                if point["rule"] == "youden":
                    wanted = cuts[np.argmax(np.round(true - false, 12))]
                elif point["rule"] == "sensitivity":
                    wanted = cuts[true >= point["target"] - 1e-9].max()
                else:
                    wanted = cuts[1 - false >= point["target"] - 1e-9].min()
                assert threshold == pytest.approx(wanted)
                called |= mine & (part["score"] >= threshold).to_numpy()
            assert values(point["metrics"]) == pytest.approx(ratios(part["truth"].to_numpy(), called))


def bounds(found: dict[str, Any]) -> tuple[float, float]:
    return found["low"], found["high"]


def test_intervals_of_independent_images(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ALONE)
    summarise(run)
    summary = json.loads(run.path("summary.json").read_text())
    for row, part in parts(run, summary):
        c, found = row["confusion"], row["metrics"]
        ratio = {
            "accuracy": (c["tp"] + c["tn"], row["images"]),
            "sensitivity": (c["tp"], c["tp"] + c["fn"]),
            "specificity": (c["tn"], c["tn"] + c["fp"]),
            "ppv": (c["tp"], c["tp"] + c["fp"]),
            "npv": (c["tn"], c["tn"] + c["fn"]),
        }
        for name, (hits, trials) in ratio.items():
            assert bounds(found[name]) == pytest.approx(proportion_confint(hits, trials, method="wilson"))
        jaccard = proportion_confint(c["tp"], c["tp"] + c["fp"] + c["fn"], method="wilson")
        assert bounds(found["f1"]) == pytest.approx([2 * share / (1 + share) for share in jaccard])
        area, deviation = delong(part["truth"].to_numpy(), part["score"].to_numpy())
        reach = stats.norm.ppf(0.975) * deviation / (area * (1 - area))
        middle = np.log(area / (1 - area))
        assert bounds(found["auc"]) == pytest.approx(
            (1 / (1 + np.exp(-middle + reach)), 1 / (1 + np.exp(-middle - reach)))
        )


def delong(truth: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """AUC and its standard error, pair by pair (DeLong, DeLong & Clarke-Pearson 1988)."""
    wins = np.sign(score[truth][:, None] - score[~truth][None]) / 2 + 0.5
    variance = wins.mean(1).var(ddof=1) / truth.sum() + wins.mean(0).var(ddof=1) / (~truth).sum()
    return float(wins.mean()), float(np.sqrt(variance))


def test_intervals_of_patients_against_scipys_bca(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", FAKE)
    summarise(run)
    summary = json.loads(run.path("summary.json").read_text())
    row, part = parts(run, summary)[summary["headline"]]
    truth, score = part["truth"].to_numpy(), part["score"].to_numpy()
    called = score >= 0.5
    cells = np.stack([truth & called, ~truth & called, truth & ~called, ~truth & ~called], 1).astype(float)
    table = pd.DataFrame(cells).groupby(part["patient_id"].to_numpy()).sum().to_numpy()
    above = {"accuracy": [1, 0, 0, 1], "sensitivity": [1, 0, 0, 0], "specificity": [0, 0, 0, 1], "f1": [2, 0, 0, 0]}
    below = {"accuracy": [1, 1, 1, 1], "sensitivity": [1, 0, 1, 0], "specificity": [0, 1, 0, 1], "f1": [2, 1, 1, 0]}
    for name in above:

        def ratio(*counts: np.ndarray, axis: int, name: str = name) -> np.ndarray:
            sums = [count.sum(axis=axis) for count in counts]
            top, bottom = (sum(w * s for w, s in zip(kind[name], sums, strict=True)) for kind in (above, below))
            return np.asarray(top / bottom)

        found = stats.bootstrap(tuple(table.T), ratio, paired=True, n_resamples=2000, rng=np.random.default_rng(5))
        wanted = found.confidence_interval
        assert bounds(row["metrics"][name]) == pytest.approx((wanted.low, wanted.high), abs=MONTE_CARLO), name

    groups = [np.flatnonzero(part["patient_id"] == patient) for patient in part["patient_id"].unique()]

    def area(drawn: np.ndarray) -> float:
        rows = np.concatenate([groups[int(index)] for index in drawn])
        return area_by_ranks(truth[rows], stats.rankdata(score[rows]))

    found = stats.bootstrap(
        (np.arange(len(groups)),), area, vectorized=False, n_resamples=1000, rng=np.random.default_rng(6)
    )
    wanted = found.confidence_interval
    assert bounds(row["metrics"]["auc"]) == pytest.approx((wanted.low, wanted.high), abs=MONTE_CARLO)


def area_by_ranks(truth: np.ndarray, ranks: np.ndarray) -> float:
    """Mann and Whitney's; scikit-learn's takes a millisecond."""
    positives = truth.sum()
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * (len(truth) - positives)))


def test_average_precision_and_chance(both: tuple[RunDir, dict[str, Any]]) -> None:
    run, summary = both
    rng = np.random.default_rng(3)
    for row, part in parts(run, summary):
        value, grouped = row["average_precision"]["value"], summary["data"]["grouped"]
        positives = part[part["truth"]]["patient_id"].nunique() if grouped else int(part["truth"].sum())
        reach = stats.norm.ppf(0.975) / np.sqrt(positives * value * (1 - value))
        wanted = 1 / (1 + np.exp(-(np.log(value / (1 - value)) + np.array([-reach, reach]))))
        assert bounds(row["average_precision"]) == pytest.approx(wanted.tolist())
        patient = part["patient_id"].to_numpy() if grouped else part["image_id"].to_numpy()
        names, first, code = np.unique(patient, return_index=True, return_inverse=True)
        label, fold = part["truth"].to_numpy()[first], part["fold"].to_numpy()[first]
        ranks, areas = stats.rankdata(part["score"]), []
        for _ in range(400):
            drawn = label.copy()
            for k in np.unique(fold):
                drawn[fold == k] = rng.permutation(label[fold == k])
            areas.append(area_by_ranks(drawn[code], ranks))
        p = (1 + np.sum(np.array(areas) >= row["metrics"]["auc"]["value"])) / 401
        assert row["chance_p"] == pytest.approx(p, abs=0.08), (row["arm"], len(names))


def test_differences(both: tuple[RunDir, dict[str, Any]]) -> None:
    run, summary = both
    by = {(row["arm"], row["iterations"]): part for row, part in parts(run, summary)}
    sizes = [json.loads(path.read_text()) for path in run.root.glob("*/fold*/result.json")]
    p_values: dict[str, list[float]] = {}
    for row in summary["differences"]:
        first, second = (by[row[side], row["iterations"]] for side in ("first", "second"))
        truth = first["truth"].to_numpy()
        assert (first["image_id"].to_numpy() == second["image_id"].to_numpy()).all() and row["images"] == len(first)
        one, two = (part["score"].to_numpy() for part in (first, second))
        found = values(row["metrics"])
        wanted = {key: ratios(truth, two >= 0.5)[key] - value for key, value in ratios(truth, one >= 0.5).items()}
        wanted["auc"] = sk.roc_auc_score(truth, two) - sk.roc_auc_score(truth, one)
        folds = [
            sk.roc_auc_score(b["truth"], b["score"]) - sk.roc_auc_score(a["truth"], a["score"])
            for (_, a), (_, b) in zip(first.groupby("fold"), second.groupby("fold"), strict=True)
        ]
        assert found == pytest.approx(wanted | {"fold_auc": np.mean(folds)})
        ratio = np.mean([s["test_images"] for s in sizes]) / np.mean([s["train_images"] for s in sizes])
        error = np.sqrt((1 / len(folds) + ratio) * np.var(folds, ddof=1))
        p = 2 * stats.t.sf(abs(np.mean(folds)) / error, len(folds) - 1)
        assert row["tests"]["fold_auc"]["p"] == pytest.approx(p)
        if not summary["data"]["grouped"]:
            right = [(score >= 0.5) == truth for score in (one, two)]
            table = [[np.sum(a & b) for b in (right[1], ~right[1])] for a in (right[0], ~right[0])]
            assert row["tests"]["accuracy"]["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
            assert row["tests"]["auc"]["p"] == pytest.approx(paired_delong(truth, one, two))
        for name, test in row["tests"].items():
            p_values.setdefault(name, []).append(test["p"])
    for name, listed in p_values.items():
        holm = [row["tests"][name]["p_holm"] for row in summary["differences"]]
        assert holm == pytest.approx(multipletests(listed, method="holm")[1].tolist()), name


def paired_delong(truth: np.ndarray, one: np.ndarray, two: np.ndarray) -> float:
    wins = [np.sign(score[truth][:, None] - score[~truth][None]) / 2 + 0.5 for score in (one, two)]
    gap = wins[1] - wins[0]
    variance = gap.mean(1).var(ddof=1) / truth.sum() + gap.mean(0).var(ddof=1) / (~truth).sum()
    return float(2 * stats.norm.sf(abs(gap.mean()) / np.sqrt(variance)))


def test_folds_published_sizes_data_and_time(both: tuple[RunDir, dict[str, Any]]) -> None:
    run, summary = both
    frame, by = read(run), {(row["arm"], row["iterations"]): row for row in summary["rows"]}
    assert len(summary["fold_rows"]) == len(frame.groupby(["arm", "iterations", "fold"]))
    for row in summary["fold_rows"]:
        part = frame[(frame[["arm", "iterations", "fold"]] == [row["arm"], row["iterations"], row["fold"]]).all(axis=1)]
        truth, score = (part["label"] == "effusion").to_numpy(), part["score_effusion"].to_numpy()
        assert [row["confusion"][name] for name in COUNTS] == sk.confusion_matrix(truth, score >= 0.5).ravel().tolist()
        wanted = ratios(truth, score >= 0.5)
        assert [row[name] for name in ("accuracy", "sensitivity", "specificity")] == (
            pytest.approx([wanted[name] for name in ("accuracy", "sensitivity", "specificity")])
        )
        assert row["auc"] == pytest.approx(sk.roc_auc_score(truth, score))
        assert (row["images"], row["positives"]) == (len(truth), truth.sum())
        result = json.loads(run.path(row["arm"], f"fold{row['fold']}", "result.json").read_text())
        (seconds,) = [m["train_seconds"] for m in result["milestones"] if m["iterations"] == row["iterations"]]
        assert row["train_seconds"] == seconds
    for row, verdict in itertools.chain(*([(r, v) for v in r["against"]] for r in summary["published"])):
        ours = by[verdict["arm"], row["iterations"]]["metrics"]
        for name, said in verdict["metrics"].items():
            low, high, value = *bounds(ours[name]), row["metrics"][name]
            assert said == ("below" if value < low else "above" if value > high else "inside")
    head = summary["rows"][summary["headline"]]
    assert (head["arm"], head["iterations"]) == (summary["arms"][0], max(frame["iterations"]))
    size = head["patients"] or head["images"]
    for item, times in zip(summary["sample_size"], (0.5, 1, 2, 4), strict=True):
        widths = [
            np.subtract(*reversed(bounds(head["metrics"][name]))) / np.sqrt(times) for name in ("auc", "accuracy")
        ]
        assert [item["size"], item["auc"], item["accuracy"]] == pytest.approx([round(size * times), *widths])
    folds, data = pd.read_parquet(run.path("folds.parquet")), summary["data"]
    assert data["counts"] == folds["label"].value_counts().to_dict() and data["images"] == len(folds)
    assert summary["folds"] == data["folds"] == folds["fold"].nunique()
    assert summary["leakage"]["patients_in_two_folds"] == summary["leakage"]["identical_images_in_two_folds"] == 0
    sessions = json.loads(run.path("sessions.json").read_text())
    for name in ("wall", "prepare", "launch"):
        assert summary["time"][name] == pytest.approx(sum(session[f"{name}_seconds"] for session in sessions))
    results = [json.loads(path.read_text()) for path in run.root.glob("*/fold*/result.json")]
    spent = sum(max(m["train_seconds"] for m in result["milestones"]) for result in results)
    assert summary["time"]["train"] == pytest.approx(spent)
    assert summary["trials_done"] == len(results) == summary["trials_wanted"]


def test_every_number_of_the_tables_stands_in_the_summary(three: RunDir) -> None:
    """What the page's tables show is a rounding of a number in summary.json."""
    known: set[str] = set()

    def walk(value: Any) -> None:
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
            walk(item)
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = abs(value)  # the sign is a character of its own
            known.update((f"{100 * value:.1f}", f"{value:.3f}", f"{value:.1f}", f"{value:,.0f}", f"{value:.0f}"))

    summary = json.loads(three.path("summary.json").read_text())
    walk(summary)
    page = three.path("report.html").read_text()
    tables = re.findall(r"<tbody.*?</tbody>", page.split('<h2 id="samples"')[0], re.S)
    shown = set(re.findall(r"(?<![\w.#-])\d[\d,]*\.\d+(?![\w.-])", re.sub(r"<[^>]+>", " ", " ".join(tables))))
    strange = {number for number in shown if number not in known}
    assert strange <= {f"{step / 10:.1f}" for step in range(11)} and len(shown) > 200  # bins of calibration
