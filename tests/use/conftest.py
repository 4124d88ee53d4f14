"""A trained run on image files, made once, without Ray: read it; a test that changes one copies it first."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cxrtl.config import Experiment
from cxrtl.data import phantom
from cxrtl.data.feed import Part, collect
from cxrtl.data.images import How
from cxrtl.data.manifest import build
from cxrtl.data.prepare import _describe
from cxrtl.data.prepared import shard_paths, write_description
from cxrtl.data.shards import Layout, extra_types, make_shards, slices
from cxrtl.learn import weights
from cxrtl.orchestrate import frozen, ledger, plan
from cxrtl.orchestrate.fold import FoldRun, Job
from cxrtl.orchestrate.probe import Share
from cxrtl.orchestrate.study import ensure_folds
from cxrtl.records import Prepared
from cxrtl.report.load import load_run
from cxrtl.rundir import RunDir

SIZE = 96
LAST = 100  # iterations: fewer leave it to the last bits of a sum, and so to the machine, what the models think
CPU = torch.device("cpu")
torch.set_num_threads(1)  # the images are too small to share
RAW = {
    "name": "tiny",
    "data": {"source": "table", "image_size": SIZE, "positive": "sick"},
    "folds": {"k": 2},
    "train": {
        "backbone": "shufflenet_v2_x0_5",
        "init": "scratch",
        "budgets": [2, LAST],
        "batch_size": 8,
        "rate": 1e-2,
        "head_rate_factor": 1,
    },
    "arm": [{"name": "first"}, {"name": "second", "train": {"budgets": [3]}}],
}


@dataclass(frozen=True)
class Tiny:
    """A run of 24 images of 12 patients, two a patient; `images` has the files, `labels.csv` lists them."""

    run: RunDir
    images: Path
    prepared: Prepared

    def pixels(self) -> dict[str, np.ndarray]:
        frame = pd.concat([pd.read_parquet(path) for path in shard_paths(self.prepared)])
        return {
            name: np.frombuffer(data, np.uint8).reshape(SIZE, SIZE)
            for name, data in zip(frame["image_id"], frame["pixels"], strict=True)
        }


def draw_images(root: Path, patients: int = 12, seed: int = 1) -> Path:
    """PNG files of odd sizes, as they come from scanners, and their table."""
    rows = []
    (root / "files").mkdir(parents=True)
    for number in range(2 * patients):
        patient = number // 2
        image = Image.fromarray(phantom.draw(seed, number, patient % 2 == 1, patient, 150))
        image.resize((150 - number, 120)).save(root / f"files/scan-{number:02d}.png")
        label = "sick" if patient % 2 else "healthy"
        rows.append({"image": f"files/scan-{number:02d}.png", "label": label, "patient_id": f"p{seed}-{patient}"})
    pd.DataFrame(rows).to_csv(root / "labels.csv", index=False)
    return root / "labels.csv"


def prepare(experiment: Experiment, out: Path, key: bytes) -> Prepared:
    """What `data.prepare` does, in this process."""
    manifest, data = build(experiment.data, key), experiment.data
    how = How(data.image_size, **data.decode.model_dump(), structures=len(data.structures))
    (out / "shards").mkdir(parents=True)
    layout = Layout(str(out / "shards"), how, manifest.classes, extra_types(manifest))
    shards = [shard for _, shard in make_shards(enumerate(slices(manifest)), layout)]
    prepared = _describe(manifest, how, out, shards)
    write_description(prepared, shards)
    return prepared


def part(prepared: Prepared, held: np.ndarray) -> Part:
    table = pa.concat_tables([pq.read_table(path) for path in shard_paths(prepared)])
    (found,) = collect([table], prepared, [held])
    return found


def train(root: Path, labels: Path, key: bytes, raw: dict[str, Any] = RAW) -> Tiny:
    """Do what `study.run` does, fold after fold in this process."""
    experiment = Experiment.model_validate({**raw, "data": {**raw["data"], "path": str(labels)}})
    run = RunDir(root / "runs" / "tiny")
    run.root.mkdir(parents=True)
    prepared = prepare(experiment, root / "prepared" / "table-tiny", key)
    folds = ensure_folds(run, experiment, prepared)
    starts = weights.of_arms(experiment, {}, download=False)
    identity = ledger.Identity.of(experiment, prepared, folds, starts, {})
    machine = ledger.Machine("cpu", dict.fromkeys(starts, "fp32"), 1)
    saved = ledger.write(run, experiment, identity, prepared, folds, starts, machine, "cxrtl run tiny.toml", {})
    trials = plan.trials(experiment, folds.k)
    job = Job(
        run=run,
        hashes=saved["arm_hashes"],
        recipes={recipe.name: recipe for recipe in experiment.recipes},
        trials={trial.name: trial for trial in trials},
        weights=starts,
        precision=dict.fromkeys(starts, "fp32"),
        seed=0,
        division=folds.division,
        prepared=prepared,
        share=Share(1, 0),
        bank=frozen.Bank(),
    )
    held = folds.frame["fold"].to_numpy()
    for trial in trials:
        parts = (part(prepared, held != trial.fold), part(prepared, held == trial.fold))
        FoldRun(job, trial, *parts, CPU, 0.0).run()

    return Tiny(run, labels.parent, prepared)


@pytest.fixture(scope="session")
def id_key(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    from cxrtl.data.ids import load_key

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXRTL_KEY_FILE", str(tmp_path_factory.mktemp("key") / "id.key"))
        return load_key()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, id_key: bytes) -> Tiny:
    root = tmp_path_factory.mktemp("tiny")
    made = train(root, draw_images(root / "images"), id_key)
    score = load_run(made.run).predictions.select("first", LAST).score
    assert score.std() > 0.1 and 0 < (score >= 0.5).mean() < 1  # else many a test would hold for any model
    return made


@pytest.fixture
def copy(tiny: Tiny, tmp_path: Path) -> RunDir:
    shutil.copytree(tiny.run.root, tmp_path / "copy")
    return RunDir(tmp_path / "copy")
