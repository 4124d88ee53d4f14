"""What will run where, for how long and on how much disk; refused here if it cannot start."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import torch

from cxrtl.config import Experiment, Recipe, Resources, Train
from cxrtl.errors import CxrtlError, PlanError, TrialError
from cxrtl.learn import features, freeze, loop, memory, objective, state, transfer
from cxrtl.learn.precision import Precision, choose
from cxrtl.learn.weights import Weights
from cxrtl.orchestrate.cluster import Node
from cxrtl.records import ArmEstimate, Plan, Prepared, Trial

TIMED_STEPS = 3
_STATE_COPIES = 3  # a saved state: parameters and momentum (AdamW: two moments)


@dataclass(frozen=True)
class Probe:
    """What a few real steps of one arm showed, in a process with a trial's resources."""

    device: str
    gpu: str
    precision: Precision
    step_seconds: float
    weight_bytes: int


def trials(experiment: Experiment, k: int) -> tuple[Trial, ...]:
    """Every unit of work. Budgets share one run where they are points on the way to the last: a constant rate."""
    out = []
    for fold in range(k):
        for recipe in experiment.recipes:
            budgets, folder = recipe.train.budgets, f"{recipe.name}/fold{fold}"
            if shares_budgets(recipe.train):
                out.append(Trial(recipe.name, fold, budgets, folder))
            else:
                out += [Trial(recipe.name, fold, (budget,), f"{folder}/budget{budget}") for budget in budgets]
    return tuple(out)


def shares_budgets(train: Train) -> bool:
    """A schedule that depends on the length makes each budget a training of its own."""
    return train.schedule == "constant" and not train.independent


def gpus_per_fold(resources: Resources, nodes: Sequence[Node]) -> float:
    if resources.gpus_per_fold == "auto":
        return 1.0 if any(node.gpus >= 1 for node in nodes) else 0.0
    return resources.gpus_per_fold


def slots(resources: Resources, nodes: Sequence[Node]) -> int:
    """Trials that fit on the cluster at once.

    Raises:
        PlanError: none does; names the smallest change that would let one start.
    """
    cpus, gpus = resources.cpus_per_fold, gpus_per_fold(resources, nodes)
    fit = sum(node.slots(cpus, gpus) for node in nodes)
    if not fit:
        most_cpus, most_gpus = max((n.cpus for n in nodes), default=0), max((n.gpus for n in nodes), default=0)
        change = (
            f"set resources.cpus_per_fold to {int(most_cpus)} or less"
            if cpus > most_cpus
            else f"set resources.gpus_per_fold to {most_gpus:g} or less"
        )
        raise PlanError(
            f"no node can hold one fold: it asks for {cpus} CPUs and {gpus:g} GPUs, the largest node has "
            f"{most_cpus:g} CPUs and {most_gpus:g} GPUs. Smallest change: {change}."
        )
    return min(fit, resources.max_concurrent) if resources.max_concurrent else fit


def probe(
    recipes: Sequence[Recipe],
    weights: dict[str, Weights | None],
    kept: Mapping[str, bool],
    prepared: Prepared,
    cpus: int,
    gpus: float,
) -> dict[str, Probe]:
    """Time a few real steps of each arm in one worker process; on features where an arm has `kept` them.

    Raises:
        TrialError: a step failed; the rest of the run would, too.
    """
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=1)(probe_arm)
    found = {}
    for recipe in recipes:
        start = weights[recipe.name]
        try:
            on = kept.get(recipe.name, False)
            found[recipe.name] = ray.get(remote.remote(recipe, start, on, prepared, cpus, gpus))
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
    return found


def probe_arm(
    recipe: Recipe, start: Weights | None, kept: bool, prepared: Prepared, threads: int, gpus: float
) -> Probe:
    torch.set_num_threads(threads)
    memory.keep_freed_memory()
    device = torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")
    train = recipe.train
    precision = choose(train.precision, device)
    classes = len(prepared.classes)
    model = transfer.make_model(train, start, classes, 0, 0, device)
    optimizer = transfer.make_optimizer(train, model, classes)
    pixels = torch.zeros((train.batch_size, 1, prepared.image_size, prepared.image_size), dtype=torch.uint8)
    targets = objective.blank_targets(prepared.task, train.batch_size, classes).to(device)
    images, net = loop.Images(pixels.to(device), targets), model
    if kept:
        parts = freeze.split(train, model, classes)
        assert parts.body is not None and parts.head is not None
        blank = features.compute(parts.body, pixels, None, precision, device)[0].float().to(device)
        rows = torch.arange(train.batch_size, device=device)
        images, net = replace(images, features=features.Features(blank, blank, rows)), parts.head
    at = state.State()
    marks: list[float] = []
    hooks = loop.Hooks(lambda _: None, lambda s: marks.append(s.train_seconds), lambda _: None)
    # saving after every step stops the clock there; the first step, which warms up, is left out of the time
    timed = train.model_copy(update={"budgets": (TIMED_STEPS + 2,), "checkpoint_every": 1})
    setting = loop.Setting(timed, recipe.augment, 0, 0, classes, precision, device, prepared.task)
    loop.fit(setting, images, net, optimizer, at, hooks)
    step_seconds = (marks[-1] - marks[0]) / (len(marks) - 1)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return Probe(device.type, gpu, precision, step_seconds, len(state.Snapshot(model).weights()))


def make(
    experiment: Experiment,
    all_trials: tuple[Trial, ...],
    done: Sequence[str],
    nodes: Sequence[Node],
    probes: dict[str, Probe],
    run: Path,
) -> Plan:
    """Put the probes' figures together.

    Raises:
        PlanError: no fold can start, or the run folder's disk has too little room.
    """
    todo = [trial for trial in all_trials if trial.name not in done]
    at_once = max(1, min(slots(experiment.resources, nodes), len(todo)))
    steps = {name: sum(t.budgets[-1] for t in todo if t.arm == name) for name in probes}
    estimates = tuple(
        ArmEstimate(name, p.step_seconds, p.weight_bytes, p.step_seconds * steps[name] / _count(todo, name))
        for name, p in probes.items()
    )
    needed = sum(probes[t.arm].weight_bytes * (len(t.budgets) + _STATE_COPIES) for t in todo)
    free = shutil.disk_usage(run).free
    if needed > free:
        raise PlanError(
            f"the run needs {needed / 1e9:.1f} GB for weights and states, {run} has {free / 1e9:.1f} GB free: "
            "make room, choose another --home, or take fewer budgets or folds"
        )
    first = next(iter(probes.values()))
    return Plan(
        trials=all_trials,
        done=tuple(done),
        concurrent=at_once,
        waves=-(-len(todo) // at_once),
        cpus_per_fold=experiment.resources.cpus_per_fold,
        gpus_per_fold=gpus_per_fold(experiment.resources, nodes),
        cluster_cpus=sum(node.cpus for node in nodes),
        cluster_gpus=sum(node.gpus for node in nodes),
        device=first.device,
        precision=first.precision,
        estimates=estimates,
        estimated_seconds=sum(p.step_seconds * steps[name] for name, p in probes.items()) / at_once,
        disk_needed=needed,
        disk_free=free,
    )


def _count(todo: Sequence[Trial], arm: str) -> int:
    return sum(trial.arm == arm for trial in todo)
