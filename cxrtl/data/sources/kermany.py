"""Kermany et al.'s paediatric chest X-rays as they are handed out.

    chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg

The patient stands in the file name, in either edition's way: `person7_bacteria_24`, `IM-0115-0001`,
`NORMAL2-IM-0666-0001`, or `BACTERIA-1008087-0001`. The set holds some files twice, also under two patients: those
count as one patient, or the picture could stand on both sides of a fold. The public split parts images, not patients,
so it is merged unless `cohort.split` names a part. Source: Kermany et al., Cell 2018.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cxrtl.config import Data
from cxrtl.data.ids import keyed_id
from cxrtl.data.sources.cohort import Funnel
from cxrtl.data.sources.common import folder_of
from cxrtl.errors import ManifestError
from cxrtl.records import Manifest
from cxrtl.rundir import sha256_file

SPLITS = {"train": "train", "val": "validate", "test": "test"}  # the set's folder → our word
CLASSES = ("NORMAL", "PNEUMONIA")
CAUSES = ("bacteria", "virus")
_NAME = re.compile(r"^(?:(person\d+)_(bacteria|virus)_|((?:NORMAL2-)?IM-\d+)-|(BACTERIA|VIRUS|NORMAL)-(\d+)-)")


def build(data: Data, key: bytes) -> Manifest:
    """NORMAL against PNEUMONIA; the further column `cause` says bacteria or virus.

    A multiclass task has the classes NORMAL, BACTERIA and VIRUS.

    Raises:
        ManifestError: no such folders, or file names without a patient.
    """
    root = folder_of(data, "chest_xray")
    if (root / "chest_xray").is_dir():
        root = root / "chest_xray"
    images = [name for part in SPLITS for kind in CLASSES for name in _files(root, part, kind)]
    if not images:
        raise ManifestError(f"data.path = {data.path!r} holds no images in {{train,val,test}}/{{NORMAL,PNEUMONIA}}")
    patients, causes = zip(*(_read_name(image) for image in images), strict=True)
    unread = [keyed_id("img", image, key) for image, patient in zip(images, patients, strict=True) if not patient]
    if unread:
        raise ManifestError(
            f"{len(unread)} of {len(images)} file names are not the set's own and tell no patient, such as those of "
            f"{unread[:5]}: move these files away"
        )
    frame = pd.DataFrame(
        {
            "image": images,
            "patient": _join_twins(root, images, patients),
            "study": "",
            "label": _labels(images, causes, data.task),
            "split": [SPLITS[image.split("/")[0]] for image in images],
            "cause": causes,
        }
    )
    funnel = Funnel(frame)
    funnel.take_split(data.cohort)
    funnel.draw(data.cohort)
    if data.task == "multiclass" and not data.classes:
        data = data.model_copy(update={"classes": (CLASSES[0], *(cause.upper() for cause in CAUSES))})
    return funnel.manifest(root, key, data, CLASSES[1], ["split", "cause"])


def _labels(images: list[str], causes: Sequence[str], task: str) -> list[str]:
    """The class folder; a multiclass task's pneumonia by its cause, where the name tells it."""
    kinds = [image.split("/")[1] for image in images]
    if task == "binary":
        return kinds
    return [cause.upper() or kind for kind, cause in zip(kinds, causes, strict=True)]


def _files(root: Path, part: str, kind: str) -> list[str]:
    folder = root / part / kind
    if not folder.is_dir():
        return []
    names = (entry.name for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    return [f"{part}/{kind}/{name}" for name in sorted(names)]


def _join_twins(root: Path, images: list[str], patients: Sequence[str]) -> list[str]:
    """Give patients that share a file, byte for byte, one name."""
    sizes = [(root / image).stat().st_size for image in images]
    repeated = {size for size, count in Counter(sizes).items() if count > 1}
    name = {patient: patient for patient in patients}

    def settled(patient: str) -> str:
        while name[patient] != patient:
            patient = name[patient]
        return patient

    first: dict[str, str] = {}
    for image, size, patient in zip(images, sizes, patients, strict=True):
        if size in repeated:
            twin = first.setdefault(sha256_file(root / image), patient)
            name[settled(patient)] = settled(twin)
    return [settled(patient) for patient in patients]


def _read_name(image: str) -> tuple[str, str]:
    """(patient, cause); "" where the name does not tell."""
    match = _NAME.match(image.rsplit("/", 1)[1])
    if not match:
        return "", ""
    person, cause, normal, word, number = match.groups(default="")
    cause = cause or {"BACTERIA": "bacteria", "VIRUS": "virus"}.get(word, "")
    return person or normal or number, cause
