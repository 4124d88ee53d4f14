"""Planning: what trains as one trial, how many fit, and what to change where none does."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from cxrtl.config import Experiment, Recipe, Resources, parse
from cxrtl.data import flat
from cxrtl.errors import PlanError, TrialError
from cxrtl.orchestrate import plan, room
from cxrtl.orchestrate.cluster import Node
from cxrtl.orchestrate.probe import Prober, Share
from cxrtl.records import Plan, Prepared


def experiment(**train: object) -> Experiment:
    raw = {"name": "x", "data": {"source": "phantom"}, "train": {"init": "scratch", "budgets": [5, 10], **train}}
    return parse({**raw, "arm": [{"name": "a"}, {"name": "b", "train": {"budgets": [7]}}]})


def probes(seconds: float = 2.0, size: int = 10) -> dict[str, plan.Probe]:
    return {name: plan.Probe("cpu", "", "fp32", seconds, size) for name in ("a", "b")}


def test_budgets_are_milestones_of_one_trial() -> None:
    found = plan.trials(experiment(), 2)
    assert [(t.arm, t.fold, t.budgets, t.folder) for t in found] == [
        ("a", 0, (5, 10), "a/fold0"),
        ("b", 0, (7,), "b/fold0"),
        ("a", 1, (5, 10), "a/fold1"),
        ("b", 1, (7,), "b/fold1"),
    ]


@pytest.mark.parametrize("change", [{"independent": True}, {"schedule": "cosine"}])
def test_budgets_are_trials_of_their_own_where_the_way_depends_on_the_length(change: dict[str, object]) -> None:
    found = [t for t in plan.trials(experiment(**change), 1) if t.arm == "a"]
    assert [(t.budgets, t.folder) for t in found] == [((5,), "a/fold0/budget5"), ((10,), "a/fold0/budget10")]


@pytest.mark.parametrize(
    ("resources", "nodes", "fit"),
    [
        ({}, [Node(2, 0)], 2),
        ({"cpus_per_fold": 2}, [Node(3, 0), Node(4, 0)], 3),
        ({}, [Node(2, 0), Node(16, 2)], 2),  # auto: a GPU each, where there are GPUs
        ({"gpus_per_fold": 0.25}, [Node(16, 1)], 4),
        ({"gpus_per_fold": 0.25}, [Node(3, 1)], 3),
        ({"max_concurrent": 1}, [Node(8, 0)], 1),
        ({"gpus_per_fold": 0.0}, [Node(4, 1)], 4),
        ({"workers_per_fold": 2}, [Node(3, 0), Node(2, 0)], 2),  # of one fold, on two nodes
        ({"workers_per_fold": 4}, [Node(16, 8), Node(4, 1)], 2),
    ],
)
def test_slots(resources: dict[str, object], nodes: list[Node], fit: int) -> None:
    knobs = Resources.model_validate({"cpus_per_fold": 1, **resources})
    share = plan.shares(knobs, nodes, 100)[0]
    assert plan.at_once(share, nodes, 100, knobs.max_concurrent) == fit


def drawn(folder: Path, nodes: list[Node], share: Share, found: dict[str, plan.Probe], **resources: object) -> Plan:
    made = experiment().model_copy(update={"resources": Resources.model_validate(resources)})
    return plan.make(made, plan.trials(made, 3), ["a/fold0"], nodes, share, found, folder, phantom(folder))


def test_plan_counts_what_is_left(tmp_path: Path) -> None:
    found = drawn(tmp_path, [Node(2, 0)], Share(1, 0), probes())
    assert len(found.todo) == 5 and (found.concurrent, found.processes, found.waves) == (2, 2, 3)
    assert found.estimated_seconds == pytest.approx(48)  # 20, 14, 14 beside 20, 14
    assert found.disk_needed == 10 * (2 * (2 + 3) + 3 * (1 + 3))
    assert [(each.arm, each.trials, each.seconds, each.cost) for each in found.estimates] == [
        ("a", 2, 40.0, None),
        ("b", 3, 42.0, None),
    ]


def test_plan_says_what_each_node_holds_and_what_it_costs(tmp_path: Path) -> None:
    nodes = [Node(5, 0, name="one"), Node(2, 0, name="two"), Node(1, 0, name="three")]
    found = drawn(tmp_path, nodes, Share(2, 0), probes(), cost_per_node_hour=3.6, currency="EUR")
    assert [(node.name, node.processes) for node in found.nodes] == [("one", 2), ("two", 1), ("three", 0)]
    assert found.cpus_free == 2
    assert found.estimated_seconds == pytest.approx(34)  # 20, 14 and 20, 14 and 14
    assert found.cost == pytest.approx(3.6 * 2 * 34 / 3600) and found.currency == "EUR"  # two nodes hold folds
    costs = [each.cost or 0 for each in found.estimates]
    assert sum(costs) == pytest.approx(found.cost) and costs[0] / costs[1] == pytest.approx(40 / 42)


def test_plan_says_how_much_of_a_gpu_a_fold_takes(tmp_path: Path) -> None:
    gib = 2**30
    found = {
        name: plan.Probe("cuda", "", "bf16", 1.0, 10, gpu_memory=16 * gib, gpu_used=used * gib, memory=gib)
        for name, used in (("a", 2), ("b", 3))
    }
    laid = drawn(tmp_path, [Node(8, 2, 64 * gib)], Share(4, 1.0, 2), found)
    fold = (3 * gib + room.CUDA_CONTEXT + flat.size(phantom(tmp_path))) // 2  # the images lie there once for both
    assert (laid.gpu_bytes_per_fold, laid.gpu_bytes, laid.process_bytes) == (fold, 16 * gib, gib)
    assert (laid.concurrent, laid.processes, laid.nodes[0].processes) == (4, 2, 2)


def test_longest_trials_start_first_and_packs_share_a_process() -> None:
    todo = plan.trials(experiment(), 2)
    wanted = [("b/fold0", "b/fold1"), ("a/fold0", "a/fold1")]  # 7 steps of 3 seconds, 10 of 2
    found = plan.packs(todo, {"a": 2.0, "b": 3.0}, 2)
    assert [tuple(trial.name for trial in pack) for pack in found] == wanted
    assert len(plan.packs(todo, {"a": 2.0, "b": 3.0}, 3)) == 2


@pytest.mark.parametrize(
    ("seconds", "slots", "end"),
    [
        ([], 3, 0),
        ([5], 3, 5),
        ([5, 4, 3, 3], 2, 8),  # 5, 3 beside 4, 3: the slot of the 4 frees first
        ([1] * 10, 4, 3),
        ([3, 3, 2, 2, 2], 2, 7),
    ],
)
def test_folds_fill_slots_as_they_free(seconds: list[float], slots: int, end: float) -> None:
    assert plan.makespan(seconds, slots) == end


def test_ten_thousand_trials_on_five_hundred_nodes_are_planned_in_a_moment(tmp_path: Path) -> None:
    arms = [{"name": f"a{number}"} for number in range(100)]
    made = parse(
        {"name": "x", "data": {"source": "phantom"}, "train": {"init": "scratch", "budgets": [9]}, "arm": arms}
    )
    found = {f"a{number}": plan.Probe("cpu", "", "fp32", 1.0 + number, 10) for number in range(100)}
    trials = plan.trials(made, 100)
    done = [trial.name for trial in trials[:5000]]
    nodes = [Node(4, 0, name=str(number)) for number in range(500)]
    laid = plan.make(made, trials, done, nodes, Share(2, 0), found, tmp_path, phantom(tmp_path))
    assert (len(trials), len(laid.todo), laid.concurrent, laid.waves) == (10_000, 5000, 1000, 5)
    assert sum(node.processes for node in laid.nodes) == 1000
    assert laid.estimated_seconds >= sum(each.seconds for each in laid.estimates) / 1000


@pytest.mark.parametrize(
    ("resources", "nodes", "todo", "wanted"),
    [
        ({}, [Node(2, 0)], 10, [Share(1, 0), Share(2, 0)]),
        ({}, [Node(16, 0)], 10, [Share(1, 0), Share(2, 0), Share(4, 0), Share(8, 0), Share(16, 0)]),
        ({}, [Node(64, 0)], 10, [Share(4, 0), Share(8, 0), Share(16, 0), Share(32, 0), Share(64, 0)]),
        ({}, [Node(8, 0)], 1, [Share(8, 0)]),  # one fold: nothing else wants the cores
        ({"max_concurrent": 2}, [Node(8, 0)], 10, [Share(4, 0), Share(8, 0)]),
        ({"cpus_per_fold": 3}, [Node(8, 0)], 10, [Share(3, 0)]),
        ({}, [Node(16, 2)], 10, [Share(4, 1), *(Share(4, 1, folds) for folds in (2, 3, 4, 5, 8))]),  # 5: one wave
        ({}, [Node(4, 1)], 10, [Share(4, 1), *(Share(4, 1, folds) for folds in (2, 4, 5, 8, 10))]),
        ({}, [Node(4, 1)], 50, [Share(4, 1), *(Share(4, 1, folds) for folds in (2, 4, 8))]),
        ({"max_concurrent": 6}, [Node(4, 1)], 50, [Share(4, 1), *(Share(4, 1, folds) for folds in (2, 3, 4, 6))]),
        ({}, [Node(2, 1)], 3, [Share(2, 1), Share(2, 1, 2), Share(2, 1, 3)]),
        ({"folds_per_gpu": 3}, [Node(2, 1)], 10, [Share(2, 1, 3)]),
        ({"gpus_per_fold": 0.5}, [Node(8, 1)], 10, [Share(4, 0.5)]),
        ({"workers_per_fold": 2}, [Node(8, 0)], 2, [Share(2, 0, workers=2), Share(4, 0, workers=2)]),
        ({"workers_per_fold": 2}, [Node(16, 2)], 10, [Share(4, 1, workers=2)]),
    ],
)
def test_layouts_left_open(resources: dict[str, object], nodes: list[Node], todo: int, wanted: list[Share]) -> None:
    assert plan.shares(Resources.model_validate(resources), nodes, todo) == wanted


def test_a_run_keeps_the_threads_it_was_begun_with(tmp_path: Path) -> None:
    assert plan.shares(Resources(), [Node(8, 0)], 10, threads=2) == [Share(2, 0)]
    made, prober = experiment(), Prober({}, phantom(tmp_path), {}, {})
    with pytest.raises(PlanError, match="begun with 4 CPUs a fold"):
        plan.lay_out(made, made.recipes, plan.trials(made, 2), [Node(2, 0)], prober, threads=4)


class Timed(Prober):
    """Steps that take what the test says, by threads."""

    seconds: dict[int, float]

    def time(self, recipe: Recipe, share: Share, processes: int) -> plan.Probe:
        return plan.Probe("cpu", "", "bf16", self.seconds[share.cpus], 10)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 1.0, 2: 0.4}, 2),  # two threads more than halve a step
        ({1: 1.0, 2: 0.51}, 1),
        ({1: 1.0, 2: 0.49}, 1),  # by less than timing can tell
    ],
)
def test_threads_are_doubled_where_that_ends_the_run_sooner(
    seconds: dict[int, float], chosen: int, tmp_path: Path
) -> None:
    prober = Timed({}, phantom(tmp_path), {}, {})
    object.__setattr__(prober, "seconds", seconds)
    made = experiment()
    todo = plan.trials(made, 10)
    share, found = plan.lay_out(made, made.recipes, todo, [Node(2, 0)], prober)
    assert share.cpus == chosen and list(found) == ["a", "b"]
    assert found["a"].step_seconds == seconds[chosen]


def phantom(folder: Path) -> Prepared:
    return Prepared(folder, ("n", "y"), 32, 10, True, "hash")


def test_a_pack_that_would_not_fit_a_gpu_is_not_tried(tmp_path: Path) -> None:
    tried = []

    class Measured(Prober):
        def time(self, recipe: Recipe, share: Share, processes: int) -> plan.Probe:
            tried.append(share.folds)
            used = 2 * 2**30 * share.folds
            return plan.Probe("cuda", "", "bf16", 1.0, 10, gpu_memory=5 * 2**30, gpu_used=used)

    made = experiment()
    prober = Measured({}, phantom(tmp_path), {}, {})
    share, _ = plan.lay_out(made, made.recipes[:1], plan.trials(made, 10), [Node(8, 1)], prober)
    assert share == Share(4, 1.0, 2) and tried == [1, 2]


@pytest.mark.parametrize(
    ("steps", "chosen", "tried"),
    [  # ten folds on one GPU, seconds a step by the folds that share it
        ({1: 1.0, 2: 1.2, 4: 2.0, 5: 2.4, 8: 3.6, 10: 4.3}, 10, [1, 2, 4, 5, 8, 10]),  # one wave, not 4.8 s
        ({1: 1.0, 2: 1.2, 4: 2.0, 5: 2.4, 8: 3.6, 10: 4.7}, 5, [1, 2, 4, 5, 8, 10]),  # by less than timing can tell
        ({1: 1.0, 2: 1.2, 4: 1.6, 5: 2.3, 8: 4.0}, 4, [1, 2, 4, 5]),  # 4, 4 and 2: 4.4 s; five get on more slowly
        ({1: 1.0, 2: 1.9, 4: 3.8}, 2, [1, 2, 4]),
        ({1: 1.0, 2: 2.0}, 1, [1, 2]),
    ],
)
def test_folds_share_a_gpu_as_ends_all_of_them_soonest(
    steps: dict[int, float], chosen: int, tried: list[int], tmp_path: Path
) -> None:
    found = []

    class Measured(Prober):
        def time(self, recipe: Recipe, share: Share, processes: int) -> plan.Probe:
            found.append(share.folds)
            return plan.Probe("cuda", "", "bf16", steps[share.folds], 10, gpu_memory=2**40)

    made = experiment()
    prober = Measured({}, phantom(tmp_path), {}, {})
    share, _ = plan.lay_out(made, made.recipes[:1], plan.trials(made, 10)[::2], [Node(8, 1)], prober)
    assert (share.folds, found) == (chosen, tried)


def test_a_pack_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    """Most likely of too little memory; the first has nothing before it, and is an error."""

    class Measured(Prober):
        most, ended = 2, 0

        def time(self, recipe: Recipe, share: Share, processes: int) -> plan.Probe:
            if share.folds > self.most:
                raise TrialError("out of memory")
            return plan.Probe("cuda", "", "bf16", 1.0, 10, gpu_memory=2**40)

        def __exit__(self, *_: object) -> None:
            Measured.ended += 1

    made, prober = experiment(), Measured({}, phantom(tmp_path), {}, {})
    given = made, made.recipes[:1], plan.trials(made, 10), [Node(8, 1)], prober
    assert plan.lay_out(*given)[0].folds == 2 and Measured.ended == 1
    Measured.most = 0
    with pytest.raises(TrialError, match="out of memory"):
        plan.lay_out(*given)


@pytest.mark.slow
def test_trials_start_in_their_order_on_processes_that_stay(ray_instance: None, tmp_path: Path) -> None:
    from ray import tune

    from cxrtl.orchestrate import sweep

    log = tmp_path / "log"

    def trial(config: dict[str, Any]) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()} {config['trials']}\n")
        time.sleep(0.2)
        tune.report({"broken": ""})

    names = [f"arm/fold{number}" for number in range(20)]
    results = sweep.schedule(trial, [[name] for name in names], {"CPU": 1}, 2)
    assert len(results) == 20 and not results.errors
    started = [line.split() for line in log.read_text().splitlines()]
    places = [names.index(name) for _, name in started]
    assert sorted(places) == list(range(20))
    assert all(abs(place - turn) <= 1 for turn, place in enumerate(places)), places  # two at once may change places
    assert len({process for process, _ in started}) == 2
