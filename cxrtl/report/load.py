"""Read a run folder, trusting only what its hashes vouch for.

The folder may come from anybody. Only trials whose `result.json` exists are read, and only files it names; a link
anywhere in it is refused, for reading and for what is written beside. What its files say is held against their types
(`records`, `rundir`, `recorded`), so that all who come after get what they expect; strings may still hold
anything, and are escaped where they are shown.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from cxrtl.config import Experiment, Recipe
from cxrtl.errors import ChangedError, DamagedError, PredictionsError
from cxrtl.evaluate.pool import Missing, pool
from cxrtl.predictions import Predictions
from cxrtl.records import FOLD_COLUMNS, FoldResult, count_folds, division_columns, held_out
from cxrtl.report.recorded import Certificate, Resolved, Session
from cxrtl.rundir import RunDir, read_json, read_predictions, read_result, read_table, sha256_file

MOST_FOLDS = 100_000


T = TypeVar("T")
_Plain = str | int | float | bool | None


@dataclass(frozen=True)
class Done:
    """A finished trial: its result and its folder."""

    result: FoldResult
    folder: Path


@dataclass(frozen=True)
class Loaded:
    """A run folder, read and checked. `resolved` is `experiment.resolved.json`; `missing` is what is not done yet.

    `leakage`, `subjects`, `environment` and `sessions` are None or empty where the folder lacks them.
    """

    run: RunDir
    resolved: dict[str, Any]
    experiment: Experiment
    recipes: tuple[Recipe, ...]
    folds: pd.DataFrame
    subjects: pd.DataFrame | None
    trials: tuple[Done, ...]
    predictions: Predictions
    missing: tuple[Missing, ...]
    leakage: dict[str, Any] | None
    environment: dict[str, Any]
    sessions: list[dict[str, Any]]

    @property
    def k(self) -> int:
        """Folds of the run, over all repeats."""
        return count_folds(self.folds)

    @property
    def test_to_train(self) -> float:
        """Held-out images by training images of a fold, over the finished trials."""
        return sum(t.result.test_images for t in self.trials) / sum(t.result.train_images for t in self.trials)


def load_run(run: RunDir, partial: bool = False) -> Loaded:
    """Read and check `run`.

    Raises:
        DamagedError: a file is missing, unreadable or not the one its hash vouches for; names it.
        ChangedError: a result belongs to another experiment.
        PredictionsError: predictions are incomplete (unless `partial`), repeated or out of place.
    """
    given = _read(run.path("experiment.resolved.json"), TypeAdapter(Resolved))
    _refuse_links(run.root)
    experiment, recipes, classes = given.experiment, given.recipes, given.dataset.classes
    hashes = {recipe.name: given.arm_hashes.get(recipe.name, "") for recipe in recipes}
    folds = _read_folds(run.path("folds.parquet"))
    budgets = {recipe.name: recipe.train.budgets for recipe in recipes}
    trials = tuple(_done(run, path, hashes, budgets) for path in sorted(run.root.glob("*/fold*/**/result.json")))
    parts = [_checked(trial, iterations) for trial in trials for iterations in trial.result.budgets]
    predictions = Predictions.concat(parts)
    if predictions.task != "segmentation" and predictions.classes != classes:
        raise PredictionsError(
            f"predictions are of the classes {list(predictions.classes)}, the data set of {list(classes)}"
        )
    pooled = pool(predictions, held_out(folds), budgets, partial)
    leakage, subjects = run.path("leakage.json"), run.path("subjects.parquet")
    environment, sessions = run.path("environment.json"), run.path("sessions.json")
    return Loaded(
        run=run,
        resolved=given.model_dump(exclude={"experiment", "recipes"}),
        experiment=experiment,
        recipes=recipes,
        folds=folds,
        subjects=_frame(subjects, ("image_id",)) if subjects.exists() else None,
        trials=trials,
        predictions=pooled.predictions,
        missing=pooled.missing,
        leakage=_read(leakage, TypeAdapter(Certificate)).model_dump(exclude_unset=True) if leakage.exists() else None,
        environment=_read(environment, TypeAdapter(dict[str, _Plain])) if environment.exists() else {},
        sessions=[item.model_dump() for item in _read(sessions, TypeAdapter(list[Session]))]
        if sessions.exists()
        else [],
    )


def _refuse_links(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                raise DamagedError(f"{entry.name} in {folder} is a link, and may lead out of the run: remove it")
            if entry.is_dir():
                _refuse_links(Path(entry.path))


def _read(path: Path, kind: TypeAdapter[T]) -> T:
    raw = read_json(path)
    try:
        return kind.validate_python(raw)
    except ValidationError as error:
        raise DamagedError(
            f"{path.name} in {path.parent} is not one of this version: {error.error_count()} fault(s)"
        ) from None


def _read_folds(path: Path) -> pd.DataFrame:
    folds = _frame(path, [name for name in FOLD_COLUMNS if name != "fold"], ("fold",))
    try:
        numbers = folds[division_columns(folds)].to_numpy(dtype=float)
    except (ValueError, TypeError):
        numbers = pd.DataFrame([math.nan]).to_numpy()
    if not ((numbers >= -1) & (numbers < MOST_FOLDS) & (numbers % 1 == 0)).all():
        raise DamagedError(f"{path.name} in {path.parent} holds no folds: they count from 0, or are -1 for none")
    return folds


def _frame(path: Path, text: Sequence[str], whole: Sequence[str] = ()) -> pd.DataFrame:
    frame: pd.DataFrame = read_table(path, text, whole).replace_schema_metadata(None).to_pandas()
    if frame.empty:
        raise DamagedError(f"{path.name} in {path.parent} has no rows")
    return frame


def _done(run: RunDir, path: Path, hashes: dict[str, str], budgets: dict[str, tuple[int, ...]]) -> Done:
    """Check that a result belongs to this experiment and to the folder it lies in."""
    where = path.relative_to(run.root)
    result = read_result(path)
    reached = {milestone.iterations for milestone in result.milestones}
    known = result.arm in budgets and set(result.budgets) <= set(budgets[result.arm])
    in_place = where.parts[:2] == (result.arm, f"fold{result.fold}") and set(result.budgets) <= reached
    if known and result.run_hash != hashes[result.arm]:
        raise ChangedError(
            f"{where} belongs to another experiment (hash {result.run_hash[:12]!r}, not "
            f"{hashes[result.arm][:12]}): delete its folder and run again"
        )
    if not known or not in_place or not result.train_images or not result.test_images:
        raise DamagedError(f"{where} does not describe the folder it lies in: delete the folder and run again")
    return Done(result, path.parent)


def verify(trial: Done, name: str) -> Path:
    """The path of a file that the trial's result vouches for. Raises DamagedError where it is not that file."""
    path = trial.folder / name
    wanted = trial.result.files.get(name)
    where = f"{trial.result.arm}/fold{trial.result.fold}/{name}"
    if wanted is None:
        raise DamagedError(f"{where} is not among the files of its result.json: run again")
    try:
        found = sha256_file(path)
    except OSError:
        raise DamagedError(f"{where} is missing: run again") from None
    if found != wanted:
        raise DamagedError(f"{where} is not the file that was written (sha256 {found[:12]}, not {wanted[:12]})")
    return path


def _checked(trial: Done, iterations: int) -> Predictions:
    result = trial.result
    path = verify(trial, f"predictions-{iterations}.parquet")
    predictions = read_predictions(path)
    frame = predictions.frame
    for column, wanted in (("arm", result.arm), ("fold", result.fold), ("iterations", iterations)):
        if (frame[column] != wanted).any():
            raise DamagedError(f"{result.arm}/fold{result.fold}/{path.name} holds rows of another {column}")
    if len(frame) != result.test_images:
        raise DamagedError(
            f"{result.arm}/fold{result.fold}/{path.name} holds {len(frame)} images, its result {result.test_images}"
        )
    return predictions


def read_curve(trial: Done) -> pd.DataFrame:
    """The trial's training curve, columns `iteration`, `loss`, `accuracy`; empty where there is none.

    A line that a crash cut off is left out.
    """
    columns = ["iteration", "loss", "accuracy"]
    if "curve.jsonl" in trial.result.files:
        path = verify(trial, "curve.jsonl")
    elif not (path := trial.folder / "curve.jsonl").is_file():
        return pd.DataFrame(columns=columns, dtype=float)
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            item = json.loads(line)
            rows.append([float(item[name]) for name in columns])
        except (ValueError, TypeError, KeyError):
            continue
    frame = pd.DataFrame(rows, columns=columns, dtype=float)
    return frame[frame.notna().all(axis=1) & (frame.abs() < math.inf).all(axis=1)].reset_index(drop=True)
