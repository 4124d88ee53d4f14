"""Our arms against each other and against published values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxrtl.config import Published
from cxrtl.evaluate.compare import compare_accuracy, compare_auc, holm
from cxrtl.evaluate.estimates import patient_codes
from cxrtl.records import FloatArray, Predictions
from cxrtl.report.load import Loaded
from cxrtl.report.shape import DifferenceRow, PublishedRow, Row, Value, Verdict

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


def differences(loaded: Loaded) -> list[DifferenceRow]:
    """Every further arm against the first, at the longest budget both have; Holm's adjustment spans all of them."""
    if not loaded.recipes:
        return []
    first = loaded.recipes[0]
    rows = []
    for other in loaded.recipes[1:]:
        common = sorted(set(first.train.budgets) & set(other.train.budgets), reverse=True)
        pairs = ((length, _pair(loaded.predictions, first.name, other.name, length)) for length in common)
        found = next(((length, pair) for length, pair in pairs if len(pair[0])), None)
        if found is not None:
            rows.append(_difference(first.name, other.name, found[0], *found[1]))
    areas = holm([row["auc_p"] for row in rows])
    shares = holm([row["accuracy_p"] for row in rows])
    for row, area, share in zip(rows, areas, shares, strict=True):
        row["auc_p_holm"], row["accuracy_p_holm"] = area, share
    return rows


Pair = tuple[list[str], FloatArray, FloatArray, FloatArray]


def _pair(predictions: Predictions, first: str, second: str, iterations: int) -> Pair:
    """Patient ids, truth and the two arms' scores on their common images."""
    parts = [predictions.select(arm, iterations) for arm in (first, second)]
    tables = [
        part.frame[["image_id", "patient_id"]].assign(truth=part.truth, score=part.score).set_index("image_id")
        for part in parts
    ]
    both = tables[0].join(tables[1]["score"].rename("score_second"), how="inner").sort_index()
    return (
        both["patient_id"].tolist(),
        both["truth"].to_numpy(dtype=np.float64),
        both["score"].to_numpy(dtype=np.float64),
        both["score_second"].to_numpy(dtype=np.float64),
    )


def _difference(
    first: str, second: str, iterations: int, ids: list[str], truth: FloatArray, one: FloatArray, two: FloatArray
) -> DifferenceRow:
    positive, patients = truth > 0, patient_codes(ids)
    area = compare_auc(positive, one, two, patients)
    share = compare_accuracy(positive, one, two, patients)
    interval = area.interval if area else None
    return DifferenceRow(
        first=first,
        second=second,
        iterations=iterations,
        images=len(ids),
        auc=Value(
            value=area.value if area else None,
            low=interval.low if interval else None,
            high=interval.high if interval else None,
            method=area.method if area else None,
        ),
        auc_p=area.p if area else None,
        auc_p_holm=None,
        accuracy=share.value,
        accuracy_p=share.p,
        accuracy_p_holm=None,
        accuracy_method=share.method,
    )
