"""A few images of each outcome, drawn by a stated rule and kept in the run folder, so that the report needs no other.

Rule: of the first arm at its longest budget, up to `per_cell` images drawn at random (seeded) from the true and
false positives and negatives. No image is chosen by how it looks or by its score.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from PIL import Image

from cxrtl.errors import DamagedError, PredictionsError, PreparedError
from cxrtl.evaluate.metrics import THRESHOLD
from cxrtl.predictions import Predictions
from cxrtl.records import Prepared
from cxrtl.rundir import RunDir, read_json, write_frame

CELLS = ("tp", "fn", "fp", "tn")
COLUMNS = ("image_id", "cell", "label", "fold", "arm", "iterations", "score", "image_size", "pixels")
SHOWN_SIDE = 192  # pixels of a thumbnail


@dataclass(frozen=True)
class Sample:
    """An image with what was said of it; `score` is the positive class's, `png` a grey thumbnail."""

    image_id: str
    cell: str
    label: str
    fold: int
    arm: str
    iterations: int
    score: float
    png: bytes


def collect_samples(
    run: RunDir, predictions: Predictions, prepared: Prepared, per_cell: int = 4, seed: int = 0
) -> Path:
    """Write `samples.parquet` (`COLUMNS`; `pixels` are `image_size`² bytes, row-major) and return its path.

    Raises:
        PredictionsError: there are no predictions, or `per_cell` is below 1.
        PreparedError: the shards lack an image, or hold pixels of another size.
    """
    if per_cell < 1 or predictions.frame.empty:
        raise PredictionsError(f"no samples to draw: per_cell={per_cell}, {len(predictions.frame)} predictions")
    chosen = _draw(_headline(run, predictions), per_cell, seed)
    pixels = _pixels(prepared, chosen["image_id"].tolist())
    rows = chosen.assign(image_size=prepared.image_size, pixels=[pixels[name] for name in chosen["image_id"]])
    path = run.path("samples.parquet")
    write_frame(path, rows[list(COLUMNS)])
    return path


def _headline(run: RunDir, predictions: Predictions) -> Predictions:
    """The rows of the first arm, in the experiment's order, at its longest budget."""
    frame = predictions.frame
    present = list(dict.fromkeys(frame["arm"]))
    resolved = run.path("experiment.resolved.json")
    order = [item["name"] for item in read_json(resolved)["recipes"]] if resolved.exists() else present
    arm = next((name for name in order if name in present), present[0])
    return predictions.select(arm, int(frame.loc[frame["arm"] == arm, "iterations"].max()))


def _draw(chosen: Predictions, per_cell: int, seed: int) -> pd.DataFrame:
    """Up to `per_cell` rows of each of `CELLS`; sorted by id first, so that file order plays no part."""
    columns = ["image_id", "label", "fold", "arm", "iterations"]
    truth, called = chosen.truth, chosen.score >= THRESHOLD
    cell = np.where(truth, np.where(called, "tp", "fn"), np.where(called, "fp", "tn"))
    frame = chosen.frame[columns].assign(cell=cell, score=chosen.score).sort_values("image_id", ignore_index=True)
    rng = np.random.default_rng(seed)
    picked: list[int] = []
    for name in CELLS:
        places = np.flatnonzero(frame["cell"] == name)
        picked += sorted(rng.choice(places, size=min(per_cell, len(places)), replace=False).tolist())
    return frame.iloc[picked].reset_index(drop=True)


def _pixels(prepared: Prepared, ids: list[str]) -> dict[str, bytes]:
    """Pixels by image id, reading only the rows that are asked for."""
    shards = sorted(prepared.folder.glob("shards/*.parquet"))
    if not shards:
        raise PreparedError(f"{prepared.folder / 'shards'} holds no .parquet file: prepare the data again")
    try:
        table = ds.dataset([str(path) for path in shards], format="parquet").to_table(
            columns=["image_id", "pixels"], filter=ds.field("image_id").isin(ids)
        )
    except (OSError, pa.ArrowInvalid) as error:
        raise PreparedError(f"shards in {prepared.folder} cannot be read: {error}") from None
    found = dict(zip(table["image_id"].to_pylist(), table["pixels"].to_pylist(), strict=True))
    absent = [name for name in ids if len(found.get(name) or b"") != prepared.image_size**2]
    if absent:
        raise PreparedError(
            f"shards lack the pixels ({prepared.image_size}²) of image(s) {absent[:5]}: prepare the data again"
        )
    return found


def read_samples(run: RunDir) -> list[Sample]:
    """The samples of a run, in the order of `CELLS`; empty where none were collected.

    Raises:
        DamagedError: `samples.parquet` is there but is not what `collect_samples` writes.
    """
    path = run.path("samples.parquet")
    if not path.exists():
        return []
    try:
        rows = pq.read_table(path, columns=list(COLUMNS)).to_pylist()
        samples = [_sample(row) for row in rows]
    except (OSError, pa.ArrowInvalid, ValueError, TypeError, KeyError):
        raise DamagedError(f"{path.name} in {run.root} is no samples table: delete it and report again") from None
    return sorted(samples, key=lambda sample: CELLS.index(sample.cell))


def _sample(row: dict[str, object]) -> Sample:
    side, pixels, cell = int(str(row["image_size"])), row["pixels"], str(row["cell"])
    if not isinstance(pixels, bytes) or not 0 < side <= 4096 or len(pixels) != side * side or cell not in CELLS:
        raise ValueError("sample")
    return Sample(
        image_id=str(row["image_id"]),
        cell=cell,
        label=str(row["label"]),
        fold=int(str(row["fold"])),
        arm=str(row["arm"]),
        iterations=int(str(row["iterations"])),
        score=float(str(row["score"])),
        png=_png(pixels, side),
    )


def _png(pixels: bytes, side: int) -> bytes:
    image = Image.frombytes("L", (side, side), pixels)
    if side > SHOWN_SIDE:
        image = image.resize((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
