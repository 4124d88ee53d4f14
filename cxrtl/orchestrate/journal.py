"""What happened in a run, for programs: `log.jsonl` of the run and of each trial, an object a line, no identifiers.

A log has one writer, the process that holds the run or trains the trial, and few events. So each event writes the file
anew, atomically: neither a crash nor a full disk leaves half a line. Every line has `time` (UTC), `level` and `event`:

    run     begun (node, pid, version), stage, plan, training, ended, error
    trial   started or restarted (try, iteration, node, pid), milestone, finished, failed
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from cxrtl import rundir, storage
from cxrtl.errors import CxrtlError
from cxrtl.records import Plan
from cxrtl.rundir import RunDir

if TYPE_CHECKING:
    from cxrtl.orchestrate.study import Watcher

FILE = "log.jsonl"


def note(folder: Path, event: str, level: Literal["info", "warning", "error"] = "info", **fields: Any) -> None:
    """Add an event to the log in `folder`."""
    path = folder / FILE
    earlier = path.read_bytes() if path.exists() else b""
    record = {"time": datetime.now(UTC).isoformat(timespec="microseconds"), "level": level, "event": event, **fields}
    rundir.write_bytes(path, earlier + json.dumps(record).encode() + b"\n")


def here() -> dict[str, Any]:
    """Which process writes."""
    return {"node": os.uname().nodename, "pid": os.getpid()}


def read(run: RunDir) -> list[dict[str, Any]]:
    """Every event of the run and its trials, by time; `trial` names the trial. A line that is none is left out."""
    storage.pull(run.root, (FILE,))
    found = []
    for path in (run.path(FILE), *run.root.glob(f"*/fold*/**/{FILE}")):
        trial = path.parent.relative_to(run.root).as_posix()
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
            with suppress(ValueError, TypeError, KeyError):
                event = json.loads(line)
                found.append((str(event["time"]), event if trial == "." else {**event, "trial": trial}))
    return [event for _, event in sorted(found, key=lambda item: item[0])]


class Journal:
    """A `Watcher` that keeps in the run's log what it is told, and passes it on."""

    def __init__(self, run: RunDir, watcher: Watcher) -> None:
        self.run, self.watcher = run, watcher

    def __enter__(self) -> Self:
        try:
            mine = version("cxrtl")
        except PackageNotFoundError:  # a job's working directory, not installed
            mine = ""
        note(self.run.root, "begun", **here(), version=mine)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            note(self.run.root, "ended")
            return
        said = str(error) if isinstance(error, CxrtlError) else ""  # others' words may hold a file's name
        with suppress(OSError):  # a full disk, say: the first fault is the one to show
            note(self.run.root, "error", "error", kind=kind.__name__, message=said)

    def stage(self, text: str) -> None:
        note(self.run.root, "stage", text=text)
        self.watcher.stage(text)

    def preparing(self, done: int, total: int) -> None:
        self.watcher.preparing(done, total)

    def planned(self, run: RunDir, plan: Plan) -> None:
        names = ("concurrent", "waves", "device", "precision", "estimated_seconds", "disk_needed", "disk_free")
        numbers = {name: getattr(plan, name) for name in names}
        note(run.root, "plan", trials=len(plan.trials), todo=len(plan.todo), **numbers)
        self.watcher.planned(run, plan)

    def training(self, run: RunDir) -> None:
        note(run.root, "training")
        self.watcher.training(run)
