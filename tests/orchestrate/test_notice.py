"""Told that its node or process is to end, a trial saves at once and goes on elsewhere, with the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import RayActorError

from cxrtl.learn.state import State
from cxrtl.orchestrate import notice
from cxrtl.orchestrate.notice import Notice
from tests.orchestrate.helpers import cxrtl, experiment, same, scores, start, wait_for


def given(told: Notice) -> bool:
    """Within a second: the looks are another thread's."""
    return told._given.wait(1)


def read(home: Path, fold: int, name: str) -> dict[str, Any]:
    """A file of a fold; empty where it is not there, or not whole."""
    try:
        found: dict[str, Any] = json.loads((home / f"runs/small/mobilenet_v3_small/fold{fold}/{name}").read_text())
    except (OSError, ValueError):
        return {}
    return found


def beyond(home: Path, iteration: int, fold: int = 0) -> dict[str, Any]:
    """What a fold says of itself once it is past an iteration."""
    beat = read(home, fold, "progress.json")
    return beat if beat.get("iteration", 0) > iteration else {}


def saved(home: Path, fold: int = 0) -> int:
    """The iteration that a fold saved at, once that is past its first budget."""
    at: int = read(home, fold, "state.json").get("iteration", 0)
    return at if at > 20 else 0


def on_node(home: Path, raylet: int) -> tuple[int, dict[str, Any]] | None:
    """The fold that trains in a process of this raylet's, and what it says of itself."""
    for fold in range(2):
        beat = beyond(home, 60, fold)
        if beat and f"PPid:\t{raylet}\n" in Path(f"/proc/{beat['process'].split()[0]}/status").read_text():
            return fold, beat
    return None


@pytest.fixture
def drained(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Nodes that the cluster says are being drained."""
    nodes: dict[str, int] = {}
    monkeypatch.setattr(notice, "draining", lambda: dict(nodes))
    monkeypatch.setattr(notice, "LOOK_EVERY", 0.01)
    return nodes


def test_notice_is_of_ones_own_nodes(drained: dict[str, int]) -> None:
    drained["other"] = 0
    with Notice(["mine", "hers"]) as told:
        assert not told._given.wait(0.1)
        drained["hers"] = 0
        assert given(told)


def test_leaving_is_no_failure_to_ray(drained: dict[str, int]) -> None:
    with pytest.raises(RayActorError) as raised:
        Notice([]).leave()
    assert raised.value.preempted  # what Tune and Train look at


def test_sigterm_is_a_notice_while_one_is_in_force(drained: dict[str, int]) -> None:
    """In a process of its own, whose trial runs beside the main thread."""
    code = """
import os, signal, threading, time
from cxrtl.orchestrate import notice
notice.draining = dict
told, ready, seen = notice.Notice([]), threading.Event(), []
def trial():
    with told:
        while not notice._before: time.sleep(0.01)
        ready.set()
        seen.append(told._given.wait(10))
thread = threading.Thread(target=trial)
thread.start()
ready.wait(10)
os.kill(os.getpid(), signal.SIGTERM)
thread.join()
print(seen, flush=True)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(10)
print("still here")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("[True]", -signal.SIGTERM), done.stderr


def test_a_head_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def fail() -> dict[str, int]:
        raise RuntimeError("no head")

    monkeypatch.setattr(ray._private.state.state, "get_draining_nodes", fail)
    assert notice.draining() == {}


@pytest.mark.parametrize(("device", "asked"), [("cpu", [*range(1, 25)]), ("cuda", [10, 20])])
def test_workers_of_a_fold_ask_each_other(device: str, asked: list[int]) -> None:
    """This one was told nothing, the other was at step 15."""
    seen: list[int] = []

    class Both:
        count = 2

        def any_told(self, told: bool, _: torch.device) -> bool:
            assert not told
            seen.append(state.iteration)
            return state.iteration >= 15

    told, state, leave = Notice([]), State(), []
    for state.iteration in range(1, 25):
        leave.append(told.told(Both(), torch.device(device), state))  # type: ignore[arg-type]
    assert seen == asked
    assert leave.index(True) + 1 == min(step for step in asked if step >= 15) and told.leaving


@pytest.mark.slow
def test_sigterm_to_a_trial_costs_no_step(undisturbed: Path, tmp_path: Path) -> None:
    every = ["--set", "train.checkpoint_every=100000"]  # nothing is saved after the first budget but at notice
    process = start("run", experiment(tmp_path), "--home", tmp_path, *every, log=tmp_path / "log")
    beat = wait_for(lambda: beyond(tmp_path, 60), process)
    os.kill(int(beat["process"].split()[0]), signal.SIGTERM)
    assert wait_for(lambda: saved(tmp_path), process) >= beat["iteration"]
    assert process.wait(timeout=240) == 0, (tmp_path / "log").read_text()
    assert read(tmp_path, 0, "result.json")["tries"] == 2
    assert same(scores(tmp_path), scores(undisturbed))


@pytest.mark.slow
def test_trial_leaves_a_drained_node(tmp_path: Path) -> None:
    from ray._raylet import GcsClient
    from ray.cluster_utils import Cluster
    from ray.core.generated import autoscaler_pb2

    longer = ["--set", "train.budgets=[20, 800]", "--set", "train.checkpoint_every=100000"]  # than between two looks
    quiet = cxrtl("run", experiment(tmp_path), "--home", tmp_path / "quiet", *longer)
    assert quiet.returncode == 0, quiet.stderr
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        spot = cluster.add_node(num_cpus=1)
        raylet = spot.all_processes["raylet"][0].process
        words = ["--home", tmp_path, *longer, "--address", cluster.address]
        process = start("run", experiment(tmp_path), *words, log=tmp_path / "log")
        fold, beat = wait_for(lambda: on_node(tmp_path, raylet.pid), process)
        reason = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION
        assert GcsClient(address=cluster.address).drain_node(spot.node_id, reason, "spot", 0) == (True, "")
        assert wait_for(lambda: saved(tmp_path, fold), process) >= beat["iteration"]
        raylet.wait(timeout=60)  # nothing runs there any more
        assert process.wait(timeout=120) == 0, (tmp_path / "log").read_text()
    finally:
        cluster.shutdown()
    assert read(tmp_path, fold, "result.json")["tries"] == 2
    assert same(scores(tmp_path), scores(tmp_path / "quiet"))
