"""The log of a run: whole lines, in order, whatever ends it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxrtl import rundir
from cxrtl.errors import DataError
from cxrtl.learn.state import State
from cxrtl.orchestrate import journal
from cxrtl.orchestrate.signals import Signals, failed
from cxrtl.records import Milestone, Trial
from cxrtl.rundir import RunDir

TRIAL = Trial("imagenet", 3, (10, 20), "imagenet/fold3")


class Silent:
    def stage(self, text: str) -> None: ...
    def preparing(self, done: int, total: int) -> None: ...
    def planned(self, run: object, plan: object) -> None: ...
    def training(self, run: object) -> None: ...


def events(run: RunDir) -> list[tuple[str, str]]:
    return [(line.get("trial", ""), line["event"]) for line in journal.read(run)]


def test_run_and_trials_together_by_time(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    folder = run.trial(TRIAL)
    folder.mkdir(parents=True)
    with journal.Journal(run, Silent()) as watcher:
        watcher.stage("reading labels")
        Signals(folder, "mine", TRIAL, State(tries=1), metered=False).milestone(Milestone(10, 1.0, 0.1, 0.4, 0.9))
        Signals(folder, "mine", TRIAL, State(iteration=10, tries=2), metered=False)
        failed(folder, ValueError("a file's name"))
    told = events(run)
    assert told == [
        ("", "begun"),
        ("", "stage"),
        ("imagenet/fold3", "started"),
        ("imagenet/fold3", "milestone"),
        ("imagenet/fold3", "restarted"),
        ("imagenet/fold3", "failed"),
        ("", "ended"),
    ]
    lines = [json.loads(line) for line in (folder / journal.FILE).read_text().splitlines()]
    assert lines[2]["level"] == "warning" and lines[2]["iteration"] == 10 and lines[2]["tries"] == 2
    assert lines[0]["node"] and lines[0]["pid"]
    assert "a file's name" not in (folder / journal.FILE).read_text()


def test_an_error_is_kept_and_other_peoples_words_are_not(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for error, said in ((DataError("two classes wanted"), "two classes wanted"), (KeyError("doe^jane.dcm"), "")):
        with pytest.raises(type(error)), journal.Journal(run, Silent()):
            raise error
        last = journal.read(run)[-1]
        assert (last["event"], last["level"], last["message"]) == ("error", "error", said)
        assert last["kind"] == type(error).__name__


def test_a_line_that_is_none_is_left_out(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    journal.note(tmp_path, "begun")
    rundir.write_bytes(tmp_path / journal.FILE, (tmp_path / journal.FILE).read_bytes() + b'{"time": "2026\n[1]\n')
    journal.note(tmp_path, "ended")
    assert [line["event"] for line in journal.read(run)] == ["begun", "ended"]
    assert journal.read(RunDir(tmp_path / "none")) == []
