"""One shard: a slice of the manifest decoded into one Parquet file, with a ledger that lets a restart skip it.

    shards/part-00000.parquet   `INDEX_COLUMNS`, the source's further columns, `SIZE_COLUMNS`, `pixels` and, of a
                                segmentation, `mask`; decoded images only
    shards/part-00000.json      written after it: sha256, what it was made from, and which images were skipped

No Ray here: `make_shard` runs in any process. It knows file paths and never writes or returns them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxrtl import rundir, storage
from cxrtl.data import private, refused
from cxrtl.data.images import Decoded, How, Unusable
from cxrtl.data.images.guard import Answer, decode_all
from cxrtl.data.images.rules import file_paths
from cxrtl.errors import DamagedError
from cxrtl.records import MANIFEST_COLUMNS, SIZE_COLUMNS, Manifest

VERSION = 5  # of the prepared set: layout, decoding and hashes
SLICE = 256  # images a shard

PICTURES = ("pixels", "mask")  # the columns that are no index

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
        channels = [self.how.channels] if self.how.channels > 1 else []
        metadata = {
            "version": str(VERSION),
            "shape": json.dumps([*channels, self.how.size, self.how.size]),
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
    frame = manifest.frame
    for first in range(0, len(frame), SLICE):
        columns = _columns(frame.iloc[first : first + SLICE])
        yield json.dumps({"first": first, "columns": columns, "site_key": site_key})


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return {str(name): [None if pd.isna(value) else value for value in frame[name].tolist()] for name in frame}


def shard_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def make_shard(number: int, text: str, layout: Layout) -> Shard:
    """Decode slice `number`, `text` from `private.hide`, into its shard, unless an intact one made from the same files
    is there, and what was refused for a reason that may pass (see `refused`) still is.

    Raises:
        OSError: the shard or its ledger cannot be written, or the slice cannot be read.
    """
    piece = json.loads(private.reveal(text))
    layout = replace(layout, how=replace(layout.how, site_key=piece.get("site_key", layout.how.site_key)))
    path = Path(layout.folder, shard_name(number))
    made_from = _made_from(piece, layout)
    storage.fetch(path.with_suffix(".json"))
    found = read_ledger(path)
    if found and found.made_from == made_from:
        storage.fetch(path)
    if found and found.made_from == made_from and _intact(path, found):
        paths = dict(zip(piece["columns"]["image_id"], piece["columns"]["path"], strict=True))
        if refused.still(paths, found.skipped, layout.how):
            return found
    table, answers = _decode(piece, layout)
    rundir.write_atomic(path, lambda part: _write(part, table))
    masked = layout.how.structures > 0
    shard = Shard(
        file=path.name,
        sha256=rundir.sha256_file(path),
        bytes=path.stat().st_size,
        made_from=made_from,
        hashes=[None if isinstance(answer, Unusable) else answer.content_hash for answer in answers],
        skipped=_skipped(piece, answers),
        masks=[None if isinstance(answer, Unusable) else answer.mask_hash for answer in answers] if masked else [],
        present=_present(table, layout.how.structures),
    )
    rundir.write_json(path.with_suffix(".json"), asdict(shard))
    return shard


def read_ledger(path: Path) -> Shard | None:
    """The ledger beside a shard; None where there is none or it is damaged."""
    try:
        raw = rundir.read_json(path.with_suffix(".json"))
        return Shard(**{**raw, "skipped": [(image, reason) for image, reason in raw["skipped"]]})
    except (DamagedError, OSError, TypeError, KeyError, ValueError):
        return None


def _intact(path: Path, shard: Shard) -> bool:
    return path.is_file() and path.stat().st_size == shard.bytes and rundir.sha256_file(path) == shard.sha256


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


def _decode(piece: dict[str, Any], layout: Layout) -> tuple[pa.Table, list[Answer]]:
    columns: dict[str, list[Any]] = piece["columns"]
    how, most = layout.how, len(columns["path"])
    pixels, masks = (np.empty((most, size), np.uint8) for size in (how.pixel_bytes, how.mask_bytes))
    answers: list[Answer] = []
    kept: list[tuple[int, Decoded]] = []
    for k, answer in enumerate(decode_all(columns["path"], how)):
        answers.append(answer)
        if isinstance(answer, Unusable):
            continue
        pixels[len(kept)] = answer.pixels.reshape(-1)
        if answer.mask is not None:
            masks[len(kept)] = answer.mask.reshape(-1)
        kept.append((k, answer))
    places = {name: place for place, name in enumerate(layout.classes)}
    values: dict[str, Any] = {name: [column[k] for k, _ in kept] for name, column in columns.items()}
    values["row"] = [piece["first"] + k for k, _ in kept]
    values["target"] = [-1 if how.structures else places.get(label, -1) for label in values["label"]]
    values["content_hash"] = [image.content_hash for _, image in kept]
    values |= {name: [(image.width, image.height)[axis] for _, image in kept] for axis, name in enumerate(SIZE_COLUMNS)}
    values |= {name: [image.attributes.get(name, "") for _, image in kept] for name in how.attributes}
    pictures = {"pixels": pixels[: len(kept)], "mask": masks[: len(kept)]}
    arrays = [
        _fixed(pictures[field.name]) if field.name in PICTURES else pa.array(values[field.name], type=field.type)
        for field in layout.schema
    ]
    return pa.Table.from_arrays(arrays, schema=layout.schema), answers


def _fixed(rows: npt.NDArray[np.uint8]) -> pa.Array:
    """`[N, bytes]` as fixed-size binary, not copied."""
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(rows.shape[1]), len(rows), [None, pa.py_buffer(rows)])


def _skipped(piece: dict[str, Any], answers: list[Answer]) -> list[tuple[str, str]]:
    rows = zip(piece["columns"]["image_id"], answers, strict=True)
    return [(image_id, answer.reason) for image_id, answer in rows if isinstance(answer, Unusable)]


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
