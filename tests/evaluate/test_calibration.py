"""Calibration against scikit-learn, definitions and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from cxrtl.evaluate.calibration import MEASURES, Calibration, calibrate


def draw(seed: int, n: int = 500) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score = rng.beta(0.7, 0.7, size=n)
    return rng.random(n) < score**1.5, score


def values(found: Calibration | None) -> dict[str, float]:
    assert found is not None
    return {name: item.value for name, item in found.measures.items() if item.value is not None}


@pytest.mark.parametrize("seed", range(3))
def test_bins_and_brier_are_scikit_learns(seed: int) -> None:
    truth, score = draw(seed)
    found = calibrate(truth, score)
    assert found is not None
    share, mean = calibration_curve(truth, score, n_bins=10, strategy="uniform")
    assert [item.share for item in found.bins] == pytest.approx(share)
    assert [item.score for item in found.bins] == pytest.approx(mean)
    measures = values(found)
    parts = measures["reliability"] - measures["resolution"] + measures["uncertainty"] + measures["within"]
    assert list(measures) == list(MEASURES)
    assert parts == pytest.approx(measures["brier"]) == pytest.approx(brier_score_loss(truth, score))
    weight = np.histogram(score, np.linspace(0, 1, 11))[0] / len(truth)
    assert measures["ece"] == pytest.approx(float(weight @ np.abs(share - mean)))
    assert all(item.interval and item.interval.low <= item.share <= item.interval.high for item in found.bins)


def test_murphys_three_parts_are_exact_for_one_score_a_bin() -> None:
    """Worked by hand: 10 images scored 0.2 (3 positive), 10 scored 0.8 (8 positive)."""
    score = np.repeat([0.2, 0.8], 10)
    truth = np.concatenate([np.arange(10) < 3, np.arange(10) < 8])
    wanted = {"reliability": 0.5 * 0.1**2, "resolution": 0.25**2, "uncertainty": 0.55 * 0.45, "within": 0, "ece": 0.05}
    found = values(calibrate(truth, score))
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)


def test_honest_scores_are_close_to_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    score = rng.random(5000)
    honest, vain = (values(calibrate(rng.random(len(score)) < share, score))["ece"] for share in (score, 0.5))
    assert honest < 0.03 and vain > 0.2


def test_edges() -> None:
    found = calibrate(np.array([True, False]), np.array([1.0, 0.0]))
    assert found and [(item.low, item.high) for item in found.bins] == [(0.0, 0.1), (0.9, 1.0)]
    assert values(found)["ece"] == 0
    assert calibrate(np.ones(0, bool), np.ones(0)) is None


def test_patients_widen_the_intervals() -> None:
    truth, score = np.repeat(np.arange(40) % 2 == 0, 3), np.full(120, 0.55)
    apart, together = calibrate(truth, score), calibrate(truth, score, np.repeat(np.arange(40), 3))
    one, many = (item.bins[0].interval for item in (apart, together) if item)
    assert one and many and many.high - many.low > 1.5 * (one.high - one.low)
    truth, score = draw(2, 200)
    once = calibrate(np.repeat(truth, 3), np.repeat(score, 3), np.repeat(np.arange(200), 3))
    naive, single = calibrate(np.repeat(truth, 3), np.repeat(score, 3)), calibrate(truth, score)
    for name in ("brier", "ece"):
        wide, narrow, alone = (item.measures[name].interval for item in (once, naive, single) if item)
        assert wide and narrow and alone and wide.high - wide.low > 1.2 * (narrow.high - narrow.low)
        assert (wide.low, wide.high) == pytest.approx((alone.low, alone.high))  # copies of an image tell nothing new
    assert once and {name for name, item in once.measures.items() if item.interval} == {"brier", "ece"}


@pytest.mark.parametrize("name", ["brier", "ece"])
def test_intervals_are_scipys(name: str) -> None:
    """SciPy's BCa over patients of two images each, on a statistic written anew."""
    truth, score = draw(7, 300)
    codes = np.repeat(np.arange(150), 2)

    def measure(patients: np.ndarray) -> float:
        rows = (2 * patients[:, None] + [0, 1]).ravel()
        if name == "brier":
            return float(np.mean((score[rows] - truth[rows]) ** 2))
        gap = np.bincount(np.minimum((score[rows] * 10).astype(int), 9), weights=score[rows] - truth[rows])
        return float(np.abs(gap).sum() / len(rows))

    wanted = bootstrap((np.arange(150),), measure, vectorized=False, n_resamples=2000, rng=np.random.default_rng(1))
    calibrated = calibrate(truth, score, codes)
    assert calibrated is not None
    found = calibrated.measures[name]
    low, high = wanted.confidence_interval
    assert found.interval and found.value == pytest.approx(measure(np.arange(150)))
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=0.12 * (high - low))


def test_brier_interval_covers_and_ece_is_not_overstated() -> None:
    """Scores that are honest: the true Brier score is held by about 95 of 100 intervals, and no ECE is far from 0."""
    rng = np.random.default_rng(11)
    many = rng.beta(0.7, 0.7, size=400_000)
    true = float(np.mean(many * (1 - many)))
    held, near = 0, 0
    for _ in range(100):
        score = rng.beta(0.7, 0.7, size=200)
        found = calibrate(rng.random(200) < score, score)
        assert found is not None
        brier, ece = found.measures["brier"].interval, found.measures["ece"].interval
        held += bool(brier and brier.low <= true <= brier.high)
        near += ece is None or ece.low < 0.05
    assert 90 <= held <= 99 and near > 90
