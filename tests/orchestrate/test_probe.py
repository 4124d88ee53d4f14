"""Processes that time steps on a GPU stay from layout to layout, and then end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TWICE = """
import os, sys, time
from pathlib import Path
import ray
from cxrtl.orchestrate import probe
from tests.orchestrate.test_timing import prepared, recipe
ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
share, probe._ROOM_WITHIN = probe.Share(1, 1.0), 1
with probe.Prober({"squeezenet1_1": None}, prepared(Path(sys.argv[1])), {}, {}) as prober:
    assert all(prober.time(recipe(), share, 2).step_seconds > 0 for _ in range(2))
    (timer,) = prober.timers  # for the other there is no room
assert not prober.timers
until = time.monotonic() + 30
while ray.available_resources().get("GPU") != 1.0 and time.monotonic() < until:
    time.sleep(0.1)
print(ray.available_resources()["GPU"])
"""


@pytest.mark.slow
def test_a_process_with_a_gpu_times_layout_after_layout_and_then_ends(tmp_path: Path) -> None:
    """Ray is told of a GPU that is not there: the steps run on a CPU."""
    words = [sys.executable, "-c", TWICE, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0 and done.stdout.split() == ["1.0"], done.stderr
