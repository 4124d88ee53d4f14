"""A fold shared out among two workers: the numbers of one, also where a worker is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cxrtl.errors import TrialError
from cxrtl.learn.parallel import PeerLost
from cxrtl.orchestrate import group
from cxrtl.orchestrate.probe import Share
from tests.orchestrate.helpers import cxrtl, experiment, scores, start, training, wait_for
from tests.orchestrate.test_notice import beyond

KNOBS = ["folds.kind=holdout", "train.precision=fp32", "train.rate=1e-4", "train.budgets=[10, 50]"]
SAME = [word for knob in KNOBS for word in ("--set", knob)]


def beside(pid: int) -> int | None:
    """The other worker of the node that `pid` is one of."""
    parent = _status(pid)["PPid"]
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*") if _status(int(path.name)).get("PPid") == parent]
    workers = [other for other in found if b"RayTrainWorker" in Path(f"/proc/{other}/cmdline").read_bytes()]
    return next((other for other in workers if other != pid), None)


def _status(pid: int) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # ended meanwhile
        return {}
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


@pytest.mark.slow
def test_two_workers_one_of_them_killed_give_the_predictions_of_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    done = cxrtl("run", experiment(tmp_path), "--home", one, *SAME)
    assert done.returncode == 0, done.stderr
    shutil.copytree(one / "prepared", two / "prepared")
    shared_out = ["--set", "resources.workers_per_fold=2"]
    process = start("run", experiment(tmp_path), "--home", two, *SAME, *shared_out, log=tmp_path / "log")
    beat = wait_for(lambda: training(two, beyond=10), process)
    other = wait_for(lambda: beside(int(beat["process"].split()[0])), process)
    os.kill(other, signal.SIGKILL)
    assert process.wait(timeout=240) == 0, (tmp_path / "log").read_text()
    result = json.loads((two / "runs/small/mobilenet_v3_small/fold0/result.json").read_text())
    assert result["tries"] == 2
    wanted, found = scores(one), scores(two)
    assert found.keys() == wanted.keys() and len(found) == 2
    for name, frame in wanted.items():
        columns = [column for column in frame if column.startswith("score_")]
        np.testing.assert_allclose(found[name][columns], frame[columns], rtol=0, atol=1e-4)
        assert found[name].drop(columns=columns).equals(frame.drop(columns=columns))


@pytest.mark.slow
def test_sigterm_to_any_worker_costs_no_step(tmp_path: Path) -> None:
    knobs = [*KNOBS, "train.budgets=[10, 300]", "train.checkpoint_every=100000", "resources.workers_per_fold=2"]
    words = [word for knob in knobs for word in ("--set", knob)]
    process = start("run", experiment(tmp_path), "--home", tmp_path, *words, log=tmp_path / "log")
    fold = tmp_path / "runs/small/mobilenet_v3_small/fold0"
    beat = wait_for(lambda: beyond(tmp_path, 20), process)
    other = wait_for(lambda: beside(int(beat["process"].split()[0])), process)
    os.kill(other, signal.SIGTERM)
    assert process.wait(timeout=150) == 0, (tmp_path / "log").read_text()
    assert json.loads((fold / "result.json").read_text())["tries"] == 2
    events = [json.loads(line) for line in (fold / "log.jsonl").read_text().splitlines()]
    (again,) = [event for event in events if event["event"] == "restarted"]
    assert again["iteration"] >= beat["iteration"]  # nothing else was saved but at the first budget


def test_a_trial_that_trains_in_workers_holds_no_cpu() -> None:
    assert group.trial_resources(Share(2, 1.0)) == {"CPU": 2, "GPU": 1.0}
    assert "CPU" not in group.trial_resources(Share(2, 1.0, workers=2))


def test_a_worker_that_left_after_notice_is_told_from_one_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.exceptions import RayActorError
    from ray.train import TrainingFailedError, WorkerGroupError

    faults: dict[int, Exception] = {}

    class Failing:
        def __init__(self, *_: object, **__: object) -> None: ...

        def fit(self) -> None:
            raise WorkerGroupError("gone", faults)

    monkeypatch.setattr(group, "TorchTrainer", Failing)
    job = SimpleNamespace(share=Share(1, 0.0, workers=2))
    told, lost = RayActorError(preempted=True), PeerLost("gone")
    for seen, wanted in (([lost, told], RayActorError), ([lost], TrainingFailedError), ([told, KeyError()], KeyError)):
        faults.clear()
        faults.update(enumerate(seen))
        with pytest.raises(wanted):
            group.train(lambda _: None, job, None, [], None)  # type: ignore[arg-type]


def test_what_ray_says_of_a_worker_is_no_fault_of_the_loop() -> None:
    from ray.exceptions import RayActorError

    assert group._died(RayActorError()) and group._died(PeerLost("gone"))
    assert not group._died(TrialError("diverged")) and not group._died(RuntimeError("shape"))
