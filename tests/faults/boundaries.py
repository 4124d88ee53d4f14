"""Every change of a file that some work makes fails once, in every way; then the work is done again on what that left.

    LD_PRELOAD=shim.so python -m tests.faults.boundaries files|study|report WORK [EVERY [FIRST]]

Prints a JSON object: the `calls` there are, the `cases` tried (each call, EVERY apart, and each fault), the different
`states` of the disk that they left, and the `problems` found. A case is a child of this process, which has imported all
it needs. After the fault, whatever reads a run must read it or give an error of ours, and nothing may count as done
that is not; the work done again must succeed and leave the bits of the work that nothing befell. That depends on what
is on the disk alone, so it is done once for each different state.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from cxrtl.console import Screen
from cxrtl.errors import CxrtlError
from cxrtl.options import manners
from tests.faults.traces import essence, state

FAULTS = {"full disk": errno.ENOSPC, "input/output error": errno.EIO, "killed": -1}
LANES = 2
LIMIT = 120  # seconds a child may take
SHIM = ctypes.CDLL(os.environ["LD_PRELOAD"].split(":")[0])


def child(work: Path, act: Callable[[], None]) -> tuple[int, str]:
    """Exit code (minus the signal that ended it) and output of `act` in a process of its own; 99 after a traceback."""
    said = work / "said"
    pid = os.fork()
    if not pid:
        code = 0
        with said.open("w") as file:
            os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        signal.alarm(LIMIT)
        try:
            act()
        except typer.Exit as end:
            code = end.exit_code
        except BaseException:
            traceback.print_exc()
            code = 99
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.read_text()


class Files:
    """Single files, each written twice."""

    def __init__(self, work: Path) -> None:
        import pandas as pd

        from cxrtl.predictions import Predictions

        columns = {"image_id": ["i"], "patient_id": ["p"], "fold": [0], "arm": ["a"], "iterations": [5], "label": ["x"]}
        self.frames = [pd.DataFrame({**columns, "score_y": score, "score_x": 1 - score}) for score in (0.25, 0.75)]
        self.predictions = [Predictions(frame, ("y", "x")) for frame in self.frames]

    def attempt(self, home: Path) -> None:
        from cxrtl import rundir

        run = rundir.RunDir(home)
        with manners(Screen(as_json=True)), run.lock():
            for k in range(2):
                rundir.write_json(run.path("a.json"), {"k": k, "long": "x" * 9000})
                rundir.write_predictions(run.path("predictions.parquet"), self.predictions[k])
                rundir.write_frame(run.path("frame.parquet"), self.frames[k])

    def look(self, home: Path) -> None:
        from cxrtl import rundir

        run = rundir.RunDir(home)
        assert not run.locked()
        if run.path("a.json").exists():
            assert rundir.read_json(run.path("a.json"))["k"] in (0, 1)
        if run.path("predictions.parquet").exists():
            read = rundir.read_predictions(run.path("predictions.parquet")).frame
            assert any(read.equals(frame) for frame in self.frames)


class Study:
    """Images to shards, folds, plan, features, a flat file, two trials."""

    def __init__(self, work: Path) -> None:
        from cxrtl.learn import devices
        from tests.faults import alone

        alone.stand_in()
        devices.beside = alone.here
        self.toml, self.calm = alone.begin(work), work / "calm"

    def attempt(self, home: Path) -> None:
        from cxrtl import config
        from cxrtl.orchestrate import study
        from tests.faults.alone import Silent

        with manners(Screen(as_json=True)):
            study.run(config.load(self.toml), study.Options(home, "cxrtl run small.toml"), Silent())

    def look(self, home: Path) -> None:
        from cxrtl.data.prepared import open_prepared, read_index
        from cxrtl.records import Trial
        from cxrtl.report import load, status
        from cxrtl.rundir import RunDir, read_json

        run, calm = RunDir(home / "runs/small"), RunDir(self.calm / "runs/small")
        shown: dict[str, str] = {}
        with suppress(CxrtlError):
            shown = {each.name: each.state for each in status.read(run).trials}
        hashes = read_json(calm.path("experiment.resolved.json"))["arm_hashes"]
        for raw in read_json(calm.path("plan.json"))["trials"]:
            trial = Trial(raw["arm"], raw["fold"], tuple(raw["budgets"]), raw["folder"])
            result = run.result(trial, hashes[trial.arm])
            assert result or shown.get(trial.name) != "done", f"{trial.name} is shown as done, and is not"
            for name in result.files if result else ():
                same = (run.trial(trial) / name).read_bytes() == (calm.trial(trial) / name).read_bytes()
                assert same or name == "curve.jsonl", f"{trial.name} counts as done with another {name}"
        with suppress(CxrtlError):
            load.load_run(run, partial=True)
        for folder in (home / "prepared").glob("*"):
            with suppress(CxrtlError):
                read_index(open_prepared(folder, verify=True))


class Report(Study):
    """What follows training: samples, subgroups, figures, the report, TensorBoard's summary."""

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        import io

        from matplotlib.figure import Figure
        from PIL import Image

        done = child(work, lambda: super(Report, self).attempt(work / "start"))
        assert done[0] == 0, done[1]
        self.start, picture = work / "start", io.BytesIO()
        Image.new("L", (1, 1)).save(picture, "png")
        drawn = {
            "svg": b"<svg/>",
            "png": picture.getvalue(),
        }  # what is drawn costs seconds, where it is written nothing
        Figure.savefig = lambda self, out, format, **_: out.write(drawn[format])

    def attempt(self, home: Path) -> None:
        from cxrtl.orchestrate import board
        from cxrtl.report import finish
        from cxrtl.rundir import RunDir
        from tests.faults.alone import prepared_of

        run = RunDir(home / "runs/small")
        with manners(Screen(as_json=True)):
            finish.finish(run, prepared_of(home))
            board.pooled(run)

    def look(self, home: Path) -> None:
        from cxrtl.report import load, samples
        from cxrtl.rundir import RunDir, read_json

        super().look(home)
        run = RunDir(home / "runs/small")
        load.load_run(run)
        samples.read_samples(run)
        if run.path("summary.json").exists():
            read_json(run.path("summary.json"))


class Campaign:
    def __init__(self, scenario: Any, work: Path) -> None:
        self.scenario, self.work = scenario, work
        self.start: Path | None = getattr(scenario, "start", None)
        (work / "seen").mkdir()
        self.fresh(work / "warm")
        scenario.attempt(work / "warm")  # here, so that no child has to import or build anything first

    def fresh(self, home: Path) -> None:
        shutil.rmtree(home, ignore_errors=True)
        if self.start:
            shutil.copytree(self.start, home)
        else:
            home.mkdir()

    def count(self) -> int:
        """Calls of the work that nothing befalls; what it leaves is what all others are held against."""
        home = self.work / "calm"
        self.fresh(home)

        def act() -> None:
            SHIM.shim_arm(os.fsencode(home), 0, 0)
            self.scenario.attempt(home)
            (self.work / "calls").write_text(str(SHIM.shim_count()))

        code, said = child(self.work, act)
        assert code == 0, said
        self.wanted = essence(home)
        return int((self.work / "calls").read_text())

    def case(self, lane: Path, n: int, fault: str) -> str:
        """What is wrong, "" where nothing is."""
        home = lane / "home"
        self.fresh(home)

        def act() -> None:
            SHIM.shim_arm(os.fsencode(home), n, FAULTS[fault])
            self.scenario.attempt(home)

        code, said = child(lane, act)
        if fault == "killed" and code != -signal.SIGKILL:
            return f"not killed, but ended with {code}: {said}"
        if fault != "killed" and (code not in (0, 1, 2) or "Traceback" in said or (code and '"error"' not in said)):
            return f"ended with {code}: {said}"
        if code == 0 and essence(home) != self.wanted:
            return f"ended well with other files: {self.differences(home)}"
        try:
            (self.work / "seen" / state(home)).touch(exist_ok=False)
        except FileExistsError:
            return ""
        code, told = child(lane, lambda: self.scenario.look(home))
        if code:
            return f"cannot be read: {told} after: {said}"
        code, told = child(lane, lambda: self.scenario.attempt(home))
        if code:
            return f"cannot be gone on with: {told} after: {said}"
        return f"went on to other files: {self.differences(home)}" if essence(home) != self.wanted else ""

    def differences(self, home: Path) -> list[str]:
        return sorted({name for name, _ in essence(home).items() ^ self.wanted.items()})

    def run(self, every: int = 1, first: int = 1) -> dict[str, Any]:
        calls = self.count()
        cases = [(n, fault) for n in range(first, calls + 1, every) for fault in FAULTS]

        def work_on(k: int) -> None:
            lane = self.work / f"lane{k}"
            lane.mkdir()
            found = [(n, fault, self.case(lane, n, fault)) for n, fault in cases[k::LANES]]
            (lane / "found.json").write_text(json.dumps([each for each in found if each[2]]))

        lanes = []
        for k in range(LANES):
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    work_on(k)
                    code = 0
                except BaseException:
                    traceback.print_exc()
                os._exit(code)
            lanes.append(pid)
        ended = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in lanes]
        assert not any(ended), ended
        problems = [each for k in range(LANES) for each in json.loads((self.work / f"lane{k}/found.json").read_text())]
        states = len(list((self.work / "seen").iterdir()))
        return {"calls": calls, "cases": len(cases), "states": states, "problems": problems}


def main() -> None:
    name, work, *which = sys.argv[1:]
    os.environ.pop("LD_PRELOAD")  # children of ours that are other programs go their way
    scenarios = {"files": Files, "study": Study, "report": Report}
    folder = Path(work).resolve()
    found = Campaign(scenarios[name](folder), folder).run(*map(int, which))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
