"""Comparing runs: what is refused, and the numbers recomputed by other code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import Tab
from fake_run import SMALL, Fake, make_run
from sklearn.metrics import roc_auc_score
from test_page import Page
from test_summary import pooled
from typer.testing import CliRunner

from cxrtl.cli import app
from cxrtl.errors import ConfigError, PredictionsError
from cxrtl.evaluate.metrics import confusion
from cxrtl.report.load import load_run
from cxrtl.report.page import write_comparison
from cxrtl.report.versus import compare_published, compare_runs, read_published
from cxrtl.rundir import RunDir, read_json, sha256_file, write_json


@pytest.fixture
def other(small: RunDir, tmp_path: Path) -> RunDir:
    """The same folds, with other scores."""
    shutil.copytree(small.root, tmp_path / "other")
    run = RunDir(tmp_path / "other")
    resolved = read_json(run.path("experiment.resolved.json"))
    resolved["experiment"]["name"] = "other-run"
    write_json(run.path("experiment.resolved.json"), resolved)
    rng = np.random.default_rng(5)
    for path in sorted(run.root.glob("*/fold*/predictions-*.parquet")):
        frame = pd.read_parquet(path)
        names = [name for name in frame if name.startswith("score_")]
        score = np.clip(frame[names[1]] + 0.2 * rng.normal(size=len(frame)), 0.001, 0.999)
        rewrite(path, frame.assign(**{names[0]: 1 - score, names[1]: score}))
        result = read_json(path.with_name("result.json"))
        result["files"][path.name] = sha256_file(path)
        write_json(path.with_name("result.json"), result)
    return run


def rewrite(path: Path, frame: pd.DataFrame) -> None:
    from cxrtl.predictions import Predictions
    from cxrtl.rundir import write_predictions

    write_predictions(path, Predictions(frame, SMALL.classes))


def test_paired_differences_are_recomputed(small: RunDir, other: RunDir) -> None:
    found = compare_runs(load_run(small), load_run(other))
    assert found["paired"] and len(found["differences"]) == 4 and len(found["entries"]) == 8
    frames = pooled(small), pooled(other)
    for row in found["differences"]:
        parts = []
        for frame, arm in zip(frames, (row["first"], row["second"]), strict=True):
            part = frame[(frame["arm"] == arm) & (frame["iterations"] == row["iterations"])].sort_values("image_id")
            parts.append(part)
        truth = (parts[0]["label"] == "effusion").to_numpy()
        scores = [part["score_effusion"].to_numpy() for part in parts]
        areas = [roc_auc_score(truth, score) for score in scores]
        assert row["metrics"]["auc"]["value"] == pytest.approx(areas[1] - areas[0])
        shares = [confusion(truth, score).ratio("specificity") or 0 for score in scores]
        assert row["metrics"]["specificity"]["value"] == pytest.approx(shares[1] - shares[0])
        assert set(row["tests"]) == {"auc", "accuracy", "fold_auc"}
        assert all(test["p_holm"] >= test["p"] for test in row["tests"].values() if test["p"] and test["p_holm"])


def test_a_run_against_itself_does_not_differ(small: RunDir) -> None:
    loaded = load_run(small)
    found = compare_runs(loaded, loaded)
    assert all(test["p"] == 1 for row in found["differences"] for test in row["tests"].values())
    assert [entry["run"] for entry in found["entries"][:2]] == ["effusion-fake (first)", "effusion-fake (second)"]


def test_other_folds_or_images_are_refused_unless_unpaired(small: RunDir, tmp_path: Path) -> None:
    from dataclasses import replace

    foreign = load_run(make_run(tmp_path / "foreign", replace(SMALL, seed=4, folds=3, images=60)))
    here = load_run(small)
    with pytest.raises(PredictionsError, match=r"not made on the same folds: .* stand in different folds.*--unpaired"):
        compare_runs(here, foreign)
    found = compare_runs(here, foreign, ask_unpaired=True)
    row = found["differences"][0]
    assert not found["paired"] and row["tests"] == {} and row["images"] == 150
    gap, one, two = row["metrics"]["auc"], *(entry["metrics"]["auc"] for entry in found["entries"][:2])
    assert gap["value"] == pytest.approx(two["value"] - one["value"]) and gap["method"] == "MOVER"
    low = gap["value"] - np.hypot(two["value"] - two["low"], one["high"] - one["value"])
    assert gap["low"] == pytest.approx(low)
    assert "independent samples" in write_comparison(found, tmp_path / "out").read_text()


def test_other_classes_are_refused(small: RunDir, tmp_path: Path) -> None:
    fake = Fake(arms=1, folds=2, budgets=(20,), images=40, classes=("normal", "oedema"))
    with pytest.raises(PredictionsError, match="different classes"):
        compare_runs(load_run(small), load_run(make_run(tmp_path / "foreign", fake)), ask_unpaired=True)


def test_without_a_common_arm_the_headlines_meet(small: RunDir, tmp_path: Path) -> None:
    from dataclasses import replace

    made = make_run(tmp_path / "foreign", replace(SMALL, arm_names=("a", "b"), budgets=(15,)))
    found = compare_runs(load_run(small), load_run(made))
    assert [(item["arm"], item["iterations"]) for item in found["entries"]] == [("resnet50", 20), ("a", 15)]


CSV = "study,iterations,accuracy,auc\nHuang <b>2022</b>,20,0.881,0.935\nGu,999,,0.9\n"


def test_published_tables(small: RunDir, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(CSV)
    found = compare_published(load_run(small), path)
    assert [row["study"] for row in found["published"]] == ["Huang <b>2022</b>", "Gu"]
    assert [verdict["arm"] for verdict in found["published"][0]["against"]] == ["resnet50", "resnet50-hflip"]
    assert found["published"][1]["metrics"]["accuracy"] is None and found["published"][1]["against"] == []
    text = write_comparison(found, tmp_path / "out").read_text()
    assert "<b>2022" not in text and "no arm of this length" in text
    toml = tmp_path / "table.toml"
    toml.write_text('[[published]]\nstudy = "Gu"\niterations = 999\nauc = 0.9\n')
    assert read_published(toml)[0].auc == 0.9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("study,iterations,auc\nGu,10,93.5\n", "row 0, auc"),
        ("study,iterations,AUC\nGu,10,0.9\n", "row 0, AUC"),
        ("", "no rows"),
    ],
)
def test_faulty_tables_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_published(path)


def command(*words: Any) -> Any:
    return CliRunner().invoke(app, ["compare", *map(str, words)])


def test_the_command(small: RunDir, other: RunDir, tmp_path: Path) -> None:
    assert command(small.root, other.root).exit_code == 0
    folder = small.path("compare-other")
    text = (folder / "compare.html").read_text()
    page = Page(text)
    assert page.all("script") == [{}] and "Nadeau–Bengio" in page.text
    assert not only_external(page)
    assert read_json(folder / "compare.json")["paired"] is True
    assert (folder / "compare.md").read_text().startswith("# effusion-fake and other-run")
    load_run(small)  # the folder does not disturb the run
    assert command(small.root, tmp_path / "nothing").exit_code == 2
    assert command(small.root, other.root, "--out", tmp_path / "here", "--unpaired").exit_code == 0
    assert (tmp_path / "here" / "compare.html").exists()


def only_external(page: Page) -> list[str]:
    links = [item.get("href", "") for item in page.all("a", "link")] + [item.get("src", "") for item in page.all("img")]
    return [link for link in links if not link.startswith(("#", "data:"))]


def test_the_page_in_a_browser(tab: Tab, small: RunDir, other: RunDir, tmp_path: Path) -> None:
    path = write_comparison(compare_runs(load_run(small), load_run(other)), tmp_path / "out")
    assert tab.faults(path) == []
