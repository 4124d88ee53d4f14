"""Rounds of every loop in turn, on the same machine in the same minutes; medians, shares of the peak and ratios."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cxrtl.bench import limits
from cxrtl.bench.loops import Task
from cxrtl.errors import TrialError, last_line
from cxrtl.learn import devices, precision
from cxrtl.orchestrate import environment
from cxrtl.rundir import RunDir, read_json

Say = Callable[[str], None]

EXPERIMENT = """
name = "{name}"
[data]
source = "phantom"
positive = "effusion"
image_size = {size}
phantom_patients = {patients}
[folds]
k = {folds}
[train]
backbone = "{backbone}"
init = "scratch"
batch_size = {batch}
budgets = {budgets}
[resources]
cpus_per_fold = {threads}
folds_per_gpu = {folds_per_gpu}
"""


_STEPS = {"cpu": 10, "cuda": 300}  # that each loop is timed over, at least
_SECONDS = 10  # and so long at half the peak of a CPU: a small network's ten steps are over within a hiccup
_WARM = 5  # steps of cxrtl that are not counted, up to its first line of the curve
_WARM_GPU = 50
_AUTO_PACK = 8  # folds a GPU that two waves are made for where the run itself chooses how many share one


@dataclass(frozen=True)
class Wish:
    """What to measure: `steps` each loop is timed over (0: as suits device and network), `rounds` each is run."""

    backbone: str = "resnet50"
    batch: int = 25
    size: int = 224
    steps: int = 0
    rounds: int = 5
    folds_per_gpu: int | str = "auto"


def measure(wish: Wish, say: Say) -> dict[str, Any]:
    """Everything measured, as JSON-able values; rates in images a second of the whole machine.

    Raises:
        TrialError: a loop failed; the message ends with its last words.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cores = len(os.sched_getaffinity(0))
    devices.settle(cores)
    form = precision.choose("auto", device)
    flops = limits.training_flops(wish.backbone, wish.size)
    peak = {kind: limits.matmul_flops(kind, device) for kind in ("bf16", "fp32")}
    wish = wish if wish.steps else replace(wish, steps=_steps(device, peak[form], flops * wish.batch))
    found: dict[str, Any] = {
        "backbone": wish.backbone,
        "batch": wish.batch,
        "size": wish.size,
        "steps": wish.steps,
        "device": devices.name(device),
        "precision": form,
        "flop_per_image": flops,
        "peak_flops": peak,
        "bandwidth_bytes": limits.bandwidth(device),
        "rounds": [],
        "environment": environment.describe(devices.name(device) if device.type == "cuda" else ""),
    }
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the loops are processes of their own
    say(f"{peak['bf16'] / 1e9:.0f} GFLOP/s in bf16, {peak['fp32'] / 1e9:.0f} in fp32; {flops / 1e9:.2f} GFLOP an image")
    task = Task("plain", wish.backbone, wish.batch, wish.size, wish.steps, cores, form, device.type)
    layouts = {f"plain, {cores} threads": (task, 1)}
    if device.type == "cpu" and cores > 1:
        layouts[f"plain, {cores} × 1 thread"] = (replace(task, threads=1), cores)
    layouts["naive"] = (replace(task, loop="naive", steps=max(3, wish.steps // 3), precision="fp32"), 1)
    with tempfile.TemporaryDirectory(prefix="cxrtl-bench-") as home:
        threads: int | str = "auto"
        for number in range(wish.rounds):
            names = list(layouts)[:: 1 if number % 2 else -1]
            rates = {name: _together(*layouts[name]) for name in names[:-1]}
            rates["cxrtl"], threads = _on_ray(wish, cores, threads, number, Path(home))
            rates[names[-1]] = _together(*layouts[names[-1]])
            found["rounds"].append(rates)
            say(", ".join(f"{name} {rates[name]:.2f}" for name in [*layouts, "cxrtl"]))
    found["threads"] = threads
    return {**found, **_summary(found, list(layouts))}


def _steps(device: torch.device, peak: float, flops: float) -> int:
    """As many as suit the device: `peak` in operations a second, `flops` of a step."""
    long = _SECONDS * peak / 2 / flops if device.type == "cpu" else 0
    return max(_STEPS[device.type], round(long))


def _summary(found: dict[str, Any], layouts: list[str]) -> dict[str, Any]:
    middle = {name: statistics.median(each[name] for each in found["rounds"]) for name in [*layouts, "cxrtl"]}
    best = max((name for name in layouts if name != "naive"), key=lambda name: middle[name])
    peak = found["peak_flops"][found["precision"]]
    return {
        "images_per_second": middle,
        "best_plain": best,
        "share_of_peak": {name: rate * found["flop_per_image"] / peak for name, rate in middle.items()},
        # of each round by itself, so that what slows one round slows both sides of its ratio
        "over_naive": statistics.median(each["cxrtl"] / each["naive"] for each in found["rounds"]),
        "over_best_plain": statistics.median(each["cxrtl"] / each[best] for each in found["rounds"]),
    }


def _together(task: Task, processes: int) -> float:
    """The sum of the rates of so many processes at once."""
    command = [sys.executable, "-m", "cxrtl.bench.loops", task.to_json()]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    total = 0.0
    for process in running:
        out, err = process.communicate()
        if process.returncode:
            raise TrialError(f"the loop {task.loop!r} failed: {last_line(err, 'without a word')}")
        total += float(json.loads(out))
    return total


def _on_ray(wish: Wish, cores: int, threads: int | str, number: int, home: Path) -> tuple[float, int]:
    """Rate of the folds at once of a real run, and a fold's threads. Two folds a slot at least, so that processes are
    warm; a fold's first steps are not counted, as the other loops' are not."""
    gpus = torch.cuda.device_count()
    at_once = gpus * (_AUTO_PACK if wish.folds_per_gpu == "auto" else int(wish.folds_per_gpu))
    knobs = {
        "name": f"round{number}",
        "size": wish.size,
        "patients": 8 * wish.batch,
        "folds": 2 * at_once if gpus else max(2, cores),
        "backbone": wish.backbone,
        "batch": wish.batch,
        "budgets": [_WARM_GPU, _WARM_GPU + wish.steps] if gpus else [_WARM + wish.steps],
        "threads": threads if threads != "auto" else '"auto"',
        "folds_per_gpu": wish.folds_per_gpu if wish.folds_per_gpu != "auto" else '"auto"',
    }
    path = home / f"round{number}.toml"
    path.write_text(EXPERIMENT.format(**knobs))
    done = subprocess.run(
        [sys.executable, "-m", "cxrtl.cli", "run", str(path), "--home", str(home), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise TrialError(f"the run failed: {last_line(done.stderr, 'without a word')}")
    run = RunDir(home / "runs" / f"round{number}")
    plan = read_json(run.path("plan.json"))
    return plan["concurrent"] * statistics.median(_rates(run, wish.batch)), plan["cpus_per_fold"]


def _rates(run: RunDir, batch: int) -> list[float]:
    """Images a second of each fold: between its first and last budget, or if it has one, the first and last line of its
    curve. (A GPU's lines share the time between two looks at it; a budget's time is its own.)"""
    rates = []
    for result in run.results():
        points = [(reached.iterations, reached.train_seconds) for reached in result.milestones]
        if len(points) == 1:
            path = run.path(result.arm, f"fold{result.fold}", "curve.jsonl")
            lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            points = [(line["iteration"], line["train_seconds"]) for line in lines]
        steps, seconds = (last - first for first, last in zip(points[0], points[-1], strict=True))
        rates.append(steps * batch / seconds)
    return rates
