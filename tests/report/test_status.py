"""What a run's folder says of itself, whatever the clocks of the machines that wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrtl.errors import RunError
from cxrtl.report import status
from cxrtl.rundir import RunDir, write_json


def begun(root: Path, **beat: object) -> RunDir:
    (root / "a/fold0").mkdir(parents=True)
    trials = [{"arm": "a", "fold": fold, "budgets": [5, 10], "folder": f"a/fold{fold}"} for fold in (0, 1)]
    write_json(root / "plan.json", {"trials": trials})
    seen = {"iteration": 7, "images": 70, "train_seconds": 2.0, "milestones": [5], "updated": 0.0, **beat}
    write_json(root / "a/fold0/progress.json", seen)
    return RunDir(root)


@pytest.mark.parametrize("updated", [0.0, 1e10], ids=["a clock long past", "a clock far ahead"])
def test_a_lock_tells_whether_a_run_lives_and_no_clock(tmp_path: Path, updated: float) -> None:
    run = begun(tmp_path / "x", updated=updated)
    assert [trial.state for trial in status.read(run).trials] == ["cut off", "waiting"]
    with run.lock():
        assert [trial.state for trial in status.read(run).trials] == ["running", "waiting"]


def test_a_trial_that_ends_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun(tmp_path / "x")
    read_json = status.read_json

    def ends(path: Path) -> object:
        if path.name == "progress.json":
            path.unlink()
        return read_json(path)

    monkeypatch.setattr(status, "read_json", ends)
    assert status.read(run).trials[0].state == "waiting"


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no planned run"):
        status.read(RunDir(tmp_path))
