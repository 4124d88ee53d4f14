"""Runs of the tasks beyond binary: sections, readers, lineage, divisions."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from browser import Tab
from fake_run import SMALL, TASKS, Fake, make_prepared, make_run
from sklearn import metrics as sk
from test_page import EVIL, Page
from test_summary import pooled

from cxrtl.errors import DamagedError
from cxrtl.report.load import load_run
from cxrtl.report.page import write_comparison, write_report
from cxrtl.report.reporting import answers
from cxrtl.report.samples import choose, collect_samples, outlined, read_samples
from cxrtl.report.summary import summarise
from cxrtl.report.versus import compare_runs
from cxrtl.rundir import RunDir, read_json, write_frame, write_json

KINDS = ("multiclass", "multilabel", "segmentation")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDir]:
    """A reported run of every task, with samples; two structures in segmentation."""
    root, made = tmp_path_factory.mktemp("tasks"), {}
    for task in KINDS:
        fake = replace(TASKS[task], folds=3, images=120)
        if task == "segmentation":
            fake = replace(fake, classes=("heart", "lung"))
        made[task] = make_run(root / task, fake)
        collect_samples(
            made[task], load_run(made[task]).predictions, make_prepared(root / f"{task}-set", made[task], fake)
        )
        write_report(made[task])
    return made


def row_and_frame(run: RunDir) -> tuple[dict[str, Any], pd.DataFrame, dict[str, Any]]:
    summary = read_json(run.path("summary.json"))
    row, frame = summary["rows"][summary["headline"]], pooled(run)
    return row, frame[(frame["arm"] == row["arm"]) & (frame["iterations"] == row["iterations"])], summary


@pytest.mark.parametrize("task", KINDS)
def test_pages_say_the_summarys_numbers_and_nothing_binary(runs: dict[str, RunDir], task: str) -> None:
    run = runs[task]
    row, _, summary = row_and_frame(run)
    page, text = Page(run.path("report.html").read_text()), run.path("report.md").read_text()
    start = page.text[: page.text.index("Results at each training length")]
    lead = row["metrics"][summary["lead"]]
    said = f"{lead['value']:.3f}"
    assert said in start and f"{lead['low']:.3f}–{lead['high']:.3f}" in start and "Leak-free?" in start
    assert f"{said} [{lead['low']:.3f}–{lead['high']:.3f}]" in text
    for part in row["parts"]:
        found = part["metrics"]["dice" if task == "segmentation" else "auc"]
        assert f"{found['value']:.3f} {found['low']:.3f}–{found['high']:.3f}" in page.text
    assert not {"Calibration", "Operating points", "Move the threshold"} & set(page.words)
    assert page.all("script") == [{}]  # no slider, no scores
    stems = {path.stem for path in run.path("figures").iterdir()}
    parts = {f"part-{number:02d}" for number in range(1, len(row["parts"]) + 1)}
    assert stems == {"accuracy-time", "progress-01", "progress-02", *parts, *(["confusion"] * (task == "multiclass"))}
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {item["href"][1:] for item in page.all("a")} <= ids and ("confusion" in ids) == (task == "multiclass")
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(answers(summary).values()) and "effusion from" not in run.path("reporting.md").read_text()
    json.loads(run.path("summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_readers_are_scored_and_tested(runs: dict[str, RunDir]) -> None:
    run = runs["multiclass"]
    _, frame, summary = row_and_frame(run)
    subjects = pd.read_parquet(run.path("subjects.parquet"))
    a, b, note = summary["readers"]
    both = frame.merge(subjects, on="image_id")
    assert (a["name"], a["kind"], a["images"]) == ("a", "labels", 120) and b["images"] == 60
    assert a["metrics"]["top1"]["value"] == pytest.approx((both["label"] == both["reader_a"]).mean())
    assert a["metrics"]["macro_f1"]["value"] == pytest.approx(
        sk.f1_score(both["label"], both["reader_a"], average="macro")
    )
    assert set(a["metrics"]) == {"top1", "macro_sensitivity", "macro_f1"}  # labels rank nothing
    read = both[both["reader_b"] != ""]
    called = np.array(summary["data"]["classes"])[
        read[[f"score_{n}" for n in summary["data"]["classes"]]].to_numpy().argmax(1)
    ]
    gap = b["differences"][0]
    assert (gap["first"], gap["second"], gap["images"]) == ("b", "staged", 60)
    wanted = (called == read["label"]).mean() - (read["reader_b"] == read["label"]).mean()
    assert gap["metrics"]["top1"]["value"] == pytest.approx(wanted)
    test = gap["tests"]["top1"]
    right = (called == read["label"]).to_numpy(), (read["reader_b"] == read["label"]).to_numpy()
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    table = [
        [int((right[0] & right[1]).sum()), int((right[0] & ~right[1]).sum())],
        [int((~right[0] & right[1]).sum()), 0],
    ]
    assert test["method"] == "exact McNemar" and test["p"] == pytest.approx(contingency.mcnemar(table).pvalue)
    assert note["kind"] == "" and "not scored" in Page(run.path("report.html").read_text()).text
    assert "## Readers" in run.path("report.md").read_text()


def test_scores_of_readers_have_an_auc(make: Callable[[Fake], RunDir]) -> None:
    run = make(replace(SMALL, readers=True, published=False, per_patient=1))
    summary = summarise(run)
    _, b, _ = summary["readers"]
    frame = (
        pooled(run).query("arm == 'resnet50' and iterations == 20").merge(pd.read_parquet(run.path("subjects.parquet")))
    )
    truth, score = frame["label"] == "effusion", frame["reader_b"].astype(float)
    assert b["kind"] == "scores" and b["metrics"]["auc"]["value"] == pytest.approx(sk.roc_auc_score(truth, score))
    gap = b["differences"][0]
    wanted = sk.roc_auc_score(truth, frame["score_effusion"]) - sk.roc_auc_score(truth, score)
    assert gap["metrics"]["auc"]["value"] == pytest.approx(wanted)
    assert (gap["tests"]["auc"]["method"], gap["tests"]["accuracy"]["method"]) == ("paired DeLong", "exact McNemar")
    assert set(summary["readers"][0]["differences"][0]["tests"]) == {"accuracy"}


def test_lineage_is_a_table_only_where_there_is_one(runs: dict[str, RunDir]) -> None:
    page = Page(runs["multiclass"].path("report.html").read_text())
    for said in (
        "Lineage",
        "kermany-stage/staged beef00000000",
        "fold 3",
        "imagenet dc1de4b30000",
        "NORMAL, PNEUMONIA",
    ):
        assert said in page.text, said
    assert 'id="lineage"' not in runs["multilabel"].path("report.html").read_text()
    assert "## Lineage" in runs["multiclass"].path("report.md").read_text()


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(
    ("fake", "says", "stamp"),
    [
        (replace(SMALL, kind="holdout", folds=1), "one holdout of 40 images out of 90", "Holdout"),
        (replace(SMALL, kind="repeated", repeats=3, arms=1), "3-fold cross-validation, repeated 3 times", "Repeated"),
        (
            replace(TASKS["multiclass"], kind="leave_one_site_out", folds=3, images=90, arms=1, staged=False),
            "3 sites",
            "Leave-one-site-out",
        ),
    ],
)
def test_divisions_are_named_and_stamped(make: Callable[[Fake], RunDir], fake: Fake, says: str, stamp: str) -> None:
    run = make(fake)
    page = Page(write_report(run).read_text())
    summary = read_json(run.path("summary.json"))
    assert says in page.text and page.text.index(f"{stamp}:") < page.text.index("How good?")
    assert says in run.path("reporting.md").read_text() and summary["stamps"][0]["kind"] == "division"
    row = summary["rows"][summary["headline"]]
    assert row["complete"] and row["images"] == summary["division"]["tested"]
    if fake.kind == "repeated":
        frame = pooled(run).query("iterations == 20")
        areas = [
            sk.roc_auc_score(part["label"] == "effusion", part["score_effusion"]) for _, part in frame.groupby("repeat")
        ]
        assert len(areas) == 3 and row["metrics"]["auc"]["value"] == pytest.approx(np.mean(areas))
        assert (row["images"], row["patients"], row["positives"]) == (90, 45, 44)
        assert [len(point["thresholds"]) for point in row["operating"]] == [3, 3, 3]  # of the first repeat
    if fake.kind == "holdout":
        assert "fold_auc" not in summary["differences"][0]["tests"] and row["patients"] == 20


@pytest.mark.parametrize("task", KINDS)
def test_runs_of_a_task_compare(runs: dict[str, RunDir], task: str, tmp_path: Path) -> None:
    loaded = load_run(runs[task])
    found = compare_runs(loaded, loaded)
    assert {test["p"] for row in found["differences"] for test in row["tests"].values()} == {1.0}
    page = Page(write_comparison(found, tmp_path).read_text())
    assert "Nadeau–Bengio" in page.text and found["columns"]
    apart = compare_runs(loaded, loaded, ask_unpaired=True)
    assert apart["differences"][0]["metrics"][found["columns"][0]]["value"] == 0


def test_subgroups_and_names_of_other_tasks(runs: dict[str, RunDir], tmp_path: Path) -> None:
    run = RunDir(Path(shutil.copytree(runs["multilabel"].root, tmp_path / "run")))
    resolved = read_json(run.path("experiment.resolved.json"))
    resolved["experiment"]["data"]["subgroups"] = ["view"]
    resolved["lineage"] = {"staged": [{"stage": EVIL, "rule": EVIL, "classes": [EVIL]}]}
    write_json(run.path("experiment.resolved.json"), resolved)
    ids = pd.read_parquet(run.path("folds.parquet"))["image_id"]
    write_frame(
        run.path("subjects.parquet"),
        pd.DataFrame({"image_id": ids, "view": np.where(np.arange(120) % 4 < 2, EVIL, "AP")}),
    )
    page = Page(write_report(run).read_text())
    (row, _) = read_json(run.path("summary.json"))["subgroups"]
    assert row["images"] == 60 and row["positives"] is None and row["metrics"]["macro_auc"]["value"] > 0.5
    assert page.all("script") == [{}] and all(item["src"].startswith("data:image/") for item in page.all("img"))
    assert "<script>" not in run.path("report.md").read_text()


def test_samples_by_task(runs: dict[str, RunDir]) -> None:
    assert {sample.cell for sample in read_samples(runs["multiclass"])} == {"right", "wrong"}
    assert all((s.cell == "right") == (s.called == s.label) for s in read_samples(runs["multiclass"]))
    assert all((s.cell == "right") == (s.score == 1) for s in read_samples(runs["multilabel"]))
    by_cell = {
        cell: [s.score for s in read_samples(runs["segmentation"]) if s.cell == cell]
        for cell in ("worst", "median", "best")
    }
    assert max(by_cell["worst"]) <= min(by_cell["median"]) and max(by_cell["median"]) <= min(by_cell["best"])


def test_outlines_of_areas(runs: dict[str, RunDir], tmp_path: Path) -> None:
    run = RunDir(Path(shutil.copytree(runs["segmentation"].root, tmp_path / "run")))
    predictions = load_run(run).predictions
    prepared = make_prepared(tmp_path / "set", run, TASKS["segmentation"])
    square = np.zeros((64, 64), np.uint8)
    square[10:20, 10:20] = 1
    picture = outlined(np.zeros((64, 64), np.uint8), square, np.roll(square, 20, axis=0))
    assert picture[10, 15].any() and not picture[15, 15].any() and picture[30, 15].any()
    assert tuple(picture[10, 15]) != tuple(picture[30, 15])
    masks = {name: (square.tobytes(), square.tobytes()) for name in choose(run, predictions)["image_id"]}
    path = collect_samples(run, predictions, prepared, masks=masks)
    assert all(sample.outlined for sample in read_samples(run))
    assert "Light blue: the true outline" in write_report(run).read_text()
    pq.write_table(pq.read_table(path).drop_columns("predicted"), path)
    with pytest.raises(DamagedError, match="samples"):
        read_samples(run)


@pytest.mark.parametrize("task", KINDS)
def test_pages_in_a_browser(tab: Tab, runs: dict[str, RunDir], task: str) -> None:
    assert tab.faults(runs[task].path("report.html")) == []
