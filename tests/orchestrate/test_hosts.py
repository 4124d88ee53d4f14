"""Three hosts, each with its own network, processes and storage: one is killed, one is cut off, the run goes on."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cxrtl.records import Trial
from cxrtl.rundir import RunDir, read_json
from tests.hosts import Host, allowed, hosts, until
from tests.orchestrate import left
from tests.orchestrate.helpers import command, cxrtl, environment, same, scores

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
DEMO = ROOT / "jobs" / "experiments" / "demo.toml"
SMALLER = {
    "name": "small",
    "folds.k": 10,
    "data.phantom_patients": 150,
    "arm": '[{name = "arm"}]',
    "train.backbone": "mobilenet_v3_small",
    "train.budgets": [10, 80],
    "train.batch_size": 8,
    "train.checkpoint_every": 10,
    "train.precision": "fp32",  # `auto` goes by what is quicker at the moment
    "resources.cpus_per_fold": 1,
}
# A node that does not answer counts as lost sooner than by default.
QUICK = {"health_check_period_ms": 1000, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 2}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not allowed(), reason="namespaces need root, and `unshare`, `nsenter` and `ip`"),
]


def knobs() -> list[str]:
    return [word for key, value in SMALLER.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the same run, on this machine alone and undisturbed."""
    home = tmp_path_factory.mktemp("calm")
    done = cxrtl("run", DEMO, "--home", home, *knobs())
    assert done.returncode == 0, done.stdout + done.stderr
    return home


@pytest.fixture
def shared(tmp_path: Path, calm: Path) -> Path:
    """A home that all hosts see, in which images are prepared."""
    shutil.copytree(calm / "prepared", tmp_path / "shared" / "prepared")
    return tmp_path / "shared"


class Cluster:
    """Ray under token authentication on some hosts, the first its head; two folds fit on each."""

    def __init__(self, members: list[Host], logs: Path) -> None:
        self.head, self.logs = members[0], logs
        self.address = f"{self.head.address}:6379"
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.env = environment() | token | {"HOME": "/tmp/home", "PYTHONPATH": str(ROOT)}
        for member in members:
            first = ["--head", "--port=6379", f"--system-config={json.dumps(QUICK)}"]
            role = first if member is self.head else [f"--address={self.address}"]
            own = [f"--node-ip-address={member.address}", "--num-cpus=2", "--object-store-memory=200000000"]
            self.start(member, RAY, "start", *role, *own, "--block", log="ray")
            if member is self.head:
                until(lambda: "Ray runtime started" in (logs / f"ray-{self.head.name}").read_text(), 60)
        until(lambda: self.look()["nodes"] == len(members), 60)

    def start(self, where: Host, *words: str | Path, log: str) -> subprocess.Popen[str]:
        return where.start(*words, log=self.logs / f"{log}-{where.name}", env=self.env)

    def run(self, home: Path) -> subprocess.Popen[str]:
        words = command("run", DEMO, "--home", home, "--address", self.address, *knobs())
        return self.start(self.head, *words, log="run")

    def said(self) -> str:
        return (self.logs / f"run-{self.head.name}").read_text()

    def look(self) -> dict[str, Any]:
        words = [sys.executable, "-m", "tests.orchestrate.left", self.address]
        told: dict[str, Any] = json.loads(self.head.run(*words, env=self.env, cwd=ROOT).splitlines()[-1])
        return told

    def trials(self) -> list[str]:
        """The head's processes that are trials'."""
        return [name for name in self.head.names() if name.startswith(("ray::arm/", "ray::ImplicitFunc"))]


def places(run: Path, beyond: int = 10) -> dict[str, tuple[str, int]]:
    """Of each fold that has saved a state past `beyond` iterations and is not done: the node it is on, its process."""
    found = {}
    for folder in run.glob("arm/fold*"):
        try:
            saved, beat = (json.loads((folder / name).read_text()) for name in ("state.json", "progress.json"))
        except (OSError, ValueError):
            continue
        if saved["iteration"] > beyond:
            process, _, node = beat["process"].partition(" on ")
            found[folder.name] = node, int(process)
    return found


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def whole(run: RunDir) -> bool:
    """Every fold is done, and its files are those that its result vouches for."""
    hashes = read_json(run.path("experiment.resolved.json"))["arm_hashes"]
    plan = read_json(run.path("plan.json"))["trials"]
    trials = [Trial(raw["arm"], raw["fold"], tuple(raw["budgets"]), raw["folder"]) for raw in plan]
    return len(trials) == 10 and all(run.result(trial, hashes[trial.arm]) for trial in trials)


def test_a_node_killed_and_a_node_cut_off(calm: Path, shared: Path, tmp_path: Path) -> None:
    run = shared / "runs" / "small"
    with hosts(3, shared) as (head, cut_off, lost):
        cluster = Cluster([head, cut_off, lost], tmp_path)
        driver = cluster.run(shared)
        at_work = until(lambda: on_all(places(run)), 90)
        fold, process = next((fold, number) for fold, (node, number) in at_work.items() if node == cut_off.name)
        asleep = cut_off.processes()[process]
        os.kill(asleep, signal.SIGSTOP)  # so that it surely still trains when its replacement is done
        cut_off.cut()
        lost.kill()
        until(lambda: (run / "arm" / fold / "result.json").exists(), 90)
        finished = contents(run / "arm" / fold)
        os.kill(asleep, signal.SIGCONT)
        until(lambda: not any("arm/fold" in name for name in cut_off.names()), 60)
        assert contents(run / "arm" / fold) == finished  # what woke up found that the fold is another's

        assert driver.wait(timeout=150) == 0, cluster.said()
        assert same(scores(shared), scores(calm)) and len(scores(calm)) == 20
        assert whole(RunDir(run))
        tries = {f"fold{result.fold}": result.tries for result in RunDir(run).results()}
        assert tries[fold] == 2 and all(tries[k] == 2 for k, (node, _) in at_work.items() if node == lost.name)
        assert all(tries[k] == 1 for k, (node, _) in at_work.items() if node == head.name)
        until(lambda: cluster.look() == {"nodes": 1, "over": left.NOTHING} and not cluster.trials(), 60)
        cut_off.mend()
        until(lambda: not [name for name in cut_off.names() if name.startswith("ray::")], 60)


def test_another_cluster_on_the_same_storage_goes_on(calm: Path, shared: Path, tmp_path: Path) -> None:
    run = shared / "runs" / "small"
    with hosts(2, shared) as first:
        cluster = Cluster(list(first), tmp_path)
        driver = cluster.run(shared)
        until(lambda: places(run), 90)
        for host in first:  # the head and the driver with them
            host.kill()
        driver.wait(timeout=10)
    with hosts(2, shared) as second:
        cluster = Cluster(list(second), tmp_path)
        assert cluster.run(shared).wait(timeout=150) == 0, cluster.said()
    assert same(scores(shared), scores(calm))
    assert max(result.tries for result in RunDir(run).results()) == 2


def on_all(found: dict[str, tuple[str, int]]) -> dict[str, tuple[str, int]] | None:
    return found if {node for node, _ in found.values()} == {"node1", "node2", "node3"} else None
