"""How time and memory grow with images, folds, arms and image size: one `cxrtl run` a point, in a process of its own.

    python benchmarks/growth.py FOLDER [--quick]

Phantoms, SqueezeNet 1.1 from scratch, one budget of a few iterations, from images to report. Of each run: the seconds
of its parts as `log.jsonl` tells them, and the peak of the summed proportional set size (PSS) of all its processes,
Ray's object store included, sampled twice a second. One thing grows at a time, the others stay at the base. Writes
`growth.md` and `growth.png` into FOLDER, with the slope of each line: a least-squares fit of seconds, and of memory,
against what grows (image size: against the pixels of the whole set).

The parts, by the first words of the log's lines. `read`: labels, and shards into the memory that folds take theirs
from. `prepare`: Ray's start, drawing and writing. `look`: duplicates, look-alikes, shortcuts. `train`: images into the
folds, training, scoring each image once an arm, saving. `report`: intervals, tests, figures. `start`: all else, such as
Python, folds, the probe.
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
from datetime import datetime
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
PARTS = {"reading": "read", "preparing": "prepare", "looking": "look", "training": "train", "ended": "report"}
SECONDS = (*PARTS.values(), "start")
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
        found = parts(home / "runs" / "growth")
    return {**found, "start": seconds - sum(found.values()), "memory": peak / 2**20}


def parts(run: Path) -> dict[str, float]:
    """Seconds of each of `PARTS`: from the line that begins it to the next, and from the last to the report."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    times = [datetime.fromisoformat(line["time"]).timestamp() for line in lines]
    times.append((run / "report.html").stat().st_mtime)
    found = dict.fromkeys(PARTS.values(), 0.0)
    for line, begin, end in zip(lines, times[:-1], times[1:], strict=True):
        part = PARTS.get(line.get("text", line["event"]).split()[0])
        if part:
            found[part] += end - begin
    return found


def against(what: str, point: dict[str, int]) -> float:
    """What the slope is per."""
    return point["images"] * point["size"] ** 2 / 1e6 if what == "size" else point[what]


def slopes(what: str, rows: list[tuple[dict[str, int], dict[str, float]]]) -> str:
    x = np.array([against(what, point) for point, _ in rows])
    fits = {name: np.polyfit(x, [found[name] for _, found in rows], 1)[0] for name in rows[0][1]}
    kib = 1024 * fits.pop("memory")
    seconds = ", ".join(f"{name} {1000 * slope:.2g} ms" for name, slope in fits.items())
    return f"each more {UNITS[what]}: {seconds}; {kib:,.0f} KiB"


def draw(path: Path, found: dict[str, list[tuple[dict[str, int], dict[str, float]]]]) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(found), figsize=(3 * len(found), 5), layout="constrained")
    for (what, rows), (above, below) in zip(found.items(), axes.T, strict=True):
        x = [point[what] for point, _ in rows]
        for name in SECONDS:
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
    heads = ["grows", "images", "folds", "arms", "px", *(f"{name}, s" for name in SECONDS), "peak, MiB"]
    found: dict[str, list[tuple[dict[str, int], dict[str, float]]]] = {}
    notes, lines = [], [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for what, values in (QUICK if args.quick else GRIDS).items():
        rows = found[what] = []
        for value in values:
            point = {**BASE, **SMALL.get(what, {}), what: value}
            each = measure(point)
            rows.append((point, each))
            numbers = " | ".join(f"{each[name]:.1f}" for name in SECONDS) + f" | {each['memory']:.0f} |"
            lines.append(f"| {what} | " + " | ".join(f"{point[name]}" for name in BASE) + f" | {numbers}")
            print(lines[-1], flush=True)
        notes.append(f"- {slopes(what, rows)}")
        print(notes[-1], flush=True)
    (args.folder / "growth.md").write_text("\n".join([*lines, "", *notes]) + "\n")
    draw(args.folder / "growth.png", found)


if __name__ == "__main__":
    main()
