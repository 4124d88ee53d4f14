"""Predicting beside a bare batched loop: the same models on the same images, ratios printed.

    python benchmarks/predict.py runs/effusion ../shared/data/nih-effusion/labels.csv

The loop opens each file with Pillow, resizes it, and gives batches of 64 to each fold's model: no decoder in a process
of its own, no reasons for unusable files, no spread, no table. Both are warmed up; each is measured three times in
turn, and the medians compared.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cxrtl.learn.augment import Normalise
from cxrtl.orchestrate import cluster
from cxrtl.rundir import RunDir
from cxrtl.use.listing import Listed, list_images
from cxrtl.use.model import Trained, best_device, open_trained
from cxrtl.use.predict import BATCH, predict

IMAGES = 1000
TIMES = 3


def bare_loop(trained: Trained, paths: list[str]) -> np.ndarray:
    device = best_device()
    models = [trained.model(fold, device) for fold in trained.trials]
    normalise, size, scores = Normalise(device), trained.how.size, []
    with torch.inference_mode():
        for start in range(0, len(paths), BATCH):
            images = [Image.open(path).convert("L") for path in paths[start : start + BATCH]]
            pixels = np.stack([np.asarray(i.resize((size, size), Image.Resampling.BILINEAR)) for i in images])
            inputs = normalise(torch.from_numpy(pixels)[:, None].to(device).float())
            scores.append(torch.stack([model(inputs).softmax(1) for model in models]).mean(0).cpu())
    return torch.cat(scores).numpy()


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(run: str, *images: str) -> None:
    trained = open_trained(RunDir(Path(run).absolute()))
    listed = list_images([Path(path) for path in images], "image")
    listed = Listed(listed.names[:IMAGES], listed.paths[:IMAGES])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.csv")
        ways: dict[str, Callable[[], object]] = {
            "bare loop": lambda: bare_loop(trained, listed.paths),
            "cxrtl predict": lambda: predict(trained, listed, out),
            "cxrtl predict on Ray": lambda: predict(trained, listed, out, on_ray=True),
        }
        few = Listed(listed.names[:BATCH], listed.paths[:BATCH])
        bare_loop(trained, few.paths)
        predict(trained, few, out)
        with cluster.connect(None, False):
            predict(trained, few, out, on_ray=True)
            found: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(TIMES):
                for name, work in ways.items():
                    found[name].append(seconds(work))
    middle = {name: statistics.median(times) for name, times in found.items()}
    for name, took in middle.items():
        speed = len(listed.names) / took
        print(f"{name:22} {speed:7.1f} images/s   {middle['bare loop'] / took:.2f} x the loop   {sorted(found[name])}")


if __name__ == "__main__":
    main(*sys.argv[1:])
