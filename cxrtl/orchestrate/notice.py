"""Notice that a trial's process or node is about to end: its state is saved at once, and it goes on elsewhere.

Ray drains a node before a spot machine is taken back, before the autoscaler removes it, or by `ray drain-node`; it then
starts nothing new there, and lets the node go once nothing runs on it. Slurm and Kubernetes send SIGTERM.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Collection
from typing import Any, Self

import ray
import torch
from ray.exceptions import RayActorError

from cxrtl.learn.parallel import ALONE, Workers
from cxrtl.learn.state import State

LOOK_EVERY = 5.0  # seconds, as Ray Train's own watcher
ASK_EVERY = 10  # steps


class Notice:
    """While entered, `given()` says whether one of `nodes`, by their ids, is being drained, this process was sent
    SIGTERM, or `give` was called. Where no notice is in force, SIGTERM does what it did before."""

    def __init__(self, nodes: Collection[str]) -> None:
        self._nodes, self._given, self._over = set(nodes), threading.Event(), threading.Event()
        self.leaving = False

    def given(self) -> bool:
        return self._given.is_set()

    def give(self) -> None:
        """Have all that ask save and leave, as if their end were announced."""
        self._given.set()

    def told(self, workers: Workers, device: torch.device, at: State) -> bool:
        """Whether this process or another worker's was: then all leave, for the first saves, whoever was told. Workers
        on GPUs, which have to be waited for, ask each other at some steps only."""
        if workers.count > 1 and device.type == "cuda" and at.iteration % ASK_EVERY:
            return False
        self.leaving = workers.any_told(self.given(), device)
        return self.leaving

    def leave(self, workers: Workers = ALONE) -> None:
        """Raise what has Ray start the trial again, not on a drained node, without counting it as a failure."""
        workers.part_company()
        raise RayActorError(error_msg="the trial left a node or process that was told to end", preempted=True)

    def __enter__(self) -> Self:
        _in_force.add(self._given)
        # only the main thread may set a signal's handler, and trials run in others: it is asked to, soon
        ctypes.pythonapi.Py_AddPendingCall(_PENDING, None)
        threading.Thread(target=self._watch, name="cxrtl-notice", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        _in_force.discard(self._given)

    def _watch(self) -> None:
        while not self._over.is_set():
            if not self._nodes.isdisjoint(draining()):
                self._given.set()
            self._over.wait(LOOK_EVERY)


def draining() -> dict[str, int]:
    """Ids of the nodes that Ray is draining, with their deadlines, ms since 1970 (0: none)."""
    try:
        found: dict[str, int] = ray._private.state.state.get_draining_nodes()
    except Exception:  # the head does not answer for a moment, in whatever way: the next look will tell
        return {}
    return found


_in_force: set[threading.Event] = set()
_before: list[Any] = []  # what SIGTERM did, while it is heeded here


def _heed_sigterm(_: int | None) -> int:
    if not _before:
        _before.append(signal.signal(signal.SIGTERM, _terminated))
    return 0


def _terminated(*_: object) -> None:
    for event in list(_in_force):
        event.set()
    if not _in_force:
        signal.signal(signal.SIGTERM, _before.pop())
        signal.raise_signal(signal.SIGTERM)


_PENDING = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(_heed_sigterm)
