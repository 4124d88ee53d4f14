"""The training loop of one trial: iteration-budgeted, resumable at any saved state, the same bits either way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from cxrtl.config import Augment, Train
from cxrtl.errors import TrialError
from cxrtl.learn.augment import Normalise, Pass, draw_pass, resample, torch_seed
from cxrtl.learn.precision import Precision, autocast
from cxrtl.learn.state import State
from cxrtl.learn.transfer import class_weights, rate_share

CURVE_EVERY = 5  # iterations a line of the training curve averages over
EVALUATION_BATCH = 100


@dataclass(frozen=True)
class Images:
    """Images on the training device: uint8 `[N, 1, H, W]` and class indices `[N]`."""

    pixels: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Setting:
    """All that decides a trial's numbers besides the starting weights."""

    train: Train
    augment: Augment
    seed: int
    fold: int
    classes: int
    precision: Precision
    device: torch.device


@dataclass(frozen=True)
class Hooks:
    """What happens outside the clock: `milestone` at a budget, `save` at a checkpoint, `progress` at a curve line."""

    milestone: Callable[[State], None]
    save: Callable[[State], None]
    progress: Callable[[State], None]


def fit(setting: Setting, images: Images, model: nn.Module, optimizer: Optimizer, state: State, hooks: Hooks) -> None:
    """Train from `state.iteration` to the last budget.

    Runs one round more than it has steps to take, so that the last budget is met by the same code as the others.
    Batch order and augmentation depend on (seed, fold, pass) alone, dropout on (seed, fold, iteration): a run cut off
    at a saved state and continued gives the same bits, and so does a longer run at its earlier budgets.

    Raises:
        TrialError: fewer training images than a batch, or a loss that is no number.
    """
    train, start = setting.train, state.iteration
    batches = Batches(setting, len(images))
    step = Step(setting, images, model, optimizer)
    clock = Clock(setting.device, state)
    for iteration in range(start, train.budgets[-1] + 1):
        state.iteration = iteration
        reached = iteration in train.budgets and iteration not in [done.iterations for done in state.milestones]
        due = iteration % train.checkpoint_every == 0 and iteration > start
        if step.losses and (reached or due or iteration % CURVE_EVERY == 0):
            clock.stop()
            state.curve.append(step.curve_line(state))
            hooks.progress(state)
        if reached:
            hooks.milestone(state)
        elif due:
            hooks.save(state)
        if iteration < train.budgets[-1]:
            clock.start()
            step(iteration, *batches[iteration])
    clock.stop()


class Clock:
    """Adds the time between `start` and `stop` to `state.train_seconds`; starting a running clock changes nothing."""

    def __init__(self, device: torch.device, state: State) -> None:
        self.device, self.state, self.since = device, state, 0.0

    def start(self) -> None:
        self.since = self.since or time.perf_counter()

    def stop(self) -> None:
        if self.since:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # else work still queued would go uncounted
            self.state.train_seconds += time.perf_counter() - self.since
            self.since = 0.0


class Batches:
    """`batches[iteration]` → indices `[B]`, scale and offset `[B, 2]`, on the device.

    A pass is a fresh order of all training images, cut into whole batches; the rest of the order is left out, as in
    MATLAB's training.
    """

    def __init__(self, setting: Setting, images: int) -> None:
        self.setting, self.images = setting, images
        self.per_pass = images // setting.train.batch_size
        if not self.per_pass:
            raise TrialError(
                f"train.batch_size = {setting.train.batch_size} exceeds the {images} training images of fold "
                f"{setting.fold}: lower it"
            )
        self.index = -1
        self.drawn: Pass

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
        index, place = divmod(iteration, self.per_pass)
        if index != self.index:
            setting = self.setting
            drawn = draw_pass(setting.augment, setting.seed, setting.fold, index, self.images)
            self.drawn = Pass(*(part.to(setting.device) for part in (drawn.order, drawn.scale, drawn.offset)))
            self.index = index
        part = slice(place * self.setting.train.batch_size, (place + 1) * self.setting.train.batch_size)
        return self.drawn.order[part], self.drawn.scale[part], self.drawn.offset[part]


class Step:
    """One update of the model; keeps the losses and hits since the last curve line, on the device."""

    def __init__(self, setting: Setting, images: Images, model: nn.Module, optimizer: Optimizer) -> None:
        self.setting, self.images, self.model, self.optimizer = setting, images, model, optimizer
        self.normalise = Normalise(setting.device)
        self.weight = class_weights(setting.train, images.targets, setting.classes)
        self.losses: list[Tensor] = []
        self.hits: list[Tensor] = []
        model.train()

    def __call__(self, iteration: int, indices: Tensor, scale: Tensor, offset: Tensor) -> None:
        setting = self.setting
        torch.manual_seed(torch_seed(setting.seed, setting.fold, iteration))
        targets = self.images.targets[indices]
        inputs = self.normalise(resample(self.images.pixels[indices].float(), scale, offset))
        with autocast(setting.precision, setting.device):
            logits = self.model(inputs)
        loss = functional.cross_entropy(logits.float(), targets, self.weight)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * rate_share(setting.train, iteration)
        self.optimizer.step()
        self.losses.append(loss.detach())
        self.hits.append((logits.detach().argmax(1) == targets).float().mean())

    def curve_line(self, state: State) -> dict[str, float]:
        """Means since the last line; raises TrialError where the loss is no number."""
        loss, accuracy = float(torch.stack(self.losses).mean()), float(torch.stack(self.hits).mean())
        if not math.isfinite(loss):
            raise TrialError(
                f"the loss of fold {self.setting.fold} is {loss} at iteration {state.iteration}: training diverged. "
                f"Lower train.rate (now {self.setting.train.rate})."
            )
        self.losses, self.hits = [], []
        rate = self.optimizer.param_groups[0]["lr"]
        return {
            "iteration": state.iteration,
            "loss": loss,
            "accuracy": accuracy,
            "rate": rate,
            "train_seconds": round(state.train_seconds, 4),
        }


def predict(setting: Setting, images: Images, model: nn.Module) -> Tensor:
    """Class probabilities `[N, classes]`, float64 on the CPU, without augmentation; leaves the model in training mode.

    Always in fp32: bf16 keeps 8 bits of a logit, and images would tie that are not alike. Uses no random numbers, so
    that evaluating changes nothing in the training that follows.
    """
    normalise = Normalise(setting.device)
    model.eval()
    parts = []
    with torch.inference_mode():
        for pixels in torch.split(images.pixels, EVALUATION_BATCH):
            parts.append(model(normalise(pixels.float())).double().softmax(1).cpu())
    model.train()
    return torch.cat(parts)
