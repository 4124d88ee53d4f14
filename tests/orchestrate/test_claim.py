"""Two tries of one trial: the one that began last writes, the other stops at its next file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrtl import rundir
from cxrtl.errors import SupersededError
from cxrtl.orchestrate.claim import Claim


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
