"""What every source does alike: hash identifiers, settle the classes, keep files inside their folder."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrtl.config import Data, expand
from cxrtl.data.ids import keyed_id
from cxrtl.data.images import FILES, REFUSED
from cxrtl.errors import ManifestError
from cxrtl.predictions import PREDICTION_COLUMNS
from cxrtl.records import FOLD_COLUMNS, INDEX_COLUMNS, MANIFEST_COLUMNS, SIZE_COLUMNS, FlowStep, Manifest

LISTED = "images listed"  # the first step of every flow
NONE_STATED = "no finding stated"
RESERVED = frozenset(
    {*MANIFEST_COLUMNS, *INDEX_COLUMNS, *FOLD_COLUMNS, *PREDICTION_COLUMNS, *SIZE_COLUMNS, "pixels", "mask"}
)
_MOST = 1000  # classes: ImageNet's number
_LISTED = 20  # classes whose sizes a message gives


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
    findings: Mapping[str, Sequence[float]] = field(default_factory=dict)  # multilabel: 1, 0, NaN; `labels` are ""


def to_manifest(rows: Rows, key: bytes, data: Data, flow: Sequence[FlowStep] = ()) -> Manifest:
    """Hash the identifiers of `rows` and settle the classes. `flow`: what was left out before; default: nothing.

    Images of classes that `data.classes` does not name are left out; a multilabel task's without a stated label, too.

    Raises:
        ManifestError: no rows, not the classes that the task needs, an image listed twice, or patients known only in
            part.
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
    findings = {f"label_{name}": np.asarray(values, dtype=float) for name, values in rows.findings.items()}
    frame = pd.DataFrame({**columns, **extras, **findings})
    steps = list(flow) or [FlowStep.of(LISTED, 0, rows.patients)]
    if data.task == "multilabel":
        frame = _keep(frame, frame[list(findings)].notna().any(axis=1), NONE_STATED, steps)
        _require_both_sides(frame, list(rows.findings))
        return Manifest(frame, tuple(rows.findings), tuple(steps), data.task)
    if data.task == "segmentation":
        return Manifest(frame, data.structures, tuple(steps), data.task)
    if data.classes:
        frame = _keep(frame, frame["label"].isin(data.classes), "of a class that data.classes does not name", steps)
    return Manifest(frame, resolve_classes(frame["label"], data), tuple(steps), data.task)


def _keep(frame: pd.DataFrame, wanted: pd.Series[bool], step: str, steps: list[FlowStep]) -> pd.DataFrame:
    kept = frame[wanted].reset_index(drop=True)
    if len(kept) < len(frame):
        steps.append(FlowStep.of(step, len(frame) - len(kept), kept["patient_id"].tolist()))
    return kept


def _require_both_sides(frame: pd.DataFrame, findings: Sequence[str]) -> None:
    for finding in findings:
        stated = frame[f"label_{finding}"]
        if not {0, 1} <= set(stated.dropna()):
            raise ManifestError(
                f"finding {finding!r} is stated present in {int((stated == 1).sum())} images and absent in "
                f"{int((stated == 0).sum())}: a model needs some of each. Leave it out."
            )


def resolve_classes(labels: Iterable[str], data: Data) -> tuple[str, ...]:
    """The classes of a binary task, `(negative, positive)`, or of a multiclass one, as `data` names or orders them.

    The order is that of `data.classes`, else the alphabet's; `data.positive` becomes the last of two.

    Raises:
        ManifestError: there are not as many classes as the task needs, or one that `data` names is not there.
    """
    counts = Counter(labels)
    found = sorted(counts)
    absent = sorted(set(data.classes) - set(found))
    if absent:
        raise ManifestError(f"data.classes names {absent}, of which there is no image: there are {_sizes(counts)}")
    if len(found) != 2 and (data.task == "binary" or len(found) < 2):
        wanted = "there must be 2" if data.task == "binary" else "there must be more"
        several = " A task of several classes is data.task = 'multiclass'." if len(found) > 2 else ""
        raise ManifestError(
            f"there are {len(found)} classes, and {wanted}: {_sizes(counts)}. Leave out the images of other classes "
            f"(data.classes), or point data.label_column (or data.path) at what tells them apart.{several}"
        )
    if len(found) > _MOST:
        raise ManifestError(f"there are {len(found)} classes, more than {_MOST}: is it the right data.label_column?")
    if any(not label.isprintable() for label in found):  # also what is left of a folder name that is not UTF-8
        raise ManifestError("a class name holds characters that cannot be printed: rename it")
    classes = list(data.classes) or found
    if data.positive:
        if data.positive not in classes:
            raise ManifestError(f"data.positive = {data.positive!r} is none of the {_sizes(counts)}: name one of them")
        classes.sort(key=data.positive.__eq__)
    return tuple(classes)


def _sizes(counts: Mapping[str, int]) -> str:
    """How many images each class has, largest first. Never their names: of a damaged table, or a wrong column or
    folder, those may be people's."""
    sizes = sorted(counts.values(), reverse=True)
    more = f" and {len(sizes) - _LISTED} more" if len(sizes) > _LISTED else ""
    return f"classes of {', '.join(map(str, sizes[:_LISTED]))} image(s){more}"


def folder_of(data: Data, what: str) -> Path:
    """`data.path` as a resolved folder; raises ManifestError, saying `what` it should hold, where it is none."""
    root = expand(data.path)
    if not root.is_dir():
        raise ManifestError(f"data.path = {data.path!r} is no folder: give the folder that holds {what}")
    return root.resolve()


def several(images: Sequence[str], slice_: int | None = None, mask: str = "") -> str:
    """The `path` of a row of several files, as `locate` gave them; refused where one of them is."""
    refused = next((path for path in (*images, mask) if path.startswith(REFUSED)), "")
    return refused or FILES + json.dumps({"images": list(images), "slice": slice_, "mask": mask})


def locate(root: Path, relative: str) -> str:
    """The absolute path of a file below `root` (already resolved); refused where a link in it leads out of `root`."""
    path = root / relative
    inside = Path(os.path.realpath(path)).is_relative_to(root)
    return str(path) if inside else f"{REFUSED}outside_root:{path}"
