"""What a trial trains on and under."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cxrtl.config import Augment, Train
from cxrtl.learn.augment import Normalise, resample
from cxrtl.learn.features import Features
from cxrtl.learn.parallel import ALONE, Workers
from cxrtl.learn.precision import Precision
from cxrtl.records import Task

PIECE = 500  # masks at once


@dataclass(frozen=True)
class Images:
    """Images on the training device: uint8 `[N, C, H, W]`, and targets `[N, …]` as `objective` says of the task.

    `rows` `[n]`: where they are images that several folds share, the places of this part's; without, all are.
    `views`: scale and offset `[K, n, 2]` of each image's fixed views, where it has them. `features`: what stands for
    the pixels where a frozen part was computed before; the model is then the part after it.
    """

    pixels: Tensor
    targets: Tensor
    views: tuple[Tensor, Tensor] | None = None
    features: Features | None = None
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets if self.rows is None else self.rows)

    @property
    def side(self) -> int:
        """Of an image, in pixels."""
        return self.pixels.shape[-1]

    def truth(self) -> Iterator[Tensor]:
        """All targets in order; masks in pieces, as all at once would take a GPU's memory once more."""
        at_once = PIECE if self.targets.dim() > 2 else max(1, len(self))
        for start in range(0, max(1, len(self)), at_once):
            part = slice(start, start + at_once)
            yield self.targets[part if self.rows is None else self.rows[part]]

    def aims(self, indices: Tensor) -> Tensor:
        """The targets in training."""
        return self.targets[indices if self.rows is None else self.rows[indices]]

    def batch(
        self, normalise: Normalise, indices: Tensor, changes: tuple[Tensor, Tensor] | None, view: Tensor
    ) -> Tensor:
        """The model's input in training; `changes`: scale and offset, None where nothing is augmented."""
        if self.features:
            return self.features.batch(indices, view)
        grey = self.pixels[indices if self.rows is None else self.rows[indices]].float()
        return normalise(resample(grey, *changes) if changes else grey)

    def chunks(self, normalise: Normalise, at_once: int) -> Iterator[Tensor]:
        """The model's input in evaluation."""
        for start in range(0, len(self), at_once):
            part = slice(start, start + at_once)
            if self.features:
                yield self.features.chunk(part)
            else:
                yield normalise(self.pixels[part if self.rows is None else self.rows[part]].float())


@dataclass(frozen=True)
class Setting:
    """All that decides a trial's numbers besides the starting weights; with more than one worker, this one's view."""

    train: Train
    augment: Augment
    seed: int
    fold: int
    classes: int
    precision: Precision
    device: torch.device
    task: Task = "binary"
    workers: Workers = ALONE
