"""What people and programs are shown of a plan and of the doctor's findings."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cxrtl import drawing
from cxrtl.orchestrate.checks import Check
from cxrtl.records import ArmEstimate, NodePlan, Plan, Trial
from cxrtl.rundir import RunDir

GIB = 2**30
PLAN = Plan(
    trials=tuple(Trial("a", fold, (5,), f"a/fold{fold}") for fold in range(10)),
    done=("a/fold0",),
    concurrent=4,
    waves=3,
    cpus_per_fold=4,
    gpus_per_fold=1.0,
    folds_per_process=2,
    workers_per_fold=1,
    nodes=(NodePlan("10.0.0.1", 8, 1, 64 * GIB, 1), NodePlan("10.0.0.2", 16, 1, 64 * GIB, 1)),
    cluster_cpus=24,
    cluster_gpus=2,
    process_bytes=2 * GIB,
    gpu_bytes_per_fold=3 * GIB,
    gpu_bytes=24 * GIB,
    streams=False,
    device="cuda",
    precision="bf16",
    estimates=(ArmEstimate("a", 0.0123, 10, 61.0, 9, 3723.0, 12.5),),
    estimated_seconds=1861.0,
    cost=12.5,
    currency="EUR",
    disk_needed=3 * 10**9,
    disk_free=10**12,
)


def shown(plan: Plan) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200)
    console.print(drawing.plan_line(RunDir(Path("runs/x")), plan))
    for part in drawing.plan_tables(plan):
        console.print(part)
    return out.getvalue()


@pytest.mark.parametrize(
    "said",
    [
        "x: 9 of 10 trials to train, 4 at once, 2 to a process in 3 wave(s), each on 4 CPU, 1 GPU in bf16",
        "about 31:01 of training, 12.50 EUR, 3,000 MB on disk",
        "10.0.0.2    16     1           64          1",
        "1:02:03",  # all trials of the arm, one after another
        "A fold takes 0.5 of a GPU (3.0 of 24.0 GiB as measured); 4 CPUs beside it read, draw and save.",
        "16 CPUs are held by no fold",
        "2.0 GiB of memory beside images, which are in memory",
    ],
)
def test_plan_in_words(said: str) -> None:
    assert said in shown(PLAN)


def test_without_a_price_no_cost_is_shown() -> None:
    free = replace(PLAN, cost=None, currency="", estimates=(replace(PLAN.estimates[0], cost=None),))
    assert "12.5" not in shown(free) and "EUR" not in shown(free)


def test_nodes_that_are_alike_share_a_line_where_there_are_many() -> None:
    many = tuple(NodePlan(f"10.0.0.{n}", 8, 1, 64 * GIB, int(n < 20)) for n in range(50))
    text = shown(replace(PLAN, nodes=many))
    assert "20 alike, each" in text and "30 alike, each" in text and "10.0.0.7" not in text


def test_plan_for_machines() -> None:
    record = json.loads(json.dumps(drawing.plan_record(RunDir(Path("runs/x")), PLAN)))
    assert record["nodes"][1] == {"name": "10.0.0.2", "cpus": 16, "gpus": 1, "memory": 64 * GIB, "processes": 1}
    assert record["arms"][0]["cost"] == 12.5 and record["gpus_per_fold"] == 0.5 and record["cpus_free"] == 16


def test_findings_with_what_to_do() -> None:
    out = io.StringIO()
    checks = [Check("clocks", "ok", "a +0.001 s"), Check("storage", "fail", "/x: [not] there", "mount it")]
    Console(file=out, width=100).print(drawing.doctor_table(checks))
    text = out.getvalue()
    assert "ok" in text and "/x: [not] there" in text and "→ mount it" in text


@pytest.mark.parametrize(("seconds", "said"), [(None, "?"), (90, "1:30"), (59.6, "1:00"), (3723, "1:02:03")])
def test_duration(seconds: float | None, said: str) -> None:
    assert drawing.duration(seconds) == said
