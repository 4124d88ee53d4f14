"""Two tries of one trial: the one that began last writes, the other stops at its next file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from cxrtl import rundir
from cxrtl.errors import SupersededError
from cxrtl.learn import state
from cxrtl.orchestrate.claim import Claim
from cxrtl.orchestrate.fold import FoldRun
from cxrtl.records import FoldResult, Milestone, Trial


def as_other_process(older: Claim) -> None:
    """Puts `older` in charge of this process's writes again, as it is in the process where it was taken."""
    rundir.guards[older.folder] = older.check


def test_the_last_to_begin_writes(tmp_path: Path) -> None:
    first = Claim.take(tmp_path)
    rundir.write_json(tmp_path / "state.json", 1)
    Claim.take(tmp_path)
    rundir.write_json(tmp_path / "state.json", 2)
    as_other_process(first)
    with pytest.raises(SupersededError, match=r"taken over by \d+ on .*writes nothing more"):
        rundir.write_json(tmp_path / "state.json", 3)
    assert rundir.read_json(tmp_path / "state.json") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["owner.json", "state.json"]  # and no part


def test_a_claim_that_is_lost_while_a_file_is_written_keeps_the_file_out(tmp_path: Path) -> None:
    first = Claim.take(tmp_path)

    def slowly(part: Path) -> None:
        part.write_text("late")
        Claim.take(tmp_path)
        as_other_process(first)

    with pytest.raises(SupersededError):
        rundir.write_atomic(tmp_path / "curve.jsonl", slowly)
    assert not (tmp_path / "curve.jsonl").exists()


def test_a_finished_trial_is_nobodys(tmp_path: Path) -> None:
    zombie = Claim.take(tmp_path)
    done = Claim.take(tmp_path)
    rundir.write_json(tmp_path / "result.json", {})
    done.release()
    as_other_process(zombie)
    with pytest.raises(SupersededError, match="has finished"):
        rundir.write_json(tmp_path / "result.json", {"late": True})
    rundir.guards.pop(tmp_path)
    rundir.write_json(tmp_path / "result.json", {"again": True})  # a later run that makes it anew starts with a claim


def test_other_folders_are_not_asked_about(tmp_path: Path) -> None:
    (tmp_path / "fold0").mkdir()
    Claim.take(tmp_path / "fold0")
    (tmp_path / "fold0" / "owner.json").unlink()
    rundir.write_json(tmp_path / "plan.json", {})
    with pytest.raises(SupersededError):
        rundir.write_json(tmp_path / "fold0" / "state.json", {})
    rundir.guards.pop(tmp_path / "fold0")


def test_a_try_that_slept_while_it_saved_leaves_its_successors_state_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Claim.take(tmp_path)
    write, taken = rundir.write_json, state.Snapshot(nn.Linear(1, 1))
    state.save(tmp_path, state.State(iteration=50), taken, "h")

    def then_sleeps(path: Path, value: Any) -> None:
        write(path, value)
        monkeypatch.undo()
        stale = rundir.guards[tmp_path]
        Claim.take(tmp_path)
        state.save(tmp_path, state.State(iteration=70), taken, "h")
        rundir.guards[tmp_path] = stale

    monkeypatch.setattr(rundir, "write_json", then_sleeps)
    with pytest.raises(SupersededError):
        state.save(tmp_path, state.State(iteration=60), taken, "h")
    assert state.reached(tmp_path) == 70
    assert [path.name for path in tmp_path.glob("state-*")] == ["state-70.safetensors"]
    rundir.guards.pop(tmp_path)


def test_what_an_earlier_try_finished_at_the_last_moment_is_kept(tmp_path: Path) -> None:
    trial, run = Trial("a", 0, (100,), "a/fold0"), rundir.RunDir(tmp_path)
    reached = (Milestone(100, 1.0, 1.0, 1.0, 1.0),)
    result = FoldResult("a", 0, (100,), "h", 1, 1, reached, 0, 0, 0, "cpu", "fp32", 1, 1, {})
    run.trial(trial).mkdir(parents=True)
    rundir.write_json(run.trial(trial) / "result.json", result.to_json())
    late = object.__new__(FoldRun)  # what was done before `_saved` took no notice of the folder
    late.job, late.trial, late.folder, late.run_hash = SimpleNamespace(run=run), trial, run.trial(trial), "h"  # type: ignore[assignment]
    with pytest.raises(SupersededError, match="was finished by an earlier try"):
        late._saved()
    assert run.result(trial, "h") == result
    assert [path.name for path in run.trial(trial).iterdir()] == ["result.json"]
    assert late.folder not in rundir.guards
