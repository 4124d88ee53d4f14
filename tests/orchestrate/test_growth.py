"""On a cluster that starts machines as they are asked for: what is asked, waited for and planned with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cxrtl.config import Recipe, Resources
from cxrtl.errors import PlanError
from cxrtl.orchestrate import cluster, growth, plan, probe
from cxrtl.orchestrate.cluster import Node
from cxrtl.orchestrate.probe import Prober, Share
from cxrtl.records import Prepared
from cxrtl.rundir import RunDir, read_json
from tests.orchestrate import test_plan
from tests.orchestrate.growing import ENVIRONMENT
from tests.orchestrate.helpers import environment, experiment, same, scores

HEAD, WORKER = Node(2, 0, 2**34, "head", "1"), Node(8, 1, 2**35, "worker", "2")


class Growing:
    """A cluster whose first worker comes at the third look, if it comes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, comes: bool = True) -> None:
        self.looks, self.comes = 0, comes
        self.asked: list[dict[str, float]] = []
        self.withdrawn: list[dict[str, float]] = []
        self.said: list[str] = []
        monkeypatch.setattr(growth, "grows", lambda: True)
        monkeypatch.setattr(growth, "LOOK_EVERY", 0)
        monkeypatch.setattr(growth, "placement_group", self.ask)
        monkeypatch.setattr(growth, "placement_group_table", lambda group: {"state": self.state(group)})
        monkeypatch.setattr(growth, "remove_placement_group", self.withdrawn.append)
        monkeypatch.setattr(cluster, "nodes", self.nodes)

    def nodes(self) -> list[Node]:
        self.looks += 1
        return [HEAD, WORKER] if self.looks > 2 and self.comes else [HEAD]

    def ask(self, bundles: list[dict[str, float]]) -> dict[str, float]:
        (bundle,) = bundles
        self.asked.append(bundle)
        return bundle

    def state(self, group: dict[str, float]) -> str:
        return "CREATED" if self.looks > 3 and group is self.asked[-1] else "PENDING"


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> Growing:
    return Growing(monkeypatch)


def resources(**knobs: object) -> Resources:
    return Resources.model_validate(knobs)


def test_the_first_machine_is_waited_for_and_more_are_planned_with(growing: Growing) -> None:
    alive, expected = growth.nodes(resources(gpus_per_fold=1), 10, 0, growing.said.append)
    assert alive == [HEAD, WORKER] and growing.looks == 4  # alive is not enough: it must have taken something
    assert growing.said == ["waiting for the cluster to start a machine with 1 CPU(s) and 1 GPU(s)"]
    assert growing.asked == [{"CPU": 1, "GPU": 1}] * 10 == growing.withdrawn
    assert expected[:2] == alive and [node.slots(4, 1) for node in expected] == [0] + [1] * 10
    assert {node.name for node in expected[2:]} == {"to come"} and not any(node.id for node in expected[2:])


def test_what_a_run_was_begun_with_and_its_limits_are_asked_for(growing: Growing) -> None:
    knobs = resources(gpus_per_fold=1, workers_per_fold=2, max_concurrent=3)
    _, expected = growth.nodes(knobs, 10, 4, growing.said.append)
    assert growing.asked == [{"CPU": 4, "GPU": 1}] * 6 and len(expected) == 7


def test_a_plan_asks_for_one_machine(growing: Growing) -> None:
    _, expected = growth.nodes(resources(gpus_per_fold=1), 10, 0, growing.said.append, ask=False)
    assert len(growing.asked) == 1 and len(expected) == 11


def test_nothing_is_asked_where_a_fold_fits(growing: Growing) -> None:
    alive, expected = growth.nodes(resources(gpus_per_fold=0), 10, 0, growing.said.append)
    assert alive == [HEAD] and growing.asked == growing.said == []
    assert len(expected) == 5  # of two CPUs


def test_a_machine_that_does_not_come_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    growing = Growing(monkeypatch, comes=False)
    monkeypatch.setattr(growth, "WITHIN", 0)
    with pytest.raises(PlanError, match=r"no machine with 1 CPU\(s\) and 1 GPU\(s\) joined.*ray status"):
        growth.nodes(resources(gpus_per_fold=1), 10, 0, growing.said.append)
    assert growing.withdrawn == growing.asked != []


def test_auto_does_not_guess_that_folds_are_for_cpus(growing: Growing) -> None:
    with pytest.raises(PlanError, match=r"Smallest change: --set resources\.gpus_per_fold=1, or 0"):
        growth.nodes(resources(), 10, 0, growing.said.append)
    growing.looks = 3
    assert len(growth.nodes(resources(), 10, 0, growing.said.append)[1]) == 11  # a GPU is there: no guess


def test_a_cluster_that_stays_as_it_is_is_planned_with_as_it_is(
    growing: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "grows", lambda: False)
    assert growth.nodes(resources(gpus_per_fold=1), 10, 0, growing.said.append) == ([HEAD], [HEAD])
    assert growing.asked == []


def test_no_more_machines_are_planned_with_than_anybody_has() -> None:
    few = growth.to_come(Share(1, 1.0), 3, [Node(8, 2), Node(64, 8)])
    assert few == []
    assert len(growth.to_come(Share(1, 1.0), 27, [Node(8, 2), Node(64, 8)])) == 3  # of eight GPUs


@pytest.mark.parametrize(
    ("labels", "grows"), [({growth.GROUP: "head"}, True), ({}, False), (None, False), ({"ray.io/node-id": "1"}, False)]
)
def test_machines_of_an_autoscaler_bear_the_name_of_their_group(
    labels: dict[str, str] | None, grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: Callable[[], list[dict[str, Any]]] = lambda: [{"Alive": True, "Labels": labels}]  # noqa: E731
    monkeypatch.setattr(growth, "ray", SimpleNamespace(nodes=found))
    assert growth.grows() is grows


def test_steps_are_timed_on_the_nodes_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[Share] = []

    def step(recipe: Recipe, start: None, prepared: Prepared, precision: None, share: Share, kept: bool) -> plan.Probe:
        timed.append(share)
        return plan.Probe("cuda", f"GPU {len(timed) % 2}", "bf16", 1.0, 10, gpu_memory=2**40)

    timer = SimpleNamespace(time=SimpleNamespace(remote=step))
    fake = SimpleNamespace(put=lambda it: it, get=lambda it: it)
    fake.remote = lambda **_: lambda _: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: timer))
    monkeypatch.setattr(probe, "ray", fake)
    monkeypatch.setattr(probe, "_reserve", lambda _, count: SimpleNamespace(bundle_specs=[{}] * count))
    fake.exceptions = SimpleNamespace(RayTaskError=KeyError, RayError=OSError)
    there, made = [Node(2, 0), Node(8, 1), Node(8, 1)], test_plan.experiment(budgets=[10])
    prober = Prober({"a": None, "b": None}, test_plan.phantom(tmp_path), {}, {}, there)
    nodes = [*there, *[Node(8, 1, name="to come")] * 8]
    todo = plan.trials(made, 10)[::2]
    share, found = plan.lay_out(made, made.recipes[:1], todo, nodes, prober)
    assert share == Share(4, 1.0) and timed.count(share) == 2  # of ten; more folds to a process end no sooner
    assert found["a"].gpu == "GPU 0 + GPU 1"
    prober.time(made.recipes[0], Share(16, 1.0), 10)  # which nothing there can hold: one waits for what can
    assert timed.count(Share(16, 1.0)) == 1


@pytest.mark.parametrize(
    ("share", "limit", "joined", "most"),
    [
        (Share(1, 0), 0, False, 2),
        (Share(1, 0), 0, True, 5),  # more nodes may join
        (Share(1, 0), 3, True, 3),
        (Share(1, 0, 2), 0, True, 3),
        (Share(1, 0, workers=2), 0, True, 1),
    ],
)
def test_on_a_cluster_trials_start_wherever_there_comes_to_be_room(
    share: Share, limit: int, joined: bool, most: int, tmp_path: Path
) -> None:
    found = test_plan.drawn(tmp_path, [Node(2, 0)], share, test_plan.probes(), max_concurrent=limit)
    assert plan.most_at_once(Resources(max_concurrent=limit), found, joined) == most


@pytest.mark.slow
def test_a_study_ends_on_machines_that_were_not_there_when_it_began(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed / "prepared", tmp_path / "prepared")
    before = read_json(undisturbed / "runs/small/experiment.resolved.json")
    words = [experiment(tmp_path), tmp_path, f"train.precision={before['precision']}", "resources.gpus_per_fold=0"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.orchestrate.growing", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        env={**environment(), **ENVIRONMENT},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["before"], told["concurrent"]) == (1, 2)
    assert "waiting for the cluster to start a machine with 1 CPU(s)" in told["said"]
    assert told["left"] == {"actors": [], "groups": [], "cpus": 0.0}
    assert [result.tries for result in RunDir(tmp_path / "runs/small").results()] == [1, 1]
    assert same(scores(tmp_path), scores(undisturbed))
