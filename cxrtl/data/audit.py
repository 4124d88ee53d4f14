"""The leakage certificate: may these folds be trusted to hold out what they claim to hold out?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from cxrtl.errors import FoldsError, LeakageError
from cxrtl.records import Folds, Task, stated_columns

_EXAMPLES = 10  # ids that a check names at most
_SHOWN = 5  # of them, in an error message
PATIENTS = "no patient in two folds"
STUDIES = "no study in two folds"
IMAGES = "no identical image in two folds"


def audit(folds: Folds, positive: str = "", task: Task = "binary") -> dict[str, Any]:
    """Check `folds` and return the certificate, as JSON-able values; all ids in it are hashed.

    `positive` is the class that `per_fold` counts; default: the last in the alphabet; other tasks than the binary one
    have none. Of a multilabel task, `labels` counts the images in which each finding is stated present. Where patients
    are unknown the patient check is absent, and a note says so. Fold -1 is what a holdout leaves to train on; a fold of
    a given split or site bears its name as `part`. Repeats are checked one by one; `found` is the most of any.

        {"passed", "grouped", "folds_hash", "dataset_hash", "images", "patients",
         "checks":   [{"name", "passed", "found", "examples"}],
         "per_fold": [{"fold", "images", "patients", "positives", "labels", "part"}],
         "notes":    [text]}
    """
    frame = folds.frame
    positive = (positive or max(frame["label"], default="")) if task == "binary" else ""
    checks = _merged(
        [_checks(each, folds, first, task) for each, first in zip(divisions(folds), _firsts(folds), strict=True)]
    )
    return {
        "passed": all(check["passed"] for check in checks),
        "grouped": folds.grouped,
        "folds_hash": folds.hash,
        "dataset_hash": folds.dataset_hash,
        "images": len(frame),
        "patients": int(frame["patient_id"].nunique()) if folds.grouped else 0,
        "checks": checks,
        "per_fold": [
            _count(int(str(fold)), rows, folds, positive)
            for division in divisions(folds)
            for fold, rows in division.groupby("fold")
        ],
        "notes": _notes(folds),
    }


def divisions(folds: Folds) -> list[pd.DataFrame]:
    """The folds' frame once for each repeat, with that repeat's numbers as `fold`."""
    return [folds.frame.assign(fold=row) for row in folds.division]


def require_clean(certificate: dict[str, Any]) -> None:
    """Stop where the certificate did not pass.

    Raises:
        LeakageError: a patient or an identical image stands in two folds; named by hashed id.
        FoldsError: a fold is empty or lacks a class, or an image is in none or in several.
    """
    failed = [check for check in certificate["checks"] if not check["passed"]]
    if not failed:
        return
    cures = {
        PATIENTS: "keep a patient's images on one side (make the folds again, grouped by patient, or mend the column)",
        STUDIES: "make the folds again, grouped by study",
        IMAGES: "keep one copy of each, or give the copies one patient, and make the folds again",
    }
    lines = [
        f"{check['name']}: fails for {check['found']}, such as {check['examples'][:_SHOWN]}; "
        + cures.get(check["name"], "make the folds again")
        for check in failed
    ]
    leaks = any(check["name"] in cures for check in failed)
    raise (LeakageError if leaks else FoldsError)("the folds cannot be trusted. " + ". ".join(lines))


def _check(name: str, examples: Iterable[str | int], found: int | None = None) -> dict[str, Any]:
    listed = list(examples)
    found = len(listed) if found is None else found
    return {"name": name, "passed": not found, "found": found, "examples": listed[:_EXAMPLES]}


def _in_several_folds(frame: pd.DataFrame, column: str) -> pd.Index[str]:
    return frame.groupby(column, sort=False)["fold"].nunique().loc[lambda count: count > 1].index


def _firsts(folds: Folds) -> list[int]:
    """Each division's lowest number: -1 for a holdout, else 0 or the next after those of the repeat before."""
    return [-1 if folds.k == 1 else 0, *(int(row.max()) + 1 for row in folds.division[:-1])]


def _checks(frame: pd.DataFrame, folds: Folds, first: int, task: Task) -> list[dict[str, Any]]:
    """Of one division."""
    checks = [_check(PATIENTS, _in_several_folds(frame, "patient_id"))] if folds.grouped else []
    if "study_id" in frame:
        checks.append(_check(STUDIES, _in_several_folds(frame[frame["study_id"] != ""], "study_id")))
    return [*checks, _shared_images(frame), _once_each(frame, first), *_complete(frame, first, task)]


def _merged(repeats: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each check over all repeats: what is found in any of them."""
    return [
        _check(each[0]["name"], dict.fromkeys(x for c in each for x in c["examples"]), max(c["found"] for c in each))
        for each in zip(*repeats, strict=True)
    ]


def _shared_images(frame: pd.DataFrame) -> dict[str, Any]:
    copies = frame[frame["content_hash"].isin(_in_several_folds(frame, "content_hash"))]
    together = copies.sort_values("content_hash", kind="stable")  # copies of one picture side by side
    return _check(IMAGES, together["image_id"])


def _once_each(frame: pd.DataFrame, first: int) -> dict[str, Any]:
    wrong = frame["image_id"].duplicated(keep=False) | ~(frame["fold"] >= first)
    return _check("every image in exactly one fold", frame["image_id"][wrong].drop_duplicates())


def _complete(frame: pd.DataFrame, first: int, task: Task) -> list[dict[str, Any]]:
    wanted = range(first, int(frame["fold"].max()) + 1)
    empty = sorted(set(wanted) - set(frame["fold"]))
    if task == "multilabel":
        tested = [fold for fold in wanted if fold >= 0]
        lacking = [fold for fold in tested if not _both_sides(frame[frame["fold"] != fold])]
        return [_check("no fold is empty", empty), _check("each finding present and absent in training", lacking)]
    if task == "segmentation":
        return [_check("no fold is empty", empty)]
    labels = frame["label"].unique()
    lacking = [fold for fold in wanted if frame["label"][frame["fold"] == fold].nunique() < max(len(labels), 2)]
    return [_check("no fold is empty", empty), _check("each class in each fold", lacking)]


def _both_sides(frame: pd.DataFrame) -> bool:
    return all({0, 1} <= set(frame[name].dropna()) for name in stated_columns(frame))


def _count(fold: int, frame: pd.DataFrame, folds: Folds, positive: str) -> dict[str, Any]:
    labels = {str(name): int(count) for name, count in frame["label"].value_counts().sort_index().items()}
    labels = {name[6:]: int((frame[name] == 1).sum()) for name in stated_columns(frame)} or labels
    return {
        "fold": fold,
        "images": len(frame),
        "patients": int(frame["patient_id"].nunique()) if folds.grouped else 0,
        **({"positives": labels.get(positive, 0)} if positive else {}),
        "labels": labels,
        **({"part": ", ".join(sorted(frame["part"].unique()))} if "part" in frame else {}),
    }


def _notes(folds: Folds) -> list[str]:
    frame = folds.frame
    notes = []
    if not folds.grouped:
        notes.append(
            "Patients are unknown: images of one patient may stand in several folds, and results may be optimistic."
        )
    copies = frame[frame["content_hash"].duplicated(keep=False)].groupby("content_hash", sort=False)
    if copies.ngroups:
        first = copies["image_id"].first().tolist()
        notes.append(f"{copies.ngroups} picture(s) occur more than once, such as that of {first[:_SHOWN]}.")
    torn = copies.filter(lambda group: group["label"].nunique() > 1)
    if len(torn):
        notes.append(f"{len(torn)} identical images bear different labels: {torn['image_id'].tolist()[:_EXAMPLES]}.")
    return notes
