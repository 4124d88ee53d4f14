"""Random changes of training images: drawn for a whole pass at once, applied in one resampling an image.

Every change keeps the axes, so each image's change is one scale and one offset an axis. In coordinates from -1 to 1,
a point of the new image takes its value from `scale * point + offset` of the old.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cxrtl.config import Augment

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_ORDER, _CHANGES, _INIT, _STEP, _VIEWS, _CHOICE = range(6)  # what a stream of random numbers is for


def stream(purpose: int, seed: int, fold: int, index: int) -> np.random.Generator:
    """Independent random numbers for one purpose, fold and pass or iteration; the same on every machine."""
    return np.random.default_rng(np.random.SeedSequence((purpose, seed, fold, index)))


def torch_seed(seed: int, fold: int, iteration: int | None) -> int:
    """Seed of torch's generator: for drawing new layers (None), or for the dropout of one iteration."""
    purpose, index = (_INIT, 0) if iteration is None else (_STEP, iteration)
    return int(stream(purpose, seed, fold, index).integers(2**63))


@dataclass(frozen=True)
class Pass:
    """One pass over the training images: `order` `[N]`, and by place in the order `[N, 2]` (x, y) scale and offset,
    and which of an image's fixed views these are, `[N]` (0 without)."""

    order: Tensor
    scale: Tensor
    offset: Tensor
    view: Tensor


def draw_pass(augment: Augment, seed: int, fold: int, index: int, images: int) -> Pass:
    """Order and changes of pass `index`, a function of (seed, fold, index) and the images' number alone."""
    order = stream(_ORDER, seed, fold, index).permutation(images)
    changes = _draw_changes(augment, stream(_CHANGES, seed, fold, index), images)
    return Pass(torch.from_numpy(order), *changes, torch.zeros(images, dtype=torch.int64))


def draw_views(augment: Augment, seed: int, views: int, images: int) -> tuple[Tensor, Tensor]:
    """Scale and offset `[views, N, 2]` of fixed views of all images of a set, a function of (seed, view) and N."""
    drawn = [_draw_changes(augment, stream(_VIEWS, seed, 0, view), images) for view in range(views)]
    return torch.stack([scale for scale, _ in drawn]), torch.stack([offset for _, offset in drawn])


def choose_views(drawn: Pass, views: tuple[Tensor, Tensor], seed: int, fold: int, index: int) -> Pass:
    """The pass with each image's changes taken from one of its views, by (seed, fold, index)."""
    choice = stream(_CHOICE, seed, fold, index).integers(len(views[0]), size=len(drawn.order))
    view = torch.from_numpy(choice)
    return Pass(drawn.order, views[0][view, drawn.order], views[1][view, drawn.order], view)


def _draw_changes(augment: Augment, numbers: np.random.Generator, images: int) -> tuple[Tensor, Tensor]:
    """Scale and offset `[images, 2]`.

    Always draws the same numbers, so that recipes which differ in one switch share all the other changes.
    """
    u = numbers.random((images, 11))
    signed = 2 * u - 1
    scale, offset = np.ones((images, 2)), np.zeros((images, 2))

    # The last change of the new image is the first to undo on the way to the old one.
    shifted = u[:, 0] < augment.translate_probability
    offset -= np.where(shifted[:, None], 2 * augment.translate * signed[:, 1:3], 0)  # a side is 2 long

    cut = np.where(u[:, 3] < augment.crop_probability, augment.crop * u[:, 4], 0)[:, None]
    scale, offset = scale * (1 - cut), offset * (1 - cut) + cut * signed[:, 5:7]

    chances = (augment.flip_horizontal_probability, augment.flip_vertical_probability)
    mirror = np.where(u[:, 7:9] < chances, -1.0, 1.0)
    zoom = np.where(u[:, 9] < augment.scale_probability, 1 + augment.scale * signed[:, 10], 1)[:, None]
    scale, offset = scale * mirror / zoom, offset * mirror / zoom
    return torch.from_numpy(scale.astype(np.float32)), torch.from_numpy(offset.astype(np.float32))


def follow(targets: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Targets after the changes: masks `[N, H, W]` go along, by the nearest pixel, others stay as they are."""
    if targets.dim() < 3:
        return targets
    return resample(targets[:, None].float(), scale, offset, "nearest")[:, 0].to(targets.dtype)


def resample(grey: Tensor, scale: Tensor, offset: Tensor, mode: str = "bilinear") -> Tensor:
    """Apply the changes: `[N, C, H, W]` float → the same shape; bilinear or nearest, 0 outside the image."""
    n, _, height, width = grey.shape
    grid = torch.empty((n, height, width, 2), device=grey.device)  # filled directly: affine_grid multiplies matrices
    for axis, length in ((0, width), (1, height)):
        centres = (2 * torch.arange(length, device=grey.device) + 1) / length - 1
        points = scale[:, axis, None] * centres + offset[:, axis, None]  # [N, length]
        grid[..., axis] = points[:, None, :] if axis == 0 else points[:, :, None]
    return functional.grid_sample(grey, grid, mode=mode, padding_mode="zeros", align_corners=False)


class Normalise:
    """uint8 pixels → network input, by ImageNet's mean and deviation, channels last.

    Grey becomes three channels. Other numbers of channels than one and three are each normalised as grey is on average.
    """

    def __init__(self, device: torch.device) -> None:
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        self.factor, self.shift = 1 / (255 * std), -mean / std

    def __call__(self, grey: Tensor) -> Tensor:
        """`[N, C, H, W]` float of 0 to 255 → the same, one channel to three, in one pass over memory."""
        n, channels, height, width = grey.shape
        factor, shift = self.factor, self.shift
        if channels not in (1, 3):
            factor, shift = factor.mean(1, keepdim=True), shift.mean(1, keepdim=True)
        shape = (n, 3 if channels == 1 else channels, height, width)
        out = torch.empty(shape, device=grey.device, memory_format=torch.channels_last)
        return torch.addcmul(shift, grey, factor, out=out)
