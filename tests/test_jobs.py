"""Jobs, and the clusters that the shipped configurations start, at work."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.orchestrate.helpers import experiment, gone, wait_for
from tests.test_configurations import blocks
from tests.test_spot import Metadata

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def test_jobs_are_the_command_line() -> None:
    for name, words, verb in (("run", (), "run"), ("prepare", (), "prepare"), ("verb", ("export",), "export")):
        path = ROOT / "jobs" / f"{name}.py"
        command = [sys.executable, path, *words, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
        assert f"cxrtl {verb}" in done.stdout
        assert len(path.read_text().splitlines()) <= 15


def test_a_job_looks_for_runs_in_its_home(tmp_path: Path) -> None:
    """Its working directory is a copy that is thrown away."""
    env = {**os.environ, "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "CXRTL_HOME": str(tmp_path)}
    command = [sys.executable, ROOT / "jobs/verb.py", "report", "runs/mine"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env=env)
    assert done.returncode == 2 and f"{tmp_path}/runs/mine holds no run" in done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Head(NamedTuple):
    """A head node: its job server's address, a client's environment, its metrics' port, and its process."""

    address: str
    env: dict[str, str]
    metrics: int
    process: subprocess.Popen[bytes]

    def ask(self, path: str, token: str | None = None, send: dict[str, str] | None = None) -> Any:
        """The answer to a call with this token, by default the right one, "" none; the status where it is refused."""
        found = self.env["RAY_AUTH_TOKEN"] if token is None else token
        headers = {"Authorization": f"Bearer {found}"} if found else {}
        body = json.dumps(send).encode() if send else None
        request = urllib.request.Request(self.address + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code

    def raylet(self) -> int:
        """Its process."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return next(int(pid) for pid in children if b"raylet/raylet" in Path(f"/proc/{pid}/cmdline").read_bytes())


def head_command(source: str, folder: Path) -> str:
    """The shell lines that start a head in a shipped file, with ports and folders of this machine."""
    if source == "cluster.yaml":
        text = yaml.safe_load((ROOT / source).read_text())["head_start_ray_commands"][-1]
    else:
        text = next(block for block in blocks(source) if "ray start --head" in block)
        text = re.sub(r"^ray start --address.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"--autoscaling-config=\S+", "", text)
    if "--dashboard-agent-listen-port" not in text:  # Ray's own choice may be another Ray's on this machine
        text = text.replace("--head", "--head --dashboard-agent-listen-port=0")
    text = re.sub(r"(--(?!min|max)[\w-]*port)=\d+", lambda found: f"{found[1]}={free_port()}", text)
    text = text.replace("~/venv/bin", str(BIN)).replace("/mnt/cxrtl", str(folder))
    return text.replace("ray start --head", "exec ray start --head --block --num-cpus=2 --dashboard-port=$DASHBOARD")


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Head]:
    """A head as cluster.yaml, or the file that the test is given, starts it."""
    command = head_command(getattr(request, "param", "cluster.yaml"), tmp_path / "cxrtl")
    env = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "CXRTL_HOME")}
    env |= {"RAY_AUTH_TOKEN": secrets.token_hex(32), "HOME": str(tmp_path)}
    env |= {"PATH": f"{BIN}:{env['PATH']}", "DASHBOARD": str(free_port())}
    # the dashboard and metrics are up to date every second, not every ten or fifteen
    env |= {"RAY_metrics_report_interval_ms": "1000", "REPORTER_UPDATE_INTERVAL_MS": "1000"}
    env |= {"RAY_DASHBOARD_STATS_UPDATING_INTERVAL": "1", "NODE_STATS_UPDATE_INTERVAL_SECONDS": "1"}
    env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "5"  # thirty otherwise
    metrics = re.search(r"--metrics-export-port=(\d+)", command)
    assert metrics
    with tempfile.TemporaryDirectory(prefix="cxrtl-") as short:  # sockets' paths are at most 107 bytes long
        env["RAY_TMPDIR"] = short
        with (tmp_path / "head.log").open("w") as log:
            process = subprocess.Popen(["bash", "-c", command], env=env, stdout=log, stderr=log)
        client = env | {"RAY_AUTH_MODE": "token"}  # the head's is the command's own business
        head = Head(f"http://127.0.0.1:{env['DASHBOARD']}", client, int(metrics[1]), process)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                head.ask("/api/version")
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "head.log").read_text()
                time.sleep(0.5)
        yield head
        process.terminate()
        process.wait(timeout=60)


def submit(cluster: Head, *words: str | Path, **change: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cxrtl.cli", "submit", *map(str, words), "--address", cluster.address]
    pipe, env = subprocess.PIPE, cluster.env | change
    return subprocess.Popen(command, env=env, cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def said(process: subprocess.Popen[str], text: str) -> None:
    """Wait for a line with `text`."""
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return
    raise AssertionError("".join(lines))


def counted(port: int) -> bool:
    """Whether the node's Prometheus metrics have those of a trial, with its tags."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    names = ("images_per_second", "iterations_total")
    tags = ('run="small"', 'arm="mobilenet_v3_small"', 'fold="')
    lines = [line for line in text.splitlines() if not line.startswith("#") and all(tag in line for tag in tags)]
    return all(any(line.startswith(f"ray_cxrtl_{name}") for line in lines) for name in names)


def shown(cluster: Head) -> bool:
    """Whether Ray's dashboard has a worker, among those of a node, by the name of a fold."""
    nodes = cluster.ask("/nodes?view=summary")["data"]["summary"]
    details = [cluster.ask(f"/nodes/{node['raylet']['nodeId']}")["data"]["detail"] for node in nodes]
    titles = [worker["cmdline"][0] for detail in details for worker in detail["workers"] if worker["cmdline"]]
    return any(re.match(r"ray::mobilenet_v3_small/fold\d", title) for title in titles)


@pytest.mark.slow
def test_submit_is_left_found_stopped_and_gone_on_with(cluster: Head, tmp_path: Path) -> None:
    words = [experiment(tmp_path), "--set", "train.budgets=[20,1500]", "--home", tmp_path / "home"]
    run, token = tmp_path / "home/runs/small", cluster.env["RAY_AUTH_TOKEN"]

    first = submit(cluster, *words)
    said(first, "submitted")
    said(first, "at 20 iterations")
    wait_for(lambda: counted(cluster.metrics), first, 60)
    wait_for(lambda: shown(cluster), first, 60)
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130  # left, and the job goes on

    second = submit(cluster, *words)
    said(second, "was running already")
    stopper = submit(cluster, *words, "--stop")
    told, _ = stopper.communicate(timeout=120)
    assert stopper.returncode == 0 and "stopped cxrtl-small-" in told, told
    assert second.wait(60) == 130
    assert not (run / "report.html").exists()

    third = submit(cluster, *words)
    said(third, "-2 submitted")
    rest, _ = third.communicate(timeout=300)
    assert third.returncode == 0, rest
    assert (run / "report.html").exists()
    events = [json.loads(line)["event"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert events.count("begun") == 2 and events[-1] == "ended"
    trials = "".join(path.read_text() for path in run.glob("*/fold*/log.jsonl"))
    assert '"restarted"' in trials
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]


@pytest.mark.slow
def test_submit_without_the_token_says_so(cluster: Head) -> None:
    for change, code in (({"RAY_AUTH_MODE": "disabled"}, "(401)"), ({"RAY_AUTH_TOKEN": "0" * 64}, "(403)")):
        process = submit(cluster, "jobs/experiments/demo.toml", **change)
        text, _ = process.communicate(timeout=60)
        assert process.returncode == 2 and code in text and "Traceback" not in text, text


@pytest.mark.slow
def test_job_runs_under_token_authentication(cluster: Head, tmp_path: Path) -> None:
    small = [
        "--set",
        "data.phantom_patients=24",
        "--set",
        "folds.k=2",
        "--set",
        "train.budgets=[4,8]",
        "--set",
        "train.batch_size=8",
    ]
    submit = [BIN / "ray", "job", "submit", "--address", cluster.address, "--working-dir", ".", "--"]
    words = [*submit, sys.executable, "jobs/run.py", "jobs/experiments/demo.toml", *small]
    done = subprocess.run(words, env=cluster.env, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "cxrtl" / "runs" / "demo"  # CXRTL_HOME of the job
    assert (run / "report.html").exists()
    assert len(json.loads((run / "summary.json").read_text())["rows"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["cluster.yaml", "docs/cluster.md"], indirect=True)
def test_calls_without_the_token_are_refused(cluster: Head, tmp_path: Path) -> None:
    job = {"entrypoint": f"touch {tmp_path}/let-in"}
    for token, status in (("", 401), ("0" * 64, 403)):
        for path in ("/api/jobs/", "/api/version", "/nodes?view=summary"):
            assert cluster.ask(path, token) == status
        assert cluster.ask("/api/jobs/", token, send=job) == status
    assert cluster.ask("/api/jobs/") == []
    assert not (tmp_path / "let-in").exists()


@pytest.mark.slow
def test_a_spot_machines_notice_drains_its_node(cluster: Head, tmp_path: Path) -> None:
    """By the command that cluster.yaml gives workers."""
    command = yaml.safe_load((ROOT / "cluster.yaml").read_text())["worker_start_ray_commands"][-1]
    command = command.replace("~/venv/bin", str(BIN)).replace("~/cxrtl-source/spot.py", str(ROOT / "jobs/spot.py"))
    assert "setsid -f" in command  # it outlives the shell that starts it; here it must not
    with Metadata() as service:
        env = cluster.env | {"AWS_EC2_METADATA_SERVICE_ENDPOINT": service.address}
        watcher = subprocess.Popen(["bash", "-c", command.replace("setsid -f", "exec")], env=env)
        wait_for(lambda: service.asked > 1, watcher, 60)
        raylet = cluster.raylet()
        service.take_back(110)
        try:
            assert watcher.wait(timeout=60) == 0, (tmp_path / "spot.log").read_text()
            wait_for(lambda: gone(raylet), cluster.process, 30)  # nothing runs there, so Ray lets the node go
        finally:
            watcher.kill()
