"""How time and memory grow with images, folds, arms and image size: one `cxrtl run` a point, in a process of its own.

    python benchmarks/growth.py FOLDER [--quick]

Phantoms, SqueezeNet 1.1 from scratch, one budget of a few iterations, from images to report. Of each run: seconds to
prepare, seconds of all the rest, and the peak of the summed proportional set size (PSS) of all its processes, Ray's
object store included, sampled twice a second. One thing grows at a time, the others stay at the base. Writes
`growth.md` and `growth.png` into FOLDER, with the slope of each line: a least-squares fit of seconds, and of memory,
against what grows (image size: against the pixels of the whole set).

What the slopes consist of. Images: drawing or decoding, the read into each fold, the scoring of the held-out folds; in
memory, the pixels, once in the object store and once in each process that trains, until they stream. Folds and arms:
one training each with its launch, evaluation, files and place in the report; memory stays, as processes are used again.
Pixels: as images, and each step's arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import matplotlib as mpl
import numpy as np
from prepare import MARK, pss

BASE = {"images": 1000, "folds": 2, "arms": 1, "size": 64}
GRIDS = {
    "images": (1000, 10_000, 100_000),
    "folds": (2, 10, 50),
    "arms": (1, 10, 50),
    "size": (64, 128, 256, 512),
}
QUICK = {"images": (500, 2000), "folds": (2, 4), "arms": (1, 3), "size": (32, 64)}
SMALL = {"folds": {"images": 500, "size": 32}, "arms": {"images": 200, "size": 32}, "size": {"images": 400}}
UNITS = {"images": "image", "folds": "fold", "arms": "arm", "size": "megapixel"}

EXPERIMENT = """
name = "growth"
[data]
source = "phantom"
positive = "effusion"
image_size = {size}
phantom_patients = {patients}
phantom_images_per_patient = 2
[folds]
k = {folds}
[train]
backbone = "squeezenet1_1"
init = "scratch"
budgets = [4]
batch_size = 8
[resources]
cpus_per_fold = 1
"""
ARM = '[[arm]]\nname = "arm{number}"\ntrain = {{ rate = {rate} }}\n'


def measure(point: dict[str, int]) -> dict[str, float]:
    """One run from images to report."""
    with tempfile.TemporaryDirectory() as scratch:
        home, toml, mark = Path(scratch), Path(scratch, "growth.toml"), uuid.uuid4().hex
        text = EXPERIMENT.format(**point, patients=point["images"] // 2)
        toml.write_text(text + "".join(ARM.format(number=n, rate=(n + 1) * 1e-4) for n in range(point["arms"])))
        words = [sys.executable, "-m", "cxrtl.cli", "run", str(toml), "--home", scratch]
        started, peak = time.perf_counter(), 0
        with Path(scratch, "log").open("w") as log:
            process = subprocess.Popen(words, env={**os.environ, MARK: mark}, stdout=log, stderr=log)
        while process.poll() is None:
            peak = max(peak, pss(mark))
            time.sleep(0.5)
        seconds = time.perf_counter() - started
        if process.returncode:
            sys.exit(Path(scratch, "log").read_text())
        prepared = json.loads((home / "runs" / "growth" / "sessions.json").read_text())[-1]["prepare_seconds"]
    return {"prepare": prepared, "rest": seconds - prepared, "memory": peak / 2**20}


def against(what: str, point: dict[str, int]) -> float:
    """What the slope is per."""
    return point["images"] * point["size"] ** 2 / 1e6 if what == "size" else point[what]


def slopes(what: str, rows: list[tuple[dict[str, int], dict[str, float]]]) -> str:
    x = np.array([against(what, point) for point, _ in rows])
    fits = {name: np.polyfit(x, [found[name] for _, found in rows], 1)[0] for name in ("prepare", "rest", "memory")}
    return (
        f"{1000 * fits['prepare']:.3g} ms of preparing, {1000 * fits['rest']:.3g} ms of the rest, "
        f"{1024 * fits['memory']:.3g} KiB, each more {UNITS[what]}"
    )


def draw(path: Path, found: dict[str, list[tuple[dict[str, int], dict[str, float]]]]) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(found), figsize=(3 * len(found), 5), layout="constrained")
    for (what, rows), (above, below) in zip(found.items(), axes.T, strict=True):
        x = [point[what] for point, _ in rows]
        for name in ("prepare", "rest"):
            above.plot(x, [each[name] for _, each in rows], marker="o", label=name)
        below.plot(x, [each["memory"] for _, each in rows], marker="o", color="black")
        below.set_xlabel("image size, px" if what == "size" else what)
        for axis, label in ((above, "seconds"), (below, "peak memory, MiB")):
            axis.set(xscale="log", ylabel=label, ylim=(0, None))
            axis.set_xticks(x, [f"{value:,}" for value in x])
            axis.minorticks_off()
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="two small points of each")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    found, lines = {}, ["| grows | images | folds | arms | px | prepare, s | rest, s | peak, MiB |", "|---" * 8 + "|"]
    notes = []
    for what, values in (QUICK if args.quick else GRIDS).items():
        rows = found[what] = []
        for value in values:
            point = {**BASE, **SMALL.get(what, {}), what: value}
            each = measure(point)
            rows.append((point, each))
            numbers = f"{each['prepare']:.1f} | {each['rest']:.1f} | {each['memory']:.0f} |"
            lines.append(f"| {what} | " + " | ".join(f"{point[name]}" for name in BASE) + f" | {numbers}")
            print(lines[-1], flush=True)
        notes.append(f"- {what}: {slopes(what, rows)}")
        print(notes[-1], flush=True)
    (args.folder / "growth.md").write_text("\n".join([*lines, "", *notes]) + "\n")
    draw(args.folder / "growth.png", found)


if __name__ == "__main__":
    main()
