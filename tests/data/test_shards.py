from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import pytest

from cxrtl import rundir
from cxrtl.config import Data
from cxrtl.data import prepare as prepare_module
from cxrtl.data import shards
from cxrtl.data.images import How
from cxrtl.data.images.worker import BATCHES, batch_size
from cxrtl.data.manifest import build
from cxrtl.data.prepare import open_prepared
from tests.data.helpers import CANARY, Prepare, labelled, save, shard_bytes, table_config

pytestmark = pytest.mark.usefixtures("without_ray", "small_slices")


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "shards").glob("*.parquet")}


class TestRestart:
    def crash(self, folder: Path, *gone: str) -> None:
        """What a kill leaves: no description, some shards or ledgers not yet there, a part of one."""
        (folder / "dataset.json").unlink()
        for name in gone:
            (folder / "shards" / name).unlink()
        (folder / "shards" / ".part-00001.parquet.1-ab.part").write_bytes(b"half")

    @pytest.mark.parametrize("gone", [("part-00001.parquet", "part-00001.json"), ("part-00001.json",)])
    def test_only_the_rest_is_done_and_the_bytes_are_the_same(
        self, labels: Path, key: bytes, prepare_set: Prepare, gone: tuple[str, ...]
    ) -> None:
        data = table_config(labels)
        prepared, _ = prepare_set(build(data, key), data)
        before, times = shard_bytes(prepared.folder), stamps(prepared.folder)
        self.crash(prepared.folder, *gone)
        again, _ = prepare_set(build(data, key), data)
        assert shard_bytes(again.folder) == before and again == prepared
        redone = {name for name, time in stamps(again.folder).items() if time != times[name]}
        assert redone == {"part-00001.parquet"}

    def test_damaged_shard_and_changed_file_are_redone(self, labels: Path, key: bytes, prepare_set: Prepare) -> None:
        data = table_config(labels)
        prepared, index = prepare_set(build(data, key), data)
        before, times = shard_bytes(prepared.folder), stamps(prepared.folder)
        shard = prepared.folder / "shards/part-00000.parquet"
        shard.write_bytes(bytes(len(before["part-00000.parquet"])))  # same size, other content
        save(labels.parent / pd.read_csv(labels)["image"][11], 999)
        _, changed = prepare_set(build(data, key), data)
        after = shard_bytes(prepared.folder)
        assert after["part-00000.parquet"] == before["part-00000.parquet"]
        assert stamps(prepared.folder)["part-00001.parquet"] == times["part-00001.parquet"]
        assert (changed["content_hash"] != index["content_hash"]).tolist() == [False] * 11 + [True]

    def test_other_settings_redo_and_leave_nothing_behind(self, labels: Path, key: bytes, prepare_set: Prepare) -> None:
        data = table_config(labels)
        prepare_set(build(data, key), data)
        frame = pd.read_csv(labels, dtype=str).iloc[:8]
        frame.to_csv(labels, index=False)
        smaller = table_config(labels, image_size=40)
        prepared, index = prepare_set(build(smaller, key), smaller)
        assert len(index) == 8 and prepared.image_size == 40
        assert len(list((prepared.folder / "shards").iterdir())) == 4
        open_prepared(prepared.folder, verify=True)


def test_slices_are_read_a_few_ahead(key: bytes, tmp_path: Path) -> None:
    """Of a set of any size no more is held; and shards that stand are told of as they are found."""
    data = table_config(labelled(tmp_path / "set", patients=40), image_size=700)  # so large that batches are small
    manifest = build(data, key)
    layout = shards.Layout(str(tmp_path), prepare_module.how_of(manifest, data), manifest.classes, {})
    pieces, files = list(enumerate(shards.slices(manifest))), batch_size(layout.how) * (BATCHES + 1)
    assert files < len(manifest.frame) / 2
    for ahead in (files // 5 + 2, 2):
        read: list[int] = []
        made = shards.make_shards((read.append(number) or (number, text) for number, text in pieces), layout)
        for done, (number, shard) in enumerate(made, start=1):
            assert number == done - 1 and shard.rows == 5 and len(read) <= done + ahead
        assert read == list(range(16))


class TestWorker:
    def test_full_disk_in_a_worker(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def full(path: Path, write: Callable[[Path], None]) -> None:
            raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr(rundir, "write_atomic", full)
        data = Data(source="phantom", phantom_patients=4, image_size=32)
        manifest = build(data, b"")
        layout = shards.Layout(str(tmp_path), How(32), manifest.classes, {})
        row = {"numbers": [0], "pieces": [next(shards.slices(manifest))]}
        (result,) = prepare_module._task(row, layout)
        assert result["write_fault"] == "No space left on device" and not result["fault"]

    @pytest.mark.parametrize(("every", "told"), [(0.0, [[3], [4], [5]]), (60.0, [[3, 4, 5]])])
    def test_what_is_done_is_told_now_and_then_and_at_the_end(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, every: float, told: list[list[int]]
    ) -> None:
        monkeypatch.setattr(prepare_module, "_TELL_EVERY", every)
        manifest = build(Data(source="phantom", phantom_patients=15, phantom_images_per_patient=1, image_size=32), b"")
        layout = shards.Layout(str(tmp_path), How(32), manifest.classes, {})
        row = {"numbers": [3, 4, 5], "pieces": list(shards.slices(manifest))}
        found = [json.loads(result["shards"]) for result in prepare_module._task(row, layout)]
        assert [[number for number, _ in shard] for shard in found] == told
        for number, shard in itertools.chain(*found):
            assert shards.Shard(**shard) == shards.read_ledger(tmp_path / shards.shard_name(number))

    def test_fault_in_a_worker_does_not_quote(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def broken(paths: Iterable[str], how: How) -> None:
            raise RuntimeError(next(iter(paths)))

        monkeypatch.setattr(shards, "decode_all", broken)
        piece = json.dumps({"first": 0, "columns": {"image_id": ["img-1"], "path": [f"/{CANARY}"]}})
        layout = shards.Layout(str(tmp_path), How(32), ("a", "b"), {})
        (result,) = prepare_module._task({"numbers": [0], "pieces": [piece]}, layout)
        assert result["fault"].startswith("RuntimeError at test_shards.py:") and CANARY not in str(result)
