"""Staged transfer: weights by a rule that knows the stage alone, lineage through any number of stages, and no test
patient or picture that a stage has seen."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch

from cxrtl import rundir
from cxrtl.config import Train
from cxrtl.data.folds import folds_hash, write_folds
from cxrtl.errors import DamagedError, LeakageError, WeightsError
from cxrtl.learn import backbones, lineage, weights
from cxrtl.records import FoldResult, Folds, Milestone, Trial
from cxrtl.rundir import RunDir

LOSSES = (0.9, 0.2, 0.5, 0.5)
NAME = "squeezenet1_1"


def folds(tag: str, patients: int = 8) -> Folds:
    names = [f"{tag}{number}" for number in range(patients)]
    columns = {"image_id": names, "patient_id": [f"pat-{n}" for n in names], "label": ["a", "b"] * (patients // 2)}
    frame = pd.DataFrame({**columns, "content_hash": [f"hash-{n}" for n in names], "fold": range(patients)})
    frame["fold"] %= len(LOSSES)
    return Folds(frame, f"data-{tag}", True, folds_hash(frame))


def train(init: str, name: str = NAME) -> Train:
    return Train(backbone=name, init=init)


def stage(
    runs: Path, name: str, source: lineage.Source | None = None, init: str = "imagenet", key: str = "k"
) -> RunDir:
    """A finished run of one arm, as the orchestrator leaves it; each fold's weights are its own."""
    run, mine = RunDir(runs / name), folds(name)
    run.root.mkdir(parents=True)
    trials = [Trial("arm", fold, (5, 10), f"arm/fold{fold}") for fold in range(len(LOSSES))]
    for trial, loss in zip(trials, LOSSES, strict=True):
        folder = run.trial(trial)
        folder.mkdir(parents=True)
        torch.manual_seed(trial.fold)
        content = safetensors.torch.save(backbones.build(NAME, 3).state_dict())
        files = {"weights-10.safetensors": rundir.write_bytes(folder / "weights-10.safetensors", content)}
        milestones = (Milestone(5, 1, 1, 0, 0), Milestone(10, 1, 1, loss, 0))
        rest: dict[str, Any] = {
            "milestones": milestones,
            "setup_seconds": 0,
            "wall_seconds": 0,
            "threads": 1,
            "tries": 1,
        }
        done = FoldResult(
            arm="arm", fold=trial.fold, budgets=trial.budgets, run_hash=f"run-{name}", train_images=6, test_images=2,
            images_per_second=1, device="cpu", precision="fp32", files=files, **rest,
        )  # fmt: skip
        rundir.write_json(folder / "result.json", done.to_json())
    rundir.write_json(run.path("plan.json"), {"trials": [asdict(trial) for trial in trials]})
    write_folds(run.path("folds.parquet"), mine)
    arms = {"arm": {"train": {"backbone": NAME, "init": init, "weights_sha256": "0" * 64}}}
    resolved = {
        "decides": {"arms": arms},
        "arm_hashes": {"arm": f"run-{name}"},
        "dataset": {"dataset_hash": mine.dataset_hash, "classes": ["a", "b"]},
        "folds_hash": mine.hash,
        "id_key": key,
        "lineage": {"arm": list(source.stages)} if source else {},
    }
    rundir.write_json(run.path("experiment.resolved.json"), resolved)
    if source:
        lineage.write_seen(run, {"arm": source})
    return run


def test_the_rule_takes_the_fold_of_median_loss_and_the_last_budget(tmp_path: Path) -> None:
    run = stage(tmp_path, "one")
    for init in ("stage:one", "stage:one/arm", f"stage:{run.root}", f"stage:{run.root}/arm"):
        source = lineage.choose(train(init), tmp_path)
        assert source.path == run.path("arm", "fold2", "weights-10.safetensors")  # 0.2 0.5 0.5 0.9: the lower middle
    assert source.stages[0] == {
        "stage": 1, "run": "one/arm", "run_hash": "run-one", "weights_sha256": rundir.sha256_file(source.path),
        "data_hash": "data-one", "classes": ["a", "b"], "images": 6, "patients": 6, "iterations": 10,
        "rule": f"{lineage.RULE}: fold 2", "init": "imagenet", "init_sha256": "0" * 64, "id_key": "k",
        "seen_hash": source.stages[0]["seen_hash"],
    }  # fmt: skip


def test_weights_of_a_stage_are_verified_and_get_a_new_last_layer(tmp_path: Path) -> None:
    stage(tmp_path, "one")
    wanted = train("stage:one")
    found = weights.find(wanted, stage=lineage.choose(wanted, tmp_path))
    assert found is not None
    assert found.describe()["file"] == "one/arm/fold2/weights-10.safetensors" and found.stages == ("run-one",)
    model = backbones.build(NAME, 2)
    weights.load(model, found, NAME, 2)
    torch.manual_seed(2)
    given = backbones.build(NAME, 3).state_dict()
    for key, value in model.state_dict().items():
        assert key.startswith("classifier.1") or torch.equal(value, given[key]), key


def test_altered_or_missing_weights_of_any_fold_are_refused(tmp_path: Path) -> None:
    run = stage(tmp_path, "one")
    run.path("arm/fold1/weights-10.safetensors").write_bytes(b"altered")
    with pytest.raises(WeightsError, match=r"arm/fold1 of the stage 'one' is not finished"):
        lineage.choose(train("stage:one"), tmp_path)


@pytest.mark.parametrize(
    ("init", "name", "message"),
    [
        ("stage:two", NAME, "no run there, nor in"),
        ("stage:one/other", NAME, r"has no arm 'other'\. Add one of: \['arm'\]"),
        ("stage:one", "resnet18", "take the same backbone in both stages"),
    ],
)
def test_what_is_no_stage_is_refused(tmp_path: Path, init: str, name: str, message: str) -> None:
    stage(tmp_path, "one")
    with pytest.raises(WeightsError, match=message):
        lineage.choose(train(init, name), tmp_path)


def planted(target: Folds, **columns: str) -> Folds:
    """The target with its third image's columns changed."""
    frame = target.frame.copy()
    for column, value in columns.items():
        frame.loc[2, column] = value
    return Folds(frame, target.dataset_hash, target.grouped, target.hash)


def test_one_shared_patient_or_picture_is_refused_by_its_hash(tmp_path: Path) -> None:
    stage(tmp_path, "one")
    source = lineage.choose(train("stage:one"), tmp_path)
    assert lineage.check("arm", source, folds("target"), "k")[0]["patients_compared"] is True
    for shared in ({"patient_id": "pat-one5"}, {"content_hash": "hash-one5"}):
        with pytest.raises(
            LeakageError, match=rf"1 .* of stage 'one/arm', such as \['{next(iter(shared.values()))}'\]"
        ):
            lineage.check("arm", source, planted(folds("target"), **shared), "k")


def test_under_another_key_patients_cannot_be_compared_and_pictures_are(tmp_path: Path) -> None:
    stage(tmp_path, "one", key="another")
    source = lineage.choose(train("stage:one"), tmp_path)
    shared = planted(folds("target"), patient_id="pat-one5")
    assert lineage.check("arm", source, shared, "k")[0]["patients_compared"] is False
    with pytest.raises(LeakageError, match="hash-one5"):
        lineage.check("arm", source, planted(shared, content_hash="hash-one5"), "k")


def test_lineage_goes_through_stages_whose_folders_are_gone(tmp_path: Path) -> None:
    stage(tmp_path, "one")
    source = lineage.choose(train("stage:one"), tmp_path)
    second = stage(tmp_path, "two", source, "stage")
    (tmp_path / "one").rename(tmp_path / "gone")
    chain = lineage.choose(train("stage:two"), tmp_path)
    assert [(entry["stage"], entry["run"]) for entry in chain.stages] == [(1, "one/arm"), (2, "two/arm")]
    with pytest.raises(LeakageError, match=r"stage 'one/arm'.*pat-one5"):
        lineage.check("arm", chain, planted(folds("target"), patient_id="pat-one5"), "k")
    seen = pd.read_parquet(second.path(lineage.SEEN))
    rundir.write_frame(second.path(lineage.SEEN), seen.iloc[1:])
    with pytest.raises(DamagedError, match="altered"):
        lineage.choose(train("stage:two"), tmp_path)
