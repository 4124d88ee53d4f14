"""The run folder: written whole or not at all, held by one process, vouched for by hashes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from cxrtl import parts, rundir
from cxrtl.errors import DamagedError, LockedError, RunError
from cxrtl.predictions import Predictions
from cxrtl.records import FoldResult, Milestone, Trial
from cxrtl.rundir import RunDir

TRIAL = Trial("a", 0, (5,), "a/fold0")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "x.json"
    rundir.write_json(path, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", full) if failing == "fsync" else (Path, "replace", full)))
    with pytest.raises(OSError, match="No space left"):
        rundir.write_json(path, 2)
    assert rundir.read_json(path) == 1 and list(tmp_path.iterdir()) == [path]


def test_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    rundir.write_json(path, 1)
    code = (
        "import os, signal, pathlib; from cxrtl import rundir\n"
        "def die(part): part.write_text('2'); os.kill(os.getpid(), signal.SIGKILL)\n"
        f"rundir.write_atomic(pathlib.Path({str(path)!r}), die)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert rundir.read_json(path) == 1


def result(run: RunDir, run_hash: str = "h") -> FoldResult:
    folder = run.trial(TRIAL)
    folder.mkdir(parents=True, exist_ok=True)
    rundir.write_bytes(folder / "weights-5.safetensors", b"weights")
    files = {"weights-5.safetensors": rundir.sha256_file(folder / "weights-5.safetensors")}
    milestones = (Milestone(5, 1.0, 0.1, 0.5, 0.8),)
    made = FoldResult("a", 0, (5,), run_hash, 9, 1, milestones, 0.1, 2.0, 9.0, "cpu", "fp32", 1, 1, files)
    rundir.write_json(folder / "result.json", made.to_json())
    return made


def test_result_reads_back(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert result(run) == run.result(TRIAL, "h") == run.results()[0]


def test_result_vouches_only_for_its_own_experiment_and_intact_files(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    result(run)
    assert run.result(TRIAL, "other") is None
    assert run.result(Trial("a", 0, (5, 10), "a/fold0"), "h") is None
    (run.trial(TRIAL) / "weights-5.safetensors").write_bytes(b"altered")
    assert run.result(TRIAL, "h") is None
    (run.trial(TRIAL) / "weights-5.safetensors").unlink()
    assert run.result(TRIAL, "h") is None
    (run.trial(TRIAL) / "result.json").write_text("{")
    assert run.result(TRIAL, "h") is None


def test_lock_is_held_by_one_process_and_survives_its_death(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    assert not run.locked()
    code = (
        "import sys, time, pathlib; from cxrtl.rundir import RunDir\n"
        f"with RunDir(pathlib.Path({str(run.root)!r})).lock(): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        assert run.locked()
        with pytest.raises(LockedError, match=f"written by process {holder.pid} on"), run.lock():
            pass
        holder.kill()
    with run.lock():
        assert run.locked()
    assert not run.locked()


def test_lock_is_not_kept_by_children_of_its_owner(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    code = (
        "import subprocess, sys, time, pathlib; from cxrtl.rundir import RunDir\n"
        f"with RunDir(pathlib.Path({str(run.root)!r})).lock():\n"
        " child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], close_fds=False)\n"
        " print(child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        child = int(owner.stdout.readline())
        assert run.locked()
        owner.kill()
        owner.wait()
        try:
            with run.lock():
                os.kill(child, 0)  # it lives
        finally:
            os.kill(child, signal.SIGKILL)


def test_parts_of_killed_writers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    for writer in (ended.pid, os.getppid()):
        (tmp_path / f".x.json.{writer}-00000000.part").touch()
    (tmp_path / "x.json").touch()
    with RunDir(tmp_path).lock():
        kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"lock", "x.json", f".x.json.{os.getppid()}-00000000.part"}


def test_where_machines_write_side_by_side_anothers_part_stays_until_it_is_old(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    names = {
        "mine": f".x.{ended.pid}-{parts.HERE}0000.part",
        "theirs": f".x.{ended.pid}-{'0000' if parts.HERE != '0000' else '1111'}0000.part",
        "old": f".y.{ended.pid}-{'0000' if parts.HERE != '0000' else '1111'}0000.part",
        "living": f".x.{os.getppid()}-{parts.HERE}0000.part",
    }
    for name in names.values():
        (tmp_path / name).touch()
    os.utime(tmp_path / names["old"], (0, 0))
    parts.drop_parts(tmp_path, shared=True)
    assert {path.name for path in tmp_path.iterdir()} == {names["theirs"], names["living"]}
    assert parts.HERE in parts.part_of(tmp_path / "x").name


def test_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written"), RunDir(tmp_path / "file" / "run").lock():
        pass


def test_predictions_read_back_bit_for_bit(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"image_id": ["i"], "patient_id": ["p"], "fold": [0], "arm": ["a"], "iterations": [5], "label": ["x"]}
    )
    made = Predictions(frame.assign(score_y=1 / 3, score_x=2 / 3), ("y", "x"))
    rundir.write_predictions(tmp_path / "p.parquet", made)
    read = rundir.read_predictions(tmp_path / "p.parquet")
    assert read.classes == ("y", "x") and read.frame.equals(made.frame)


@pytest.mark.parametrize("content", [b"", b"PAR1 not really"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    for read in (rundir.read_predictions, rundir.read_json):
        with pytest.raises(DamagedError, match="x in "):
            read(tmp_path / "x")
    with pytest.raises(DamagedError, match="missing"):
        rundir.read_json(tmp_path / "none")


def test_content_hash_ignores_the_order_of_keys() -> None:
    assert rundir.content_hash({"a": 1, "b": [1, 2]}) == rundir.content_hash({"b": [1, 2], "a": 1})
    assert rundir.content_hash([1, 2]) != rundir.content_hash([2, 1])
