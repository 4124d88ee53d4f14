"""What a trial trains on and under."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cxrtl.config import Augment, Train
from cxrtl.learn.precision import Precision
from cxrtl.records import Task


@dataclass(frozen=True)
class Images:
    """Images on the training device: uint8 `[N, C, H, W]`, and targets `[N, …]` as `objective` says of the task."""

    pixels: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Setting:
    """All that decides a trial's numbers besides the starting weights."""

    train: Train
    augment: Augment
    seed: int
    fold: int
    classes: int
    precision: Precision
    device: torch.device
    task: Task = "binary"
