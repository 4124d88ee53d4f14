"""A run that may be killed in any part: its processes, wherever they hang, and how far its folds are."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path


class Failed(Exception):
    """The campaign found a fault."""


@dataclass
class Run:
    """A `cxrtl run` in a home of its own, started again whenever its driver has ended."""

    home: Path
    experiment: Path
    length: int
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    driver: subprocess.Popen[bytes] | None = None
    starts: int = 0
    saved: dict[str, int] = field(default_factory=dict)
    family: dict[int, str] = field(default_factory=dict)  # every process seen, and when it began
    doomed: list[tuple[float, str, dict[int, str]]] = field(default_factory=list)  # until when, by what, which

    def start(self) -> None:
        environment = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "CXRTL_HOME")}
        environment |= {"CXRTL_KILLS": self.token, "RAY_TMPDIR": str(self.home / "ray")}
        words = [sys.executable, "-m", "cxrtl.cli", "run", str(self.experiment), "--home", str(self.home)]
        with (self.home / "log").open("a") as log:
            self.driver = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        self.starts += 1

    def processes(self) -> dict[int, str]:
        """The names of all living processes that descend from this run's drivers, by process id.

        Told by their parents, by a mark in their environment (Ray's workers write their titles over it), or by having
        been told so before: orphans are found, too.
        """
        mark, parents = f"CXRTL_KILLS={self.token}".encode(), dict[int, int]()
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and (found := stat(int(folder.name))):
                parents[int(folder.name)] = int(found[1])
        mine = {pid for pid in parents if self.family.get(pid) == _began(pid) or mark in _read(pid, "environ")}
        mine |= {self.driver.pid} & parents.keys() if self.driver and self.driver.poll() is None else set()
        while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
            mine |= more
        self.family |= _births(mine)
        return {pid: _read(pid, "cmdline").partition(b"\0")[0].decode(errors="replace") for pid in mine}

    def doom(self, until: float, by: str) -> None:
        """All that live now must have ended by then (`time.monotonic`)."""
        self.doomed.append((until, by, _births(self.processes())))

    def look_for_the_doomed(self) -> bool:
        """Whether any of them still live; fails where they should not."""
        now, living = time.monotonic(), []
        for until, by, which in self.doomed:
            left = [_read(pid, "cmdline")[:40] for pid, began in which.items() if _began(pid) == began]
            if left and now > until:
                raise Failed(f"{now - until:.0f} s too long after the kill of {by} there are still {left}")
            living += [(until, by, which)] if left else []
        self.doomed = living
        return bool(living)

    def folds(self) -> dict[str, Path]:
        return {path.name: path for path in sorted((self.home / "runs/kills").glob("*/fold*"))}

    def at(self) -> dict[str, int]:
        """The iteration that each fold says it has reached."""
        return {name: self._read(path, "progress.json", "iteration") for name, path in self.folds().items()}

    def kept(self) -> dict[str, int]:
        """The iteration of each fold's saved state; fails where it has gone back."""
        for name, path in self.folds().items():
            now = self._read(path, "state.json", "iteration")
            if now < self.saved.get(name, 0):
                raise Failed(f"{name} had a state at iteration {self.saved[name]}, and now one at {now}")
            self.saved[name] = now
        return dict(self.saved)

    def _read(self, folder: Path, name: str, key: str) -> int:
        while not (folder / "result.json").exists():
            try:
                return int(json.loads((folder / name).read_text())[key])
            except OSError:  # nothing is written yet, or all is done
                if not (folder / "result.json").exists():
                    return 0
        return self.length

    def targets(self) -> dict[str, list[int]]:
        names = self.processes()
        training = [trained_by(path) for path in self.folds().values()]
        found = {
            "fold": [pid for pid in training if pid in names],
            "worker": [pid for pid, name in names.items() if name.startswith("ray::") and pid not in training],
            "driver": [self.driver.pid] if self.driver and self.driver.poll() is None else [],
            "raylet": [pid for pid, name in names.items() if name.endswith("/raylet")],
        }
        return {kind: pids for kind, pids in found.items() if pids}

    def end(self) -> None:
        """Kill whatever is left."""
        for pid in self.processes():
            kill(pid)
        if self.driver:
            self.driver.wait()


def trained_by(fold: Path) -> int:
    """The process that says it trains the fold, 0 where none has yet."""
    try:
        return int(json.loads((fold / "progress.json").read_text())["process"].split()[0])
    except OSError:
        return 0


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _read(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:  # it has just ended
        return b""


def stat(pid: int) -> list[str]:
    """State, parent and so on; empty where the process has ended, or waits to be reaped."""
    found = _read(pid, "stat").decode(errors="replace").rpartition(")")[2].split()
    return found if found and found[0] != "Z" else []


def _births(pids: Iterable[int]) -> dict[int, str]:
    """When each began, of those that still live."""
    return {pid: began for pid in pids if (began := _began(pid))}


def _began(pid: int) -> str:
    """The clock's tick: with it a number tells a process from a later one of the same number."""
    return (stat(pid) or [""] * 20)[19]
