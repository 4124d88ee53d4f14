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

from cxrtl.records import Prepared, label_columns

_COLUMNS = ["row", "image_id", "patient_id", "label"]


@dataclass(frozen=True)
class Part:
    """Images of one or more folds in the order of the prepared set: `index` with a row each, pixels `[N, 1, H, W]`.

    `targets` are the places of the classes, int64 `[N]`; multilabel: 1, 0 or NaN, float32 `[N, findings]`.
    """

    index: pd.DataFrame
    pixels: npt.NDArray[np.uint8]
    targets: npt.NDArray[Any]


def images(prepared: Prepared) -> ray.data.Dataset:
    """All images as a materialised Ray dataset: the shards are read once; the blocks live in the object store."""
    shards = str(prepared.folder / "shards")
    columns = [*_COLUMNS, *_target_columns(prepared), "pixels"]
    found: ray.data.Dataset = ray.data.read_parquet(shards, columns=columns, file_extensions=["parquet"]).materialize()
    return found


def _target_columns(prepared: Prepared) -> list[str]:
    return label_columns(prepared.classes) if prepared.task == "multilabel" else ["target"]


def collect(shard: ray.data.DataIterator, prepared: Prepared, wanted: Sequence[npt.NDArray[np.bool_]]) -> list[Part]:
    """Gather a dataset into memory, in the order of the prepared set whatever the order of its blocks: a part for each
    of `wanted`, `[N]` True for the images it takes."""
    whole_blocks: Any = shard.iter_batches(batch_size=None, batch_format="pyarrow")  # type: ignore[arg-type]
    names = _target_columns(prepared)
    table = pa.concat_tables(block.select([*_COLUMNS, *names, "pixels"]) for block in whole_blocks)
    order = np.argsort(table["row"].to_numpy(), kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    parts = []
    for mask in wanted:
        index = table.drop_columns(["pixels"]).take(order[mask]).to_pandas()
        several = prepared.task == "multilabel"
        targets = index[names].to_numpy(np.float32) if several else index["target"].to_numpy(np.int64)
        parts.append(Part(index, _pixels(table["pixels"], place, mask, prepared.image_size), targets.copy()))
    return parts


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
