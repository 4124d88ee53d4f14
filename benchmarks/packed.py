"""Folds side by side in one process on one GPU, without Ray: what they train together.

    python benchmarks/packed.py [--folds 1 2 4 8] [--backbone resnet50] [--steps 500] [--device cuda] [--variant timed]

Each fold trains on a stream and a graph of its own, all on one copy of the images. They wait for each other after
`warm` steps; the rate is all their images over the time from there to the last one's end. Fold 0 must end with the same
weights however many train beside it: their sha256 is printed. `benchmarks/gpu.py --parts loops` adds other loops.
`variant`: what cxrtl does not do, to see what it would gain (`VARIANTS`).
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout, installed or not

import torch

from cxrtl.config import Augment, Train
from cxrtl.learn import devices, loop, memory, precision, state, transfer


@dataclass(frozen=True)
class Variant:
    """`timed`: cuDNN chooses each algorithm by timing, which may choose otherwise the next time; `repeatable`: only
    among those that give the same bits every time; `compiled`: the network through `torch.compile`."""

    timed: bool = False
    repeatable: bool = True
    compiled: bool = False


VARIANTS = {
    "shipped": Variant(),
    "timed": Variant(timed=True),
    "unrepeatable": Variant(repeatable=False),
    "timed-unrepeatable": Variant(timed=True, repeatable=False),
    "compiled": Variant(compiled=True),
}


@dataclass(frozen=True)
class Wish:
    backbone: str = "resnet50"
    batch: int = 25
    size: int = 224
    images: int = 1000
    warm: int = 50
    steps: int = 500
    device: str = "cuda"
    variant: str = "shipped"


@dataclass(frozen=True)
class Found:
    """`rate`: images a second of all folds; `gpu_bytes`: the most that they took of the GPU."""

    folds: int
    rate: float
    sha256: str
    gpu_bytes: int


class Fold:
    """One of those side by side: called with the others' barrier, it gives when it began and ended its timed steps."""

    def __init__(self, wish: Wish, whole: loop.Images, number: int) -> None:
        self.device = whole.pixels.device
        budgets = (wish.warm, wish.warm + wish.steps)
        train = Train(backbone=wish.backbone, init="scratch", batch_size=wish.batch, budgets=budgets)
        train = train.model_copy(update={"checkpoint_every": budgets[-1] + 1})
        form = precision.choose("auto", self.device)
        self.setting = loop.Setting(train, Augment(), 0, number, 2, form, self.device)
        self.model = transfer.make_model(train, None, 2, 0, number, self.device)
        self.net = torch.compile(self.model) if VARIANTS[wish.variant].compiled else self.model
        self.optimizer = transfer.make_optimizer(train, self.model, 2)
        self.images = replace(whole, rows=torch.nonzero(torch.arange(len(whole)) % 10 != number)[:, 0].to(self.device))

    def __call__(self, gate: threading.Barrier) -> tuple[float, float]:
        times: list[float] = []

        def milestone(_: state.State) -> None:
            if not times:
                gate.wait()
            times.append(time.perf_counter())

        with devices.own_stream(self.device):
            loop.fit(self.setting, self.images, self.net, self.optimizer, state.State(), loop.Hooks(milestone))
        return times[0], times[-1]


def measure(wish: Wish, counts: list[int]) -> Iterator[Found]:
    """The folds of each of `counts` at once."""
    device, variant = torch.device(wish.device), VARIANTS[wish.variant]
    devices.settle(1)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = variant.timed, variant.repeatable
    memory.keep_freed_memory()
    drawn = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (wish.images, 1, wish.size, wish.size), dtype=torch.uint8, generator=drawn)
    whole = loop.Images(pixels.to(device), (torch.arange(wish.images) % 2).to(device))
    for count in counts:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        folds = [Fold(wish, whole, number) for number in range(count)]
        times = devices.side_by_side(folds)
        seconds = max(ended for _, ended in times) - min(began for began, _ in times)
        digest = hashlib.sha256(state.Snapshot(folds[0].model).weights()).hexdigest()
        took = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0
        yield Found(count, count * wish.steps * wish.batch / seconds, digest, took)
        del folds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 4, 8])
    choices = {"variant": VARIANTS}
    for name, value in asdict(Wish()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, choices=choices.get(name))
    given = vars(parser.parse_args())
    counts = given.pop("folds")
    for found in measure(Wish(**given), counts):
        print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main()
