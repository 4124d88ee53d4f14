"""Thresholds: the rule by brute force, blindness to the held-out fold, predictive values."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from cxrtl.evaluate.metrics import confusion
from cxrtl.evaluate.operating import carry, choose, operate, predictive


def draw(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.4
    score = np.round(1 / (1 + np.exp(-(2 * (truth - 0.5) + rng.normal(size=n)))), 2)
    return truth, score, rng.integers(5, size=n)


@pytest.mark.parametrize("seed", range(4))
def test_choose_by_brute_force(seed: int) -> None:
    truth, score, _ = draw(seed)
    false, true, thresholds = roc_curve(truth, score, drop_intermediate=False)
    assert choose(truth, score, "youden") == thresholds[np.argmax(np.round(true - false, 9))]
    every = {float(t): confusion(truth, score, float(t)) for t in np.unique(score)}
    reach = [t for t, found in every.items() if (found.ratio("sensitivity") or 0) >= 0.9]
    assert choose(truth, score, "sensitivity", 0.9) == max(reach)
    reach = [t for t, found in every.items() if (found.ratio("specificity") or 0) >= 0.9]
    assert choose(truth, score, "specificity", 0.9) == min(reach)


def test_a_target_that_no_score_reaches_calls_nothing() -> None:
    threshold = choose(np.array([True, False]), np.array([0.5, 0.5]), "specificity", 0.9)
    assert threshold is not None and 0.5 < threshold < 0.5001
    assert choose(np.array([True, True]), np.array([0.5, 0.6]), "youden") is None
    with pytest.raises(ValueError, match="none of"):
        choose(np.array([True, False]), np.array([0.5, 0.6]), "best")


def test_the_held_out_fold_chooses_nothing() -> None:
    """Whatever the scores and labels of fold 2, its threshold is the same; the others' may move."""
    truth, score, fold = draw(7)
    before = carry(truth, score, fold, "youden")
    mine = fold == 2
    after = carry(np.where(mine, ~truth, truth), np.where(mine, 1 - score, score), fold, "youden")
    assert after[2] == before[2] and after != before


def test_operate_counts_each_fold_at_its_own_threshold() -> None:
    truth, score, fold = draw(3)
    found = operate(truth, score, fold, None, "sensitivity", 0.9, prevalence=0.05)
    called = np.array([score[i] >= (found.thresholds[int(fold[i])] or 0) for i in range(len(truth))])
    sensitivity, specificity = called[truth].mean(), (~called[~truth]).mean()
    assert found.metrics["sensitivity"].value == pytest.approx(sensitivity)
    assert found.metrics["specificity"].value == pytest.approx(specificity)
    assert "auc" not in found.metrics
    ppv = found.metrics["ppv_at"]
    wanted = sensitivity * 0.05 / (sensitivity * 0.05 + (1 - specificity) * 0.95)
    assert ppv.value == pytest.approx(wanted)
    assert ppv.interval and ppv.interval.low < wanted < ppv.interval.high
    assert "ppv_at" not in operate(truth, score, fold, None, "youden").metrics


def test_one_fold_or_one_class_gives_no_threshold() -> None:
    truth, score, _ = draw(1)
    assert operate(truth, score, np.zeros(len(truth), np.int64), None, "youden").metrics == {}


def test_altman_and_bland_1994_example() -> None:
    """BMJ 1994; 309:102: sensitivity 231/258, specificity 54/86; at a prevalence of 0.25, PPV 0.45 and NPV 0.95."""
    ppv, npv = predictive(np.array([231 / 258]), np.array([54 / 86]), 0.25)
    assert (round(float(ppv[0]), 2), round(float(npv[0]), 2)) == (0.45, 0.95)
