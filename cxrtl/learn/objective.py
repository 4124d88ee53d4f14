"""What a model learns in each task: the loss, what counts as right, and the scores that its logits mean.

task          logits              targets
binary        `[B, 2]`            `[B]`, places of the classes
multiclass    `[B, C]`            `[B]`, places of the classes
multilabel    `[B, F]`            `[B, F]`, 1, 0, or NaN where a finding is not stated
segmentation  `[B, S + 1, H, W]`  `[B, H, W]`, 0, or the structure's number from 1
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from cxrtl.config import Train
from cxrtl.evaluate import outlines
from cxrtl.evaluate.overlap import dice
from cxrtl.records import Task

_SMOOTH = 1e-5  # pixels: a structure that a batch lacks gives a Dice of 1 where none is found
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


@dataclass(frozen=True)
class Structures:
    """Each pixel's structure: cross-entropy, each by its `weight` `[S + 1]`, plus soft Dice of the batch.

    Their plain sum, Dice as the mean over the structures without the background, as in nnU-Net (Isensee et al., Nature
    Methods 2021); soft Dice after Milletari et al., 3DV 2016. Summed without scattering: in the same order on a GPU.
    """

    weight: Tensor | None

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        numbers = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
        truth = (targets[:, None] == numbers).float()
        weighted = truth if self.weight is None else truth * self.weight.view(1, -1, 1, 1)
        chances = logits.log_softmax(1)
        entropy = -(weighted * chances).sum() / weighted.sum()
        soft = chances.exp()
        shared, both = ((each[:, 1:]).sum((0, 2, 3)) for each in (soft * truth, soft + truth))
        return entropy + 1 - ((2 * shared + _SMOOTH) / (both + _SMOOTH)).mean()

    def hits(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Share of the batch's pixels whose structure, or background, has the highest logit."""
        return (logits.argmax(1) == targets).double().mean()


Objective = Classes | Findings | Structures


def make(task: Task, train: Train, truth: Iterable[Tensor], classes: int, device: torch.device) -> Objective:
    """The objective of `task` for training images with these targets, in pieces: masks in any number."""
    weigh = train.class_weights
    if task == "segmentation":
        return Structures(structure_weights(truth, classes).to(device) if weigh else None)
    if task == "multilabel":
        return Findings(finding_weights(*truth).to(device) if weigh else None)
    (targets,) = truth
    return Classes(class_weights(targets, classes).to(device) if weigh else None)


def class_weights(targets: Tensor, classes: int) -> Tensor:
    """Inverse class frequencies of the training images, with mean 1 over images: `[classes]`."""
    counts = torch.bincount(targets, minlength=classes).float()
    return len(targets) / (classes * counts)


def finding_weights(targets: Tensor) -> Tensor:
    """The same for each finding over the images that state it: `[2, findings]`, absent and present."""
    counts = torch.stack([(targets == value).sum(0).float() for value in (0, 1)])
    return counts.sum(0) / (2 * counts.clamp_min(1))


def structure_weights(masks: Iterable[Tensor], structures: int) -> Tensor:
    """The same over pixels: `[structures + 1]`, the background first."""
    counts, pixels = torch.zeros(structures + 1, dtype=torch.int64), 0
    for part in masks:
        counts += torch.stack([(part == number).sum() for number in range(structures + 1)]).cpu()
        pixels += part.numel()
    return pixels / ((structures + 1) * counts.float().clamp_min(1))


def outputs(task: Task, classes: int) -> int:
    """Logits that a model gives of each image, or of each pixel."""
    return classes + 1 if task == "segmentation" else classes


def scores(task: Task, logits: Tensor) -> Tensor:
    """Probabilities `[B, classes]`, float64: of one class each, or multilabel of each finding for itself.

    Segmentation: the structure found at each pixel, uint8 `[B, H, W]`.
    """
    if task == "segmentation":
        return logits.argmax(1).to(torch.uint8)
    return logits.double().sigmoid() if task == "multilabel" else logits.double().softmax(1)


def judge(task: Task, classes: int, scores: Tensor, targets: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy of held-out images, as `records.Milestone` says."""
    if task == "multilabel":
        stated = ~targets.isnan()
        chosen = torch.where(targets == 1, scores, 1 - scores)[stated]
        return float(-chosen.clamp_min(_LEAST).log().mean()), float((chosen > 0.5).double().mean())
    if task == "segmentation":
        mean = float(
            np.mean([dice(*outlines.counts(*_areas(scores, targets, number))) for number in range(1, classes + 1)])
        )
        return 1 - mean, mean
    chosen = scores[torch.arange(len(targets)), targets].clamp_min(_LEAST)
    return float(-chosen.log().mean()), float((scores.argmax(1) == targets).double().mean())


def columns(task: Task, classes: Sequence[str], scores: Tensor, targets: Tensor) -> dict[str, npt.NDArray[np.float64]]:
    """The columns of predictions that belong to the task alone, see `predictions`."""
    if task == "segmentation":
        return {
            f"{kind}_{name}": values
            for place, name in enumerate(classes, start=1)
            for kind, values in _measures(*_areas(scores, targets, place)).items()
        }
    found = {f"score_{name}": scores[:, place].numpy() for place, name in enumerate(classes)}
    if task == "multilabel":
        stated = {f"label_{name}": targets[:, place].double().numpy() for place, name in enumerate(classes)}
        return {**stated, **found}
    return found


def _areas(scores: Tensor, targets: Tensor, number: int) -> tuple[outlines.Areas, outlines.Areas]:
    """Truth and prediction of one structure, `[N, H, W]`."""
    return (targets == number).numpy(), (scores == number).numpy()


def _measures(truth: outlines.Areas, predicted: outlines.Areas) -> dict[str, npt.NDArray[np.float64]]:
    sizes = dict(zip(("truth", "predicted", "shared"), outlines.counts(truth, predicted), strict=True))
    return sizes | {
        "hausdorff95": np.array([outlines.hausdorff95(*pair) for pair in zip(truth, predicted, strict=True)])
    }


def blank_targets(task: Task, batch: int, classes: int, size: int = 1) -> Tensor:
    """Targets for timing a step on images of `size`² pixels: every class occurs as far as the batch goes."""
    if task == "segmentation":
        return (torch.arange(size) % (classes + 1)).to(torch.uint8).expand(batch, size, size).contiguous()
    places = torch.arange(batch) % classes
    return functional.one_hot(places, classes).float() if task == "multilabel" else places
