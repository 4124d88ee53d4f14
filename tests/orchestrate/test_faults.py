"""Killed at any point, a run goes on by the same command and ends with the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray.data

from cxrtl import config
from cxrtl.orchestrate import cluster, probe, study
from cxrtl.rundir import RunDir
from tests.faults.alone import Silent
from tests.orchestrate.helpers import cxrtl, experiment, gone, same, scores, start, training, wait_for

ARM = """
[grid]
train.backbone = ["squeezenet1_1"]
train.budgets = [[2]]
[[arm]]
name = "mobilenet_v3_small"
"""


@pytest.fixture
def beside(ray_instance: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies in this process, which has its imports behind it, on the tests' common Ray, and steps that are not timed:
    what a command spends its first half minute on."""

    @contextmanager
    def connect(address: str | None, verbose: bool) -> Iterator[list[cluster.Node]]:
        yield cluster.nodes()

    monkeypatch.setattr(cluster, "connect", connect)
    monkeypatch.setattr(ray.data.DataContext.get_current(), "use_datasource_v2", False)  # as `connect` does
    monkeypatch.setattr(probe.Prober, "time", lambda *_: probe.Probe("cpu", "", "fp32", 0.01, 6 * 10**6))


def test_killed_trial_goes_on_from_its_state(beside: None, undisturbed: Path, tmp_path: Path) -> None:
    for part in ("prepared", "runs"):
        shutil.copytree(undisturbed / part, tmp_path / part)
    fold = tmp_path / "runs/small/mobilenet_v3_small/fold1"
    shutil.rmtree(fold)
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 120
        while not killed and time.monotonic() < until:
            if beat := training(tmp_path, fold=1):
                os.kill(int(beat["process"].split()[0]), signal.SIGKILL)
                killed.append(beat["iteration"])
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    here = study.Options(tmp_path, "", address="the tests' common Ray")
    study.run(config.load(experiment(tmp_path)), here, Silent())
    killer.join()
    assert killed and json.loads((fold / "result.json").read_text())["tries"] == 2
    assert same(scores(tmp_path), scores(undisturbed))


@pytest.mark.slow
def test_arm_joins_and_a_trial_is_killed(undisturbed: Path, tmp_path: Path) -> None:
    """As a user would see it. An arm that joins a run changes no bit of another's predictions, whether
    done before or made with it."""
    for part in ("prepared", "runs"):
        shutil.copytree(undisturbed / part, tmp_path / part)
    run = tmp_path / "runs/small"
    hashes = json.loads((run / "experiment.resolved.json").read_text())
    shutil.rmtree(run / "mobilenet_v3_small/fold1")
    kept = {path: path.stat().st_mtime_ns for path in run.glob("*/fold0/*")}
    process = start("run", experiment(tmp_path, ARM), "--home", tmp_path, "--json", log=tmp_path / "log")
    beat = wait_for(lambda: training(tmp_path, fold=1), process)
    os.kill(int(beat["process"].split()[0]), signal.SIGKILL)
    assert process.wait(timeout=240) == 0, (tmp_path / "log").read_text()
    plan = next(json.loads(line)["plan"] for line in (tmp_path / "log").open() if line.startswith('{"plan"'))
    assert (plan["trials"], plan["done"]) == (4, 1)
    assert json.loads((run / "mobilenet_v3_small/fold1/result.json").read_text())["tries"] == 2
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    found, alone = scores(tmp_path), scores(undisturbed)
    assert same({name: found[name] for name in alone}, alone)
    assert found.keys() - alone.keys() == {f"squeezenet1_1-budgets_2/fold{k}/predictions-2.parquet" for k in (0, 1)}
    now = json.loads((run / "experiment.resolved.json").read_text())
    assert now["run_hash"] != hashes["run_hash"] and now["arm_hashes"].items() > hashes["arm_hashes"].items()
    arms = json.loads((run / "summary.json").read_text())["arms"]
    assert arms == ["mobilenet_v3_small", "squeezenet1_1-budgets_2"]


@pytest.mark.slow
def test_killed_driver_leaves_nothing_running_and_the_same_command_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    process = start("run", experiment(tmp_path), "--home", tmp_path, log=tmp_path / "log")
    beat = wait_for(lambda: training(tmp_path), process)
    process.kill()
    process.wait()
    with RunDir(tmp_path / "runs/small").lock():
        pass  # none of Ray's processes, which may still be ending, has inherited it
    until = time.monotonic() + 60
    while not gone(int(beat["process"].split()[0])):  # Ray's processes share the driver's fate
        assert time.monotonic() < until
        time.sleep(0.1)
    looked = cxrtl("status", tmp_path / "runs/small", "--json")
    states = {each["name"]: each["state"] for each in json.loads(looked.stdout)["trials"]}
    assert states["mobilenet_v3_small/fold0"] == "cut off"
    again = cxrtl("run", experiment(tmp_path), "--home", tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert same(scores(tmp_path), scores(undisturbed))


@pytest.mark.slow
def test_killed_raylet_ends_the_run_with_a_word_and_the_same_command_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    process = start("run", experiment(tmp_path), "--home", tmp_path, log=tmp_path / "log")
    beat = wait_for(lambda: training(tmp_path), process)
    trial = int(beat["process"].split()[0])
    raylet = int(Path(f"/proc/{trial}/stat").read_text().rpartition(")")[2].split()[1])
    assert "raylet" in Path(f"/proc/{raylet}/cmdline").read_text()
    os.kill(raylet, signal.SIGKILL)
    assert process.wait(timeout=90) in (1, 2)  # Ray may end the process itself
    assert gone(trial)
    said = (tmp_path / "log").read_text()
    assert "PlanError: Ray's own process on this machine ended" in said and "Traceback" not in said, said
    again = cxrtl("run", experiment(tmp_path), "--home", tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert same(scores(tmp_path), scores(undisturbed))


@pytest.mark.slow
def test_killed_driver_leaves_nothing_on_a_cluster_that_others_use(
    ray_instance: None, undisturbed: Path, tmp_path: Path
) -> None:
    import ray
    from ray._private import state

    words = ("run", experiment(tmp_path), "--home", tmp_path, "--address", ray.get_runtime_context().gcs_address)
    process = start(*words, log=tmp_path / "log")
    wait_for(lambda: training(tmp_path), process)
    assert ray.available_resources().get("CPU", 0) < 2
    process.kill()
    process.wait()
    until = time.monotonic() + 60
    while True:
        # Ray Data's own, detached ones serve whoever comes next
        actors = [each for each in state.actors().values() if each["State"] != "DEAD" and not each["IsDetached"]]
        groups = [each for each in ray.util.placement_group_table().values() if each["state"] != "REMOVED"]
        if not actors and not groups and ray.available_resources().get("CPU") == 2:
            break
        assert time.monotonic() < until, (actors, groups, ray.available_resources())
        time.sleep(0.2)
    again = cxrtl(*words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert same(scores(tmp_path), scores(undisturbed))


@pytest.mark.slow
def test_interrupt_ends_calmly_and_the_same_command_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    process = start("run", experiment(tmp_path), "--home", tmp_path, log=tmp_path / "log")
    wait_for(lambda: training(tmp_path), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    said = (tmp_path / "log").read_text()
    assert "run the same command" in said.lower() and "Traceback" not in said
    assert cxrtl("run", experiment(tmp_path), "--home", tmp_path).returncode == 0
    assert same(scores(tmp_path), scores(undisturbed))


@pytest.mark.slow
def test_damaged_result_is_made_again(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed / "prepared", tmp_path / "prepared")
    shutil.copytree(undisturbed / "runs", tmp_path / "runs")
    fold = tmp_path / "runs/small/mobilenet_v3_small/fold1"
    with (fold / "predictions-100.parquet").open("r+b") as file:
        file.write(b"PAR?")  # Parquet begins with PAR1
    done = cxrtl("run", experiment(tmp_path), "--home", tmp_path, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    plan = next(json.loads(line)["plan"] for line in done.stdout.splitlines() if line.startswith('{"plan"'))
    assert (plan["trials"], plan["done"]) == (2, 1)
    assert same(scores(tmp_path), scores(undisturbed))


@pytest.mark.slow
def test_broken_loop_stops_the_run_once(tmp_path: Path) -> None:
    # More images a batch than a training fold has: the timed steps pass, every trial fails, and would fail again.
    done = cxrtl("run", experiment(tmp_path), "--home", tmp_path, "--set", "train.batch_size=40")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1 and "Traceback (most" not in done.stderr + done.stdout
    assert "TrialError: train.batch_size = 40 exceeds the 24 training images" in done.stderr
    trace = next((tmp_path / "runs/small/mobilenet_v3_small").glob("fold*/error.txt"))
    assert "Traceback (most recent call last)" in trace.read_text() and "error.txt" in done.stderr
    looked = cxrtl("status", tmp_path / "runs/small")
    assert "failed" in looked.stdout


@pytest.mark.slow
def test_diverging_arm_is_named_before_anything_trains(tmp_path: Path) -> None:
    wild = experiment(tmp_path, "[[arm]]\nname = 'wild'\ntrain = { rate = 10, head_rate_factor = 10000 }\n")
    done = cxrtl("run", wild, "--home", tmp_path)
    assert done.returncode == 1 and "TrialError: arm 'wild': the loss" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs/small/wild").exists()
