"""Which number format training computes in, and where."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["bf16", "fp32"]


def features() -> frozenset[str]:
    """Of what a processor can multiply bf16 matrices with, what this one has: AVX512-BF16, AMX, or ARM's."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return frozenset()
    flags = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "").split()
    return frozenset({"avx512_bf16", "amx_bf16", "bf16"}.intersection(flags))


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(features())


def choose(requested: Literal["auto", "bf16", "fp32"], device: torch.device) -> Precision:
    """The format to use: what was asked for, or for `auto` bf16 where it is native and fp32 elsewhere."""
    if requested != "auto":
        return requested
    return "bf16" if native_bf16(device) else "fp32"


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
