"""CheXpert 1.0, small or large, as it is handed out.

    train.csv, valid.csv                                   labels: 1.0, 0.0, -1.0 (uncertain) or blank (not stated)
    train/patient00001/study1/view1_frontal.jpg            in the column Path behind the set's own folder name

Source: Irvin et al., AAAI 2019.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from cxrtl.config import Data
from cxrtl.data.attributes import OTHER, age_band, sex
from cxrtl.data.sources.cohort import (
    FRONTAL,
    NO_FINDING,
    Funnel,
    check_finding,
    classify,
    finding_column,
    mapped,
    numbers,
    stated,
)
from cxrtl.data.sources.common import folder_of
from cxrtl.data.sources.text import one_of, read_columns
from cxrtl.errors import ManifestError
from cxrtl.records import Manifest

FINDINGS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
_TABLES = {"train": "train.csv", "validate": "valid.csv"}
_PATH = re.compile(r"^(?:[^/]+/)?((?:train|valid)/(patient\d+)/(study\d+)/[^/]+)$")


def build(data: Data, key: bytes) -> Manifest:
    """Positive: `cohort.finding` is 1. Negative: No Finding is 1 (or, as `cohort.negative` asks, the finding is 0).

    A view is AP or PA where the set says so, `frontal` where it says no more, else `lateral`.

    Raises:
        ManifestError: no such folder or table, an unknown finding, or paths and labels that are not the set's own.
    """
    root = folder_of(data, "train.csv, valid.csv and their images")
    cohort = data.cohort
    check_finding(cohort, FINDINGS)
    table = _read(root, cohort.split)
    labels = numbers(table[[NO_FINDING, *FINDINGS]])
    parts = table["Path"].str.extract(_PATH)
    if parts.isna().to_numpy().any():
        raise ManifestError(f"{int(parts[0].isna().sum())} entries of the column Path are not the set's own")
    frame = pd.DataFrame(
        {
            "image": parts[0],
            "patient": parts[1],
            "study": parts[2],
            "label": classify(labels, cohort),
            "split": table["split"],
            "view": _views(table),
            "sex": mapped(table["Sex"], sex),
            "age_band": mapped(table["Age"].where(table["Age"] != "0", ""), age_band),  # of adults: 0 is no age
            **{finding_column(name): labels[name] for name in FINDINGS},
            **stated(labels, cohort),
        }
    )
    funnel = Funnel(frame)
    _take_view(funnel, data)
    funnel.take_labelled(cohort)
    funnel.take_present(root)
    funnel.draw(cohort)
    extras = [*data.taken_attributes, "split", *map(finding_column, FINDINGS)]
    return funnel.manifest(root, key, data, cohort.finding, extras)


def _read(root: Path, split: str) -> pd.DataFrame:
    if split == "test":
        raise ManifestError("data.cohort.split = 'test': the set's test images are not handed out with train and valid")
    wanted = list(_TABLES) if split == "all" else [split]
    columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", NO_FINDING, *FINDINGS]
    tables = [read_columns(one_of(root, [_TABLES[part]]), columns).assign(split=part) for part in wanted]
    return pd.concat(tables, ignore_index=True)


def _views(table: pd.DataFrame) -> list[str]:
    """AP/PA also holds LL and RL, which mean nothing more of a frontal image; a blank tells nothing."""
    side, projection = table["Frontal/Lateral"].str.lower(), table["AP/PA"]
    return [
        which if front == "frontal" and which in FRONTAL else front if front in ("frontal", "lateral", "") else OTHER
        for front, which in zip(side, projection, strict=True)
    ]


def _take_view(funnel: Funnel, data: Data) -> None:
    """As everywhere, but that an image known to be frontal and no more is `frontal`."""
    if data.cohort.view == "frontal":
        funnel.keep(funnel.frame["view"].isin(["AP", "PA", "frontal"]), "view not frontal")
    else:
        funnel.take_view(data.cohort)
