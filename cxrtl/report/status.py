"""What of a run is done, running and missing, read from its folder alone: from any machine that sees the storage.

Whether a run lives is told by the lock that its process holds, never by how old a file is: no machine's clock matters.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from cxrtl.errors import DamagedError, RunError
from cxrtl.records import FoldResult
from cxrtl.rundir import RunDir, read_json

State = Literal["done", "running", "cut off", "failed", "waiting"]


@dataclass(frozen=True)
class TrialStatus:
    """One trial: `iteration` of `budgets[-1]`, budgets reached, training speed so far."""

    name: str
    arm: str
    fold: int
    budgets: tuple[int, ...]
    state: State
    iteration: int
    reached: int
    images_per_second: float
    train_seconds: float


@dataclass(frozen=True)
class Status:
    run: str
    writing: bool  # a process holds the run
    trials: tuple[TrialStatus, ...]

    def count(self, state: State) -> int:
        return sum(trial.state == state for trial in self.trials)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read(run: RunDir, before: Status | None = None) -> Status:
    """Look at a run. What was done at the look `before` is not looked at again.

    Raises:
        RunError: the folder is no run, or none that got as far as a plan.
    """
    if not run.path("plan.json").exists():
        raise RunError(f"{run.root} holds no planned run: give the folder that `cxrtl run` printed, such as runs/demo")
    plan = read_json(run.path("plan.json"))
    writing = run.locked()
    done = {trial.name: trial for trial in before.trials if trial.state == "done"} if before else {}
    return Status(
        run.name, writing, tuple(done.get(raw["folder"]) or _trial(run, raw, writing) for raw in plan["trials"])
    )


def _trial(run: RunDir, raw: dict[str, Any], writing: bool) -> TrialStatus:
    folder, budgets = run.path(raw["folder"]), tuple(raw["budgets"])

    def status(state: State, iteration: int, reached: int, speed: float, seconds: float) -> TrialStatus:
        return TrialStatus(raw["folder"], raw["arm"], raw["fold"], budgets, state, iteration, reached, speed, seconds)

    try:
        result = FoldResult.from_json(read_json(folder / "result.json"))
        seconds = result.milestones[-1].train_seconds
        return status("done", budgets[-1], len(budgets), result.images_per_second, seconds)
    except (DamagedError, KeyError, TypeError):
        pass  # not done: the ledger decides what to make of it, here it is only looked at
    failed = (folder / "error.txt").exists()
    if not (folder / "progress.json").exists():
        return status("failed" if failed else "waiting", 0, 0, 0.0, 0.0)
    try:
        beat = read_json(folder / "progress.json")
    except DamagedError:
        if (folder / "progress.json").exists():
            raise
        return _trial(run, raw, writing)  # it has ended while we looked
    state: State = "failed" if failed else "running" if writing else "cut off"
    seconds = float(beat["train_seconds"])
    speed = beat["images"] / seconds if seconds else 0.0
    return status(state, beat["iteration"], len(beat["milestones"]), speed, seconds)
