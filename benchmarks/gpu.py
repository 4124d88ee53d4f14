"""Everything that needs a GPU, in one command: rates, packing, the whole study `s1`, and agreement with the CPU.

    python benchmarks/gpu.py --out FOLDER [--parts bench packs s1 agree] [--rounds 5] [--images 1000]

    bench   `cxrtl bench` for ResNet-50, batch 25, 224 px, one fold on the GPU
    packs   images a second of 1, 2, 4 and 8 folds in one process, each on its own stream and graph, and of as many
            processes on shares of the GPU; predictions of packed folds against those of unpacked ones
    s1      the recipe of study s1 on 1,000 phantom images at 224 px from a cold start: ten folds × 250, 500 and 1000
            iterations with evaluation, checkpoints, Grad-CAM and the report; and which part of it is not training
    agree   pooled AUC of the demo on the GPU and on the CPU

Each part prints its lines as it ends and adds them to FOLDER/gpu.md; run it from the checkout, with cxrtl importable.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from cxrtl.bench import bench
from cxrtl.rundir import RunDir, read_json, read_predictions

STUDY = """
name = "{name}"
[data]
source = "phantom"
positive = "effusion"
image_size = 224
phantom_patients = {patients}
phantom_images_per_patient = 2
[folds]
k = 10
[train]
backbone = "resnet50"
init = "scratch"
budgets = {budgets}
checkpoint_every = 250
[resources]
{resources}
[report]
explain = {explain}
"""


def run(home: Path, toml: str, name: str) -> float:
    """Seconds of the command, from its start to its report."""
    path = home / f"{name}.toml"
    path.write_text(toml)
    started = time.perf_counter()
    words = [sys.executable, "-m", "cxrtl.cli", "run", str(path), "--home", str(home), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - started


def study(name: str, images: int, budgets: list[int], resources: str, explain: bool = False) -> str:
    return STUDY.format(
        name=name, patients=images // 2, budgets=budgets, resources=resources, explain=str(explain).lower()
    )


def rates(rounds: int) -> list[str]:
    found = bench.measure(bench.Wish(rounds=rounds, folds_per_gpu=1), print)
    lines = [f"{name}: {rate:,.0f} images/s, {found['share_of_peak'][name]:.1%} of the matmul peak"
             for name, rate in found["images_per_second"].items()]  # fmt: skip
    return [*lines, f"over naive {found['over_naive']:.2f} ×, over best plain {found['over_best_plain']:.2f} ×"]


def packs(home: Path, images: int) -> list[str]:
    lines, first = [], None
    layouts = {f"{n} in one process": f"folds_per_gpu = {n}" for n in (1, 2, 4, 8)}
    layouts |= {f"{n} processes": f"gpus_per_fold = {1 / n}\ncpus_per_fold = 1" for n in (2, 4)}
    for number, (layout, resources) in enumerate(layouts.items()):
        name = f"pack{number}"
        run(home, study(name, images, [100, 300], resources), name)
        root = RunDir(home / "runs" / name)
        plan, results = read_json(root.path("plan.json")), root.results()
        seconds = [each.milestones[-1].train_seconds - each.milestones[0].train_seconds for each in results]
        rate = plan["concurrent"] * 200 * 25 * len(seconds) / sum(seconds)
        scores = {(r.arm, r.fold): read_predictions(root.path(r.arm, f"fold{r.fold}", "predictions-300.parquet")).frame
                  for r in results}  # fmt: skip
        first = first or scores
        equal = sum(scores[key].equals(first[key]) for key in first)
        lines.append(
            f"{layout}: {rate:,.0f} images/s in all; {equal} of {len(first)} folds equal to the bit to one fold alone"
        )
        print(lines[-1], flush=True)
    return lines


def whole(home: Path, images: int) -> list[str]:
    seconds = run(home, study("s1", images, [250, 500, 1000], 'folds_per_gpu = "auto"', explain=True), "s1")
    root = RunDir(home / "runs" / "s1")
    plan, session = read_json(root.path("plan.json")), read_json(root.path("sessions.json"))[-1]
    training = sum(each.milestones[-1].train_seconds for each in root.results()) / plan["concurrent"]
    return [
        f"s1 from a cold start: {seconds:.0f} s, training {training:.0f} s ({1 - training / seconds:.0%} is not); "
        f"preparing {session['prepare_seconds']:.0f} s, launch {session['launch_seconds']:.0f} s, "
        f"{plan['folds_per_process']} folds a GPU"
    ]


def agree(home: Path) -> list[str]:
    demo = Path(__file__).parents[1] / "jobs/experiments/demo.toml"
    areas = {}
    for device, resources in (("gpu", []), ("cpu", ["--set", "resources.gpus_per_fold=0.0"])):
        words = [sys.executable, "-m", "cxrtl.cli", "run", str(demo), "--home", str(home), "--json"]
        words += ["--set", f"name=demo-{device}", *resources]
        subprocess.run(words, check=True, capture_output=True)
        summary: dict[str, Any] = read_json(home / f"runs/demo-{device}/summary.json")
        areas[device] = {(row["arm"], row["iterations"]): row["metrics"]["auc"]["value"] for row in summary["rows"]}
    worst = max(abs(areas["gpu"][key] - areas["cpu"][key]) for key in areas["gpu"])
    return [
        f"largest difference of pooled AUC between GPU and CPU on the demo: {worst:.4f}, of {len(areas['gpu'])} rows"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", default=["bench", "packs", "s1", "agree"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU here: torch.cuda.is_available() is False")
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        parts = {
            "bench": lambda: rates(args.rounds),
            "packs": lambda: packs(home, args.images),
            "s1": lambda: whole(home, args.images),
            "agree": lambda: agree(home),
        }
        for name in args.parts:
            lines = parts[name]()
            print("\n".join(lines), flush=True)
            with (args.out / "gpu.md").open("a") as file:
                file.write(f"## {name} ({torch.cuda.get_device_name()})\n" + "".join(f"- {line}\n" for line in lines))


if __name__ == "__main__":
    main()
