"""A few images of each outcome, drawn by a stated rule and kept in the run folder, so that the report needs no other.

Rule: of the first arm at its longest budget, up to `per_cell` images drawn at random (seeded) from the true and
false positives and negatives; beyond binary from those called right and wrong (multilabel: in every stated finding).
No image is chosen by how it looks or by its score. In segmentation there are no such outcomes: the images of the
lowest, the middle and the highest Dice are taken, and shown as that.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from PIL import Image
from scipy.ndimage import binary_erosion

from cxrtl.data.images import Grey
from cxrtl.errors import DamagedError, PredictionsError, PreparedError
from cxrtl.evaluate import overlap
from cxrtl.evaluate.metrics import THRESHOLD
from cxrtl.predictions import Predictions
from cxrtl.records import Prepared
from cxrtl.report.style import COLOURS
from cxrtl.rundir import RunDir, read_json, write_frame

Bytes = npt.NDArray[np.uint8]
CELLS = ("tp", "fn", "fp", "tn", "wrong", "right", "worst", "median", "best")
COLUMNS = ("image_id", "cell", "label", "called", "fold", "arm", "iterations", "score", "image_size", "pixels")
MASKS = ("truth", "predicted")  # further columns of a segmentation run
SHOWN_SIDE = 192  # pixels of a thumbnail
TRUTH, PREDICTED = COLOURS[4], COLOURS[5]


@dataclass(frozen=True)
class Sample:
    """An image with what was said of it, `png` a thumbnail with the outlines of areas where they were kept.

    `score` is the positive class's, beyond binary that of the call; multilabel: the share of stated findings called
    right; segmentation: Dice, the mean over structures. `called` is "" in binary and segmentation.
    """

    image_id: str
    cell: str
    label: str
    called: str
    fold: int
    arm: str
    iterations: int
    score: float
    png: bytes
    outlined: bool = False


def collect_samples(
    run: RunDir,
    predictions: Predictions,
    prepared: Prepared,
    per_cell: int = 4,
    seed: int = 0,
    masks: Mapping[str, tuple[bytes, bytes]] | None = None,
) -> Path:
    """Write `samples.parquet` (`COLUMNS`; `pixels` are `image_size`² bytes, row-major) and return its path.

    With `masks`, image id → true and predicted areas as `image_size`² bytes each (0, or the structure's place from 1
    on), the columns `MASKS` are written too; `choose` tells whose masks are wanted.

    Raises:
        PredictionsError: there are no predictions, or `per_cell` is below 1.
        PreparedError: the shards lack an image, or hold pixels of another size.
    """
    chosen = choose(run, predictions, per_cell, seed)
    pixels = pixels_of(prepared, chosen["image_id"].tolist())
    rows = chosen.assign(image_size=prepared.image_size, pixels=[pixels[name] for name in chosen["image_id"]])
    columns = list(COLUMNS)
    if masks is not None:
        columns += MASKS
        rows = rows.assign(**{key: [masks[i][k] for i in rows["image_id"]] for k, key in enumerate(MASKS)})
    path = run.path("samples.parquet")
    write_frame(path, rows[columns])
    return path


def choose(run: RunDir, predictions: Predictions, per_cell: int = 4, seed: int = 0) -> pd.DataFrame:
    """The rows of `samples.parquet` without pixels. Raises PredictionsError as `collect_samples` does."""
    if per_cell < 1 or predictions.frame.empty:
        raise PredictionsError(f"no samples to draw: per_cell={per_cell}, {len(predictions.frame)} predictions")
    return _draw(_headline(run, predictions), per_cell, seed)


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
    frame = chosen.frame[columns].assign(**_outcomes(chosen))
    frame = frame.drop_duplicates("image_id").sort_values("image_id", ignore_index=True)
    if chosen.task == "segmentation":
        return _extremes(frame, min(per_cell, len(frame) // 3 or 1))
    rng = np.random.default_rng(seed)
    picked: list[int] = []
    for name in CELLS:
        places = np.flatnonzero(frame["cell"] == name)
        picked += sorted(rng.choice(places, size=min(per_cell, len(places)), replace=False).tolist())
    return frame.iloc[picked].reset_index(drop=True)


def _extremes(frame: pd.DataFrame, each: int) -> pd.DataFrame:
    """`each` images of the lowest, the middle and the highest score."""
    ranked = frame.sort_values(["score", "image_id"], ignore_index=True)
    middle = (len(ranked) - each) // 2
    starts = {"worst": 0, "median": middle, "best": len(ranked) - each}
    parts = [ranked.iloc[start : start + each].assign(cell=cell) for cell, start in starts.items()]
    return pd.concat(parts, ignore_index=True).drop_duplicates("image_id", ignore_index=True)


def _outcomes(chosen: Predictions) -> dict[str, Any]:
    """`cell`, `called` and `score` of each row, and in multilabel `label`."""
    if chosen.task == "segmentation":
        return {"cell": "", "called": "", "score": overlap.image_dice(chosen).mean(axis=1)}
    if chosen.task == "binary":
        called = chosen.score >= THRESHOLD
        cell = np.where(chosen.truth, np.where(called, "tp", "fn"), np.where(called, "fp", "tn"))
        return {"cell": cell, "called": "", "score": chosen.score}
    if chosen.task == "multiclass":
        names = np.array(chosen.classes)[chosen.scores.argmax(axis=1)]
        cell = np.where(names == chosen.frame["label"], "right", "wrong")
        return {"cell": cell, "called": names, "score": chosen.scores.max(axis=1)}
    labels, said = chosen.labels, chosen.scores >= THRESHOLD
    stated = ~np.isnan(labels)
    share = (stated & (said == (labels == 1))).sum(axis=1) / np.maximum(stated.sum(axis=1), 1)
    texts = {
        key: [", ".join(np.array(chosen.classes)[row]) or "none of them" for row in table]
        for key, table in (("label", labels == 1), ("called", said))
    }
    return {"cell": np.where(share == 1, "right", "wrong"), "score": share, **texts}


def pixels_of(prepared: Prepared, ids: list[str]) -> dict[str, bytes]:
    """Pixels by image id, of several channels the middle one's, reading only the rows that are asked for."""
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
    size, middle = prepared.image_size**2, prepared.channels // 2
    absent = [name for name in ids if len(found.get(name) or b"") != prepared.channels * size]
    if absent:
        raise PreparedError(
            f"shards lack the pixels ({prepared.image_size}²) of image(s) {absent[:5]}: prepare the data again"
        )
    return {name: pixels[middle * size : (middle + 1) * size] for name, pixels in found.items()}


def read_samples(run: RunDir) -> list[Sample]:
    """The samples of a run, in the order of `CELLS`; empty where none were collected.

    Raises:
        DamagedError: `samples.parquet` is there but is not what `collect_samples` writes.
    """
    path = run.path("samples.parquet")
    if not path.exists():
        return []
    try:
        rows = pq.read_table(path).to_pylist()
        samples = [_sample(row) for row in rows]
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError):
        raise DamagedError(f"{path.name} in {run.root} is no samples table: delete it and report again") from None
    return sorted(samples, key=lambda sample: CELLS.index(sample.cell))


def read_pixels(run: RunDir) -> list[Grey]:
    """The sampled images at the size they are stored in, `[size, size]`; empty where none were collected.

    Raises:
        DamagedError: as `read_samples`.
    """
    path = run.path("samples.parquet")
    try:
        rows = pq.read_table(path, columns=["image_size", "pixels"]).to_pylist() if path.exists() else []
        return [np.frombuffer(pixels, np.uint8).reshape(side, side) for pixels, side in map(square, rows)]
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError):
        raise DamagedError(f"{path.name} in {run.root} is no samples table: delete it and report again") from None


def square(row: dict[str, object]) -> tuple[bytes, int]:
    """The pixels of a row and their side. Raises ValueError or KeyError where they are no square image."""
    side, pixels = int(str(row["image_size"])), row["pixels"]
    if not isinstance(pixels, bytes) or not 0 < side <= 4096 or len(pixels) != side * side:
        raise ValueError("pixels")
    return pixels, side


def _sample(row: dict[str, object]) -> Sample:
    (pixels, side), cell = square(row), str(row["cell"])
    if cell not in CELLS:
        raise ValueError("sample")
    masks = [mask for key in MASKS if isinstance(mask := row.get(key), bytes) and len(mask) == side * side]
    if len(masks) not in (0, len(MASKS)):
        raise ValueError("masks")
    return Sample(
        image_id=str(row["image_id"]),
        cell=cell,
        label=str(row["label"]),
        called=str(row.get("called") or ""),
        fold=int(str(row["fold"])),
        arm=str(row["arm"]),
        iterations=int(str(row["iterations"])),
        score=float(str(row["score"])),
        png=thumbnail(pixels, side, masks),
        outlined=bool(masks),
    )


def thumbnail(pixels: bytes, side: int, masks: Sequence[bytes] = ()) -> bytes:
    """A PNG of `side`² grey bytes, with outlines where there are `masks`; reduced beyond `SHOWN_SIDE`."""
    image = Image.frombytes("L", (side, side), pixels)
    if masks:
        truth, predicted = (np.frombuffer(mask, np.uint8).reshape(side, side) for mask in masks)
        image = Image.fromarray(outlined(np.asarray(image), truth, predicted))
    if side > SHOWN_SIDE:
        image = image.resize((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def outlined(grey: Bytes, truth: Bytes, predicted: Bytes) -> Bytes:
    """`grey` `[S, S]` as colour `[S, S, 3]` with the outlines of true and predicted areas, the latter on top."""
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    for mask, paint in ((truth, TRUTH), (predicted, PREDICTED)):
        edge = np.zeros(mask.shape, bool)
        for place in np.unique(mask[mask > 0]):
            edge |= (mask == place) & ~binary_erosion(mask == place, iterations=max(1, round(len(mask) / 112)))
        picture[edge] = tuple(int(paint[i : i + 2], 16) for i in (1, 3, 5))
    return picture
