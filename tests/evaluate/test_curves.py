"""Curves against scikit-learn, bands and the chance test against brute force and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

from cxrtl.evaluate import chance
from cxrtl.evaluate.chance import chance_p
from cxrtl.evaluate.curves import GRID, precision_recall, roc_band, steps
from cxrtl.evaluate.metrics import auc


def draw(seed: int, n: int = 200, gap: float = 1.5, each: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n // each), each)
    truth = (rng.random(n // each) < 0.4)[codes]
    score = gap * (truth - 0.5) + rng.normal(size=n // each)[codes] + 0.4 * rng.normal(size=n)
    return truth, np.round(1 / (1 + np.exp(-score)), 2), codes


@pytest.mark.parametrize("seed", range(3))
def test_precision_recall_is_scikit_learns(seed: int) -> None:
    truth, score, _ = draw(seed)
    found = precision_recall(truth, score)
    assert found is not None
    precision, recall, _ = precision_recall_curve(truth, score)
    assert found.precision[::-1] == pytest.approx(precision[:-1])
    assert found.recall[::-1] == pytest.approx(recall[:-1])
    assert found.average == pytest.approx(average_precision_score(truth, score))
    assert precision_recall(np.zeros(3, bool), np.arange(3.0)) is None


def test_steps_are_the_roc_curve() -> None:
    truth, score, _ = draw(4)
    found = steps(truth, score)
    false, true, thresholds = roc_curve(truth, score, drop_intermediate=False)
    assert found.true / truth.sum() == pytest.approx(true)
    assert found.false / (~truth).sum() == pytest.approx(false)
    assert found.threshold[1:] == pytest.approx(thresholds[1:]) and found.threshold[0] > score.max()


def test_the_band_holds_the_true_curve_and_patients_widen_it() -> None:
    inside, widths = [], []
    whole_truth, whole, _ = draw(0, n=100_000, each=4)
    false, true, _ = roc_curve(whole_truth, whole)
    wanted = np.interp(GRID, false, true)
    middle = slice(5, 70)  # where the curve is neither at 0 nor at 1
    for seed in range(12):
        truth, score, codes = draw(seed + 1, n=600, each=4)
        band, naive = roc_band(truth, score, codes), roc_band(truth, score, None)
        assert band and naive
        inside.append(np.mean((band.low <= wanted + 0.01) & (wanted <= band.high + 0.01), where=slice_mask(middle)))
        widths.append(np.mean((band.high - band.low)[middle]) / np.mean((naive.high - naive.low)[middle]))
    assert np.mean(inside) > 0.88 and np.mean(widths) > 1.3
    assert roc_band(np.ones(4, bool), np.arange(4.0), None) is None


def slice_mask(part: slice) -> np.ndarray:
    mask = np.zeros(len(GRID), bool)
    mask[part] = True
    return mask


def test_chance_finds_skill_and_only_skill() -> None:
    truth, score, codes = draw(1, each=2)
    fold = codes % 5
    assert chance_p(truth, score, fold, codes) == 1 / (chance.PERMUTATIONS + 1)
    assert chance_p(truth, np.full(200, 0.5), fold, codes) == 1
    assert chance_p(np.ones(4, bool), np.arange(4.0), np.zeros(4, np.int64)) is None


def test_chance_is_uniform_under_the_null_with_patients_and_fold_shifts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patients resemble themselves and folds differ in level; a test of independent images finds skill there."""
    monkeypatch.setattr(chance, "PERMUTATIONS", 199)
    values, naive = [], []
    for seed in range(300):
        truth, score, codes = draw(seed, n=160, gap=0.0, each=4)
        fold = codes % 4
        values.append(chance_p(truth, score + fold, fold, codes))
        naive.append(chance_p(truth, score, fold))
    assert 0.05 <= np.mean(np.array(values) <= 0.1) <= 0.15
    assert np.mean(np.array(naive) <= 0.1) > 0.18


def test_chance_by_brute_force() -> None:
    """Four patients of one image in one fold: every order of the labels."""
    truth, score = np.array([True, True, False, False]), np.array([0.9, 0.4, 0.6, 0.1])
    rng = np.random.default_rng(0)
    areas = [auc(rng.permutation(truth), score) or 0 for _ in range(4000)]
    wanted = np.mean(np.array(areas) >= (auc(truth, score) or 0))
    assert chance_p(truth, score, np.zeros(4, np.int64)) == pytest.approx(wanted, abs=0.04)
