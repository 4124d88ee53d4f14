"""What a person or a program sees of a run: one calm display, a line a milestone, or JSON lines."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cxrtl import drawing, storage
from cxrtl.drawing import duration
from cxrtl.errors import CxrtlError
from cxrtl.orchestrate.checks import Check
from cxrtl.records import Plan, Prepared, exclusions
from cxrtl.report import status as reader
from cxrtl.report.numbers import counted
from cxrtl.report.status import State, Status, TrialStatus
from cxrtl.rundir import RunDir

REFRESH = 1.0  # seconds


class Screen:
    """Shows a study: live on a terminal, a line a milestone elsewhere, an object a line with `as_json`; its plan node
    by node if `detailed`.

    While trials run, a thread reads the run's folder, as `cxrtl status` does: the display needs nothing from Ray.
    """

    def __init__(self, as_json: bool = False, detailed: bool = False) -> None:
        self.as_json, self.detailed = as_json, detailed
        self.out, self.err = Console(highlight=False), Console(stderr=True, highlight=False)
        self.live: Live | None = None
        self.watching: threading.Thread | None = None
        self.stop = threading.Event()
        self.shown: set[tuple[str, int]] = set()
        self.counted = 0

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop.set()
        if self.watching:
            self.watching.join()
        self._end_live()

    # what `study.Watcher` asks for

    def stage(self, text: str) -> None:
        self._end_live()
        self._say({"stage": text}, f"[dim]{escape(text)}[/dim]")

    def preparing(self, done: int, total: int) -> None:
        self._tenth("prepared", done, total)

    def predicting(self, done: int, total: int) -> None:
        self._tenth("predicted", done, total)

    def planned(self, run: RunDir, plan: Plan) -> None:
        self._say({"plan": drawing.plan_record(run, plan)}, drawing.plan_line(run, plan))
        if self.detailed and not self.as_json:
            for part in drawing.plan_tables(plan):
                self.out.print(part)

    def examined(self, checks: Sequence[Check]) -> None:
        """What `cxrtl doctor` found."""
        if self.as_json:
            print(json.dumps({"checks": [asdict(check) for check in checks]}), flush=True)
        else:
            self.out.print(drawing.doctor_table(checks))

    def training(self, run: RunDir) -> None:
        self.started = time.monotonic()
        first = reader.read(run)
        self.before = sum(trial.iteration for trial in first.trials)
        self.shown = {(trial.name, b) for trial in first.trials for b in trial.budgets[: trial.reached]}
        if self.out.is_terminal and not self.as_json:
            self.live = Live(self._picture(first), console=self.out, auto_refresh=False)
            self.live.start()
        self.watching = threading.Thread(target=self._watch, args=(run, first), daemon=True)
        self.watching.start()

    def log(self, line: str) -> None:
        """A line of a job's log; with `as_json` the object that the job printed, or one that holds the line."""
        print(line if not self.as_json or line.startswith("{") else json.dumps({"log": line}), flush=True)

    def events(self, found: list[dict[str, Any]]) -> None:
        for event in found:
            print(json.dumps(event), flush=True)

    # results

    def finished(self, run: RunDir, report: Path, done_before: int, trials: int) -> None:
        note = f" (all {trials} trials were done before)" if done_before == trials else ""
        self._say({"done": run.name, "report": str(report)}, f"[bold]Done[/bold]{note}. Report: {_where(report)}")

    def written(self, report: Path) -> None:
        self._say({"report": str(report)}, f"Report: {_where(report)}")

    def prepared(self, prepared: Prepared) -> None:
        record = {
            "folder": str(prepared.folder),
            "images": prepared.images,
            "counts": prepared.counts,
            "skipped": prepared.skipped,
            "flow": [asdict(step) for step in prepared.flow],
            "grouped": prepared.grouped,
            "dataset_hash": prepared.dataset_hash,
        }
        counts = ", ".join(f"{count} {escape(name)}" for name, count in prepared.counts.items())
        patients = "patients known" if prepared.grouped else "patients unknown"
        lines = [f"{prepared.images} images ({counts}), {patients}"]
        for step, images, persons in exclusions(prepared.flow):
            lines.append(f"  left out: {escape(step)}, {counted(images, persons)}")
        lines.append(escape(str(prepared.folder)))
        self._say(record, "\n".join(lines))

    def audited(self, folder: Path, certificate: dict[str, Any], found: dict[str, Any]) -> None:
        """A line for each check, the look-alikes, and a line for each shortcut tried."""
        if self.as_json:
            print(json.dumps({"folder": str(folder), "certificate": certificate, **found}), flush=True)
            return
        for check in certificate["checks"]:
            self.out.print(f"{'passed' if check['passed'] else '[bold red]failed[/bold red]'}  {check['name']}")
        for note in certificate["notes"]:
            self.out.print(f"note    {escape(note)}", soft_wrap=True)
        alike = found["lookalikes"]
        more = "" if alike["whole"] else "; there may be more, not all were compared"
        self.out.print(f"{alike['pairs']} look-alike pair(s) across folds, {alike['mirrored']} of them mirrored{more}")
        for pair in alike["nearest"][:10]:
            self.out.print(f"        {' '.join(pair['images'])}, {pair['bits']} bits apart", highlight=False)
        for row in found["shortcuts"]:
            auc = "–" if row["auc"] is None else f"{row['auc']:.3f}"
            interval = f" ({row['low']:.3f} to {row['high']:.3f})" if row["low"] is not None else ""
            text = f"AUC {auc}{interval} from {row['features']} for {row['target']}: {row['reading']}"
            self.out.print(escape(text), soft_wrap=True)
        self.out.print(escape(str(folder)), soft_wrap=True)

    def measured(self, found: dict[str, Any], path: Path) -> None:
        """The table of `cxrtl bench`."""
        table = Table("loop", "images/s", "share of peak", title=f"{found['backbone']}, {found['size']} px")
        for name, rate in found["images_per_second"].items():
            table.add_row(name, f"{rate:,.1f}", f"{found['share_of_peak'][name]:.0%}")
        self._say({"bench": found}, "")
        if not self.as_json:
            self.out.print(table)
            self.out.print(
                f"cxrtl is {found['over_naive']:.2f} × the naive loop and {found['over_best_plain']:.2f} × the best "
                f"plain one ({found['best_plain']}); medians of {len(found['rounds'])} rounds\n{escape(str(path))}",
                soft_wrap=True,
            )

    def weights(self, entry: dict[str, str], state: str) -> None:
        text = f"[bold]{escape(entry['name'])}[/bold] {state}: {escape(entry['path'])}\n  sha256 {entry['sha256']}; "
        self._say({**entry, "state": state}, f"{text}{escape(entry['licence'])}; {escape(entry['source'])}")

    def status(self, found: Status) -> None:
        if self.as_json:
            print(json.dumps(found.to_json()), flush=True)
            return
        table = Table(box=None, pad_edge=False, title=f"{found.run}", title_justify="left", title_style="bold")
        for name in ("trial", "state", "iteration", "budgets", "images/s", "trained"):
            table.add_column(name, justify="left" if name in ("trial", "state") else "right")
        for trial in found.trials:
            table.add_row(*_cells(trial))
        self.out.print(table)
        counts = ", ".join(f"{found.count(s)} {s}" for s in get_args(State) if found.count(s))
        self.out.print(f"{counts}; {escape(found.note)}" if found.note else counts, soft_wrap=True)

    def predicted(self, table: Path, scored: int, reasons: dict[str, int]) -> None:
        failed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        without = f"; without a score: {failed}" if failed else ""
        text = f"{scored} images scored{without}. Table: {escape(str(table))}"
        self._say({"predictions": str(table), "scored": scored, "unusable": reasons}, text)

    def exported(self, file: Path, difference: float, images: int) -> None:
        text = f"{escape(str(file))}: within {difference:.1g} of PyTorch on {images} images. The card lies beside it."
        self._say({"onnx": str(file), "difference": difference, "images": images}, text)

    def error(self, error: CxrtlError) -> None:
        self._end_live()
        if self.as_json:
            print(json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
        else:
            self.err.print(f"[bold red]{type(error).__name__}[/bold red]: {escape(str(error))}", soft_wrap=True)

    # inside

    def _tenth(self, what: str, done: int, total: int) -> None:
        """Say how far it is, each tenth of the way."""
        tenth = done * 10 // total
        if tenth > self.counted or done == total:
            self.counted = 0 if done == total else tenth
            self._say({what: done, "of": total}, f"[dim]  {done} of {total} images[/dim]")

    def _say(self, record: dict[str, Any], text: str) -> None:
        if self.as_json:
            print(json.dumps(record), flush=True)
        else:
            self.out.print(text, soft_wrap=True)
            sys.stdout.flush()

    def _end_live(self) -> None:
        if self.live:
            self.live.stop()
            self.live = None

    def _watch(self, run: RunDir, found: Status) -> None:
        while True:
            last = self.stop.wait(storage.pace(run.root, REFRESH))
            with suppress(CxrtlError, OSError):  # a file caught between two writes: the next look will do
                found = reader.read(run, found)
                if self.live:
                    self.live.update(self._picture(found), refresh=True)
                else:
                    self._milestones(found)
            if last:
                return

    def _milestones(self, found: Status) -> None:
        reached, of = sum(t.reached for t in found.trials), sum(len(t.budgets) for t in found.trials)
        eta = self._eta(found)
        for trial in found.trials:
            for budget in trial.budgets[: trial.reached]:
                if (trial.name, budget) in self.shown:
                    continue
                self.shown.add((trial.name, budget))
                record = {
                    "milestone": trial.name,
                    "iterations": budget,
                    "images_per_second": round(trial.images_per_second, 1),
                    "reached": reached,
                    "of": of,
                    "eta_seconds": eta,
                }
                line = f"{escape(trial.name)} at {budget} iterations, {trial.images_per_second:.0f} img/s"
                self._say(record, f"{line}; {reached} of {of} milestones, eta {duration(eta)}")

    def _eta(self, found: Status) -> int | None:
        total = sum(trial.budgets[-1] for trial in found.trials)
        now = sum(trial.iteration for trial in found.trials)
        if now <= self.before:
            return None
        return round((total - now) * (time.monotonic() - self.started) / (now - self.before))

    def _picture(self, found: Status) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        for trials in _by_arm(found.trials).values():
            done, of = sum(trial.iteration for trial in trials), sum(trial.budgets[-1] for trial in trials)
            folds = f"{sum(t.state == 'done' for t in trials)}/{len(trials)} folds"
            budgets = f"{sum(t.reached for t in trials)}/{sum(len(t.budgets) for t in trials)} budgets"
            bar = ProgressBar(total=of, completed=done, width=32)
            table.add_row(Text(trials[0].arm), bar, folds, budgets)
        speed = sum(trial.images_per_second for trial in found.trials if trial.state == "running")
        spent = duration(time.monotonic() - self.started)
        table.add_row("", Text(f"{speed:.0f} img/s", style="bold"), spent, f"eta {duration(self._eta(found))}")
        return table


def _where(path: Path) -> str:
    """The file, and where else it is."""
    return escape(str(path)) + (f", {escape(storage.name(path))}" if storage.at(path) else "")


def _by_arm(trials: tuple[TrialStatus, ...]) -> dict[str, list[TrialStatus]]:
    arms: dict[str, list[TrialStatus]] = {}
    for trial in trials:
        arms.setdefault(trial.arm, []).append(trial)
    return arms


def _cells(trial: TrialStatus) -> tuple[str, ...]:
    seen = trial.iteration > 0
    return (
        escape(trial.name),
        trial.state,
        f"{trial.iteration} of {trial.budgets[-1]}",
        f"{trial.reached} of {len(trial.budgets)}",
        f"{trial.images_per_second:.1f}" if seen else "",
        duration(trial.train_seconds) if seen else "",
    )
