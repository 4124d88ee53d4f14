"""The scripts that measure a GPU, tried out on a CPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("cxrtl.learn.memory.keep_freed_memory", bool)  # it would last as long as this process
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("packed", BENCHMARKS / "packed.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "packed", module)  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_folds_side_by_side_train_the_same_weights_as_alone(packed: Any) -> None:
    threads = torch.get_num_threads()
    wish = packed.Wish("squeezenet1_1", batch=4, size=64, images=20, warm=1, steps=2, device="cpu")
    found = list(packed.measure(wish, [1, 3]))
    torch.set_num_threads(threads)
    assert [each.folds for each in found] == [1, 3] and all(each.rate > 0 for each in found)
    assert found[0].sha256 == found[1].sha256


@pytest.mark.slow
def test_lines_and_figures_are_kept_as_they_come(tmp_path: Path) -> None:
    knobs = {"folds": "1", "backbone": "squeezenet1_1", "batch": "4", "size": "64", "warm": "1", "steps": "20"}
    words = [word for name, value in knobs.items() for word in (f"--{name}", value)]
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--out", str(tmp_path), "--parts", "loops", "--images", "40"]
    (tmp_path / "gpu.json").write_text('["an earlier session"]')
    done = subprocess.run([*command, "--device", "cpu", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    sessions = json.loads((tmp_path / "gpu.json").read_text())
    assert sessions[0] == "an earlier session" and "--parts loops" in sessions[1]["command"]
    assert sessions[1]["environment"]["torch"] and sessions[1]["date"]
    lines = [entry["line"] for entry in sessions[1]["lines"]]
    assert [line for line in lines if "plain loop" in line or "naive loop" in line] == lines[6:] and len(lines) == 8
    for variant, line in zip(("timed", "unrepeatable", "timed-unrepeatable", "compiled"), lines[2:6], strict=True):
        assert line.startswith(f"one, {variant}: ") and line.endswith(" × as shipped")
    text = (tmp_path / "gpu.md").read_text()
    assert all(f"- loops: {line}\n" in text for line in lines) and text.count("## ") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("no GPU here") and not list(tmp_path.iterdir())
