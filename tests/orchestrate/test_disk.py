"""Whole runs on a disk that fills up, and on one that nothing may be written to."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.orchestrate.helpers import cxrtl, experiment, same, scores, start, training, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 200 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200m", "none", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a disk of its own takes the right to mount one")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def one_line(text: str, *words: str) -> None:
    lines = text.strip().splitlines()
    assert len(lines) == 1 and all(word in text for word in words), text


def test_disk_that_fills_up_in_training(undisturbed: Path, tmp_path: Path, disk: Path) -> None:
    process = start("run", experiment(tmp_path), "--home", disk, log=tmp_path / "log")
    wait_for(lambda: training(disk), process)
    with (disk / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(bytes(2**16)):
                pass
        except OSError:
            pass
    assert process.wait(timeout=120) in (1, 2)
    said = (tmp_path / "log").read_text()
    assert "Traceback (most" not in said
    one_line(said.strip().splitlines()[-1], "No space left on device", "run the same command")
    assert cxrtl("status", disk / "runs/small").returncode == 0
    (disk / "filler").unlink()
    again = cxrtl("run", experiment(tmp_path), "--home", disk)
    assert again.returncode == 0, again.stdout + again.stderr
    assert same(scores(disk), scores(undisturbed))
    assert list(disk.rglob(".*.part")) == []


def test_disk_that_nothing_may_be_written_to(undisturbed: Path, tmp_path: Path, disk: Path) -> None:
    shutil.copytree(undisturbed, disk, dirs_exist_ok=True)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = cxrtl("run", experiment(tmp_path), "--home", disk)
    assert done.returncode == 2
    one_line(done.stderr, "RunError", "cannot be written: Read-only file system")
    looked = cxrtl("status", disk / "runs/small")
    assert looked.returncode == 0 and "2 done" in looked.stdout
    reported = cxrtl("report", disk / "runs/small")
    assert reported.returncode == 2
    one_line(reported.stderr, "RunError", "Read-only file system")
