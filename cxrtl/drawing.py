"""What the console prints of a plan and of the doctor's findings, as tables and lines; nothing is printed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from cxrtl.orchestrate.checks import Check
from cxrtl.records import Plan
from cxrtl.rundir import RunDir

GROUPED = 16  # nodes; of more, those that are alike share a line
STATES = {"ok": "ok", "warn": "[yellow]warn[/yellow]", "fail": "[bold red]fail[/bold red]"}


def duration(seconds: float | None) -> str:
    """`90` → `1:30`; `?` where unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plan_record(run: RunDir, plan: Plan) -> dict[str, Any]:
    """For machines: times in seconds, sizes in bytes."""
    return {
        "run": str(run.root),
        "trials": len(plan.trials),
        "done": len(plan.done),
        "concurrent": plan.concurrent,
        "waves": plan.waves,
        "device": plan.device,
        "precision": plan.precision,
        "cpus_per_fold": plan.cpus_per_fold,
        "gpus_per_fold": plan.gpus_per_fold / plan.folds_per_process,
        "gpu_bytes_per_fold": plan.gpu_bytes_per_fold,
        "cpus_free": plan.cpus_free,
        "streams": plan.streams,
        "estimated_seconds": round(plan.estimated_seconds),
        "cost": plan.cost,
        "currency": plan.currency,
        "disk_needed_bytes": plan.disk_needed,
        "disk_free_bytes": plan.disk_free,
        "nodes": [asdict(node) for node in plan.nodes],
        "arms": [asdict(arm) for arm in plan.estimates],
    }


def plan_line(run: RunDir, plan: Plan) -> str:
    gpus = f", {plan.gpus_per_fold:g} GPU" if plan.gpus_per_fold else ""
    workers = f"{plan.workers_per_fold} × " if plan.workers_per_fold > 1 else ""
    packed = f", {plan.folds_per_process} to a process" if plan.folds_per_process > 1 else ""
    cost = "" if plan.cost is None else f", {_money(plan.cost, plan)}"
    return (
        f"[bold]{escape(run.name)}[/bold]: {len(plan.todo)} of {len(plan.trials)} trials to train, "
        f"{plan.concurrent} at once{packed} in {plan.waves} wave(s), each on {workers}{plan.cpus_per_fold} CPU{gpus} "
        f"in {plan.precision}; about {duration(plan.estimated_seconds)} of training{cost}, "
        f"{plan.disk_needed / 1e6:,.0f} MB on disk"
    )


def plan_tables(plan: Plan) -> Iterator[Table | str]:
    """Where processes run, what each arm takes, and what is left."""
    nodes = _table("node", "CPUs", "GPUs", "memory, GiB", "processes")
    rows = [(f"{n.cpus:g}", f"{n.gpus:g}", f"{n.memory / 2**30:.0f}", str(n.processes)) for n in plan.nodes]
    if len(rows) > GROUPED:
        for row, count in Counter(rows).items():
            nodes.add_row(f"{count} alike, each", *row)
    else:
        for node, row in zip(plan.nodes, rows, strict=True):
            nodes.add_row(escape(node.name), *row)
    yield nodes
    arms = _table("arm", "trials", "a step, s", "a trial", "all trials", "cost")
    for arm in plan.estimates:
        cost = "" if arm.cost is None else _money(arm.cost, plan)
        times = f"{arm.step_seconds:.3g}", duration(arm.fold_seconds), duration(arm.seconds)
        arms.add_row(escape(arm.arm), str(arm.trials), *times, cost)
    yield arms
    if plan.gpu_bytes:
        share = min(plan.gpus_per_fold, 1) / plan.folds_per_process
        took = f"{plan.gpu_bytes_per_fold / 2**30:.1f} of {plan.gpu_bytes / 2**30:.1f} GiB as measured"
        yield f"A fold takes {share:.3g} of a GPU ({took}); {plan.cpus_per_fold} CPUs beside it read, draw and save."
    images = "are read from disk as they are used" if plan.streams else "are in memory"
    yield (
        f"A process takes {plan.process_bytes / 2**30:.1f} GiB of memory beside images, which {images}. "
        f"{plan.cpus_free:g} CPUs are held by no fold. {plan.disk_needed / 1e9:.2f} GB of disk are needed, "
        f"{plan.disk_free / 1e9:.0f} GB are free."
    )


def doctor_table(checks: Sequence[Check]) -> Table:
    table = _table("", "check", "found")
    for check in checks:
        advice = f"\n[bold]→ {escape(check.do)}[/bold]" if check.do else ""
        table.add_row(STATES[check.state], check.name, escape(check.found) + advice)
    return table


def _money(cost: float, plan: Plan) -> str:
    return f"{cost:,.2f} {escape(plan.currency)}"


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in names:
        numeric = name not in ("", "node", "arm", "check", "found")
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    return table
