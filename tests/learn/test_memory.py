"""Freed memory stays with a process that was told to keep it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cxrtl.learn.memory import keep_freed_memory

# a process of its own: the setting lasts until it ends
FAULTS = """
import resource, sys, torch
from cxrtl.learn.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(30):  # until the heap has grown to its size
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_a_block_taken_again_costs_no_page_faults() -> None:
    found = [
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True, text=True).stdout)
        for how in ("keep", "leave")
    ]
    assert found[0] < 1000 < found[1]


def test_elsewhere_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
