"""Our arms against each other and against published values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxrtl.config import Published
from cxrtl.evaluate.compare import compare_accuracy, compare_auc, compare_ratios, holm, nadeau_bengio
from cxrtl.evaluate.estimates import patient_codes
from cxrtl.evaluate.metrics import BoolArray, IntArray, fold_aucs
from cxrtl.predictions import FloatArray, Predictions
from cxrtl.report.load import Loaded
from cxrtl.report.measures import value
from cxrtl.report.shape import DifferenceRow, PublishedRow, Row, Test, Value, Verdict

COMPARED = ("accuracy", "sensitivity", "specificity", "auc")


def published_rows(published: Sequence[Published], rows: Sequence[Row]) -> list[PublishedRow]:
    """Published values, and where each lies against the interval of every arm of the same length."""
    found = []
    for item in published:
        values = {name: getattr(item, name) for name in COMPARED}
        against = [
            Verdict(arm=row["arm"], metrics={name: place(values[name], row["metrics"][name]) for name in COMPARED})
            for row in rows
            if row["iterations"] == item.iterations
        ]
        found.append(
            PublishedRow(
                study=item.study, iterations=item.iterations, metrics=values, seconds=item.seconds, against=against
            )
        )
    return found


def place(published: float | None, ours: Value) -> str | None:
    """`inside`, `above` or `below` our interval; a bound counts as inside. None where either is absent."""
    low, high = ours["low"], ours["high"]
    if published is None or low is None or high is None:
        return None
    if published < low:
        return "below"
    return "above" if published > high else "inside"


@dataclass(frozen=True)
class Pair:
    """Two score vectors on common images in one order: all `[N]`; `ids` as `Predictions.owners`."""

    ids: list[str]
    fold: IntArray
    truth: BoolArray
    first: FloatArray
    second: FloatArray


def pair(first: Predictions, second: Predictions) -> Pair:
    """The images that both hold, in each fold that held them out, sorted by id."""
    one, two = (
        part.frame[["image_id", "fold"]]
        .assign(owner=part.owners, truth=part.truth, score=part.score)
        .set_index(["image_id", "fold"])
        for part in (first, second)
    )
    both = one.join(two["score"].rename("other"), how="inner").sort_index()
    numbers = (both[name].to_numpy(dtype=np.float64) for name in ("score", "other"))
    fold = both.index.get_level_values("fold").to_numpy(np.int64)
    return Pair(both["owner"].tolist(), fold, both["truth"].to_numpy(bool), *numbers)


def differences(loaded: Loaded) -> list[DifferenceRow]:
    """Every further arm against the first, at the longest budget both have."""
    if not loaded.recipes:
        return []
    first, select = loaded.recipes[0], loaded.predictions.select
    rows = []
    for other in loaded.recipes[1:]:
        common = sorted(set(first.train.budgets) & set(other.train.budgets), reverse=True)
        pairs = ((length, pair(select(first.name, length), select(other.name, length))) for length in common)
        found = next(((length, both) for length, both in pairs if both.ids), None)
        if found is not None:
            rows.append(difference(first.name, other.name, *found, loaded.test_to_train))
    return adjusted(rows)


def adjusted(rows: list[DifferenceRow]) -> list[DifferenceRow]:
    """The same rows with `p_holm` filled in: over all rows, for each test on its own."""
    for name in {name for row in rows for name in row["tests"]}:
        tests = [row["tests"][name] for row in rows if name in row["tests"]]
        for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
            test["p_holm"] = p
    return rows


def difference(first: str, second: str, iterations: int, both: Pair, test_to_train: float) -> DifferenceRow:
    """`second` minus `first` on the images of `both`; `test_to_train` as `nadeau_bengio` takes it."""
    patients = patient_codes(both.ids)
    arms = both.truth, both.first, both.second
    share = compare_accuracy(*arms, patients)
    tested = {
        "auc": compare_auc(*arms, patients),
        "accuracy": share,
        "fold_auc": nadeau_bengio(_fold_gains(both), test_to_train),
    }
    metrics = {name: value(item.value, item.interval) for name, item in compare_ratios(*arms, patients).items()}
    metrics |= {name: value(item.value, item.interval) for name, item in tested.items() if item and name != "accuracy"}
    return DifferenceRow(
        first=first,
        second=second,
        iterations=iterations,
        images=len(both.ids),
        metrics=metrics,
        tests={name: Test(method=item.method, p=item.p, p_holm=None) for name, item in tested.items() if item},
    )


def _fold_gains(both: Pair) -> list[float]:
    """The difference in AUC within each fold that holds both classes."""
    areas = [fold_aucs(both.truth, score, both.fold) for score in (both.first, both.second)]
    pairs = ((areas[0][k], areas[1][k]) for k in areas[0])
    return [two - one for one, two in pairs if one is not None and two is not None]
