"""A study from the command line: what it leaves behind, what it refuses, what it does not do twice."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrtl.rundir import RunDir
from tests.orchestrate.helpers import cxrtl, experiment, here, same, scores


def test_everything_is_where_it_should_be(undisturbed: Path) -> None:
    run = undisturbed / "runs" / "small"
    expected = (
        "experiment.toml experiment.resolved.json environment.json folds.parquet leakage.json audit.json data.json "
        "plan.json sessions.json log.jsonl samples.parquet summary.json report.html report.md"
    )
    assert [name for name in expected.split() if not (run / name).exists()] == []
    fold = {path.name for path in (run / "mobilenet_v3_small" / "fold0").iterdir()}
    milestones = {
        f"{kind}-{b}.{end}" for b in (20, 100) for kind, end in (("weights", "safetensors"), ("predictions", "parquet"))
    }
    assert fold == milestones | {"curve.jsonl", "log.jsonl", "result.json"}
    assert list(run.glob("**/.*.part")) == []
    assert list((run / "tensorboard").glob("*/fold0/events*")) and list((run / "tensorboard").glob("*/fold0/budget-*"))


def test_tensorboard_shows_curves_and_budgets_as_hparams(undisturbed: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = undisturbed / "runs/small/tensorboard/mobilenet_v3_small/fold0"
    board = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in board.Scalars("training/loss")] == list(range(5, 101, 5))
    assert [event.step for event in board.Scalars("held_out/accuracy")] == [20, 100]
    for budget in (20, 100):
        kept = EventAccumulator(str(folder / f"budget-{budget}")).Reload()
        plugin = kept.PluginTagToContent("hparams")
        assert b"budget" in plugin["_hparams_/session_start_info"]


def test_tensorboard_shows_pooled_metrics_and_the_drawings(undisturbed: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    root = undisturbed / "runs/small/tensorboard/pooled"
    board = EventAccumulator(str(root), size_guidance={"images": 0}).Reload()
    assert [event.step for event in board.Images("report/roc")] == [20, 100]
    figure = (undisturbed / "runs/small/figures/confusion.png").read_bytes()
    assert board.Images("report/confusion")[0].encoded_image_string == figure
    summary = json.loads((undisturbed / "runs/small/summary.json").read_text())
    for row in summary["rows"]:
        entry = EventAccumulator(str(root / row["arm"] / f"budget-{row['iterations']}")).Reload()
        assert entry.Scalars("pooled/auc")[0].value == pytest.approx(row["metrics"]["auc"]["value"])
        assert b"budget" in entry.PluginTagToContent("hparams")["_hparams_/session_start_info"]


def test_every_image_is_predicted_once_by_models_that_did_not_see_its_patient(undisturbed: Path) -> None:
    folds = pd.read_parquet(undisturbed / "runs/small/folds.parquet")
    for budget in (20, 100):
        pooled = pd.concat(frame for path, frame in scores(undisturbed).items() if f"-{budget}." in path)
        assert sorted(pooled["image_id"]) == sorted(folds["image_id"])
        merged = pooled.merge(folds, on="image_id")
        assert (merged["fold_x"] == merged["fold_y"]).all()
    assert (folds.groupby("patient_id")["fold"].nunique() == 1).all()


@pytest.mark.slow
def test_streamed_study_gives_the_same_bits(undisturbed: Path, tmp_path: Path) -> None:
    done = cxrtl("run", experiment(tmp_path, 'images = "stream"\n'), "--home", tmp_path)
    assert done.returncode == 0, done.stderr
    assert same(scores(tmp_path), scores(undisturbed))
    (flat,) = (tmp_path / "prepared").glob("*/pixels.u8")
    assert flat.stat().st_size == 32 * 32 * len(pd.read_parquet(tmp_path / "runs/small/folds.parquet"))
    results = RunDir(tmp_path / "runs" / "small").results()
    assert len(results) == 2 and all(0 < found.data_wait_seconds < found.wall_seconds for found in results)


def test_second_run_trains_nothing_and_starts_no_ray_though_what_decides_nothing_has_changed(undisturbed: Path) -> None:
    run = undisturbed / "runs" / "small"
    before = {path: path.stat().st_mtime_ns for path in run.glob("*/fold*/*")}
    changes = ("--set", "train.checkpoint_every=3", "--set", "description=x")
    done = here("run", experiment(undisturbed), "--home", undisturbed, *changes, "--address", "127.0.0.1:1")
    assert done.returncode == 0 and "done before" in done.stdout  # no Ray answers at that address
    assert {path: path.stat().st_mtime_ns for path in run.glob("*/fold*/*")} == before
    assert json.loads((run / "experiment.resolved.json").read_text())["experiment"]["description"] == "x"


def test_changed_experiment_is_refused_with_both_hashes_and_the_difference(undisturbed: Path) -> None:
    before = scores(undisturbed)
    path = experiment(undisturbed)
    done = here("run", path, "--home", undisturbed, "--set", "train.rate=0.02", "--set", "seed=1")
    assert done.returncode == 2
    assert "ChangedError" in done.stderr and "arms.mobilenet_v3_small.train.rate: 0.01 → 0.02" in done.stderr
    assert "seed: 0 → 1" in done.stderr
    assert len(set(re.findall(r"\b[0-9a-f]{12}\b", done.stderr))) == 2
    assert same(before, scores(undisturbed))


def test_audit_of_a_run_and_of_a_source(undisturbed: Path, tmp_path: Path) -> None:
    looked = here("audit", undisturbed / "runs/small", "--json", "--address", "127.0.0.1:1")
    assert looked.returncode == 0, looked.stderr
    found = json.loads(looked.stdout.splitlines()[-1])
    assert found["certificate"]["passed"] and found["lookalikes"]["pairs"] == 0
    assert [row["features"] for row in found["shortcuts"]] == ["image border and corners"]
    words = ("--home", undisturbed, "--set", "folds.kind=holdout", "--address", "127.0.0.1:1")
    source = here("audit", experiment(tmp_path), *words)  # prepared before: no Ray answers at that address
    assert source.returncode == 0 and "no patient in two folds" in source.stdout and "nothing shown" in source.stdout
    assert len(list(undisturbed.glob("prepared/*/audit/audit.json"))) == 1


def test_run_that_is_being_written_is_refused(undisturbed: Path) -> None:
    with RunDir(undisturbed / "runs" / "small").lock():
        done = here("run", experiment(undisturbed), "--home", undisturbed)
    assert done.returncode == 2 and "LockedError" in done.stderr


@pytest.mark.slow
def test_stale_folds_are_refused(undisturbed: Path, tmp_path: Path) -> None:
    given = f"[folds]\nk = 2\nfile = '{undisturbed}/runs/small/folds.parquet'\n"
    other = tmp_path / "other.toml"
    text = experiment(tmp_path).read_text().replace("[folds]\nk = 2\n", given)
    other.write_text(text.replace("phantom_patients = 24", "phantom_patients = 26"))
    done = cxrtl("run", other, "--home", tmp_path)
    assert done.returncode == 2 and "StaleFoldsError" in done.stderr


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--set", "train.backbone=resnet5"], "ConfigError: .*resnet5"),
        (["--set", "train.init=file:/nowhere.pth"], "WeightsError: .*nowhere.pth.*cannot be read"),
        (["--address", "127.0.0.1:1"], "PlanError: no Ray cluster answers"),
    ],
)
def test_faults_have_their_own_message_and_no_traceback(tmp_path: Path, change: list[str], named: str) -> None:
    done = here("run", experiment(tmp_path), "--home", tmp_path, *change)
    assert done.returncode in (1, 2)
    assert re.search(named, done.stderr, re.DOTALL), done.stderr
    assert "Traceback (most" not in done.stderr + done.stdout


def test_fault_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = cxrtl("run", experiment(tmp_path), "--home", tmp_path, "--set", "train.ratte=1")
    assert done.returncode == 2 and done.stdout == ""
    assert "ConfigError" in done.stderr and "train.ratte: unknown key" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_plan_trains_nothing(tmp_path: Path) -> None:
    done = cxrtl("plan", experiment(tmp_path), "--home", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout.splitlines()[-1])["plan"]
    assert plan["trials"] == 2 and plan["concurrent"] >= 1 and plan["estimated_seconds"] >= 0
    assert not (tmp_path / "runs/small/mobilenet_v3_small").exists()


def test_two_folds_at_once_on_two_cpus_do_not_deadlock(undisturbed: Path) -> None:
    plan = json.loads((undisturbed / "runs/small/plan.json").read_text())
    assert plan["concurrent"] == min(2, int(plan["cluster_cpus"]))
    assert len(scores(undisturbed)) == 2 * 2  # both folds came to their end, at both budgets


@pytest.mark.slow
def test_prepared_set_is_held_to_todays_limit_of_skipped_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(tmp_path / "images" / name / f"{number}.png")
    (tmp_path / "images" / "b" / "junk.png").write_text("no image")
    words = ("prepare", tmp_path / "images", "--home", tmp_path)
    assert cxrtl(*words, "--set", "max_skipped=0.2").returncode == 0
    refused = cxrtl(*words)
    assert refused.returncode == 2 and "SkippedError" in refused.stderr and "junk" not in refused.stderr


def test_stage_on_its_own_patients_is_refused_and_names_them(undisturbed: Path, tmp_path: Path) -> None:
    path = experiment(tmp_path)
    path.write_text(path.read_text().replace('name = "small"', 'name = "staged"').replace("scratch", "stage:small"))
    done = here("run", path, "--home", undisturbed)
    assert done.returncode == 2 and "LeakageError" in done.stderr
    patient = pd.read_parquet(undisturbed / "runs/small/folds.parquet")["patient_id"].min()
    assert patient in done.stderr and not (undisturbed / "runs/staged/experiment.resolved.json").exists()


@pytest.mark.slow
def test_staged_run_keeps_its_lineage(undisturbed: Path, tmp_path: Path) -> None:
    path = experiment(tmp_path)
    path.write_text(path.read_text().replace('name = "small"', 'name = "later"').replace("scratch", "stage:small"))
    changes = ("data.phantom_seed=7", "train.freeze_until=features.2", "train.views=2")
    done = cxrtl("run", path, "--home", undisturbed, *(word for change in changes for word in ("--set", change)))
    assert done.returncode == 0, done.stderr
    run = undisturbed / "runs/later"
    resolved = json.loads((run / "experiment.resolved.json").read_text())
    (stage,) = resolved["lineage"]["mobilenet_v3_small"]
    assert stage["patients_compared"] and stage["init"] == "scratch" and stage["iterations"] == 100
    decides = resolved["decides"]["arms"]["mobilenet_v3_small"]
    assert decides["features"] == {"views": 2, "kept": True}
    assert decides["train"]["stages"] == [stage["run_hash"]]
    assert len(list((undisturbed / "features").glob("*/features.json"))) == 2  # plain, and views
