"""The types that flow between stages. Read this second, after `config`.

    Manifest      what the images are                        (data.manifest → data.prepare)
    Prepared      decoded pixels in Parquet shards           (data.prepare → data.feed)
    Folds         which image is held out when               (data.folds → orchestrate)
    Plan          what will train where                      (orchestrate.plan → orchestrate.sweep)

Trials, and what each did, are in `trials`.

`predictions.Predictions`, out-of-fold scores, is the hinge between training and all that judges it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrtl.errors import ManifestError
from cxrtl.trials import FoldResult as FoldResult
from cxrtl.trials import Milestone as Milestone
from cxrtl.trials import Progress as Progress
from cxrtl.trials import Trial as Trial

IntArray = npt.NDArray[np.int64]
Task = Literal["binary", "multiclass", "multilabel", "segmentation"]
MANIFEST_COLUMNS = ("image_id", "patient_id", "study_id", "label", "path")
INDEX_COLUMNS = ("row", "image_id", "patient_id", "study_id", "label", "target", "content_hash")
SIZE_COLUMNS = ("original_width", "original_height")  # of a picture before it was fitted into the square, pixels
READER = "reader_"  # what columns of the source with readers' words on its images start with
FOLD_COLUMNS = ("image_id", "patient_id", "label", "content_hash", "fold")


@dataclass(frozen=True)
class FlowStep:
    """One exclusion on the way from all images of a source to those used: images removed, and left after it, and
    the patients left; None where they are unknown, or were not counted yet."""

    step: str
    removed: int
    left: int
    patients: int | None = None

    @classmethod
    def of(cls, step: str, removed: int, owners: Sequence[str]) -> FlowStep:
        """`owners`: the patient of each image left, "" where unknown."""
        known = set(owners)
        return cls(step, removed, len(owners), None if "" in known else len(known))


def exclusions(flow: Iterable[FlowStep]) -> list[tuple[str, int, int | None]]:
    """The steps that left something out: which, images, and patients of whom no image is left; None where unknown."""
    found: list[tuple[str, int, int | None]] = []
    before: int | None = None
    for step in flow:
        gone = None if before is None or step.patients is None else before - step.patients
        found.append((step.step, step.removed, gone))
        before = step.patients
    return [each for each in found if each[1]]


@dataclass(frozen=True)
class Manifest:
    """Images to prepare, one row each, in the source's own order.

    `frame` has the columns `image_id` and `patient_id` (keyed hashes; `patient_id` is "" where unknown), `study_id`
    (likewise), `label` (class name), `path` (in the clear: of what is written, it is in `data.private` alone) and any
    further columns of the source. `classes` is `(negative, positive)` of a binary task, the classes of a multiclass
    one, the findings of a multilabel one: there `label` is "", and the columns `label_<finding>` hold 1, 0, or NaN
    where it is not stated. Of a segmentation they are the structures; `label` is the image's class where it is known,
    else "".
    `path` may name several files, see `data.images.rules`. `flow` counts what the source left out, step by step; the
    last step leaves `len(frame)`.
    """

    frame: pd.DataFrame
    classes: tuple[str, ...]
    flow: tuple[FlowStep, ...] = ()
    task: Task = "binary"

    def __post_init__(self) -> None:
        of_task = label_columns(self.classes) if self.task == "multilabel" else []
        missing = [name for name in (*MANIFEST_COLUMNS, *of_task) if name not in self.frame]
        if missing:
            raise ManifestError(f"manifest lacks the columns {missing}")
        repeated = self.frame["image_id"][self.frame["image_id"].duplicated()].unique()
        if len(repeated):
            raise ManifestError(
                f"{len(repeated)} image(s) are listed more than once, {list(repeated[:5])}: keep one row each"
            )
        allowed = set(self.classes) if self.task in ("binary", "multiclass") else {""}
        unknown = sorted(set(self.frame["label"]) - allowed) if self.task != "segmentation" else []
        if unknown:
            raise ManifestError(f"labels {unknown[:5]} are not among the classes {list(self.classes)}")


def label_columns(findings: Iterable[str]) -> list[str]:
    """Where a multilabel task keeps its labels."""
    return [f"label_{finding}" for finding in findings]


@dataclass(frozen=True)
class Prepared:
    """A folder of Parquet shards with decoded pixels, as `dataset.json` in it describes.

    Each shard row holds `INDEX_COLUMNS`, the source's further columns, and `pixels`: uint8, fixed-size binary of
    `channels` × `image_size`² bytes, row-major; a segmentation's also `mask`, as many bytes as a channel: 0, or the
    structure's number from 1. `content_hash` is the sha256 of an image's decoded grey pixels at full size.
    `dataset_hash` covers pixels, labels, patient grouping and order, but no identifier: the same images give the
    same hash on every machine. `flow` goes from all images of the source to the `images` here: the manifest's steps,
    then one for each reason why files could not be used. `classes` is as in `Manifest`; `target` is the label's place
    among them, -1 in the tasks that have no one class.
    """

    folder: Path
    classes: tuple[str, ...]
    image_size: int
    images: int
    grouped: bool
    dataset_hash: str
    skipped: dict[str, int] = field(default_factory=dict)  # reason code → files
    counts: dict[str, int] = field(default_factory=dict)  # class, or finding or structure that is present → images
    flow: tuple[FlowStep, ...] = ()
    task: Task = "binary"
    channels: int = 1


@dataclass(frozen=True)
class Folds:
    """Which fold holds out which image: `FOLD_COLUMNS`, one row an image, in the order of the prepared set.

    `fold` is -1 where an image is never held out and only trains. Repeated cross-validation has a further column for
    each repeat, `fold_1`, `fold_2`, …, whose numbers go on where the column before stopped: a number names one fold of
    the run. Further columns: `part`, what `folds.column` says; `study_id`, where studies, as far as known, were kept
    together for want of patients; `label_<finding>` in a multilabel task.
    """

    frame: pd.DataFrame
    dataset_hash: str
    grouped: bool
    hash: str

    @property
    def k(self) -> int:
        """Folds of the run, over all repeats."""
        return count_folds(self.frame)

    @property
    def division(self) -> IntArray:
        """`[repeats, N]`: each image's fold."""
        return self.frame[division_columns(self.frame)].to_numpy(dtype=np.int64).T


def stated_columns(folds: pd.DataFrame) -> list[str]:
    """Where the folds of a multilabel task keep its labels; none in any other."""
    return [name for name in map(str, folds) if name.startswith("label_")]


def division_columns(folds: pd.DataFrame) -> list[str]:
    """`fold`, and those of further repeats, in order."""
    return ["fold", *(name for name in map(str, folds) if name.startswith("fold_"))]


def count_folds(folds: pd.DataFrame) -> int:
    return int(folds[division_columns(folds)].to_numpy().max()) + 1


def held_out(folds: pd.DataFrame) -> pd.DataFrame:
    """One row for each image and repeat that holds it out: `image_id`, `label`, `fold`, `repeat`."""
    columns = division_columns(folds)
    parts = [
        folds[["image_id", "label"]].assign(fold=folds[name], repeat=repeat) for repeat, name in enumerate(columns)
    ]
    found = pd.concat(parts, ignore_index=True)
    return found[found["fold"] >= 0].reset_index(drop=True)


@dataclass(frozen=True)
class ArmEstimate:
    """What the timed steps say of one arm: seconds a step, weights in bytes, seconds of training a fold and of all
    `trials` to do, one after another; `cost` is the arm's part of the plan's."""

    arm: str
    step_seconds: float
    weight_bytes: int
    fold_seconds: float
    trials: int
    seconds: float
    cost: float | None


@dataclass(frozen=True)
class NodePlan:
    """A node, its memory in bytes, and the processes that it will hold; where not every slot of the cluster is needed,
    Ray may choose other nodes."""

    name: str
    cpus: float
    gpus: float
    memory: float
    processes: int


@dataclass(frozen=True)
class Plan:
    """What will run where. `concurrent` folds train at once, in `waves`, `folds_per_process` of them in each
    process, or one among `workers_per_fold`, each of which takes `cpus_per_fold` and `gpus_per_fold`; times in seconds,
    sizes in bytes. As measured, a process takes `process_bytes` of its node's memory beside images, a fold
    `gpu_bytes_per_fold` of its GPU's `gpu_bytes`. `streams`: images stay on disk. `estimated_seconds` is when the last
    fold ends; `cost` that of the nodes that hold processes, in `currency`, None where no price is known.
    """

    trials: tuple[Trial, ...]
    done: tuple[str, ...]  # names of the trials that the ledger holds
    concurrent: int
    waves: int
    cpus_per_fold: int
    gpus_per_fold: float
    folds_per_process: int
    workers_per_fold: int
    nodes: tuple[NodePlan, ...]
    cluster_cpus: float
    cluster_gpus: float
    process_bytes: int
    gpu_bytes_per_fold: int
    gpu_bytes: int
    streams: bool
    device: str
    precision: str
    estimates: tuple[ArmEstimate, ...]
    estimated_seconds: float
    cost: float | None
    currency: str
    disk_needed: int
    disk_free: int

    @property
    def todo(self) -> tuple[Trial, ...]:
        done = frozenset(self.done)
        return tuple(trial for trial in self.trials if trial.name not in done)

    @property
    def processes(self) -> int:
        """At once; or groups of workers."""
        return -(-self.concurrent // self.folds_per_process)

    @property
    def cpus_free(self) -> float:
        """CPUs that no fold holds: for reading, drawing and saving, and for Ray itself."""
        return self.cluster_cpus - self.processes * self.workers_per_fold * self.cpus_per_fold
