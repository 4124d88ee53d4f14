"""One fold on one device: its threads, its stream, its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def settle(threads: int) -> None:
    """Make this process compute with so many threads, and repeatably."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """On a GPU, a queue of its own for what this thread computes: folds in one process do not wait for each other."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)  # what is there already, such as the images, is complete
    with torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
        yield


def name(device: torch.device) -> str:
    """The GPU's model, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
