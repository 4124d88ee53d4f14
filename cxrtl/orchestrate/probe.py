"""What a few real steps show: how fast an arm trains, in which number format, and on how much of a machine."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import ray
import torch
from torch import nn

from cxrtl.config import Recipe
from cxrtl.errors import CxrtlError, TrialError
from cxrtl.learn import features, freeze, loop, memory, objective, state, transfer
from cxrtl.learn.devices import own_stream, settle
from cxrtl.learn.precision import Precision, choose
from cxrtl.learn.weights import Weights
from cxrtl.records import Prepared

TIMED_STEPS = {"cpu": 3, "cuda": 60}
_FEWER_UNLESS = 0.97  # of the time: a costlier layout must be this much faster to be taken
_FORMATS_DIFFER = 1.15  # bf16 is left where fp32 is this much faster


@dataclass(frozen=True)
class Share:
    """What one process of a run takes of its node, and how many folds it trains there at once."""

    cpus: int
    gpus: float
    folds: int = 1


@dataclass(frozen=True)
class Probe:
    """What an arm's steps showed under a share, with the machine as full as it will be. `step_seconds`: of one fold."""

    device: str
    gpu: str
    precision: Precision
    step_seconds: float
    weight_bytes: int


@dataclass(frozen=True)
class Timed:
    """The arm to time; `kept`: on features, as far as layers are frozen."""

    recipe: Recipe
    start: Weights | None
    kept: bool
    prepared: Prepared


@dataclass(frozen=True)
class Prober:
    """Times arms. `precision` holds what a run was begun with; other arms' is found out."""

    starts: Mapping[str, Weights | None]
    kept: Mapping[str, bool]  # arms that train on features
    prepared: Prepared
    precision: Mapping[str, Precision]

    def time(self, recipe: Recipe, share: Share, processes: int) -> Probe:
        """Time `recipe` in as many processes at once.

        Raises:
            TrialError: a step failed; the rest of the run would, too.
        """
        remote = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=1)(probe_arm)
        timed = Timed(recipe, self.starts[recipe.name], self.kept.get(recipe.name, False), self.prepared)
        given = (ray.put(timed), self.precision.get(recipe.name), share)
        try:
            found: list[Probe] = ray.get([remote.remote(*given) for _ in range(processes)])
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, CxrtlError):
                raise type(cause)(f"arm {recipe.name!r}: {cause}") from None
            first = (str(cause).strip().splitlines() or [""])[0]
            raise TrialError(f"arm {recipe.name!r} fails in its first step: {type(cause).__name__}: {first}") from cause
        except ray.exceptions.RayError as error:
            raise TrialError(
                f"arm {recipe.name!r}: the process of the timed steps died, of too little memory most likely: "
                f"lower train.batch_size or data.image_size ({type(error).__name__})"
            ) from None
        return max(found, key=lambda probe: probe.step_seconds)

    def fastest(self, recipe: Recipe, open_: Sequence[tuple[Share, int]], todo: int) -> tuple[Share, Probe]:
        """Of shares, each with the folds it trains at once on the whole cluster, the one that ends `todo` soonest.

        They are tried from the first on, and the first that the next does not beat is taken: of two that differ by
        less than timing can tell, the one of fewer threads, or fewer folds to a process.
        """
        best: tuple[float, Share, Probe] | None = None
        for share, at_once in open_:
            found = self.time(recipe, share, -(-at_once // share.folds))
            seconds = -(-todo // at_once) * found.step_seconds
            if best and seconds > best[0] * _FEWER_UNLESS:
                break
            best = seconds, share, found
        assert best
        return best[1:]


def probe_arm(arm: Timed, precision: Precision | None, share: Share) -> Probe:
    """In a worker: the arm's steps, in both formats where it is open which is the faster."""
    settle(share.cpus)
    memory.keep_freed_memory()
    device = torch.device("cuda" if share.gpus and torch.cuda.is_available() else "cpu")
    wish = arm.recipe.train.precision
    model = _model(arm, device)
    found: Precision = precision or choose(wish, device)
    seconds = _step_seconds(arm, found, share.folds, device)
    if precision is None and wish == "auto" and found == "bf16" and _may_be_slow(model, device):
        plain = _step_seconds(arm, "fp32", share.folds, device)
        if plain * _FORMATS_DIFFER < seconds:
            found, seconds = "fp32", plain
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return Probe(device.type, gpu, found, seconds, len(state.Snapshot(model).weights()))


def _model(arm: Timed, device: torch.device) -> nn.Module:
    set_ = arm.prepared
    return transfer.make_model(arm.recipe.train, arm.start, len(set_.classes), 0, 0, device, set_.task, set_.channels)


def _may_be_slow(model: nn.Module, device: torch.device) -> bool:
    """Grouped convolutions: a CPU's bf16 units multiply large matrices, and these have none."""
    return device.type == "cpu" and any(isinstance(part, nn.Conv2d) and part.groups > 1 for part in model.modules())


def _step_seconds(arm: Timed, precision: Precision, folds: int, device: torch.device) -> float:
    """Median seconds a step of `folds` folds side by side in this process, once it is warm."""
    with ThreadPoolExecutor(folds) as threads:
        timed = [threads.submit(_time_fold, arm, precision, device) for _ in range(folds)]
        return statistics.median(each.result() for each in timed)


def _time_fold(arm: Timed, precision: Precision, device: torch.device) -> float:
    train, set_, count = arm.recipe.train, arm.prepared, TIMED_STEPS[device.type]
    classes = len(set_.classes)
    with own_stream(device):
        net = _model(arm, device)
        optimizer = transfer.make_optimizer(train, net, classes)
        shape = (train.batch_size, set_.channels, set_.image_size, set_.image_size)
        pixels = torch.zeros(shape, dtype=torch.uint8)
        targets = objective.blank_targets(set_.task, train.batch_size, classes, set_.image_size).to(device)
        images = loop.Images(pixels.to(device), targets)
        if arm.kept:
            parts = freeze.split(train, net, classes)
            assert parts.body is not None and parts.head is not None
            blank = features.compute(parts.body, pixels, None, precision, device)[0].float().to(device)
            rows = torch.arange(train.batch_size, device=device)
            images, net = replace(images, features=features.Features(blank, blank, rows)), parts.head
        marks: list[tuple[int, float]] = []
        hooks = loop.Hooks(lambda _: None, lambda at: marks.append((at.iteration, at.train_seconds)), lambda _: None)
        # A save stops the clock. What comes before the first, which warms up, is left out of the time.
        every = 1 if device.type == "cpu" else count
        timed = train.model_copy(update={"budgets": (count + every + 1,), "checkpoint_every": every})
        setting = loop.Setting(timed, arm.recipe.augment, 0, 0, classes, precision, device, set_.task)
        loop.fit(setting, images, net, optimizer, state.State(), hooks)
    return (marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0])
