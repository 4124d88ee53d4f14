"""Sampled predictions: the stated rule, the right pixels, the refusals."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from fake_run import SMALL, make_prepared

from cxrtl.errors import DamagedError, PredictionsError, PreparedError
from cxrtl.predictions import Predictions
from cxrtl.records import Prepared
from cxrtl.report.load import load_run
from cxrtl.report.samples import collect_samples, read_samples
from cxrtl.rundir import RunDir


@pytest.fixture
def prepared(small: RunDir, tmp_path: Path) -> Prepared:
    return make_prepared(tmp_path / "prepared", small, SMALL)


def test_rule_and_pixels(small: RunDir, prepared: Prepared) -> None:
    predictions = load_run(small).predictions
    frame = pd.read_parquet(collect_samples(small, predictions, prepared, per_cell=3))
    assert set(frame["arm"]) == {"resnet50"} and set(frame["iterations"]) == {20}
    assert frame["cell"].value_counts().max() <= 3 and frame["image_id"].is_unique
    shards = pd.concat([pd.read_parquet(path) for path in sorted(prepared.folder.glob("shards/*"))])
    pixels = shards.set_index("image_id")["pixels"]
    for row in frame.itertuples():
        positive, called = row.label == "effusion", row.score >= 0.5
        assert row.cell == {(1, 1): "tp", (1, 0): "fn", (0, 1): "fp", (0, 0): "tn"}[positive, called]
        assert row.pixels == pixels[row.image_id] and len(row.pixels) == 32 * 32


def test_order_of_the_predictions_plays_no_part(small: RunDir, prepared: Prepared) -> None:
    predictions = load_run(small).predictions
    first = collect_samples(small, predictions, prepared).read_bytes()
    shuffled = Predictions(predictions.frame.sample(frac=1, random_state=1), predictions.classes)
    assert collect_samples(small, shuffled, prepared).read_bytes() == first
    assert collect_samples(small, shuffled, prepared, seed=1).read_bytes() != first


def test_read_back(small: RunDir, prepared: Prepared) -> None:
    assert read_samples(small) == []
    collect_samples(small, load_run(small).predictions, prepared)
    cells = [sample.cell for sample in read_samples(small)]
    assert cells == sorted(cells, key=["tp", "fn", "fp", "tn"].index)
    assert all(sample.png.startswith(b"\x89PNG") for sample in read_samples(small))
    small.path("samples.parquet").write_text("nonsense")
    with pytest.raises(DamagedError, match=r"samples\.parquet"):
        read_samples(small)


def test_refusals(small: RunDir, prepared: Prepared) -> None:
    predictions = load_run(small).predictions
    with pytest.raises(PredictionsError, match="per_cell=0"):
        collect_samples(small, predictions, prepared, per_cell=0)
    for path in prepared.folder.glob("shards/*"):
        path.unlink()
    with pytest.raises(PreparedError, match="prepare the data again"):
        collect_samples(small, predictions, prepared)
