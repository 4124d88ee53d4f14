"""Timed steps: folds that will share a process are made in turn and timed at the same time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from cxrtl.config import Recipe, parse
from cxrtl.errors import TrialError
from cxrtl.learn import loop, transfer
from cxrtl.orchestrate import timing
from cxrtl.records import Prepared

CPU = torch.device("cpu")


def recipe(**train: object) -> Recipe:
    knobs = {"backbone": "squeezenet1_1", "init": "scratch", "budgets": [5], "batch_size": 4, **train}
    return parse({"name": "x", "data": {"source": "phantom"}, "train": knobs}).recipes[0]


def prepared(folder: Path) -> Prepared:
    return Prepared(folder, ("n", "y"), 64, 8, True, "hash")


def test_folds_are_made_in_turn_and_timed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, begun, met = [], [0], []
    make, fit = transfer.make_model, loop.fit

    def make_model(*given: Any) -> torch.nn.Module:
        made.append(threading.current_thread())
        return make(*given)

    def watched(setting: Any, images: Any, model: Any, optimizer: Any, at: Any, hooks: loop.Hooks) -> None:
        begun[0] += 1

        def save(state: Any) -> None:
            hooks.save(state)  # waits for all at the first mark
            met.append(begun[0])

        fit(setting, images, model, optimizer, at, loop.Hooks(hooks.milestone, save))

    monkeypatch.setattr(transfer, "make_model", make_model)
    monkeypatch.setattr(loop, "fit", watched)
    assert timing.step_seconds(recipe(), None, prepared(tmp_path), "fp32", 3, CPU, False) > 0
    assert made == [threading.current_thread()] * 3
    assert set(met) == {3} and len(met) == 3 * (timing.TIMED_STEPS["cpu"] + 1)


def test_a_fold_that_fails_is_told_and_the_others_do_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit, calls = loop.fit, []

    def fails(*given: Any) -> None:
        calls.append(threading.current_thread())
        if len(calls) == 2:
            raise TrialError("the loss is no number")
        fit(*given)

    monkeypatch.setattr(loop, "fit", fails)
    with pytest.raises(TrialError, match="no number"):
        timing.step_seconds(recipe(), None, prepared(tmp_path), "fp32", 2, CPU, False)
