"""The benchmark counts what it says it counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cxrtl import rundir
from cxrtl.bench import bench, limits
from cxrtl.bench.loops import Pictures, Task, rate
from cxrtl.errors import TrialError
from cxrtl.records import FoldResult, Milestone
from cxrtl.rundir import RunDir


def test_operations_are_those_of_the_published_counts() -> None:
    """4.09 and 1.81 billion multiply-adds forward (He et al. 2016); backward takes twice that, less the first layer's
    gradient of the images."""
    for name, forward in (("resnet50", 4.09e9), ("resnet18", 1.81e9)):
        assert limits.training_flops(name, 224) == pytest.approx(6 * forward, rel=0.03)


@pytest.mark.slow
def test_peak_is_a_rate() -> None:
    assert limits.matmul_flops("fp32", torch.device("cpu")) > 1e8 and limits.bandwidth(torch.device("cpu")) > 1e7


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["naive", "plain"])
def test_loops_train(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxrtl.learn.memory.keep_freed_memory", bool)  # it would last as long as this process
    assert rate(Task(loop, "squeezenet1_1", 4, 64, 1, 1, "fp32", "cpu")) > 0


def test_naive_pictures_are_what_a_network_takes() -> None:
    inputs, target = Pictures(3, 32)[1]
    assert inputs.shape == (3, 32, 32) and inputs.dtype == torch.float32 and target == 1


def test_ratios_are_of_each_round_by_itself() -> None:
    rounds = [
        {"plain": 10.0, "other": 5.0, "naive": 2.0, "cxrtl": 9.0},
        {"plain": 5.0, "other": 4.0, "naive": 1.0, "cxrtl": 5.0},
    ]
    found = {"rounds": rounds, "precision": "bf16", "peak_flops": {"bf16": 100.0}, "flop_per_image": 2.0}
    summary = bench._summary(found, ["plain", "other", "naive"])
    assert summary["best_plain"] == "plain" and summary["images_per_second"]["plain"] == 7.5
    assert summary["over_best_plain"] == pytest.approx(0.95) and summary["over_naive"] == pytest.approx(4.75)
    assert summary["share_of_peak"]["plain"] == pytest.approx(0.15)


def test_small_networks_are_timed_over_more_steps() -> None:
    """On a CPU of 400 GFLOP/s: ten seconds at half of that, ten steps at least."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert bench._steps(cpu, 4e11, 4e10) == 50 and bench._steps(cpu, 4e11, 6e11) == 10
    assert bench._steps(gpu, 8e14, 6e11) == 300


def test_a_loop_that_fails_is_told() -> None:
    with pytest.raises(TrialError, match="'plain' failed"):
        bench._together(Task("plain", "no-such-network", 4, 64, 1, 1, "fp32", "cpu"), 1)


def test_rates_leave_out_the_first_steps_and_what_is_not_training(tmp_path: Path) -> None:
    """Of one budget by the curve, whose lines are exact on a CPU; of two by what lies between them."""
    run = RunDir(tmp_path)
    budgets: dict[int, tuple[int, ...]] = {0: (15,), 1: (50, 350)}
    for fold, times in budgets.items():
        reached = tuple(Milestone(at, 2.0 + at / 10, 9.0, 0.5, 0.5) for at in times)
        folder = run.path("a", f"fold{fold}")
        folder.mkdir(parents=True)
        result = FoldResult("a", fold, times, "hash", 9, 9, reached, 1.0, 99.0, 0.0, "cpu", "fp32", 1, 1, {})
        rundir.write_json(folder / "result.json", result.to_json())
        lines = [{"iteration": at, "train_seconds": 7.0 + at / 5} for at in (5, 10, 15)]
        (folder / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert bench._rates(run, 25) == pytest.approx([5 * 25, 10 * 25])


@pytest.mark.slow
def test_bench_from_the_command_line(tmp_path: Path) -> None:
    words = ["bench", "--backbone", "squeezenet1_1", "--size", "64", "--rounds", "1", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "cxrtl.cli", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "bench-squeezenet1_1-64.json").read_text())
    assert found["rounds"][0]["cxrtl"] > 0 and "share of peak" in done.stdout
