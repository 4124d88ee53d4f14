"""What a few real steps show: how fast an arm trains, in which number format, and on how much of a machine."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import ray
import torch
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import nn

from cxrtl.config import Recipe
from cxrtl.errors import CxrtlError, TrialError
from cxrtl.learn import features, memory, state, transfer
from cxrtl.learn.devices import settle
from cxrtl.learn.precision import Precision, choose
from cxrtl.learn.weights import Weights
from cxrtl.orchestrate.cluster import Node
from cxrtl.orchestrate.timing import step_seconds
from cxrtl.records import Prepared

_FEWER_UNLESS = 0.97  # of the time: a costlier layout must be this much faster to be taken
_ROOM_WITHIN = 60  # seconds that GPUs others use are waited for before fewer will do
_FORMATS_DIFFER = 1.15  # bf16 is left where fp32 is this much faster


@dataclass(frozen=True)
class Share:
    """What one process of a run takes of its node, and how many folds it trains there at once; or, with `workers`,
    among how many processes, on any nodes, one fold is shared out."""

    cpus: int
    gpus: float
    folds: int = 1
    workers: int = 1


@dataclass(frozen=True)
class Probe:
    """What an arm's steps showed under a share, with the machine as full as it will be. `step_seconds`: of one fold.
    `gpu`: the kind's name, or several joined by " + ".

    `gpu_used` and `memory` are the most that the process, with all its folds, took of its GPU and its node; `features`
    what each fold keeps on its device of frozen layers' features, in place of images. Sizes in bytes.
    """

    device: str
    gpu: str
    precision: Precision
    step_seconds: float
    weight_bytes: int
    gpu_memory: int = 0
    gpu_used: int = 0
    memory: int = 0
    features: int = 0


@dataclass(frozen=True)
class Prober:
    """Times arms. `precision` holds what a run was begun with; other arms' is found out. `kept`: see `frozen`.
    `alive`: the nodes that are there, where others are planned with that are yet to come.

    Leave it through `with`: that ends the processes that use GPUs, which stay from layout to layout and arm to arm.
    """

    starts: Mapping[str, Weights | None]
    prepared: Prepared
    precision: Mapping[str, Precision]
    kept: Mapping[str, bool]
    alive: Sequence[Node] = ()
    timers: list[Any] = field(default_factory=list)
    reserved: list[tuple[int, PlacementGroup]] = field(default_factory=list)  # how many were asked for, and where

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.timers.clear()
        while self.reserved:
            remove_placement_group(self.reserved.pop()[1])  # which ends the processes there

    def _start(self, share: Share, count: int, given: Sequence[Any]) -> list[Any]:
        """Begin to time in so many processes. Ray would end those of tasks that use a GPU after one."""
        if not share.gpus:
            task = ray.remote(num_cpus=share.cpus, max_retries=1)(probe_arm)
            return [task.remote(*given) for _ in range(count)]
        if not self.reserved or self.reserved[0][0] < count:
            self.__exit__()
            actor = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=1, max_task_retries=1)(_Timer)
            group = _reserve(share, count)
            self.reserved.append((count, group))
            place = PlacementGroupSchedulingStrategy(group)
            self.timers.extend(actor.options(scheduling_strategy=place).remote() for _ in group.bundle_specs)
        return [timer.time.remote(*given) for timer in self.timers[:count]]

    def time(self, recipe: Recipe, share: Share, processes: int) -> Probe:
        """Time `recipe` in as many processes at once; of several workers, one's part of the step.

        Raises:
            TrialError: a step failed; the rest of the run would, too.
        """
        start, kept = ray.put(self.starts[recipe.name]), self.kept.get(recipe.name, False)
        if share.workers > 1:
            part = max(2, -(-recipe.train.batch_size // share.workers))  # alone, BatchNorm needs two
            recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"batch_size": part})})
        given = (recipe, start, self.prepared, self.precision.get(recipe.name), share, kept)
        many = processes * share.workers
        if self.alive:
            many = min(many, max(1, sum(node.slots(share.cpus, share.gpus) for node in self.alive)))
        try:
            found: list[Probe] = ray.get(self._start(share, many, given))
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
        kinds = " + ".join(sorted({probe.gpu for probe in found}))
        return replace(max(found, key=lambda probe: probe.step_seconds), gpu=kinds)

    def fastest(
        self,
        recipe: Recipe,
        open_: Sequence[tuple[Share, int]],
        todo: int,
        fits: Callable[[Share, int, Probe], bool],
    ) -> tuple[Share, Probe]:
        """Of shares, each with the folds it trains at once on the whole cluster, the one that ends `todo` soonest.

        They are tried from the first on: more threads for as long as that helps, more folds to a process for as long as
        together they get faster, and what fewer took of a GPU does not say that they would not fit (`fits(share, folds
        at once, probe)`). Of two that differ by less than timing can tell, the one of fewer threads or folds is taken.
        """
        best: tuple[float, Share, Probe] | None = None
        last: tuple[Share, Probe] | None = None
        steps: dict[int, float] = {}  # seconds of one, by the folds to a process
        for share, at_once in open_:
            processes = -(-at_once // share.folds)
            if last:
                expected = replace(last[1], gpu_used=last[1].gpu_used * share.folds // last[0].folds)
                if not fits(share, at_once, expected):
                    break
            try:
                found = self.time(recipe, share, processes)
            except TrialError:
                if best is None:
                    raise
                self.__exit__()  # out of memory, most likely: what is left of it should not meet the next arm
                break
            steps[share.folds] = found.step_seconds
            seconds = _makespan(todo, share.folds, processes, steps)
            better = best is None or seconds <= best[0] * _FEWER_UNLESS
            if better:
                best = seconds, share, found
            if last:
                packed = share.folds > last[0].folds
                if not (_rate(share, found) * _FEWER_UNLESS >= _rate(*last) if packed else better):
                    break
            last = share, found
        assert best
        return best[1:]


def _reserve(share: Share, count: int) -> PlacementGroup:
    """Room for `count` processes, for all of them at once: two runs that each held some of the GPUs and waited for the
    rest would wait for ever. For fewer where there is none, as others use them; for one as long as it takes."""
    each = {"CPU": float(share.cpus), "GPU": share.gpus}
    group: PlacementGroup = placement_group([each] * count)
    while not group.wait(_ROOM_WITHIN):
        if count > 1:
            remove_placement_group(group)
            count //= 2
            group = placement_group([each] * count)
    return group


def _rate(share: Share, probe: Probe) -> float:
    """Steps a second of all folds of a process."""
    return share.folds / probe.step_seconds


def _makespan(todo: int, folds: int, processes: int, steps: Mapping[int, float]) -> float:
    """When `todo` folds of one step end that train in packs of `folds`, the last pack perhaps of fewer."""
    packs, rest = divmod(todo, folds)
    waves, beside = divmod(packs, processes)
    seconds = (waves + bool(beside)) * steps[folds]
    return seconds + (min(steps[many] for many in steps if many >= rest) if rest and not beside else 0)


class _Timer:
    """An actor."""

    def time(self, *given: Any) -> Probe:
        return probe_arm(*given)


def probe_arm(
    recipe: Recipe, start: Weights | None, prepared: Prepared, precision: Precision | None, share: Share, kept: bool
) -> Probe:
    """In a worker: the arm's steps, in both formats where it is open which is the faster; on `kept` features if so."""
    settle(share.cpus)
    memory.keep_freed_memory()
    device = torch.device("cuda" if share.gpus and torch.cuda.is_available() else "cpu")
    if device.type == "cuda":  # this process may have timed another layout before
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    classes, task = len(prepared.classes), prepared.task
    model = transfer.make_model(recipe.train, start, classes, 0, 0, device, task, prepared.channels)
    found: Precision = precision or choose(recipe.train.precision, device)
    seconds = step_seconds(recipe, start, prepared, found, share.folds, device, kept)
    if precision is None and recipe.train.precision == "auto" and found == "bf16" and _may_be_slow(model, device):
        plain = step_seconds(recipe, start, prepared, "fp32", share.folds, device, kept)
        if plain * _FORMATS_DIFFER < seconds:
            found, seconds = "fp32", plain
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return Probe(
        device=device.type,
        gpu=gpu.name if gpu else "",
        precision=found,
        step_seconds=seconds,
        weight_bytes=len(state.Snapshot(model).weights()),
        gpu_memory=gpu.total_memory if gpu else 0,
        gpu_used=torch.cuda.max_memory_reserved(device) if gpu else 0,
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        features=features.size(recipe, prepared) if kept else 0,
    )


def _may_be_slow(model: nn.Module, device: torch.device) -> bool:
    """Grouped convolutions: a CPU's bf16 units multiply large matrices, and these have none."""
    return device.type == "cpu" and any(isinstance(part, nn.Conv2d) and part.groups > 1 for part in model.modules())
