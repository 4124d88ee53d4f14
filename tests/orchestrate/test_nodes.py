"""A node lost in the middle of a run, and images lost with their node, on three logical nodes of one machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cxrtl.rundir import RunDir, read_json
from tests.orchestrate.helpers import environment, experiment, same, scores

ROOT = Path(__file__).parents[2]


def on_nodes(*words: str | Path) -> dict[str, Any]:
    whole = [sys.executable, "-m", "tests.orchestrate.nodes", *map(str, words)]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=150, check=False, env=environment(), cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.slow
def test_folds_of_a_lost_node_go_on_elsewhere(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed / "prepared", tmp_path / "prepared")
    before = read_json(undisturbed / "runs/small/experiment.resolved.json")
    told = on_nodes("study", experiment(tmp_path), tmp_path, f"train.precision={before['precision']}")
    assert told == {"killed": 1}
    assert [result.tries for result in RunDir(tmp_path / "runs/small").results()] == [2, 1]
    assert same(scores(tmp_path), scores(undisturbed))


@pytest.mark.slow
def test_images_lost_with_their_node_are_read_again(tmp_path: Path) -> None:
    told = on_nodes("images", tmp_path)
    assert told["blocks"] > 1 and len(told["nodes"]) == 1  # there was no other copy
    assert told["same"]
