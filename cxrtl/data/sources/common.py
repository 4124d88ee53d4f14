"""What every source does alike: hash identifiers, settle the two classes, keep files inside their folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cxrtl.config import Data, expand
from cxrtl.data.ids import keyed_id
from cxrtl.data.images import REFUSED
from cxrtl.errors import ManifestError
from cxrtl.predictions import PREDICTION_COLUMNS
from cxrtl.records import FOLD_COLUMNS, INDEX_COLUMNS, MANIFEST_COLUMNS, FlowStep, Manifest

LISTED = "images listed"  # the first step of every flow
RESERVED = frozenset({*MANIFEST_COLUMNS, *INDEX_COLUMNS, *FOLD_COLUMNS, *PREDICTION_COLUMNS, "pixels"})
_LISTED = 20  # with more values a label column is likely the wrong one, and could hold identifiers


@dataclass(frozen=True)
class Rows:
    """What a source found, in the clear, one entry an image; "" where a patient or study is unknown.

    `images` are the texts that identify images on any machine (their path relative to the source, POSIX form),
    `paths` says where to open them here, `extras` are the source's further columns.
    """

    images: Sequence[str]
    labels: Sequence[str]
    paths: Sequence[str]
    patients: Sequence[str]
    studies: Sequence[str]
    extras: Mapping[str, Sequence[Any]]


def to_manifest(rows: Rows, key: bytes, positive: str, flow: Sequence[FlowStep] = ()) -> Manifest:
    """Hash the identifiers of `rows` and settle the classes. `flow`: what was left out before; default: nothing.

    Raises:
        ManifestError: no rows, not exactly two classes, an image listed twice, or patients known only in part.
    """
    if not rows.images:
        raise ManifestError("there is not one image: check data.path")
    unknown = sum(not patient for patient in rows.patients)
    if 0 < unknown < len(rows.patients):
        raise ManifestError(
            f"the patient is unknown for {unknown} of {len(rows.patients)} images: fill in all of them, or name no "
            "patient column and set folds.ungrouped = true"
        )
    # a study number may repeat from patient to patient, so the patient is part of it
    studies = [study and f"{patient}\0{study}" for patient, study in zip(rows.patients, rows.studies, strict=True)]
    columns = {
        "image_id": [keyed_id("img", image, key) for image in rows.images],
        "patient_id": [keyed_id("pat", patient, key) for patient in rows.patients],
        "study_id": [keyed_id("std", study, key) for study in studies],
        "label": list(rows.labels),
        "path": pd.Series(rows.paths, dtype=object),  # as text, pandas would refuse a name that is not UTF-8
    }
    extras = {name: values for name, values in rows.extras.items() if name not in RESERVED}
    classes = resolve_classes(rows.labels, positive)
    steps = tuple(flow) or (FlowStep(LISTED, 0, len(rows.images)),)
    return Manifest(pd.DataFrame({**columns, **extras}), classes, steps)


def resolve_classes(labels: Iterable[str], positive: str = "") -> tuple[str, str]:
    """`(negative, positive)` of the labels found; without `positive`, the last in the alphabet is the positive one.

    Raises:
        ManifestError: there are not exactly two classes, or `positive` is none of them.
    """
    found = sorted(set(labels))
    if len(found) != 2:
        listed = f": {found}" if len(found) <= _LISTED else ""
        raise ManifestError(
            f"there are {len(found)} classes, and there must be 2{listed}. Leave out the images of other classes, or "
            "point data.label_column (or data.path) at a column (or folder) that tells two apart."
        )
    if any(not label.isprintable() for label in found):  # also what is left of a folder name that is not UTF-8
        raise ManifestError("a class name holds characters that cannot be printed: rename it")
    positive = positive or found[1]
    if positive not in found:
        raise ManifestError(f"data.positive = {positive!r} is not among the classes {found}: name one of them")
    found.remove(positive)
    return found[0], positive


def folder_of(data: Data, what: str) -> Path:
    """`data.path` as a resolved folder; raises ManifestError, saying `what` it should hold, where it is none."""
    root = expand(data.path)
    if not root.is_dir():
        raise ManifestError(f"data.path = {data.path!r} is no folder: give the folder that holds {what}")
    return root.resolve()


def locate(root: Path, relative: str) -> str:
    """The absolute path of a file below `root` (already resolved); refused where a link in it leads out of `root`."""
    path = root / relative
    inside = Path(os.path.realpath(path)).is_relative_to(root)
    return str(path) if inside else f"{REFUSED}outside_root:{path}"
