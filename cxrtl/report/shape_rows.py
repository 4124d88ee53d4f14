"""What `summary.json` says of an arm, and of two: plain JSON, no NaN. Shares and areas lie in 0 … 1, times are in
seconds, distances in pixels."""

from __future__ import annotations

from typing import NotRequired, TypedDict


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
    """The AUC, or the task's leading measure, within folds: mean, standard deviation (n − 1), `folds` that have one,
    and those `undefined`.

    `gap` is pooled minus mean; `differs` where an AUC's is larger than 0.01.
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
    """Reliability diagram, and by name `ece` and brier = reliability − resolution + uncertainty + within."""

    bins: list[CalibrationBin]
    measures: dict[str, Value]


class Operating(TypedDict):
    """Calls at thresholds that each fold's other folds chose by `rule`; `thresholds` in fold order.

    `metrics` are those of `Row` without the AUC, and `ppv_at` and `npv_at` where a prevalence was stated; empty where
    a fold has no threshold.
    """

    rule: str
    target: float | None
    thresholds: list[float | None]
    metrics: dict[str, Value]


class Part(TypedDict):
    """One class, finding or structure; `images` where it is stated, of which `positives` have it."""

    name: str
    images: int
    positives: int
    metrics: dict[str, Value]


class Row(TypedDict):
    """An arm at a budget, pooled over its folds.

    `pareto`: no other row is at least as accurate in less time. A binary task has no `parts`, and all of what may be
    absent but `table` and `fold_lead`; `chance_p` tests the AUC against chance, one-sided. The other tasks have
    `fold_lead`, the leading measure within folds; multiclass also `table`, images by class and call, truth first.
    """

    arm: str
    iterations: int
    images: int
    patients: int | None
    folds: int
    complete: bool
    metrics: dict[str, Value]
    parts: list[Part]
    pareto: bool
    time: Times
    positives: NotRequired[int]
    confusion: NotRequired[Counts]
    average_precision: NotRequired[Value]
    chance_p: NotRequired[float | None]
    calibration: NotRequired[Calibration]
    operating: NotRequired[list[Operating]]
    fold_auc: NotRequired[FoldAuc]
    fold_lead: NotRequired[FoldAuc]
    table: NotRequired[list[list[int]]]


class FoldRow(TypedDict):
    """An arm at a budget in one fold; the tasks beyond binary have their measures in `metrics`."""

    arm: str
    iterations: int
    fold: int
    images: int
    train_seconds: float
    positives: NotRequired[int]
    confusion: NotRequired[Counts]
    accuracy: NotRequired[float | None]
    sensitivity: NotRequired[float | None]
    specificity: NotRequired[float | None]
    auc: NotRequired[float | None]
    metrics: NotRequired[dict[str, float | None]]


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

    `metrics` has every metric of `Row` and `fold_…`, the mean of the folds' differences in the leading one; `tests`
    has those of `vocabulary.TESTED`. What the data leave undefined is absent. `part` is the finding or structure that
    the row is of, "" for the whole.
    """

    first: str
    second: str
    part: str
    iterations: int
    images: int
    metrics: dict[str, Value]
    tests: dict[str, Test]


class Subgroup(TypedDict):
    """The headline's metrics in one group of a further column; where `hidden` (too few patients), nothing but that.

    `positives` is None in tasks beyond binary.
    """

    column: str
    group: str
    hidden: bool
    images: int | None
    patients: int | None
    positives: int | None
    metrics: dict[str, Value]


class Reader(TypedDict):
    """What a reader said of the images he read (`reader_…` columns), and each arm against him.

    `kind`: labels, scores, or "" where the column holds neither (then `images` is 0). `differences` are arm minus
    reader, at the arm's longest budget.
    """

    name: str
    kind: str
    images: int
    metrics: dict[str, Value]
    differences: list[DifferenceRow]
