"""Probabilities or masks for images of any number: decoded as in training, by all folds' models, written as they come.

A row for each image, in the order given: `image` (the name as the user has it: the table is the user's own), `called`,
and of each class (of two, the positive one) the mean over folds, `score_`, with `sd_`, `min_` and `max_`; `reason` is
"" or says why the file could not be used. The spread tells how far the folds' models agree; it is no interval.

A segmentation has of each structure `area_`, the share of the square that the folds' mean probability gives it, `sd_`,
`min_` and `max_` of the folds' own areas, and `dice_`, the mean Dice of the folds' masks with the joint one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import ray
import ray.data

from cxrtl import rundir
from cxrtl.data.images import How, Unusable
from cxrtl.data.images.guard import decode_all
from cxrtl.errors import ConfigError, PreparedError
from cxrtl.use.listing import Listed
from cxrtl.use.model import Trained
from cxrtl.use.score import Score, Scorer

BATCH = 64  # images scored at once
LOCAL = 5000  # images up to which a Ray of our own would take longer to start than it saves

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Predicted:
    """How many images were scored, and why the others were not: reason code → files."""

    scored: int
    reasons: dict[str, int]


def decode(batch: dict[str, Any], how: How) -> dict[str, Any]:
    """Paths → pixels as bytes and the picture's size, and a reason where there are none; in a process that a file may
    kill without harm."""
    rows: list[tuple[str, bytes, int, int]] = []
    for answer in decode_all([str(path) for path in batch["path"]], how):
        if isinstance(answer, Unusable):
            rows.append((answer.reason, b"", 0, 0))
        else:
            rows.append(("", answer.pixels.tobytes(), answer.height, answer.width))
    reasons, pixels, heights, widths = zip(*rows, strict=True)
    return {
        "image": batch["image"],
        "reason": np.array(reasons, object),
        "pixels": np.array(pixels, object),
        "height": np.array(heights),
        "width": np.array(widths),
    }


def predict(
    trained: Trained,
    listed: Listed,
    out: Path,
    *,
    pictures: Path | None = None,
    on_ray: bool = False,
    on_progress: Progress | None = None,
) -> Predicted:
    """Score `listed` into `out`, .csv or .parquet; with `on_ray` on a Ray that is running, else in this process.

    With `pictures` a PNG of each image lies in that folder: of a segmentation the mask, as large as the image, which
    the table's column `mask` names; else an overlay that explains its score (Grad-CAM, mean of the folds), column
    `overlay`. Nothing but names is held for all images at once.

    Raises:
        ConfigError: `out` is neither .csv nor .parquet, or its folder does not exist.
        DamagedError, PredictionsError: the run's weights are not to be used.
        PreparedError: a worker on the cluster died.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"--out {str(out)!r}: name a .csv or a .parquet file")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {str(out)!r}: its folder does not exist")
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    scorer = Scorer.of(trained, pictures is not None)
    rows = (_through_ray if on_ray else _here)(scorer, trained.how, listed)
    reasons: dict[str, int] = {}

    def write(part: Path) -> None:
        done = 0
        kept = rows if pictures is None else _keep(rows, pictures, scorer.picture)
        for table in _written(part, out.suffix, map(_blanked, kept)):
            for reason in table["reason"].to_pylist():
                reasons[reason] = reasons.get(reason, 0) + 1
            done += table.num_rows
            if on_progress:
                on_progress(done, len(listed.names))

    rundir.write_atomic(out, write)
    return Predicted(reasons.pop("", 0), dict(sorted(reasons.items())))


def _batches(listed: Listed) -> Iterator[dict[str, Any]]:
    for start in range(0, len(listed.names), BATCH):
        part = slice(start, start + BATCH)
        # a name that is not UTF-8 cannot stand in a table: its odd bytes are written as \udcNN
        names = [name.encode("utf-8", "backslashreplace").decode() for name in listed.names[part]]
        yield {"image": np.array(names, object), "path": np.array(listed.paths[part], object)}


def _here(scorer: Scorer, how: How, listed: Listed) -> Iterator[pa.Table]:
    """Decoding goes two batches ahead of scoring."""
    score = Score(scorer)
    waiting: deque[Future[dict[str, Any]]] = deque()
    with ThreadPoolExecutor(1) as ahead:
        for batch in _batches(listed):
            waiting.append(ahead.submit(decode, batch, how))
            if len(waiting) > 2:
                yield pa.table(score(waiting.popleft().result()))
        while waiting:
            yield pa.table(score(waiting.popleft().result()))


def _through_ray(scorer: Scorer, how: How, listed: Listed) -> Iterator[pa.Table]:
    """Decoding on every CPU of the cluster, scoring on every GPU, or where there is none on every machine."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    gpus = sum(int(node.get("GPU", 0)) for node in alive)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    rows = [
        {"image": name, "path": os.fsencode(path)}
        for batch in _batches(listed)
        for name, path in zip(batch["image"], batch["path"], strict=True)
    ]
    paths = ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // BATCH))
    decoded = paths.map_batches(partial(_decode_bytes, how=how), batch_size=BATCH, num_cpus=1)
    scored = decoded.map_batches(
        Score,
        fn_constructor_args=(scorer, not gpus),
        batch_size=BATCH,
        num_gpus=1 if gpus else 0,
        num_cpus=0,
        concurrency=gpus or len(alive),
    )
    try:
        yield from scored.iter_batches(batch_size=None, batch_format="pyarrow")
    except ray.exceptions.RayError as error:
        raise PreparedError(
            f"a worker that predicts failed ({type(error).__name__}): out of memory or a lost machine?"
        ) from None


def _keep(tables: Iterable[pa.Table], folder: Path, column: str) -> Iterator[pa.Table]:
    """Each PNG to a file, named by its row, and the file's name in its place."""
    row = 0
    for table in tables:
        names = []
        for png in table[column].to_pylist():
            row += 1
            names.append(f"{row:06d}.png" if png else "")
            if png:
                rundir.write_bytes(folder / names[-1], png)
        yield table.set_column(table.schema.get_field_index(column), column, pa.array(names, pa.string()))


def _blanked(table: pa.Table) -> pa.Table:
    """Blanks where there is no score."""
    columns = [
        pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(column.type) else column
        for column in table.columns
    ]
    return pa.table(columns, names=table.column_names)


def _decode_bytes(batch: dict[str, Any], how: How) -> dict[str, Any]:
    return decode({**batch, "path": [os.fsdecode(path) for path in batch["path"]]}, how)


def _written(path: Path, suffix: str, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Append each table to the file and hand it on."""
    writer = None
    try:
        for table in tables:
            if writer is None:
                kind = pq.ParquetWriter if suffix == ".parquet" else pyarrow.csv.CSVWriter
                schema = table.schema.remove_metadata()
                writer = kind(str(path), schema)
            writer.write_table(table.cast(schema))
            yield table
    finally:
        if writer is not None:
            writer.close()
