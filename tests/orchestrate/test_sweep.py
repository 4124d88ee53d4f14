"""When a run gives up on a trial whose process dies, and when it takes another round."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.experiment import Trial as TuneTrial

from cxrtl import interrupt
from cxrtl.errors import TrialError
from cxrtl.orchestrate import sweep
from cxrtl.orchestrate.probe import Share
from cxrtl.records import FoldResult, Milestone, Trial
from cxrtl.rundir import RunDir, write_json

TRIAL = Trial("a", 0, (100,), "a/fold0")


class Staged(TuneTrial):  # type: ignore[misc]
    """One whose errors Tune writes to a folder of the test's."""

    local_path = ""


class Dying:
    """A trial's deaths as Tune tells them."""

    def __init__(self, root: Path) -> None:
        self.said: list[str] = []
        job: Any = SimpleNamespace(run=RunDir(root), trials={TRIAL.name: TRIAL}, hashes={"a": "h"})
        self.deaths = sweep.Deaths(job, self.said.append)
        self.folder = root / TRIAL.folder
        self.folder.mkdir(parents=True)
        self.error: Exception = RayActorError()
        self.trial = Staged("Dying", stub=True, config={"trials": TRIAL.name})
        self.trial.local_path = str(root)

    def die(self) -> None:
        """As Tune goes about it."""
        self.trial.handle_error(self.error)
        self.deaths.on_trial_recover(0, [], self.trial)

    def at(self, iteration: int) -> list[str]:
        write_json(self.folder / "state.json", {"iteration": iteration})
        self.die()
        return self.said


def test_machines_may_come_and_go_over_a_long_training(tmp_path: Path) -> None:
    dying = Dying(tmp_path)
    assert [dying.at(iteration) for iteration in range(5, 105, 5)][-1] == []
    assert [dying.at(100) for _ in range(sweep.MAX_DEATHS - 1)][-1] == []


def test_a_trial_that_gets_no_further_is_given_up_and_says_where(tmp_path: Path) -> None:
    dying = Dying(tmp_path)
    dying.at(5)
    for _ in range(sweep.MAX_DEATHS - 1):
        assert dying.at(10) == []
    assert dying.at(10) == []
    (said,) = dying.at(10)
    assert "a/fold0 died 4 times without getting past iteration 10" in said and said.endswith(str(dying.error))


def test_a_trial_that_dies_before_it_saves_anything_is_given_up(tmp_path: Path) -> None:
    dying = Dying(tmp_path)
    for _ in range(sweep.MAX_DEATHS):
        dying.die()
    assert dying.said == []
    dying.die()
    assert "iteration 0" in dying.said[0] and "checkpoint_every" in dying.said[0]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_trial_that_leaves_after_notice_has_not_died(wrapped: bool, tmp_path: Path) -> None:
    """It may be told so again and again before it gets further, on machines that are taken back."""
    dying = Dying(tmp_path)
    told = RayActorError(preempted=True)
    dying.error = RayTaskError("train", "", told) if wrapped else told
    assert [dying.at(10) for _ in range(3 * sweep.MAX_DEATHS)][-1] == []
    dying.error = RayTaskError("train", "", ValueError()) if wrapped else RayActorError()
    assert [dying.at(10) for _ in range(sweep.MAX_DEATHS + 1)][-1] != []


TRIALS = tuple(Trial("a", fold, (100,), f"a/fold{fold}") for fold in range(3))


def finished(name: str) -> dict[str, Any]:
    """What a fold leaves that is done."""
    fold, reached = int(name[-1]), (Milestone(100, 1.0, 1.0, 1.0, 1.0),)
    return FoldResult("a", fold, (100,), "h", 1, 1, reached, 0, 0, 0, "cpu", "bf16", 1, 1, {}).to_json()


def given(root: Path) -> tuple[Any, Any]:
    """A job and a plan of three folds."""
    trials = {trial.name: trial for trial in TRIALS}
    job = SimpleNamespace(run=RunDir(root), trials=trials, hashes={"a": "h"}, share=Share(1, 0.0))
    return job, SimpleNamespace(todo=TRIALS, estimates=[SimpleNamespace(arm="a", step_seconds=1.0)])


class Tune:
    """Stands in for `sweep.schedule`; `ends` says which of the trials it is given end with a result."""

    def __init__(self, root: Path, ends: Callable[[list[str]], list[str]]) -> None:
        self.root, self.ends = root, ends
        self.rounds: list[list[str]] = []

    def __call__(self, _: object, runs: list[list[str]], *__: object) -> Any:
        names = [name for run in runs for name in run]
        self.rounds.append(names)
        for name in self.ends(names):
            (self.root / name).mkdir(parents=True)
            write_json(self.root / name / "result.json", finished(name))
        return SimpleNamespace(errors=[RuntimeError("Trial failed.\nThe worker died.")])


@pytest.fixture
def tune(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tune:
    made = Tune(tmp_path, lambda names: names[:-1])
    monkeypatch.setattr(sweep, "schedule", made)
    monkeypatch.setattr(sweep, "_trainable", lambda job, images: None)
    return made


def test_what_tune_gave_up_on_is_taken_up_again(tune: Tune, tmp_path: Path) -> None:
    tune.ends = lambda names: names[:2]  # a process died on being handed over: no fault, and no result
    job, plan = given(tmp_path)
    sweep.run(job, plan, None, 2)  # type: ignore[arg-type]
    assert tune.rounds == [["a/fold0", "a/fold1", "a/fold2"], ["a/fold2"]]


def test_a_run_does_not_go_round_for_ever(tune: Tune, tmp_path: Path) -> None:
    job, plan = given(tmp_path)
    tune.ends = lambda names: []
    with pytest.raises(TrialError, match=r"3 times without a result of a/fold0 and 2 more\. Ray says: The worker died"):
        sweep.run(job, plan, None, 2)  # type: ignore[arg-type]
    assert len(tune.rounds) == sweep.ROUNDS


def test_trials_end_where_the_main_thread_is_interrupted(ray_instance: None, tmp_path: Path) -> None:
    """As by the watch over a cluster whose node here is gone: Tune takes signals of its own while it runs."""

    def trial(config: dict[str, Any]) -> None:
        (tmp_path / "begun").touch()
        time.sleep(300)

    def interrupted() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        interrupt.main_thread()

    with interrupt.heeded():
        hand = threading.Thread(target=interrupted, daemon=True)
        hand.start()
        with pytest.raises(KeyboardInterrupt):
            sweep.schedule(trial, [["a/fold0"]], {"CPU": 1}, 1)
        hand.join()


@pytest.mark.slow
def test_a_process_that_dies_while_it_is_handed_over_costs_no_trial(
    ray_instance: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ray import tune
    from ray.train._internal.session import get_session

    job, plan = given(tmp_path)
    results = {trial.name: finished(trial.name) for trial in TRIALS}
    for name in results:
        (tmp_path / name).mkdir(parents=True)

    def trial(config: dict[str, Any]) -> None:
        name, killed = config["trials"], tmp_path / "killed"
        if not killed.exists():  # the first process: it will not survive to take another trial
            killed.touch()
            get_session().finish = lambda **_: os._exit(1)  # which a reset begins with
        write_json(tmp_path / name / "result.json", results[name])
        tune.report({"broken": ""})

    monkeypatch.setattr(sweep, "_trainable", lambda job, images: trial)
    rounds, schedule = [], sweep.schedule

    def counted(trainable: Any, runs: list[list[str]], *rest: Any) -> Any:
        rounds.append([name for run in runs for name in run])
        return schedule(trainable, runs, *rest)

    monkeypatch.setattr(sweep, "schedule", counted)
    sweep.run(job, plan, None, 1)  # type: ignore[arg-type]
    assert rounds == [["a/fold0", "a/fold1", "a/fold2"], ["a/fold1"]]  # the rest had another process
