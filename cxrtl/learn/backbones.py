"""Any classification model of torchvision by name, its last layer replaced for our classes."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any

import torch
from torch import nn

from cxrtl.errors import ConfigError
from cxrtl.learn.vision import models

# GoogLeNet's and Inception's side outputs are left out: they serve training from scratch on a million images.
# Their ImageNet weights were trained on inputs from -1 to 1, which these models make themselves of our normalised ones.
_EXTRA: dict[str, dict[str, Any]] = {
    name: {"aux_logits": False, "init_weights": True, "transform_input": True} for name in ("googlenet", "inception_v3")
}


@cache
def names() -> tuple[str, ...]:
    return tuple(models.list_models(module=models))


def check_name(name: str) -> None:
    """Raises ConfigError, with the nearest names, where torchvision has no such model."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3) or ["resnet50", "squeezenet1_1"]
        raise ConfigError(
            f"train.backbone = {name!r} is no classification model of torchvision. Near: {', '.join(near)}."
        )


def build(name: str, classes: int, *, device: str = "cpu") -> nn.Module:
    """The model with freshly drawn parameters, for images `[N, 3, H, W]`, giving logits `[N, classes]`.

    Draws from torch's global generator: seed it first.
    """
    check_name(name)
    if name.startswith("regnet"):
        device = "cpu"  # computes its widths with tensors, which a device without data cannot
    with torch.device(device):
        model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **_EXTRA.get(name, {}))
    return model


@cache
def head_keys(name: str, classes: int) -> frozenset[str]:
    """Names of the parameters that belong to the new last layer: those whose shape follows the number of classes."""
    shapes = [
        {key: value.shape for key, value in build(name, count, device="meta").state_dict().items()}
        for count in (classes, classes + 1)
    ]
    return frozenset(key for key, shape in shapes[0].items() if shape != shapes[1][key])
