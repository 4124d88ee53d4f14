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


def build(name: str, classes: int, *, device: str = "cpu", channels: int = 3) -> nn.Module:
    """The model with freshly drawn parameters, for images `[N, channels, H, W]`, giving logits `[N, classes]`.

    With other than three channels the first convolution is drawn anew, as torch draws one. Draws from torch's global
    generator: seed it first.
    """
    check_name(name)
    if name.startswith("regnet"):
        device = "cpu"  # computes its widths with tensors, which a device without data cannot
    with torch.device(device):
        extra = _EXTRA.get(name, {})
        if extra and channels != 3:
            extra = {**extra, "transform_input": False}
        model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **extra)
        if channels != 3:
            _replace_stem(model, channels)
    return model


def _replace_stem(model: nn.Module, channels: int) -> None:
    key, old = stem(model)
    new = nn.Conv2d(
        channels,
        old.out_channels,
        tuple(old.kernel_size),  # type: ignore[arg-type]
        tuple(old.stride),  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    parent, _, name = key.rpartition(".")
    setattr(model.get_submodule(parent), name, new)


def let_logits_fall_below_zero(model: nn.Module) -> None:
    """SqueezeNet ends in a ReLU, which a softmax forgives; a sigmoid of it never says that a finding is absent."""
    if isinstance(model, models.SqueezeNet):
        model.classifier[2] = nn.Identity()


def stem(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """Name and module of the convolution that sees the image: the first."""
    return next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))


@cache
def head_keys(name: str, classes: int) -> frozenset[str]:
    """Names of the parameters that belong to the new last layer: those whose shape follows the number of classes."""
    shapes = [
        {key: value.shape for key, value in build(name, count, device="meta").state_dict().items()}
        for count in (classes, classes + 1)
    ]
    return frozenset(key for key, shape in shapes[0].items() if shape != shapes[1][key])
