from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrtl.config import Data
from cxrtl.data import shards
from cxrtl.data.prepare import prepare, read_index
from cxrtl.records import Manifest
from tests.data.helpers import Indexed, Prepare, labelled


@pytest.fixture
def prepare_set(tmp_path: Path) -> Prepare:
    """Prepare a manifest into `tmp_path/<name>`; returns the set and its index. Needs `ray_instance`, or
    `without_ray`."""

    def run(manifest: Manifest, data: Data, name: str = "out") -> Indexed:
        prepared = prepare(manifest, data, tmp_path / name)
        return prepared, read_index(prepared)

    return run


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Preparing calls in this process, one after the other, what Ray's tasks call elsewhere."""

    def stream(pieces: list[str], layout: shards.Layout) -> Iterator[tuple[int, shards.Shard]]:
        return shards.make_shards(enumerate(pieces), layout)

    monkeypatch.setattr("cxrtl.data.prepare._stream", stream)


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five images a shard, so that the twelve of `labels` make shards of 5, 5 and 2."""
    monkeypatch.setattr(shards, "SLICE", 5)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A label table of twelve images, two of each of six patients."""
    return labelled(tmp_path / "set")
