"""What will run where, for how long, at what cost and on how much disk; refused here if it cannot start (`room`)."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from cxrtl.config import Experiment, Recipe, Resources, Train
from cxrtl.data import flat
from cxrtl.errors import PlanError
from cxrtl.orchestrate import room
from cxrtl.orchestrate.cluster import Node
from cxrtl.orchestrate.probe import Probe, Prober, Share
from cxrtl.records import ArmEstimate, NodePlan, Plan, Prepared, Trial

_MOST_PACKED = 16  # folds to a GPU that are tried unasked
CPUS_BESIDE_GPU = 4  # what reads, draws and saves beside a GPU has use for


def trials(experiment: Experiment, k: int) -> tuple[Trial, ...]:
    """Every unit of work. Budgets share one run where they are points on the way to the last: a constant rate."""
    out = []
    recipes = experiment.recipes
    for fold in range(k):
        for recipe in recipes:
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


def at_once(share: Share, nodes: Sequence[Node], todo: int, limit: int) -> int:
    """Folds that train at once: as many as fit, are to do, and `limit` (0: no limit) allows; one at least."""
    most = room.slots(share, nodes) * share.folds
    return max(1, min(most, todo, limit or most))


def most_at_once(resources: Resources, plan: Plan, joined: bool) -> int:
    """Processes that are started as soon as there is room: on a cluster that was `joined`, whose nodes may become more
    than were planned with, one for each that is to do; of one whose folds are shared out, as planned: what waits for
    its workers takes memory of the head."""
    if not joined or plan.workers_per_fold > 1:
        return plan.processes
    folds = min(len(plan.todo), resources.max_concurrent or len(plan.todo))
    return -(-folds // plan.folds_per_process)


def shares(resources: Resources, nodes: Sequence[Node], todo: int, threads: int = 0) -> list[Share]:
    """The ways to lay the run's processes out that its experiment leaves open; `threads`: as it was begun with.

    Without GPUs, threads a fold are doubled from 1 for as long as that takes folds off the machine that are to do: a
    fold waits for its slowest thread at every layer, folds beside each other wait for nothing. With GPUs, several folds
    may share one from inside one process.
    """
    gpus, fixed, workers = gpus_per_fold(resources, nodes), resources.cpus_per_fold, resources.workers_per_fold
    cpus = threads or (fixed if fixed != "auto" else 0)
    limit = min(todo, resources.max_concurrent or todo)
    if gpus:
        most = max((int(node.cpus // (node.gpus / gpus)) for node in nodes if node.gpus), default=1)
        cpus = cpus or max(1, min(most, CPUS_BESIDE_GPU))
        if workers > 1:
            return [Share(cpus, gpus, workers=workers)]
        asked = resources.folds_per_gpu
        packs = _packs(limit, Share(cpus, gpus), nodes) if asked == "auto" else [asked]
        return [Share(cpus, gpus, folds) for folds in packs if folds == packs[0] or (gpus == 1 and folds <= limit)]
    if cpus:
        return [Share(cpus, 0.0, workers=workers)]
    most = max((int(node.cpus) for node in nodes), default=0)
    open_ = [Share(2**power, 0.0, workers=workers) for power in range(max(most, 1).bit_length())]
    open_ = [share for share in open_ if room.fit(share, nodes) >= workers] or open_[:1]
    # all that are to do run at once already with these: half the threads would only slow them
    enough = [share for share in open_ if room.fit(share, nodes) >= limit * workers]
    return open_[max(len(enough) - 1, 0) :]


def _packs(limit: int, share: Share, nodes: Sequence[Node]) -> list[int]:
    """Folds to a GPU worth trying, among them those that end in one, two or three waves of even packs."""
    gpus = max(room.fit(share, nodes), 1)
    even = {-(-limit // (gpus * waves)) for waves in (1, 2, 3)}
    return sorted({1, 2, 4, 8} | {folds for folds in even if 0 < folds <= _MOST_PACKED})


def packs(todo: Sequence[Trial], step_seconds: Mapping[str, float], folds: int) -> list[tuple[Trial, ...]]:
    """What each process trains side by side, in the order in which they start: the longest first, so that at the end
    only short ones are waited for. `step_seconds`: by arm."""
    order = sorted(todo, key=lambda trial: -trial.budgets[-1] * step_seconds[trial.arm])
    return [tuple(order[first : first + folds]) for first in range(0, len(order), folds)]


def makespan(seconds: Sequence[float], slots: int) -> float:
    """When the last of these ends, each started in its turn on the slot that frees first."""
    free = [0.0] * max(1, min(slots, len(seconds)))
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def make(
    experiment: Experiment,
    all_trials: tuple[Trial, ...],
    done: Sequence[str],
    nodes: Sequence[Node],
    share: Share,
    probes: Mapping[str, Probe],
    run: Path,
    prepared: Prepared,
) -> Plan:
    """Put the probes' figures together.

    Raises:
        PlanError: no fold can start, or GPUs, memory or disk have too little room.
    """
    finished, resources, size = frozenset(done), experiment.resources, flat.size(prepared)
    todo = [trial for trial in all_trials if trial.name not in finished]
    concurrent = at_once(share, nodes, len(todo), resources.max_concurrent)
    processes = -(-concurrent // share.folds)
    streamed = room.streams(experiment, nodes, share, concurrent, probes, size)
    gpu = room.require_gpu(share, probes, 0 if streamed else size)
    memory = room.require_memory(nodes, share, concurrent, probes, size, streamed)
    needed, free = room.require_disk(todo, probes, run, prepared, streamed)
    step = {name: probe.step_seconds for name, probe in probes.items()}
    each = [max(t.budgets[-1] * step[t.arm] for t in pack) for pack in packs(todo, step, share.folds)]
    seconds = makespan(each, processes)
    held = room.spread(share, nodes, processes * share.workers)
    price = resources.cost_per_node_hour
    cost = price * sum(map(bool, held)) * seconds / 3600 if price else None
    first = next(iter(probes.values()))
    return Plan(
        trials=all_trials,
        done=tuple(done),
        concurrent=concurrent,
        waves=-(-len(todo) // concurrent),
        cpus_per_fold=share.cpus,
        gpus_per_fold=share.gpus,
        folds_per_process=share.folds,
        workers_per_fold=share.workers,
        nodes=tuple(NodePlan(n.name, n.cpus, n.gpus, n.memory, here) for n, here in zip(nodes, held, strict=True)),
        cluster_cpus=sum(node.cpus for node in nodes),
        cluster_gpus=sum(node.gpus for node in nodes),
        process_bytes=memory,
        gpu_bytes_per_fold=gpu,
        gpu_bytes=first.gpu_memory if share.gpus else 0,
        streams=streamed,
        device=first.device,
        precision=first.precision,
        estimates=_estimates(todo, probes, cost),
        estimated_seconds=seconds,
        cost=cost,
        currency=resources.currency if price else "",
        disk_needed=needed,
        disk_free=free,
    )


def _estimates(todo: Sequence[Trial], probes: Mapping[str, Probe], cost: float | None) -> tuple[ArmEstimate, ...]:
    """By arm; each bears its part of the cost by the time its folds train."""
    count, steps = Counter(trial.arm for trial in todo), Counter[str]()
    for trial in todo:
        steps[trial.arm] += trial.budgets[-1]
    seconds = {name: probe.step_seconds * steps[name] for name, probe in probes.items()}
    total = sum(seconds.values())
    return tuple(
        ArmEstimate(
            arm=name,
            step_seconds=probe.step_seconds,
            weight_bytes=probe.weight_bytes,
            fold_seconds=seconds[name] / count[name],
            trials=count[name],
            seconds=seconds[name],
            cost=None if cost is None else cost * seconds[name] / total,
        )
        for name, probe in probes.items()
    )


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
    resources, size = experiment.resources, flat.size(prober.prepared)
    if threads and resources.cpus_per_fold == "auto" and threads > max((node.cpus for node in nodes), default=0):
        raise PlanError(
            f"the run was begun with {threads} CPUs a fold, on which its last bits depend, and no node has as many. "
            "Smallest change: go on where one has, or give the experiment another name."
        )
    open_ = [
        (share, at_once(share, nodes, len(todo), resources.max_concurrent))
        for share in shares(resources, nodes, len(todo), threads)
    ]
    count = Counter(trial.arm for trial in todo)
    largest = max(recipes, key=lambda r: count[r.name] * r.train.budgets[-1] * r.train.batch_size)

    def fits(share: Share, folds: int, probe: Probe) -> bool:
        streamed = room.streams(experiment, nodes, share, folds, {largest.name: probe}, size)
        return room.fits_gpu(share, probe, 0 if streamed else size)

    share, first = prober.fastest(largest, open_, len(todo), fits)
    processes = -(-at_once(share, nodes, len(todo), resources.max_concurrent) // share.folds)
    return share, {
        recipe.name: first if recipe is largest else prober.time(recipe, share, processes) for recipe in recipes
    }
