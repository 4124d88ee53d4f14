"""Subgroups: kept at the end of a run, counted, suppressed, shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_run import SMALL, make_prepared
from sklearn.metrics import roc_auc_score
from test_page import EVIL, Page
from test_summary import pooled

from cxrtl.data import prepared as prepared_sets
from cxrtl.report import subgroups
from cxrtl.report.finish import finish
from cxrtl.report.load import load_run
from cxrtl.report.page import write_report
from cxrtl.report.summary import summarise
from cxrtl.rundir import RunDir, read_json, write_frame, write_json


@pytest.fixture
def run(small: RunDir) -> RunDir:
    """The small run with three further columns; few images were taken lying down."""
    path = small.path("experiment.resolved.json")
    resolved = read_json(path)
    resolved["experiment"]["data"]["subgroups"] = ["view", "age", "site", "absent"]
    write_json(path, resolved)
    write_frame(small.path("subjects.parquet"), subjects(small))
    return small


def subjects(run: RunDir) -> pd.DataFrame:
    ids = pd.read_parquet(run.path("folds.parquet"))["image_id"]
    places = np.arange(len(ids))
    view = np.where(places < 4, "lying", np.where(places % 4 < 2, "PA", "AP"))
    age = np.where(places % 9 == 0, "", (20 + places // 2).astype(str))
    return pd.DataFrame({"image_id": ids, "view": view, "age": age, "site": [f"s{i}" for i in places]})


def test_groups_are_recomputed(run: RunDir) -> None:
    summary, frame = summarise(run), pooled(run)
    rows = {(row["column"], row["group"]): row for row in summary["subgroups"]}
    part = frame[(frame["arm"] == "resnet50") & (frame["iterations"] == 20)].merge(subjects(run), on="image_id")
    for view in ("PA", "AP"):
        mine, found = part[part["view"] == view], rows["view", view]
        assert (found["images"], found["patients"]) == (len(mine), mine["patient_id"].nunique())
        wanted = roc_auc_score(mine["label"] == "effusion", mine["score_effusion"])
        assert found["metrics"]["auc"]["value"] == pytest.approx(wanted)
    ages = [row for row in summary["subgroups"] if row["column"] == "age"]
    assert len(ages) == 5 and ages[-1]["group"] == subgroups.UNKNOWN
    assert sum(row["images"] or 0 for row in ages) == len(part)
    lows = [int(row["group"].partition("–")[0]) for row in ages[:-1]]
    assert lows == sorted(lows) and lows[0] == 20


def test_attributes_are_shown_unasked_where_they_tell_images_apart(small: RunDir) -> None:
    path = small.path("experiment.resolved.json")
    resolved = read_json(path)
    resolved["experiment"]["data"] |= {"source": "table", "path": "x", "attributes": ["sex", "view", "year"]}
    write_json(path, resolved)
    write_frame(small.path("subjects.parquet"), subjects(small).assign(sex="F", site="north"))
    assert {row["column"] for row in summarise(small)["subgroups"]} == {"view"}  # one sex, no year, site not asked for


def test_small_groups_and_identifiers_are_not_shown(run: RunDir) -> None:
    text = write_report(run).read_text()
    rows = {(row["column"], row["group"]): row for row in read_json(run.path("summary.json"))["subgroups"]}
    assert rows["view", "lying"] | {"column": "", "group": ""} == {
        "column": "",
        "group": "",
        "hidden": True,
        "images": None,
        "patients": None,
        "positives": None,
        "metrics": {},
    }
    assert [group for column, group in rows if column == "site"] == ["more than 20 values: not shown apart"]
    page = Page(text)
    assert "fewer than 10" in page.text and "s17" not in page.text and "Figure 6." in page.text
    assert run.path("figures", "subgroups.svg").exists()
    assert "| view | PA |" in run.path("report.md").read_text()


@pytest.mark.usefixtures("unrendered")
def test_without_columns_there_is_no_section(small: RunDir) -> None:
    assert 'id="subgroups"' not in write_report(small).read_text()
    assert summarise(small)["subgroups"] == []


def test_group_names_are_escaped(run: RunDir) -> None:
    frame = subjects(run)
    write_frame(run.path("subjects.parquet"), frame.assign(view=np.where(frame["view"] == "PA", EVIL, "AP")))
    page = Page(write_report(run).read_text())
    assert page.all("script") == [{"type": "application/json", "id": "scores"}, {}]
    assert all(item["src"].startswith("data:image/") for item in page.all("img"))


@pytest.mark.usefixtures("unrendered")
def test_the_end_of_a_run_keeps_the_columns(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.path("subjects.parquet").unlink()
    index = subjects(run).assign(label="normal", secret="x")
    monkeypatch.setattr(subgroups, "read_index", lambda prepared: index)
    assert prepared_sets.read_index is not subgroups.read_index
    finish(run, make_prepared(tmp_path / "prepared", run, SMALL))
    kept = load_run(run).subjects
    assert kept is not None and list(kept) == ["image_id", "view", "age", "site"]
    assert read_json(run.path("summary.json"))["subgroups"]
