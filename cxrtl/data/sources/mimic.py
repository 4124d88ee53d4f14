"""MIMIC-CXR-JPG 2.0 and 2.1, and MIMIC-CXR's DICOM files, as they are handed out.

    mimic-cxr-2.0.0-{metadata,split,chexpert,negbio}.csv.gz          (unpacked .csv is read as well)
    files/p10/p10000032/s50414267/<dicom_id>.jpg, or .dcm

MIMIC-CXR-JPG brings the tables; MIMIC-CXR, the DICOM files, does not: `data.tables` says where they are.

A study is labelled by two programs, CheXpert and NegBio, from its report: labels belong to all its images and are
joined on (subject_id, study_id). In a multilabel task a finding is stated where both programs say the same of it. Else
an image is positive where both programs say 1.0 for the finding, negative where
both say 1.0 for No Finding: the cohort of Huang et al. 2022. Source: Johnson et al., 2019.

View: ViewPosition where it is stated. Where it is blank, what ViewCodeSequence_CodeMeaning says. Where that is blank
too, the view is unknown, and only `view = "any"` takes the image. LL is lateral; axial, decubitus and oblique views
are `other`, neither frontal nor lateral. Of `data.attributes` these tables state the view alone: all is of one
hospital, and StudyDate was shifted by a number of years that differs from patient to patient.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cxrtl.config import Cohort, Data, expand
from cxrtl.data.attributes import view
from cxrtl.data.sources.chexpert import FINDINGS
from cxrtl.data.sources.cohort import (
    NO_FINDING,
    Funnel,
    check_finding,
    classify,
    finding_column,
    numbers,
    settle,
    stated,
)
from cxrtl.data.sources.common import folder_of
from cxrtl.data.sources.text import one_of, read_columns
from cxrtl.errors import ManifestError
from cxrtl.records import Manifest

LABELERS = ("chexpert", "negbio")
SPLITS = ("train", "validate", "test")
_STUDY = ["subject_id", "study_id"]


def build(data: Data, key: bytes) -> Manifest:
    """One row an image of the studies on which both programs agree.

    Raises:
        ManifestError: no such folder or table, an unknown finding, a study labelled twice, or labels that are not
            the set's own.
    """
    root = folder_of(data, "mimic-cxr-2.0.0-metadata.csv.gz and files")
    tables, cohort = expand(data.tables) if data.tables else root, data.cohort
    check_finding(cohort, FINDINGS)
    funnel = Funnel(_images(tables))
    funnel.take_split(cohort)
    funnel.take_view(cohort)
    _label(funnel, _classes(tables, cohort))
    funnel.take_labelled(cohort)
    funnel.frame["image"] = _files(root, funnel.frame)
    funnel.take_present(root)
    funnel.draw(cohort)
    extras = [*data.taken_attributes, "split", *map(finding_column, FINDINGS)]
    return funnel.manifest(root, key, data, cohort.finding, extras)


def _table(tables: Path, name: str, columns: list[str]) -> pd.DataFrame:
    file = f"mimic-cxr-2.0.0-{name}.csv"
    cure = "name the folder of MIMIC-CXR-JPG that has it in data.tables; MIMIC-CXR, the DICOM files, comes without it"
    return read_columns(one_of(tables, [f"{file}.gz", file], cure), columns)


def _images(tables: Path) -> pd.DataFrame:
    """All images of the metadata, in its order, with their split and view."""
    table = _table(tables, "metadata", ["dicom_id", *_STUDY, "ViewPosition", "ViewCodeSequence_CodeMeaning"])
    _refuse_foreign(table, "metadata")
    split = _table(tables, "split", ["dicom_id", "split"]).drop_duplicates("dicom_id")
    part = {name: word for name, word in zip(split["dicom_id"], split["split"], strict=True) if word in SPLITS}
    position, meaning = table["ViewPosition"], table["ViewCodeSequence_CodeMeaning"]
    return pd.DataFrame(
        {
            "image": table["dicom_id"],
            "patient": table["subject_id"],
            "study": table["study_id"],
            "split": [part.get(name, "") for name in table["dicom_id"]],
            "view": position.where(position != "", meaning).map(view),
        }
    )


def _classes(tables: Path, cohort: Cohort) -> pd.DataFrame:
    """By study: the class that each program gives it, and the labels on which they agree (NaN elsewhere)."""
    both = [_labels(tables, name) for name in LABELERS]
    studies = both[0].index.intersection(both[1].index)
    first, second = (labels.loc[studies] for labels in both)
    agreed = first.where(first == second)[list(FINDINGS)].rename(columns=finding_column)
    settled = [settle(labels, cohort) for labels in (first, second)]
    alike = stated(settled[0].where(settled[0] == settled[1]), cohort)
    classes = {name: classify(labels, cohort) for name, labels in zip(LABELERS, (first, second), strict=True)}
    return agreed.assign(**classes, **alike)


def _labels(tables: Path, labeler: str) -> pd.DataFrame:
    table = _table(tables, labeler, [*_STUDY, NO_FINDING, *FINDINGS])
    _refuse_foreign(table, labeler)
    twice = int(table.duplicated(_STUDY).sum())
    if twice:
        raise ManifestError(f"mimic-cxr-2.0.0-{labeler} labels {twice} studies twice: is it the set's own table?")
    return numbers(table.set_index(_STUDY))


def _refuse_foreign(table: pd.DataFrame, name: str) -> None:
    """Numbers become parts of paths, so they must be numbers."""
    bad = int((~(table["subject_id"].str.fullmatch(r"\d{3,}") & table["study_id"].str.fullmatch(r"\d+"))).sum())
    if "dicom_id" in table:
        bad += int((~table["dicom_id"].str.fullmatch(r"[\w.-]+")).sum())
    if bad:
        raise ManifestError(f"mimic-cxr-2.0.0-{name} holds {bad} identifiers that are not the set's own")


def _label(funnel: Funnel, classes: pd.DataFrame) -> None:
    """Join the labels; leave out studies that a program did not label, and those on which the two differ."""
    frame = funnel.frame
    keys = pd.MultiIndex.from_arrays([frame["patient"], frame["study"]])
    joined = classes.reindex(keys).reset_index(drop=True)
    funnel.frame = frame.assign(**{str(name): joined[name] for name in classes})
    funnel.keep(funnel.frame[list(LABELERS)].notna().all(axis=1), "study not labelled by both programs")
    first, second = (funnel.frame[name] for name in LABELERS)
    funnel.keep(first == second, "the two programs differ")
    funnel.frame["label"] = funnel.frame[LABELERS[0]]


def _files(root: Path, frame: pd.DataFrame) -> list[str]:
    """Where each image lies: its .jpg, or its .dcm where only that is there."""
    columns = (frame[name] for name in ("patient", "study", "image"))
    stems = [
        f"files/p{patient[:2]}/p{patient}/s{study}/{image}" for patient, study, image in zip(*columns, strict=True)
    ]
    return [
        f"{stem}.dcm" if not (root / f"{stem}.jpg").is_file() and (root / f"{stem}.dcm").is_file() else f"{stem}.jpg"
        for stem in stems
    ]
