"""What `ray job submit` and `ray up` get to see."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

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
    assert config["available_node_types"]["gpu_worker"]["min_workers"] == 0


def test_every_package_of_the_project_is_set_up_on_the_cluster() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    commands = " ".join(yaml.safe_load((ROOT / "cluster.yaml").read_text())["setup_commands"])
    for requirement in wanted:
        name = requirement.split(">")[0].split("[")[0]
        assert name in commands or name == "numpy", name  # numpy comes with any of them


def test_jobs_are_the_command_line() -> None:
    for name in ("run", "prepare"):
        path = ROOT / "jobs" / f"{name}.py"
        done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=True, cwd="/")
        assert f"cxrtl {name}" in done.stdout
        assert len(path.read_text().splitlines()) <= 15


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
    head = ["start", "--head", f"--port={gcs}", "--num-cpus=2", "--dashboard-host=127.0.0.1"]
    command = [RAY, *head, f"--dashboard-port={dashboard}", "--block"]
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
