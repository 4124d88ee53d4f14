"""A small study, run as a user would: the command line in its own process, with a Ray of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from cxrtl.cli import app
from cxrtl.rundir import read_predictions

SMALL = """
name = "small"
[data]
source = "phantom"
positive = "effusion"
image_size = 32
phantom_patients = 24
[folds]
k = 2
[train]
backbone = "mobilenet_v3_small"
init = "scratch"
budgets = [20, 100]
batch_size = 8
rate = 1e-2
checkpoint_every = 10
precision = "fp32"  # `auto` goes by what is quicker at the moment
[resources]
cpus_per_fold = 1
"""


def experiment(folder: Path, extra: str = "") -> Path:
    path = folder / "small.toml"
    path.write_text(SMALL + extra)
    return path


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "cxrtl.cli", *map(str, words)]


UNWANTED = ("RAY_ADDRESS", "CXRTL_HOME")  # would lead to somebody else's Ray; the runs below count on two CPUs


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in UNWANTED}


def cxrtl(*words: str | Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), capture_output=True, text=True, timeout=timeout, check=False, env=environment()
    )


def here(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """As `cxrtl`, in this process, which has torch and Ray imported: for what ends before a Ray is needed.

    An error that is not ours is raised here, as it is.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in UNWANTED:
            patch.delenv(name, raising=False)
        done = CliRunner().invoke(app, [*map(str, words)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)


def start(*words: str | Path, log: Path) -> subprocess.Popen[str]:
    with log.open("w") as file:
        return subprocess.Popen(command(*words), stdout=file, stderr=file, text=True, env=environment())


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120) -> Any:
    """What `condition` gives once it gives something; fails where the process ends or time runs out first."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        assert process.poll() is None, "the run ended before the moment to disturb it came"
        time.sleep(0.02)
    raise AssertionError("the moment to disturb the run did not come")


def training(home: Path, fold: int = 0, beyond: int = 20) -> dict[str, Any] | None:
    """What a fold says of itself once it has saved a state past `beyond` iterations and is not done."""
    folder = home / "runs" / "small" / "mobilenet_v3_small" / f"fold{fold}"
    try:
        saved = json.loads((folder / "state.json").read_text())
        beat: dict[str, Any] = json.loads((folder / "progress.json").read_text())
    except (OSError, ValueError):
        return None
    return beat if saved["iteration"] > beyond and not (folder / "result.json").exists() else None


def scores(home: Path) -> dict[str, pd.DataFrame]:
    """Every trial's predictions at every budget, by path within the run."""
    root = home / "runs" / "small"
    found = sorted(root.glob("*/fold*/predictions-*.parquet"))
    return {str(path.relative_to(root)): read_predictions(path).frame for path in found}


def same(left: dict[str, pd.DataFrame], right: dict[str, pd.DataFrame]) -> bool:
    """Bit for bit."""
    return left.keys() == right.keys() and all(left[key].equals(right[key]) for key in left)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that waits to be reaped has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
