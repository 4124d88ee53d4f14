"""Calibration against scikit-learn, definitions and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from cxrtl.evaluate.calibration import calibrate


def draw(seed: int, n: int = 500) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score = rng.beta(0.7, 0.7, size=n)
    return rng.random(n) < score**1.5, score


@pytest.mark.parametrize("seed", range(3))
def test_bins_and_brier_are_scikit_learns(seed: int) -> None:
    truth, score = draw(seed)
    found = calibrate(truth, score)
    assert found is not None
    share, mean = calibration_curve(truth, score, n_bins=10, strategy="uniform")
    assert [item.share for item in found.bins] == pytest.approx(share)
    assert [item.score for item in found.bins] == pytest.approx(mean)
    brier = found.reliability - found.resolution + found.uncertainty + found.within
    assert brier == pytest.approx(brier_score_loss(truth, score))
    weight = np.histogram(score, np.linspace(0, 1, 11))[0] / len(truth)
    assert found.ece == pytest.approx(float(weight @ np.abs(share - mean)))
    assert all(item.interval and item.interval.low <= item.share <= item.interval.high for item in found.bins)


def test_murphys_three_parts_are_exact_for_one_score_a_bin() -> None:
    """Worked by hand: 10 images scored 0.2 (3 positive), 10 scored 0.8 (8 positive)."""
    score = np.repeat([0.2, 0.8], 10)
    truth = np.concatenate([np.arange(10) < 3, np.arange(10) < 8])
    found = calibrate(truth, score)
    assert found is not None
    assert found.reliability == pytest.approx(0.5 * 0.1**2)
    assert found.resolution == pytest.approx(0.25**2)
    assert found.uncertainty == pytest.approx(0.55 * 0.45)
    assert found.within == pytest.approx(0, abs=1e-12)
    assert found.ece == pytest.approx(0.05)


def test_honest_scores_are_close_to_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    score = rng.random(20_000)
    honest, vain = calibrate(rng.random(20_000) < score, score), calibrate(rng.random(20_000) < 0.5, score)
    assert honest and vain and honest.ece < 0.015 < 0.2 < vain.ece


def test_edges() -> None:
    found = calibrate(np.array([True, False]), np.array([1.0, 0.0]))
    assert found and [(item.low, item.high) for item in found.bins] == [(0.0, 0.1), (0.9, 1.0)] and found.ece == 0
    assert calibrate(np.ones(0, bool), np.ones(0)) is None


def test_patients_widen_the_bins_intervals() -> None:
    truth, score = np.repeat(np.arange(40) % 2 == 0, 3), np.full(120, 0.55)
    apart, together = calibrate(truth, score), calibrate(truth, score, np.repeat(np.arange(40), 3))
    one, many = (item.bins[0].interval for item in (apart, together) if item)
    assert one and many and many.high - many.low > 1.5 * (one.high - one.low)
