"""Shards to images in memory: one copy of the pixels in the object store, of which every trial takes its part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import ray.data

from cxrtl.records import Prepared

_COLUMNS = ["row", "image_id", "patient_id", "label", "target", "pixels"]


@dataclass(frozen=True)
class Part:
    """Images of one or more folds in the order of the prepared set: `index` with a row each, pixels `[N, 1, H, W]`."""

    index: pd.DataFrame
    pixels: npt.NDArray[np.uint8]


def images(prepared: Prepared) -> ray.data.Dataset:
    """All images as a materialised Ray dataset: the shards are read once; the blocks live in the object store."""
    shards = str(prepared.folder / "shards")
    found: ray.data.Dataset = ray.data.read_parquet(shards, columns=_COLUMNS, file_extensions=["parquet"]).materialize()
    return found


def collect(shard: ray.data.DataIterator, image_size: int, wanted: Sequence[npt.NDArray[np.bool_]]) -> list[Part]:
    """Gather a dataset into memory, in the order of the prepared set whatever the order of its blocks: a part for each
    of `wanted`, `[N]` True for the images it takes."""
    whole_blocks: Any = shard.iter_batches(batch_size=None, batch_format="pyarrow")  # type: ignore[arg-type]
    table = pa.concat_tables(block.select(_COLUMNS) for block in whole_blocks)
    order = np.argsort(table["row"].to_numpy(), kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    index = table.drop_columns(["pixels"])
    return [
        Part(index.take(order[mask]).to_pandas(), _pixels(table["pixels"], place, mask, image_size)) for mask in wanted
    ]


def _pixels(
    column: pa.ChunkedArray, place: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_], image_size: int
) -> npt.NDArray[np.uint8]:
    """`[images of mask, 1, H, W]`; `place` `[N]` is where each row of `column` stands in the prepared set."""
    pixels = np.empty((int(mask.sum()), 1, image_size, image_size), dtype=np.uint8)
    target = np.cumsum(mask) - 1
    start = 0
    for chunk in column.chunks:
        # A fixed-size binary array is one buffer: viewed here as images, not copied image by image.
        bytes_each = chunk.type.byte_width
        flat = np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * bytes_each, chunk.offset * bytes_each)
        here = place[start : start + len(chunk)]
        taken = mask[here]
        pixels[target[here[taken]]] = flat.reshape(-1, 1, image_size, image_size)[taken]
        start += len(chunk)
    return pixels
