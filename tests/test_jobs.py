"""What `ray job submit` and `ray up` get to see."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main
import yaml

from cxrtl.cli import app
from tests.orchestrate.helpers import experiment, wait_for
from tests.rayjob import RAYJOB

ROOT = Path(__file__).parents[1]
RAY = str(Path(sys.executable).with_name("ray"))


def test_cluster_file_satisfies_rays_own_schema() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(config))


def test_cluster_keeps_its_door_shut() -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    head, worker = (" ".join(config[f"{kind}_start_ray_commands"]) for kind in ("head", "worker"))
    assert "--dashboard-host=127.0.0.1" in head and "0.0.0.0" not in head
    assert "RAY_AUTH_MODE=token" in head and "RAY_AUTH_MODE=token" in worker
    assert all("CXRTL_KEY_FILE=/mnt/" in command for command in (head, worker))  # a key that outlives the machines
    types = config["available_node_types"]
    assert types["gpu_worker"]["min_workers"] == 0 and config["idle_timeout_minutes"] > 0
    assert types["gpu_worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]  # on demand


def test_every_package_of_the_project_is_set_up_on_the_cluster() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    commands = " ".join(yaml.safe_load((ROOT / "cluster.yaml").read_text())["setup_commands"])
    for requirement in wanted:
        name = requirement.split(">")[0].split("[")[0]
        assert name in commands or name == "numpy", name  # numpy comes with any of them


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


def parses(entrypoint: str) -> dict[str, Any]:
    """The options of a command line of ours, as our own parser reads them; it raises where it cannot."""
    name, verb, *words = shlex.split(entrypoint)
    assert name == "cxrtl"
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    params: dict[str, Any] = commands[verb].make_context(verb, words).params
    return params


def test_kubernetes_job() -> None:
    raw = yaml.safe_load((ROOT / "jobs/rayjob.yaml").read_text())
    jsonschema.validate(raw, RAYJOB)
    spec, cluster = raw["spec"], raw["spec"]["rayClusterSpec"]
    assert parses(spec["entrypoint"])["home"] == Path("/mnt/cxrtl")
    assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"]
    assert cluster["authOptions"]["mode"] == "token" and cluster["workerGroupSpecs"][0]["minReplicas"] == 0
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert "persistentVolumeClaim" in mounts["/mnt/cxrtl"]
        env = {item["name"]: item["value"] for item in container["env"]}
        assert env["CXRTL_HOME"] == "/mnt/cxrtl" and env["CXRTL_KEY_FILE"].startswith("/mnt/cxrtl/")
        assert not [name for name in env if re.search("TOKEN|SECRET|PASSWORD", name)]  # those come from Secrets


@pytest.mark.parametrize("name", ["cluster.yaml", "jobs/rayjob.yaml"])
def test_every_number_says_why(name: str) -> None:
    """In a comment on its line, or on the next to it."""
    lines = (ROOT / name).read_text().splitlines()
    for place, line in enumerate(lines):
        if re.search(r': +"?\d+\w*"?([ ,}]|$)', line.partition("#")[0]):
            assert any("#" in near for near in lines[max(0, place - 1) : place + 2]), line


def test_commands_of_the_documentation_parse() -> None:
    text = "\n".join((ROOT / name).read_text() for name in ("docs/cluster.md", "cluster.yaml", "README.md"))
    found = re.findall(r"\bcxrtl (?:submit|status|run) [^`#\n]+", text)
    assert len(found) >= 6
    for command in found:
        parses(command)


def test_upload_is_small() -> None:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert sum((ROOT / name).stat().st_size for name in listed if (ROOT / name).exists()) < 10e6


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A head node of its own, with token authentication: the job server's address, and the client's environment."""
    gcs, dashboard = free_port(), free_port()
    unwanted = ("RAY_ADDRESS", "CXRTL_HOME")
    env = {key: value for key, value in os.environ.items() if key not in unwanted}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "HOME": str(tmp_path)}
    env |= {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "METRICS": str(free_port())}
    env["RAY_metrics_report_interval_ms"] = "1000"  # ten seconds otherwise
    head = ["start", "--head", f"--port={gcs}", "--num-cpus=2", "--dashboard-host=127.0.0.1"]
    command = [RAY, *head, f"--dashboard-port={dashboard}", f"--metrics-export-port={env['METRICS']}", "--block"]
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{dashboard}"
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=2)
        except urllib.error.HTTPError:
            break  # it answers, and refuses
        except OSError:
            assert process.poll() is None, (tmp_path / "head.log").read_text()
            time.sleep(0.5)
    yield address, env
    process.terminate()
    process.wait(timeout=60)


def submit(cluster: tuple[str, dict[str, str]], *words: str | Path) -> subprocess.Popen[str]:
    address, env = cluster
    command = [sys.executable, "-m", "cxrtl.cli", "submit", *map(str, words), "--address", address]
    pipe = subprocess.PIPE
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


def counted(port: str) -> bool:
    """Whether the node's Prometheus metrics have those of a trial, with its tags."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    names = ("images_per_second", "iterations_total")
    tags = ('run="small"', 'arm="mobilenet_v3_small"', 'fold="')
    lines = [line for line in text.splitlines() if not line.startswith("#") and all(tag in line for tag in tags)]
    return all(any(line.startswith(f"ray_cxrtl_{name}") for line in lines) for name in names)


@pytest.mark.slow
def test_submit_is_left_found_stopped_and_gone_on_with(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    words = [experiment(tmp_path), "--set", "train.budgets=[20,1500]", "--home", tmp_path / "home"]
    run, token = tmp_path / "home/runs/small", cluster[1]["RAY_AUTH_TOKEN"]

    first = submit(cluster, *words)
    said(first, "submitted")
    said(first, "at 20 iterations")
    wait_for(lambda: counted(cluster[1]["METRICS"]), first, 60)
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
def test_submit_without_the_token_says_so(cluster: tuple[str, dict[str, str]]) -> None:
    address, env = cluster
    for change, code in (({"RAY_AUTH_MODE": "disabled"}, "(401)"), ({"RAY_AUTH_TOKEN": "0" * 64}, "(403)")):
        process = submit((address, {**env, **change}), "jobs/experiments/demo.toml")
        text, _ = process.communicate(timeout=60)
        assert process.returncode == 2 and code in text and "Traceback" not in text, text


@pytest.mark.slow
def test_job_runs_under_token_authentication(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, env = cluster
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
    submit = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--"]
    words = [*submit, sys.executable, "jobs/run.py", "jobs/experiments/demo.toml", *small]
    done = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "cxrtl" / "runs" / "demo"  # HOME of the job
    assert (run / "report.html").exists()
    assert len(json.loads((run / "summary.json").read_text())["rows"]) == 4


@pytest.mark.slow
def test_calls_without_the_token_are_refused(cluster: tuple[str, dict[str, str]]) -> None:
    address, env = cluster
    for path in ("/api/jobs/", "/api/version", "/nodes?view=summary"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(address + path, timeout=10)
        assert caught.value.code in (401, 403)
    request = urllib.request.Request(
        f"{address}/api/jobs/", headers={"Authorization": f"Bearer {env['RAY_AUTH_TOKEN']}"}
    )
    assert urllib.request.urlopen(request, timeout=10).status == 200
