"""Reading a prepared set: its description, its index, its shards. No Ray, no torch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxrtl import rundir
from cxrtl.data.shards import PICTURES, VERSION, Shard
from cxrtl.errors import DamagedError, PreparedError
from cxrtl.records import INDEX_COLUMNS, FlowStep, Prepared

DATASET = "dataset.json"


def write_description(prepared: Prepared, shards: list[Shard]) -> None:
    """Write `dataset.json`: its presence means that the set is whole. Paths stay out of it."""
    fields = {name: value for name, value in asdict(prepared).items() if name != "folder"}
    listed = [{"file": s.file, "rows": s.rows, "bytes": s.bytes, "sha256": s.sha256} for s in shards]
    rundir.write_json(prepared.folder / DATASET, {"version": VERSION, **fields, "shards": listed})


def open_prepared(folder: Path, *, verify: bool = False) -> Prepared:
    """The set that `folder` holds. Shards are checked for presence and size, with `verify` also by sha256.

    Raises:
        PreparedError: no prepared set there, one of another version, or a shard that is missing or altered.
    """
    folder = Path(folder).absolute()
    raw = _describe(folder)
    for shard in raw["shards"]:
        path = folder / "shards" / shard["file"]
        if not path.is_file():
            raise PreparedError(f"shard {path.name} is missing in {path.parent}: {_AGAIN}")
        if path.stat().st_size != shard["bytes"] or (verify and rundir.sha256_file(path) != shard["sha256"]):
            raise PreparedError(f"shard {path.name} in {path.parent} is not as it was written: {_AGAIN}")
    fields = {name: value for name, value in raw.items() if name not in ("version", "shards")}
    try:
        flow = tuple(FlowStep(**step) for step in raw["flow"])
        return Prepared(folder=folder, **{**fields, "classes": tuple(raw["classes"]), "flow": flow})
    except (TypeError, KeyError):
        raise PreparedError(f"{DATASET} in {folder} is damaged: {_AGAIN}") from None


def shard_paths(prepared: Prepared) -> list[Path]:
    """The shards in row order."""
    return [prepared.folder / "shards" / shard["file"] for shard in _describe(prepared.folder)["shards"]]


def read_index(prepared: Prepared) -> pd.DataFrame:
    """`INDEX_COLUMNS` and the source's further columns, one row an image, in `row` order; no pixels.

    `row` is the image's position in the manifest: unique, ascending, with gaps where images were skipped.

    Raises:
        PreparedError: a shard that cannot be read.
    """
    tables = []
    for path in shard_paths(prepared):
        try:
            file = pq.ParquetFile(path)
            names = [name for name in file.schema_arrow.names if name not in PICTURES]
            tables.append(file.read(columns=names).replace_schema_metadata(None))
        except (OSError, pa.ArrowException):
            raise PreparedError(f"shard {path.name} in {path.parent} cannot be read: {_AGAIN}") from None
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    if len(frame) != prepared.images or list(frame.columns[: len(INDEX_COLUMNS)]) != list(INDEX_COLUMNS):
        raise PreparedError(f"the shards in {prepared.folder} do not match {DATASET}: {_AGAIN}")
    return frame


_AGAIN = "prepare the set again (finished shards are kept)"


def _describe(folder: Path) -> dict[str, Any]:
    if not (folder / DATASET).exists():
        raise PreparedError(f"there is no finished prepared set in {folder}: run `cxrtl prepare` first, to its end")
    try:
        raw = rundir.read_json(folder / DATASET)
        version, shards = raw["version"], raw["shards"]
        whole = all({"file", "bytes", "sha256"} <= shard.keys() for shard in shards)
        whole = whole and all(Path(shard["file"]).name == shard["file"] for shard in shards)  # none leads elsewhere
    except (DamagedError, OSError, TypeError, KeyError, AttributeError):
        version, whole = VERSION, False
    if version != VERSION:
        raise PreparedError(f"the set in {folder} has version {version}, this cxrtl reads {VERSION}: prepare it again")
    if not whole:
        raise PreparedError(f"{DATASET} in {folder} is damaged: {_AGAIN}")
    described: dict[str, Any] = raw
    return described
