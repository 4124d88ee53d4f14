"""Killed at any point, a run goes on by the same command and ends with the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import psutil

from tests.orchestrate.helpers import cxrtl, experiment, same, scores, start, training, wait_for


def test_killed_trial_goes_on_from_its_state(undisturbed: Path, tmp_path: Path) -> None:
    process = start("run", experiment(tmp_path), "--home", tmp_path, log=tmp_path / "log")
    beat = wait_for(lambda: training(tmp_path), process)
    os.kill(int(beat["process"].split()[0]), signal.SIGKILL)
    assert process.wait(timeout=240) == 0, (tmp_path / "log").read_text()
    result = json.loads((tmp_path / "runs/small/mobilenet_v3_small/fold0/result.json").read_text())
    assert result["tries"] == 2
    assert same(scores(tmp_path), scores(undisturbed))


def test_killed_driver_leaves_nothing_running_and_the_same_command_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    process = start("run", experiment(tmp_path), "--home", tmp_path, log=tmp_path / "log")
    beat = wait_for(lambda: training(tmp_path), process)
    trial = psutil.Process(int(beat["process"].split()[0]))
    process.kill()
    process.wait()
    trial.wait(timeout=60)  # Ray's processes share the driver's fate
    looked = cxrtl("status", tmp_path / "runs/small", "--json")
    states = {each["name"]: each["state"] for each in json.loads(looked.stdout)["trials"]}
    assert states["mobilenet_v3_small/fold0"] == "cut off"
    again = cxrtl("run", experiment(tmp_path), "--home", tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert same(scores(tmp_path), scores(undisturbed))


def test_interrupt_ends_calmly_and_the_same_command_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    process = start("run", experiment(tmp_path), "--home", tmp_path, log=tmp_path / "log")
    wait_for(lambda: training(tmp_path), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    said = (tmp_path / "log").read_text()
    assert "run the same command" in said.lower() and "Traceback" not in said
    assert cxrtl("run", experiment(tmp_path), "--home", tmp_path).returncode == 0
    assert same(scores(tmp_path), scores(undisturbed))


def test_damaged_result_is_made_again(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed / "prepared", tmp_path / "prepared")
    shutil.copytree(undisturbed / "runs", tmp_path / "runs")
    fold = tmp_path / "runs/small/mobilenet_v3_small/fold1"
    with (fold / "predictions-120.parquet").open("r+b") as file:
        file.write(b"XXXX")
    done = cxrtl("run", experiment(tmp_path), "--home", tmp_path, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    plan = next(json.loads(line)["plan"] for line in done.stdout.splitlines() if line.startswith('{"plan"'))
    assert (plan["trials"], plan["done"]) == (2, 1)
    assert same(scores(tmp_path), scores(undisturbed))


def test_broken_loop_stops_the_run_once(tmp_path: Path) -> None:
    # The rate makes the loss infinite: every trial would fail, and would fail again.
    broken = experiment(tmp_path, "[[arm]]\nname = 'wild'\ntrain = { rate = 10, head_rate_factor = 10000 }\n")
    done = cxrtl("run", broken, "--home", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("diverged") == 1 and "error.txt" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "Traceback (most" not in done.stderr + done.stdout
    trace = next((tmp_path / "runs/small/wild").glob("fold*/error.txt")).read_text()
    assert "TrialError" in trace
