"""One look at every stored pixel: what the images are, which look alike, what tells the label by a shortcut.

    data.json            the set's fingerprint: counts, sizes, grey levels, hashes
    audit.json           look-alikes across folds, and shortcut probes, of these folds
    lookalikes.parquet   the pixels of the nearest pairs, for the report

All ids are hashed; no name, path or date of an image is in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from cxrtl import rundir
from cxrtl.data import lookalikes, shortcuts
from cxrtl.data.prepared import read_index, shard_paths
from cxrtl.predictions import FloatArray
from cxrtl.records import INDEX_COLUMNS, SIZE_COLUMNS, Folds, Prepared
from cxrtl.rundir import RunDir

VERSION = 2
SHOWN = 6  # pairs whose pixels are kept
_LISTED = 100  # pairs that audit.json names
_GREYS = 16  # bins of the fingerprint's histograms


@dataclass(frozen=True)
class Look:
    """Of each image `[N]`, in row order: its low frequencies, its rim, and the counts of its grey levels."""

    waves: npt.NDArray[np.float32]
    rim: npt.NDArray[np.float32]
    greys: npt.NDArray[np.uint32]


def survey(run: RunDir, prepared: Prepared, folds: Folds) -> None:
    """Write the three files into `run`, unless they are there for the same images, columns and folds; `folds` must be
    current.

    Reads each shard once; about 2 KB an image stay in memory: `Look`.
    """
    columns = [name for name in pq.read_schema(shard_paths(prepared)[0]).names if name not in INDEX_COLUMNS]
    about = {"version": VERSION, "dataset_hash": prepared.dataset_hash, "folds_hash": folds.hash, "columns": columns}
    path = run.path("audit.json")
    if path.exists() and about.items() <= rundir.read_json(path).items():
        return
    index, looked = read_index(prepared), _look(prepared)
    rundir.write_json(run.path("data.json"), fingerprint(index, looked, prepared))
    division = folds.division
    alike = lookalikes.find(looked.waves, lambda one, two: (division[:, one] != division[:, two]).any(axis=0))
    _keep_pixels(run, alike.pairs[:SHOWN], prepared)
    rundir.write_json(path, {**about, "lookalikes": _listed(alike, folds), "shortcuts": _probes(index, looked, folds)})


def _pixels(prepared: Prepared) -> Iterator[npt.NDArray[np.uint8]]:
    """`[n, H, W]`, shard by shard; of several channels the first."""
    size = prepared.image_size
    for path in shard_paths(prepared):
        values = pq.read_table(path, columns=["pixels"])["pixels"].combine_chunks()
        chunk = values.chunk(0) if hasattr(values, "chunks") else values
        if len(chunk):
            each = chunk.type.byte_width
            flat = np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * each, chunk.offset * each)
            yield flat.reshape(len(chunk), -1, size, size)[:, 0]


def _look(prepared: Prepared) -> Look:
    start, found = 0, list[npt.NDArray[Any]]()
    for pixels in _pixels(prepared):
        reduced = reduce(pixels)
        rim = shortcuts.rim(reduced, shortcuts.corner_histograms(pixels))
        parts = (lookalikes.frequencies(reduced), rim, _greys(pixels))
        found = found or [np.empty((prepared.images, part.shape[1]), part.dtype) for part in parts]
        for whole, part in zip(found, parts, strict=True):
            whole[start : start + len(part)] = part
        start += len(pixels)
    return Look(*found)


def reduce(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """`[n, H, W]` to `[n, 32, 32]`: the mean of each of 32 × 32 blocks."""
    side = pixels.shape[1]
    starts = np.linspace(0, side, lookalikes.SIDE, endpoint=False).astype(int)
    sums = np.add.reduceat(np.add.reduceat(pixels, starts, axis=1, dtype=np.float32), starts, axis=2)
    widths = np.diff([*starts, side])
    means: npt.NDArray[np.uint8] = np.rint(sums / np.outer(widths, widths)).astype(np.uint8)
    return means


def _greys(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    bins = (pixels >> 4).reshape(len(pixels), -1)
    return np.stack([(bins == grey).sum(axis=1, dtype=np.uint32) for grey in range(_GREYS)], axis=1)


def fingerprint(index: pd.DataFrame, looked: Look, prepared: Prepared) -> dict[str, Any]:
    """What the set is, for whoever asks later whether another is the same kind of set."""
    shares = {
        str(label): (looked.greys[rows].sum(axis=0) / looked.greys[rows].sum()).round(6).tolist()
        for label, rows in index.groupby("label").indices.items()
    }
    contents = rundir.content_hash(sorted(index["content_hash"]))
    return {
        "version": VERSION,
        "dataset_hash": prepared.dataset_hash,
        "contents_hash": contents,  # of the full-size pictures alone: whatever their order, labels and stored size
        "images": len(index),
        "distinct_images": int(index["content_hash"].nunique()),
        "patients": int(index["patient_id"].nunique()) if prepared.grouped else None,
        "studies": int(index["study_id"].nunique()) if (index["study_id"] != "").all() else None,
        "counts": prepared.counts,
        "stored_size": prepared.image_size,
        "original_sizes": {
            name: [int(x) for x in np.quantile(index[name], (0, 0.25, 0.5, 0.75, 1), method="nearest")]
            for name in SIZE_COLUMNS
        },  # least, quartiles, most
        "grey_levels": shares,  # by label: share of pixels in 16 equal bins from black to white
        "columns": {
            str(name): {str(value): int(count) for value, count in index[name].fillna("").value_counts().items()}
            for name in index.columns[len(INDEX_COLUMNS) :]
            if index[name].nunique() <= shortcuts.MOST_LEVELS
        },
        "flow": [asdict(step) for step in prepared.flow],
    }


def _listed(alike: lookalikes.Found, folds: Folds) -> dict[str, Any]:
    """Counts, and the nearest pairs by id, with their folds in the first repeat that parts them."""
    frame, division, pairs = folds.frame, folds.division, alike.pairs
    rows = []
    for pair in pairs[:_LISTED]:
        both = [pair.first, pair.second]
        repeat = division[(division[:, pair.first] != division[:, pair.second]).argmax()]
        rows.append(
            {
                "images": frame["image_id"][both].tolist(),
                "labels": frame["label"][both].tolist(),
                "folds": repeat[both].tolist(),
                "bits": pair.distance,
                "mirrored": pair.mirrored,
            }
        )
    labels = frame["label"].to_numpy()
    return {
        "pairs": len(pairs),
        "whole": alike.whole,
        "images": len({row for pair in pairs for row in (pair.first, pair.second)}),
        "mirrored": sum(pair.mirrored for pair in pairs),
        "other_label": sum(bool(labels[pair.first] != labels[pair.second]) for pair in pairs),
        "nearest": rows,
    }


def _keep_pixels(run: RunDir, pairs: list[lookalikes.Pair], prepared: Prepared) -> None:
    rows = [row for pair in pairs for row in (pair.first, pair.second)]
    wanted, start = set(rows), 0
    found: dict[int, bytes] = {}
    for pixels in _pixels(prepared):
        found |= {row: pixels[row - start].tobytes() for row in wanted if start <= row < start + len(pixels)}
        start += len(pixels)
        if len(found) == len(wanted):
            break
    frame = pd.DataFrame({"row": rows, "image_size": prepared.image_size, "pixels": [found[row] for row in rows]})
    rundir.write_frame(run.path("lookalikes.parquet"), frame)


def _probes(index: pd.DataFrame, looked: Look, folds: Folds) -> list[dict[str, Any]]:
    """Of the first division, where there are repeats."""
    features: dict[str, shortcuts.Features] = {**shortcuts.metadata(index), "image border and corners": looked.rim}
    pairs = zip(index["patient_id"], index["image_id"], strict=True)
    owners = [patient or image for patient, image in pairs]
    return [asdict(found) for found in shortcuts.probe(features, _targets(index), folds.division[0], owners)]


def _targets(index: pd.DataFrame) -> dict[str, FloatArray]:
    """What there is to guess: the positive class of two, each of more, or each finding."""
    findings = {str(name)[6:]: index[name].to_numpy(np.float64) for name in index if str(name).startswith("label_")}
    classes = index[index["target"] >= 0].groupby("target")["label"].first()
    wanted = classes if len(classes) > 2 else classes.iloc[1:]
    return findings or {name: (index["target"] == target).to_numpy(np.float64) for target, name in wanted.items()}
