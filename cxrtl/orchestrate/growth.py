"""Clusters whose machines come with work: the first that can hold a fold is waited for, more are planned with.

Ray's autoscaler starts machines for what is asked for and finds no place. What asks here are placement groups, as do
Tune's trials later: they end with this process, however it ends, and with them all reason to keep machines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.util import placement_group, placement_group_table, remove_placement_group

from cxrtl.config import Resources
from cxrtl.errors import PlanError
from cxrtl.orchestrate import cluster, plan, room
from cxrtl.orchestrate.cluster import Node
from cxrtl.orchestrate.probe import Share

GROUP = "ray.io/node-group"  # Ray's label of machines that `ray up` or KubeRay started: the group they belong to
WITHIN, LOOK_EVERY = 1800.0, 1.0  # seconds: one with a GPU takes minutes to start and to be set up
MOST = 100  # machines that are asked for, and planned with, at once


def grows() -> bool:
    """Whether the cluster's machines are an autoscaler's to start and end."""
    return any(node["Alive"] and GROUP in (node["Labels"] or {}) for node in ray.nodes())  # type: ignore[no-untyped-call]


def nodes(
    resources: Resources, todo: int, threads: int, say: Callable[[str], None], ask: bool = True
) -> tuple[list[Node], list[Node]]:
    """The nodes that are alive, and those to plan with for `todo` folds: the same, unless the cluster grows.

    Where it does, and nothing there can hold a fold, as many machines are asked for as the folds can use (one without
    `ask`), and the first is waited for. `threads`: a fold's, as the run was begun with, or 0.

    Raises:
        PlanError: no machine came in time, or it is open whether folds take GPUs.
    """
    alive = cluster.nodes()
    if not grows():
        return alive, alive
    least = _least(resources, alive, threads)
    wanted = min(min(todo, resources.max_concurrent or todo) * least.workers, MOST)
    if not room.fit(least, alive):
        alive = _first(least, wanted if ask else 1, say)
    return alive, [*alive, *to_come(least, wanted, alive)]


def require_cpu(alive: Sequence[Node], say: Callable[[str], None]) -> None:
    """Wait for one where there is none and the cluster grows: Ray Data, which prepares and reads images, asks for
    none. Raises PlanError where none comes in time."""
    if not any(node.cpus >= 1 for node in alive) and grows():
        _first(Share(1, 0.0), 1, say)


def _first(least: Share, wanted: int, say: Callable[[str], None]) -> list[Node]:
    what = f"{least.cpus} CPU(s)" + (f" and {least.gpus:g} GPU(s)" if least.gpus else "")
    say(f"waiting for the cluster to start a machine with {what}")
    bundle = {"CPU": float(least.cpus)} | ({"GPU": least.gpus} if least.gpus else {})
    asked = [placement_group([bundle]) for _ in range(wanted)]
    until = time.monotonic() + WITHIN
    try:
        while not (room.fit(least, alive := cluster.nodes()) and _any_placed(asked)):
            if time.monotonic() > until:
                raise PlanError(
                    f"no machine with {what} joined the cluster within {WITHIN / 60:.0f} min. `ray status` tells what "
                    "keeps it: mend that and run the same command, or set resources.cpus_per_fold and "
                    "resources.gpus_per_fold to what one of the cluster's kinds of machine has."
                )
            time.sleep(LOOK_EVERY)
        return alive
    finally:
        for group in asked:
            remove_placement_group(group)


def to_come(least: Share, wanted: int, alive: Sequence[Node]) -> list[Node]:
    """Nodes that may join those alive, until so many processes fit: like the one that holds most. How many the cluster
    allows, Ray does not tell; nobody waits for those that do not come."""
    like = max(alive, key=lambda node: node.slots(least.cpus, least.gpus))
    copies = -(-(wanted - room.fit(least, alive)) // like.slots(least.cpus, least.gpus))
    return [replace(like, name="to come", id="")] * copies


def _least(resources: Resources, alive: Sequence[Node], threads: int) -> Share:
    """What a process takes at least, as far as it is known before any step is timed."""
    if resources.gpus_per_fold == "auto" and not any(node.gpus >= 1 for node in alive):
        raise PlanError(
            "the cluster starts machines as they are asked for, and none that is there has a GPU: "
            "resources.gpus_per_fold = 'auto' cannot tell whether folds are to have one. Smallest change: "
            "--set resources.gpus_per_fold=1, or 0 to train on CPUs."
        )
    fixed = resources.cpus_per_fold
    cpus = threads or (1 if fixed == "auto" else fixed)
    return Share(cpus, plan.gpus_per_fold(resources, alive), workers=resources.workers_per_fold)


def _any_placed(asked: Sequence[Any]) -> bool:
    """Whether one has its place: a node is alive a moment before it takes work."""
    return any(placement_group_table(group)["state"] == "CREATED" for group in asked)
