"""What a model learns in each task: the loss, what counts as right, and the scores that its logits mean.

task         logits          targets
binary       `[B, 2]`        `[B]`, places of the classes
multiclass   `[B, C]`        `[B]`, places of the classes
multilabel   `[B, F]`        `[B, F]`, 1, 0, or NaN where a finding is not stated
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from cxrtl.config import Train
from cxrtl.records import Task

_LEAST = 1e-12  # a score below counts as this much in a held-out loss


@dataclass(frozen=True)
class Classes:
    """One of several classes: cross-entropy, each class by its `weight` `[C]`."""

    weight: Tensor | None

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(logits, targets, self.weight)

    def hits(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Share of the batch whose class has the highest logit."""
        return (logits.argmax(1) == targets).double().mean()


@dataclass(frozen=True)
class Findings:
    """Each finding for itself: binary cross-entropy over the stated labels; the others contribute nothing.

    `weight` `[2, F]`: that of an absent and of a present finding.
    """

    weight: Tensor | None

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        stated = ~targets.isnan()
        known = torch.where(stated, targets, 0.0)
        each = functional.binary_cross_entropy_with_logits(logits, known, reduction="none")
        share = stated.float()
        if self.weight is not None:
            share = share * torch.where(known == 1, self.weight[1], self.weight[0])
        return (each * share).sum() / share.sum().clamp_min(1e-6)

    def hits(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Share of the batch's stated labels on the right side of a score of 0.5."""
        stated = ~targets.isnan()
        right = ((logits > 0) == (targets == 1)) & stated
        return right.sum().double() / stated.sum().clamp_min(1)


Objective = Classes | Findings


def make(task: Task, train: Train, targets: Tensor, classes: int) -> Objective:
    """The objective of `task` for training images with these targets."""
    if task == "multilabel":
        return Findings(finding_weights(targets) if train.class_weights else None)
    return Classes(class_weights(targets, classes) if train.class_weights else None)


def class_weights(targets: Tensor, classes: int) -> Tensor:
    """Inverse class frequencies of the training images, with mean 1 over images: `[classes]`."""
    counts = torch.bincount(targets, minlength=classes).float()
    return len(targets) / (classes * counts)


def finding_weights(targets: Tensor) -> Tensor:
    """The same for each finding over the images that state it: `[2, findings]`, absent and present."""
    counts = torch.stack([(targets == value).sum(0).float() for value in (0, 1)])
    return counts.sum(0) / (2 * counts.clamp_min(1))


def scores(task: Task, logits: Tensor) -> Tensor:
    """Probabilities `[B, classes]`, float64: of one class each, or multilabel of each finding for itself."""
    return logits.double().sigmoid() if task == "multilabel" else logits.double().softmax(1)


def judge(task: Task, scores: Tensor, targets: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy of held-out images, as `records.Milestone` says."""
    if task == "multilabel":
        stated = ~targets.isnan()
        chosen = torch.where(targets == 1, scores, 1 - scores)[stated]
        return float(-chosen.clamp_min(_LEAST).log().mean()), float((chosen > 0.5).double().mean())
    chosen = scores[torch.arange(len(targets)), targets].clamp_min(_LEAST)
    return float(-chosen.log().mean()), float((scores.argmax(1) == targets).double().mean())


def columns(task: Task, classes: Sequence[str], scores: Tensor, targets: Tensor) -> dict[str, npt.NDArray[np.float64]]:
    """The columns of predictions that belong to the task alone, see `predictions`."""
    found = {f"score_{name}": scores[:, place].numpy() for place, name in enumerate(classes)}
    if task == "multilabel":
        stated = {f"label_{name}": targets[:, place].double().numpy() for place, name in enumerate(classes)}
        return {**stated, **found}
    return found


def blank_targets(task: Task, batch: int, classes: int) -> Tensor:
    """Targets for timing a step: every class occurs as far as the batch goes."""
    places = torch.arange(batch) % classes
    return functional.one_hot(places, classes).float() if task == "multilabel" else places
