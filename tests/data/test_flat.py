"""The flat file holds the shards' pixels in order, is made once, and never stands half written or for another set."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrtl import rundir
from cxrtl.data import flat
from cxrtl.data.prepared import write_description
from cxrtl.data.shards import Shard
from cxrtl.errors import DamagedError, PreparedError
from cxrtl.records import Prepared

SIDE = 4


def prepared(folder: Path, seed: int = 0, segmentation: bool = True) -> tuple[Prepared, np.ndarray]:
    """Two shards of 300 and 7 images in two channels, and all their planes `[N, planes, SIDE, SIDE]`."""
    planes = np.random.default_rng(seed).integers(0, 255, (307, 2 + segmentation, SIDE, SIDE), dtype=np.uint8)
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    shards = []
    for number, part in enumerate((planes[:300], planes[300:])):
        columns = {"pixels": pa.array([image[:2].tobytes() for image in part], pa.binary(2 * SIDE * SIDE))}
        if segmentation:
            columns["mask"] = pa.array([image[2].tobytes() for image in part], pa.binary(SIDE * SIDE))
        path = folder / "shards" / f"part-{number:05d}.parquet"
        pq.write_table(pa.table(columns), path)
        size, digest = path.stat().st_size, rundir.sha256_file(path)
        shards.append(Shard(path.name, digest, size, "", [""] * len(part), []))
    task = "segmentation" if segmentation else "binary"
    made = Prepared(folder, ("a", "b"), SIDE, 307, True, "0" * 64, task=task, channels=2)
    write_description(made, shards)
    return made, planes


@pytest.mark.parametrize("segmentation", [False, True])
def test_holds_the_pixels_and_masks_in_order(tmp_path: Path, segmentation: bool) -> None:
    made, planes = prepared(tmp_path, segmentation=segmentation)
    found = flat.make(made)
    assert found == flat.describe(made) and found.path.read_bytes() == planes.tobytes()
    assert flat.size(made) == planes.nbytes
    rows = np.array([306, 0, 299, 0])
    assert np.array_equal(found.read(rows), planes[rows]) and np.array_equal(found.read(rows, 1), planes[rows][:, 1:])
    with pytest.raises(DamagedError, match="ends too early"):
        found.read(np.array([307]))


def test_is_made_once_and_again_of_another_set(tmp_path: Path) -> None:
    made, planes = prepared(tmp_path)
    before = flat.make(made).path.stat()
    assert flat.make(made).path.stat() == before
    other, others = prepared(tmp_path, seed=1)  # as large
    assert flat.make(other).path.read_bytes() == others.tobytes() != planes.tobytes()


@pytest.mark.parametrize("damage", ["shorter", "gone", "description"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    made, planes = prepared(tmp_path)
    path = flat.make(made).path
    if damage == "shorter":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        (path if damage == "gone" else tmp_path / flat.ABOUT).unlink()
    assert flat.make(made).path.read_bytes() == planes.tobytes()


def test_a_write_cut_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = prepared(tmp_path)
    (tmp_path / "shards" / "part-00001.parquet").write_bytes(b"")
    with pytest.raises(pa.ArrowInvalid):
        flat.make(made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.json", "lock", "shards"]
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(PreparedError, match=r"streaming needs 0\.0 GB .* set resources\.images to 'memory'"):
        flat.make(made)
