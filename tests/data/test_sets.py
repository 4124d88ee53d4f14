"""What was refused once is not refused for good, and what a run was begun with stays as it is."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cxrtl.config import Data, Experiment
from cxrtl.config import Folds as FoldsConfig
from cxrtl.data import refused, sets, shards
from cxrtl.data.folds import make_folds, write_folds
from cxrtl.data.images import How, Unusable
from cxrtl.data.images.guard import decode_all
from cxrtl.data.images.rules import Answer
from cxrtl.data.manifest import build
from cxrtl.data.prepare import prepare
from cxrtl.errors import SkippedError
from cxrtl.orchestrate import study
from cxrtl.records import Prepared
from tests.data.helpers import CANARY, grouped, shard_bytes, table_config
from tests.data.test_shards import stamps

pytestmark = pytest.mark.usefixtures("without_ray", "small_slices")


class Storage:
    """Where file 3 is away, or what it may take is too little; it was tried so many times."""

    reason, tried = "unreadable", 0

    def decode_all(self, paths: Iterable[str], how: How) -> Iterator[Answer]:
        paths, again = itertools.tee(paths)
        for path, answer in zip(again, decode_all(paths, how), strict=True):
            third = path.endswith(f"{CANARY}-003.png")
            self.tried += third
            yield Unusable(self.reason) if third and self.reason else answer


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Storage:
    found = Storage()
    for module in (shards, refused):
        monkeypatch.setattr(module, "decode_all", found.decode_all)
    return found


@pytest.mark.parametrize("reason", ["unreadable", "timed_out", "out_of_memory", "no_decoder", "decoder_died"])
def test_shard_is_made_again_once_its_file_can_be_used(
    labels: Path, key: bytes, tmp_path: Path, away: Storage, reason: str
) -> None:
    away.reason, data = reason, table_config(labels)
    for _ in range(2):
        with pytest.raises(SkippedError, match=reason):
            prepare(build(data, key), data, tmp_path / "out")
    before = stamps(tmp_path / "out")
    assert away.tried == 2  # decoded once, and looked at once more
    away.reason = ""
    assert prepare(build(data, key), data, tmp_path / "out").images == 12
    changed = {name for name, time in stamps(tmp_path / "out").items() if time != before[name]}
    assert changed == {"part-00000.parquet"}


def test_what_takes_long_is_tried_with_a_few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand files at half a minute each would take a night before every run."""
    tried: list[str] = []

    def decode_all(paths: Iterable[str], how: How) -> Iterator[Answer]:
        for path in paths:
            tried.append(path)
            yield Unusable(path.rstrip("0123456789"))

    monkeypatch.setattr(refused, "decode_all", decode_all)
    skipped = [(f"{reason}{k}", reason) for k in range(9) for reason in ("timed_out", "missing", "empty")]
    assert refused.still({image: image for image, _ in skipped}, skipped, How(32))
    assert sorted(tried) == [*(f"missing{k}" for k in range(9)), "timed_out0", "timed_out1"]


def test_a_name_that_is_not_utf8_has_its_part_in_the_fingerprint(tmp_path: Path, key: bytes) -> None:
    for name in (b"a/1.png", b"b/\xff.png", b"b/2.png"):
        path = tmp_path / "set" / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    data = Data(source="folder", path=str(tmp_path / "set"), image_size=32)
    assert len(sets.fingerprint(data, build(data, key))) == 64


def test_damage_is_not_tried_again(labels: Path, key: bytes, tmp_path: Path, away: Storage) -> None:
    away.reason, data = "undecodable", table_config(labels, max_skipped=0.5)
    for _ in range(2):
        assert prepare(build(data, key), data, tmp_path / "out").images == 11
    assert away.tried == 1


class Quiet:
    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, text: str) -> None:
        self.said.append(text)

    def preparing(self, done: int, total: int) -> None:
        self.said.append(f"{done} of {total}")


class TestStudy:
    def prepare(self, labels: Path, home: Path, begun: str = "", **changes: object) -> tuple[Prepared, list[str]]:
        session = study.Session(study.Options(home, ""), ExitStack(), nodes=["here"])  # type: ignore[list-item]
        watcher = Quiet()
        data = table_config(labels, **{"max_skipped": 0.5, **changes})
        return study.prepare(data, home, session, watcher, begun), watcher.said  # type: ignore[arg-type]

    @pytest.mark.usefixtures("key")
    def test_files_that_can_be_used_now_make_a_new_set_beside_the_old(
        self, labels: Path, tmp_path: Path, away: Storage
    ) -> None:
        old, _ = self.prepare(labels, tmp_path)
        before = shard_bytes(old.folder)
        same, said = self.prepare(labels, tmp_path, decode={"file_seconds": 99})
        assert same == old and said == ["reading labels", "trying again 1 file(s) that could not be used"]
        away.reason = ""
        new, said = self.prepare(labels, tmp_path)
        assert (old.images, new.images) == (11, 12) and new.folder == old.folder.with_name(f"{old.folder.name}-1")
        assert said[1:3] == ["trying again 1 file(s) that could not be used", "preparing 12 images at 32 px"]
        assert shard_bytes(old.folder) == before
        inodes = [[path.stat().st_ino for path in sorted(made.folder.glob("shards/*.parquet"))] for made in (old, new)]
        assert [one == two for one, two in zip(*inodes, strict=True)] == [False, True, True]
        assert self.prepare(labels, tmp_path) == (new, ["reading labels"])

    @pytest.mark.usefixtures("key")
    def test_run_that_was_begun_keeps_its_set(self, labels: Path, tmp_path: Path, away: Storage) -> None:
        old, _ = self.prepare(labels, tmp_path)
        away.reason = ""
        kept, said = self.prepare(labels, tmp_path, old.dataset_hash)
        assert kept == old and said[-1].startswith("going on without 1 file(s), as begun")
        new, _ = self.prepare(labels, tmp_path)
        assert self.prepare(labels, tmp_path, old.dataset_hash)[0] == old != new

    @pytest.mark.usefixtures("key")
    def test_stricter_limit_refuses_what_is_there_and_leaves_it(
        self, labels: Path, tmp_path: Path, away: Storage
    ) -> None:
        old, _ = self.prepare(labels, tmp_path)
        with pytest.raises(SkippedError, match=r"more than data\.max_skipped = 0"):
            self.prepare(labels, tmp_path, max_skipped=0)
        assert self.prepare(labels, tmp_path)[0] == old

    def test_a_run_asks_for_the_set_of_its_folds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []

        class Stop(Exception):
            pass

        def prepare(*arguments: object) -> Prepared:
            asked.append(str(arguments[-1]))
            raise Stop

        index, prepared = grouped()
        (tmp_path / "runs/x").mkdir(parents=True)
        write_folds(tmp_path / "runs/x/folds.parquet", make_folds(index, prepared, FoldsConfig(k=3)))
        monkeypatch.setattr(study, "prepare", prepare)
        for name, file in (("x", ""), ("y", str(tmp_path / "runs/x/folds.parquet")), ("z", "")):
            raw = {"name": name, "data": {"source": "phantom"}, "folds": {"file": file}, "train": {"init": "scratch"}}
            with pytest.raises(Stop):
                study.run(Experiment.model_validate(raw), study.Options(tmp_path, ""), Quiet())  # type: ignore[arg-type]
        assert asked == [prepared.dataset_hash, prepared.dataset_hash, ""]
