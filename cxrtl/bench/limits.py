"""What the machine could do at most: matrix products, memory traffic; and what a network asks of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from cxrtl.learn import backbones
from cxrtl.learn.precision import Precision

_SIDE = {"cpu": 4096, "cuda": 8192}  # of the matrices multiplied
_BYTES = {"cpu": 2**28, "cuda": 2**32}  # copied
_READINGS = 5


def matmul_flops(precision: Precision, device: torch.device) -> float:
    """Floating point operations a second of a large square matrix product: median of several."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    side = _SIDE[device.type]
    left, right = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * side**3 / _seconds(lambda: torch.mm(left, right, out=out), device)


def bandwidth(device: torch.device) -> float:
    """Bytes a second read and written by a copy of a large block: median of several."""
    source = torch.zeros(_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * len(source) / _seconds(lambda: target.copy_(source), device)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    def once() -> float:
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    once()
    return statistics.median(once() for _ in range(_READINGS))


def training_flops(backbone: str, size: int) -> float:
    """Operations of one image's forward and backward pass, counted on shapes alone; a multiply-add is two."""
    with torch.device("meta"):
        model = backbones.build(backbone, 2, device="meta")
        images = torch.empty(2, 3, size, size)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    return float(counter.get_total_flops()) / len(images)
