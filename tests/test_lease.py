"""A folder at a storage is held by one process, and by none that is dead."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cxrtl import lease, storage
from cxrtl.errors import LockedError
from cxrtl.lease import Lease
from cxrtl.rundir import RunDir, write_json
from tests.homes import Machines, stored


class Clock:
    """Time as the lease sees it: waiting takes none, and lets `meanwhile` happen."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()

    def meanwhile(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(lease, "time", made)
    return made


@pytest.fixture
def folder(machines: Machines) -> Path:
    return machines.use("one") / "runs/r"


def other(folder: Path, **says: Any) -> str:
    """Another machine's file; its name."""
    owner = {"machine": "another", "pid": 1, "started": "1", "process": "1 on another", "time": 0.0, **says}
    name = f"/bucket/home/{folder.parent.name}/{folder.name}/.lock/other"
    MemoryFileSystem().pipe_file(name, json.dumps(owner).encode())
    return name


def test_a_folder_of_this_machine_needs_no_lease(tmp_path: Path) -> None:
    with lease.hold(tmp_path):
        assert not lease.held(tmp_path) and list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("clock")
def test_one_holds_at_a_time(folder: Path) -> None:
    assert not lease.held(folder)
    with lease.hold(folder):
        assert lease.held(folder)
        with pytest.raises(LockedError, match=r"memory://bucket/home/runs/r is being written by process \d+ on"):
            lease.hold(folder).__enter__()
        assert len(stored()) == 1
    assert stored() == {} and not lease.held(folder)


@pytest.mark.usefixtures("clock")
def test_of_two_at_once_never_both_hold(folder: Path) -> None:
    store = storage.at(folder)
    assert store
    first, second = Lease(store, folder), Lease(store, folder)
    first._write()
    second._write()
    assert first._living() and second._living()
    second._delete(second.mine)
    assert first._living() is None


def test_an_owner_elsewhere_is_alive_while_its_file_changes(folder: Path, clock: Clock) -> None:
    clock.meanwhile = lambda: other(folder, time=clock.now)  # type: ignore[method-assign,assignment,return-value]
    other(folder)
    with pytest.raises(LockedError, match="process 1 on another"), lease.hold(folder):
        pass
    assert clock.now < lease.STALE
    assert list(stored()) == ["runs/r/.lock/other"]


def test_an_owner_elsewhere_that_says_nothing_is_dead(folder: Path, clock: Clock) -> None:
    other(folder, time=1e9)  # by its own clock, which nobody asks
    with lease.hold(folder):
        assert clock.now >= lease.STALE
        assert "runs/r/.lock/other.gone" in stored() and "runs/r/.lock/other" not in stored() and len(stored()) == 2
    assert stored() == {}


def test_an_owner_elsewhere_may_let_go(folder: Path, clock: Clock) -> None:
    name = other(folder)
    clock.meanwhile = lambda: MemoryFileSystem.store.pop(name, None)  # type: ignore[method-assign]
    with lease.hold(folder):
        assert clock.now < lease.STALE


def test_what_is_no_owner_holds_nothing(folder: Path) -> None:
    for content in (b"", b"{}", b"[1]", b'{"pid": "../1"}'):
        MemoryFileSystem().pipe_file("/bucket/home/runs/r/.lock/x", content)
        with lease.hold(folder):
            pass


def test_a_killed_owner_of_this_machine_costs_no_wait(
    tmp_path: Path, machines: Machines, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.home = f"file://{tmp_path}/far"
    run = RunDir(machines.use("one") / "r")
    code = (
        "import time, pathlib; from cxrtl.rundir import RunDir\n"
        f"with RunDir(pathlib.Path({str(run.root)!r})).lock(): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        elsewhere = RunDir(machines.use("two") / "r")  # another mirror: the kernel's lock is not met
        said = json.loads(next((tmp_path / "far/r/.lock").iterdir()).read_text())
        monkeypatch.setattr(clock, "time", lambda: said["time"])
        assert elsewhere.locked()
        with pytest.raises(LockedError, match=f"process {holder.pid} on"), elsewhere.lock():
            pass
        holder.kill()
    with elsewhere.lock():
        assert clock.now < lease.STALE
    assert not elsewhere.locked()


def test_an_owner_taken_for_dead_stops(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.01)
    with pytest.raises(LockedError, match="taken over by another process"), lease.hold(folder):
        store = storage.at(folder)
        assert store is not None
        taker = Lease(store, folder)
        for there in taker.others():
            taker._bury(there)
        threading.Event().wait(60)
    assert stored() == {}


@pytest.mark.parametrize("deleted", [False, True])
def test_an_owner_taken_for_dead_while_it_slept_writes_nothing_more(folder: Path, deleted: bool) -> None:
    """Before its next beat: it has just woken."""
    run = RunDir(folder)
    with pytest.raises(LockedError, match="taken over by another process"), run.lock():
        write_json(run.path("plan.json"), 1)
        (mine,) = [name for name in MemoryFileSystem.store if "/.lock/" in name]
        MemoryFileSystem().pipe_file(f"{mine}.gone", b"")
        if deleted:  # and the other has done its work and let go
            for name in (mine, f"{mine}.gone"):
                MemoryFileSystem.store.pop(name)
        write_json(run.path("plan.json"), 2)
    assert stored()["runs/r/plan.json"].strip() == b"1"
    write_json(run.path("plan.json"), 3)  # who does not hold the run is not asked


def test_an_owner_that_wrote_after_it_was_taken_for_dead_stops_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.01)
    with pytest.raises(LockedError, match="taken over by another process"), lease.hold(folder):
        (mine,) = list(MemoryFileSystem.store)
        MemoryFileSystem().pipe_file(f"{mine}.gone", b"")  # the taker's next step would be to take away `mine`
        threading.Event().wait(60)
    assert stored() == {}


def test_an_owner_outlives_a_storage_that_does_not_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.01)
    beats, info = threading.Semaphore(0), MemoryFileSystem.info

    def silent(*_: Any, **__: Any) -> None:
        beats.release()
        raise ConnectionError("no answer")

    with lease.hold(folder):
        monkeypatch.setattr(MemoryFileSystem, "info", silent)
        assert beats.acquire(timeout=60) and beats.acquire(timeout=60)
        monkeypatch.setattr(MemoryFileSystem, "info", info)
    assert stored() == {}
