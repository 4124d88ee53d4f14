"""Homes elsewhere for tests: a storage in memory, machines that each have a mirror of their own, an S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cxrtl import storage

HOME = "memory://bucket/home"
SECRET = "the-secret-of-the-tests"


class Machines:
    """Stands in for machines that share nothing but the storage: whichever was named last is this one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, home: str = HOME) -> None:
        self.folder, self.patch, self.home = folder, monkeypatch, home

    def use(self, name: str) -> Path:
        """The home's mirror there."""
        self.patch.setenv(storage.VARIABLE, str(self.folder / name))
        return storage.place(self.home)


def stored(prefix: str = "/bucket/home/") -> dict[str, bytes]:
    """What the storage in memory holds."""
    found = sorted(MemoryFileSystem.store.items())
    return {name.removeprefix(prefix): file.getvalue() for name, file in found}


def mirrored(home: Path) -> dict[str, bytes]:
    """What a mirror holds, but for what is its machine's alone."""
    store = storage.at(home)
    assert store
    files = [path for path in sorted(home.rglob("*")) if path.is_file() and not store.is_local(path)]
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in files}


class Server:
    """An S3 server on loopback; what it holds outlives a stop."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self.running = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.running.start()
        self.port = self.running.get_host_and_port()[1]

    def stop(self) -> None:
        self.running.stop()
