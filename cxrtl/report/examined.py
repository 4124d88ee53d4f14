"""Look-alikes and shortcut probes, as `data.survey` left them in the run folder: read, checked and put into words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cxrtl.errors import DamagedError
from cxrtl.report.numbers import plural
from cxrtl.report.samples import square, thumbnail
from cxrtl.report.shape import Alike, Examined, ShortcutRow
from cxrtl.rundir import RunDir, read_json

PROBED = (
    "Could the label be guessed without the organ? Ridge regression tries it on metadata alone, and on the outermost "
    "pixels and the corners of the image alone, fitted on the training images of each fold and scored on those held "
    "out. A clean set gives an AUC near 0.5. The reading goes by the lower end of the interval: above 0.9, above 0.6, "
    "above 0.5."
)
MISSED = "Very many images share a part of their hash: not all were compared, and there may be more pairs."


@dataclass(frozen=True)
class Twins:
    """A pair that looks alike, with a PNG of each."""

    pair: Alike
    first: bytes
    second: bytes


def read_examined(run: RunDir, resolved: dict[str, Any]) -> Examined | None:
    """None where the run was not examined, or other images or folds were.

    Raises:
        DamagedError: `audit.json` is there but is not what `survey` writes.
    """
    path = run.path("audit.json")
    if not path.exists():
        return None
    raw = read_json(path)
    try:
        alike = raw["lookalikes"]
        hashes = (raw["dataset_hash"], raw["folds_hash"])
        found = Examined(
            pairs=int(alike["pairs"]),
            whole=bool(alike.get("whole", True)),  # absent in earlier versions
            images=int(alike["images"]),
            mirrored=int(alike["mirrored"]),
            other_label=int(alike["other_label"]),
            nearest=[
                Alike(
                    images=[str(each) for each in row["images"]],
                    labels=[str(each) for each in row["labels"]],
                    folds=[int(each) for each in row["folds"]],
                    bits=int(row["bits"]),
                    mirrored=bool(row["mirrored"]),
                )
                for row in alike["nearest"]
            ],
            shortcuts=[
                ShortcutRow(
                    features=str(row["features"]),
                    target=str(row["target"]),
                    images=int(row["images"]),
                    auc={
                        "value": _share(row["auc"]),
                        "low": _share(row["low"]),
                        "high": _share(row["high"]),
                        "method": None,
                    },
                    reading=str(row["reading"]),
                )
                for row in raw["shortcuts"]
            ],
        )
    except (KeyError, TypeError, ValueError):
        raise DamagedError(f"{path.name} in {run.root} is not one of this version: delete it and run again") from None
    return found if hashes == (resolved["dataset"].get("dataset_hash"), resolved.get("folds_hash")) else None


def _share(value: Any) -> float | None:
    if value is not None and not 0 <= float(value) <= 1:
        raise ValueError("share")
    return None if value is None else float(value)


def read_twins(run: RunDir, found: Examined | None) -> list[Twins]:
    """The nearest pairs with their pixels; empty where none were kept. Raises DamagedError as `read_examined`."""
    path = run.path("lookalikes.parquet")
    if not found or not path.exists():
        return []
    try:
        rows = pq.read_table(path, columns=["image_size", "pixels"]).to_pylist()
        pngs = [thumbnail(*square(row)) for row in rows]
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError):
        raise DamagedError(f"{path.name} in {run.root} holds no look-alikes: delete audit.json and run again") from None
    return [Twins(*each) for each in zip(found["nearest"], pngs[::2], pngs[1::2], strict=False)]


def said(found: Examined) -> str:
    """What was found of look-alikes, in a sentence or two."""
    if not found["pairs"]:
        none = "No two images in different folds look alike (perceptual hash, mirror images included)."
        return none if found["whole"] else f"{none} {MISSED}"
    mirrored = f", {found['mirrored']} of them mirrored" if found["mirrored"] else ""
    other = f" {found['other_label']} of them bear different labels." if found["other_label"] else ""
    more = "" if found["whole"] else " " + MISSED
    return (
        f"{plural(found['pairs'], 'pair')} of images in different folds look alike ({plural(found['images'], 'image')}"
        f"{mirrored}): maybe one picture filed twice, or two of one patient. The run goes on, but if they are copies, "
        f"results are too good.{other}{more}"
    )
