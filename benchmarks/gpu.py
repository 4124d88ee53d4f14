"""Everything that needs a GPU: rates, folds side by side, the whole study `s1`, and agreement with the CPU.

    python benchmarks/gpu.py --out FOLDER [--parts loops bench packs s1 agree] [--rounds 5] [--images 1000]

    loops   without Ray: what the GPU can do; 1, 2, 4 and 8 folds of ResNet-50, batch 25, 224 px in one process
            (`benchmarks/packed.py`); what one would gain where cuDNN times its algorithms, or need not repeat its bits,
            or torch compiles the network; the best plain loop and a tutorial's. Beside torch and torchvision that
            needs pandas, pillow, pyarrow, pydantic, safetensors, scikit-learn and scipy
    bench   `cxrtl bench` for the same, one fold on the GPU
    packs   1, 2, 4 and 8 folds in one process and as many processes on shares of the GPU, in real runs of eight folds;
            predictions of packed folds against those of unpacked ones
    s1      the recipe of study s1 on 1,000 phantom images at 224 px from a cold start: ten folds × 250, 500 and 1000
            iterations with evaluation, checkpoints, Grad-CAM and the report; and which part of it is not training
    agree   pooled AUC of the demo on the GPU and on the CPU, trained to the end: its own 80 iterations leave it to the
            last bits (0.935 and 0.98 on two CPUs), after 320 one CPU gives 0.9995

Each line is printed and added to FOLDER/gpu.md as it comes, its figures with machine, versions and command to
FOLDER/gpu.json. A part that cannot run says why; the others are done all the same, and the end is then an error.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout, installed or not; for what this starts, too
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

STUDY = """
name = "{name}"
[data]
source = "phantom"
positive = "effusion"
image_size = 224
phantom_patients = {patients}
phantom_images_per_patient = 2
[folds]
k = {folds}
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


class Failed(Exception):
    """A part cannot go on."""


class Record:
    """What was found, kept line by line."""

    def __init__(self, folder: Path, gpu: str) -> None:
        import torch

        from cxrtl.orchestrate import environment

        folder.mkdir(parents=True, exist_ok=True)
        self.text, self.data = folder / "gpu.md", folder / "gpu.json"
        self.sessions: list[dict[str, Any]] = json.loads(self.data.read_text()) if self.data.exists() else []
        cuda = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        self.session = {
            "command": shlex.join(["python", *sys.argv]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": {**environment.describe(gpu), **cuda},
            "lines": [],
        }
        self.sessions.append(self.session)
        known = self.session["environment"]
        packages = ", ".join(f"{name} {known[name]}" for name in ("python", "torch", "cuda", "cudnn", "ray", "commit"))
        self._add(f"\n## {gpu}, {self.session['date']}\n`{self.session['command']}` ({packages})\n\n")

    def _add(self, text: str) -> None:
        with self.text.open("a") as file:
            file.write(text)
        self.data.write_text(json.dumps(self.sessions, indent=1))

    def __call__(self, part: str, line: str, **figures: Any) -> None:
        print(f"{part}: {line}", flush=True)
        self.session["lines"].append({"part": part, "line": line, **figures})
        self._add(f"- {part}: {line}\n")


def call(words: list[str]) -> str:
    """Output of a Python command. Raises Failed with its last words."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"`python {shlex.join(words)}` failed:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
    return done.stdout


def run(home: Path, name: str, images: int, folds: int, budgets: list[int], resources: str, explain: bool) -> float:
    """Seconds of a study's command, from its start to its report."""
    path = home / f"{name}.toml"
    knobs = {"name": name, "patients": images // 2, "folds": folds, "budgets": budgets, "resources": resources}
    path.write_text(STUDY.format(**knobs, explain=str(explain).lower()))
    started = time.perf_counter()
    call(["-m", "cxrtl.cli", "run", str(path), "--home", str(home), "--json"])
    return time.perf_counter() - started


def loops(say: Callable[..., None], args: argparse.Namespace) -> None:
    import torch
    from packed import VARIANTS, Wish, measure

    from cxrtl.bench import limits
    from cxrtl.bench.loops import Task

    wish = Wish(args.backbone, args.batch, args.size, args.images, args.warm, args.steps, args.device)
    device = torch.device(wish.device)
    flops = limits.training_flops(wish.backbone, wish.size)
    peak, moved = limits.matmul_flops("bf16", device), limits.bandwidth(device)
    figures = {"peak_flops": peak, "bandwidth_bytes": moved, "flop_per_image": flops}
    say(f"{peak / 1e12:.1f} TFLOP/s in bf16, {moved / 1e9:,.0f} GB/s; {flops / 1e9:.2f} GFLOP an image", **figures)
    first = None
    for found in measure(wish, args.folds):
        first = first or found
        same = "equal" if found.sha256 == first.sha256 else "NOT EQUAL"
        say(
            f"{found.folds} in one process: {found.rate:,.0f} images/s in all ({found.rate / first.rate:.2f} × that of "
            f"{first.folds}), {found.rate * flops / peak:.1%} of the peak, {found.gpu_bytes / 2**30:.1f} GiB; weights "
            f"of fold 0 {same} to those of {first.folds}",
            **asdict(found),
        )
    assert first
    for variant in list(VARIANTS)[1:]:
        words = [str(ROOT / "benchmarks/packed.py"), "--folds", "1"]
        for name, value in asdict(replace(wish, variant=variant)).items():
            words += [f"--{name}", str(value)]
        try:
            rate = json.loads(call(words))["rate"]
        except Failed as error:  # nothing that cxrtl does
            say(f"one, {variant}: not to be had here: {error}", variant=variant)
            continue
        say(f"one, {variant}: {rate:,.0f} images/s, {rate / first.rate:.2f} × as shipped", variant=variant, rate=rate)
    for name, form, steps in (("plain", "bf16", wish.steps), ("naive", "fp32", max(2, wish.steps // 10))):
        task = Task(name, wish.backbone, wish.batch, wish.size, steps, os.cpu_count() or 1, form, wish.device)
        rate = float(json.loads(call(["-m", "cxrtl.bench.loops", task.to_json()])))
        say(f"{name} loop: {rate:,.0f} images/s; {first.folds} in one process {first.rate / rate:.2f} ×", rate=rate)


def bench(say: Callable[..., None], args: argparse.Namespace) -> None:
    from cxrtl.bench import bench

    found = bench.measure(bench.Wish(rounds=args.rounds, folds_per_gpu=1), print)
    for name, rate in found["images_per_second"].items():
        say(f"{name}: {rate:,.0f} images/s, {found['share_of_peak'][name]:.1%} of the matmul peak", rate=rate)
    ratios = f"over naive {found['over_naive']:.2f} ×, over best plain {found['over_best_plain']:.2f} ×"
    say(ratios, found=found)


def packs(say: Callable[..., None], args: argparse.Namespace) -> None:
    from cxrtl.rundir import RunDir, read_json, read_predictions

    budgets, first = [100, 600], None
    steps = budgets[1] - budgets[0]
    layouts = {f"{n} in one process": f"folds_per_gpu = {n}" for n in (1, 2, 4, 8)}
    layouts |= {f"{n} processes": f"gpus_per_fold = {1 / n}\ncpus_per_fold = 1" for n in (2, 4)}
    with tempfile.TemporaryDirectory() as folder:
        for number, (layout, resources) in enumerate(layouts.items()):
            name, home = f"pack{number}", Path(folder)
            run(home, name, args.images, 8, budgets, resources, False)  # eight: each layout's packs are whole
            root = RunDir(home / "runs" / name)
            plan, results = read_json(root.path("plan.json")), root.results()
            seconds = [each.milestones[-1].train_seconds - each.milestones[0].train_seconds for each in results]
            rate = plan["concurrent"] * steps * 25 * len(seconds) / sum(seconds)
            scores = {}
            for each in results:
                path = root.path(each.arm, f"fold{each.fold}", f"predictions-{budgets[-1]}.parquet")
                scores[each.fold] = read_predictions(path).frame
            first = first or scores
            equal = sum(scores[key].equals(first[key]) for key in first)
            text = f"{layout}: {rate:,.0f} images/s in all; {equal} of {len(first)} folds equal to the bit to one alone"
            say(text, layout=layout, rate=rate, seconds=seconds, equal=equal)


def s1(say: Callable[..., None], args: argparse.Namespace) -> None:
    from cxrtl.orchestrate.plan import makespan
    from cxrtl.rundir import RunDir, read_json

    with tempfile.TemporaryDirectory() as folder:
        resources = 'folds_per_gpu = "auto"'
        seconds = run(Path(folder), "s1", args.images, 10, [250, 500, 1000], resources, True)
        root = RunDir(Path(folder) / "runs" / "s1")
        plan, session = read_json(root.path("plan.json")), read_json(root.path("sessions.json"))[-1]
        each = [r.milestones[-1].train_seconds for r in sorted(root.results(), key=lambda result: result.fold)]
    many = plan["folds_per_process"]
    longest = [max(each[first : first + many]) for first in range(0, len(each), many)]  # of each pack
    training = makespan(longest, -(-plan["concurrent"] // many))
    say(
        f"from a cold start {seconds:.0f} s, training {training:.0f} s ({1 - training / seconds:.0%} is not); "
        f"preparing {session['prepare_seconds']:.0f} s, launch {session['launch_seconds']:.0f} s, {many} folds a GPU",
        seconds=seconds,
        training=training,
        session=session,
        folds=each,
    )


def agree(say: Callable[..., None], args: argparse.Namespace) -> None:
    from cxrtl.rundir import read_json

    demo, areas = ROOT / "jobs/experiments/demo.toml", {}
    with tempfile.TemporaryDirectory() as home:
        for device, resources in (("gpu", []), ("cpu", ["--set", "resources.gpus_per_fold=0.0"])):
            words = ["-m", "cxrtl.cli", "run", str(demo), "--home", home, "--json", "--set", f"name=demo-{device}"]
            call([*words, "--set", "train.budgets=[80, 320]", *resources])
            rows = read_json(Path(home) / f"runs/demo-{device}/summary.json")["rows"]
            areas[device] = {(row["arm"], row["iterations"]): row["metrics"]["auc"]["value"] for row in rows}
    last = max(iterations for _, iterations in areas["gpu"])
    for (arm, iterations), area in areas["gpu"].items():
        apart = abs(area - areas["cpu"][arm, iterations])
        verdict = f": {'within' if apart <= 0.01 else 'MORE than'} 0.01" if iterations == last else ""
        text = (
            f"{arm} at {iterations}: pooled AUC {area:.4f} on the GPU, {areas['cpu'][arm, iterations]:.4f} on the CPU"
        )
        say(f"{text}, {apart:.4f} apart{verdict}", arm=arm, iterations=iterations, apart=apart)


def missing() -> str:
    """What cxrtl needs and is not installed."""
    import tomllib

    words = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lacking = []
    for name in (word.partition(">")[0].partition("[")[0] for word in words):
        try:
            version(name)
        except PackageNotFoundError:
            lacking.append(name)
    return ", ".join(lacking) or "none"


PARTS = {"loops": loops, "bench": bench, "packs": packs, "s1": s1, "agree": agree}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    only = parser.add_argument_group("of `loops`")
    only.add_argument("--folds", type=int, nargs="+", default=[1, 2, 4, 8])
    only.add_argument("--backbone", default="resnet50")
    for name, value in (("batch", 25), ("size", 224), ("warm", 50), ("steps", 500)):
        only.add_argument(f"--{name}", type=int, default=value)
    only.add_argument("--device", default="cuda", help="cpu: to try the script out")
    args = parser.parse_args()
    try:
        import torch

        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
        if not gpu and (args.device == "cuda" or args.parts != ["loops"]):
            sys.exit("no GPU here: torch.cuda.is_available() is False")
        record = Record(args.out, gpu or "no GPU")
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name!r} cannot be imported. Of what cxrtl needs, not installed: {missing()}")
    failed = []
    for name in args.parts:
        try:
            PARTS[name](lambda line, name=name, **figures: record(name, line, **figures), args)
        except ModuleNotFoundError as error:
            record(name, f"not done: {error.name!r} cannot be imported. Not installed: {missing()}")
            failed.append(name)
        except Exception as error:
            record(name, f"not done: {type(error).__name__}: {error}")
            failed.append(name)
    if failed:
        sys.exit(f"not done: {', '.join(failed)}")


if __name__ == "__main__":
    main()
