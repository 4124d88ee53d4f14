"""One out-of-fold prediction for each image, or a refusal that says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from cxrtl.errors import PredictionsError
from cxrtl.predictions import Predictions


@dataclass(frozen=True)
class Missing:
    """What an arm lacks at a budget: `images` not predicted, in the folds `folds`."""

    arm: str
    iterations: int
    images: int
    folds: tuple[int, ...]


@dataclass(frozen=True)
class Pooled:
    """Predictions that hold each expected image at most once, and what they lack (nothing: a complete run)."""

    predictions: Predictions
    missing: tuple[Missing, ...]


def pool(
    predictions: Predictions, expected: pd.DataFrame, budgets: Mapping[str, Sequence[int]], partial: bool = False
) -> Pooled:
    """Check that every arm predicted every image once at each of its budgets, in the fold that held it out.

    `expected` has `image_id` and `fold`, one row for each image and fold that holds it out (one fold, or with repeated
    division one a repeat), and optionally `label`; `budgets` is arm → iterations. Missing images are let through with
    `partial`. A repeated image, an image of another set, one that was predicted in a fold that trained on it, or one
    with another label never is: no number could be trusted.

    Raises:
        PredictionsError: as above; rows are named by arm, budget and image id.
    """
    frame = predictions.frame
    repeated = expected["image_id"][expected.duplicated(["image_id", "fold"])]
    if len(repeated):
        raise PredictionsError(f"folds list {len(repeated)} image(s) twice, {_some(repeated)}: make the folds again")
    _refuse_unasked(frame, budgets)
    _refuse_repeated(frame)
    _refuse_misplaced(frame, expected)
    missing = _missing(frame, expected, budgets)
    if missing and not partial:
        lines = [f"  {gap.arm} at {gap.iterations}: {gap.images} image(s) of fold(s) {_list(gap)}" for gap in missing]
        shown = "\n".join(lines[:10] + ([f"  … and {len(lines) - 10} more"] if len(lines) > 10 else []))
        raise PredictionsError(
            f"out-of-fold predictions are incomplete:\n{shown}\nFinish the run, or ask for a partial report (--partial)"
        )
    return Pooled(predictions, missing)


def _refuse_unasked(frame: pd.DataFrame, budgets: Mapping[str, Sequence[int]]) -> None:
    for arm, iterations in frame[["arm", "iterations"]].drop_duplicates().itertuples(index=False):
        if iterations not in budgets.get(arm, ()):
            raise PredictionsError(f"predictions of arm {arm!r} at {iterations} iterations belong to no arm and budget")


def _refuse_repeated(frame: pd.DataFrame) -> None:
    repeated = frame[frame.duplicated(["arm", "iterations", "image_id", "fold"])]
    if len(repeated):
        first = repeated.iloc[0]
        raise PredictionsError(
            f"{len(repeated)} prediction(s) repeat, first in arm {first['arm']!r} at {first['iterations']}: images "
            f"{_some(repeated['image_id'])}. Two trials wrote the same fold: remove one of their folders"
        )


def _refuse_misplaced(frame: pd.DataFrame, expected: pd.DataFrame) -> None:
    foreign = ~frame["image_id"].isin(expected["image_id"])
    if foreign.any():
        raise PredictionsError(f"images {_some(frame['image_id'][foreign])} are predicted but no fold holds them out")
    labels = expected["label"] if "label" in expected else pd.Series("", index=expected.index)
    known = pd.Series(labels.to_numpy(), _pairs(expected)).reindex(_pairs(frame))
    wrong = known.isna().to_numpy()
    if wrong.any():
        raise PredictionsError(f"images {_some(frame['image_id'][wrong])} are predicted in a fold that trained on them")
    renamed = (known.to_numpy() != frame["label"].to_numpy()) & ("label" in expected)
    if renamed.any():
        raise PredictionsError(
            f"images {_some(frame['image_id'][renamed])} are predicted with another label than the folds'"
        )


def _pairs(frame: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(frame[["image_id", "fold"]])


def _missing(frame: pd.DataFrame, expected: pd.DataFrame, budgets: Mapping[str, Sequence[int]]) -> tuple[Missing, ...]:
    found = {key: _pairs(group) for key, group in frame.groupby(["arm", "iterations"])}
    wanted, none = _pairs(expected), _pairs(frame.head(0))
    gaps = []
    for arm, lengths in budgets.items():
        for iterations in lengths:
            absent = expected[~wanted.isin(found.get((arm, iterations), none))]
            if len(absent):
                folds = tuple(sorted({int(fold) for fold in absent["fold"]}))
                gaps.append(Missing(arm, iterations, len(absent), folds))
    return tuple(gaps)


def _some(ids: pd.Series[str]) -> str:
    shown = ", ".join(str(name) for name in ids[:5])
    return f"{shown}, …" if len(ids) > 5 else shown


def _list(gap: Missing) -> str:
    return ", ".join(str(fold) for fold in gap.folds)
