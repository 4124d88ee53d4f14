"""What frozen layers compute, once: features in place of pixels, for every fold, budget and arm that shares them.

Heads train on `views` fixed draws of augmentation an image (one, where nothing is augmented) and are scored on the
images as they are. Frozen layers compute in fp32 whether their features are kept or not (`Uncached`), so that it makes
no difference to a head; a head that trains in bf16 takes them rounded to it.
"""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor, nn

from cxrtl import rundir, storage
from cxrtl.config import Augment, Recipe, Train
from cxrtl.errors import DamagedError
from cxrtl.learn import backbones, freeze
from cxrtl.learn.augment import Normalise, resample
from cxrtl.learn.precision import Precision
from cxrtl.records import Prepared, Task

VERSION = 1  # of the folder and of what is computed
CHUNK = 100  # images at once
ABOUT = "features.json"
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Features:
    """One part's features on the training device: `plain` `[N, …]` and `views` `[K × N, …]` of all images, of which
    `rows` `[n]` are the part's. Maps are stored channels last."""

    plain: Tensor
    views: Tensor
    rows: Tensor

    def batch(self, indices: Tensor, view: Tensor) -> Tensor:
        """The head's input for places `[B]` in the part, each in its view `[B]`."""
        return _layout(self.views.index_select(0, view * len(self.plain) + self.rows[indices]))

    def chunk(self, part: slice) -> Tensor:
        """The same without augmentation."""
        return _layout(self.plain.index_select(0, self.rows[part]))


def _layout(found: Tensor) -> Tensor:
    return found.permute(0, 3, 1, 2) if found.dim() == 4 else found


def view_count(train: Train, augment: Augment) -> int:
    """Fixed views an image; 0 where nothing is frozen, or where each pass draws afresh."""
    if not freeze.frozen(train):
        return 0
    return train.views if augment.active else 1


def shape(train: Train, size: int) -> tuple[int, ...] | None:
    """One image's features; None where the frozen part cannot be cut off. Nothing is computed."""
    model = backbones.build(train.backbone, 2, device="meta")
    freeze.apply(train, model, 2)
    body = freeze.split(train, model, 2).body
    if body is None:
        return None
    freeze.train_mode(body)
    device = next(model.parameters()).device
    return tuple(body(torch.empty((1, 3, size, size), device=device)).shape[1:])


def size(recipe: Recipe, prepared: Prepared) -> int:
    """Bytes of all images' features, plain and in every view; 0 where the frozen part cannot be cut off."""
    found, views = shape(recipe.train, prepared.image_size), view_count(recipe.train, recipe.augment)
    return 0 if found is None else 4 * math.prod(found) * (views + 1) * prepared.images


class Uncached(nn.Module):
    """The model in its two parts, for training on pixels."""

    def __init__(self, parts: freeze.Split) -> None:
        super().__init__()
        self.body, self.head = parts.body, parts.head

    def forward(self, given: Tensor) -> Tensor:
        body, head = self.body, self.head
        assert body is not None and head is not None
        with torch.no_grad(), torch.autocast(given.device.type, enabled=False):
            found = body(given)
        rounded = self.training and torch.is_autocast_enabled(given.device.type)
        return Tensor(head(found.to(torch.bfloat16) if rounded else found))


def net(train: Train, model: nn.Module, classes: int, task: Task, kept: bool) -> nn.Module:
    """What computes in training: the model, or where layers are frozen its parts, of which kept features need one."""
    if not freeze.frozen(train) or task == "segmentation":
        return model
    parts = freeze.split(train, model, classes)
    if kept and parts.head is not None:
        return parts.head
    return Uncached(parts) if parts.body is not None else model


def compute(
    body: nn.Module, pixels: Tensor, changes: tuple[Tensor, Tensor] | None, precision: Precision, device: torch.device
) -> Tensor:
    """Features `[K, N, …]` on the CPU of uint8 images `[N, C, H, W]`, for `changes` `[K, N, 2]` or none (K = 1):
    computed in fp32, rounded to `precision`."""
    normalise, parts = Normalise(device), []
    body.eval()
    with torch.inference_mode():
        for view in range(len(changes[0]) if changes else 1):
            for start in range(0, len(pixels), CHUNK):
                part = slice(start, start + CHUNK)
                grey = pixels[part].to(device).float()
                if changes:
                    scale, offset = (change[view, part].to(device) for change in changes)
                    grey = resample(grey, scale, offset)
                out = body(normalise(grey))
                out = (out.permute(0, 2, 3, 1) if out.dim() == 4 else out).cpu()
                parts.append(out.to(torch.bfloat16) if precision == "bf16" else out)
    together = torch.cat(parts)
    return together.reshape(-1, len(pixels), *together.shape[1:])


def rounded(found: Array) -> Array:
    """fp32 features as bf16 ones, see `read`."""
    return np.asarray(torch.from_numpy(found).to(torch.bfloat16).view(torch.int16).numpy())


def part_of(plain: Tensor, views: Tensor, rows: npt.NDArray[np.int64]) -> Features:
    """The features of the images in these places of the set, of all images' on the device."""
    return Features(plain, views, torch.from_numpy(rows).to(plain.device))


def write_part(folder: Path, name: str, found: Tensor) -> dict[str, str]:
    return {name: rundir.write_bytes(folder / name, safetensors.torch.save({"features": found.contiguous()}))}


def finish(folder: Path, spec: dict[str, Any], parts: dict[str, str]) -> None:
    """Write the description last: its presence, with the sha256 of each part, means that the features are whole."""
    rundir.write_json(folder / ABOUT, {"spec": spec, "parts": parts})


def read(folder: Path, spec: dict[str, Any]) -> Array | None:
    """The features `[K × N, …]` that `folder` holds; None where they are missing, damaged or others. bf16 is given as
    the int16 that has its bits, which numpy lacks."""
    storage.pull(folder)
    try:
        about = rundir.read_json(folder / ABOUT)
        if about["spec"] != json.loads(json.dumps(spec)):
            return None
        loaded = []
        for name, digest in about["parts"].items():
            if rundir.sha256_file(folder / name) != digest:
                return None
            loaded.append(safetensors.torch.load_file(folder / name)["features"])
    except (DamagedError, OSError, KeyError, TypeError, AttributeError, safetensors.SafetensorError):
        return None
    whole = torch.cat(loaded, dim=1).flatten(0, 1)
    return np.asarray((whole.view(torch.int16) if whole.dtype == torch.bfloat16 else whole).numpy())


def on_device(found: Array, device: torch.device) -> Tensor:
    """What `read` gave; on a CPU it is not copied."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # shared memory: nothing writes to features
        tensor = torch.from_numpy(found)
    return (tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor).to(device)
