"""In a worker: the steps of an arm's folds side by side, timed."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable
from dataclasses import replace

import torch

from cxrtl.config import Recipe
from cxrtl.learn import features, freeze, loop, objective, state, transfer
from cxrtl.learn.devices import own_stream, side_by_side
from cxrtl.learn.precision import Precision
from cxrtl.learn.weights import Weights
from cxrtl.records import Prepared

TIMED_STEPS = {"cpu": 3, "cuda": 30}


def step_seconds(
    recipe: Recipe,
    start: Weights | None,
    prepared: Prepared,
    precision: Precision,
    folds: int,
    device: torch.device,
    kept: bool,
) -> float:
    """Median seconds a step of `folds` folds side by side in this process, once all are warm."""
    # made in turn: tracing a model changes `nn.Module` for all threads meanwhile (pytorch#112775)
    made = [_fold(recipe, start, prepared, precision, device, kept) for _ in range(folds)]
    return statistics.median(side_by_side(made))


def _fold(
    recipe: Recipe, start: Weights | None, prepared: Prepared, precision: Precision, device: torch.device, kept: bool
) -> Callable[[threading.Barrier], float]:
    """A fold on noise, which waits for the others, gives the seconds a step that it then takes, and on a GPU is
    scored at the end, for the memory that takes."""
    train, classes, task, count = recipe.train, len(prepared.classes), prepared.task, TIMED_STEPS[device.type]
    model = transfer.make_model(train, start, classes, 0, 0, device, task, prepared.channels)
    optimizer = transfer.make_optimizer(train, model, classes)
    side = prepared.image_size

    def noise(images: int) -> loop.Images:  # of images all alike, BatchNorm would divide by nothing
        shape, draws = (images, prepared.channels, side, side), torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws).to(device)
        return loop.Images(pixels, objective.blank_targets(task, images, classes, side).to(device))

    images = noise(train.batch_size)
    net = features.net(train, model, classes, task, kept)
    if kept:
        body = freeze.split(train, model, classes).body
        assert body is not None
        made = features.compute(body, images.pixels.cpu(), None, precision, device)[0]
        drawn = torch.rand_like(made).to(device)
        rows = torch.arange(train.batch_size, device=device)
        images = replace(images, features=features.Features(drawn, drawn, rows))
    # A save stops the clock. What comes before the first, which warms up, is left out of the time.
    every = 1 if device.type == "cpu" else count
    timed = train.model_copy(update={"budgets": (count + every + 1,), "checkpoint_every": every})
    setting = loop.Setting(timed, recipe.augment, 0, 0, classes, precision, device, task)

    def run(gate: threading.Barrier) -> float:
        marks: list[tuple[int, float]] = []

        def mark(at: state.State) -> None:
            if not marks:
                gate.wait()
            marks.append((at.iteration, at.train_seconds))

        def score(_: state.State) -> None:
            if device.type == "cuda" and not kept:  # on a CPU it takes seconds, and a head takes next to nothing
                loop.predict(setting, noise(loop.evaluation_batch(setting, side)), net)

        with own_stream(device):
            loop.fit(setting, images, net, optimizer, state.State(), loop.Hooks(score, mark))
        return (marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0])

    return run
