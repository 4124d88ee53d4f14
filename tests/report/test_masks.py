"""Masks of shown images: the true ones from the shards, the predicted ones from the trial that held them out."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cxrtl import rundir
from cxrtl.errors import DamagedError, PreparedError
from cxrtl.records import Prepared
from cxrtl.report import masks
from cxrtl.rundir import RunDir

ROWS = pd.DataFrame({"image_id": ["a", "b"], "arm": "one", "fold": [0, 1], "iterations": 5})


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    shard = tmp_path / "part.parquet"
    rundir.write_frame(shard, pd.DataFrame({"image_id": ["a", "b", "c"], "mask": [b"A", b"B", b"C"]}))
    monkeypatch.setattr(masks, "shard_paths", lambda _: [shard])
    return Prepared(tmp_path, ("x",), 1, 3, True, "", task="segmentation")


def test_each_image_has_its_own_folds_mask(tmp_path: Path, prepared: Prepared) -> None:
    run = RunDir(tmp_path / "run")
    for fold, image in ((0, "a"), (1, "b")):
        folder = run.path("one", f"fold{fold}", "budget5")
        folder.mkdir(parents=True)
        rundir.write_frame(folder / "masks-5.parquet", pd.DataFrame({"image_id": [image], "mask": [image.encode()]}))
    assert masks.read_masks(run, prepared, ROWS) == {"a": (b"A", b"a"), "b": (b"B", b"b")}
    with pytest.raises(PreparedError, match=r"lack masks of \['z'\]"):
        masks.read_masks(run, prepared, ROWS.assign(image_id=["a", "z"]))
    with pytest.raises(DamagedError, match=r"masks-5.parquet of arm 'one', fold 0, is missing or lacks images"):
        masks.read_masks(run, prepared, ROWS.assign(fold=[0, 0]))
