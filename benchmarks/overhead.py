"""What the orchestrator adds to a fold: cxrtl on Ray beside the same loop in one plain PyTorch process.

    python benchmarks/overhead.py [--images 1000] [--folds 10] [--iterations 20] [--rounds 5]

The same prepared images, folds, seeds, budgets and evaluation, one thread, in alternating order, one fold at a time:
the plain process reads the shards itself, trains and scores each fold, and saves nothing. A first run, which is not
counted, prepares and divides the images for both. Prints seconds and the overhead a fold: wall time of the folds less
the loop's own training and evaluation time, divided by folds; of those on Ray, too, from the first fold's end on, which
leaves out the start of the process that trains them: warm. Results must be equal to the bit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
budgets = {budgets}
[resources]
max_concurrent = 1
cpus_per_fold = 1
"""

PLAIN = """
import json, sys, time
from pathlib import Path
import pyarrow.parquet as pq, torch
import numpy as np
from cxrtl import config
from cxrtl.data import folds, prepared
from cxrtl.learn import loop, precision, state, transfer
home, toml = Path(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
experiment = config.load(toml)
recipe, device = experiment.recipes[0], torch.device("cpu")
found = prepared.open_prepared(next((home / "prepared").iterdir()))
fold = folds.read_folds(home / "runs" / "first" / "folds.parquet").frame["fold"].to_numpy()
began = time.perf_counter()
size = found.image_size
tables = [pq.read_table(path, columns=["pixels", "target"]) for path in prepared.shard_paths(found)]
pixels = np.concatenate([np.frombuffer(b"".join(t["pixels"].to_pylist()), np.uint8) for t in tables])
pixels = torch.from_numpy(pixels.reshape(-1, 1, size, size))
targets = torch.from_numpy(np.concatenate([t["target"].to_numpy() for t in tables]).astype("int64"))
inside, scores = 0.0, {}
for k in range(experiment.folds.k):
    train = loop.Images(pixels[fold != k], targets[fold != k])
    test = loop.Images(pixels[fold == k], targets[fold == k])
    setting = loop.Setting(
        recipe.train, recipe.augment, experiment.seed, k, 2, precision.choose("auto", device), device
    )
    model = transfer.make_model(recipe.train, None, 2, experiment.seed, k, device)
    optimizer = transfer.make_optimizer(recipe.train, model, 2)
    spent = []
    def milestone(at):
        started = time.perf_counter()
        scores[f"{k}/{at.iteration}"] = loop.predict(setting, test, model)[:, 1].tolist()
        spent.append(time.perf_counter() - started)
    at = state.State()
    loop.fit(setting, train, model, optimizer, at, loop.Hooks(milestone, lambda _: None, lambda _: None))
    inside += at.train_seconds + sum(spent)
print(json.dumps({"wall": time.perf_counter() - began, "inside": inside, "scores": scores}))
"""

ON_RAY = """
import json, sys, time
from pathlib import Path
from cxrtl import config
from cxrtl.console import Screen
from cxrtl.orchestrate import study
from cxrtl.rundir import RunDir, read_json, read_predictions
home, toml = Path(sys.argv[1]), sys.argv[2]
done = study.run(config.load(toml), study.Options(home, "bench"), Screen(as_json=True))
results = sorted(done.run.results(), key=lambda r: r.fold)
inside = [r.milestones[-1].train_seconds + sum(m.evaluate_seconds for m in r.milestones) for r in results]
ended = [done.run.path(r.arm, f"fold{r.fold}", "result.json").stat().st_mtime for r in results]
session = read_json(done.run.path("sessions.json"))[-1]
scores = {}
for result in results:
    for at in result.milestones:
        path = done.run.path(result.arm, f"fold{result.fold}", f"predictions-{at.iterations}.parquet")
        scores[f"{result.fold}/{at.iterations}"] = read_predictions(path).score.tolist()
print(json.dumps({
    "wall": session["wall_seconds"] - session["launch_seconds"] - session["prepare_seconds"],
    "launch": session["launch_seconds"],
    "inside": sum(inside),
    "warm": (max(ended) - min(ended) - sum(inside) + inside[ended.index(min(ended))]) / (len(results) - 1),
    "scores": scores,
}))
"""


def measure(code: str, home: Path, toml: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", code, str(home), str(toml)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    values = {"size": args.size, "patients": args.images // 2, "folds": args.folds, "backbone": args.backbone}
    values["budgets"] = [args.iterations // 2, args.iterations]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)

        def on(name: str, code: str) -> tuple[dict[str, object], float]:
            toml = home / f"{name}.toml"
            toml.write_text(EXPERIMENT.format(name=name, **values))
            started = time.perf_counter()
            return measure(code, home, toml), time.perf_counter() - started

        on("first", ON_RAY)
        for number in range(args.rounds):
            order = (ON_RAY, PLAIN)[:: -1 if number % 2 else 1]
            found = {code: on(f"round{number}", code) for code in order}
            (ray, command), (plain, _) = found[ON_RAY], found[PLAIN]
            equal = ray["scores"] == plain["scores"]
            extra = (float(str(ray["wall"])) - float(str(ray["inside"]))) / args.folds
            own = (float(str(plain["wall"])) - float(str(plain["inside"]))) / args.folds
            rows.append((command, ray["launch"], ray["wall"], plain["wall"], extra, own, ray["warm"]))
            print(
                f"round {number}: command {command:.1f} s, launch {ray['launch']:.1f} s; {args.folds} folds in "
                f"{ray['wall']:.1f} s on Ray, {plain['wall']:.1f} s plain; overhead a fold {extra:.2f} s on Ray, warm "
                f"{ray['warm']:.2f} s, {own:.2f} s plain; scores equal to the bit: {equal}",
                flush=True,
            )
    middle = [statistics.median(float(str(row[i])) for row in rows) for i in range(7)]
    ratio = middle[2] / middle[3]
    print(
        f"median: {args.backbone}, {args.size} px, {args.folds} folds × {args.iterations} iterations of 25: "
        f"{middle[2]:.1f} s on Ray, {middle[3]:.1f} s plain (ratio {ratio:.2f}); overhead {middle[4]:.2f} s a fold on "
        f"Ray, warm {middle[6]:.2f} s, {middle[5]:.2f} s plain; launch {middle[1]:.1f} s once"
    )


if __name__ == "__main__":
    main()
