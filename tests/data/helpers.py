"""Small image sets, drawn on the spot, with identifiers that must never be seen again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cxrtl.config import Data
from cxrtl.data import phantom
from cxrtl.records import Prepared

Indexed = tuple[Prepared, pd.DataFrame]
Prepare = Callable[..., Indexed]
CANARY = "CANARY7319"  # in every file name and patient number of `labelled`


def save(path: Path, number: int, positive: bool = False, patient: int = 0, size: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(phantom.draw(1, number, positive, patient, size)).save(path)


def labelled(root: Path, patients: int = 6, images: int = 2) -> Path:
    """A label table with `patients` × `images` PNG files; every second patient is sick."""
    rows = []
    for number in range(patients * images):
        patient = number // images
        name = f"files/{CANARY}-{number:03d}.png"
        save(root / name, number, patient % 2 == 1, patient)
        label = "sick" if patient % 2 else "healthy"
        rows.append({"image": name, "label": label, "patient_id": f"{CANARY}-0{patient}", "age": 50 + patient})
    pd.DataFrame(rows).to_csv(root / "labels.csv", index=False)
    return root / "labels.csv"


def table_config(path: Path, **changes: object) -> Data:
    return Data.model_validate({"source": "table", "path": str(path), "image_size": 32, **changes})


def fake_index(labels: list[str], patients: list[str], classes: tuple[str, ...] = ("a", "b")) -> pd.DataFrame:
    """What `read_index` gives, for images that were never drawn."""
    count = len(labels)
    return pd.DataFrame(
        {
            "row": np.arange(count),
            "image_id": [f"img-{number:016x}" for number in range(count)],
            "patient_id": patients,
            "study_id": [""] * count,
            "label": labels,
            "target": [classes.index(label) for label in labels],
            "content_hash": [f"{number:064x}" for number in range(count)],
        }
    )


def fake_prepared(index: pd.DataFrame, classes: tuple[str, ...] = ("a", "b")) -> Prepared:
    grouped = bool((index["patient_id"] != "").all())
    return Prepared(Path("/nowhere"), classes, 32, len(index), grouped, "0" * 64)


def grouped(count: int = 120, patients: int = 40) -> tuple[pd.DataFrame, Prepared]:
    rng = np.random.default_rng(0)
    owner = rng.integers(0, patients, count)
    index = fake_index(["ab"[number % 2] for number in owner], [f"pat-{number:016x}" for number in owner])
    return index, fake_prepared(index)


def ungrouped(count: int = 60) -> tuple[pd.DataFrame, Prepared]:
    index = fake_index(["a", "b", "b"] * (count // 3), [""] * count)
    return index, fake_prepared(index)


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}
