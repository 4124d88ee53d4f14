"""The types of `summary.json`: plain JSON, no NaN. Shares and areas lie in 0 … 1, times are in seconds."""

from __future__ import annotations

from typing import Any, TypedDict

VERSION = 2


class Levelled(TypedDict):
    """What states the level of its intervals."""

    level: float


class Value(TypedDict):
    """An estimate. All None where the data leave it undefined; `method` names the interval's."""

    value: float | None
    low: float | None
    high: float | None
    method: str | None


class Counts(TypedDict):
    tp: int
    fp: int
    fn: int
    tn: int


class FoldAuc(TypedDict):
    """The AUC within folds: mean, standard deviation (n − 1), `folds` that have one, and those `undefined`.

    `gap` is pooled minus mean; `differs` where it is larger than 0.01.
    """

    mean: float | None
    sd: float | None
    folds: int
    undefined: list[int]
    gap: float | None
    differs: bool


class Times(TypedDict):
    """Training only, summed over folds and the mean of a fold; `wall` spans the trials from start to end.

    `wall` is None at a budget that is a point on the way to a longer one.
    """

    train_total: float
    train_fold: float
    train_fold_min: float
    train_fold_max: float
    wall_total: float | None


class CalibrationBin(TypedDict):
    """Images scored in [`low`, `high`): their mean score and the `share` that is positive."""

    low: float
    high: float
    images: int
    score: float
    share: Value


class Calibration(TypedDict):
    """Reliability diagram, expected calibration error, and brier = reliability − resolution + uncertainty + within."""

    bins: list[CalibrationBin]
    ece: float
    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


class Operating(TypedDict):
    """Calls at thresholds that each fold's other folds chose by `rule`; `thresholds` in fold order.

    `metrics` are those of `Row` without the AUC, and `ppv_at` and `npv_at` where a prevalence was stated; empty where
    a fold has no threshold.
    """

    rule: str
    target: float | None
    thresholds: list[float | None]
    metrics: dict[str, Value]


class Row(TypedDict):
    """An arm at a budget, pooled over its folds.

    `chance_p` tests the AUC against chance, one-sided. `pareto`: no other row is at least as accurate in less time.
    """

    arm: str
    iterations: int
    images: int
    positives: int
    patients: int | None
    folds: int
    complete: bool
    confusion: Counts
    metrics: dict[str, Value]
    average_precision: Value
    chance_p: float | None
    pareto: bool
    calibration: Calibration
    operating: list[Operating]
    fold_auc: FoldAuc
    time: Times


class FoldRow(TypedDict):
    """An arm at a budget in one fold."""

    arm: str
    iterations: int
    fold: int
    images: int
    positives: int
    confusion: Counts
    accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    auc: float | None
    train_seconds: float


class Verdict(TypedDict):
    """Where a published value lies against our interval: inside, above or below; None where either is absent."""

    arm: str
    metrics: dict[str, str | None]


class PublishedRow(TypedDict):
    """A published row; `against` holds our arms at the same number of iterations."""

    study: str
    iterations: int
    metrics: dict[str, float | None]
    seconds: float | None
    against: list[Verdict]


class Test(TypedDict):
    """A two-sided p value, as it is and after Holm's adjustment over all comparisons of the page."""

    method: str
    p: float | None
    p_holm: float | None


class DifferenceRow(TypedDict):
    """Second minus first, on their common images, at the longest budget both have.

    `metrics` has every metric of `Row` and `fold_auc`, the mean of the folds' differences; `tests` has `auc`,
    `accuracy` and `fold_auc`. What the data leave undefined is absent.
    """

    first: str
    second: str
    iterations: int
    images: int
    metrics: dict[str, Value]
    tests: dict[str, Test]


class Width(TypedDict):
    """Expected width of the headline's intervals from `size` patients (or images, where patients are unknown)."""

    size: int
    auc: float | None
    accuracy: float | None


class Subgroup(TypedDict):
    """The headline's metrics in one group of a further column; where `hidden` (too few patients), nothing but that."""

    column: str
    group: str
    hidden: bool
    images: int | None
    patients: int | None
    positives: int | None
    metrics: dict[str, Value]


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


class Dataset(TypedDict):
    images: int
    patients: int | None
    most_images_of_a_patient: int | None
    classes: list[str]
    counts: dict[str, int]
    skipped: dict[str, int]
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


class Summary(TypedDict):
    """Everything the page says."""

    version: int
    name: str
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
    sample_size: list[Width]
    fold_rows: list[FoldRow]
    subgroups: list[Subgroup]
    smallest_group: int
    data: Dataset
    leakage: Leakage
    time: RunTime
    settings: list[Setting]
    weights: list[dict[str, str]]
    environment: dict[str, str]
    device: str
    precision: str
    threads: int | None
