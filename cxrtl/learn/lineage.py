"""Staged transfer: which weights of another run a run starts from, what those were trained on, and what they have seen.

`train.init = "stage:RUN"` or `"stage:RUN/ARM"`; RUN is a run's folder, or its name where it lies beside this run. The
weights are those of the last budget, of the fold whose held-out loss is the median of the stage's folds (of an even
number the lower one; ties to the lower fold): the stage's own images decide, the target's never. A typical model, where
the best fold's would be the one whose held-out images were easiest.

Every image of a stage counts as seen: all but the chosen fold's trained the weights, and that fold's loss chose them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cxrtl import rundir, storage
from cxrtl.config import Experiment, Train, expand
from cxrtl.data.folds import read_folds
from cxrtl.errors import DamagedError, LeakageError, WeightsError
from cxrtl.records import FoldResult, Folds, Trial
from cxrtl.rundir import RunDir

RULE = "last budget, fold of median held-out loss on the stage's own images"
SEEN = "seen.parquet"
SEEN_COLUMNS = ["run_hash", "patient_id", "content_hash"]
_NAMED = 5


@dataclass(frozen=True)
class Source:
    """What `stage:…` leads to: a weights file with its sha256, the stages behind it, first to last, as
    `experiment.resolved.json` keeps them, and `SEEN_COLUMNS` of every image that any of them has seen."""

    path: Path
    sha256: str
    stages: tuple[dict[str, Any], ...]
    seen: pd.DataFrame


def choose(train: Train, runs: Path) -> Source:
    """The weights that `train.init = "stage:…"` asks for; `runs` holds the runs that go by name.

    Raises:
        WeightsError: no such run or arm, another backbone, or a fold that is not finished or not as it was written.
        DamagedError: the stage's records do not fit together.
    """
    run, arm = _locate(train.init.removeprefix("stage:"), runs)
    resolved = rundir.read_json(run.path("experiment.resolved.json"))
    recipe = resolved["decides"]["arms"][arm]["train"]
    if recipe["backbone"] != train.backbone:
        raise WeightsError(
            f"train.init = {train.init!r} holds weights of {recipe['backbone']!r}, train.backbone is "
            f"{train.backbone!r}: take the same backbone in both stages"
        )
    chosen, trial, images = _median_fold(run, arm, resolved["arm_hashes"][arm])
    budget = chosen.budgets[-1]
    name = f"weights-{budget}.safetensors"
    folds = read_folds(run.path("folds.parquet"))
    if folds.hash != resolved["folds_hash"]:
        raise DamagedError(f"folds.parquet in {run.root} is not that of the run: the stage cannot be vouched for")
    earlier, seen = _inherited(run, arm, resolved)
    mine = folds.frame[["patient_id", "content_hash"]].assign(run_hash=chosen.run_hash)[SEEN_COLUMNS]
    trained = folds.frame[~(folds.division == chosen.fold).any(axis=0)]
    stage = {
        "stage": len(earlier) + 1,
        "run": f"{run.name}/{arm}",
        "run_hash": chosen.run_hash,
        "weights_sha256": chosen.files[name],
        "data_hash": resolved["dataset"]["dataset_hash"],
        "classes": resolved["dataset"]["classes"],
        "images": images,
        "patients": int(trained["patient_id"].nunique()) if folds.grouped else None,
        "iterations": budget,
        "rule": f"{RULE}: fold {chosen.fold}",
        "init": recipe["init"],
        "init_sha256": recipe["weights_sha256"],
        "id_key": resolved.get("id_key", ""),
        "seen_hash": _digest(mine),
    }
    everything = pd.concat([seen, mine], ignore_index=True)
    return Source(run.trial(trial) / name, chosen.files[name], (*earlier, stage), everything)


def sources(experiment: Experiment, runs: Path) -> dict[str, Source]:
    """`choose` for each arm that starts from a stage."""
    staged = [recipe for recipe in experiment.recipes if recipe.train.init.startswith("stage:")]
    return {recipe.name: choose(recipe.train, runs) for recipe in staged}


def _locate(text: str, runs: Path) -> tuple[RunDir, str]:
    """The run and its arm; a run of one arm needs no arm named."""
    parent, _, last = text.rstrip("/").rpartition("/")
    for name, arm in ((text, ""), (parent, last)):
        for folder in (runs / name, storage.place(name) if "://" in name else expand(name)) if name else ():
            storage.pull(folder)
            if not (folder / "experiment.resolved.json").is_file():
                continue
            arms = list(rundir.read_json(folder / "experiment.resolved.json")["decides"]["arms"])
            if arm in arms or (not arm and len(arms) == 1):
                return RunDir(folder), arm or arms[0]
            wrong = f"has no arm {arm!r}" if arm else "has several arms"
            raise WeightsError(f"train.init = 'stage:{text}': run {folder.name!r} {wrong}. Add one of: {arms}")
    raise WeightsError(
        f"train.init = 'stage:{text}': no run there, nor in {runs}. Give a run's folder or name, RUN or RUN/ARM, "
        "and train that run first."
    )


def _median_fold(run: RunDir, arm: str, arm_hash: str) -> tuple[FoldResult, Trial, int]:
    planned = [trial for trial in run.planned() if trial.arm == arm]
    last = max(trial.budgets[-1] for trial in planned)
    found = []
    for trial in planned:
        if trial.budgets[-1] == last:
            result = run.result(trial, arm_hash)  # verified: its files have the sha256 that it names
            if result is None:
                raise WeightsError(
                    f"{trial.name} of the stage {run.name!r} is not finished, or its files are not as they were "
                    "written: finish that run first (the same `cxrtl run` mends it)"
                )
            found.append((result.milestones[-1].held_out_loss, trial.fold, result, trial))
    found.sort(key=lambda item: item[:2])
    _, _, result, trial = found[(len(found) - 1) // 2]
    return result, trial, result.train_images


def _inherited(run: RunDir, arm: str, resolved: dict[str, Any]) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """The stages that a stage itself came from, and what they saw: kept in its folder, whatever became of theirs.

    Raises:
        DamagedError: the lists of what was seen are missing or altered.
    """
    stages = resolved.get("lineage", {}).get(arm, [])
    if not stages:
        return [], pd.DataFrame(columns=SEEN_COLUMNS, dtype=str)
    try:
        kept = pd.read_parquet(run.path(SEEN))[SEEN_COLUMNS]
    except (OSError, ValueError, KeyError):
        raise DamagedError(f"{SEEN} in {run.root} is missing or no table: what its stages saw is unknown") from None
    kept = kept[kept["run_hash"].isin([stage["run_hash"] for stage in stages])]
    for stage in stages:
        if _digest(kept[kept["run_hash"] == stage["run_hash"]]) != stage["seen_hash"]:
            raise DamagedError(f"{SEEN} in {run.root} was altered: restore it, or train that stage again")
    return stages, kept


def _digest(seen: pd.DataFrame) -> str:
    return rundir.content_hash(sorted(zip(seen["patient_id"], seen["content_hash"], strict=True)))


def check(arm: str, source: Source, folds: Folds, id_key: str) -> list[dict[str, Any]]:
    """The lineage for `experiment.resolved.json`: the stages, each with whether its patients could be compared.

    Ids are keyed by each machine's secret; where a stage's key is another (`id_key`: a fingerprint), patients cannot be
    compared and pictures alone are.

    Raises:
        LeakageError: an image or a patient of the target was seen by a stage; named by hash.
    """
    out, faults = [], []
    for stage in source.stages:
        seen = source.seen[source.seen["run_hash"] == stage["run_hash"]]
        same_key = bool(id_key) and stage["id_key"] == id_key
        known = same_key and stage["patients"] is not None and folds.grouped
        columns = {"content_hash": "identical image", "patient_id": "patient"}
        for column, what in columns.items() if known else list(columns.items())[:1]:
            shared = sorted((set(folds.frame[column]) & set(seen[column])) - {""})
            if shared:
                faults.append(f"{len(shared)} {what}(s) of stage {stage['run']!r}, such as {shared[:_NAMED]}")
        out.append({**stage, "patients_compared": known})
    if faults:
        raise LeakageError(
            f"arm {arm!r} would be tested on what an earlier stage has seen: " + "; ".join(faults) + ". Take these out "
            "of one of the two sets and train that one again. (Different people whose numbers happen to be alike? Give "
            "one set a data.id_namespace of its own.)"
        )
    return out


def write_seen(run: RunDir, sources: dict[str, Source]) -> None:
    """Keep what the stages of all arms saw, so that it is known after their folders are gone."""
    if sources:
        together = pd.concat([source.seen for source in sources.values()]).drop_duplicates(ignore_index=True)
        rundir.write_frame(run.path(SEEN), together)
