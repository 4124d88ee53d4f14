"""How planning, scheduling and the driver grow with the number of trials.

    python benchmarks/scale.py plan                          10,000 trials on 500 simulated nodes
    python benchmarks/scale.py driver [--trials 1000 3000 10000] [--slots 10]

`plan`: `plan.trials`, `plan.make` and the order of packs for as many trials and nodes as each line says, and the ledger
looked at with all of them done, in seconds and in peak memory; then the makespan of folds of mixed lengths on a
simulated clock, beside the least that any order could reach. `driver`: trials that do nothing through the real
scheduler, on as many real processes as slots, each line with a Ray and a driver of its own: seconds a trial, and what a
trial adds to the driver's memory. Each ends with the exponent of growth, the slope in logarithms: 1 is linear. `driver`
fails where that of its time or its memory is above 1.15.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

GRID = ((1000, 50), (2000, 100), (5000, 250), (10_000, 500))  # trials, nodes
FOLDS = 100
LINEAR = 1.15  # the largest exponent of growth that the driver may show


def exponent(x: list[float], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    found = call()
    return found, time.perf_counter() - started


def plan(trials: int, nodes: int, home: Path) -> dict[str, float]:
    """Seconds and bytes for one size, and the simulated clock's makespan over the least possible one."""
    from cxrtl import rundir
    from cxrtl.config import parse
    from cxrtl.orchestrate import plan as planning
    from cxrtl.orchestrate.cluster import Node
    from cxrtl.orchestrate.probe import Probe, Share
    from cxrtl.records import FoldResult, Milestone, Prepared
    from cxrtl.report import status
    from cxrtl.rundir import RunDir

    arms = [f"arm{number}" for number in range(trials // FOLDS)]
    train = {"init": "scratch", "budgets": [250, 1000]}
    made = parse({"name": "x", "data": {"source": "phantom"}, "train": train, "arm": [{"name": arm} for arm in arms]})
    rng = np.random.default_rng(0)
    probes = {
        arm: Probe("cpu", "", "bf16", float(seconds), 10)
        for arm, seconds in zip(arms, rng.lognormal(size=len(arms)), strict=True)
    }
    cluster = [Node(8, 0, 2**40, f"10.0.{n // 256}.{n % 256}") for n in range(nodes)]
    images, share = Prepared(home, ("n", "y"), 32, 10, True, "hash"), Share(2, 0.0)

    def draw() -> Any:
        listed = planning.trials(made, FOLDS)
        half = [trial.name for trial in listed[: len(listed) // 2]]
        return planning.make(made, listed, half, cluster, share, probes, home, images)

    tracemalloc.start()
    draw()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    drawn, making = timed(draw)
    step = {each.arm: each.step_seconds for each in drawn.estimates}
    packs, ordering = timed(lambda: planning.packs(drawn.trials, step, 1))
    lengths = [step[pack[0].arm] * 1000 for pack in packs]
    slots = nodes * 4
    end, walking = timed(lambda: planning.makespan(lengths, slots))
    run, reached = RunDir(home / f"run{trials}"), (Milestone(1000, 1.0, 1.0, 1.0, 1.0),)
    run.root.mkdir()
    rundir.write_json(run.path("plan.json"), {"trials": [vars(trial) for trial in drawn.trials]})
    for trial in drawn.trials:
        run.trial(trial).mkdir(parents=True)
        result = FoldResult(trial.arm, trial.fold, trial.budgets, "h", 1, 1, reached, 0, 0, 0, "cpu", "bf16", 1, 1, {})
        (run.trial(trial) / "result.json").write_text(json.dumps(result.to_json()))
    ledger, reading = timed(lambda: [run.result(trial, "h") for trial in drawn.trials])
    first, looking = timed(lambda: status.read(run))
    _, again = timed(lambda: status.read(run, first))
    assert all(ledger) and first.count("done") == trials
    least = max(sum(lengths) / slots, max(lengths))
    return {
        "make": making,
        "order": ordering,
        "clock": walking,
        "ledger": reading,
        "look": looking,
        "look again": again,
        "peak, MiB": peak / 2**20,
        "makespan / least": end / least,
    }


def nothing(config: dict[str, Any]) -> None:
    from ray import tune

    tune.report({"broken": ""})


def drive(trials: int, slots: int) -> dict[str, float]:
    """In a process of its own: the real scheduler over trials that do nothing."""
    from ray import tune

    from cxrtl.orchestrate import cluster, sweep

    with cluster.connect("local", verbose=False, cpus=slots):
        trainable = tune.with_parameters(nothing)
        sweep.schedule(trainable, [[f"warm/fold{n}"] for n in range(2 * slots)], {"CPU": 1}, slots)
        names, before = [[f"arm/fold{n}"] for n in range(trials)], memory()
        results, seconds = timed(lambda: sweep.schedule(trainable, names, {"CPU": 1}, slots))
        assert len(results) == trials and not results.errors
        return {"seconds": seconds, "memory": memory() - before}


def memory() -> float:
    """This process's resident bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def table(rows: list[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Print the rows; the exponents of growth by column."""
    names = list(rows[0][1])
    print("| trials | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for trials, row in rows:
        print(f"| {trials:,} | " + " | ".join(f"{row[name]:.4g}" for name in names) + " |")
    x = [float(trials) for trials, _ in rows]
    slopes = {name: exponent(x, [max(row[name], 1e-9) for _, row in rows]) for name in names}
    print("exponents of growth: " + ", ".join(f"{name} {slope:.2f}" for name, slope in slopes.items()))
    return slopes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["plan", "driver", "drive"])
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 3000, 10_000])
    parser.add_argument("--slots", type=int, default=10)
    args = parser.parse_args()
    if args.what == "drive":  # the process of one line
        print(json.dumps(drive(args.trials[0], args.slots)))
    elif args.what == "plan":
        with tempfile.TemporaryDirectory() as folder:
            table([(trials, plan(trials, nodes, Path(folder))) for trials, nodes in GRID])
    else:
        rows = []
        for trials in args.trials:
            words = [sys.executable, __file__, "drive", "--trials", str(trials), "--slots", str(args.slots)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            each = {"s a trial": found["seconds"] / trials, "KiB a trial": found["memory"] / trials / 1024}
            rows.append((trials, {"s": found["seconds"], "MiB": found["memory"] / 2**20, **each}))
        slopes = table(rows)
        steep = [f"{name} {slopes[name]:.2f}" for name in ("s", "MiB") if slopes[name] > LINEAR]
        if steep:
            sys.exit(f"the driver grows faster than its trials: {', '.join(steep)}, above {LINEAR}")


if __name__ == "__main__":
    main()
