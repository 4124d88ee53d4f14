"""One shard: a slice of the manifest decoded into one Parquet file, with a ledger that lets a restart skip it.

    shards/part-00000.parquet   `INDEX_COLUMNS`, the source's further columns, `SIZE_COLUMNS`, `pixels` and, of a
                                segmentation, `mask`; decoded images only
    shards/part-00000.json      written after it: sha256, what it was made from, and which images were skipped

No Ray here: `make_shards` runs in any process. It knows file paths and never writes or returns them.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxrtl import rundir, storage
from cxrtl.data import private, refused
from cxrtl.data.images import How, Unusable
from cxrtl.data.images.guard import decode_all
from cxrtl.data.images.rules import REFUSED, Answer, file_paths
from cxrtl.errors import DamagedError
from cxrtl.records import MANIFEST_COLUMNS, SIZE_COLUMNS, Manifest

VERSION = 5  # of the prepared set: layout, decoding and hashes
SLICE = 256  # images a shard
_SEVERAL = 64  # slices whose rows are read from the manifest at once

PICTURES = ("pixels", "mask")  # the columns that are no index
_Room = list[npt.NDArray[np.uint8]]  # for pixels and masks, `[SLICE, bytes]`: of one slice after the other
_STANDS = f"{REFUSED}stands:"  # no path: one answer for a slice of which nothing is to be decoded

_INDEX_TYPES = {
    "row": pa.int64(),
    "image_id": pa.string(),
    "patient_id": pa.string(),
    "study_id": pa.string(),
    "label": pa.string(),
    "target": pa.int64(),
    "content_hash": pa.string(),
}


@dataclass(frozen=True)
class Layout:
    """What all shards of a set have in common. `extras`: further column → Arrow type, by name."""

    folder: str
    how: How
    classes: tuple[str, ...]
    extras: dict[str, str]

    @property
    def schema(self) -> pa.Schema:
        """Index columns, extras, sizes, pixels, mask; the pixels' shape and dtype stand in plain schema metadata."""
        fields = [*_INDEX_TYPES.items(), *((name, pa.type_for_alias(kind)) for name, kind in self.extras.items())]
        fields += [(name, pa.int64()) for name in SIZE_COLUMNS]
        pixels = [("pixels", pa.binary(self.how.pixel_bytes))]
        if self.how.structures:
            pixels.append(("mask", pa.binary(self.how.mask_bytes)))
        metadata = {
            "version": str(VERSION),
            "shape": json.dumps(self.how.shape),
            "dtype": "uint8",
            "classes": json.dumps(self.classes),
        }
        return pa.schema([*fields, *pixels], metadata=metadata)


@dataclass(frozen=True)
class Shard:
    """What a ledger says. `hashes` holds each image's content hash, in slice order, None where it was skipped.

    Of a segmentation, `masks` holds the masks' hashes alike, and `present` the images with each structure.
    """

    file: str
    sha256: str
    bytes: int
    made_from: str
    hashes: list[str | None]
    skipped: list[tuple[str, str]]  # image id, reason code
    masks: list[str | None] = field(default_factory=list)
    present: list[int] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return len(self.hashes) - len(self.skipped)


def extra_types(manifest: Manifest) -> dict[str, str]:
    """Arrow type of each further column of a manifest: whole numbers, fractions, booleans, anything else text."""
    kinds = {"i": "int64", "u": "uint64", "f": "float64", "b": "bool"}
    extras = [str(name) for name in manifest.frame if name not in MANIFEST_COLUMNS]
    return {name: kinds.get(getattr(manifest.frame[name].dtype, "kind", "O"), "string") for name in extras}


def slices(manifest: Manifest, site_key: str = "") -> Iterator[str]:
    """The manifest cut into slices of `SLICE` rows, each as JSON: position of its first row, its columns, the key."""
    frame, several = manifest.frame, _SEVERAL * SLICE
    for begin in range(0, len(frame), several):
        columns = _columns(frame.iloc[begin : begin + several])
        for first in range(begin, min(begin + several, len(frame)), SLICE):
            at = first - begin
            own = {name: values[at : at + SLICE] for name, values in columns.items()}
            yield json.dumps({"first": first, "columns": own, "site_key": site_key})


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return {str(name): frame[name].astype(object).where(frame[name].notna(), None).tolist() for name in frame}


def shard_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def make_shards(pieces: Iterable[tuple[int, str]], layout: Layout) -> Iterator[tuple[int, Shard]]:
    """Decode slices, a number and a text from `private.hide` each, into their shards; yields each as it is written.

    An intact one made from the same files stands, where what was refused for a reason that may pass (see `refused`)
    still is. The next files are decoded while a shard is written, so `pieces` is read somewhat ahead.

    Raises:
        OSError: a shard or its ledger cannot be written, or a slice cannot be read.
    """
    begun: deque[_Slice] = deque()
    todo = (_Slice.of(number, text, layout) for number, text in pieces)
    first = next(todo, None)
    if not first:
        return

    def paths() -> Iterator[str]:
        for piece in itertools.chain([first], todo):
            begun.append(piece)
            yield from [_STANDS] if piece.made else piece.columns["path"]

    answers = decode_all(paths(), first.how)
    room = [np.empty((SLICE, size), np.uint8) for size in (first.how.pixel_bytes, first.how.mask_bytes)]
    for answer in answers:
        piece = begun.popleft()
        if piece.made:
            yield piece.number, piece.made
        else:
            own = itertools.chain([answer], itertools.islice(answers, len(piece.columns["path"]) - 1))
            yield piece.number, _make(piece, own, layout, room)


@dataclass(frozen=True)
class _Slice:
    """`first` is the position of its first row; `made`, its shard where that stands."""

    number: int
    first: int
    columns: dict[str, list[Any]]
    how: How
    path: Path
    made_from: str
    made: Shard | None

    @classmethod
    def of(cls, number: int, text: str, layout: Layout) -> _Slice:
        read = json.loads(private.reveal(text))
        how = replace(layout.how, site_key=read.get("site_key", ""))
        path = Path(layout.folder, shard_name(number))
        made_from = _made_from(read, layout)
        made = _made(path, made_from)
        if made:
            paths = dict(zip(read["columns"]["image_id"], read["columns"]["path"], strict=True))
            made = made if refused.still(paths, made.skipped, how) else None
        return cls(number, read["first"], read["columns"], how, path, made_from, made)


def _made(path: Path, made_from: str) -> Shard | None:
    """The shard at `path`, where it is intact and made from the same."""
    storage.fetch(path.with_suffix(".json"))
    found = read_ledger(path)
    if not found or found.made_from != made_from:
        return None
    storage.fetch(path)
    intact = path.is_file() and path.stat().st_size == found.bytes and rundir.sha256_file(path) == found.sha256
    return found if intact else None


def _make(piece: _Slice, answers: Iterator[Answer], layout: Layout, room: _Room) -> Shard:
    table, told = _decode(piece, answers, layout, room)
    rundir.write_atomic(piece.path, lambda part: _write(part, table))
    shard = Shard(
        file=piece.path.name,
        sha256=rundir.sha256_file(piece.path),
        bytes=piece.path.stat().st_size,
        made_from=piece.made_from,
        present=_present(table, layout.how.structures),
        **told,
    )
    rundir.write_json(piece.path.with_suffix(".json"), vars(shard))
    return shard


def read_ledger(path: Path) -> Shard | None:
    """The ledger beside a shard; None where there is none or it is damaged."""
    try:
        raw = rundir.read_json(path.with_suffix(".json"))
        return Shard(**{**raw, "skipped": [(image, reason) for image, reason in raw["skipped"]]})
    except (DamagedError, OSError, TypeError, KeyError, ValueError):
        return None


def _made_from(piece: dict[str, Any], layout: Layout) -> str:
    """Hash of everything that decides the shard's bytes: rows, layout, and each file's size and time of change.

    Paths stay out: image ids, which are keyed, stand for them, so moving the whole set redoes nothing.
    """
    columns = {name: values for name, values in piece["columns"].items() if name != "path"}
    files = [_signature(file) for path in piece["columns"]["path"] for file in file_paths(path)]
    layout_part = [VERSION, layout.how.pixel_rules, layout.classes, layout.extras]
    return rundir.content_hash([piece["first"], columns, files, layout_part])


def _signature(path: str) -> list[int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  # a `phantom:` or `refused:` path is no Path
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def _decode(piece: _Slice, answers: Iterator[Answer], layout: Layout, room: _Room) -> tuple[pa.Table, dict[str, Any]]:
    """The shard's rows, whose pictures stay in `room`, and what its ledger says of the images."""
    how, columns, (pixels, masks) = layout.how, piece.columns, room
    hashes: list[str | None] = []
    mask_hashes: list[str | None] = []
    skipped: list[tuple[str, str]] = []
    kept: list[int] = []
    sizes: list[tuple[int, int]] = []
    attributes: list[Mapping[str, str]] = []
    for k, answer in enumerate(answers):
        if isinstance(answer, Unusable):
            hashes.append(None)
            mask_hashes.append(None)
            skipped.append((columns["image_id"][k], answer.reason))
            continue
        pixels[len(kept)] = answer.pixels.reshape(-1)
        if answer.mask is not None:
            masks[len(kept)] = answer.mask.reshape(-1)
        hashes.append(answer.content_hash)
        mask_hashes.append(answer.mask_hash)
        kept.append(k)
        sizes.append((answer.width, answer.height))
        attributes.append(answer.attributes)
    places = {name: place for place, name in enumerate(layout.classes)}
    values: dict[str, Any] = {name: [column[k] for k in kept] for name, column in columns.items()}
    values["row"] = [piece.first + k for k in kept]
    values["target"] = [-1 if how.structures else places.get(label, -1) for label in values["label"]]
    values["content_hash"] = [hashes[k] for k in kept]
    values |= {name: [size[axis] for size in sizes] for axis, name in enumerate(SIZE_COLUMNS)}
    values |= {name: [found.get(name, "") for found in attributes] for name in how.attributes}
    pictures = {"pixels": pixels[: len(kept)], "mask": masks[: len(kept)]}
    arrays = [
        _fixed(pictures[field.name]) if field.name in PICTURES else pa.array(values[field.name], type=field.type)
        for field in layout.schema
    ]
    told = {"hashes": hashes, "skipped": skipped, "masks": mask_hashes if how.structures else []}
    return pa.Table.from_arrays(arrays, schema=layout.schema), told


def _fixed(rows: npt.NDArray[np.uint8]) -> pa.Array:
    """`[N, bytes]` as fixed-size binary, not copied."""
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(rows.shape[1]), len(rows), [None, pa.py_buffer(rows)])


def _present(table: pa.Table, structures: int) -> list[int]:
    if not structures:
        return []
    found = [np.unique(np.frombuffer(mask, np.uint8)) for mask in table["mask"].to_pylist()]
    return [sum(number in values for values in found) for number in range(1, structures + 1)]


def _write(path: Path, table: pa.Table) -> None:
    """Pixels neither repeat nor sort: no dictionary and no statistics for them, which would bloat the footer. Nor are
    they compressed: that takes a fifth of the time of decoding a file, to save a seventh of the room."""
    others = [name for name in table.column_names if name not in PICTURES]
    how = {name: "NONE" if name == "pixels" else "ZSTD" for name in table.column_names}
    pq.write_table(table, path, compression=how, use_dictionary=others, write_statistics=others, write_batch_size=16)
