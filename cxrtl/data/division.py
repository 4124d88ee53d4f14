"""How images are divided, for each `folds.kind`: fold numbers from labels, groups and a seed, never from ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from cxrtl.config import Folds as FoldsConfig
from cxrtl.errors import FoldsError
from cxrtl.records import INDEX_COLUMNS, IntArray

_CURE = {
    "cv": "lower folds.k = {k} or try another folds.seed",
    "repeated": "lower folds.k = {k} or try another folds.seed",
    "holdout": "change folds.share = {share} or the column {column!r}",
    "leave_one_site_out": "leave out the sites of the column {column!r} that lack a class",
}


def divide(index: pd.DataFrame, strata: pd.Categorical, groups: IntArray, cfg: FoldsConfig, unit: str) -> IntArray:
    """`[repeats, N]`: the fold that holds each image of `index` out, -1 for none; numbered on from repeat to repeat.

    Images of one group (`[N]`, numbered from 0; a `unit` such as "patients") stay together, but for a given split or
    site, which may tear one apart: the audit finds it. `strata` (see `data.strata`) are divided alike.

    Raises:
        FoldsError: too few groups of a class, a fold or the images that train would lack a class, or no such column.
    """
    targets = np.asarray(strata.codes, dtype=np.int64)
    names = pd.Series(strata.categories)
    if cfg.kind in ("cv", "repeated"):
        _require_enough(targets, groups, names, cfg.k, f"folds.k = {cfg.k}: lower k or add {unit}", unit)
        repeats = cfg.repeats if cfg.kind == "repeated" else 1
        parts = [_folds(targets, groups, cfg.k, (cfg.seed + r) % 2**32) + r * cfg.k for r in range(repeats)]
        division = np.stack(parts)
    elif cfg.column:
        division = _given(given_parts(index, cfg), cfg)[None]
    else:
        _require_enough(targets, groups, names, 2, f"a holdout: add {unit}", unit)
        division = _drawn(targets, groups, cfg)[None]
    _require_classes(division, targets, names, cfg)
    return division


def given_parts(index: pd.DataFrame, cfg: FoldsConfig) -> list[str]:
    """What `cfg.column` says of each image; raises FoldsError where it is absent or blank."""
    if cfg.column not in index:
        kept = list(index.columns[len(INDEX_COLUMNS) :])
        raise FoldsError(
            f"folds.column = {cfg.column!r} is no column of the prepared set, which keeps {kept}: correct it, or name "
            "it in data.keep_columns"
        )
    values = ["" if value is None or value != value else str(value).strip() for value in index[cfg.column]]
    if blank := values.count(""):
        raise FoldsError(f"column {cfg.column!r} is blank for {blank} image(s): fill it in or leave the images out")
    return values


def _given(parts: Sequence[str], cfg: FoldsConfig) -> IntArray:
    names = sorted(set(parts))
    if cfg.kind == "leave_one_site_out":
        if len(names) < 2:
            raise FoldsError(f"column {cfg.column!r} holds one site only: leave_one_site_out needs two or more")
        return np.array([names.index(part) for part in parts], dtype=np.int64)
    if cfg.held_out not in names:
        shown = names if len(names) <= 10 else [*names[:10], "…"]
        raise FoldsError(f"folds.held_out = {cfg.held_out!r} is no value of the column {cfg.column!r}: it has {shown}")
    return np.array([0 if part == cfg.held_out else -1 for part in parts], dtype=np.int64)


def _folds(targets: IntArray, groups: IntArray, k: int, seed: int) -> IntArray:
    alone = len(np.unique(groups)) == len(groups)
    splitter = (StratifiedKFold if alone else StratifiedGroupKFold)(k, shuffle=True, random_state=seed)
    fold = np.full(len(targets), -1, dtype=np.int64)
    for number, (_, test) in enumerate(splitter.split(targets, targets, None if alone else groups)):
        fold[test] = number
    return fold


def _drawn(targets: IntArray, groups: IntArray, cfg: FoldsConfig) -> IntArray:
    """`cfg.share` of the groups of each class, one at least; a group counts to the class most of its images have."""
    counts = pd.crosstab(groups, targets).to_numpy()
    classes = counts.argmax(axis=1)
    rng = np.random.default_rng(cfg.seed)
    taken = np.zeros(len(counts), dtype=bool)
    for kind in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == kind))
        taken[members[: min(max(1, round(cfg.share * len(members))), len(members) - 1)]] = True
    return np.where(taken[groups], 0, -1)


def _require_enough(
    targets: IntArray, groups: IntArray, names: pd.Series[str], wanted: int, purpose: str, unit: str
) -> None:
    for target, name in names.items():
        count = len(np.unique(groups[targets == target]))
        if count < wanted:
            raise FoldsError(f"class {name!r} has {count} {unit}, too few for {purpose}")


def _require_classes(division: IntArray, targets: IntArray, names: pd.Series[str], cfg: FoldsConfig) -> None:
    """Each class in each fold, and among the images that train for it."""
    for target, name in names.items():
        of_class = targets == target
        for row in division:
            folds = range(row[row >= 0].min(), row.max() + 1)
            lacking = [fold for fold in folds if not (of_class & (row == fold)).any()]
            hoarding = [fold for fold in folds if not (of_class & (row != fold)).any()]
            for listed, fault in ((lacking, "would hold no image"), (hoarding, "would leave no image to train on")):
                if listed:
                    cure = _CURE[cfg.kind].format(**cfg.model_dump())
                    raise FoldsError(f"fold(s) {listed} {fault} of class {name!r}: {cure}")
