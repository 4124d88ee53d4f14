"""What a trial tells of itself: events in its log, and numbers among Ray's own Prometheus metrics.

These are `ray_cxrtl_…`, those that count `ray_cxrtl_…_total`, with the tags `run`, `arm` and `fold`. Every node serves
what its processes counted, at the port of `ray start --metrics-export-port`.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path

from ray.util.metrics import Counter, Gauge

from cxrtl.errors import RunError
from cxrtl.learn.state import State
from cxrtl.orchestrate.journal import here, note
from cxrtl.records import FoldResult, Milestone, Trial

TAGS = ("run", "arm", "fold")
WORDS = {
    "images_per_second": "Images trained on a second, since the value before",
    "iterations": "Training steps done",
    "data_wait_seconds": "Time that training waited for images",
    "folds_done": "Folds trained to their last budget",
}


@cache
def _counter(name: str) -> Counter:
    """One of each a process, whatever trials it runs."""
    return Counter(f"cxrtl_{name}", WORDS[name], TAGS)


@cache
def _speed() -> Gauge:
    return Gauge("cxrtl_images_per_second", WORDS["images_per_second"], TAGS)


class Signals:
    """Of one try of a trial that writes to `folder`; numbers only with `metered`, where a cluster gathers them."""

    def __init__(self, folder: Path, run: str, trial: Trial, at: State, metered: bool) -> None:
        self.folder, self.metered = folder, metered
        self.tags = {"run": run, "arm": trial.arm, "fold": str(trial.fold)}
        self.last = (at.iteration, at.train_seconds, at.data_wait_seconds)
        if at.tries > 1:
            note(folder, "restarted", "warning", iteration=at.iteration, tries=at.tries, **here())
        else:
            note(folder, "started", iteration=at.iteration, tries=at.tries, **here())

    def tell(self, at: State, batch: int) -> None:
        """Called about once a second; `batch` images a step."""
        now = (at.iteration, at.train_seconds, at.data_wait_seconds)
        steps, seconds, waited = (new - old for new, old in zip(now, self.last, strict=True))
        self.last = now
        self._count("iterations", steps)
        self._count("data_wait_seconds", waited)
        if self.metered and seconds > 0:
            _speed().set(steps * batch / seconds, tags=self.tags)

    def milestone(self, reached: Milestone) -> None:
        note(self.folder, "milestone", iterations=reached.iterations, train_seconds=round(reached.train_seconds, 3))

    def finished(self, result: FoldResult) -> None:
        """Before the result is written, which vouches for nothing here."""
        note(self.folder, "finished", wall_seconds=round(result.wall_seconds, 3), tries=result.tries)
        self._count("folds_done", 1)
        if self.metered:
            _speed().set(0, tags=self.tags)

    def _count(self, name: str, more: float) -> None:
        if self.metered and more > 0:  # a counter takes nothing else
            _counter(name).inc(more, tags=self.tags)


def failed(folder: Path, error: Exception) -> None:
    """Note a trial's fault by its kind alone: its words may hold anything."""
    with suppress(
        OSError, RunError
    ):  # a full disk, or a folder that another try has taken over, are faults of their own
        note(folder, "failed", "error", kind=type(error).__name__, **here())
