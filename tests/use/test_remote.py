"""Every verb for done runs on a machine that has nothing but the URL of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from cxrtl.cli import app
from cxrtl.orchestrate import board
from cxrtl.report import finish
from cxrtl.rundir import write_json
from tests.homes import SECRET, Machines
from tests.use.conftest import LAST, Tiny, draw_images, train

HOME = "s3://bucket/some/home"
RUN = f"{HOME}/runs/tiny"


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_verbs_on_a_machine_of_their_own(
    tiny: Tiny, id_key: bytes, machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    machines.home = HOME
    first = machines.use("first")
    made = train(first, draw_images(tmp_path / "images"), id_key)
    trials = [
        {"arm": arm, "fold": fold, "budgets": [LAST], "folder": f"{arm}/fold{fold}"} for arm, fold in [("first", 0)]
    ]
    write_json(made.run.path("plan.json"), {"trials": trials})
    page = finish.finish(made.run, made.prepared).read_bytes()
    board.pooled(made.run)
    labels = str(tmp_path / "images/labels.csv")

    def cxrtl(machine: str, *words: str) -> list[dict[str, object]]:
        machines.use(machine)
        done = CliRunner().invoke(app, [*words, "--json"])
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    assert not (machines.use("status")).exists()
    assert cxrtl("status", "status", RUN)[0]["trials"][0]["state"] == "done"  # type: ignore[index]
    assert not any(path.suffix == ".safetensors" for path in machines.use("status").rglob("*"))
    report = Path(str(cxrtl("report", "report", RUN)[-1]["report"]))
    assert report.read_bytes() == page
    cxrtl("predict", "predict", RUN, labels, "--out", "far.csv")
    cxrtl("predict", "predict", str(tiny.run.root), labels, "--out", "near.csv")
    assert pd.read_csv("far.csv").equals(pd.read_csv("near.csv"))
    cxrtl("explain", "explain", RUN)
    cxrtl("compare", "compare", RUN, str(tiny.run.root))
    cxrtl("first", "report", RUN)  # the one that trained gets what others made
    assert (first / "runs/tiny/explain").is_dir() and (first / "runs/tiny/compare-tiny").is_dir()
    assert list((machines.use("predict") / "runs/tiny/tensorboard/first/fold0").glob("events*"))
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
