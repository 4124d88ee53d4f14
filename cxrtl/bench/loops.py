"""The loops that training is measured beside, each in a process of its own: `python -m cxrtl.bench.loops JSON`.

naive   what a tutorial writes: fp32, channels first, a DataLoader that changes image by image
plain   the best loop without cxrtl's orchestration: the same tensors, number format and layout; on a GPU one graph
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from cxrtl.config import Augment, Train
from cxrtl.learn import backbones, devices, memory, transfer
from cxrtl.learn.augment import IMAGENET_MEAN, IMAGENET_STD, Normalise, draw_pass, resample
from cxrtl.learn.precision import Precision, autocast
from cxrtl.learn.step import Replay

WARM = {"cpu": 2, "cuda": 20}  # steps before the clock starts


@dataclass(frozen=True)
class Task:
    """`steps` are timed; `threads` compute."""

    loop: str
    backbone: str
    batch: int
    size: int
    steps: int
    threads: int
    precision: Precision
    device: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Pictures(Dataset[tuple[Tensor, int]]):
    """Pictures changed one by one, as a tutorial's transforms do: zoomed, shifted, mirrored, normalised."""

    def __init__(self, count: int, size: int) -> None:
        rng = np.random.default_rng(0)
        self.pictures = [Image.fromarray(rng.integers(0, 255, (size, size), dtype=np.uint8), "L") for _ in range(count)]
        self.rng, self.size = rng, size

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        u, side = self.rng.random(5), self.size
        zoom, shift = 0.9 + 0.2 * u[0], (u[1:3] - 0.5) * 0.13 * side
        picture = self.pictures[index].convert("RGB")
        move = (zoom, 0, shift[0], 0, zoom, shift[1])
        picture = picture.transform((side, side), Image.Transform.AFFINE, move, Image.Resampling.BILINEAR)
        for chance, mirror in zip(
            u[3:5], (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM), strict=True
        ):
            picture = picture.transpose(mirror) if chance < 0.5 else picture
        pixels = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) / 255
        mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        return torch.from_numpy((pixels - mean) / std), index % 2


def naive(task: Task, device: torch.device) -> Callable[[], None]:
    model = backbones.build(task.backbone, 2).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(Pictures(8 * task.batch, task.size), task.batch, shuffle=True, drop_last=True)

    def forever() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from loader

    batches = forever()

    def step() -> None:
        inputs, targets = (part.to(device) for part in next(batches))
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def plain(task: Task, device: torch.device) -> Callable[[], None]:
    train = Train(backbone=task.backbone, init="scratch", batch_size=task.batch)
    model: nn.Module = transfer.make_model(train, None, 2, 0, 0, device)
    optimizer = transfer.make_optimizer(train, model, 2)
    count = 8 * task.batch
    pixels = torch.randint(0, 255, (count, 1, task.size, task.size), dtype=torch.uint8, device=device)
    targets = (torch.arange(count) % 2).to(device)
    whole = draw_pass(Augment(), 0, 0, 0, count)
    order, scale, offset = (part.to(device) for part in (whole.order, whole.scale, whole.offset))
    normalise, place, calls = Normalise(device), 0, 0
    batch = order[: task.batch].clone(), scale[: task.batch].clone(), offset[: task.batch].clone()  # stays in place
    model.train()

    def update() -> None:
        chosen, zoom, shift = batch
        inputs = normalise(resample(pixels[chosen].float(), zoom, shift))
        with autocast(task.precision, device):
            logits = model(inputs)
        loss = functional.cross_entropy(logits.float(), targets[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    replay = Replay(device)

    def step() -> None:
        nonlocal place, calls
        for kept, drawn in zip(batch, (order, scale, offset), strict=True):
            kept.copy_(drawn[place : place + task.batch])
        place, calls = (place + task.batch) % count, calls + 1
        replay(update, calls)

    return step


def rate(task: Task) -> float:
    """Images a second over `task.steps`, after a few that are not counted."""
    device = torch.device(task.device)
    torch.set_num_threads(task.threads)
    if task.loop == "plain":
        devices.settle(task.threads)
        memory.keep_freed_memory()
    step = {"naive": naive, "plain": plain}[task.loop](task, device)
    with devices.own_stream(device):
        for _ in range(WARM[device.type]):
            step()
        _wait(device)
        started = time.perf_counter()
        for _ in range(task.steps):
            step()
        _wait(device)
        return task.steps * task.batch / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(rate(Task(**json.loads(sys.argv[1])))))
