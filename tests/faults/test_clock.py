"""A clock that is set back during a run: no time below zero, and progress is still told."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import pytest

from cxrtl import config
from cxrtl.orchestrate import fold, study
from cxrtl.report import status
from cxrtl.rundir import RunDir
from tests.faults import alone


def test_clock_set_back_an_hour_at_every_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone.stand_in(monkeypatch.setattr)
    clock, told = itertools.count(2e9, -3600), []
    tell = fold.FoldRun._tell
    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setattr(fold, "HEARTBEAT", 0.0)
    monkeypatch.setattr(fold.loop, "CURVE_EVERY", 1)
    monkeypatch.setattr(fold.FoldRun, "_tell", lambda self, at: told.append(at.iteration) or tell(self, at))
    study.run(config.load(alone.begin(tmp_path)), study.Options(tmp_path, "cxrtl run"), alone.Silent())
    assert {1, 2, 3} <= set(told)
    run = RunDir(tmp_path / "runs/small")
    assert {trial.state for trial in status.read(run).trials} == {"done"}
    for result in run.results():
        times = (result.setup_seconds, result.wall_seconds, result.milestones[-1].evaluate_seconds)
        assert min(times) >= 0 and result.wall_seconds < 600
    (session,) = json.loads(run.path("sessions.json").read_text())
    assert all(0 <= value < 600 for name, value in session.items() if name.endswith("_seconds"))
