"""One shard: a slice of the manifest decoded into one Parquet file, with a ledger that lets a restart skip it.

    shards/part-00000.parquet   `INDEX_COLUMNS`, the source's further columns, and `pixels`; decoded images only
    shards/part-00000.json      written after it: sha256, what it was made from, and which images were skipped

No Ray here: `make_shard` runs in any process. It knows file paths and never writes or returns them.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxrtl import rundir
from cxrtl.data.images import How, Unusable
from cxrtl.data.images.guard import decode_all
from cxrtl.errors import DamagedError
from cxrtl.records import MANIFEST_COLUMNS, Manifest

VERSION = 3  # of the prepared set: layout, decoding and hashes
SLICE = 256  # images a shard

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
        """Index columns, extras, pixels; the pixels' shape and dtype stand in plain schema metadata."""
        fields = [*_INDEX_TYPES.items(), *((name, pa.type_for_alias(kind)) for name, kind in self.extras.items())]
        pixels = ("pixels", pa.binary(self.how.size**2))
        metadata = {
            "version": str(VERSION),
            "shape": json.dumps([self.how.size] * 2),
            "dtype": "uint8",
            "classes": json.dumps(self.classes),
        }
        return pa.schema([*fields, pixels], metadata=metadata)


@dataclass(frozen=True)
class Shard:
    """What a ledger says. `hashes` holds each image's content hash, in slice order, None where it was skipped."""

    file: str
    sha256: str
    bytes: int
    made_from: str
    hashes: list[str | None]
    skipped: list[tuple[str, str]]  # image id, reason code

    @property
    def rows(self) -> int:
        return len(self.hashes) - len(self.skipped)


def extra_types(manifest: Manifest) -> dict[str, str]:
    """Arrow type of each further column of a manifest: whole numbers, fractions, booleans, anything else text."""
    kinds = {"i": "int64", "u": "uint64", "f": "float64", "b": "bool"}
    extras = [str(name) for name in manifest.frame if name not in MANIFEST_COLUMNS]
    return {name: kinds.get(getattr(manifest.frame[name].dtype, "kind", "O"), "string") for name in extras}


def slices(manifest: Manifest) -> list[str]:
    """The manifest cut into slices of `SLICE` rows, each as JSON: position of its first row, and its columns."""
    frame = manifest.frame
    return [
        json.dumps({"first": first, "columns": _columns(frame.iloc[first : first + SLICE])})
        for first in range(0, len(frame), SLICE)
    ]


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return {str(name): [None if pd.isna(value) else value for value in frame[name].tolist()] for name in frame}


def shard_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def make_shard(number: int, text: str, layout: Layout) -> Shard:
    """Decode slice `number` into its shard, unless an intact one made from the same files is there.

    Raises:
        OSError: the shard or its ledger cannot be written.
    """
    piece = json.loads(text)
    path = Path(layout.folder, shard_name(number))
    made_from = _made_from(piece, layout)
    found = read_ledger(path)
    if found and found.made_from == made_from and _intact(path, found):
        return found
    table, hashes, skipped = _decode(piece, layout)
    rundir.write_atomic(path, lambda part: _write(part, table))
    shard = Shard(path.name, rundir.sha256_file(path), path.stat().st_size, made_from, hashes, skipped)
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
    files = [_signature(path) for path in piece["columns"]["path"]]
    layout_part = [VERSION, layout.how.pixel_rules, layout.classes, layout.extras]
    return rundir.content_hash([piece["first"], columns, files, layout_part])


def _signature(path: str) -> list[int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  # a `phantom:` or `refused:` path is no Path
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def _decode(piece: dict[str, Any], layout: Layout) -> tuple[pa.Table, list[str | None], list[tuple[str, str]]]:
    columns: dict[str, list[Any]] = piece["columns"]
    hashes: list[str | None] = []
    pixels: list[bytes] = []
    skipped: list[tuple[str, str]] = []
    answers = decode_all(columns["path"], layout.how)
    for image_id, image in zip(columns["image_id"], answers, strict=True):
        if isinstance(image, Unusable):
            hashes.append(None)
            skipped.append((image_id, image.reason))
        else:
            hashes.append(image.content_hash)
            pixels.append(image.pixels.tobytes())
    kept = np.flatnonzero([digest is not None for digest in hashes]).tolist()
    values = {name: [column[k] for k in kept] for name, column in columns.items()}
    values["row"] = [piece["first"] + k for k in kept]
    values["target"] = [layout.classes.index(label) if label else -1 for label in values["label"]]
    values["content_hash"] = [hashes[k] for k in kept]
    values["pixels"] = pixels
    schema = layout.schema
    arrays = [pa.array(values[field.name], type=field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema), hashes, skipped


def _write(path: Path, table: pa.Table) -> None:
    """Pixels neither repeat nor sort: no dictionary and no statistics for them, which would bloat the footer."""
    others = [name for name in table.column_names if name != "pixels"]
    pq.write_table(table, path, compression="zstd", use_dictionary=others, write_statistics=others)
