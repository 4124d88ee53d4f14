"""The square of `data.images.files` as tensor operations, bit for bit, so that it can travel inside an ONNX file."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_FIXED = 2.0**22  # Pillow rounds the weights of 8-bit images to multiples of its inverse


class Square(nn.Module):
    """Grey `[N, 1, H, W]`, 0 to 255, of any height and width → `[N, 1, size, size]` in float64, whole numbers.

    Pillow's bilinear resize with antialiasing is two matrix products, along the width and then along the height, each
    rounded half up: a triangle as wide as the scale (at least one pixel), cut off at the image's edge and normalised.
    """

    def __init__(self, size: int, aspect: str) -> None:
        super().__init__()
        self.size, self.aspect = size, aspect

    def forward(self, grey: Tensor) -> Tensor:
        height, width = grey.shape[2], grey.shape[3]
        down, across = self._windows(*(torch.scalar_tensor(side, dtype=torch.float64) for side in (height, width)))
        rows = torch.floor(grey.double() @ self._weights(width, *across).T + 0.5).clamp(0, 255)
        return torch.floor(self._weights(height, *down) @ rows + 0.5).clamp(0, 255)

    def _windows(self, *sides: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """For each axis: where the part of the image that is used begins, its length, and the same in the square."""
        size, none = torch.full_like(sides[0], self.size), torch.zeros_like(sides[0])
        if self.aspect == "crop":
            least = torch.minimum(*sides)
            return [(torch.floor((side - least) / 2), least, none, size) for side in sides]
        if self.aspect == "pad":
            scale = size / torch.maximum(*sides)
            lengths = [torch.round(side * scale).clamp(min=1) for side in sides]
            parts = zip(sides, lengths, strict=True)
            return [(none, side, torch.floor((size - length) / 2), length) for side, length in parts]
        return [(none, side, none, size) for side in sides]

    def _weights(self, count: int, start: Tensor, span: Tensor, first: Tensor, length: Tensor) -> Tensor:
        """`[size, count]`: the share of each of `count` pixels in each of the square's; rows beside the part are 0."""
        place = torch.arange(self.size, dtype=torch.float64, device=start.device) - first
        at = torch.arange(count, dtype=torch.float64, device=start.device)
        scale = span / length
        centre = start + (place + 0.5) * scale
        near = torch.relu(1 - ((at[None] - centre[:, None] + 0.5) * (1 / scale.clamp(min=1))).abs())
        near = near * ((at >= start) & (at < start + span)).double()
        share = near * (1 / near.sum(dim=1, keepdim=True).clamp(min=1e-12))
        inside = ((place >= 0) & (place < length)).double()
        return torch.floor(share * _FIXED + 0.5) / _FIXED * inside[:, None]
