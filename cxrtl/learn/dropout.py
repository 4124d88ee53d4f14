"""Layers of a head on frozen features, where they and no backbone are what takes time, made quick on a CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class CoinDropout(nn.Dropout):
    """`nn.Dropout(0.5)` at a random bit an element, where torch draws a number an element: ten times faster. Draws from
    torch's global generator, as that does. Elsewhere than on a CPU it is that."""

    def __init__(self) -> None:
        super().__init__(0.5)

    def forward(self, given: Tensor) -> Tensor:
        if not self.training or given.device.type != "cpu":
            return functional.dropout(given, self.p, self.training)
        count = given.numel()
        words = torch.empty(-(-count // 64), dtype=torch.int64).random_(-(2**63), None)
        coins = torch.from_numpy(np.unpackbits(words.numpy().view(np.uint8), count=count)).mul_(2)
        # laid out as `given` is in memory, where multiplying is one pass
        strides = given.stride()
        order = sorted(range(given.dim()), key=lambda axis: -strides[axis])
        mask = coins.view([given.shape[axis] for axis in order]).permute([order.index(a) for a in range(given.dim())])
        return given * mask


class PointConv(nn.Conv2d):
    """A 1 × 1 convolution to few channels, as the matrix product that it is on maps stored channels last."""

    def __init__(self, given: nn.Conv2d) -> None:
        """With the parameters of `given`."""
        super().__init__(given.in_channels, given.out_channels, 1, bias=given.bias is not None, device="meta")
        self.weight, self.bias = given.weight, given.bias

    def forward(self, maps: Tensor) -> Tensor:
        points = functional.linear(maps.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return points.permute(0, 3, 1, 2)
