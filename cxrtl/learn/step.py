"""One training step: what it reads, what it computes, and how a GPU replays it.

Every step works on buffers that stay in place. On a GPU the first steps run as they are, then one is captured as a CUDA
graph and replayed: the host launches one graph where it launched a thousand kernels. Nothing in a step waits for the
device. On a CPU every step runs as it is; the bits are the same either way. So does it where several workers share a
fold out (`parallel`): what they tell each other is not captured.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cxrtl.errors import TrialError
from cxrtl.learn import objective
from cxrtl.learn.augment import Normalise, Pass, choose_views, draw_pass, follow, torch_seed
from cxrtl.learn.freeze import train_mode
from cxrtl.learn.precision import autocast
from cxrtl.learn.setting import Images, Setting
from cxrtl.learn.transfer import rate_share, set_rate
from cxrtl.records import IntArray

EAGER_STEPS = 3  # before capture: libraries settle, optimizer and gradients get their memory
Batch = tuple[Tensor, Tensor, Tensor, Tensor]  # as `Batches` says
QUEUED = 8  # steps that the host may be ahead of a GPU: what it has launched takes memory there
LAUNCH = threading.RLock()  # torch draws from one generator a device, and captures one graph at a time


class Batches:
    """`batches[iteration]` → indices `[B]`, scale and offset `[B, 2]`, view `[B]`, on the device: of a batch, this
    worker's part.

    A pass is a fresh order of all training images, cut into whole batches; the rest of the order is left out, as in
    MATLAB's training.
    """

    def __init__(self, setting: Setting, images: int, views: tuple[Tensor, Tensor] | None = None) -> None:
        self.setting, self.images, self.views = setting, images, views
        self.per_pass = images // setting.train.batch_size
        if not self.per_pass:
            raise TrialError(
                f"train.batch_size = {setting.train.batch_size} exceeds the {images} training images of fold "
                f"{setting.fold}: lower it"
            )
        self.mine = setting.workers.part(setting.train.batch_size)
        self.index = -1
        self.drawn: Pass
        self.order: IntArray

    def __getitem__(self, iteration: int) -> Batch:
        return self.with_places(iteration)[0]

    def with_places(self, iteration: int) -> tuple[Batch, IntArray]:
        """The batch, and its indices where the host can read them."""
        index, place = divmod(iteration, self.per_pass)
        if index != self.index:
            setting = self.setting
            drawn = draw_pass(setting.augment, setting.seed, setting.fold, index, self.images)
            if self.views:
                drawn = choose_views(drawn, self.views, setting.seed, setting.fold, index)
            parts, self.order = (drawn.order, drawn.scale, drawn.offset, drawn.view), drawn.order.numpy()
            self.drawn = Pass(*(_send(part, setting.device) for part in parts))
            self.index = index
        first = place * self.setting.train.batch_size
        part = slice(first + self.mine.start, first + self.mine.stop)
        drawn = self.drawn
        return (drawn.order[part], drawn.scale[part], drawn.offset[part], drawn.view[part]), self.order[part]


def _send(part: Tensor, device: torch.device) -> Tensor:
    """To the device, without the host waiting for it."""
    return part.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else part


class Step:
    """One update of the model; sums losses and hits since the last `mark`, on the device."""

    def __init__(
        self, setting: Setting, images: Images, goal: objective.Objective, model: nn.Module, optimizer: Optimizer
    ) -> None:
        self.setting, self.images, self.model, self.optimizer = setting, images, model, optimizer
        batch, device, workers = setting.train.batch_size, setting.device, setting.workers
        mine = workers.part(batch)
        size = mine.stop - mine.start
        self.normalise = Normalise(device)
        self.objective = goal
        self.indices, self.view = (torch.zeros(size, dtype=torch.int64, device=device) for _ in range(2))
        self.scale, self.offset = torch.ones((size, 2), device=device), torch.zeros((size, 2), device=device)
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # of loss and of the share right
        self.replay = Replay(device, capture=workers.count == 1)
        self.steps = 0  # since the last mark
        self.marks: list[tuple[int, int, float, Tensor]] = []  # iteration, steps, rate, sums
        train_mode(model)
        workers.share(model, batch)

    def __call__(self, iteration: int, indices: Tensor, scale: Tensor, offset: Tensor, view: Tensor) -> None:
        setting = self.setting
        self.indices.copy_(indices)
        self.scale.copy_(scale)
        self.offset.copy_(offset)
        self.view.copy_(view)
        set_rate(self.optimizer, rate_share(setting.train, iteration))
        self.replay(self._update, torch_seed(setting.seed, setting.fold, iteration))
        self.steps += 1

    def _update(self) -> None:
        setting, workers, batch = self.setting, self.setting.workers, self.setting.train.batch_size
        targets = follow(self.images.aims(self.indices), self.scale, self.offset)
        changes = (self.scale, self.offset) if setting.augment.active else None
        inputs = self.images.batch(self.normalise, self.indices, changes, self.view)
        with autocast(setting.precision, setting.device):
            logits = self.model(inputs)
        logits, targets = workers.whole(logits.float(), batch), workers.whole(targets, batch)
        loss = self.objective.loss(logits, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        workers.add_up(self.optimizer)
        self.optimizer.step()
        hits = self.objective.hits(logits.detach(), targets)
        self.sums += torch.stack((loss.detach().double(), hits))

    def mark(self, iteration: int) -> None:
        """End a line of the training curve here; the device is not waited for."""
        rate = float(self.optimizer.param_groups[0]["base"]) * rate_share(self.setting.train, iteration - 1)
        self.marks.append((iteration, self.steps, rate, self.sums.clone()))
        self.sums.zero_()
        self.steps = 0

    def curve(self, since: float, until: float) -> list[dict[str, float]]:
        """The lines marked since the last call, means over their steps; waits for the device.

        `since` and `until` are `train_seconds` then and now: in between, the lines' share it by their steps.

        Raises:
            TrialError: the loss is no number.
        """
        marks, self.marks = self.marks, []
        lines = []
        steps = sum(mark[1] for mark in marks)
        each = (until - since) / max(steps, 1)
        for iteration, count, rate, sums in marks:
            loss, accuracy = (sums / count).tolist()
            if not math.isfinite(loss):
                raise TrialError(
                    f"the loss of fold {self.setting.fold} is {loss} at iteration {iteration}: training diverged. "
                    f"Lower train.rate (now {self.setting.train.rate})."
                )
            since += each * count
            line = {"iteration": iteration, "loss": loss, "accuracy": accuracy, "rate": rate}
            lines.append({**line, "train_seconds": round(since, 4)})
        return lines


class Replay:
    """Calls a body, the same every time, with torch's random numbers at a seed; on a GPU, from the fourth call on, by
    replaying it as one CUDA graph, unless told not to.

    Call it on a stream of its own. The body must read and write memory that stays in place. It is not kept: whoever
    holds both would live, with all its memory on a GPU, until Python looks for cycles.
    """

    def __init__(self, device: torch.device, *, capture: bool = True) -> None:
        self.device, self.calls, self.capture = device, 0, capture
        self.draws = torch.Generator(device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.queued: deque[torch.cuda.Event] = deque()

    def __call__(self, body: Callable[[], None], seed: int) -> None:
        self.calls += 1
        if self.device.type != "cuda":
            with LAUNCH:
                torch.manual_seed(seed)
                body()
            return
        self.draws.manual_seed(seed)
        if self.graph is None:
            with LAUNCH, _drawing_from(self.draws):
                self._launch(body)
        if self.graph is not None:
            self.graph.replay()
        self._keep_pace()

    def _launch(self, body: Callable[[], None]) -> None:
        if not self.capture or self.calls <= EAGER_STEPS:
            body()
            return
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        # other folds' threads may be copying meanwhile: only this thread is held to what a capture allows
        with torch.cuda.graph(graph, stream=here, capture_error_mode="thread_local"):
            body()
        self.graph = graph

    def _keep_pace(self) -> None:
        """Wait for the step `QUEUED` before this one, asleep."""
        if len(self.queued) < QUEUED:
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        else:
            done = self.queued.popleft()
            done.synchronize()
        done.record()
        self.queued.append(done)


@contextmanager
def _drawing_from(draws: torch.Generator) -> Iterator[None]:
    """Within, a GPU's random numbers come from `draws`, in a graph captured here for good: before torch 2.13, graphs
    that draw from one generator find its seed in one place in memory, and folds would replay with each other's."""
    common = torch.cuda.default_generators[draws.device.index]
    before = common.graphsafe_get_state()
    common.graphsafe_set_state(draws)
    try:
        yield
    finally:
        common.graphsafe_set_state(before)
