"""What is done, running and missing, also of a run that another machine holds."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from cxrtl.errors import DamagedError, RunError
from cxrtl.records import Progress, Trial
from cxrtl.report import status
from cxrtl.rundir import RunDir, write_json

TRIALS = [Trial("imagenet", fold, (10, 20), f"imagenet/fold{fold}") for fold in (0, 1)]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    write_json(tmp_path / "plan.json", {"trials": [asdict(trial) for trial in TRIALS]})
    return RunDir(tmp_path)


def beat(run: RunDir, ago: float) -> None:
    folder = run.trial(TRIALS[0])
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "progress.json", asdict(Progress(12, 96, 4.0, (10,), time.time() - ago, "7 on other")))


def states(run: RunDir) -> list[str]:
    return [trial.state for trial in status.read(run).trials]


@pytest.mark.parametrize("ago", [1e6, -1e6], ids=["a clock long past", "a clock far ahead"])
def test_this_machines_lock_decides_and_no_clock(run: RunDir, ago: float) -> None:
    beat(run, ago)
    with run.lock():
        found = status.read(run)
        assert found.writing and not found.note and states(run) == ["running", "waiting"]
        assert run.host() == os.uname().nodename
        assert found.trials[0].images_per_second == 24.0
    assert not status.read(run).writing and states(run) == ["cut off", "waiting"]


@pytest.mark.parametrize(("ago", "writing"), [(5, True), (-5, True), (600, False), (-600, False)])
def test_of_another_machine_the_last_sign_of_life_does(run: RunDir, ago: float, writing: bool) -> None:
    """A negative age: its clock is ahead of ours."""
    run.path("lock").write_text("7 on another-machine")
    beat(run, ago)
    found = status.read(run)
    assert found.writing == writing and states(run)[0] == ("running" if writing else "cut off")
    assert (
        "another-machine, whose lock may not be seen from here" in found.note and "by the clocks of both" in found.note
    )


def test_another_machine_without_a_sign_of_life(run: RunDir) -> None:
    run.path("lock").write_text("7 on another-machine")
    found = status.read(run)
    assert not found.writing and "no fold has given a sign of life" in found.note


@pytest.mark.parametrize(
    "folder", ["../../elsewhere", "/etc/fold0", "a/../../b", "..", "imagenet", "a//b", "", "a/\x1b[2J"]
)
def test_a_plan_leads_nowhere_else(run: RunDir, folder: str) -> None:
    write_json(run.path("plan.json"), {"trials": [{**asdict(TRIALS[0]), "folder": folder}]})
    with pytest.raises(DamagedError, match=r"plan\.json.*is no plan of this version"):
        status.read(run)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"trials": 1}', '{"trials": [{"arm": "a"}]}', "[" * 100_000, '{"trials": [1e999]}']
)
def test_a_plan_that_is_none(run: RunDir, text: str) -> None:
    run.path("plan.json").write_text(text)
    with pytest.raises(DamagedError, match=r"plan\.json"):
        status.read(run)


def test_progress_that_is_none_counts_as_not_begun(run: RunDir) -> None:
    beat(run, 0)
    (run.trial(TRIALS[0]) / "progress.json").write_text('{"iteration": "many"}')
    assert states(run) == ["waiting", "waiting"]


def test_a_trial_that_ends_while_it_is_looked_at(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    beat(run, 0)
    read_json = status.read_json

    def ends(path: Path) -> object:
        if path.name == "progress.json":
            path.unlink(missing_ok=True)
        return read_json(path)

    monkeypatch.setattr(status, "read_json", ends)
    assert states(run) == ["waiting", "waiting"]


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no planned run"):
        status.read(RunDir(tmp_path))
