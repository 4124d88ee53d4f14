"""Decoded images to the rows of a prediction: probabilities or areas of all folds' models, and pictures of them."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from cxrtl.config import Train
from cxrtl.data.images import Grey, How
from cxrtl.data.images.files import unsquare
from cxrtl.evaluate import outlines
from cxrtl.evaluate.overlap import dice
from cxrtl.predictions import FloatArray
from cxrtl.records import Task
from cxrtl.report.style import COLOURS
from cxrtl.use.explain import overlay
from cxrtl.use.model import Ensemble, Trained, Weighed, best_device, called, revive
from cxrtl.use.saliency import Saliency

SPREAD = ("sd", "min", "max")  # over the folds


@dataclass(frozen=True)
class Scorer:
    """What scores a batch of rows. Travels to other machines, which see the run folder too: it names the weights.

    With `pictures` a PNG of each image comes along: its mask, or an overlay that explains its score.
    """

    files: tuple[Weighed, ...]
    train: Train
    classes: tuple[str, ...]
    task: Task
    how: How
    pictures: bool

    @classmethod
    def of(cls, trained: Trained, pictures: bool) -> Scorer:
        files = tuple(trained.file(fold) for fold in trained.trials)
        return cls(files, trained.recipe.train, trained.classes, trained.task, trained.how, pictures)

    def ensemble(self, device: torch.device) -> Ensemble:
        models = [revive(file, self.train, len(self.classes), self.task, device) for file in self.files]
        return Ensemble(models, self.task, device)

    @property
    def picture(self) -> str:
        """The column that names the pictures."""
        return "mask" if self.task == "segmentation" else "overlay"

    @property
    def blanks(self) -> dict[str, Any]:
        """The columns between `image` and `reason`, with what stands in them where a file cannot be used."""
        if self.task == "segmentation":
            return {f"{kind}_{name}": np.nan for name in self.classes for kind in ("area", *SPREAD, "dice")}
        told = self.classes[1:] if self.task == "binary" else self.classes
        return {"called": "", **{f"{kind}_{name}": np.nan for name in told for kind in ("score", *SPREAD)}}


class Score:
    """A batch of decoded rows → the output's rows."""

    def __init__(self, scorer: Scorer, whole_machine: bool = False) -> None:
        if whole_machine:
            torch.set_num_threads(os.cpu_count() or 1)  # Ray gives an actor one
        self.scorer, self.ensemble = scorer, scorer.ensemble(best_device())
        parts = (scorer.train.backbone, len(scorer.classes), scorer.task, scorer.how.size)
        explained = self.ensemble.models if scorer.pictures and scorer.task != "segmentation" else ()
        self.saliency = [Saliency(model, *parts) for model in explained]

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        scorer, size = self.scorer, self.scorer.how.size
        usable = np.flatnonzero([reason == "" for reason in batch["reason"]])
        flat = np.frombuffer(b"".join(batch["pixels"][place] for place in usable), np.uint8)
        shapes = [(int(batch["height"][place]), int(batch["width"][place])) for place in usable]
        told: dict[str, Any] = {}
        if len(usable):
            pixels = flat.reshape(-1, size, size).copy()
            told = self._areas(pixels, shapes) if scorer.task == "segmentation" else self._scores(pixels)
        found: dict[str, Any] = {"image": batch["image"]}
        blanks = {**scorer.blanks, "reason": "", **({scorer.picture: b""} if scorer.pictures else {})}
        for name, blank in blanks.items():
            found[name] = np.full(len(batch["reason"]), blank, None if isinstance(blank, float) else object)
            if name in told:
                found[name][usable] = told[name]
        return found | {"reason": batch["reason"]}

    def _scores(self, pixels: npt.NDArray[np.uint8]) -> dict[str, Any]:
        """The columns of images that can be used, by name."""
        classes, task, scores = self.scorer.classes, self.scorer.task, self.ensemble(pixels)
        mean = scores.mean(axis=0)
        found: dict[str, Any] = {"called": called(mean, classes, task)}
        for place, name in enumerate(classes):
            found |= {f"score_{name}": mean[:, place], **_spread(name, scores[:, :, place])}
        return found | ({"overlay": self._overlays(pixels, mean)} if self.saliency else {})

    def _areas(self, pixels: npt.NDArray[np.uint8], shapes: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """The same of a segmentation; `shapes` are the images' heights and widths, as large as their masks are made."""
        together, each = self.ensemble.masks(pixels)
        found: dict[str, Any] = {}
        for number, name in enumerate(self.scorer.classes, start=1):
            joint, own = together == number, each == number
            alike = np.stack([dice(*outlines.counts(joint, one)) for one in own])
            found |= {f"area_{name}": joint.mean(axis=(1, 2)), **_spread(name, own.mean(axis=(2, 3)))}
            found[f"dice_{name}"] = alike.mean(axis=0)
        if self.scorer.pictures:
            whole = (unsquare(mask, *shape, self.scorer.how) for mask, shape in zip(together, shapes, strict=True))
            found["mask"] = _objects([painted(mask, len(self.scorer.classes)) for mask in whole])
        return found

    def _overlays(self, pixels: npt.NDArray[np.uint8], scores: FloatArray) -> npt.NDArray[np.object_]:
        """PNG of each image: mean map of the folds, for the positive class of two, else for the highest score."""
        wanted = np.ones(len(pixels), np.int64) if self.scorer.task == "binary" else scores.argmax(axis=1)
        heats = np.mean([each.maps(pixels, wanted) for each in self.saliency], axis=0)
        return _objects([overlay(image, heat / (heat.max() or 1)) for image, heat in zip(pixels, heats, strict=True)])


def _spread(name: str, each: FloatArray) -> dict[str, FloatArray]:
    """`SPREAD` of `[folds, N]` over the folds."""
    sd = each.std(axis=0, ddof=1) if len(each) > 1 else np.zeros(each.shape[1])
    return {f"sd_{name}": sd, f"min_{name}": each.min(axis=0), f"max_{name}": each.max(axis=0)}


def _objects(items: Sequence[bytes]) -> npt.NDArray[np.object_]:
    made = np.empty(len(items), object)
    made[:] = items
    return made


def painted(mask: Grey, structures: int) -> bytes:
    """A PNG whose pixels hold the numbers of `structures` structures, in colours: as `data.mask_column` may name it."""
    image, shades = Image.fromarray(mask), [COLOURS[number % 6] for number in range(structures)]  # the last is black
    image.putpalette(b"".join(bytes.fromhex(shade[1:]) for shade in ("#000000", *shades)))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
