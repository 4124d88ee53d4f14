"""What will run where, for how long and on how much disk; refused here if it cannot start."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from cxrtl.config import Experiment, Recipe, Resources, Train
from cxrtl.errors import PlanError
from cxrtl.orchestrate.cluster import Node
from cxrtl.orchestrate.probe import Probe, Prober, Share
from cxrtl.records import ArmEstimate, Plan, Trial

CPUS_BESIDE_GPU = 4  # what reads, draws and saves beside a GPU has use for
_STATE_COPIES = 3  # a saved state: parameters and momentum (AdamW: two moments)


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


def slots(share: Share, nodes: Sequence[Node]) -> int:
    """Processes of this share that fit on the cluster at once.

    Raises:
        PlanError: none does; names the smallest change that would let one start.
    """
    fit = sum(node.slots(share.cpus, share.gpus) for node in nodes)
    if not fit:
        most_cpus, most_gpus = max((n.cpus for n in nodes), default=0), max((n.gpus for n in nodes), default=0)
        change = (
            f"set resources.cpus_per_fold to {int(most_cpus)} or less"
            if share.cpus > most_cpus
            else f"set resources.gpus_per_fold to {most_gpus:g} or less"
        )
        raise PlanError(
            f"no node can hold one fold: it asks for {share.cpus} CPUs and {share.gpus:g} GPUs, the largest node has "
            f"{most_cpus:g} CPUs and {most_gpus:g} GPUs. Smallest change: {change}."
        )
    return fit


def at_once(share: Share, nodes: Sequence[Node], todo: int, limit: int) -> int:
    """Folds that train at once: as many as fit, are to do, and `limit` (0: no limit) allows; one at least."""
    most = slots(share, nodes) * share.folds
    return max(1, min(most, todo, limit or most))


def shares(resources: Resources, nodes: Sequence[Node], todo: int, threads: int = 0) -> list[Share]:
    """The ways to lay the run's processes out that its experiment leaves open; `threads`: as it was begun with.

    Without GPUs, threads a fold are doubled from 1 for as long as that takes folds off the machine that are to do: a
    fold waits for its slowest thread at every layer, folds beside each other wait for nothing. With GPUs, several folds
    may share one from inside one process.
    """
    gpus, fixed = gpus_per_fold(resources, nodes), resources.cpus_per_fold
    cpus = threads or (fixed if fixed != "auto" else 0)
    limit = min(todo, resources.max_concurrent or todo)
    if gpus:
        most = max((int(node.cpus // (node.gpus / gpus)) for node in nodes if node.gpus), default=1)
        cpus = cpus or max(1, min(most, CPUS_BESIDE_GPU))
        packs = [resources.folds_per_gpu] if resources.folds_per_gpu != "auto" else [1, 2, 4, 8]
        return [Share(cpus, gpus, folds) for folds in packs if folds == packs[0] or (gpus == 1 and folds <= limit)]
    if cpus:
        return [Share(cpus, 0.0)]
    most = max((int(node.cpus) for node in nodes), default=0)
    open_ = [Share(2**power, 0.0) for power in range(max(most, 1).bit_length())]
    # all that are to do run at once already with these: half the threads would only slow them
    enough = [share for share in open_ if sum(node.slots(share.cpus, 0) for node in nodes) >= limit]
    return open_[max(len(enough) - 1, 0) :]


def streams(
    experiment: Experiment, nodes: Sequence[Node], share: Share, folds: int, probes: dict[str, Probe], size: int
) -> bool:
    """Whether a set of `size` bytes is read from disk as it is used, `folds` training at once.

    `auto`: where the copies that a node's folds hold, and the object store's, take more than half of its memory, or
    those on a GPU more than half of the GPU's.
    """
    if experiment.resources.images != "auto":
        return experiment.resources.images == "stream"
    fit = [(node, min(node.slots(share.cpus, share.gpus) * share.folds, folds)) for node in nodes]
    gpu = min(probe.gpu_memory for probe in probes.values()) / 2
    on_gpu = size * share.folds / min(share.gpus, 1) if share.gpus else 0
    return on_gpu > gpu or any(size * (here + 1) > node.memory / 2 for node, here in fit if here)


def make(
    experiment: Experiment,
    all_trials: tuple[Trial, ...],
    done: Sequence[str],
    nodes: Sequence[Node],
    share: Share,
    probes: dict[str, Probe],
    run: Path,
) -> Plan:
    """Put the probes' figures together.

    Raises:
        PlanError: no fold can start, or the run folder's disk has too little room.
    """
    todo = [trial for trial in all_trials if trial.name not in done]
    concurrent = at_once(share, nodes, len(todo), experiment.resources.max_concurrent)
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
        concurrent=concurrent,
        waves=-(-len(todo) // concurrent),
        cpus_per_fold=share.cpus,
        gpus_per_fold=share.gpus,
        folds_per_process=share.folds,
        cluster_cpus=sum(node.cpus for node in nodes),
        cluster_gpus=sum(node.gpus for node in nodes),
        device=first.device,
        precision=first.precision,
        estimates=estimates,
        estimated_seconds=sum(p.step_seconds * steps[name] for name, p in probes.items()) / concurrent,
        disk_needed=needed,
        disk_free=free,
    )


def _count(todo: Sequence[Trial], arm: str) -> int:
    return sum(trial.arm == arm for trial in todo)


def lay_out(
    experiment: Experiment,
    recipes: Sequence[Recipe],
    todo: Sequence[Trial],
    nodes: Sequence[Node],
    prober: Prober,
    threads: int = 0,
) -> tuple[Share, dict[str, Probe]]:
    """What each process takes, chosen by timing the arm with the most to do, and every arm's times under that.

    `threads`: a fold's, as the run was begun with.

    Raises:
        PlanError: no fold can start anywhere; TrialError: a step fails.
    """
    resources = experiment.resources
    open_ = [
        (share, at_once(share, nodes, len(todo), resources.max_concurrent))
        for share in shares(resources, nodes, len(todo), threads)
    ]
    largest = max(recipes, key=lambda r: _count(todo, r.name) * r.train.budgets[-1] * r.train.batch_size)
    share, first = prober.fastest(largest, open_, len(todo))
    processes = -(-at_once(share, nodes, len(todo), resources.max_concurrent) // share.folds)
    return share, {
        recipe.name: first if recipe is largest else prober.time(recipe, share, processes) for recipe in recipes
    }
