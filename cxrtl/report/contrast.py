"""Our arms against each other and against published values."""

from __future__ import annotations

from collections.abc import Sequence

from cxrtl.config import Published
from cxrtl.evaluate import paired
from cxrtl.evaluate.compare import holm
from cxrtl.evaluate.judge import part_of
from cxrtl.evaluate.paired import common, tests
from cxrtl.predictions import Predictions
from cxrtl.report.load import Loaded
from cxrtl.report.measures import value
from cxrtl.report.shape import DifferenceRow, PublishedRow, Row, Test, Value, Verdict
from cxrtl.report.vocabulary import PUBLISHED

Both = tuple[Predictions, Predictions]


def published_rows(published: Sequence[Published], rows: Sequence[Row]) -> list[PublishedRow]:
    """Published values, and where each lies against the interval of every arm of the same length."""
    found = []
    names = [name for name in PUBLISHED if rows and name in rows[0]["metrics"]]
    for item in published:
        values = {name: getattr(item, name) for name in names}
        against = [
            Verdict(arm=row["arm"], metrics={name: place(values[name], row["metrics"][name]) for name in names})
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


def differences(loaded: Loaded) -> list[DifferenceRow]:
    """Every further arm against the first, at the longest budget both have; of several findings or structures also
    each on its own."""
    if not loaded.recipes:
        return []
    first, select = loaded.recipes[0], loaded.predictions.select
    rows = []
    for other in loaded.recipes[1:]:
        shared = sorted(set(first.train.budgets) & set(other.train.budgets), reverse=True)
        pairs = ((length, common(select(first.name, length), select(other.name, length))) for length in shared)
        found = next(((length, both) for length, both in pairs if len(both[0].frame)), None)
        if found is not None:
            rows += with_parts(loaded, first.name, other.name, *found)
    return adjusted(rows)


def with_parts(loaded: Loaded, first: str, second: str, iterations: int, both: Both) -> list[DifferenceRow]:
    """The difference in the whole, then in each finding or structure where there are several."""
    rows = [difference(loaded, first, second, iterations, both)]
    one, two = both
    if one.task == "multilabel" or (one.task == "segmentation" and len(one.classes) > 1):
        for name in one.classes:
            part = part_of(one, name), part_of(two, name)
            if len(part[0].frame):
                rows.append(difference(loaded, first, second, iterations, part) | {"part": name})
    return rows


def adjusted(rows: list[DifferenceRow]) -> list[DifferenceRow]:
    """The same rows with `p_holm` filled in: over all rows, for each test on its own."""
    for name in {name for row in rows for name in row["tests"]}:
        tests = [row["tests"][name] for row in rows if name in row["tests"]]
        for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
            test["p_holm"] = p
    return rows


def difference(loaded: Loaded, first: str, second: str, iterations: int, both: Both) -> DifferenceRow:
    """`second` minus `first` on the images of `both`, as `common` gives them; `loaded` is the run of the folds."""
    tops = loaded.experiment.report.top_k
    tested = tests(*both, loaded.test_to_train, tops)
    found = paired.differences(*both, tops)
    found |= {name: item for name, item in tested.items() if name not in found}
    return DifferenceRow(
        first=first,
        second=second,
        part="",
        iterations=iterations,
        images=both[0].frame["image_id"].nunique(),
        metrics={name: value(item.value, item.interval) for name, item in found.items()},
        tests={name: Test(method=item.method, p=item.p, p_holm=None) for name, item in tested.items()},
    )
