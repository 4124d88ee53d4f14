"""A first convolution for one channel, that computes of a grey image what the three-channel one does.

An RGB stem sees a grey image g (0 to 1) three times, as x_c = (g - mean_c) / std_c, and pads with 0. With the red
channel's x = (g - mean_r) / std_r, x_c = x · std_r / std_c + (mean_r - mean_c) / std_c, so that inside the image

    Σ_c W_c ∗ x_c  =  V ∗ x + K ∗ 1,   V = Σ_c W_c std_r / std_c,   K = Σ_c W_c (mean_r - mean_c) / std_c

where 1 is an image of ones. Padded with 0 as x is, it makes the border agree, too: there K meets fewer ones. V is
trained, K stays: it is part of how the image is given, not of what was learned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cxrtl.errors import ConfigError, WeightsError
from cxrtl.learn import backbones
from cxrtl.learn.augment import IMAGENET_MEAN, IMAGENET_STD

SHADE = "shade"  # ends the name of K in weights files


class GreyConv(nn.Conv2d):
    """Takes the first of the channels `[N, 3, H, W]` that it is given: of grey images the others say the same."""

    shade: Tensor

    def __init__(self, rgb: nn.Conv2d, ratio: Tensor, offset: Tensor) -> None:
        """`ratio` and `offset` `[3]`: x_c = ratio_c x + offset_c."""
        size, stride, padding = rgb.kernel_size, rgb.stride, rgb.padding
        assert len(size) == len(stride) == len(padding) == 2 and not isinstance(padding, str)
        device, dtype = rgb.weight.device, rgb.weight.dtype
        super().__init__(
            1, rgb.out_channels, size, stride, padding, bias=rgb.bias is not None, device=device, dtype=dtype
        )
        self.ratio, self.offset = ratio, offset
        weight, shade = self.fold(rgb.weight.detach())
        self.register_buffer(SHADE, shade)
        with torch.no_grad():
            self.weight.copy_(weight)
            if self.bias is not None and rgb.bias is not None:
                self.bias.copy_(rgb.bias)

    def fold(self, rgb: Tensor) -> tuple[Tensor, Tensor]:
        """V and K `[out, 1, h, w]` of three-channel filters `[out, 3, h, w]`."""
        ratio, offset = (part.to(rgb.device)[:, None, None] for part in (self.ratio, self.offset))
        return (rgb * ratio).sum(1, keepdim=True), (rgb * offset).sum(1, keepdim=True)

    def forward(self, given: Tensor) -> Tensor:
        ones = torch.ones_like(given[:1, :1])
        return super().forward(given[:, :1]) + functional.conv2d(ones, self.shade, None, self.stride, self.padding)


def make_grey(model: nn.Module, channels: int = 1) -> None:
    """Replace the first convolution, in place. `channels`: of the images.

    Raises:
        ConfigError: the images are not grey, or the model does not begin with a plain convolution of three channels.
    """
    name, first = backbones.stem(model)
    if channels != 1 or first.in_channels != 3 or first.groups != 1 or first.dilation != (1, 1):
        raise ConfigError(
            f"train.stem = 'grey' is for images of one channel (these have {channels}) and backbones that begin with a "
            "plain convolution: set train.stem = 'rgb'"
        )
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    ratio, offset = std[0] / std, (mean[0] - mean) / std
    if getattr(model, "transform_input", False):  # GoogLeNet and Inception bring all channels to one scale themselves
        ratio, offset = torch.ones(3), torch.zeros(3)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, GreyConv(first, ratio, offset))


def fit(given: dict[str, Tensor], first: nn.Module, name: str) -> None:
    """Fold a file's three-channel filters, in place, where the model's first layer `name` takes one channel.

    Raises:
        WeightsError: the file's first layer takes one, and the model's three.
    """
    filters = given.get(f"{name}.weight")
    if isinstance(first, GreyConv) and filters is not None and filters.dim() == 4 and filters.shape[1] == 3:
        given[f"{name}.weight"], given[f"{name}.{SHADE}"] = first.fold(filters)
    elif f"{name}.{SHADE}" in given and not isinstance(first, GreyConv):
        raise WeightsError("these weights have a first layer for one channel: set train.stem = 'grey'")
