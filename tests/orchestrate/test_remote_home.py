"""A run whose home is at an S3 server: the same numbers, and a head that is lost costs nothing but a checkpoint."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cxrtl import storage
from tests.homes import SECRET, Server
from tests.orchestrate.helpers import cxrtl, environment, experiment, gone, same, scores, start, wait_for
from tests.test_jobs import free_port

HOME = "s3://bucket/some/home"
RAY = str(Path(sys.executable).with_name("ray"))
FOLD = f"{HOME}/runs/small/mobilenet_v3_small/fold0"


def said(url: str) -> Any:
    """The JSON file at the storage; None where there is none."""
    files = fsspec.filesystem("s3", use_listings_cache=False)
    try:
        return json.loads(files.cat_file(url))
    except FileNotFoundError:
        return None


def machine(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands from now on have their mirror."""
    monkeypatch.setenv(storage.VARIABLE, str(folder / name))
    return storage.place(HOME)


def begun(beyond: int = 20) -> bool:
    saved = said(f"{FOLD}/state.json")
    return bool(saved) and saved["iteration"] > beyond and not said(f"{FOLD}/result.json")


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_a_lost_head_is_replaced_by_another_machine(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = experiment(tmp_path)
    machine(tmp_path, "first", monkeypatch)
    process = start("run", toml, "--home", HOME, log=tmp_path / "log")
    wait_for(begun, process)
    pid = int(said(f"{FOLD}/progress.json")["process"].split()[0])
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 60
    while not gone(pid):  # Ray's processes share the driver's fate
        assert time.monotonic() < until
        time.sleep(0.1)
    reached = said(f"{FOLD}/state.json")["iteration"]
    shutil.rmtree(tmp_path / "first")

    machine(tmp_path, "looking", monkeypatch)
    looked = cxrtl("status", f"{HOME}/runs/small", "--json")
    states = {each["name"]: each["state"] for each in json.loads(looked.stdout)["trials"]}
    assert states["mobilenet_v3_small/fold0"] == "cut off"

    second = machine(tmp_path, "second", monkeypatch)
    again = cxrtl("run", toml, "--home", HOME)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{HOME}/runs/small/report.html" in again.stdout
    assert said(f"{FOLD}/result.json")["tries"] == 2 and reached > 20
    assert same(scores(second), scores(undisturbed))

    third = machine(tmp_path, "third", monkeypatch)
    assert cxrtl("report", f"{HOME}/runs/small").returncode == 0
    assert (third / "runs/small/report.html").read_bytes() == (second / "runs/small/report.html").read_bytes()
    assert same(scores(third), scores(undisturbed))
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_server_that_goes_away_ends_the_run_calmly(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: Server
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")  # of each call: the run asks several times before it gives up
    toml, home = experiment(tmp_path), machine(tmp_path, "first", monkeypatch)
    process = start("run", toml, "--home", HOME, log=tmp_path / "log")
    wait_for(begun, process)
    s3.stop()
    assert process.wait(timeout=120) in (1, 2)
    words = (tmp_path / "log").read_text()
    assert HOME in words and "Traceback (most" not in words
    s3.start()
    again = cxrtl("run", toml, "--home", HOME)
    assert again.returncode == 0, again.stdout + again.stderr
    assert same(scores(home), scores(undisturbed))


@pytest.fixture
def two_machines(tmp_path: Path, s3: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A Ray of two nodes of one CPU each, which share no mirror: the second sees another folder in its place. The
    address, and that folder."""
    mirrors, others, port = tmp_path / "mirrors", tmp_path / "others", free_port()
    mirrors.mkdir()
    others.mkdir()
    for name, value in {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}.items():
        monkeypatch.setenv(name, value)  # to all alike: with a token at hand, `ray start --head` alone would turn it on
    env = environment() | {storage.VARIABLE: str(mirrors), "RAY_USAGE_STATS_ENABLED": "0"}
    env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"  # nothing is left to wait for at the end
    common = "--num-cpus=1 --node-ip-address=127.0.0.1 --object-store-memory=100000000 --block"
    head = f"exec {RAY} start --head --port={port} --include-dashboard=false {common}"
    node = f"mount --bind {others} {mirrors} && exec {RAY} start --address=127.0.0.1:{port} {common}"
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("mount namespaces need rights that are not here")
    with (tmp_path / "ray.log").open("w") as log:
        started = [subprocess.Popen(["sh", "-c", head], env=env, stdout=log, stderr=log)]
        try:
            wait_for(lambda: _listens(port), started[0])
            started.append(subprocess.Popen(["unshare", "-m", "sh", "-c", node], env=env, stdout=log, stderr=log))
            wait_for(lambda: (tmp_path / "ray.log").read_text().count("Ray runtime started") == 2, started[1])
            yield f"127.0.0.1:{port}", others / storage.FOLDER
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(timeout=60)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_machines_that_share_nothing_but_the_storage(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_machines: tuple[str, Path]
) -> None:
    address, others = two_machines
    home = machine(tmp_path, "mirrors", monkeypatch)
    streamed = ["--set", 'resources.images="stream"']
    done = cxrtl("run", experiment(tmp_path), "--home", HOME, "--address", address, *streamed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert same(scores(home), scores(undisturbed))
    trained = {path.parent.name for path in others.rglob("result.json")}
    assert len(trained) == 1, "each machine trains one of the two folds"
    assert next(others.rglob("pixels.u8")).stat().st_size > 0
