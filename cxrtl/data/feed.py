"""Shards into folds: one copy of the pixels in the object store, which every trial reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import ray.data

from cxrtl.records import Folds, Prepared

_COLUMNS = ["row", "image_id", "patient_id", "label", "target", "pixels"]


@dataclass(frozen=True)
class Part:
    """Images of one or more folds in the order of the prepared set: `index` with a row each, pixels `[N, 1, H, W]`."""

    index: pd.DataFrame
    pixels: npt.NDArray[np.uint8]


def fold_datasets(prepared: Prepared, folds: Folds) -> list[ray.data.Dataset]:
    """One materialised Ray dataset a fold. The shards are read once; the blocks live in the object store."""
    fold_of = pa.array(folds.frame["fold"].to_numpy(dtype=np.int32))
    ids = pa.array(folds.frame["image_id"])

    def mark(table: pa.Table) -> pa.Table:
        return table.append_column("fold", fold_of.take(pa.compute.index_in(table["image_id"].combine_chunks(), ids)))

    shards = str(prepared.folder / "shards")
    table = ray.data.read_parquet(shards, columns=_COLUMNS, file_extensions=["parquet"])
    marked = table.map_batches(mark, batch_format="pyarrow", batch_size=None).materialize()
    return [marked.filter(expr=f"fold == {k}").materialize() for k in range(folds.k)]


def collect(shard: ray.data.DataIterator, image_size: int) -> Part:
    """Gather a dataset into memory, in the order of the prepared set whatever the order of its blocks."""
    whole_blocks: Any = shard.iter_batches(batch_size=None, batch_format="pyarrow")  # type: ignore[arg-type]
    table = pa.concat_tables(block.select(_COLUMNS) for block in whole_blocks)
    order = np.argsort(table["row"].to_numpy(), kind="stable")
    pixels = np.empty((len(order), 1, image_size, image_size), dtype=np.uint8)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    start = 0
    for chunk in table["pixels"].chunks:
        # A fixed-size binary array is one buffer: viewed here as images, not copied image by image.
        bytes_each = chunk.type.byte_width
        flat = np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * bytes_each, chunk.offset * bytes_each)
        pixels[place[start : start + len(chunk)]] = flat.reshape(-1, 1, image_size, image_size)
        start += len(chunk)
    index = table.drop_columns(["pixels"]).to_pandas().iloc[order].reset_index(drop=True)
    return Part(index, pixels)
