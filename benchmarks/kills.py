"""SIGKILL at random moments, over and over: what is redone, how long it takes, whether the numbers stay.

    python benchmarks/kills.py [--kills 100] [--seed 0] [--length 2000]

Runs of two folds on synthetic images, one after the other, each with a Ray of its own. A kill takes the process of a
fold in training, another process of Ray's (a worker that decodes, shares out data or waits), the driver (`cxrtl run`),
or the raylet; most come once the one before is made good, some before. Where the driver has ended, the same command is
given again. Prints a line a kill and a table. Ends with an error where

- a fold redoes more than one checkpoint interval, or loses a state that it had,
- a process of a run whose driver or raylet was killed still lives 70 s after (those that train are gone within
  seconds; two of Ray's own, which hold nothing, try for 60 s to tell the head that is gone),
- a run does not get on within three minutes, or
- any prediction differs, in one bit, from those of a run that nothing befell.

"Redone" is the iteration that the fold was last known to have reached, at most a second before the kill, minus that of
the state it goes on from; "recovery", the seconds from the kill until all folds are further than they were.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from victim import Failed, Run, kill, stat, trained_by

FOLDS = 2
EVERY = 25  # iterations between saved states
GONE_WITHIN, ON_WITHIN = 70.0, 180.0  # seconds
IMPATIENT = 0.2  # share of kills that come before the one before is made good
WEIGHTS = {"fold": 76, "worker": 14, "driver": 5, "raylet": 5}
EXPERIMENT = """
name = "kills"
[data]
source = "phantom"
positive = "effusion"
image_size = 32
phantom_patients = 24
[folds]
k = {folds}
[train]
backbone = "mobilenet_v3_small"
init = "scratch"
budgets = [20, {length}]
batch_size = 8
rate = 1e-3
checkpoint_every = {every}
precision = "fp32"
[resources]
cpus_per_fold = 1
"""


@dataclass
class Kill:
    """One kill, and what came of it; `recovery` is None where the next did not wait for it."""

    kind: str
    redone: int
    driver_ended: bool
    recovery: float | None = None


def wait(left: Callable[[], object], what: str) -> None:
    """Until nothing is left."""
    until = time.monotonic() + GONE_WITHIN
    while still := left():
        if time.monotonic() > until:
            raise Failed(f"{GONE_WITHIN:.0f} s after the kill of {what} there are still {still}")
        time.sleep(0.05)


def strike(run: Run, rng: random.Random) -> Kill | None:
    """Kill something, and see that what belongs to it goes, too; None where the run has ended."""
    assert run.driver
    targets = run.targets()
    if "driver" not in targets:
        return None
    kinds = list(targets)
    kind = rng.choices(kinds, [WEIGHTS[name] for name in kinds])[0]
    pid = rng.choice(sorted(targets[kind]))
    before = run.at()
    kill(pid)
    everything = kind in ("driver", "raylet")
    if everything:
        run.doom(time.monotonic() + GONE_WITHIN, f"the {kind}")
    fated = targets.get("fold", []) if everything else []
    wait(lambda: [each for each in (pid, *fated) if stat(each)], f"the {kind}")
    kept = run.kept()
    at_work = {name: by for name, path in run.folds().items() if (by := trained_by(path))}
    struck = [name for name, by in at_work.items() if everything or (kind, pid) == ("fold", by)]
    redone = max((before[name] - kept[name] for name in struck if name in before), default=0)
    if redone > EVERY:
        raise Failed(f"killing the {kind} cost {redone} iterations, of {before} there are {kept}")
    return Kill(kind, max(redone, 0), run.driver.poll() is not None)


def recover(run: Run, before: dict[str, int]) -> bool:
    """Wait until a fold is further than it was, or the run is done; give the command again where it has ended."""
    until = time.monotonic() + ON_WITHIN
    while time.monotonic() < until:
        assert run.driver
        if run.driver.poll() == 0:
            return True
        if run.driver.poll() is not None:
            run.start()
        run.kept()
        now = run.at()
        if now and all(now[name] > at or now[name] == run.length for name, at in before.items()):
            return False
        time.sleep(0.05)
    raise Failed(f"the run did not get on from {before}, is at {run.at()}: see {run.home / 'log'}")


def trained(run: Run) -> bool:
    at = run.at()
    return len(at) == FOLDS and min(at.values()) == run.length


def campaign(run: Run, rng: random.Random, kills: list[Kill], most: int) -> None:
    """Kill till `most` are reached or all is trained; then let the run end."""
    run.start()
    time.sleep(rng.uniform(0, 30) if most else 0)  # somewhere between importing and training
    while len(kills) < most and not trained(run):
        run.look_for_the_doomed()
        before, began, starts = run.at(), time.monotonic(), run.starts
        found = strike(run, rng)
        if found is None:
            if run.driver and run.driver.poll() == 0:
                break
            recover(run, before)
            continue
        kills.append(found)
        if rng.random() < IMPATIENT:
            if found.driver_ended:
                run.start()
            time.sleep(rng.uniform(0, 6))
        else:
            if recover(run, before):
                break
            found.recovery, found.driver_ended = time.monotonic() - began, run.starts > starts
            time.sleep(rng.uniform(0, 3))
        told = "" if found.recovery is None else f", on again after {found.recovery:.1f} s"
        print(f"{len(kills):4} {found.kind:7} {found.redone:3} iterations redone{told}", flush=True)
    for _ in range(3):  # it may still be ending from the last kill
        assert run.driver
        if not run.driver.wait(900):
            break
        run.start()
    else:
        raise Failed("given the same command again and again, the run does not end well")
    while run.look_for_the_doomed():
        time.sleep(0.2)


def scores(home: Path) -> dict[str, bytes]:
    paths = sorted((home / "runs/kills").glob("*/fold*/predictions-*.parquet"))
    return {str(path.relative_to(home)): path.read_bytes() for path in paths}


def table(kills: list[Kill]) -> str:
    lines = [
        "| killed | times | driver ended | redone, median and most | recovery s, median and most |",
        "|---|---|---|---|---|",
    ]
    for kind in (*WEIGHTS, "all"):
        chosen = [each for each in kills if kind in (each.kind, "all")]
        if chosen:
            redone = [each.redone for each in chosen]
            waited = [each.recovery for each in chosen if each.recovery is not None] or [0.0]
            lines.append(
                f"| {kind} | {len(chosen)} | {sum(each.driver_ended for each in chosen)} | "
                f"{statistics.median(redone):.0f}, {max(redone)} | {statistics.median(waited):.1f}, {max(waited):.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=int, default=2000, help="iterations of a fold")
    args = parser.parse_args()
    rng, kills, runs, began = random.Random(args.seed), list[Kill](), list[Run](), time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that what it started is ended, too
    with tempfile.TemporaryDirectory(prefix="k-", ignore_cleanup_errors=True) as folder:
        toml = Path(folder, "kills.toml")
        toml.write_text(EXPERIMENT.format(length=args.length, every=EVERY, folds=FOLDS))

        def fresh(name: str) -> Run:
            home = Path(folder, name)
            (home / "ray").mkdir(parents=True)
            runs.append(Run(home, toml, args.length))
            return runs[-1]

        try:
            calm = fresh("calm")
            campaign(calm, rng, [], 0)
            wanted = scores(calm.home)
            while len(kills) < args.kills:
                run = fresh(str(len(runs)))
                campaign(run, rng, kills, args.kills)
                found = scores(run.home)
                different = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
                if different:
                    raise Failed(f"after {len(kills)} kills other predictions: {different}")
                print(f"run {len(runs) - 1} done: {len(found)} tables of predictions as undisturbed", flush=True)
        except Failed as failed:
            sys.exit(f"{failed}\n{table(kills)}\n{(runs[-1].home / 'log').read_text()[-3000:]}")
        finally:
            for run in runs:
                run.end()
    print(table(kills))
    print(
        f"{len(kills)} kills over {len(runs) - 1} runs of {FOLDS} folds × {args.length} iterations, states every "
        f"{EVERY}: all predictions bit for bit those of an undisturbed run; "
        f"{(time.monotonic() - began) / 60:.1f} minutes"
    )


if __name__ == "__main__":
    main()
