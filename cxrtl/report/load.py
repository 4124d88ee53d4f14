"""Read a run folder, trusting only what its hashes vouch for.

Only trials whose `result.json` exists are read, and only files it names. Names in those files come from outside:
none may lead out of the trial's folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from cxrtl.config import Experiment, Recipe
from cxrtl.errors import ChangedError, DamagedError, PredictionsError
from cxrtl.evaluate.pool import Missing, pool
from cxrtl.predictions import Predictions
from cxrtl.records import FOLD_COLUMNS, FoldResult, count_folds, held_out
from cxrtl.rundir import RunDir, read_json, read_predictions, sha256_file


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
    resolved = _object(run.path("experiment.resolved.json"))
    try:
        experiment = Experiment.model_validate(resolved["experiment"])
        recipes = tuple(Recipe.model_validate(item) for item in resolved["recipes"])
        classes = tuple(str(name) for name in resolved["dataset"]["classes"])
        hashes = {recipe.name: str(resolved["arm_hashes"][recipe.name]) for recipe in recipes}
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        reason = f"{error.error_count()} fault(s)" if isinstance(error, ValidationError) else f"{error!r}"
        raise DamagedError(f"experiment.resolved.json in {run.root} is not one of this version: {reason}") from None
    folds = _read_table(run.path("folds.parquet"), FOLD_COLUMNS)
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
    return Loaded(
        run=run,
        resolved=resolved,
        experiment=experiment,
        recipes=recipes,
        folds=folds,
        subjects=_read_table(subjects, ("image_id",)) if subjects.exists() else None,
        trials=trials,
        predictions=pooled.predictions,
        missing=pooled.missing,
        leakage=_object(leakage) if leakage.exists() else None,
        environment=_optional(run.path("environment.json"), dict),
        sessions=[item for item in _optional(run.path("sessions.json"), list) if isinstance(item, dict)],
    )


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise DamagedError(f"{path.name} in {path.parent} is no JSON object")
    return value


def _optional(path: Path, kind: type[Any]) -> Any:
    """The JSON value of an optional file, `kind()` where it is absent."""
    value = read_json(path) if path.exists() else kind()
    if not isinstance(value, kind):
        raise DamagedError(f"{path.name} in {path.parent} is no JSON {kind.__name__}")
    return value


def _read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        frame: pd.DataFrame = pq.read_table(path).replace_schema_metadata(None).to_pandas()
    except (OSError, pa.ArrowInvalid):
        raise DamagedError(f"{path.name} in {path.parent} is missing or no Parquet file") from None
    absent = [name for name in columns if name not in frame]
    if absent or frame.empty:
        raise DamagedError(f"{path.name} in {path.parent} lacks the columns {absent} or has no rows")
    return frame


def _done(run: RunDir, path: Path, hashes: dict[str, str], budgets: dict[str, tuple[int, ...]]) -> Done:
    """Check that a result belongs to this experiment and to the folder it lies in."""
    where = path.relative_to(run.root)
    if not path.resolve().is_relative_to(run.root.resolve()):
        raise DamagedError(f"{where} leads out of the run folder: remove the link")
    try:
        result = FoldResult.from_json(read_json(path))
        reached = {milestone.iterations for milestone in result.milestones}
        known = result.arm in budgets and set(result.budgets) <= set(budgets[result.arm])
        in_place = where.parts[:2] == (result.arm, f"fold{result.fold}") and set(result.budgets) <= reached
        numbers = [milestone.train_seconds for milestone in result.milestones]
        finite = all(math.isfinite(value) for value in (*numbers, result.wall_seconds, result.setup_seconds))
        named = {str(name): str(digest) for name, digest in result.files.items()}
    except (KeyError, TypeError, AttributeError):
        raise DamagedError(f"{where} is no result of this version: delete its folder and run again") from None
    if known and result.run_hash != hashes[result.arm]:
        raise ChangedError(
            f"{where} belongs to another experiment (hash {str(result.run_hash)[:12]}, not "
            f"{hashes[result.arm][:12]}): delete its folder and run again"
        )
    outside = [name for name in named if name in ("", ".", "..") or Path(name).name != name]
    if outside or not known or not in_place or not finite:
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
        found = sha256_file(path) if not path.is_symlink() else "a link"
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
