"""A storage that fails at any change: nothing written is lost, and another machine goes on."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from torch import nn

from cxrtl import rundir, storage
from cxrtl.learn import state
from cxrtl.predictions import Predictions
from cxrtl.records import FoldResult, Milestone, Trial
from cxrtl.rundir import RunDir
from tests.homes import Machines, mirrored, stored

TRIAL = Trial("a", 0, (2, 4), "a/fold0")


class Fault:
    """Lets the storage fail at its n-th change, for good: before it takes effect, or after it and unheard."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.after = -1, False
        for name in ("put_file", "rm_file"):
            monkeypatch.setattr(MemoryFileSystem, name, self._failing(getattr(MemoryFileSystem, name)))

    def _failing(self, change: Callable[..., None]) -> Callable[..., None]:
        def changed(*words: Any, **more: Any) -> None:
            if self.left == 0 and self.after:
                change(*words, **more)
            if self.left == 0:
                self.left, self.after = 0, False
                raise OSError(errno.EIO, "the storage fails")
            self.left -= 1
            change(*words, **more)

        return changed


def trial(run: RunDir) -> int:
    """What a fold does to its folder, in the same order, going on from what is there; the iteration it began from."""
    folder = run.trial(TRIAL)
    folder.mkdir(parents=True, exist_ok=True)
    storage.pull(folder)
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    at = state.load(folder, "h", model, optimizer)
    began = at.iteration
    for at.iteration in range(began + 1, 5):
        model.weight.data += 1
        rundir.write_json(folder / "progress.json", {"iteration": at.iteration})
        if at.iteration in TRIAL.budgets:
            predictions, weights = f"predictions-{at.iteration}.parquet", f"weights-{at.iteration}.safetensors"
            rundir.write_predictions(folder / predictions, made(at.iteration))
            at.files[predictions] = rundir.sha256_file(folder / predictions)
            at.files[weights] = rundir.write_bytes(folder / weights, state.Snapshot(model).weights())
            at.milestones.append(Milestone(at.iteration, 1.0, 0.1, 0.5, 0.8))
        if at.iteration < 4:
            state.save(folder, at, state.Snapshot(model, optimizer), "h")
    milestones, files = tuple(at.milestones), at.files
    done = FoldResult("a", 0, TRIAL.budgets, "h", 9, 1, milestones, 0.1, 2.0, 9.0, "cpu", "fp32", 1, 1, files)
    rundir.write_json(folder / "result.json", done.to_json())
    state.clear(folder)
    return began


def made(iterations: int) -> Predictions:
    columns = {"image_id": ["i"], "patient_id": ["p"], "fold": [0], "arm": ["a"], "iterations": [iterations]}
    return Predictions(pd.DataFrame({**columns, "label": ["x"], "score_y": [0.25], "score_x": [0.75]}), ("y", "x"))


@pytest.mark.parametrize("unheard", [False, True])
def test_after_a_fault_at_any_change_another_machine_goes_on(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, unheard: bool
) -> None:
    fault = Fault(monkeypatch)
    trial(RunDir(machines.use("whole") / "runs/r"))
    wanted, changes = stored(), -1 - fault.left
    assert len(wanted) == 5 and changes == 20
    for number in range(changes):
        MemoryFileSystem.store.clear()
        fault.left, fault.after = number, unheard
        run = RunDir(machines.use(f"{number}-first") / "runs/r")
        with pytest.raises(OSError, match="the storage fails"):
            trial(run)
        assert unheard or stored() == mirrored(machines.use(f"{number}-first"))
        saved = json.loads(stored().get("runs/r/a/fold0/state.json", b'{"iteration": 0}'))["iteration"]

        fault.left = -1
        head = RunDir(machines.use(f"{number}-second") / "runs/r")
        storage.pull(head.root)
        done = (head.trial(TRIAL) / "result.json").exists()
        assert done == (head.result(TRIAL, "h") is not None), f"change {number}: a result whose files are not there"
        if not done:
            assert trial(head) >= saved, f"change {number}: saved state is lost"
            assert stored() == mirrored(machines.use(f"{number}-second")) == wanted
