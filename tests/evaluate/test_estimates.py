"""Average precision with its interval, against scikit-learn, SciPy and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import average_precision_score

from cxrtl.evaluate.bootstrap import METHOD
from cxrtl.evaluate.estimates import average_precision
from cxrtl.evaluate.weighted import Precision


def draw(seed: int, patients: int = 100, each: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(patients), each)
    truth = (rng.random(patients) < 0.4)[codes]
    score = 1.5 * truth + rng.normal(size=patients)[codes] + 0.4 * rng.normal(size=len(codes))
    return truth, np.round(score, 1), codes


def test_average_precision_under_weights_is_scikit_learns() -> None:
    truth, score, codes = draw(1)
    weights = np.random.default_rng(0).integers(0, 4, size=(20, 100)).astype(float)
    found = Precision.of(truth, score, codes, 100).under(weights)["average_precision"]
    wanted = [average_precision_score(truth, score, sample_weight=row[codes]) for row in weights]
    assert found == pytest.approx(np.array(wanted))


def test_leaving_a_patient_out_to_first_order() -> None:
    truth, score, codes = draw(2, 300)
    found = Precision.of(truth, score, codes, 300)
    exact, value = found.under(1 - np.eye(300)), found.under(np.ones((1, 300)))["average_precision"][0]
    gone, near = exact["average_precision"] - value, found.left_out()["average_precision"] - value
    assert np.abs(near - gone).max() < 0.1 * np.abs(gone).max() and np.corrcoef(near, gone)[0, 1] > 0.999


@pytest.mark.parametrize("each", [1, 3])
def test_interval_is_scipys(each: int) -> None:
    truth, score, codes = draw(3, 120, each)
    rows = np.arange(len(codes)).reshape(-1, each)

    def area(patients: np.ndarray) -> float:
        mine = rows[patients].ravel()
        return float(average_precision_score(truth[mine], score[mine]))

    wanted = bootstrap((np.arange(120),), area, vectorized=False, n_resamples=1500, rng=np.random.default_rng(1))
    found = average_precision(truth, score, codes if each > 1 else None)
    low, high = wanted.confidence_interval
    assert found.value == pytest.approx(average_precision_score(truth, score))
    assert found.interval and found.interval.method == METHOD
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=0.12 * (high - low))


def test_interval_covers_with_patients_and_a_naive_one_does_not() -> None:
    true = average_precision_score(*draw(0, 50_000, 4)[:2])
    held = naive = 0
    for seed in range(150):
        truth, score, codes = draw(seed + 1, 80, 4)
        for each, known in ((codes, True), (None, False)):
            found = average_precision(truth, score, each).interval
            inside = bool(found and found.low <= true <= found.high)
            held, naive = held + inside * known, naive + inside * (not known)
    assert 0.88 <= held / 150 <= 0.99 and naive / 150 < 0.8


def test_edges() -> None:
    assert average_precision(np.zeros(3, bool), np.arange(3.0), None).value is None
    perfect = average_precision(np.arange(8) > 3, np.arange(8.0), None)
    assert perfect.value == 1 and perfect.interval is None
    flat = average_precision(np.arange(40) % 2 == 0, np.full(40, 0.5), None)
    assert flat.value == 0.5 and flat.interval and flat.interval.low < 0.5 < flat.interval.high
