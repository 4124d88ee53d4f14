"""How long training waits for images that stream from disk, and how fast those of a fold come into memory.

    python benchmarks/streaming.py [--images 20000] [--size 224] [--steps 100] [--rounds 5]

A flat file of as many phantoms (a few hundred, each with noise of its own) is written, its pages are dropped from the
page cache where the system allows it, and SqueezeNet 1.1 trains on it with one thread, batch 25; the same batches from
memory alternate with it. Prints a step's seconds from disk and from memory, and the share of the former that was spent
waiting (≤ 3 % wanted). Then 1,000 phantoms are prepared, and what a fold's process does to get them out of the object
store is timed (≤ 0.5 s wanted).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
import torch

from cxrtl.config import Augment, Data, Train
from cxrtl.data import feed, manifest, phantom
from cxrtl.data.flat import Flat
from cxrtl.data.prepare import prepare
from cxrtl.learn import devices, loop, memory, precision, state, transfer
from cxrtl.orchestrate import cluster

CPU = torch.device("cpu")
DRAWN = 200


def write(path: Path, images: int, size: int) -> Flat:
    drawn = [phantom.draw(0, number, number % 2 == 1, number, size) for number in range(DRAWN)]
    rng = np.random.default_rng(0)
    with path.open("wb") as out:
        for number in range(images):
            out.write((drawn[number % DRAWN] ^ rng.integers(0, 4, (size, size), dtype=np.uint8)).tobytes())
        out.flush()
        os.fsync(out.fileno())
    return Flat(path, 1, size)


def drop(path: Path) -> None:
    """Asks the kernel to forget the file's pages."""
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def train(images: loop.Images | loop.Streamed, steps: int) -> tuple[float, float]:
    """Seconds a step, and of it waiting."""
    recipe = Train(backbone="squeezenet1_1", init="scratch", budgets=(steps,), checkpoint_every=steps + 1)
    setting = loop.Setting(recipe, Augment(), 0, 0, 2, precision.choose("auto", CPU), CPU)
    model = transfer.make_model(recipe, None, 2, 0, 0, CPU)
    at = state.State()
    hooks = loop.Hooks(lambda _: None, lambda _: None, lambda _: None)
    loop.fit(setting, images, model, transfer.make_optimizer(recipe, model, 2), at, hooks)
    return at.train_seconds / steps, at.data_wait_seconds / steps


def stream(folder: Path, images: int, size: int, steps: int, rounds: int) -> None:
    flat = write(folder / "pixels.u8", images, size)
    labels = torch.arange(images) % 2
    streamed = loop.Streamed(flat, np.arange(images), labels, CPU)
    held = min(images, 2000)  # as many do for a step's time from memory
    resident = loop.Images(torch.from_numpy(flat.read(np.arange(held))), labels[:held])
    train(resident, 5)  # libraries warm up
    rows = []
    for number in range(rounds):
        drop(flat.path)
        plain = train(resident, steps)[0] if number % 2 else 0.0
        step, wait = train(streamed, steps)
        plain = plain or train(resident, steps)[0]
        rows.append((step, wait, wait / step, plain))
        print(f"round {number}: {step:.4f} s a step from disk, of it waiting {wait:.5f} s; {plain:.4f} s from memory")
    step, wait, share, plain = (statistics.median(column) for column in zip(*rows, strict=True))
    print(
        f"median: {images} images of {size} px ({flat.path.stat().st_size / 1e9:.2f} GB), batch 25: {step:.4f} s a "
        f"step, waiting {wait:.5f} s, share {share:.2%}; from memory {plain:.4f} s (ratio {step / plain:.3f})"
    )


def resident(folder: Path, images: int, size: int, rounds: int) -> None:
    data = Data(source="phantom", phantom_patients=images // 2, phantom_images_per_patient=2, image_size=size)
    with cluster.connect("local", verbose=False):
        made = prepare(manifest.build(data, b""), data, folder / "prepared")
        blocks, tested = feed.images(made), np.arange(made.images) % 10 == 0
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            feed.collect(ray.get(blocks), made, [~tested, tested])
            seconds.append(time.perf_counter() - started)
    print(f"{made.images} images of {size} px from the object store: {statistics.median(seconds):.3f} s (median)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    devices.settle(1)
    memory.keep_freed_memory()
    with tempfile.TemporaryDirectory() as scratch:
        stream(Path(scratch), args.images, args.size, args.steps, args.rounds)
        resident(Path(scratch), 1000, args.size, args.rounds)


if __name__ == "__main__":
    main()
