"""What of a run is done, running and missing, read from its folder alone: from any machine that sees the storage.

Whether a run lives is told by the lock that its process holds, never by how old a file is. Clocks matter where
no lock is to be seen: another machine's (`_elsewhere`; the note says so), and for a storage's leases (`lease.held`).
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cxrtl import storage
from cxrtl.errors import DamagedError, RunError
from cxrtl.records import Progress, Trial
from cxrtl.rundir import RunDir, read_json, read_result

FILES = ("plan.json", "progress.json", "result.json", "error.txt")
ALIVE = 60.0  # seconds since a trial's last sign of life, of which there is one a second
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
    """`note` says what `writing` rests on where that is not this machine's own lock."""

    run: str
    writing: bool  # a process holds the run
    trials: tuple[TrialStatus, ...]
    note: str = ""

    def count(self, state: State) -> int:
        return sum(trial.state == state for trial in self.trials)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read(run: RunDir, before: Status | None = None) -> Status:
    """Needs nothing but the folder: no Ray, and not the machine that the run is on. What was done at the look `before`
    is not looked at again.

    Raises:
        RunError: the folder is no run, or none that got as far as a plan.
    """
    storage.pull(run.root, FILES)
    if not run.path("plan.json").exists():
        raise RunError(f"{run.root} holds no planned run: give the folder that `cxrtl run` printed, such as runs/demo")
    planned = run.planned()
    done = {trial.name: trial for trial in before.trials if trial.state == "done"} if before else {}
    beats = {trial.name: _beat(run, trial) for trial in planned if trial.name not in done}
    writing, note = run.locked(), ""
    if not writing and (host := run.host()) not in ("", os.uname().nodename):
        writing, note = _elsewhere(host, [beat.updated for beat in beats.values() if beat])
    trials = (done.get(trial.name) or _trial(run, trial, beats[trial.name], writing) for trial in planned)
    return Status(run.name, writing, tuple(trials), note)


def _elsewhere(host: str, updated: list[float]) -> tuple[bool, str]:
    """A lock of another machine need not be seen here: its trials' last sign of life decides."""
    where = f"last held on {host}, whose lock may not be seen from here"
    if not updated:
        return False, f"{where}; no fold has given a sign of life since"
    age = time.time() - max(updated)  # by the clocks of two machines
    return abs(age) < ALIVE, f"{where}; last sign of life {age:.0f} s ago by the clocks of both"


def _beat(run: RunDir, trial: Trial) -> Progress | None:
    try:
        return Progress.from_json(read_json(run.trial(trial) / "progress.json"))
    except (DamagedError, ValueError):  # not begun, or done
        return None


def _trial(run: RunDir, trial: Trial, beat: Progress | None, writing: bool) -> TrialStatus:
    folder, budgets = run.trial(trial), trial.budgets

    def status(state: State, iteration: int, reached: int, speed: float, seconds: float) -> TrialStatus:
        return TrialStatus(trial.name, trial.arm, trial.fold, budgets, state, iteration, reached, speed, seconds)

    try:
        result = read_result(folder / "result.json")
        seconds = max((reached.train_seconds for reached in result.milestones), default=0.0)
        return status("done", budgets[-1], len(budgets), result.images_per_second, seconds)
    except DamagedError:
        pass  # not done: the ledger decides what to make of it, here it is only looked at
    if beat is None:
        return status("failed" if (folder / "error.txt").exists() else "waiting", 0, 0, 0.0, 0.0)
    state: State = "failed" if (folder / "error.txt").exists() else "running" if writing else "cut off"
    speed = beat.images / beat.train_seconds if beat.train_seconds else 0.0
    return status(state, beat.iteration, len(beat.milestones), speed, beat.train_seconds)
