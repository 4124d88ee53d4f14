"""NIH ChestX-ray14 as it is handed out.

    Data_Entry_2017.csv, or Data_Entry_2017_v2020.csv
    images/*.png, or images_001/images/*.png … images_012/images/*.png
    train_val_list.txt, test_list.txt          one image name a line; needed where `cohort.split` is not `all`

The set states every finding of every image: one that is not listed is absent. Source: Wang et al., CVPR 2017.
"""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from cxrtl.config import Data
from cxrtl.data.attributes import age_band, sex, view
from cxrtl.data.sources.cohort import (
    NO_FINDING,
    Funnel,
    check_finding,
    classify,
    finding_column,
    mapped,
    stated,
)
from cxrtl.data.sources.common import folder_of
from cxrtl.data.sources.text import read_columns
from cxrtl.errors import ManifestError
from cxrtl.records import Manifest

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
_COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
_LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}


def build(data: Data, key: bytes) -> Manifest:
    """Positive: `cohort.finding` is among the image's findings. Negative: its only entry is No Finding.

    Raises:
        ManifestError: no such folder, table or list, an unknown finding, or a name in two image folders.
    """
    root = folder_of(data, "Data_Entry_2017*.csv and the images")
    cohort = data.cohort
    check_finding(cohort, FINDINGS)
    table = read_columns(_table(root), _COLUMNS)
    labels = _labels(table["Finding Labels"])
    frame = pd.DataFrame(
        {
            "name": table["Image Index"],
            "image": table["Image Index"],
            "patient": table["Patient ID"],
            "study": "",
            "label": classify(labels, cohort),
            "split": _split(root, table["Image Index"]),
            "view": mapped(table["View Position"], view),
            "sex": mapped(table["Patient Gender"], sex),
            "age_band": mapped(table["Patient Age"], age_band),
            **{finding_column(name): labels[name] for name in FINDINGS},
            **stated(labels, cohort),
        }
    )
    if cohort.split == "validate" or (cohort.split != "all" and not frame["split"].any()):
        raise ManifestError(f"data.cohort.split = {cohort.split!r} needs one of {sorted(_LISTS.values())} in data.path")
    funnel = Funnel(frame)
    funnel.take_split(cohort)
    funnel.take_view(cohort)
    funnel.take_labelled(cohort)
    places = _places(root, set(table["Image Index"]))
    funnel.frame["image"] = [places.get(name, name) for name in funnel.frame["name"]]
    funnel.take_present(root)
    funnel.draw(cohort)
    extras = [*data.taken_attributes, "split", *map(finding_column, FINDINGS)]
    return funnel.manifest(root, key, data, cohort.finding, extras)


def _table(root: Path) -> Path:
    found = sorted(root.glob("Data_Entry_2017*.csv"))
    if len(found) != 1:
        raise ManifestError(f"data.path holds {len(found)} tables Data_Entry_2017*.csv, and should hold one")
    return found[0]


def _labels(joined: pd.Series[str]) -> pd.DataFrame:
    """1 and 0 for each finding and for No Finding; findings are joined by `|`."""
    sets = [frozenset(part.strip() for part in text.split("|")) for text in joined]
    unknown = sum(not found <= {*FINDINGS, NO_FINDING} for found in sets)
    if unknown:
        raise ManifestError(f"{unknown} row(s) hold findings that the set does not have: is it the set's own table?")
    columns = {name: [float(name in found) for found in sets] for name in FINDINGS}
    return pd.DataFrame({**columns, NO_FINDING: [float(found == {NO_FINDING}) for found in sets]}, index=joined.index)


def _split(root: Path, names: pd.Series[str]) -> list[str]:
    """`train` or `test` by the set's own lists, "" for images in neither."""
    part: dict[str, str] = {}
    for split, file in _LISTS.items():
        try:
            listed = (root / file).read_text(encoding="utf-8").split() if (root / file).is_file() else []
        except (OSError, UnicodeDecodeError):
            raise ManifestError(f"{file} in data.path cannot be read as text") from None
        part.update(dict.fromkeys(listed, split))
    return [part.get(name, "") for name in names]


def _places(root: Path, wanted: set[str]) -> dict[str, str]:
    """Each of `wanted` that is there → path below `root`, in `images*` and the folders in them."""
    places: dict[str, str] = {}
    twice = 0
    for top in sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name.startswith("images")):
        for folder, _, files in os.walk(root / top):
            for name in wanted.intersection(files):
                twice += name in places
                places.setdefault(name, (Path(folder) / name).relative_to(root).as_posix())
    if twice:
        raise ManifestError(f"{twice} image name(s) occur in two of the image folders of data.path: keep one copy")
    return places
