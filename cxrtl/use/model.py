"""The models of one arm at one budget, one a fold, from files that their results vouch for.

A run folder may come from anybody: nothing in it is code, no name in it leads out of it, and every file is compared
with its hash before it is read (`report.load`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cxrtl import storage
from cxrtl.config import Recipe, Train
from cxrtl.data.images import Grey, How
from cxrtl.errors import ConfigError, DamagedError, PredictionsError
from cxrtl.learn import backbones, devices, transfer
from cxrtl.learn.augment import Normalise
from cxrtl.predictions import FloatArray
from cxrtl.records import Task
from cxrtl.report.load import Done, Loaded, load_run, verify
from cxrtl.rundir import RunDir

_AT_ONCE = 8  # images of a segmentation whose probabilities are held at a time


@dataclass(frozen=True)
class Weighed:
    """A weights file and the sha256 that it must have when it is read."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Trained:
    """One arm at one budget of a run that has been read and checked; `trials` maps fold to its result."""

    loaded: Loaded
    recipe: Recipe
    iterations: int
    trials: Mapping[int, Done]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.loaded.predictions.classes

    @property
    def task(self) -> Task:
        return self.loaded.predictions.task

    @property
    def how(self) -> How:
        """How training made its pixels."""
        data = self.loaded.experiment.data
        return How(data.image_size, **data.decode.model_dump())

    @property
    def positive(self) -> int | None:
        """The class that scores speak of where there are two; None where each class has its own."""
        return 1 if self.task == "binary" else None

    def file(self, fold: int) -> Weighed:
        """A fold's weights file. Raises DamagedError where it is not the one that its result vouches for."""
        trial, name = self.trials[fold], f"weights-{self.iterations}.safetensors"
        return Weighed(verify(trial, name), trial.result.files[name])

    def model(self, fold: int, device: torch.device) -> nn.Module:
        """The fold's model in evaluation mode. Raises DamagedError as `revive` does."""
        return revive(self.file(fold), self.recipe.train, len(self.classes), self.task, device)

    def ensemble(self, device: torch.device, folds: Sequence[int] = ()) -> Ensemble:
        """The models of `folds`, or of all."""
        return Ensemble([self.model(fold, device) for fold in folds or self.trials], self.task, device)


def open_trained(run: RunDir, arm: str = "", iterations: int = 0) -> Trained:
    """The models of an arm (default: the first) at a budget (default: its last).

    Raises:
        ConfigError: there is no such arm or budget; names those that exist.
        PredictionsError: some fold of it is not finished.
        DamagedError, ChangedError: as `report.load.load_run`.
    """
    loaded = load_run(run, partial=True)
    recipes = {recipe.name: recipe for recipe in loaded.recipes}
    if arm and arm not in recipes:
        raise ConfigError(f"--arm {arm!r} is no arm of run {run.name!r}: choose among {', '.join(recipes)}")
    recipe = recipes[arm or next(iter(recipes))]
    budgets = recipe.train.budgets
    if iterations and iterations not in budgets:
        listed = ", ".join(map(str, budgets))
        raise ConfigError(f"--iterations {iterations} is no budget of arm {recipe.name!r}: choose among {listed}")
    iterations = iterations or budgets[-1]
    if loaded.experiment.data.channels > 1:
        raise PredictionsError(f"run {run.name!r} was trained on several images a case, which cannot be given here yet")
    backbones.check_name(recipe.train.backbone)
    done = {
        trial.result.fold: trial
        for trial in loaded.trials
        if trial.result.arm == recipe.name and iterations in trial.result.budgets
    }
    missing = sorted(set(range(loaded.k)) - set(done))
    if missing:
        raise PredictionsError(
            f"arm {recipe.name!r} at {iterations} iterations lacks the folds {missing}: finish the run first"
        )
    return Trained(loaded, recipe, iterations, dict(sorted(done.items())))


def revive(file: Weighed, train: Train, classes: int, task: Task, device: torch.device) -> nn.Module:
    """The model that `train` makes, in evaluation mode, with the parameters of a safetensors file.

    Raises:
        DamagedError: the file is not the one expected, is no safetensors file, or holds other names, shapes or types
            than the backbone.
    """
    where = "/".join(file.path.parts[-3:])
    model = transfer.make_model(train, None, classes, 0, 0, torch.device("cpu"), task)
    wanted = {key: (value.shape, value.dtype) for key, value in model.state_dict().items()}
    storage.fetch(file.path)
    content = file.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise DamagedError(f"{where} changed after it was checked: run again")
    try:
        given = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, OverflowError):
        raise DamagedError(f"{where} is no safetensors file") from None
    if {key: (value.shape, value.dtype) for key, value in given.items()} != wanted:
        raise DamagedError(f"{where} does not hold the weights of a {train.backbone} with {classes} classes")
    model.load_state_dict(given)
    for module in model.modules():  # a map of what a layer gave must not be overwritten by the next
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def probabilities(logits: Tensor, task: Task) -> Tensor:
    """Of logits `[N, classes]`, float64: shares of one for classes that exclude each other, else one for each finding.
    Of a segmentation's, `[N, 1 + structures, H, W]`, shares of each pixel, the background first."""
    return logits.double().sigmoid() if task == "multilabel" else logits.double().softmax(1)


class Ensemble:
    """Fold models at work together: always fp32 and without augmentation, as held-out images were scored."""

    def __init__(self, models: Sequence[nn.Module], task: Task, device: torch.device) -> None:
        self.models, self.task, self.device = models, task, device
        self.normalise = Normalise(device)

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> FloatArray:
        """`probabilities` of uint8 `[N, size, size]`, `[folds, N, …]`.

        Raises:
            PredictionsError: a model gives what is no number.
        """
        with torch.inference_mode():
            inputs = self.normalise(torch.from_numpy(pixels)[:, None].to(self.device).float())
            found = torch.stack([probabilities(model(inputs), self.task).cpu() for model in self.models])
        if not torch.isfinite(found).all():
            raise PredictionsError("a fold's model gives scores that are no numbers: its training diverged")
        return found.numpy()

    def masks(self, pixels: npt.NDArray[np.uint8]) -> tuple[Grey, Grey]:
        """A segmentation's structure at each pixel of uint8 `[N, size, size]`, 0 or its number from 1: by the mean
        probability of the folds, `[N, size, size]`, and by each fold, `[folds, N, size, size]`."""
        together, each = np.empty_like(pixels), np.empty((len(self.models), *pixels.shape), np.uint8)
        for start in range(0, len(pixels), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            found = self(pixels[part])
            together[part], each[:, part] = found.mean(axis=0).argmax(axis=1), found.argmax(axis=2)
        return together, each


def called(scores: FloatArray, classes: Sequence[str], task: Task) -> list[str]:
    """What mean probabilities `[N, classes]` are called: the class with the largest (binary: the positive one from
    0.5 on), or of findings all with 0.5 or more, joined by `|`."""
    if task == "multilabel":
        return ["|".join(name for name, score in zip(classes, row, strict=True) if score >= 0.5) for row in scores]
    best = scores[:, 1] >= 0.5 if task == "binary" else scores.argmax(axis=1)
    return [classes[int(place)] for place in best]


def best_device() -> torch.device:
    """Where scores are computed: in fp32, as held-out images were scored."""
    devices.exact()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
