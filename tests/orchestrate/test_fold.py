"""Folds of one process: a fault is told at once and of the right one; every line of a curve is shown."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from cxrtl.errors import SupersededError, TrialError
from cxrtl.learn.state import State
from cxrtl.orchestrate import fold
from cxrtl.orchestrate.notice import Notice
from cxrtl.orchestrate.writer import Writer
from cxrtl.records import Trial
from cxrtl.rundir import read_json


class Fake:
    """A fold that trains until it is told to leave, or raises `fault` once all have begun."""

    begun = threading.Barrier(3)

    def __init__(self, number: int, fault: Exception | None = None) -> None:
        self.trial, self.fault = Trial("a", number, (5,), f"a/fold{number}"), fault
        self.saved = threading.Event()

    def run(self, notice: Notice) -> None:
        self.begun.wait(10)
        if self.fault:
            raise self.fault
        for _ in range(1000):
            if notice.given():
                self.saved.set()
                notice.leave()
            self.saved.wait(0.01)


def run_all(*runs: Fake) -> BaseException:
    with pytest.raises(Exception) as caught:
        fold.run_all(runs, Notice([]))  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize("place", [0, 2])
def test_a_fold_that_fails_is_named_and_the_others_save_and_leave(place: int) -> None:
    runs = [Fake(number, TrialError("diverged") if number == place else None) for number in range(3)]
    fault = run_all(*runs)
    assert isinstance(fault, TrialError) and getattr(fault, fold._TRIAL) == runs[place].trial
    assert [run.saved.is_set() for run in runs] == [run.fault is None for run in runs]


def test_a_fold_taken_over_is_told_before_those_that_left_for_it() -> None:
    fault = run_all(Fake(0), Fake(1, SupersededError("taken over")), Fake(2))
    assert isinstance(fault, SupersededError)


def test_folds_told_to_leave_say_so() -> None:
    runs = [Fake(0), Fake(1, RayActorError()), Fake(2)]
    assert isinstance(run_all(*runs), RayActorError) and runs[0].saved.is_set()


def test_every_line_of_the_curve_is_shown_once() -> None:
    """A GPU's curve is read once a second: several lines at a time."""
    run: Any = fold.FoldRun.__new__(fold.FoldRun)
    shown: list[dict[str, float]] = []
    run.board, run.shown, run.beat, run.every = SimpleNamespace(curve=shown.extend), 1, float("inf"), 1.0
    at = State(curve=[{"iteration": 5}])  # of before a resume
    for iterations in ((10, 15, 20), (), (25,)):
        at.curve += [{"iteration": iteration} for iteration in iterations]
        run.progress(at)
    assert [line["iteration"] for line in shown] == [10, 15, 20, 25]


def test_progress_is_written_beside_training_and_left_out_while_the_writer_is_busy(tmp_path: Path) -> None:
    run: Any = fold.FoldRun.__new__(fold.FoldRun)
    run.board, run.signals = SimpleNamespace(curve=list), SimpleNamespace(tell=lambda *_: None)
    run.setting, run.folder = SimpleNamespace(train=SimpleNamespace(batch_size=4)), tmp_path
    run.shown, run.beat, run.every, busy = 0, float("-inf"), 0.0, threading.Event()
    at, written = State(), []
    with Writer() as run.writer:
        for iteration in (5, 10, 15, 20):
            at.iteration, at.curve = iteration, [*at.curve, {"iteration": iteration}]
            if iteration == 10:
                run.writer(lambda: busy.wait(10) and None)
            run.progress(at)
            if iteration == 15:
                busy.set()
            if iteration != 10:
                run.writer.wait()
            written.append(read_json(tmp_path / "progress.json")["iteration"])
    assert written == [5, 5, 5, 20]
    assert len((tmp_path / "curve.jsonl").read_text().splitlines()) == 4
