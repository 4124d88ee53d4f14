"""Images that stay on disk: batches are read by threads while steps run, in the order and to the bits of memory's."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from cxrtl.data.flat import Flat
from cxrtl.learn.augment import Normalise
from cxrtl.learn.setting import PIECE, Images
from cxrtl.learn.state import State
from cxrtl.learn.step import Batch, Batches
from cxrtl.records import IntArray

AHEAD = 4  # batches read, or being read, before they are asked for
Key = TypeVar("Key")


@dataclass(frozen=True)
class Streamed:
    """In place of `Images`: those in the places `rows` `[n]` of a flat file. `labels`: their targets on the training
    device; None of a segmentation, whose masks are each image's last plane."""

    flat: Flat
    rows: IntArray
    labels: Tensor | None
    device: torch.device
    views: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def side(self) -> int:
        """Of an image, in pixels."""
        return self.flat.side

    @property
    def channels(self) -> int:
        return self.flat.planes - (self.labels is None)

    def truth(self) -> Iterator[Tensor]:
        """All targets in order, in pieces."""
        if self.labels is not None:
            yield self.labels
            return
        for start in range(0, len(self), PIECE):
            masks = self.flat.read(self.rows[start : start + PIECE], self.channels)
            yield torch.from_numpy(masks[:, 0])

    def chunks(self, normalise: Normalise, at_once: int) -> Iterator[Tensor]:
        """The model's input in evaluation."""
        wanted = ((None, self.rows[start : start + at_once]) for start in range(0, len(self), at_once))
        for _, read in read_ahead(self.flat, wanted, pin=self.device.type == "cuda"):
            pixels = read.result().to(self.device, non_blocking=True)[:, : self.channels]
            yield normalise(pixels.float())


def read_ahead(
    flat: Flat, wanted: Iterable[tuple[Key, IntArray]], ahead: int = 1, *, pin: bool
) -> Iterator[tuple[Key, Future[Tensor]]]:
    """Each key with the images of its rows, `ahead` of which are being read besides the one given. `pin`: into memory
    that a GPU reads by itself."""

    def read(rows: IntArray) -> Tensor:
        found = torch.from_numpy(flat.read(rows))
        return found.pin_memory() if pin else found

    with ThreadPoolExecutor(ahead) as threads:
        pending: deque[tuple[Key, Future[Tensor]]] = deque()
        for key, rows in wanted:
            pending.append((key, threads.submit(read, rows)))
            if len(pending) > ahead:
                yield pending.popleft()
        yield from pending


class Window:
    """In place of `Batches`: the same batches, whose images are put into `images`, all that a step sees, in time.

    A step's memory stays in place, so that a GPU can replay it. The time that training waits for a read is added to
    `state.data_wait_seconds`; a GPU that still has work queued does not wait.
    """

    def __init__(self, images: Streamed, batches: Batches, state: State) -> None:
        train, device, side = batches.setting.train, images.device, images.flat.side
        size = batches.mine.stop - batches.mine.start
        self.streamed, self.state, self.device = images, state, device
        self.places = torch.arange(size, device=device)
        pixels = torch.zeros((size, images.channels, side, side), dtype=torch.uint8, device=device)
        labels = images.labels
        shape = (side, side) if labels is None else labels.shape[1:]
        kind = torch.uint8 if labels is None else labels.dtype
        targets = torch.zeros((size, *shape), dtype=kind, device=device)
        self.images = Images(pixels, targets)
        order = range(state.iteration, train.budgets[-1])
        wanted = ((batch, images.rows[places]) for batch, places in map(batches.with_places, order))
        self.read = read_ahead(images.flat, wanted, AHEAD, pin=device.type == "cuda")

    def __getitem__(self, iteration: int) -> Batch:
        """Batches come in the order of their iterations, from the state's on."""
        (indices, scale, offset, view), read = next(self.read)
        # whole: a part of it would be copied to memory that a GPU cannot read by itself, and the host would wait
        found = self._wait(read).to(self.device, non_blocking=True)
        channels, labels = self.streamed.channels, self.streamed.labels
        self.images.pixels.copy_(found[:, :channels])
        self.images.targets.copy_(found[:, channels] if labels is None else labels[indices])
        return self.places, scale, offset, view

    def _wait(self, read: Future[Tensor]) -> Tensor:
        started = time.perf_counter()
        found = read.result()
        if self.device.type != "cuda" or torch.cuda.current_stream(self.device).query():
            self.state.data_wait_seconds += time.perf_counter() - started
        return found
