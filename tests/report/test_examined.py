"""Look-alikes and shortcuts on the page."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from cxrtl.errors import DamagedError
from cxrtl.report.page import write_report
from cxrtl.rundir import RunDir, write_frame, write_json

pytestmark = pytest.mark.usefixtures("unrendered")

PAIR = {"images": ["img-a", "img-b"], "labels": ["normal", "<b>"], "folds": [0, 2], "bits": 3, "mirrored": True}


def examine(run: RunDir, **changes: object) -> None:
    resolved = json.loads(run.path("experiment.resolved.json").read_text())
    row = {"features": "sex", "target": "effusion", "images": 90, "auc": 0.97, "low": 0.93, "high": 0.99}
    found = {
        "dataset_hash": resolved["dataset"]["dataset_hash"],
        "folds_hash": resolved["folds_hash"],
        "lookalikes": {"pairs": 1, "images": 2, "mirrored": 1, "other_label": 1, "nearest": [PAIR]},
        "shortcuts": [
            {**row, "reading": "tells much"},
            {**row, "auc": None, "low": None, "high": None, "reading": "–"},
        ],
    }
    write_json(run.path("audit.json"), {**found, **changes})
    pixels = pd.DataFrame({"image_size": [32, 32], "pixels": [bytes(32 * 32), bytes(32 * 32)]})
    write_frame(run.path("lookalikes.parquet"), pixels)


def test_pairs_and_readings_are_shown(small: RunDir) -> None:
    examine(small)
    page = write_report(small).read_text()
    for part in (
        "Look-alikes and shortcuts",
        "1 pair of images",
        "tells much",
        "0.970",
        "pair 1, mirrored: &lt;b&gt;, fold 2",
    ):
        assert part in page
    text = small.path("report.md").read_text()
    assert "Look-alikes and shortcuts" in text and "tells much" in text
    assert json.loads(small.path("summary.json").read_text())["examined"]["shortcuts"][0]["auc"]["low"] == 0.93


@pytest.mark.parametrize("pairs", [0, 1])
def test_pairs_that_may_be_missing_are_said(small: RunDir, pairs: int) -> None:
    alike = {"pairs": pairs, "images": 2 * pairs, "mirrored": 0, "other_label": 0, "nearest": [PAIR][:pairs]}
    examine(small, lookalikes={**alike, "whole": False})
    assert "there may be more pairs" in write_report(small).read_text()
    examine(small, lookalikes=alike)  # as earlier versions wrote it
    assert "there may be more pairs" not in write_report(small).read_text()


def test_those_of_other_folds_are_not(small: RunDir) -> None:
    examine(small, folds_hash="0" * 64)
    assert "Look-alikes" not in write_report(small).read_text()
    assert json.loads(small.path("summary.json").read_text())["examined"] is None


@pytest.mark.parametrize("name", ["audit.json", "lookalikes.parquet"])
def test_damaged_files_are_named(small: RunDir, name: str) -> None:
    examine(small)
    small.path(name).write_text("{}")
    with pytest.raises(DamagedError, match=name):
        write_report(small)
