"""Where the numbers come from: data, leakage certificate, recipe, weights, time, and what must be stamped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from cxrtl.config import Recipe
from cxrtl.evaluate.judge import against_rest
from cxrtl.predictions import Predictions
from cxrtl.records import division_columns
from cxrtl.report import lineage
from cxrtl.report.load import Loaded
from cxrtl.report.shape import Dataset, Leakage, RunTime, Setting, Stamp


def stamps(loaded: Loaded, trials_wanted: int) -> list[Stamp]:
    """Warnings in the order of their weight: what a reader must know before any number."""
    found = []
    if loaded.missing:
        folds = sorted({fold for gap in loaded.missing for fold in gap.folds})
        whole = loaded.k - len(folds)
        text = (
            f"Partial: {whole} of {loaded.k} folds are finished in every arm and budget ({len(loaded.trials)} of "
            f"{trials_wanted} trainings). Every number below rests on the finished folds only and will change."
        )
        found.append(Stamp(kind="partial", text=text))
    certificate = leakage(loaded)
    if not certificate["present"]:
        found.append(Stamp(kind="unaudited", text="No leakage certificate: this run was not checked for leakage."))
    elif not certificate["passed"]:
        text = "Leakage check failed: these numbers do not measure performance on unseen patients."
        found.append(Stamp(kind="leakage", text=text))
    if not certificate["grouped"]:
        text = (
            "Ungrouped: patients are unknown or were not kept together, so that images of one patient may stand in "
            "training and held-out folds alike. Performance on new patients may be lower than shown."
        )
        found.append(Stamp(kind="ungrouped", text=text))
    if said := lineage.caution(lineage.division(loaded)):
        found.append(Stamp(kind="division", text=said))
    if loaded.experiment.data.source == "phantom":
        text = "Synthetic images: this run shows that the software works. It says nothing about patients."
        found.append(Stamp(kind="synthetic", text=text))
    return found


def leakage(loaded: Loaded) -> Leakage:
    """The certificate, believed only where it speaks of this run's folds and images, and a second look at the folds."""
    raw, resolved = loaded.leakage or {}, loaded.resolved
    checks = [_check(item) for item in raw.get("checks", []) if isinstance(item, dict)]
    stale = bool(raw) and (
        raw.get("folds_hash") != resolved.get("folds_hash")
        or raw.get("dataset_hash") != resolved["dataset"].get("dataset_hash")
    )
    notes = [str(note) for note in raw.get("notes", [])]
    if stale:
        notes.append("The certificate was made for other folds or images than this run's.")
    patients = _spread(loaded.folds[loaded.folds["patient_id"] != ""], "patient_id")
    identical = _spread(loaded.folds[loaded.folds["content_hash"] != ""], "content_hash")
    grouped = bool(raw.get("grouped", resolved["dataset"].get("grouped", False)))
    clean = identical == 0 and (patients == 0 or not grouped)
    return Leakage(
        present=bool(raw),
        passed=bool(raw.get("passed")) and not stale and clean and all(check["passed"] for check in checks),
        grouped=grouped,
        checks=checks,
        notes=notes,
        patients_in_two_folds=patients,
        identical_images_in_two_folds=identical,
    )


def _check(item: dict[str, Any]) -> dict[str, Any]:
    examples, found = item.get("examples"), item.get("found")
    return {
        "name": str(item.get("name", "")),
        "passed": bool(item.get("passed")),
        "found": found if isinstance(found, int) else 0,
        "examples": [str(example) for example in examples][:5] if isinstance(examples, list) else [],
    }


def _spread(frame: pd.DataFrame, column: str) -> int:
    """How many values of `column` occur in more than one fold of a repeat."""
    folds = frame.groupby(column)[division_columns(frame)].nunique()
    return int((folds > 1).any(axis=1).sum()) if len(frame) else 0


def dataset(loaded: Loaded) -> Dataset:
    raw, folds = loaded.resolved["dataset"], loaded.folds
    known = folds["patient_id"][folds["patient_id"] != ""]
    complete = len(known) == len(folds)
    return Dataset(
        images=len(folds),
        patients=int(known.nunique()) if complete else None,
        most_images_of_a_patient=int(known.value_counts().max()) if complete else None,
        classes=list(loaded.predictions.classes),
        counts=_counts(loaded),
        skipped=raw["skipped"],
        flow=list(raw["flow"]),
        grouped=raw["grouped"],
        image_size=raw["image_size"],
        dataset_hash=raw["dataset_hash"],
        folds_hash=loaded.resolved["folds_hash"],
        folds=loaded.k,
    )


def _counts(loaded: Loaded) -> dict[str, int]:
    """Images of each class; with a finding or a structure, among those that were predicted."""
    chosen = loaded.predictions
    if chosen.task in ("binary", "multiclass"):
        return {name: int((loaded.folds["label"] == name).sum()) for name in chosen.classes}
    once = Predictions(chosen.frame.drop_duplicates("image_id"), chosen.classes, chosen.task)
    if chosen.task == "segmentation":
        return {name: int((once.frame[f"truth_{name}"] > 0).sum()) for name in chosen.classes}
    return {name: int(against_rest(once, name)[0].sum()) for name in chosen.classes}


def run_time(loaded: Loaded) -> RunTime:
    sessions = loaded.sessions
    started = sorted(str(session["started"]) for session in sessions if session.get("started"))
    return RunTime(
        sessions=len(sessions),
        first_started=started[0] if started else None,
        wall=_total(sessions, "wall_seconds"),
        prepare=_total(sessions, "prepare_seconds"),
        launch=_total(sessions, "launch_seconds"),
        train=sum(max(point.train_seconds for point in trial.result.milestones) for trial in loaded.trials),
    )


def _total(sessions: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [session[key] for session in sessions if isinstance(session.get(key), int | float)]
    finite = [float(value) for value in values if math.isfinite(value)]
    return sum(finite) if finite else None


def settings(recipes: Sequence[Recipe]) -> list[Setting]:
    """Every knob of every arm, in the order of the experiment's schema."""
    tables = [{**recipe.train.model_dump(mode="json"), **recipe.augment.model_dump(mode="json")} for recipe in recipes]
    found = []
    for knob in tables[0] if tables else ():
        values = [_text(table[knob]) for table in tables]
        found.append(Setting(knob=knob, values=values, differs=len(set(values)) > 1))
    return found


def weights(starts: dict[str, dict[str, str] | None]) -> list[dict[str, str]]:
    """Each arm's starting weights: source, file and sha256, as recorded."""
    none = {"source": "scratch", "file": "", "sha256": ""}
    return [
        {"arm": arm, **none, **{key: text for key, text in (start or {}).items() if text}}
        for arm, start in starts.items()
    ]


def texts(raw: dict[str, Any]) -> dict[str, str]:
    return {str(key): _text(value) for key, value in raw.items()}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return "" if value is None else str(value)
