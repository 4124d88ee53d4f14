"""Frozen layers computed once, against fine-tuning the same backbone for the same iterations.

    python benchmarks/frozen.py [--data ../shared/data] [--backbone squeezenet1_1] [--budgets 250 500 1000]

SqueezeNet 1.1 with its ImageNet weights (`--backbone`: another, from random weights drawn once; they cost the same) on
nih-effusion at 224 px, without augmentation, on one thread and without Ray, fold after fold. The frozen side is run in
full: features computed, written, read back with their sha256, every head trained and scored at each budget. The
fine-tuned side is timed over `--steps` real steps and one real scoring, and multiplied up. Heads are compared, over
`--check` iterations of two folds, with those trained through the whole model.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import safetensors.torch
import torch

from cxrtl import config
from cxrtl.config import Augment, Train
from cxrtl.console import Screen
from cxrtl.data import folds, prepared
from cxrtl.learn import backbones, features, freeze, loop, memory, precision, state, transfer, weights
from cxrtl.orchestrate import study
from cxrtl.records import Prepared

CPU = torch.device("cpu")
STILL = Augment.model_validate({name: 0 for name in Augment.model_fields if name.endswith("_probability")})
Banked = tuple[torch.Tensor, torch.Tensor]


class Bench:
    """The images in memory, their folds, and the weights to start from."""

    def __init__(self, args: argparse.Namespace, home: Path) -> None:
        raw = {
            "name": "frozen",
            "data": {"source": "table", "path": str(args.data / "nih-effusion/labels.csv"), "image_size": args.size}
            | {"label_column": "finding", "positive": "effusion"},
            "folds": {"k": args.folds, "ungrouped": True},
        }
        experiment = config.parse(raw)
        with ExitStack() as stack:
            session = study.Session(study.Options(home, ""), stack)
            found = study.prepare(experiment.data, home, session, Screen(as_json=True))
        self.pixels, self.targets = _images(found)
        self.fold = folds.make_folds(prepared.read_index(found), found, experiment.folds).frame["fold"].to_numpy()
        file = args.data / f"weights/{args.backbone}-imagenet-features.safetensors"
        if not file.exists():
            file = home / "drawn.safetensors"
            safetensors.torch.save_file(backbones.build(args.backbone, 2).state_dict(), file)
        self.train = Train(backbone=args.backbone, init=f"file:{file}", freeze="backbone", budgets=args.budgets)
        self.start = weights.find(self.train)
        self.precision = precision.choose(args.precision, CPU)

    def images(self, wanted: np.ndarray[tuple[int], np.dtype[np.bool_]], bank: Banked | None) -> loop.Images:
        found = features.part_of(*bank, np.flatnonzero(wanted)) if bank else None
        return loop.Images(self.pixels[wanted], self.targets[wanted], None, found)

    def bank(self, folder: Path) -> Banked:
        """Features as a run has them: through the disk, checked."""
        body = freeze.split(self.train, transfer.make_model(self.train, self.start, 2, 0, 0, CPU), 2).body
        assert body is not None
        folder.mkdir(exist_ok=True)
        found = features.compute(body, self.pixels, None, "fp32", CPU)
        features.finish(folder, {}, features.write_part(folder, "part.safetensors", found))
        read = features.read(folder, {})
        assert read is not None
        views = features.rounded(read) if self.precision == "bf16" else read
        return features.on_device(read, CPU), features.on_device(views, CPU)

    def fit(self, train: Train, fold: int, bank: Banked | None, times: list[float] | None = None) -> torch.Tensor:
        """Scores `[budgets, held-out images]` of one fold; `times` takes the seconds of each step."""
        model = transfer.make_model(train, self.start, 2, 0, fold, CPU)
        net = features.net(train, model, 2, "binary", bank is not None)
        setting = loop.Setting(train, STILL, 0, fold, 2, self.precision, CPU)
        test, scores, marks = self.images(self.fold == fold, bank), [], [0.0]

        def save(at: state.State) -> None:
            if times is not None:
                times.append(at.train_seconds - marks[-1])
                marks.append(at.train_seconds)

        hooks = loop.Hooks(lambda _: scores.append(loop.predict(setting, test, net)[:, 1]), save, lambda _: None)
        images, optimizer = self.images(self.fold != fold, bank), transfer.make_optimizer(train, model, 2)
        loop.fit(setting, images, net, optimizer, state.State(), hooks)
        return torch.stack(scores)


def _images(found: Prepared) -> tuple[torch.Tensor, torch.Tensor]:
    tables = [pq.read_table(path, columns=["pixels", "target"]) for path in prepared.shard_paths(found)]
    joined = np.frombuffer(bytearray(b"".join(b"".join(t["pixels"].to_pylist()) for t in tables)), np.uint8)
    targets = np.concatenate([t["target"].to_numpy() for t in tables]).astype("int64")
    return torch.from_numpy(joined.reshape(-1, 1, found.image_size, found.image_size)), torch.from_numpy(targets)


def _fine_tuning(bench: Bench, steps: int) -> tuple[float, float]:
    """Seconds of a step, and of scoring one fold, both of the whole model."""
    tuned = bench.train.model_copy(update={"freeze": "none", "budgets": (steps + 4,), "checkpoint_every": 1})
    times: list[float] = []
    bench.fit(tuned, 0, None, times)
    setting = loop.Setting(tuned, STILL, 0, 0, 2, bench.precision, CPU)
    model, started = transfer.make_model(tuned, bench.start, 2, 0, 0, CPU), time.perf_counter()
    loop.predict(setting, bench.images(bench.fold == 0, None), model)
    return statistics.median(times[3:]), time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--backbone", default="squeezenet1_1")
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--budgets", type=int, nargs=3, default=(250, 500, 1000))
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--check", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    memory.keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        step, scoring = _fine_tuning(bench, args.steps)
        started = time.perf_counter()
        bank = bench.bank(Path(folder) / "features")
        computing = time.perf_counter() - started
        for fold in range(args.folds):
            bench.fit(bench.train, fold, bank)
        frozen = time.perf_counter() - started
    short = bench.train.model_copy(update={"budgets": (args.check // 2, args.check)})
    apart = max(float((bench.fit(short, f, bank) - bench.fit(short, f, None)).abs().max()) for f in (0, 1))
    tuned = args.folds * (step * args.budgets[-1] + scoring * len(args.budgets))
    per_head = (frozen - computing) / (args.folds * args.budgets[-1])
    print(
        f"{args.backbone}, {len(bench.targets)} images of {args.size} px, {args.folds} folds, "
        f"budgets {list(args.budgets)}, batches of {bench.train.batch_size}, {bench.precision}, one thread\n"
        f"frozen: {frozen:.1f} s in all: features {computing:.1f} s, then {1000 * per_head:.2f} ms an iteration with "
        f"scoring\nfine-tuned: {tuned:.0f} s, from {args.steps} real steps of {1000 * step:.0f} ms "
        f"({bench.train.batch_size / step:.0f} images/s) and scoring a fold in {scoring:.2f} s\n"
        f"ratio {tuned / frozen:.0f}; largest difference of scores to heads trained through the whole model, 2 folds, "
        f"{args.check} iterations: {apart:.1e}"
    )


if __name__ == "__main__":
    main()
