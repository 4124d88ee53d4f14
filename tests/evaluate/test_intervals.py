"""Intervals against statsmodels, brute force and simulation."""

from __future__ import annotations

import time

import numpy as np
import pytest

from cxrtl.errors import PredictionsError
from cxrtl.evaluate import bootstrap, intervals
from cxrtl.evaluate.delong import delong
from cxrtl.evaluate.estimates import METRICS, estimate, patient_codes
from cxrtl.evaluate.metrics import Confusion, auc, confusion

proportion = pytest.importorskip("statsmodels.stats.proportion")


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (1, 7), (881, 1000), (424, 500), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_is_statsmodels(successes: int, trials: int, level: float) -> None:
    found = intervals.wilson(successes, trials, level)
    assert found is not None
    low, high = proportion.proportion_confint(successes, trials, 1 - level, "wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert 0 <= found.low <= successes / trials <= found.high <= 1


def test_wilson_newcombe_1998_example() -> None:
    """Newcombe, Statistics in Medicine 1998; 17:857, table I: 81 of 263 gives 0.2553 to 0.3662."""
    found = intervals.wilson(81, 263)
    assert found is not None
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


def test_wilson_of_nothing_and_of_nonsense() -> None:
    assert intervals.wilson(0, 0) is None
    with pytest.raises(ValueError, match="between 0 and trials"):
        intervals.wilson(3, 2)
    with pytest.raises(ValueError, match="between 0 and 1"):
        intervals.wilson(1, 2, level=95)


def test_f1_interval_covers() -> None:
    """Simulated: about 95 of 100 intervals hold the true F1."""
    rng = np.random.default_rng(0)
    shares = np.array([0.40, 0.08, 0.10, 0.42])
    true = 2 * shares[0] / (2 * shares[0] + shares[1] + shares[2])
    held = 0
    for counts in rng.multinomial(300, shares, size=1000):
        found = intervals.f1_interval(Confusion(*(int(count) for count in counts)))
        assert found is not None
        held += found.low <= true <= found.high
    assert 930 <= held <= 970
    assert intervals.f1_interval(Confusion(0, 0, 0, 9)) is None


def scores(seed: int, m: int, n: int, arms: int = 1, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(m + n) < m)
    common = rng.normal(size=m + n)
    found = np.stack([truth * (1 + 0.2 * arm) + 0.7 * common + rng.normal(size=m + n) for arm in range(arms)])
    return truth, np.round(found, 0) if ties else found


def brute(truth: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's covariance by the definition: every pair, O(m·n)."""
    v10, v01 = [], []
    for row in found:
        gap = row[truth][:, None] - row[~truth][None, :]
        kernel = (gap > 0) + 0.5 * (gap == 0)
        v10.append(kernel.mean(axis=1))
        v01.append(kernel.mean(axis=0))
    first, second = np.array(v10), np.array(v01)
    covariance = np.atleast_2d(np.cov(first)) / first.shape[1] + np.atleast_2d(np.cov(second)) / second.shape[1]
    return first.mean(axis=1), covariance


@pytest.mark.parametrize(("m", "n"), [(2, 2), (30, 50), (100, 37)])
@pytest.mark.parametrize("ties", [False, True])
def test_delong_is_brute_force(m: int, n: int, ties: bool) -> None:
    truth, found = scores(m + n, m, n, arms=3, ties=ties)
    areas = delong(truth, found)
    area, covariance = brute(truth, found)
    np.testing.assert_allclose(areas.area, area, atol=1e-12)
    np.testing.assert_allclose(areas.covariance, covariance, atol=1e-12)
    assert areas.area[0] == pytest.approx(auc(truth, found[0]))


def test_clustered_variance_by_definition() -> None:
    """Obuchowski's sums written out, and equality with DeLong where each patient holds one image."""
    truth, found = scores(5, 40, 60)
    patients = np.random.default_rng(5).integers(0, 45, size=100)
    gap = found[0][truth][:, None] - found[0][~truth][None, :]
    kernel = (gap > 0) + 0.5 * (gap == 0)
    area, m, n = kernel.mean(), truth.sum(), (~truth).sum()
    names = np.unique(patients)
    x = np.array([(kernel.mean(axis=1) - area)[patients[truth] == name].sum() for name in names])
    y = np.array([(kernel.mean(axis=0) - area)[patients[~truth] == name].sum() for name in names])
    i10, i01, i = len(np.unique(patients[truth])), len(np.unique(patients[~truth])), len(names)
    wanted = i10 / ((i10 - 1) * m**2) * (x**2).sum() + i01 / ((i01 - 1) * n**2) * (y**2).sum()
    wanted += 2 * i / ((i - 1) * m * n) * (x * y).sum()
    assert delong(truth, found, patients).covariance[0, 0] == pytest.approx(wanted, rel=1e-12)
    single = delong(truth, found, np.arange(100)).covariance
    np.testing.assert_allclose(single, delong(truth, found).covariance)


def test_delong_needs_two_of_each_class() -> None:
    with pytest.raises(PredictionsError, match="two patients"):
        delong(np.array([True, False, False]), np.array([[0.9, 0.1, 0.2]]))


def test_auc_interval_stays_inside_and_newcombe_covers_perfection() -> None:
    found = intervals.auc_interval(0.999, 1e-5)
    assert 0 < found.low < 0.999 < found.high < 1
    perfect = intervals.newcombe(1.0, 20, 30)
    assert perfect.high == 1 and 0.85 < perfect.low < 0.99
    mirrored = intervals.newcombe(0.0, 20, 30)
    assert mirrored.low == 0 and mirrored.high == pytest.approx(1 - perfect.low)
    middle = intervals.newcombe(0.8, 50, 50)
    assert middle.low < 0.8 < middle.high
    assert intervals.auc_interval(0.5, 1e9).high == 1  # absurd, but no overflow
    with pytest.raises(ValueError, match="logit"):
        intervals.auc_interval(1.0, 0.0)


def clustered(seed: int, patients: int = 120, each: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(patients), each)
    truth = np.repeat(rng.random(patients) < 0.5, each)
    logit = 2.0 * (truth - 0.5) + np.repeat(rng.normal(size=patients), each) + 0.4 * rng.normal(size=len(codes))
    return truth, 1 / (1 + np.exp(-logit)), codes


def test_bootstrap_is_a_loop_written_fast() -> None:
    """Each resample's AUC equals the AUC of the images written out that often; so does each left-out patient's."""
    truth, score, codes = clustered(1, patients=25)
    truth[::7] = ~truth[::7]  # patients with both classes
    score = np.round(score, 1)  # ties
    drawn = bootstrap.resample(truth, score, codes, resamples=40, seed=3)
    picks = np.random.default_rng(3).integers(25, size=(40, 25))
    for row, pick in enumerate(picks):
        rows = np.concatenate([np.flatnonzero(codes == patient) for patient in pick])
        assert drawn["auc"].resamples[row] == pytest.approx(auc(truth[rows], score[rows]))
        for name in ("accuracy", "ppv", "f1"):
            wanted = confusion(truth[rows], score[rows]).ratio(name)
            assert drawn[name].resamples[row] == pytest.approx(wanted)
    for patient in range(25):
        rest = codes != patient
        assert drawn["auc"].left_out[patient] == pytest.approx(auc(truth[rest], score[rest]))
        assert drawn["npv"].left_out[patient] == pytest.approx(confusion(truth[rest], score[rest]).ratio("npv"))


def test_bca_agrees_with_scipy() -> None:
    """Without clusters, on a mean: scipy's BCa of the same data, up to the draws."""
    from scipy import stats

    rng = np.random.default_rng(2)
    truth, right = np.ones(150, bool), rng.random(150) < 0.85
    drawn = bootstrap.resample(truth, np.where(right, 0.9, 0.1), np.arange(150), resamples=20_000, seed=1)
    found = bootstrap.bca(float(right.mean()), drawn["accuracy"])
    wanted = stats.bootstrap((right.astype(float),), np.mean, n_resamples=20_000, rng=rng).confidence_interval
    assert found is not None
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.011)


def test_patients_widen_the_interval() -> None:
    truth, score, codes = clustered(4)
    apart, together = estimate(truth, score, None), estimate(truth, score, codes)
    for name in METRICS:
        one, many = apart[name], together[name]
        assert one.value == many.value and one.interval and many.interval
        assert one.interval.low <= (one.value or 0) <= one.interval.high
        assert many.interval.high - many.interval.low > 1.2 * (one.interval.high - one.interval.low)
    assert together["auc"].interval == estimate(truth, score, codes)["auc"].interval  # seeded
    clustered_error = delong(truth, score[None], codes).covariance[0, 0] ** 0.5
    interval = together["auc"].interval
    assert interval and (interval.high - interval.low) / 3.92 == pytest.approx(clustered_error, rel=0.15)


def test_perfect_scores_keep_an_honest_interval() -> None:
    truth, _, codes = clustered(0, patients=20)
    for patients, name in ((None, "Wilson"), (codes, "Wilson over patients")):
        found = estimate(truth, np.where(truth, 0.9, 0.1), patients)
        assert found["accuracy"].value == 1 and found["accuracy"].interval
        assert found["accuracy"].interval.method == name and found["accuracy"].interval.low < 0.95
        assert found["auc"].interval and found["auc"].interval.low < 1 and found["auc"].interval.high == 1
    wide = estimate(truth, np.where(truth, 0.9, 0.1), codes)["f1"].interval
    narrow = estimate(truth, np.where(truth, 0.9, 0.1), None)["f1"].interval
    assert wide and narrow and wide.low < narrow.low


def test_one_class_only() -> None:
    truth = np.ones(6, bool)
    for patients in (None, np.repeat([0, 1, 2], 2)):
        found = estimate(truth, np.linspace(0.1, 0.9, 6), patients)
        assert found["auc"].value is None and found["auc"].interval is None
        assert found["specificity"].value is None and found["sensitivity"].value is not None


def test_patient_codes() -> None:
    assert patient_codes(["a", "b", "c"]) is None
    assert patient_codes(["", "", ""]) is None
    found = patient_codes(["a", "", "a", ""])
    assert found is not None and len(set(found)) == 3 and found[0] == found[2]
    assert patient_codes([]) is None


def test_two_thousand_resamples_are_quick() -> None:
    truth, score, codes = clustered(0, patients=500, each=2)
    start = time.perf_counter()
    estimate(truth, score, codes)
    assert time.perf_counter() - start < 2


def test_the_published_confusion_matrix_of_s1() -> None:
    """Huang et al. 2022, 250 iterations: 457 and 43 normal, 76 and 424 effusion; their 88.1, 84.8 and 91.4 %.

    The intervals are Wilson's (1927), by statsmodels.
    """
    truth = np.repeat([False, False, True, True], (457, 43, 76, 424))
    score = np.repeat([0.2, 0.8, 0.2, 0.8], (457, 43, 76, 424))
    found = estimate(truth, score, None)
    for name, published, hits, trials in (
        ("accuracy", "88.1", 881, 1000),
        ("sensitivity", "84.8", 424, 500),
        ("specificity", "91.4", 457, 500),
    ):
        interval = found[name].interval
        assert f"{100 * (found[name].value or 0):.1f}" == published and interval is not None
        low, high = proportion.proportion_confint(hits, trials, method="wilson")
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)
