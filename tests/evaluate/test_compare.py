"""Paired comparisons and Holm against statsmodels and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cxrtl.errors import PredictionsError
from cxrtl.evaluate.compare import (
    compare_accuracy,
    compare_auc,
    compare_ratios,
    holm,
    mcnemar,
    nadeau_bengio,
    pareto,
    unpaired,
)
from cxrtl.evaluate.estimates import Estimate
from cxrtl.evaluate.intervals import wilson

contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
multitest = pytest.importorskip("statsmodels.stats.multitest")


def arms(seed: int, n: int = 300, gain: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.5
    common = rng.normal(size=n)
    logits = [(1.5 + extra) * (truth - 0.5) + common + 0.5 * rng.normal(size=n) for extra in (0.0, gain)]
    return truth, *(1 / (1 + np.exp(-logit)) for logit in logits)


def test_identical_arms_do_not_differ() -> None:
    truth, first, _ = arms(0)
    found = compare_auc(truth, first, first)
    assert found is not None and found.value == 0 and found.p == 1
    assert compare_accuracy(truth, first, first).p == 1


def test_p_values_are_uniform_under_the_null() -> None:
    found = [compare_auc(*arms(seed, n=120)) for seed in range(300)]
    share = np.mean([item is not None and item.p is not None and item.p < 0.1 for item in found])
    assert 0.05 < share < 0.16


def test_a_real_difference_is_found_and_signed() -> None:
    truth, first, second = arms(1, gain=2.0)
    for patients in (None, np.repeat(np.arange(150), 2)):
        area = compare_auc(truth, first, second, patients)
        assert area is not None and area.value > 0 and area.p is not None and area.p < 0.001
        assert area.interval and 0 < area.interval.low < area.value < area.interval.high
        share = compare_accuracy(truth, first, second, patients)
        assert share.value > 0 and share.p is not None and share.p < 0.01


@pytest.mark.parametrize(("b", "c"), [(0, 0), (3, 9), (20, 20), (1, 0)])
def test_mcnemar_is_statsmodels(b: int, c: int) -> None:
    wanted = contingency.mcnemar([[10, b], [c, 10]], exact=True).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(wanted)


def test_sign_flip_with_one_image_a_patient_is_mcnemar() -> None:
    truth, first, second = arms(2, gain=0.6)
    exact = compare_accuracy(truth, first, second)
    flipped = compare_accuracy(truth, first, second, np.arange(len(truth)))
    assert exact.p is not None and flipped.p == pytest.approx(exact.p, abs=0.02)


def test_holm_is_statsmodels() -> None:
    values = [0.01, 0.04, 0.03, 0.5, 0.04]
    assert holm(values) == pytest.approx(multitest.multipletests(values, method="holm")[1].tolist())
    assert holm([None, 0.03, None]) == [None, 0.03, None]
    assert holm([]) == []


def test_nothing_to_compare() -> None:
    one = np.ones(4, bool)
    assert compare_auc(one, np.arange(4.0), np.arange(4.0)) is None
    with pytest.raises(PredictionsError, match="common image"):
        compare_accuracy(np.ones(0, bool), np.ones(0), np.ones(0))


def test_ratio_differences_resample_both_arms_alike() -> None:
    truth, first, second = arms(3, gain=1.0)
    patients = np.repeat(np.arange(150), 2)
    found = compare_ratios(truth, first, second, patients)["accuracy"]
    gains = ((second >= 0.5) == truth).astype(float) - ((first >= 0.5) == truth)
    assert found.value == pytest.approx(gains.mean()) and found.interval
    drawn = np.bincount(patients, gains)[np.random.default_rng(9).integers(150, size=(4000, 150))].sum(axis=1) / 300
    assert (found.interval.low, found.interval.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.012)
    assert compare_ratios(truth, first, first)["accuracy"].interval is None


def test_nadeau_bengio_by_definition() -> None:
    gains = np.array([0.03, 0.01, -0.01, 0.04, 0.02])
    found = nadeau_bengio(gains.tolist(), 1 / 4)
    assert found and found.interval
    plain = stats.ttest_1samp(gains, 0)
    statistic = plain.statistic * np.sqrt((1 / 5) / (1 / 5 + 1 / 4))
    assert found.p == pytest.approx(2 * stats.t.sf(statistic, 4)) and found.p > plain.pvalue
    uncorrected = nadeau_bengio(gains.tolist(), 0.0)
    assert uncorrected and uncorrected.interval
    low, high = plain.confidence_interval()
    assert (uncorrected.interval.low, uncorrected.interval.high) == pytest.approx((low, high))
    assert nadeau_bengio([0.1], 1) is None
    same = nadeau_bengio([0.0, 0.0], 1)
    assert same and same.p == 1 and same.interval is None


def test_newcombe_1998_example_of_two_proportions() -> None:
    """Newcombe, Statistics in Medicine 1998; 17:873, table II: 56/70 − 48/80, method 10: 0.0524 to 0.3339."""
    one, two = (Estimate(a / n, wilson(a, n)) for a, n in ((48, 80), (56, 70)))
    found = unpaired(one, two)
    assert found and found.interval and found.value == pytest.approx(0.2)
    assert (round(found.interval.low, 4), round(found.interval.high, 4)) == (0.0524, 0.3339)
    assert unpaired(one, Estimate(0.5, None)) is None


def test_pareto() -> None:
    cost, gain = np.array([1.0, 2, 3, 3, 1]), np.array([0.8, 0.7, 0.9, 0.85, 0.8])
    assert pareto(cost, gain).tolist() == [True, False, True, False, True]
