"""The types of `summary.json`: plain JSON, no NaN. Shares and areas lie in 0 … 1, times are in seconds."""

from __future__ import annotations

from typing import Any, TypedDict

from cxrtl.records import Task
from cxrtl.report.shape_rows import Calibration as Calibration
from cxrtl.report.shape_rows import CalibrationBin as CalibrationBin
from cxrtl.report.shape_rows import Counts as Counts
from cxrtl.report.shape_rows import DifferenceRow as DifferenceRow
from cxrtl.report.shape_rows import FoldAuc as FoldAuc
from cxrtl.report.shape_rows import FoldRow as FoldRow
from cxrtl.report.shape_rows import Operating as Operating
from cxrtl.report.shape_rows import Part as Part
from cxrtl.report.shape_rows import PublishedRow as PublishedRow
from cxrtl.report.shape_rows import Reader as Reader
from cxrtl.report.shape_rows import Row as Row
from cxrtl.report.shape_rows import Subgroup as Subgroup
from cxrtl.report.shape_rows import Test as Test
from cxrtl.report.shape_rows import Times as Times
from cxrtl.report.shape_rows import Value as Value
from cxrtl.report.shape_rows import Verdict as Verdict

VERSION = 4


class Levelled(TypedDict):
    """What states the level of its intervals."""

    level: float


# Expected widths of the headline's intervals, by measure, from `size` patients (or images, where patients are unknown)
Width = dict[str, float | None]


class Gap(TypedDict):
    """What is not done yet."""

    arm: str
    iterations: int
    images: int
    folds: list[int]


class Stamp(TypedDict):
    """A warning that belongs above everything else."""

    kind: str
    text: str


class Division(TypedDict):
    """How images were held out: `kind` as in the experiment, `folds` a repeat, and `tested` of `images` images."""

    kind: str
    repeats: int
    folds: int
    images: int
    tested: int


class Stage(TypedDict):
    """One training on the way to an arm, the first of them `place` 0; None and "" where it was not recorded.

    `init` and `init_sha256` are what it started from itself, `weights_sha256` what it handed on, by `rule`.
    """

    arm: str
    place: int
    stage: str
    run: str
    run_hash: str
    weights_sha256: str
    data_hash: str
    classes: list[str]
    images: int | None
    patients: int | None
    iterations: int | None
    rule: str
    init: str
    init_sha256: str


class Dataset(TypedDict):
    images: int
    patients: int | None
    most_images_of_a_patient: int | None
    classes: list[str]
    counts: dict[str, int]
    skipped: dict[str, int]
    flow: list[dict[str, Any]]  # of `records.FlowStep`; none in earlier versions
    grouped: bool
    image_size: int | None
    dataset_hash: str
    folds_hash: str
    folds: int


class Leakage(TypedDict):
    """The certificate, and what this report found itself in `folds.parquet`."""

    present: bool
    passed: bool
    grouped: bool
    checks: list[dict[str, Any]]
    notes: list[str]
    patients_in_two_folds: int
    identical_images_in_two_folds: int


class RunTime(TypedDict):
    """Seconds; `wall`, `prepare` and `launch` are None where no session was recorded."""

    sessions: int
    first_started: str | None
    wall: float | None
    prepare: float | None
    launch: float | None
    train: float


class Setting(TypedDict):
    """One knob of the recipe: `values` per arm, in the arms' order."""

    knob: str
    values: list[str]
    differs: bool


class Alike(TypedDict):
    """Two images of different folds that look alike; they differ in `bits` bits of their perceptual hash."""

    images: list[str]
    labels: list[str]
    folds: list[int]
    bits: int
    mirrored: bool


class ShortcutRow(TypedDict):
    """How well `features` alone tell `target`, over the run's own folds."""

    features: str
    target: str
    images: int
    auc: Value
    reading: str


class Examined(TypedDict):
    """Pairs that look alike across folds, the images in them, and attempts to guess the label without the organ.

    `whole`: no pair can have been missed for there being very many."""

    pairs: int
    whole: bool
    images: int
    mirrored: int
    other_label: int
    nearest: list[Alike]
    shortcuts: list[ShortcutRow]


class Summary(TypedDict):
    """Everything the page says. `positive` and `negative` are "" in tasks beyond binary."""

    version: int
    name: str
    task: Task
    lead: str
    columns: list[str]
    description: str
    run_hash: str
    command: str
    threshold: float
    level: float
    prevalence: float | None
    folds: int
    trials_done: int
    trials_wanted: int
    arms: list[str]
    positive: str
    negative: str
    stamps: list[Stamp]
    missing: list[Gap]
    headline: int
    rows: list[Row]
    published: list[PublishedRow]
    differences: list[DifferenceRow]
    readers: list[Reader]
    sample_size: list[Width]
    fold_rows: list[FoldRow]
    subgroups: list[Subgroup]
    smallest_group: int
    division: Division
    data: Dataset
    leakage: Leakage
    examined: Examined | None
    time: RunTime
    settings: list[Setting]
    weights: list[dict[str, str]]
    lineage: list[Stage]
    environment: dict[str, str]
    device: str
    precision: str
    threads: int | None
