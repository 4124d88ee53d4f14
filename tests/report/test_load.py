"""What the report refuses to read, and what it does without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxrtl.errors import ChangedError, DamagedError, PredictionsError
from cxrtl.report.load import load_run, read_curve
from cxrtl.report.page import write_report
from cxrtl.report.summary import summarise
from cxrtl.rundir import RunDir, read_json, sha256_file, write_json

pytestmark = pytest.mark.usefixtures("unrendered")

TRIAL = ("resnet50", "fold1")


def edit(path: Path, **changes: Any) -> None:
    write_json(path, read_json(path) | changes)


def test_altered_predictions_are_named(small: RunDir) -> None:
    path = small.path(*TRIAL, "predictions-20.parquet")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DamagedError, match=r"resnet50/fold1/predictions-20\.parquet is not the file"):
        load_run(small)
    path.unlink()
    with pytest.raises(DamagedError, match=r"predictions-20\.parquet is missing"):
        load_run(small, partial=True)


def test_altered_curve_is_named(small: RunDir) -> None:
    with small.path(*TRIAL, "curve.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(DamagedError, match=r"curve\.jsonl is not the file"):
        write_report(small)


def test_swapped_predictions_are_refused(small: RunDir) -> None:
    """Another fold's file under a matching hash is still another fold's."""
    folder = small.path(*TRIAL)
    (folder / "predictions-20.parquet").write_bytes(
        small.path("resnet50", "fold0", "predictions-20.parquet").read_bytes()
    )
    files = read_json(folder / "result.json")["files"]
    files["predictions-20.parquet"] = sha256_file(folder / "predictions-20.parquet")
    edit(folder / "result.json", files=files)
    with pytest.raises(DamagedError, match="rows of another fold"):
        load_run(small)


def test_another_experiments_result_is_refused(small: RunDir) -> None:
    edit(small.path(*TRIAL, "result.json"), run_hash="ab" * 32)
    with pytest.raises(ChangedError, match=r"resnet50/fold1/result\.json belongs to another experiment"):
        load_run(small)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "..", "sub/file"])
def test_no_named_file_leads_out(small: RunDir, name: str) -> None:
    path = small.path(*TRIAL, "result.json")
    edit(path, files={**read_json(path)["files"], name: "0" * 64})
    with pytest.raises(DamagedError, match="is no result of this version"):
        load_run(small)


def test_links_are_not_followed(small: RunDir, tmp_path: Path) -> None:
    path = small.path(*TRIAL, "predictions-20.parquet")
    path.rename(tmp_path / "elsewhere.parquet")
    path.symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(DamagedError, match="a link"):
        load_run(small)


@pytest.mark.parametrize(
    "changes", [{"arm": "scratch"}, {"fold": 2}, {"budgets": [999]}, {"milestones": []}, {"train_images": 0}]
)
def test_a_result_must_describe_its_folder(small: RunDir, changes: dict[str, Any]) -> None:
    path = small.path(*TRIAL, "result.json")
    path.write_text(json.dumps(read_json(path) | changes))
    with pytest.raises(DamagedError, match="does not describe the folder"):
        load_run(small)


def test_broken_files_are_named(small: RunDir) -> None:
    path = small.path(*TRIAL, "result.json")
    path.write_text(json.dumps({"arm": "resnet50"}))
    with pytest.raises(DamagedError, match=r"result\.json in .* is no result of this version"):
        load_run(small)
    path.write_text("{")
    with pytest.raises(DamagedError, match="no valid JSON"):
        load_run(small)
    small.path("folds.parquet").write_text("nonsense")
    with pytest.raises(DamagedError, match=r"folds\.parquet"):
        load_run(small)
    small.path("experiment.resolved.json").write_text('{"experiment": {}}')
    with pytest.raises(DamagedError, match=r"experiment.resolved\.json"):
        load_run(small)


def test_a_repeated_fold_is_refused_even_partial(small: RunDir) -> None:
    """The same trial in a second folder: as an independent budget's that was left behind."""
    source, target = small.path(*TRIAL), small.path(*TRIAL, "budget20")
    target.mkdir()
    for path in source.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    with pytest.raises(PredictionsError, match="repeat"):
        load_run(small, partial=True)


def test_without_the_optional_files(small: RunDir) -> None:
    for name in ("leakage.json", "environment.json", "sessions.json"):
        small.path(name).unlink()
    for path in small.root.glob("*/fold*/curve.jsonl"):
        path.unlink()
        result = path.with_name("result.json")
        edit(result, files={key: value for key, value in read_json(result)["files"].items() if key != path.name})
    page = write_report(small).read_text()
    summary = read_json(small.path("summary.json"))
    assert [stamp["kind"] for stamp in summary["stamps"]] == ["unaudited"]
    for said in ("no leakage certificate", "No training curves", "No samples", "not recorded"):
        assert said in page


def test_a_stale_or_failed_certificate_is_stamped(small: RunDir) -> None:
    path = small.path("leakage.json")
    edit(path, folds_hash="other")
    found = summarise(small)
    assert not found["leakage"]["passed"] and [stamp["kind"] for stamp in found["stamps"]] == ["leakage"]
    edit(path, folds_hash="f01d" + "0" * 60, passed=False)
    assert not summarise(small)["leakage"]["passed"]


def test_the_folds_are_looked_at_again(small: RunDir) -> None:
    """A certificate that says passed does not outweigh a patient in two folds."""
    path = small.path("folds.parquet")
    folds = pd.read_parquet(path)
    folds.loc[folds["fold"] == 0, "patient_id"] = folds.loc[folds["fold"] == 1, "patient_id"].iloc[0]
    folds.to_parquet(path, index=False)
    found = summarise(small)
    assert found["leakage"]["patients_in_two_folds"] == 1 and not found["leakage"]["passed"]
    assert found["stamps"][0]["kind"] == "leakage"


def test_a_torn_curve_line_is_left_out(small: RunDir) -> None:
    trial = load_run(small).trials[0]
    whole = read_curve(trial)
    path = trial.folder / "curve.jsonl"
    path.write_text(path.read_text() + '{"iteration": 21, "loss": NaN, "accuracy": 1}\n{"iteration": 22, "lo')
    trial.result.files.pop("curve.jsonl")
    pd.testing.assert_frame_equal(read_curve(trial), whole)
