"""Shards to images in memory: one copy of the pixels in the object store, of which every trial takes its part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import ray.data

from cxrtl import storage
from cxrtl.data.shards import PICTURES
from cxrtl.records import Prepared, label_columns

Blocks = list["ray.ObjectRef[pa.Table]"]  # all images, in the object store
_COLUMNS = ["row", "image_id", "patient_id", "label"]


@dataclass(frozen=True)
class Part:
    """Images of one or more folds in the order of the prepared set: `index` with a row each, pixels `[N, C, H, W]`.

    `targets` are the places of the classes, int64 `[N]`; multilabel: 1, 0 or NaN, float32 `[N, findings]`;
    segmentation: the masks, uint8 `[N, H, W]`. Where pixels stream or lie elsewhere, they and masks are None.
    """

    index: pd.DataFrame
    pixels: npt.NDArray[np.uint8] | None
    targets: npt.NDArray[Any] | None


def images(prepared: Prepared, *, streamed: bool = False) -> Blocks:
    """All images in the object store: the shards are read once, and trials take them from there.

    `streamed`: without pixels and masks.
    """
    files, shards = storage.filesystem(prepared.folder / "shards")
    columns = [*_COLUMNS, *_target_columns(prepared), "pixels"]
    if streamed:
        columns = [name for name in columns if name not in PICTURES]
    read = partial(ray.data.read_parquet, shards, filesystem=files, file_extensions=["parquet"])
    found: Blocks = read().select_columns(columns).materialize().to_arrow_refs()
    return found


def _target_columns(prepared: Prepared) -> list[str]:
    if prepared.task == "multilabel":
        return label_columns(prepared.classes)
    return ["mask" if prepared.task == "segmentation" else "target"]


def collect(
    blocks: Sequence[pa.Table],
    prepared: Prepared,
    wanted: Sequence[npt.NDArray[np.bool_]],
    *,
    once: bool = False,
) -> list[Part]:
    """Gather images, in the order of the prepared set whatever the order of its `blocks`: a part for each of `wanted`,
    `[N]` True for the images it takes. `once`: their pixels and masks are left out, and in a further part that has all
    images."""
    table = pa.concat_tables(blocks)
    order = np.argsort(table["row"].to_numpy(), kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    parts = [_part(table, prepared, order, place, taken, pictures=not once) for taken in wanted]
    if once:
        parts.append(_part(table, prepared, order, place, np.ones(len(order), np.bool_), pictures=True))
    return parts


def _part(
    table: pa.Table,
    prepared: Prepared,
    order: npt.NDArray[np.int64],
    place: npt.NDArray[np.int64],
    taken: npt.NDArray[np.bool_],
    *,
    pictures: bool,
) -> Part:
    """The images `taken` `[N]` of those in `table`, whose rows stand at `place` in the prepared set."""
    rows, size = order[taken], prepared.image_size
    streamed = not pictures or "pixels" not in table.column_names
    targets: npt.NDArray[Any] | None
    if prepared.task == "segmentation":
        targets = None if streamed else _pictures(table["mask"], place, taken, (size, size))
    elif prepared.task == "multilabel":
        targets = table.select(label_columns(prepared.classes)).take(rows).to_pandas().to_numpy(np.float32, copy=True)
    else:
        targets = table["target"].to_numpy()[rows]
    shape = (prepared.channels, size, size)
    pixels = None if streamed else _pictures(table["pixels"], place, taken, shape)
    return Part(table.select(_COLUMNS).take(rows).to_pandas(), pixels, targets)


def _pictures(
    column: pa.ChunkedArray, place: npt.NDArray[np.int64], taken: npt.NDArray[np.bool_], shape: tuple[int, ...]
) -> npt.NDArray[np.uint8]:
    """`[images taken, *shape]`, in the order of the prepared set."""
    pictures = np.empty((int(taken.sum()), *shape), dtype=np.uint8)
    target = np.cumsum(taken) - 1
    start = 0
    for chunk in column.chunks:
        # A fixed-size binary array is one buffer: viewed here as images, not copied image by image.
        bytes_each = chunk.type.byte_width
        flat = np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * bytes_each, chunk.offset * bytes_each)
        here = place[start : start + len(chunk)]
        pictures[target[here[taken[here]]]] = flat.reshape(-1, *shape)[taken[here]]
        start += len(chunk)
    return pictures
