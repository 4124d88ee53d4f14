"""What a look at every pixel leaves beside the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrtl.config import Folds as FoldsConfig
from cxrtl.data.folds import make_folds
from cxrtl.data.manifest import build
from cxrtl.data.survey import survey
from cxrtl.records import Folds, Prepared
from cxrtl.rundir import RunDir
from tests.data.helpers import CANARY, Prepare, table_config

pytestmark = pytest.mark.usefixtures("without_ray", "small_slices")


@pytest.fixture
def surveyed(labels: Path, key: bytes, prepare_set: Prepare, tmp_path: Path) -> tuple[RunDir, Prepared, Folds]:
    """Six patients of two images each in three folds; the fifth image is the first one's mirror image, in a JPEG."""
    listed = pd.read_csv(labels, dtype=str)["image"]
    with Image.open(labels.parent / listed[0]) as picture:
        mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.save(labels.parent / listed[4], "JPEG", quality=60)
    data = table_config(labels, keep_columns=["age"])
    prepared, index = prepare_set(build(data, key), data)
    folds = make_folds(index, prepared, FoldsConfig(k=3))
    fold = index["patient_id"].factorize()[0] // 2  # healthy and sick in each; images 0 and 4 apart
    folds = Folds(folds.frame.assign(fold=fold), folds.dataset_hash, True, folds.hash)
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    survey(run, prepared, folds)
    return run, prepared, folds


def test_mirrored_copy_across_folds_is_listed_with_its_pixels(surveyed: tuple[RunDir, Prepared, Folds]) -> None:
    run, prepared, folds = surveyed
    found = json.loads(run.path("audit.json").read_text())
    assert (found["dataset_hash"], found["folds_hash"]) == (prepared.dataset_hash, folds.hash)
    alike = found["lookalikes"]
    assert (alike["pairs"], alike["images"], alike["mirrored"], alike["other_label"]) == (1, 2, 1, 0)
    assert alike["nearest"][0]["images"] == folds.frame["image_id"][[0, 4]].tolist()
    assert alike["nearest"][0]["folds"] == [0, 1]
    kept = pd.read_parquet(run.path("lookalikes.parquet"))
    one, two = (np.frombuffer(pixels, np.uint8).reshape(32, 32).astype(int) for pixels in kept["pixels"])
    assert np.abs(one - two[:, ::-1]).mean() < 8 < np.abs(one - two).mean()
    assert {row["features"] for row in found["shortcuts"]} == {"age", "image border and corners"}


def test_folds_shown_are_those_of_the_repeat_that_parts_the_pair(
    surveyed: tuple[RunDir, Prepared, Folds],
) -> None:
    run, prepared, folds = surveyed
    together = np.repeat([0, 1, 0, 1, 2, 2], 2)  # images 0 and 4 in one fold
    frame = folds.frame.assign(fold=together, fold_1=folds.frame["fold"] + 3)
    survey(run, prepared, Folds(frame, folds.dataset_hash, True, "1" * 64))
    assert json.loads(run.path("audit.json").read_text())["lookalikes"]["nearest"][0]["folds"] == [3, 4]


def test_fingerprint(surveyed: tuple[RunDir, Prepared, Folds]) -> None:
    run, prepared, _ = surveyed
    data = json.loads(run.path("data.json").read_text())
    assert (data["images"], data["patients"], data["studies"]) == (12, 6, None)
    assert data["counts"] == prepared.counts and data["original_sizes"]["original_width"] == [40] * 5
    for shares in data["grey_levels"].values():
        assert len(shares) == 16 and sum(shares) == pytest.approx(1, abs=1e-4)
    for path in run.root.iterdir():
        assert CANARY.encode() not in path.read_bytes()


def test_done_once_for_the_same_images_and_folds(surveyed: tuple[RunDir, Prepared, Folds]) -> None:
    run, prepared, folds = surveyed
    before = run.path("audit.json").stat().st_mtime_ns
    survey(run, prepared, folds)
    assert run.path("audit.json").stat().st_mtime_ns == before
    survey(run, prepared, Folds(folds.frame, folds.dataset_hash, True, "0" * 64))
    assert run.path("audit.json").stat().st_mtime_ns > before
