"""Metrics against scikit-learn, the published confusion matrix, and everything that can be undefined."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from cxrtl.errors import PredictionsError
from cxrtl.evaluate import curves, metrics
from cxrtl.evaluate.metrics import Confusion


def draw(seed: int, n: int = 200, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.4
    score = np.clip(0.5 + 0.2 * (truth - 0.5) + 0.25 * rng.normal(size=n), 0, 1)
    return truth, np.round(score, 1) if ties else score


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
def test_agrees_with_scikit_learn(seed: int, ties: bool) -> None:
    truth, score = draw(seed, ties=ties)
    called = score >= 0.5
    found = metrics.confusion(truth, score)
    assert [[found.tn, found.fp], [found.fn, found.tp]] == sk.confusion_matrix(truth, called).tolist()
    wanted = {
        "accuracy": sk.accuracy_score(truth, called),
        "sensitivity": sk.recall_score(truth, called),
        "specificity": sk.recall_score(~truth, ~called),
        "ppv": sk.precision_score(truth, called),
        "npv": sk.precision_score(~truth, ~called),
        "f1": sk.f1_score(truth, called),
    }
    for name, value in wanted.items():
        assert found.ratio(name) == pytest.approx(value, abs=1e-12)
    assert metrics.auc(truth, score) == pytest.approx(sk.roc_auc_score(truth, score), abs=1e-12)
    curve = curves.roc(truth, score)
    assert curve is not None
    assert sk.auc(curve.false_positive_rate, curve.true_positive_rate) == pytest.approx(metrics.auc(truth, score))
    false, true, _ = sk.roc_curve(truth, score, drop_intermediate=False)
    assert np.interp(0.37, curve.false_positive_rate, curve.true_positive_rate) == pytest.approx(
        np.interp(0.37, false, true)
    )


def test_published_confusion_matrix() -> None:
    """Huang et al. 2022 at 250 iterations: normal 457 right, 43 wrong; effusion 424 right, 76 wrong."""
    found = Confusion(tp=424, fp=43, fn=76, tn=457)
    said = {name: f"{100 * (found.ratio(name) or 0):.1f}" for name in ("accuracy", "sensitivity", "specificity")}
    assert said == {"accuracy": "88.1", "sensitivity": "84.8", "specificity": "91.4"}


def test_undefined_is_none() -> None:
    nothing = Confusion(0, 0, 0, 0)
    assert all(nothing.ratio(name) is None for name in metrics.RATIOS)
    only_negatives = metrics.confusion(np.zeros(3, bool), np.array([0.1, 0.2, 0.3]))
    assert only_negatives.ratio("specificity") == 1
    assert [only_negatives.ratio(name) for name in ("sensitivity", "ppv", "f1")] == [None, None, None]
    assert metrics.auc(np.ones(3, bool), np.array([0.1, 0.2, 0.3])) is None
    assert curves.roc(np.ones(3, bool), np.array([0.1, 0.2, 0.3])) is None


def test_score_on_the_threshold_is_positive() -> None:
    assert metrics.confusion(np.array([True]), np.array([0.5])).tp == 1


def test_folds_with_one_class_are_left_out_of_the_mean() -> None:
    truth = np.array([True, False, True, True])
    found = metrics.fold_aucs(truth, np.array([0.9, 0.1, 0.2, 0.3]), np.array([0, 0, 1, 1]))
    assert found == {0: 1.0, 1: None}
    assert metrics.mean_sd(list(found.values())) == (1.0, None)
    assert metrics.mean_sd([None]) == (None, None)
    assert metrics.mean_sd([0.8, 0.9]) == pytest.approx((0.85, np.std([0.8, 0.9], ddof=1)))


def test_bad_scores_are_refused() -> None:
    with pytest.raises(PredictionsError, match="not finite"):
        metrics.auc(np.array([True, False]), np.array([0.1, np.nan]))
    with pytest.raises(PredictionsError, match="alike"):
        metrics.confusion(np.array([True, False]), np.array([0.1]))
