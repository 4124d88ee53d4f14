from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from cxrtl import rundir
from cxrtl.config import Data
from cxrtl.config import Folds as FoldsConfig
from cxrtl.data.folds import make_folds
from cxrtl.data.images import How
from cxrtl.data.images.guard import decode
from cxrtl.data.manifest import build
from cxrtl.data.prepare import open_prepared, prepare, shard_paths, shares
from cxrtl.data.shards import VERSION
from cxrtl.errors import LockedError, PreparedError, SkippedError
from cxrtl.records import INDEX_COLUMNS, SIZE_COLUMNS, FlowStep
from tests.data.helpers import CANARY, Prepare, save, shard_bytes, table_config

pytestmark = pytest.mark.usefixtures("small_slices")


@pytest.mark.usefixtures("ray_instance")
class TestOnRay:
    def test_shards_hold_pixels_labels_and_ids(self, labels: Path, key: bytes, prepare_set: Prepare) -> None:
        data = table_config(labels, keep_columns=["age"])
        manifest = build(data, key)
        prepared, index = prepare_set(manifest, data)
        assert (prepared.images, prepared.grouped, prepared.counts) == (12, True, {"healthy": 6, "sick": 6})
        assert list(index.columns) == [*INDEX_COLUMNS, "age", *SIZE_COLUMNS]
        assert index["row"].tolist() == list(range(12))
        assert index["target"].tolist() == [0, 0, 1, 1] * 3
        tables = [pq.read_table(path) for path in shard_paths(prepared)]
        assert [len(table) for table in tables] == [5, 5, 2]
        stored = [pixels for table in tables for pixels in table["pixels"].to_pylist()]
        assert stored == [decode(path, How(32)).pixels.tobytes() for path in manifest.frame["path"]]
        about = {name.decode(): value.decode() for name, value in tables[0].schema.metadata.items()}
        assert about == {
            "version": str(VERSION),
            "shape": "[32, 32]",
            "dtype": "uint8",
            "classes": '["healthy", "sick"]',
        }

    def test_same_bytes_every_time_and_without_ray(
        self, labels: Path, key: bytes, prepare_set: Prepare, request: pytest.FixtureRequest
    ) -> None:
        data = table_config(labels)
        one, two = (prepare_set(build(data, key), data, name)[0] for name in ("one", "two"))
        request.getfixturevalue("without_ray")
        three, _ = prepare_set(build(data, key), data, "three")
        assert shard_bytes(one.folder) == shard_bytes(two.folder) == shard_bytes(three.folder)
        assert one.dataset_hash == two.dataset_hash == three.dataset_hash

    def test_progress_and_silence(
        self, labels: Path, key: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        calls: list[tuple[int, int]] = []
        data = table_config(labels)
        prepare(build(data, key), data, tmp_path / "out", on_progress=lambda done, total: calls.append((done, total)))
        assert calls == sorted(calls) and len(calls) == 3 and calls[-1] == (12, 12)
        assert capfd.readouterr() == ("", "")

    def test_each_fault_has_its_reason_and_the_rest_goes_on(
        self, labels: Path, key: bytes, prepare_set: Prepare, tmp_path: Path
    ) -> None:
        files = [labels.parent / name for name in pd.read_csv(labels)["image"]]
        files[0].unlink()
        files[2].write_bytes(b"")
        files[5].write_bytes(b"no image")
        files[7].write_bytes(files[7].read_bytes()[:400])
        (tmp_path / "outside.png").write_bytes(files[8].read_bytes())
        files[9].unlink()
        files[9].symlink_to(tmp_path / "outside.png")
        data = table_config(labels, max_skipped=0.5)
        manifest = build(data, key)
        prepared, index = prepare_set(manifest, data)
        assert prepared.skipped == {"empty": 1, "missing": 1, "outside_root": 1, "truncated": 1, "unknown_format": 1}
        assert [step.left for step in prepared.flow] == [12, 11, 10, 9, 8, 7]
        assert prepared.flow[0] == FlowStep("images listed", 0, 12, 6)
        assert prepared.flow[1] == FlowStep("unusable: the file has no bytes", 1, 11, 6)
        assert open_prepared(prepared.folder) == prepared
        assert index["row"].tolist() == [1, 3, 4, 6, 8, 10, 11]
        assert index["image_id"].tolist() == manifest.frame["image_id"][index["row"]].tolist()
        skipped = pd.read_parquet(prepared.folder / "skipped.parquet")
        assert list(skipped.columns) == ["image_id", "reason"]
        assert skipped["image_id"].tolist() == manifest.frame["image_id"][[0, 2, 5, 7, 9]].tolist()

    def test_shard_that_cannot_be_written_is_named(
        self, labels: Path, key: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "out/shards/part-00001.parquet").mkdir(parents=True)  # in the way of the renaming
        data = table_config(labels)
        with pytest.raises(PreparedError, match=r"part-00001\.parquet could not be written in .*: Is a directory"):
            prepare(build(data, key), data, tmp_path / "out")
        assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("slices", "cpus", "sizes"),
    [
        (1, 2, [1]),
        (3, 2, [1, 1, 1]),
        (20, 2, [6, 6, 2, 2, 1, 1, 1, 1]),
        (40, 4, [6, 6, 6, 6, 2, 2, 2, 2, *[1] * 8]),
        (0, 2, []),
    ],
)
def test_shares(slices: int, cpus: int, sizes: list[int]) -> None:
    found = shares(slices, cpus)
    assert [len(share) for share in found] == sizes
    assert [number for share in found for number in share] == list(range(slices))


@pytest.mark.usefixtures("without_ray")
class TestPrepare:
    def test_dataset_hash_knows_no_key_no_name_and_no_place(
        self, labels: Path, tmp_path: Path, prepare_set: Prepare
    ) -> None:
        moved = tmp_path / "elsewhere" / "renamed.csv"
        shutil.copytree(labels.parent, moved.parent)
        frame = pd.read_csv(labels, dtype=str)
        for number, name in enumerate(frame["image"]):
            (moved.parent / name).rename(moved.parent / f"{number}.png")
        frame.assign(image=[f"{number}.png" for number in range(12)]).to_csv(moved, index=False)
        data = [table_config(labels), table_config(moved)]
        one, two = (prepare_set(build(each, bytes([n]) * 32), each, str(n)) for n, each in enumerate(data))
        assert one[0].dataset_hash == two[0].dataset_hash
        assert set(one[1]["image_id"]).isdisjoint(two[1]["image_id"])
        folds = [make_folds(index, prepared, FoldsConfig(k=2)) for prepared, index in (one, two)]
        assert folds[0].hash == folds[1].hash

    @pytest.mark.parametrize("change", ["label", "patient", "order", "size", "pixels"])
    def test_dataset_hash_knows_what_matters(self, labels: Path, key: bytes, prepare_set: Prepare, change: str) -> None:
        data = table_config(labels)
        before = prepare_set(build(data, key), data, "before")[0].dataset_hash
        frame = pd.read_csv(labels, dtype=str)
        if change == "label":
            frame.loc[0, "label"] = "sick"
        elif change == "patient":
            frame.loc[0, "patient_id"] = "another"
        elif change == "order":
            frame = frame.iloc[::-1]
        elif change == "size":
            data = data.model_copy(update={"image_size": 33})
        else:
            save(labels.parent / frame["image"][0], 999)
        frame.to_csv(labels, index=False)
        assert prepare_set(build(data, key), data, "after")[0].dataset_hash != before

    def test_phantom(self, prepare_set: Prepare) -> None:
        data = Data(source="phantom", phantom_patients=8, image_size=32)
        prepared, index = prepare_set(build(data, b""), data)
        assert prepared.grouped and prepared.counts == {"normal": 8, "effusion": 8}
        assert index["content_hash"].nunique() == 16


@pytest.mark.usefixtures("without_ray")
class TestUnusable:
    def test_more_than_max_skipped_stops_with_the_list_written(self, labels: Path, key: bytes, tmp_path: Path) -> None:
        (labels.parent / pd.read_csv(labels)["image"][4]).write_bytes(b"")
        data = table_config(labels, max_skipped=1 / 13)
        with pytest.raises(SkippedError, match=r"1 of 12 files cannot be used \(empty 1\), more than") as caught:
            prepare(build(data, key), data, tmp_path / "out")
        assert CANARY not in str(caught.value) and str(tmp_path / "out" / "skipped.parquet") in str(caught.value)
        assert len(pd.read_parquet(tmp_path / "out" / "skipped.parquet")) == 1
        with pytest.raises(PreparedError, match="no finished prepared set"):
            open_prepared(tmp_path / "out")
        data = table_config(labels, max_skipped=1 / 12)
        assert prepare(build(data, key), data, tmp_path / "out").images == 11

    def test_class_left_empty(self, labels: Path, key: bytes, tmp_path: Path) -> None:
        frame = pd.read_csv(labels)
        for name in frame["image"][frame["label"] == "sick"]:
            (labels.parent / name).unlink()
        data = table_config(labels, max_skipped=1.0)
        with pytest.raises(SkippedError, match=r"no usable image is left of \['sick'\]"):
            prepare(build(data, key), data, tmp_path / "out")

    def test_a_wholly_unusable_slice_leaves_an_empty_shard(
        self, labels: Path, key: bytes, prepare_set: Prepare
    ) -> None:
        for name in pd.read_csv(labels)["image"][:5]:
            (labels.parent / name).unlink()
        data = table_config(labels, max_skipped=0.5)
        prepared, index = prepare_set(build(data, key), data)
        assert prepared.images == 7 and index["row"].tolist() == [5, 6, 7, 8, 9, 10, 11]
        assert prepared.flow[-1] == FlowStep("unusable: there is no such file", 5, 7, 4)


@pytest.mark.usefixtures("without_ray")
class TestFaults:
    def test_folder_in_use(self, labels: Path, key: bytes, tmp_path: Path) -> None:
        data = table_config(labels)
        with rundir.RunDir(tmp_path / "out").lock(), pytest.raises(LockedError):
            prepare(build(data, key), data, tmp_path / "out")

    def test_folder_that_cannot_be_filled(self, labels: Path, key: bytes, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/shards").touch()
        data = table_config(labels)
        with pytest.raises(PreparedError, match="the prepared set could not be written in"):
            prepare(build(data, key), data, tmp_path / "out")
