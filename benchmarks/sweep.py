"""Budgets as milestones of one run, beside separate trainings: ten folds × three budgets.

    python benchmarks/sweep.py [--folds 10] [--budgets 10 20 40] [--rounds 5]

One `cxrtl run`, from its command to its report, against one plain PyTorch process for each fold and budget, as many at
once as there are cores, each with one thread: it reads the same prepared images, trains from the start to its budget,
scores its fold and ends. In alternating order; a first run, which is not counted, prepares and divides the images for
both. Prints seconds and their ratio.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

EXPERIMENT = """
name = "{name}"
[data]
source = "phantom"
positive = "effusion"
image_size = {size}
phantom_patients = 500
phantom_images_per_patient = 2
[folds]
k = {folds}
[train]
backbone = "{backbone}"
init = "scratch"
budgets = {budgets}
[resources]
cpus_per_fold = 1
"""

SEPARATE = """
import sys
from pathlib import Path
import numpy as np, pyarrow.parquet as pq, torch
from cxrtl import config
from cxrtl.data import folds, prepared
from cxrtl.learn import loop, memory, precision, state, transfer
home, toml, k, budget = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
memory.keep_freed_memory()
experiment, device = config.load(toml), torch.device("cpu")
recipe = experiment.recipes[0]
found = prepared.open_prepared(next((home / "prepared").iterdir()))
fold = folds.read_folds(home / "runs" / "first" / "folds.parquet").frame["fold"].to_numpy()
tables = [pq.read_table(path, columns=["pixels", "target"]) for path in prepared.shard_paths(found)]
pixels = np.concatenate([np.frombuffer(b"".join(t["pixels"].to_pylist()), np.uint8) for t in tables])
pixels = torch.from_numpy(pixels.reshape(-1, 1, found.image_size, found.image_size))
targets = torch.from_numpy(np.concatenate([t["target"].to_numpy() for t in tables]).astype("int64"))
train = recipe.train.model_copy(update={"budgets": (budget,)})
setting = loop.Setting(train, recipe.augment, experiment.seed, k, 2, precision.choose("auto", device), device)
model = transfer.make_model(train, None, 2, experiment.seed, k, device)
optimizer = transfer.make_optimizer(train, model, 2)
test = loop.Images(pixels[fold == k], targets[fold == k])
hooks = loop.Hooks(lambda at: print(loop.predict(setting, test, model).shape), lambda _: None, lambda _: None)
loop.fit(setting, loop.Images(pixels[fold != k], targets[fold != k]), model, optimizer, state.State(), hooks)
"""


def timed(*words: str | Path) -> float:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - started


def separate(home: Path, toml: Path, folds: int, budgets: list[int]) -> float:
    trainings = [(k, budget) for budget in sorted(budgets, reverse=True) for k in range(folds)]
    started = time.perf_counter()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as slots:
        list(slots.map(lambda pair: timed("-c", SEPARATE, home, toml, *map(str, pair)), trainings))
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--budgets", type=int, nargs="+", default=[10, 20, 40])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        knobs = {"size": args.size, "folds": args.folds, "backbone": args.backbone}

        def experiment(name: str, budgets: list[int]) -> Path:
            toml = home / f"{name}.toml"
            toml.write_text(EXPERIMENT.format(name=name, budgets=budgets, **knobs))
            return toml

        def one_run(toml: Path) -> float:
            return timed("-m", "cxrtl.cli", "run", toml, "--home", home)

        one_run(experiment("first", [1]))
        for number in range(args.rounds):
            toml, apart = experiment(f"round{number}", args.budgets), 0.0
            if number % 2:
                apart = separate(home, toml, args.folds, args.budgets)
            together = one_run(toml)
            apart = apart or separate(home, toml, args.folds, args.budgets)
            rows.append((together, apart))
            print(
                f"round {number}: one run {together:.1f} s, {args.folds * len(args.budgets)} separate trainings "
                f"{apart:.1f} s, ratio {apart / together:.2f}",
                flush=True,
            )
    ratio = statistics.median(apart / together for together, apart in rows)
    print(f"median ratio {ratio:.2f}: {args.backbone}, {args.size} px, {args.folds} folds, budgets {args.budgets}")


if __name__ == "__main__":
    main()
