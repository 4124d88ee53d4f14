"""What each task learns from: labels that are not stated say nothing, weights are those of scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from cxrtl.config import Train
from cxrtl.learn import objective
from cxrtl.predictions import Predictions

NAN = math.nan
TARGETS = torch.tensor([[1, 0, NAN], [NAN, 1, 0], [0, NAN, NAN], [1, 1, 1]])


def findings(weighted: bool = False) -> objective.Objective:
    return objective.make("multilabel", Train(class_weights=weighted), [TARGETS], 3, torch.device("cpu"))


@pytest.mark.parametrize("weighted", [False, True])
def test_labels_that_are_not_stated_give_no_gradient(weighted: bool) -> None:
    logits = torch.linspace(-2, 2, 12).reshape(4, 3).requires_grad_()
    findings(weighted).loss(logits, TARGETS).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad == 0, TARGETS.isnan())


def test_loss_is_the_mean_over_the_stated_labels() -> None:
    logits = torch.linspace(-2, 2, 12).reshape(4, 3)
    known = ~TARGETS.isnan()
    wanted = functional.binary_cross_entropy_with_logits(logits[known], TARGETS[known])
    assert torch.allclose(findings().loss(logits, TARGETS), wanted)


def test_batch_without_a_stated_label_changes_nothing() -> None:
    logits = torch.ones(2, 3, requires_grad=True)
    loss = findings().loss(logits, torch.full((2, 3), NAN))
    loss.backward()
    assert loss == 0 and logits.grad is not None and not logits.grad.any()


def test_weights_agree_with_scikit_learn() -> None:
    targets = np.array([0] * 7 + [1] * 3 + [2] * 2)
    wanted = compute_class_weight("balanced", classes=np.array([0, 1, 2]), y=targets)
    assert objective.class_weights(torch.from_numpy(targets), 3).numpy() == pytest.approx(wanted)
    stated = np.array([1, 0, 1])  # of the second finding
    found = objective.finding_weights(TARGETS)[:, 1].numpy()
    assert found == pytest.approx(compute_class_weight("balanced", classes=np.array([0, 1]), y=stated))
    assert objective.make("binary", Train(), [torch.from_numpy(targets)], 3, torch.device("cpu")).weight is None


def test_held_out_loss_and_accuracy_leave_out_what_is_not_stated() -> None:
    scores = torch.tensor([[0.9, 0.2, 0.5], [0.5, 0.4, 0.3], [0.6, 0.5, 0.5], [0.9, 0.9, 0.9]], dtype=torch.float64)
    loss, accuracy = objective.judge("multilabel", 3, scores, TARGETS)
    chosen = [0.9, 0.8, 0.4, 0.7, 0.4, 0.9, 0.9, 0.9]
    assert loss == pytest.approx(-np.log(chosen).mean()) and accuracy == 6 / 8
    assert findings().hits(torch.logit(scores.float()), TARGETS) == 6 / 8


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_columns_are_those_of_predictions(task: str) -> None:
    classes = ("a", "b") if task == "binary" else ("a", "b", "c")
    targets = objective.blank_targets(task, 4, len(classes))  # type: ignore[arg-type]
    scores = objective.scores(task, torch.randn(4, len(classes)))  # type: ignore[arg-type]
    frame = {name: ["x"] * 4 for name in ("image_id", "patient_id", "arm")} | {"fold": 0, "iterations": 1}
    frame["label"] = [""] * 4 if task == "multilabel" else [classes[place] for place in targets]
    import pandas as pd

    whole = pd.DataFrame({**frame, **objective.columns(task, classes, scores, targets)})  # type: ignore[arg-type]
    made = Predictions(whole, classes, task)  # type: ignore[arg-type]
    assert np.array_equal(made.scores, scores.numpy())
    if task == "multilabel":
        assert np.array_equal(made.labels, targets.numpy())
