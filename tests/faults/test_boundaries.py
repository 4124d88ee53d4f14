"""A full disk, an I/O error or a kill at every change of a file: all stays readable, and ends with the same bits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler or sys.platform != "linux":
        pytest.skip("faults are injected by a preloaded library: it needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "shim.c", "-ldl"], check=True)
    return library


def campaign(shim: Path, scenario: str, every: int = 1) -> dict[str, Any]:
    memory = Path("/dev/shm")  # where flushing to disk costs nothing
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as work:
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.boundaries", scenario, work, str(every)],
            cwd=HERE.parents[1],
            env={**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("scenario", "every"), [("files", 13), ("study", 151)])
def test_some_changes(shim: Path, scenario: str, every: int) -> None:
    found = campaign(shim, scenario, every)
    assert found["calls"] > 100 and found["cases"] >= 3 * (found["calls"] // every)
    assert found["problems"] == []


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["files", "study", "report"])
def test_every_change(shim: Path, scenario: str) -> None:
    found = campaign(shim, scenario)
    assert found["calls"] > 100 and found["cases"] == 3 * found["calls"]
    assert found["problems"] == []
