"""A U-Net on any convolutional backbone of torchvision: its feature maps, level by level, and a decoder over them.

The libraries with ready decoders bring encoders of their own, whose weights bear other names. Here the encoder is the
classifier's own layers under their own names, so that one weights file, or an earlier stage's classifier, serves both.
Decoder after Ronneberger et al., MICCAI 2015: enlarge, join the encoder's map of that size, two convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from cxrtl.errors import ConfigError
from cxrtl.learn import backbones
from cxrtl.learn.vision import feature_extraction

_WIDTH = 16  # channels of the decoder at the largest map; twice as many at each level below
_LOOK_AT = 224  # pixels of the image whose maps tell the levels
_CLASSES = 2  # of the classifier that is looked at: any number


class UNet(nn.Module):
    """Images `[N, C, H, W]` → logits `[N, outputs, H, W]`. `encoder.*` bears the classifier's names."""

    def __init__(self, encoder: nn.Module, channels: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        widths = [_WIDTH * 2**level for level in range(len(channels) - 1)]
        below = [*widths[1:], channels[-1]]
        self.decoder = nn.Module()
        self.decoder.blocks = nn.ModuleList(
            _Block(deep + skip, width) for deep, skip, width in zip(below, channels, widths, strict=False)
        )
        self.decoder.out = nn.Conv2d(_WIDTH, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        *skips, deep = self.encoder(images).values()
        blocks = self.decoder.blocks
        assert isinstance(blocks, nn.ModuleList) and isinstance(self.decoder.out, nn.Conv2d)
        for block, skip in zip(reversed(blocks), reversed(skips), strict=True):
            # the nearest pixel: the gradient of bilinear enlarging is summed in no fixed order on a GPU
            deep = block(torch.cat((functional.interpolate(deep, size=skip.shape[-2:]), skip), 1))
        return _enlarge(self.decoder.out(deep), images.shape[-2:])


class _Block(nn.Sequential):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )


def _enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, as two products with fixed matrices: their gradients are summed in a fixed order."""
    rows, columns = (_weights(length, wanted, maps) for length, wanted in zip(maps.shape[-2:], size, strict=True))
    return rows @ maps @ columns.T


def _weights(length: int, wanted: int, like: Tensor) -> Tensor:
    """`[wanted, length]`: the share of each old place in each new one."""
    eye = torch.eye(length, device=like.device)[None]
    return functional.interpolate(eye, size=wanted, mode="linear", align_corners=False)[0].T.to(like.dtype)


def build(name: str, classifier: nn.Module, outputs: int) -> UNet:
    """A U-Net that shares the layers of `classifier`, the backbone `name`; its decoder is freshly drawn.

    Raises:
        ConfigError: the backbone has no maps of several sizes, as a transformer of one resolution.
    """
    found = levels(name)
    extractor = feature_extraction.create_feature_extractor(classifier, {node: node for node, _ in found})
    return UNet(extractor, [channels for _, channels in found], outputs)


@cache
def levels(name: str) -> tuple[tuple[str, int], ...]:
    """(Node, channels) of the last map of each size, from the largest, before the head.

    A node counts where all that comes after it comes through it: no map from inside a residual block.
    """
    model = backbones.build(name, _CLASSES, device="meta").eval()
    _, nodes = feature_extraction.get_graph_node_names(model)
    extractor = feature_extraction.create_feature_extractor(model, nodes).eval()
    names = {node: key for key, node in extractor.graph.output_node().args[0].items()}
    image = torch.empty(2, 3, _LOOK_AT, _LOOK_AT, device=next(model.parameters()).device)
    with torch.no_grad():
        maps = extractor(image)
    head = {key.rpartition(".")[0] for key in backbones.head_keys(name, _CLASSES)}
    found: dict[int, tuple[str, int]] = {}
    for node in _passages(extractor.graph):
        module = extractor.get_submodule(str(node.target)) if node.op == "call_module" else None
        if node.target in head or isinstance(module, nn.AdaptiveAvgPool2d) or "adaptive" in str(node.target):
            break
        shape = tuple(getattr(maps.get(names.get(node)), "shape", ()))
        square = len(shape) == 4 and shape[2] == shape[3] > 1
        if square and shape[2] <= min(found, default=_LOOK_AT) and not isinstance(module, nn.Dropout):
            found[shape[2]] = (names[node], shape[1])
    if len(found) < 3:
        raise ConfigError(
            f"train.backbone = {name!r} has maps of {len(found)} size(s), and a segmentation needs three or more: take "
            "a convolutional backbone such as resnet50"
        )
    return tuple(found.values())


def _passages(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that every way from the image to the output goes through, in order."""
    nodes = [node for node in graph.nodes if node.op not in ("get_attr", "output")]
    place = {node: number for number, node in enumerate(nodes)}
    reach, found = 0, []
    for number, node in enumerate(nodes):
        if reach <= number and node.op != "placeholder":
            found.append(node)
        reach = max(reach, *(place[user] for user in node.users if user in place), 0)
    return found
