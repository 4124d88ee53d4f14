"""How well slots are used: ten folds of known length through the scheduler that runs real ones.

    python benchmarks/efficiency.py [--seconds 20] [--folds 10] [--slots 1 2 4 5 10]

A fold sleeps, on a logical CPU of its own; each line has a Ray of its own with as many CPUs as slots. As in a real run,
where timed steps come first, the processes have been started and have imported torch before the clock starts; it stops
when the scheduler returns. `use` is the sum of fold time over slots × makespan; `bound` is what it would be if nothing
but folds took time: folds / (slots × ⌈folds / slots⌉). Starting the processes is shown beside it. Everything runs on
this machine's cores: ten processes that start a fold at once share them, where on a cluster each has its own.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

WANTED = 0.93  # of the bound


def sleep(config: dict[str, Any], seconds: float) -> None:
    from ray import tune

    time.sleep(seconds)
    tune.report({"broken": ""})


def start() -> int:
    """What a process has behind it when its first fold comes: the imports, with the timed steps."""
    import cxrtl.orchestrate.fold

    assert cxrtl.orchestrate.fold
    time.sleep(1)  # so that none takes two
    return os.getpid()


def measure(folds: int, slots: int, seconds: float) -> tuple[float, float]:
    """Seconds to start the processes, and the makespan."""
    import ray
    from ray import tune

    from cxrtl.orchestrate import cluster, sweep

    with cluster.connect("local", verbose=False, cpus=slots):
        began = time.perf_counter()
        task = ray.remote(num_cpus=1)(start)
        ray.get([task.remote() for _ in range(slots)])
        ready = time.perf_counter()
        trials = [[f"arm/fold{fold}"] for fold in range(folds)]
        trainable = tune.with_parameters(sleep, seconds=seconds)
        results = sweep.schedule(trainable, trials, {"CPU": 1}, slots)
        assert len(results) == folds and not results.errors
        return ready - began, time.perf_counter() - ready


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 5, 10])
    parser.add_argument("--seconds", type=float, default=20)
    args = parser.parse_args()
    print("| slots | starting, s | makespan, s | use | bound | of the bound |\n" + "|---" * 6 + "|")
    for slots in args.slots:
        starting, makespan = measure(args.folds, slots, args.seconds)
        use = args.folds * args.seconds / (slots * makespan)
        bound = args.folds / (slots * -(-args.folds // slots))
        said = "" if use / bound >= WANTED else f" (below {WANTED})"
        print(
            f"| {slots} | {starting:.1f} | {makespan:.1f} | {use:.3f} | {bound:.3f} | {use / bound:.3f}{said} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
