"""Planning: what trains as one trial, how many fit, and what to change where none does."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrtl.config import Experiment, Recipe, Resources, parse
from cxrtl.errors import PlanError
from cxrtl.orchestrate import plan
from cxrtl.orchestrate.cluster import Node
from cxrtl.orchestrate.probe import Prober, Share
from cxrtl.records import Prepared


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
    ],
)
def test_slots(resources: dict[str, object], nodes: list[Node], fit: int) -> None:
    knobs = Resources.model_validate({"cpus_per_fold": 1, **resources})
    share = plan.shares(knobs, nodes, 100)[0]
    assert plan.at_once(share, nodes, 100, knobs.max_concurrent) == fit


@pytest.mark.parametrize(
    ("resources", "advice"),
    [
        ({"cpus_per_fold": 3}, "set resources.cpus_per_fold to 2 or less"),
        ({"gpus_per_fold": 1.0}, "set resources.gpus_per_fold to 0 or less"),
    ],
)
def test_what_cannot_start_is_refused_with_the_smallest_change(resources: dict[str, object], advice: str) -> None:
    with pytest.raises(PlanError, match=advice):
        nodes = [Node(2, 0), Node(1, 0)]
        plan.slots(plan.shares(Resources.model_validate(resources), nodes, 10)[0], nodes)


def test_plan_counts_what_is_left(tmp_path: Path) -> None:
    trials = plan.trials(experiment(), 3)
    drawn = plan.make(experiment(), trials, ["a/fold0"], [Node(2, 0)], Share(1, 0), probes(), tmp_path)
    assert len(drawn.todo) == 5 and (drawn.concurrent, drawn.waves) == (2, 3)
    assert drawn.estimated_seconds == pytest.approx(2.0 * (2 * 10 + 3 * 7) / 2)
    assert drawn.disk_needed == 10 * (2 * (2 + 3) + 3 * (1 + 3))


def test_too_small_a_disk_is_refused(tmp_path: Path) -> None:
    trials = plan.trials(experiment(), 3)
    with pytest.raises(PlanError, match="make room"):
        plan.make(experiment(), trials, [], [Node(2, 0)], Share(1, 0), probes(size=10**15), tmp_path)


@pytest.mark.parametrize(
    ("images", "nodes", "share", "size", "streams"),
    [
        ("auto", [Node(2, 0, 600)], Share(1, 0), 100, False),  # two folds and the object store: half
        ("auto", [Node(2, 0, 600)], Share(1, 0), 101, True),
        ("auto", [Node(8, 0, 600)], Share(4, 0), 101, True),
        ("auto", [Node(9, 0, 600)], Share(1, 0), 100, False),  # no more than two are to do
        ("auto", [Node(2, 0, 9000), Node(2, 0, 600)], Share(1, 0), 101, True),
        ("auto", [Node(2, 0, 9000), Node(1, 0, 600)], Share(2, 0), 101, False),  # the small one holds none
        ("auto", [Node(4, 1, 9000)], Share(1, 1.0, 2), 20, False),  # on a GPU of 80 bytes
        ("auto", [Node(4, 1, 9000)], Share(1, 1.0, 2), 21, True),
        ("auto", [Node(4, 1, 9000)], Share(1, 0.5), 21, True),
        ("memory", [Node(2, 0, 600)], Share(1, 0), 101, False),
        ("stream", [Node(2, 0, 600)], Share(1, 0), 1, True),
    ],
)
def test_pixels_stream_where_their_copies_take_half_of_the_memory(
    images: str, nodes: list[Node], share: Share, size: int, streams: bool
) -> None:
    made = experiment().model_copy(update={"resources": Resources.model_validate({"images": images})})
    found = {"a": plan.Probe("cuda", "", "bf16", 1.0, 10, gpu_memory=80)}
    assert plan.streams(made, nodes, share, 2, found, size) == streams


@pytest.mark.parametrize(
    ("resources", "nodes", "todo", "wanted"),
    [
        ({}, [Node(2, 0)], 10, [Share(1, 0), Share(2, 0)]),
        ({}, [Node(16, 0)], 10, [Share(1, 0), Share(2, 0), Share(4, 0), Share(8, 0), Share(16, 0)]),
        ({}, [Node(64, 0)], 10, [Share(4, 0), Share(8, 0), Share(16, 0), Share(32, 0), Share(64, 0)]),
        ({}, [Node(8, 0)], 1, [Share(8, 0)]),  # one fold: nothing else wants the cores
        ({"max_concurrent": 2}, [Node(8, 0)], 10, [Share(4, 0), Share(8, 0)]),
        ({"cpus_per_fold": 3}, [Node(8, 0)], 10, [Share(3, 0)]),
        ({}, [Node(16, 2)], 10, [Share(4, 1), Share(4, 1, 2), Share(4, 1, 4), Share(4, 1, 8)]),
        ({}, [Node(2, 1)], 3, [Share(2, 1), Share(2, 1, 2)]),
        ({"folds_per_gpu": 3}, [Node(2, 1)], 10, [Share(2, 1, 3)]),
        ({"gpus_per_fold": 0.5}, [Node(8, 1)], 10, [Share(4, 0.5)]),
    ],
)
def test_layouts_left_open(resources: dict[str, object], nodes: list[Node], todo: int, wanted: list[Share]) -> None:
    assert plan.shares(Resources.model_validate(resources), nodes, todo) == wanted


def test_a_run_keeps_the_threads_it_was_begun_with() -> None:
    assert plan.shares(Resources(), [Node(8, 0)], 10, threads=2) == [Share(2, 0)]


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
