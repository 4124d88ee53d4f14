"""Names of layers in weights files of other makers, brought to torchvision's.

What maps exactly: timm's ResNet, ResNeXt, Wide ResNet and DenseNet (the same names), its VGG (whose first two fully
connected layers are written as convolutions) and its ConvNeXt; DenseNet's files of an older torchvision. timm's other
families differ from torchvision's in layers, in the inputs they were trained on, or both: they are refused by the names
that do not fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\..+)$")  # norm.1 for norm1
_VGG = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}
_CONVNEXT_BLOCK = {"conv_dw": "0", "norm": "2", "mlp.fc1": "3", "mlp.fc2": "5"}


def to_torchvision(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under torchvision's names, in its shapes."""
    if "pre_logits.fc1.weight" in given:
        return _renamed(given, _vgg)
    if "stages.0.blocks.0.conv_dw.weight" in given and "stem.0.weight" in given:
        return _renamed(given, _convnext)
    return {_DENSENET.sub(r"\1\2", key): value for key, value in given.items()}


def _renamed(given: dict[str, Tensor], rule: Callable[[str, Tensor], tuple[str, Tensor]]) -> dict[str, Tensor]:
    return dict(rule(key, value) for key, value in given.items())


def _vgg(key: str, value: Tensor) -> tuple[str, Tensor]:
    layer, _, kind = key.rpartition(".")
    as_convolution = layer.startswith("pre_logits") and kind == "weight"
    return f"{_VGG.get(layer, layer)}.{kind}", value.flatten(1) if as_convolution else value


def _convnext(key: str, value: Tensor) -> tuple[str, Tensor]:
    if match := re.match(r"^stages\.(\d)\.blocks\.(\d+)\.(.+?)(?:\.(weight|bias))?$", key):
        block = f"features.{2 * int(match[1]) + 1}.{match[2]}"
        if match[3] == "gamma":
            return f"{block}.layer_scale", value.view(-1, 1, 1)
        return f"{block}.block.{_CONVNEXT_BLOCK.get(match[3], match[3])}.{match[4]}", value
    key = re.sub(r"^stem\.", "features.0.", key)
    key = re.sub(r"^stages\.(\d)\.downsample\.", lambda found: f"features.{2 * int(found[1])}.", key)
    return re.sub(r"^head\.fc\.", "classifier.2.", re.sub(r"^head\.norm\.", "classifier.0.", key)), value
