"""`differences` and `readers` of `summary.json`, computed again."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from recompute.again import Called, areas, flips, gap
from recompute.claims import BCA, Claims
from recompute.judged import LEADING, Judge


def pair(first: Judge, second: Judge) -> tuple[Judge, Judge]:
    """The rows of common images, in the same order; folds and patients are the first's."""
    keys = ["image_id"] + ["repeat"] * ("repeat" in first.frame and "repeat" in second.frame)
    one, two = (part.frame.set_index(pd.MultiIndex.from_frame(part.frame[keys])) for part in (first, second))
    one = one[one.index.isin(two.index)].sort_index()
    shared = {name: one[name].to_numpy() for name in ("fold", "patient_id", "repeat") if name in one}
    two = two.loc[one.index].assign(**shared)  # a reader's word on an image meets each repeat of an arm
    return Judge(one, first.task, first.classes, first.tops), Judge(two, first.task, first.classes, first.tops)


def difference(c: Claims, one: Judge, two: Judge, *at: str | int) -> None:
    row, lead = c.at(at), LEADING[one.task]
    c.same(one.frame["image_id"].nunique(), *at, "images")
    points = {name: None if None in both else both[1] - both[0] for name, both in
              {name: (one.points()[name], two.points()[name]) for name in one.names}.items()}  # fmt: skip
    drawn = cache(lambda: one.bootstrap(gap(one.weighted(), two.weighted())))
    gains = fold_gains(one, two, lead)
    for name, item in row["metrics"].items():
        here = (*at, "metrics", name)
        if name == f"fold_{lead}":
            wanted, reach, _ = nadeau(c, gains)
            c.same(wanted, *here, "value")
            c.bounds((wanted - reach, wanted + reach) if reach else None, *here)
        elif name == "wilcoxon":
            c.same(float(np.median(gains_of_patients(one, two))), *here, "value")
            c.bounds(None, *here)
        else:
            c.same(points[name], *here, "value")
            if item["method"] in ("paired DeLong", "paired Obuchowski"):
                reach = stats.norm.ppf(0.975) * paired_areas(one, two)[1]
                c.bounds((points[name] - reach, points[name] + reach), *here)
            elif item["method"] is None:
                assert drawn().silent(name), here
                c.bounds(None, *here)
            else:
                assert item["method"] == BCA, (here, item)
                c.resampled(drawn(), name, *here)
    for name, test in row["tests"].items():
        wanted, within = p_value(c, one, two, name, test["method"], gains, drawn)
        c.same(wanted, *at, "tests", name, "p", within=within)


def p_value(
    c: Claims, one: Judge, two: Judge, name: str, method: str, gains: list[float], drawn: Any
) -> tuple[float | None, float]:
    """By the method that the summary names; and how far another draw may lie from it."""
    if method == "Nadeau–Bengio t":
        return nadeau(c, gains)[2], 1e-9
    if method == "Wilcoxon signed-rank":
        moved = gains_of_patients(one, two)
        moved = moved[np.abs(moved) > 1e-12]
        return (float(stats.wilcoxon(moved).pvalue) if len(moved) else 1.0), 1e-9
    if method in ("paired DeLong", "paired Obuchowski"):
        value, error = paired_areas(one, two)
        return (float(2 * stats.norm.sf(abs(value) / error)) if error > 1e-12 else 1.0), 1e-9
    if method == f"paired {BCA}":
        return (1.0 if np.ptp(drawn().drawn[name]) == 0 else None if drawn().silent(name) else drawn().p(name)), 0.03
    right = [right_calls(part) for part in (one, two)]
    if method == "exact McNemar":
        table = [[np.sum(a & b) for b in (right[1], ~right[1])] for a in (right[0], ~right[0])]
        return float(mcnemar(table, exact=True).pvalue), 1e-9
    assert method == "patient sign-flip"
    change = pd.Series(right[1].astype(int) - right[0].astype(int)).groupby(one.patient).sum().to_numpy()
    return (flips(change) if change.any() else 1.0), 0.02


def right_calls(judge: Judge) -> np.ndarray:
    if judge.task == "binary":
        own = judge.part(judge.classes[1])
        assert isinstance(own, Called)
        return np.asarray(own.called == own.truth)
    return judge.among(1, np.ones(len(judge.frame), bool)).called


def paired_areas(one: Judge, two: Judge) -> tuple[float, float]:
    """Difference of two AUCs and its standard error."""
    parts = [part.part(part.classes[1]) for part in (one, two)]
    assert isinstance(parts[0], Called) and isinstance(parts[1], Called)
    area, covariance = areas(parts[0].truth, [part.score for part in parts], one.patient)
    contrast = np.array([-1.0, 1.0])
    return float(area[1] - area[0]), float(np.sqrt(max(0.0, contrast @ covariance @ contrast)))


def fold_gains(one: Judge, two: Judge, lead: str) -> list[float]:
    folds = one.frame["fold"].to_numpy()
    both = [(one.points(folds == fold)[lead], two.points(folds == fold)[lead]) for fold in np.unique(folds)]
    return [after - before for before, after in both if before is not None and after is not None]


def gains_of_patients(one: Judge, two: Judge) -> np.ndarray:
    def dice(judge: Judge) -> np.ndarray:
        t, p, s = (judge.frame[[f"{kind}_{name}" for name in judge.classes]].to_numpy(float)
                   for kind in ("truth", "predicted", "shared"))  # fmt: skip
        return np.where(t + p > 0, 2 * s / np.where(t + p > 0, t + p, 1), 1.0).mean(1)

    return pd.Series(dice(two) - dice(one)).groupby(one.patient).mean().to_numpy()


def nadeau(c: Claims, gains: list[float]) -> tuple[float, float, float | None]:
    """Mean, half the interval's width and p."""
    ratio = sum(r["test_images"] for r in c.results) / sum(r["train_images"] for r in c.results)
    k, mean = len(gains), float(np.mean(gains))
    error = float(np.sqrt((1 / k + ratio) * np.var(gains, ddof=1)))
    if error < 1e-12:
        return mean, 0.0, 1.0 if abs(mean) < 1e-12 else None
    return mean, float(stats.t.ppf(0.975, k - 1)) * error, float(2 * stats.t.sf(abs(mean) / error, k - 1))


def holm(c: Claims, *paths: tuple[str | int, ...]) -> None:
    """Over all the rows at `paths`, for each test on its own."""
    for name in {name for path in paths for name in c.at(path)["tests"]}:
        mine = [(*path, "tests", name) for path in paths if name in c.at(path)["tests"]]
        known = [path for path in mine if c.at(path)["p"] is not None]
        adjusted = multipletests([c.at(path)["p"] for path in known], method="holm")[1] if known else []
        for path, wanted in zip(known, adjusted, strict=True):
            c.same(float(wanted), *path, "p_holm")
        for path in (path for path in mine if path not in known):
            c.same(None, *path, "p_holm")


def differences(c: Claims) -> None:
    first = c.summary["arms"][0]
    for place, row in enumerate(c.summary["differences"]):
        assert row["first"] == first
        one, two = pair(*(c.judge(row[side], row["iterations"]) for side in ("first", "second")))
        longest = {arm: {r["iterations"] for r in c.summary["rows"] if r["arm"] == arm} for arm in c.summary["arms"]}
        c.same(max(longest[row["first"]] & longest[row["second"]]), "differences", place, "iterations")
        if row["part"]:
            one, two = one.alone(row["part"]), two.alone(row["part"])
        difference(c, one, two, "differences", place)
    holm(c, *(("differences", place) for place in range(len(c.summary["differences"]))))


def readers(c: Claims) -> None:
    paths: list[tuple[str | int, ...]] = []
    for place, reader in enumerate(c.summary["readers"]):
        at = ("readers", place)
        column = pd.read_parquet(c.root / "subjects.parquet").set_index("image_id")[f"reader_{reader['name']}"]
        truth = c.frame[["image_id", "patient_id", "label"]].drop_duplicates("image_id").sort_values("image_id")
        said = truth["image_id"].map(column).fillna("").astype(str)
        truth, said = truth[said != ""], said[said != ""]
        c.same(len(truth) if reader["kind"] else 0, *at, "images")
        if not reader["kind"]:
            continue
        score = said.astype(float) if reader["kind"] == "scores" else None
        own = {
            f"score_{name}": (said == name).astype(float) if score is None else score if k else 1 - score
            for k, name in enumerate(c.classes)
        }
        judge = Judge(truth.assign(fold=0, **own), c.summary["task"], c.classes)
        c.values(judge, *at, "metrics")
        for number, row in enumerate(reader["differences"]):
            here = (*at, "differences", number)
            paths.append(here)
            c.same(max(r["iterations"] for r in c.summary["rows"] if r["arm"] == row["second"]), *here, "iterations")
            arm, word = pair(c.judge(row["second"], row["iterations"]), judge)
            difference(c, word, arm, *here)
    holm(c, *paths)
