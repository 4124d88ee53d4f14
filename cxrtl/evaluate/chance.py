"""Whether an AUC could be had by chance: labels exchanged at random, again and again."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from cxrtl.evaluate.metrics import BoolArray, IntArray, check
from cxrtl.predictions import FloatArray

PERMUTATIONS = 1999
_CELLS = 4_000_000


def chance_p(
    truth: BoolArray, score: FloatArray, fold: IntArray, patients: IntArray | None = None, seed: int = 0
) -> float | None:
    """One-sided p of the pooled AUC against chance; all arrays `[N]`. None where a class is absent.

    Null hypothesis: within a fold, labels say nothing of the scores that its model gave. Patients of one fold with
    equally many images exchange their labels as a block, so that neither a patient's likeness to himself nor a
    fold's calibration or share of positives counts as skill (restricted permutation: Good, Permutation, Parametric
    and Bootstrap Tests, 2005; for classifiers, Ojala & Garriga, JMLR 2010; 11:1833). The observed labels count as one
    of the permutations (Phipson & Smyth, 2010): the smallest p is 1 / (`PERMUTATIONS` + 1).
    """
    check(truth, score)
    if not truth.any() or truth.all():
        return None
    ranks = rankdata(score)
    rng = np.random.default_rng(seed)
    total = np.zeros(PERMUTATIONS)  # rank sum of the positives: the AUC but for constants
    for block in _blocks(fold, np.arange(len(truth)) if patients is None else patients):
        labels, ranked = truth[block], ranks[block]
        rows = max(1, _CELLS // block.size)
        for start in range(0, PERMUTATIONS, rows):
            count = min(rows, PERMUTATIONS - start)
            order = rng.permuted(np.tile(np.arange(len(block)), (count, 1)), axis=1)
            total[start : start + count] += (labels[order] * ranked).sum(axis=(1, 2))
    extreme = int((total >= ranks[truth].sum() - 1e-9).sum())
    return (extreme + 1) / (PERMUTATIONS + 1)


def _blocks(fold: IntArray, patients: IntArray) -> list[IntArray]:
    """Rows of images by patient, `[patients, images of each]`, one array a fold and number of images."""
    table = pd.DataFrame({"fold": fold, "patient": patients, "row": np.arange(len(fold))})
    table["images"] = table.groupby(["fold", "patient"])["row"].transform("size")
    table = table.sort_values(["fold", "images", "patient", "row"])
    groups = table.groupby(["fold", "images"])
    return [rows["row"].to_numpy().reshape(-1, rows["images"].iloc[0]) for _, rows in groups]
