"""When a run gives up on a trial whose process dies."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cxrtl.orchestrate import sweep
from cxrtl.records import Trial
from cxrtl.rundir import RunDir, write_json

TRIAL = Trial("a", 0, (100,), "a/fold0")


class Dying:
    """A trial's deaths as Tune tells them."""

    def __init__(self, root: Path) -> None:
        self.said: list[str] = []
        job: Any = SimpleNamespace(run=RunDir(root), trials={TRIAL.name: TRIAL}, hashes={"a": "h"})
        self.deaths = sweep.Deaths(job, self.said.append)
        self.folder = root / TRIAL.folder
        self.folder.mkdir(parents=True)
        (root / "error.txt").write_text("Failure # 1\nThe worker died.\n")
        config = {"trials": [TRIAL.name]}
        self.trial = SimpleNamespace(trial_id="1", config=config, error_file=str(root / "error.txt"))

    def at(self, iteration: int) -> list[str]:
        write_json(self.folder / "state.json", {"iteration": iteration})
        self.deaths.on_trial_recover(0, [], self.trial)
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
    assert "a/fold0 died 4 times without getting past iteration 10" in said and said.endswith("The worker died.")


def test_a_trial_that_dies_before_it_saves_anything_is_given_up(tmp_path: Path) -> None:
    dying = Dying(tmp_path)
    for _ in range(sweep.MAX_DEATHS):
        dying.deaths.on_trial_recover(0, [], dying.trial)
    assert dying.said == []
    dying.deaths.on_trial_recover(0, [], dying.trial)
    assert "iteration 0" in dying.said[0] and "checkpoint_every" in dying.said[0]
