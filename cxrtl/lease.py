"""Who holds a folder at a storage that knows no locks: each contender writes `<folder>/.lock/<token>` of its own.

It then lists, and where another's owner is alive takes its own away again: since object stores show in the next list
what was written before it, at least one of two at once sees the other, and never do both hold. An owner shows that it
is alive by writing its file again every `BEAT` seconds. It is dead where it ran on this machine and its process is
gone, so that a killed run costs no wait, or where its file has not changed for `STALE` seconds while somebody looked:
the clocks of two machines are never compared. Before an owner's file is taken away as a dead one's, `<token>.gone` is
put beside it: an owner that finds either stops, even if it had just written its file again. What it wrote until then
are the same bits that the other writes.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cxrtl import interrupt
from cxrtl.errors import LockedError
from cxrtl.storage import Store, at, faults

BEAT, STALE = 5.0, 30.0  # seconds
GONE = ".gone"
TRIES = 3  # where several start at once and all give way


@contextmanager
def hold(folder: Path) -> Iterator[Callable[[], None]]:
    """Hold `folder` for this process, where it mirrors a storage; elsewhere the kernel's lock is enough. Gives what
    raises LockedError from the moment on that it is held no longer.

    Raises:
        LockedError: a living process holds it, or took it over because nothing was heard of this one.
        OSError: the storage does not answer.
    """
    store = at(folder)
    if store is None:
        yield lambda: None
        return
    with interrupt.heeded():
        lease = _claimed(store, folder)
        try:
            yield lease.check
        except BaseException:
            if lease.lost:
                raise lease.taken() from None
            raise
        finally:
            lease.release()


def _claimed(store: Store, folder: Path) -> Lease:
    for _ in range(TRIES - 1):
        with suppress(LockedError):  # the other may be giving way, as this one does
            return Lease(store, folder).claim()
        time.sleep(random.uniform(0, 1))
    return Lease(store, folder).claim()


def held(folder: Path) -> bool:
    """Whether a process that seems alive holds `folder` at its storage: for display, by this machine's clock."""
    store = at(folder)
    owners = Lease(store, folder).others() if store else {}
    return any(not _died(owner) and abs(time.time() - owner["time"]) < 2 * STALE for owner in owners.values())


class Lease:
    """One contender for `folder`."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.files, self.name = store, store.files, store.name(folder)
        self.folder = store.there(folder / ".lock")
        self.mine = f"{self.folder}/{secrets.token_hex(8)}"
        self.lost, self.stop, self.buried = False, threading.Event(), list[str]()
        self.beat = threading.Lock()  # held while the file is written: elsewhere than in object stores it is then gone
        self.beating = threading.Thread(target=self._beat, daemon=True)

    def claim(self) -> Lease:
        """Hold the folder, and beat from now on."""
        self._write()
        self.beating.start()
        try:
            if owner := self._living():
                raise LockedError(f"{self.name} is being written by process {owner['process']}: wait for it or stop it")
        except BaseException:
            self.release()
            raise
        return self

    def check(self) -> None:
        """Raises LockedError where another took the folder over, even if this process slept until now."""
        with self.beat, faults(self.name):
            self.lost = self.lost or not self.files.exists(self.mine) or self.files.exists(self.mine + GONE)
        if self.lost:
            raise self.taken()

    def taken(self) -> LockedError:
        return LockedError(
            f"{self.name} was taken over by another process, which heard nothing of this one for {STALE:.0f} s: "
            "wait for it, then run the same command"
        )

    def release(self) -> None:
        self.stop.set()
        self.beating.join()
        with suppress(OSError):  # it will be found stale
            for there in (self.mine, self.mine + GONE, *self.buried):
                self._delete(there)

    def others(self) -> dict[str, dict[str, Any]]:
        """What every other contender's file says, by its name."""
        out = {}
        with faults(self.name):
            for there in self.files.find(self.folder):
                with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # taken away since; none of ours
                    if there != self.mine and not there.endswith((".part", GONE)):
                        raw = json.loads(self.files.cat_file(there))
                        kinds = {"machine": str, "started": str, "process": str, "pid": int, "time": float}
                        out[there] = {key: kind(raw[key]) for key, kind in kinds.items()}
        return out

    def _living(self) -> dict[str, Any] | None:
        """An owner other than this that is alive; the files of dead ones are removed."""
        first, seen = time.monotonic(), self.others()
        while True:
            for there, owner in list(seen.items()):
                if _died(owner) or time.monotonic() - first > STALE:
                    self._bury(there)
                    del seen[there]
                elif _here(owner):
                    return owner
            if not seen:
                return None
            time.sleep(BEAT / 5)
            now = self.others()
            for there in list(seen):
                if there not in now:
                    del seen[there]
                elif now[there] != seen[there]:
                    return now[there]

    def _write(self) -> None:
        owner = {**_process(os.getpid()), "process": f"{os.getpid()} on {os.uname().nodename}", "time": time.time()}
        with faults(self.name):
            self.store.write(self.mine, lambda there: self.files.pipe_file(there, json.dumps(owner).encode()))

    def _bury(self, there: str) -> None:
        self.buried.append(there + GONE)
        with faults(self.name):
            self.store.write(there + GONE, lambda part: self.files.pipe_file(part, b""))
        self._delete(there)

    def _delete(self, there: str) -> None:
        with faults(self.name), suppress(FileNotFoundError):
            self.files.rm_file(there)

    def _beat(self) -> None:
        while not self.stop.wait(BEAT):
            with self.beat, suppress(OSError), faults(self.name):  # no answer: the next beat may get one
                try:
                    self.files.info(self.mine)
                    self._write()
                    self.lost = self.lost or self.files.exists(self.mine + GONE)
                except FileNotFoundError:
                    self.lost = True
                if self.lost:
                    interrupt.main_thread()
                    return


def _process(pid: int) -> dict[str, Any]:
    """What tells a living process from all others, and the machine (or container) that can tell whether it lives.

    Raises:
        OSError: there is none of this number.
    """
    state, *rest = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()
    if state in "ZX":  # killed, and waiting to be reaped
        raise ProcessLookupError(pid)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"machine": f"{boot} {Path('/proc/self/ns/pid').readlink()}", "pid": pid, "started": rest[18]}


def _here(owner: dict[str, Any]) -> bool:
    return bool(owner["machine"] == _process(os.getpid())["machine"])


def _died(owner: dict[str, Any]) -> bool:
    """Whether it is certain that the owner's process is gone: only its own machine can tell."""
    if not _here(owner):
        return False
    try:
        return not _process(owner["pid"]).items() <= owner.items()
    except OSError:
        return True
