"""`benchmarks/kills.py`, in short."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/kills.py"


@pytest.mark.slow
def test_a_short_campaign_ends_with_the_same_bits() -> None:
    words = [sys.executable, SCRIPT, "--kills", "8", "--seed", "1", "--length", "600"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 kills over" in done.stdout and "| all | 8 |" in done.stdout
