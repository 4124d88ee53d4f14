"""Grad-CAM of any backbone through captum: where in an image the score of a class comes from.

Selvaraju et al., Grad-CAM, ICCV 2017. The layer is the last one with a spatial output before the new last layer, found
by running an image through. A vision transformer has none: its last block's tokens are laid out as the grid of patches
that they are. Parameters that training froze get their gradient back: the maps need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

import numpy as np
import numpy.typing as npt
import torch
from captum.attr import LayerGradCam
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional

from cxrtl.errors import ConfigError
from cxrtl.learn import backbones
from cxrtl.learn.augment import Normalise
from cxrtl.learn.vision import models
from cxrtl.predictions import FloatArray
from cxrtl.records import Task

BATCH = 16
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the layers, from the last to the first, that a cascade has randomised


class Tokens(nn.Module):
    """Tokens `[N, 1 + g², D]`, unchanged; on the way, `grid` sees all but the class token as `[N, D, g, g]`."""

    def __init__(self) -> None:
        super().__init__()
        self.grid = nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        first, patches = tokens[:, :1], tokens[:, 1:]
        side = isqrt(patches.shape[1])
        laid = self.grid(patches.transpose(1, 2).reshape(len(tokens), -1, side, side))
        return torch.cat([first, laid.flatten(2).transpose(1, 2)], dim=1)


class Saliency:
    """Maps of one model; `model` is changed in place, and gives the same scores as before."""

    def __init__(self, model: nn.Module, backbone: str, classes: int, task: Task, size: int) -> None:
        self.model, self.task, self.size = model.eval().requires_grad_(True), task, size
        self.device = next(model.parameters()).device
        self.normalise = Normalise(self.device)
        if isinstance(model, models.VisionTransformer):
            block = model.encoder.layers[-1]
            block.ln_1 = nn.Sequential(block.ln_1, Tokens())
        heads = {key.rpartition(".")[0] for key in backbones.head_keys(backbone, classes)}
        self.layers, spatial = self._run_through(heads)
        if not spatial:
            raise ConfigError(f"backbone {backbone!r} has no layer with a spatial output: Grad-CAM cannot explain it")
        self.layer = spatial[-1]

    def _run_through(self, heads: set[str]) -> tuple[list[str], list[str]]:
        """Names of the layers with parameters, and of those with a spatial output before the head, as they run."""
        layers: list[str] = []
        spatial: list[str] = []
        headed: list[bool] = []
        hooks = []

        def after(name: str, module: nn.Module, output: object) -> None:
            if not list(module.children()) and list(module.parameters()) and name not in layers:
                layers.append(name)
            if isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1 and not headed:
                spatial.append(name)

        for name, module in self.model.named_modules():
            if name in heads:
                hooks.append(module.register_forward_pre_hook(lambda *_: headed.append(True)))
            hook = module.register_forward_hook(lambda m, _, output, name=name: after(name, m, output))
            hooks.append(hook)
        with torch.no_grad():
            self.model(self.normalise(torch.zeros(1, 1, self.size, self.size, device=self.device)))
        for hook in hooks:
            hook.remove()
        return layers, spatial

    def raw(self, pixels: npt.NDArray[np.uint8], classes: npt.NDArray[np.int64]) -> FloatArray:
        """Signed maps `[N, h, w]` of uint8 `[N, size, size]`, each for its class of `classes` `[N]`.

        Of two classes the map is that of their difference, the log-odds; else that of the class's own logit.
        """
        cam = LayerGradCam(self._scores, self.model.get_submodule(self.layer))
        parts = []
        for start in range(0, len(pixels), BATCH):
            grey = torch.from_numpy(pixels[start : start + BATCH])[:, None].to(self.device).float()
            wanted = torch.from_numpy(classes[start : start + BATCH].copy()).to(self.device)
            parts.append(cam.attribute(self.normalise(grey), target=wanted)[:, 0].detach().double().cpu())
        return torch.cat(parts).numpy()

    def _scores(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return logits - logits.flip(1) if self.task == "binary" else logits

    def maps(self, pixels: npt.NDArray[np.uint8], classes: npt.NDArray[np.int64]) -> FloatArray:
        """What speaks for the class, `[N, size, size]`, each from 0 to 1; 0 throughout where nothing does."""
        raw = torch.from_numpy(self.raw(pixels, classes)).relu()[:, None]
        large = functional.interpolate(raw, (self.size, self.size), mode="bilinear", align_corners=False)[:, 0].numpy()
        peak = large.max(axis=(1, 2), keepdims=True)
        return np.asarray(large / np.where(peak > 0, peak, 1))


def cascade(
    saliency: Saliency,
    fresh: Mapping[str, Tensor],
    pixels: npt.NDArray[np.uint8],
    classes: npt.NDArray[np.int64],
) -> list[FloatArray]:
    """Model-randomisation check (Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018).

    For each of `SHARES`, Spearman's correlation `[N]` between the maps of the trained model and those with that share
    of the layers, the last first (at least the last), put back to the untrained weights `fresh`; NaN where a map is
    flat. Maps that stay alike do not show what was learnt. The model is trained again afterwards.
    """
    trained = {key: value.clone() for key, value in saliency.model.state_dict().items()}
    before = saliency.raw(pixels, classes)
    found = []
    for share in SHARES:
        last = saliency.layers[-max(1, round(share * len(saliency.layers))) :]
        names = {key: key.replace(".ln_1.0.", ".ln_1.") for key in trained if key.rpartition(".")[0] in last}
        swapped = {key: fresh[name].to(saliency.device) for key, name in names.items()}
        saliency.model.load_state_dict({**trained, **swapped})
        after = saliency.raw(pixels, classes)
        found.append(np.array([_rank_correlation(a, b) for a, b in zip(before, after, strict=True)]))
    saliency.model.load_state_dict(trained)
    return found


def _rank_correlation(first: FloatArray, second: FloatArray) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(spearmanr(first.ravel(), second.ravel()).statistic)


def pointing(heat: FloatArray, inside: npt.NDArray[np.bool_]) -> tuple[bool, float]:
    """Whether the map's peak lies inside the region, and the share of the map's sum that does; both `[size, size]`.

    The pointing game: Zhang et al., Top-down Neural Attention, IJCV 2018; 126:1084. The share: Wang et al., Score-CAM,
    CVPR workshops 2020.
    """
    total = float(heat.sum())
    return bool(inside.ravel()[heat.argmax()]), float(heat[inside].sum()) / total if total else 0.0
