"""What a run ran on, for the report: versions and machine, nothing that names a person, host or path."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("cxrtl", "torch", "torchvision", "ray", "numpy", "pandas", "pyarrow", "pillow", "scikit-learn")


def describe(gpu: str) -> dict[str, str | float]:
    """Flat names and values; `gpu` is the device's name, "" where none is used."""
    facts: dict[str, str | float] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:  # a job's working directory, not installed
            facts[package] = "not installed as a package"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts |= {
        "processor": _processor(),
        "cores": float(os.cpu_count() or 0),
        "memory_gib": round(memory / 2**30, 1),
        "gpu": gpu or "none",
        "commit": _commit(),
    }
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    """The source's git commit, with `+` where it has been changed since; "unknown" outside a checkout."""
    here = Path(__file__).parent
    try:
        ask = ["git", "-C", str(here), "describe", "--always", "--abbrev=12", "--dirty=+"]
        done = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"
