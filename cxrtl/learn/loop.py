"""The training loop of one trial: iteration-budgeted, resumable at any saved state, the same bits either way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cxrtl.learn import objective
from cxrtl.learn.augment import Normalise
from cxrtl.learn.devices import in_turn
from cxrtl.learn.freeze import train_mode
from cxrtl.learn.setting import Images as Images
from cxrtl.learn.setting import Setting as Setting
from cxrtl.learn.state import State
from cxrtl.learn.step import Batches, Step
from cxrtl.learn.stream import Streamed as Streamed
from cxrtl.learn.stream import Window

CURVE_EVERY = 5  # iterations a line of the training curve averages over
READ_EVERY = 1.0  # seconds between looks at a GPU's training curve
EVALUATION_BATCH = {"cpu": 100, "cuda": 500}  # images, up to `_USUAL_SIDE`
_USUAL_SIDE = 224  # pixels


def _nothing(_: State) -> None:
    pass


@dataclass(frozen=True)
class Hooks:
    """What happens outside the clock: `milestone` at a budget, `save` at a checkpoint and wherever `noticed`, asked
    after each step, says that this place of training is about to end, `progress` at a curve line."""

    milestone: Callable[[State], None] = _nothing
    save: Callable[[State], None] = _nothing
    progress: Callable[[State], None] = _nothing
    noticed: Callable[[], bool] = lambda: False


def fit(
    setting: Setting, images: Images | Streamed, model: nn.Module, optimizer: Optimizer, state: State, hooks: Hooks
) -> None:
    """Train from `state.iteration` to the last budget.

    Runs one round more than it has steps to take, so that the last budget is met by the same code as the others.
    Batch order and augmentation depend on (seed, fold, pass) alone, dropout on (seed, fold, iteration): a run cut off
    at a saved state and continued gives the same bits, and so does a longer run at its earlier budgets.

    Raises:
        TrialError: fewer training images than a batch, or a loss that is no number.
    """
    train, start = setting.train, state.iteration
    order = Batches(setting, len(images), images.views)
    batches: Batches | Window = order
    goal = objective.make(setting.task, train, images.truth(), setting.classes, setting.device)
    if isinstance(images, Streamed):
        batches = Window(images, order, state)
        images = batches.images
    step = Step(setting, images, goal, model, optimizer)
    clock = Clock(setting.device, state)
    for iteration in range(start, train.budgets[-1] + 1):
        state.iteration = iteration
        reached = iteration in train.budgets and iteration not in [done.iterations for done in state.milestones]
        due = iteration > start and (hooks.noticed() or iteration % train.checkpoint_every == 0)
        if step.steps and (reached or due or iteration % CURVE_EVERY == 0):
            step.mark(iteration)
            if reached or due or clock.overdue():
                before = state.train_seconds
                clock.stop()
                state.curve += step.curve(before, state.train_seconds)
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

    def overdue(self) -> bool:
        """Whether to stop and look: always where that costs nothing, once a second where it stalls a GPU."""
        return self.device.type != "cuda" or time.perf_counter() - self.since > READ_EVERY

    def stop(self) -> None:
        if self.since:
            if self.device.type == "cuda":  # this fold's own queue; else work still in it would go uncounted
                torch.cuda.current_stream(self.device).synchronize()
            self.state.train_seconds += time.perf_counter() - self.since
            self.since = 0.0


def evaluation_batch(setting: Setting, side: int) -> int:
    """Images of `side` pixels scored at once: of larger ones fewer, so that they need no more memory."""
    share = 5 if setting.task == "segmentation" else 1  # its maps are as large as the images
    larger = max(1.0, (side / _USUAL_SIDE) ** 2)
    return max(1, int(EVALUATION_BATCH[setting.device.type] / (share * larger)))


def predict(setting: Setting, images: Images | Streamed, model: nn.Module) -> Tensor:
    """What `objective.scores` says of images, on the CPU, without augmentation; leaves the model in training mode.

    Always in fp32 (`devices.settle`: not a GPU's TF32): bf16 keeps 8 bits of a logit, and images would tie that are not
    alike. Uses no random numbers, so that evaluating changes nothing in the training that follows. On a GPU folds are
    scored one at a time, in the same memory.
    """
    normalise = Normalise(setting.device)
    model.eval()
    parts = []
    with in_turn(setting.device):
        with torch.inference_mode():
            for inputs in images.chunks(normalise, evaluation_batch(setting, images.side)):
                parts.append(objective.scores(setting.task, model(inputs)))
        scores = torch.cat(parts).cpu()
    train_mode(model)
    return scores
