"""`rows` of `summary.json`: every arm at every budget, computed again."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn import metrics as sk
from statsmodels.stats.proportion import proportion_confint

from recompute.again import Called, ranked
from recompute.claims import Claims, positives
from recompute.judged import LEADING, Judge


def rows(c: Claims) -> None:
    for place, row in enumerate(c.summary["rows"]):
        judge, at = c.judge(row["arm"], row["iterations"]), ("rows", place)
        ids, known = judge.frame["image_id"], (judge.frame["patient_id"] != "").all()
        c.same(ids.nunique(), *at, "images")
        c.same(judge.frame["patient_id"].nunique() if known else None, *at, "patients")
        c.same(judge.frame["fold"].nunique(), *at, "folds")
        c.same(len(judge.frame) == len(c.held), *at, "complete")
        assert set(row["metrics"]) == set(judge.names)
        c.values(judge, *at, "metrics")
        for number, part in enumerate(row["parts"]):
            here = (*at, "parts", number)
            images, having = positives(judge, part["name"])
            c.same(images, *here, "images")
            c.same(having, *here, "positives")
            if judge.task == "multiclass":
                c.values(judge, *here, "metrics", part=part["name"])
            else:
                c.values(judge.alone(part["name"]), *here, "metrics")
        assert [part["name"] for part in row["parts"]] == ([] if judge.task == "binary" else list(c.classes))
        within_folds(c, judge, *at, "fold_auc" if judge.task == "binary" else "fold_lead")
        times(c, row, *at, "time")
        if judge.task == "binary":
            binary(c, judge, *at)
        if judge.task == "multiclass":
            called = judge.frame[[f"score_{name}" for name in c.classes]].to_numpy().argmax(1)
            table = sk.confusion_matrix(judge.frame["label"], np.array(c.classes)[called], labels=list(c.classes))
            c.same(table.tolist(), *at, "table")


def within_folds(c: Claims, judge: Judge, *at: str | int) -> None:
    folds, lead = judge.frame["fold"].to_numpy(), LEADING[judge.task]
    found = {int(fold): judge.points(folds == fold)[lead] for fold in np.unique(folds)}
    known = [value for value in found.values() if value is not None]
    mean, pooled = (float(np.mean(known)) if known else None), judge.points()[lead]
    distance = None if mean is None or pooled is None else pooled - mean
    c.same(mean, *at, "mean")
    c.same(float(np.std(known, ddof=1)) if len(known) > 1 else None, *at, "sd")
    c.same(len(known), *at, "folds")
    c.same([fold for fold, value in found.items() if value is None], *at, "undefined")
    c.same(distance, *at, "gap")
    c.same(distance is not None and abs(distance) > 0.01 and lead.endswith("auc"), *at, "differs")


def times(c: Claims, row: dict[str, Any], *at: str | int) -> None:
    mine = [result for result in c.results if result["arm"] == row["arm"] and row["iterations"] in result["budgets"]]
    points = [m for result in mine for m in result["milestones"] if m["iterations"] == row["iterations"]]
    seconds = [point["train_seconds"] for point in points]
    last = all(row["iterations"] == max(result["budgets"]) for result in mine)
    wanted = {
        "total": sum(seconds),
        "fold": float(np.mean(seconds)),
        "fold_min": min(seconds),
        "fold_max": max(seconds),
    }
    c.same({f"train_{name}": value for name, value in wanted.items()} | {
        "wall_total": sum(result["wall_seconds"] for result in mine) if last else None
    }, *at)  # fmt: skip


def binary(c: Claims, judge: Judge, *at: str | int) -> None:
    whole = judge.part(judge.classes[1])
    assert isinstance(whole, Called) and whole.score is not None
    c.same(judge.frame["image_id"][whole.truth].nunique(), *at, "positives")
    tn, fp, fn, tp = (int(n) for n in sk.confusion_matrix(whole.truth, whole.called, labels=[False, True]).ravel())
    c.same({"tp": tp, "fp": fp, "fn": fn, "tn": tn}, *at, "confusion")
    drawn = cache(lambda: judge.bootstrap(ranked(whole.truth, whole.score, whole.patient)))
    precision = float(sk.average_precision_score(whole.truth, whole.score))
    c.same(precision, *at, "average_precision", "value")
    c.interval(drawn, whole, True, "average_precision", *at, "average_precision")
    calibration(c, judge, whole, drawn, *at, "calibration")
    once = Judge(judge.frame[judge.repeats[0]], "binary", judge.classes)
    c.same(chance(once), *at, "chance_p", within=0.06)
    for number in range(3):
        operating(c, once, *at, "operating", number)


def calibration(c: Claims, judge: Judge, whole: Called, drawn: Any, *at: str | int) -> None:
    truth, score = whole.truth, whole.score
    assert score is not None
    frame = pd.DataFrame({"truth": truth, "score": score, "patient": whole.patient})
    bins = frame.groupby(np.minimum((score * 10).astype(int), 9))
    shares, means, sizes, base = bins["truth"].mean(), bins["score"].mean(), bins.size(), truth.mean()
    weight = sizes / len(frame)
    wanted = {
        "brier": float(sk.brier_score_loss(truth, score)),
        "reliability": float((weight * (shares - means) ** 2).sum()),
        "resolution": float((weight * (shares - base) ** 2).sum()),
        "uncertainty": float(base * (1 - base)),
        "ece": float((weight * (shares - means).abs()).sum()),
    }
    wanted["within"] = wanted["brier"] - wanted["reliability"] + wanted["resolution"] - wanted["uncertainty"]
    for name, value in wanted.items():
        c.same(value, *at, "measures", name, "value")
        if name in ("brier", "ece"):
            c.interval(drawn, whole, True, name, *at, "measures", name)
        else:
            c.bounds(None, *at, "measures", name)
    trials = bins["patient"].nunique() if judge.several else sizes
    for place, (bin_, size) in enumerate(sizes.items()):
        here, mine = (*at, "bins", place), {"low": bin_ / 10, "high": (bin_ + 1) / 10}
        for key, value in {**mine, "images": size, "score": means[bin_]}.items():
            c.same(value, *here, key)
        c.same(shares[bin_], *here, "share", "value")
        count = trials[bin_]
        c.bounds(proportion_confint(shares[bin_] * count, count, method="wilson"), *here, "share")


def chance(judge: Judge) -> float | None:
    """Labels exchanged between patients of a fold that hold equally many images."""
    truth = (judge.frame["label"] == judge.classes[1]).to_numpy()
    if truth.all() or not truth.any():
        return None
    rank = stats.rankdata(judge.frame[f"score_{judge.classes[1]}"])
    table = pd.DataFrame({"fold": judge.frame["fold"].to_numpy(), "patient": judge.patient, "row": range(len(truth))})
    held = table.groupby(["fold", "patient"])["row"].agg(list)
    rng, drawn = np.random.default_rng(3), np.zeros(999)
    for _, mine in held.groupby([held.index.get_level_values(0), held.map(len)]):
        block = np.array(mine.to_list())
        for draw in range(999):
            drawn[draw] += rank[block][truth[block][rng.permutation(len(block))]].sum()
    return float((1 + (drawn >= rank[truth].sum() - 1e-9).sum()) / 1000)


def operating(c: Claims, judge: Judge, *at: str | int) -> None:
    point, frame = c.at(at), judge.frame
    report, fold = c.resolved["experiment"]["report"], frame["fold"].to_numpy()
    rule = ("youden", "sensitivity", "specificity")[int(at[-1])]
    assert point["rule"] == rule
    c.same(None if rule == "youden" else report[f"{rule}_target"], *at, "target")
    truth, score = (frame["label"] == judge.classes[1]).to_numpy(), frame[f"score_{judge.classes[1]}"].to_numpy()
    called = np.zeros(len(frame), bool)
    for place, mine in enumerate(np.unique(fold)):
        others = fold != mine
        if len(set(truth[others])) < 2:
            c.same(None, *at, "thresholds", place)
            continue
        false, true, cuts = sk.roc_curve(truth[others], score[others], drop_intermediate=False)
        cuts[0] = np.nextafter(score[others].max(), np.inf)
        if rule == "youden":
            wanted = cuts[np.argmax(np.round(true - false, 12))]
        elif rule == "sensitivity":
            wanted = cuts[true >= point["target"] - 1e-9].max()
        else:
            wanted = cuts[1 - false >= point["target"] - 1e-9].min()
        c.same(float(wanted), *at, "thresholds", place)
        called[~others] = score[~others] >= wanted
    own = Called(truth, called, None, judge.patient)
    drawn, points = cache(lambda: judge.bootstrap(own.weighted())), own.points()
    at_prevalence = cache(lambda: judge.bootstrap(predictive(own, report["prevalence"])))
    for name in point["metrics"]:
        stated = name in ("ppv_at", "npv_at")
        value = float(at_prevalence().whole[name][0]) if stated else points[name]
        c.same(value if value is not None and np.isfinite(value) else None, *at, "metrics", name, "value")
        c.interval(at_prevalence if stated else drawn, own, judge.several, name, *at, "metrics", name)


def predictive(own: Called, prevalence: float) -> Any:
    """PPV and NPV at a stated prevalence, by Bayes' theorem."""
    under = own.weighted()

    def at(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = under(weights)
        true, false = found["sensitivity"] * prevalence, (1 - found["specificity"]) * (1 - prevalence)
        missed, right = (1 - found["sensitivity"]) * prevalence, found["specificity"] * (1 - prevalence)
        with np.errstate(all="ignore"):
            return {"ppv_at": true / (true + false), "npv_at": right / (right + missed)}

    return at
