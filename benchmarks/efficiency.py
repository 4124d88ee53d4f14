"""How well slots are used: ten folds of known length through the scheduler that runs real ones.

    python benchmarks/efficiency.py [--seconds 20] [--folds 10] [--slots 1 2 4 5 10]

A fold sleeps, on a logical CPU of its own; each line has its own Ray with as many CPUs as slots. `use` is the sum of
fold time over slots × makespan, from the call of the scheduler to its return; `bound` what it would be if nothing but
folds took time: folds / (slots × ⌈folds / slots⌉). What lies between them is told apart: `start`, until a process is
there and begins its first fold, the mean over processes; `gap`, the mean time between two folds of a process; `end`,
from the last fold's end to the scheduler's return. `started` is the share of the bound without `start`: that is paid
once a process, by the cores of its node; here ten processes share this machine's, where on a cluster each has its
own. Fails, after the last line, where `of the bound` is below 0.93 in any.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from itertools import pairwise
from typing import Any

WANTED = 0.93  # of the bound


def sleep(config: dict[str, Any], seconds: float) -> None:
    from ray import tune

    began = time.time()
    time.sleep(seconds)
    tune.report({"broken": "", "process": os.getpid(), "began": began, "ended": time.time()})


def measure(folds: int, slots: int, seconds: float) -> dict[str, float]:
    """Seconds of the makespan and of what it has beside folds."""
    from ray import tune

    from cxrtl.orchestrate import cluster, sweep

    with cluster.connect("local", verbose=False, cpus=slots):
        trainable = tune.with_parameters(sleep, seconds=seconds)
        called = time.time()
        results = sweep.schedule(trainable, [[f"arm/fold{fold}"] for fold in range(folds)], {"CPU": 1}, slots)
        returned = time.time()
    assert len(results) == folds and not results.errors
    processes: dict[int, list[tuple[float, float]]] = {}
    for each in results:
        found = each.metrics
        processes.setdefault(found["process"], []).append((found["began"], found["ended"]))
    runs = [sorted(each) for each in processes.values()]
    gaps = [later[0] - earlier[1] for each in runs for earlier, later in pairwise(each)]
    return {
        "makespan": returned - called,
        "start": statistics.mean(each[0][0] - called for each in runs),
        "gap": statistics.mean(gaps or [0.0]),
        "end": returned - max(each[-1][1] for each in runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 5, 10])
    parser.add_argument("--seconds", type=float, default=20)
    args = parser.parse_args()
    print("| slots | makespan, s | start, s | gap, s | end, s | use | bound | of the bound | started |")
    print("|---" * 9 + "|")
    below = []
    for slots in args.slots:
        found = measure(args.folds, slots, args.seconds)
        use = args.folds * args.seconds / (slots * found["makespan"])
        started = args.folds * args.seconds / (slots * (found["makespan"] - found["start"]))
        bound = args.folds / (slots * -(-args.folds // slots))
        if use / bound < WANTED:
            below.append(f"{slots} slots {use / bound:.3f}")
        times = " | ".join(f"{found[name]:.2f}" for name in ("makespan", "start", "gap", "end"))
        print(
            f"| {slots} | {times} | {use:.3f} | {bound:.3f} | {use / bound:.3f} | {started / bound:.3f} |",
            flush=True,
        )
    if below:
        sys.exit(f"of the bound less than {WANTED}: {', '.join(below)}")


if __name__ == "__main__":
    main()
