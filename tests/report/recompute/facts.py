"""The rest of `summary.json`: folds, groups, what was published, and what other files of the run state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from recompute.again import Called
from recompute.claims import Claims, positives
from recompute.judged import Judge

SURE = {
    "binary": ("auc", "accuracy"),
    "multiclass": ("macro_auc", "top1"),
    "multilabel": ("macro_auc", "macro_sensitivity"),
    "segmentation": ("dice", "iou"),
}


def fold_rows(c: Claims) -> None:
    wanted = c.frame.groupby(["arm", "iterations", "fold"]).ngroups
    assert len(c.summary["fold_rows"]) == wanted
    for place, row in enumerate(c.summary["fold_rows"]):
        judge, at = c.judge(row["arm"], row["iterations"]), ("fold_rows", place)
        part = Judge(judge.frame[judge.frame["fold"] == row["fold"]], judge.task, judge.classes, judge.tops)
        c.same(row["fold"], *at, "fold")
        c.same(row["iterations"], *at, "iterations")
        c.same(len(part.frame), *at, "images")
        (seconds,) = [
            m["train_seconds"]
            for r in c.results
            if (r["arm"], r["fold"]) == (row["arm"], row["fold"]) and row["iterations"] in r["budgets"]
            for m in r["milestones"]
            if m["iterations"] == row["iterations"]
        ]
        c.same(seconds, *at, "train_seconds")
        if judge.task != "binary":
            c.same(part.points(), *at, "metrics")
            continue
        own, points = part.part(judge.classes[1]), part.points()
        assert isinstance(own, Called)
        tn, fp, fn, tp = (int(n) for n in sk.confusion_matrix(own.truth, own.called, labels=[False, True]).ravel())
        c.same({"tp": tp, "fp": fp, "fn": fn, "tn": tn}, *at, "confusion")
        for name in ("accuracy", "sensitivity", "specificity", "auc"):
            c.same(points[name], *at, name)
        c.same(int(own.truth.sum()), *at, "positives")


def subgroups(c: Claims) -> None:
    head = c.summary["rows"][c.summary["headline"]]
    for place, row in enumerate(c.summary["subgroups"]):
        at = ("subgroups", place)
        column = pd.read_parquet(c.root / "subjects.parquet").set_index("image_id")[row["column"]]
        judge = c.judge(head["arm"], head["iterations"], in_group(column, row["group"]))
        patients = judge.frame["patient_id"].nunique() if (judge.frame["patient_id"] != "").all() else None
        images, least = judge.frame["image_id"].nunique(), c.summary["smallest_group"]
        assert row["hidden"] == ((images if patients is None else patients) < least)
        if row["hidden"]:
            assert row == {**row, "images": None, "patients": None, "positives": None, "metrics": {}}
            continue
        c.same(images, *at, "images")
        c.same(patients, *at, "patients")
        binary = judge.task == "binary"
        c.same(positives(judge, judge.classes[1])[1] if binary else None, *at, "positives")
        c.values(judge, *at, "metrics")


def in_group(column: pd.Series[Any], group: str) -> pd.Series[bool]:
    """A text, a band of numbers such as `20–39`, or those without a value."""
    text = column.astype(object).where(column.notna(), "").astype(str).str.strip()
    low, dash, high = group.partition("–")
    if dash and pd.to_numeric(column, errors="coerce").notna().any():
        return pd.to_numeric(column, errors="coerce").between(float(low) - 1e-6, float(high) + 1e-6)
    return text == "" if group == "not recorded" else text == group


def headline(c: Claims) -> None:
    found = c.summary["rows"]
    first = [k for k, row in enumerate(found) if row["arm"] == found[0]["arm"]]
    c.same(max(first, key=lambda k: found[k]["iterations"]), "headline")
    for place, row in enumerate(found):
        c.same(row["iterations"], "rows", place, "iterations")
        assert row["arm"] in c.summary["arms"] and row["iterations"] in set(c.frame["iterations"])
    head = found[c.summary["headline"]]
    size, names = head["patients"] or head["images"], SURE[c.summary["task"]]
    for place, times in enumerate((0.5, 1, 2, 4)):
        c.same(round(size * times), "sample_size", place, "size")
        for name in names:
            low, high = head["metrics"][name]["low"], head["metrics"][name]["high"]
            c.same(None if low is None else (high - low) / np.sqrt(times), "sample_size", place, name)
    cost = {"binary": "accuracy", "multiclass": "top1", "multilabel": "macro_auc", "segmentation": "dice"}
    name = cost[c.summary["task"]]
    points = [(row["time"]["train_fold"], row["metrics"][name]["value"]) for row in found]
    for row, (seconds, value) in zip(found, points, strict=True):
        beaten = any(t <= seconds and v >= value and (t < seconds or v > value) for t, v in points if v is not None)
        assert row["pareto"] == (value is not None and not beaten)


def published(c: Claims) -> None:
    given = c.resolved["experiment"]["published"]
    assert len(c.summary["published"]) == len(given)
    for place, (row, wanted) in enumerate(zip(c.summary["published"], given, strict=True)):
        c.same(wanted["iterations"], "published", place, "iterations")
        c.same(wanted["seconds"], "published", place, "seconds")
        c.same({name: wanted[name] for name in row["metrics"]}, "published", place, "metrics")
        for verdict in row["against"]:
            (ours,) = [
                r for r in c.summary["rows"] if (r["arm"], r["iterations"]) == (verdict["arm"], row["iterations"])
            ]
            for name, said in verdict["metrics"].items():
                low, high, value = (ours["metrics"][name][end] for end in ("low", "high", "value"))
                value = row["metrics"][name]
                none = value is None or low is None
                assert said == (None if none else "below" if value < low else "above" if value > high else "inside")


def data(c: Claims) -> None:
    found, folds, held = c.summary["data"], c.folds, c.held
    known = (folds["patient_id"] != "").all()
    c.same(len(folds), "data", "images")
    c.same(folds["patient_id"].nunique() if known else None, "data", "patients")
    c.same(int(folds["patient_id"].value_counts().max()) if known else None, "data", "most_images_of_a_patient")
    c.same(held["fold"].nunique(), "data", "folds")
    c.same(held["fold"].nunique(), "folds")
    whole = Judge(c.frame.drop_duplicates("image_id"), c.summary["task"], c.classes)
    if c.summary["task"] in ("binary", "multiclass"):
        c.same({name: int((folds["label"] == name).sum()) for name in c.classes}, "data", "counts")
    else:
        c.same({name: positives(whole, name)[1] for name in c.classes}, "data", "counts")
    assert found["classes"] == list(c.classes)
    repeats = held["repeat"].nunique()
    wanted = {"repeats": repeats, "folds": held["fold"].nunique() // repeats, "images": len(folds)}
    for name, value in {**wanted, "tested": held["image_id"].nunique()}.items():
        c.same(value, "division", name)
    columns = [name for name in folds if name == "fold" or str(name).startswith("fold_")]
    for name, key in (("patient_id", "patients"), ("content_hash", "identical_images")):
        stated = folds[folds[name] != ""]
        spread = stated.groupby(name)[columns].nunique().gt(1).any(axis=1).sum() if len(stated) else 0
        c.same(int(spread), "leakage", f"{key}_in_two_folds")
    for place, lack in enumerate(c.summary["missing"]):
        there = c.frame[(c.frame["arm"] == lack["arm"]) & (c.frame["iterations"] == lack["iterations"])]
        absent = held[~pd.MultiIndex.from_frame(held[["image_id", "fold"]]).isin(
            pd.MultiIndex.from_frame(there[["image_id", "fold"]])
        )]  # fmt: skip
        c.same(len(absent), "missing", place, "images")
        c.same(sorted(int(fold) for fold in absent["fold"].unique()), "missing", place, "folds")
        c.same(lack["iterations"], "missing", place, "iterations")


def stated(c: Claims) -> None:
    """Counts, times and identities that no prediction determines: equal to the file that says them."""
    experiment, dataset = c.resolved["experiment"], c.resolved["dataset"]
    c.same(4, "version")  # the format's
    c.same(0.5, "threshold")  # of two softmax scores the larger decides
    c.same(0.95, "level")
    c.same(experiment["report"]["prevalence"], "prevalence")
    c.same(experiment["report"]["smallest_group"], "smallest_group")
    c.same(dataset.get("skipped") or {}, "data", "skipped")
    c.same([{"patients": None, **step} for step in dataset.get("flow") or []], "data", "flow")
    c.same(dataset.get("image_size"), "data", "image_size")
    c.same(c.resolved.get("threads"), "threads")
    c.same(len(c.results), "trials_done")
    trainings = sum(
        len(recipe["train"]["budgets"])
        if recipe["train"]["independent"] or recipe["train"]["schedule"] != "constant"
        else 1
        for recipe in c.resolved["recipes"]
    )
    c.same(trainings * c.summary["folds"], "trials_wanted")
    for place, check in enumerate(c.json("leakage.json")["checks"] if c.summary["leakage"]["present"] else ()):
        c.same(check["found"], "leakage", "checks", place, "found")
    if c.summary["examined"]:  # of the images, before training: `data.survey`
        audit = c.json("audit.json")
        for key in ("pairs", "images", "mirrored", "other_label"):
            c.same(audit["lookalikes"][key], "examined", key)
        c.same(audit["lookalikes"].get("whole", True), "examined", "whole")
        for place, twins in enumerate(audit["lookalikes"]["nearest"]):
            c.same(twins["folds"], "examined", "nearest", place, "folds")
            c.same(twins["bits"], "examined", "nearest", place, "bits")
        for place, shortcut in enumerate(audit["shortcuts"]):
            c.same(shortcut["images"], "examined", "shortcuts", place, "images")
            for key, name in (("auc", "value"), ("low", "low"), ("high", "high")):
                c.same(shortcut[key], "examined", "shortcuts", place, "auc", name)
    sessions = c.json("sessions.json")
    c.same(len(sessions), "time", "sessions")
    for name in ("wall", "prepare", "launch"):
        c.same(sum(session[f"{name}_seconds"] for session in sessions), "time", name)
    c.same(sum(max(m["train_seconds"] for m in r["milestones"]) for r in c.results), "time", "train")
    stages = [(k, item) for found in c.resolved.get("lineage", {}).values() for k, item in enumerate(found)]
    for place, (number, item) in enumerate(stages):
        c.same(number, "lineage", place, "place")
        for key in ("images", "patients", "iterations"):
            c.same(item.get(key), "lineage", place, key)


EVERY = (fold_rows, subgroups, headline, published, data, stated)
