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

from cxrtl.errors import ConfigError
from cxrtl.learn.augment import IMAGENET_MEAN, IMAGENET_STD

SHADE = "shade"  # ends the name of K in weights files


class GreyConv(nn.Conv2d):
    """Takes the first of the channels `[N, 3, H, W]` that it is given: of grey images the others say the same."""

    shade: Tensor

    def __init__(self, rgb: nn.Conv2d, ratio: Tensor, offset: Tensor) -> None:
        """`ratio` and `offset` `[3]`: x_c = ratio_c x + offset_c."""
        size, stride, padding = rgb.kernel_size, rgb.stride, rgb.padding
        assert len(size) == len(stride) == 2
        device, dtype = rgb.weight.device, rgb.weight.dtype
        super().__init__(
            1, rgb.out_channels, size, stride, padding, bias=rgb.bias is not None, device=device, dtype=dtype
        )
        with torch.no_grad():
            self.weight.copy_((rgb.weight * ratio.to(device)[:, None, None]).sum(1, keepdim=True))
            self.register_buffer(SHADE, (rgb.weight * offset.to(device)[:, None, None]).sum(1, keepdim=True).detach())
            if self.bias is not None and rgb.bias is not None:
                self.bias.copy_(rgb.bias)

    def forward(self, given: Tensor) -> Tensor:
        ones = torch.ones_like(given[:1, :1])
        return super().forward(given[:, :1]) + functional.conv2d(ones, self.shade, None, self.stride, self.padding)


def make_grey(model: nn.Module) -> None:
    """Replace the first convolution, in place; a model that has a grey stem keeps it.

    Raises:
        ConfigError: the model does not begin with a plain convolution of three channels.
    """
    if has_grey(model):
        return
    name, first = next(((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)), ("", None))
    if first is None or first.in_channels != 3 or first.groups != 1 or first.dilation != (1, 1):
        raise ConfigError("train.stem = 'grey': this backbone does not begin with a convolution of three channels")
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    ratio, offset = std[0] / std, (mean[0] - mean) / std
    if getattr(model, "transform_input", False):  # GoogLeNet and Inception bring all channels to one scale themselves
        ratio, offset = torch.ones(3), torch.zeros(3)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, GreyConv(first, ratio, offset))


def has_grey(model: nn.Module) -> bool:
    return any(isinstance(module, GreyConv) for module in model.modules())
