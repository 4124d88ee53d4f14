"""A run of its own, looked at from outside: nobody beyond this machine can reach it, and no secret leaves it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ray._private import services

from cxrtl.orchestrate import cluster
from tests.orchestrate.helpers import command, environment, experiment, training, wait_for

LISTENING = "0A"
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


def children(pid: int) -> Iterator[int]:
    """The process and all that come from it; some of Ray's have another parent by now, but the run's environment."""
    mark = f"CXRTL_TEST_DOORS={pid}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                marked = mark in (entry / "environ").read_bytes().split(b"\0")
            except OSError:  # another's, or ended
                continue
            if marked:
                yield int(entry.name)


def command_line(pid: int) -> bytes:
    """Nothing of a process that has ended, as workers do that prepared images."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def listening(pids: list[int]) -> list[tuple[str, str]]:
    """(address, command line) of every TCP socket on which one of the processes waits for calls."""
    sockets = {}
    for pid in pids:
        with suppress(OSError):  # it has ended
            for link in list(Path(f"/proc/{pid}/fd").iterdir()):
                with suppress(OSError):
                    target = str(link.readlink())
                    if target.startswith("socket:["):
                        sockets[target[8:-1]] = pid
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            cells = line.split()
            if cells[3] == LISTENING and cells[9] in sockets:
                words = command_line(sockets[cells[9]]).replace(b"\0", b" ").decode()
                found.append((cells[1], words[:120]))
    return found


def test_the_token_of_an_own_ray_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with cluster._to_itself():
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray/auth_token").write_text("as Ray does")
    assert (tmp_path / ".ray/auth_token").stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(
        services.ray._private.worker, "_global_node", None
    )  # this process may have a Ray of other tests
    with cluster._to_itself():
        assert services.get_node_ip_address() == "127.0.0.1"


@pytest.mark.slow
def test_nothing_listens_beyond_loopback_and_no_secret_is_kept(tmp_path: Path) -> None:
    hush = {"RAY_AUTH_TOKEN": "hush-token-0123456789abcdef", "AWS_SECRET_ACCESS_KEY": "hush-key-0123456789abcdef"}
    mark = str(os.getpid())
    short = tempfile.TemporaryDirectory(prefix="cxrtl-")  # sockets' paths are at most 107 bytes long
    env = {**environment(), **hush, "CXRTL_TEST_DOORS": mark, "RAY_TMPDIR": short.name}
    words = command("run", experiment(tmp_path, "max_concurrent = 1\n"), "--home", tmp_path / "home")
    with short, (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=env, text=True)
        try:
            wait_for(lambda: training(tmp_path / "home", beyond=1), process)
            pids = list(children(int(mark)))
            sockets = listening(pids)
            lines = [command_line(pid) for pid in pids]
            assert process.wait(240) == 0, (tmp_path / "log").read_text()
        finally:
            process.kill()
        folders = (tmp_path, Path(short.name))  # with Ray's own logs
        kept = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        told = [path for path in kept if b"hush-" in path.read_bytes()]
    assert len(pids) > 5 and sockets  # Ray's processes were looked at
    assert not [(address, who) for address, who in sockets if address.partition(":")[0] not in LOOPBACK]
    assert not [line for line in lines if b"hush-" in line]
    assert len(kept) > 20 and not told
    idle = (b"log_monitor", b"dashboard/dashboard.py", b"autoscaler/", b"_StatsActor", b"_AutoscalingCoordinator")
    assert not [line for line in lines if any(name in line.split(b"--")[0] for name in idle)]  # they serve nobody
