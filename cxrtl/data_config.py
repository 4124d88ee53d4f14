"""The knobs of an experiment's tables `data` and `folds`; `config` has the others and reads the file."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Probability = Annotated[float, Field(ge=0, le=1)]

_SOURCES_OF = {
    "binary": ("folder", "table", "phantom", "nih", "kermany", "chexpert", "mimic"),
    "multiclass": ("folder", "table", "kermany"),
    "multilabel": ("table", "nih", "chexpert", "mimic"),
    "segmentation": ("table",),
}
_STATED: dict[str, tuple[str, ...]] = {  # the attributes that a source's own tables state; others may have any
    "nih": ("view", "sex", "age_band"),
    "chexpert": ("view", "sex", "age_band"),
    "mimic": ("view",),
    "kermany": (),
    "phantom": (),
}


class Table(BaseModel):
    """A TOML table: unknown keys and what is no number are faults, values cannot be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Cohort(Table):
    """Which images of a public set are taken. Each step's exclusions are counted in the manifest's flow."""

    finding: str = Field(
        "", description="nih, chexpert, mimic: the finding that makes an image positive, in the set's own words"
    )
    findings: tuple[str, ...] = Field(
        (), description="nih, chexpert, mimic: the findings of a multilabel task, instead of `finding`"
    )
    negative: Literal["no_finding", "absent"] = Field(
        "no_finding",
        description="nih, chexpert, mimic: what makes an image negative: `no_finding`, the set's No Finding is 1; "
        "`absent`, the finding itself is stated as 0 (nih: is not among the image's findings). A multilabel task "
        "takes each label as it is stated",
    )
    uncertain: Literal["ignore", "positive", "negative"] = Field(
        "ignore",
        description="chexpert, mimic: what a label of -1 is read as: `ignore`, as not stated; `positive`, as 1; "
        "`negative`, as 0. A blank is never anything but not stated",
    )
    view: Literal["any", "frontal", "lateral", "AP", "PA"] = Field(
        "frontal",
        description="nih, chexpert, mimic: projections to take; `frontal` is AP and PA. An image whose view is not "
        "stated anywhere is taken by `any` alone",
    )
    split: Literal["all", "train", "validate", "test"] = Field(
        "all", description="part of the set's own split to take (nih has `train` and `test`); `all` merges them"
    )
    per_class: int = Field(0, ge=0, description="images drawn of each class; 0: all of them")
    one_per_patient: bool = Field(False, description="draw one image of each patient, before `per_class`")
    seed: int = Field(0, ge=0, description="seed of both draws")

    @model_validator(mode="after")
    def _uncertain_matters(self) -> Cohort:
        if self.uncertain == "negative" and self.negative == "no_finding" and not self.findings:
            raise ValueError(
                "uncertain = 'negative' reads -1 as 0, which makes no image negative while negative = 'no_finding': "
                "set negative = 'absent' as well"
            )
        return self


class Decode(Table):
    """How a file becomes a square of grey pixels, and how far a decoder may go."""

    aspect: Literal["stretch", "pad", "crop"] = Field(
        "stretch",
        description="`stretch`: fill the square, as the published studies do; `pad`: keep the shape between black "
        "bars; `crop`: take the middle square",
    )
    burned_in: Literal["refuse", "keep"] = Field(
        "refuse", description="DICOM images that are marked as having text, maybe names, in the pixels"
    )
    secondary_capture: Literal["refuse", "keep"] = Field(
        "refuse", description="DICOM secondary captures: screenshots, scans of film"
    )
    file_seconds: int = Field(30, ge=1, le=3600, description="time limit of one file, seconds")
    memory_mib: int = Field(3072, ge=512, le=65536, description="address-space limit of the decoding process, MiB")


class Data(Table):
    """Where images and labels come from, and how they become pixels."""

    task: Literal["binary", "multiclass", "multilabel", "segmentation"] = Field(
        "binary",
        description="`binary`: one of two classes; `multiclass`: one of several; `multilabel`: each finding present, "
        "absent or not stated; `segmentation`: which pixels belong to a structure",
    )
    source: Literal["folder", "table", "phantom", "nih", "kermany", "chexpert", "mimic"] = Field(
        description="`folder`: one sub-folder a class; `table`: CSV or Parquet; `phantom`: synthetic; `nih` "
        "(ChestX-ray14), `kermany` (paediatric pneumonia), `chexpert`, `mimic` (MIMIC-CXR-JPG or MIMIC-CXR): the "
        "public set as it is handed out"
    )
    path: str = Field("", description="the image folder or label table; `$NAME` stands for an environment variable")
    tables: str = Field(
        "",
        description="mimic: folder of the tables metadata, split, chexpert and negbio, where `path` lacks them: "
        "MIMIC-CXR-JPG brings them, MIMIC-CXR, the DICOM files, does not",
    )
    image_column: str = Field("image", description="table: column with the image path, relative to the table")
    label_column: str = Field("label", description="table: column with the class name")
    label_columns: tuple[str, ...] = Field(
        (), description="table, multilabel: a column for each finding, with 1, 0 or, where it is not stated, nothing"
    )
    patient_column: str = Field("patient_id", description="table: column with the patient, if there is one")
    study_column: str = Field("study_id", description="table: column with the study, if there is one")
    keep_columns: tuple[str, ...] = Field(
        (), description="table: further columns to keep beside the pixels, in the clear: none that tells who it is"
    )
    attributes: tuple[Literal["view", "sex", "age_band", "site", "year"], ...] | None = Field(
        None,
        description="what goes along with the pixels, and is reported by: `age_band` is ten years wide, `year` that of "
        "acquisition. nih, chexpert, mimic: by default those of view, sex and age band that the set's tables state. "
        "folder, table: by default none; each that is named comes from the table's column of this name, where there is "
        "one, else from the DICOM files (`site`: a keyed hash of InstitutionName)",
    )
    id_namespace: str = Field(
        "",
        description="part of what identifies patients and images: two sets count the same number as the same patient, "
        "unless they have different ones",
    )
    patient_pattern: str = Field(
        "", description="folder: regular expression whose first group, in the file name, is the patient"
    )
    classes: tuple[str, ...] = Field(
        (), description="folder, table, kermany: the classes to take, in this order; none: all, by the alphabet"
    )
    image_columns: tuple[str, ...] = Field(
        (), description="table: columns with the paths of a row's channels, where `image_column` is not enough"
    )
    slices: int = Field(
        0, ge=0, le=31, description="table: neighbouring slices of a volume (an odd number) as channels; 0: no volumes"
    )
    slice_column: str = Field(
        "slice", description="table of volumes: column with the slice's number from 0; without it, the middle one"
    )
    mask_column: str = Field("mask", description="segmentation: column with the mask's path")
    structures: tuple[str, ...] = Field(
        (),
        description="segmentation: names of the structures that the masks' numbers 1, 2, … stand for; one alone may "
        "be drawn in any number but 0",
    )
    positive: str = Field("", description="binary: what sensitivity and AUC speak of; default: the last class")
    image_size: int = Field(224, ge=32, le=1024, description="side of the stored square image, pixels")
    subgroups: tuple[str, ...] = Field((), description="further columns of the source to report by")
    max_skipped: Probability = Field(0.01, description="share of unusable files beyond which preparing stops")
    cohort: Cohort = Field(Cohort(), description="which images of a public set are taken")
    decode: Decode = Field(Decode(), description="how files become pixels")
    phantom_patients: int = Field(150, ge=4, le=1_000_000, description="phantom: patients, half of them positive")
    phantom_images_per_patient: int = Field(2, ge=1, le=20, description="phantom: images of each patient")
    phantom_seed: int = Field(0, ge=0, description="phantom: seed of the drawing")

    @property
    def channels(self) -> int:
        """Of one row's image."""
        return max(1, len(self.image_columns)) * max(1, self.slices)

    @property
    def kept_columns(self) -> tuple[str, ...]:
        """Further columns of a table that go along: those asked for, and those to report by."""
        return tuple(dict.fromkeys((*self.keep_columns, *self.subgroups)))

    @property
    def taken_attributes(self) -> tuple[str, ...]:
        """`attributes`, or what is taken by default."""
        return _STATED.get(self.source, ()) if self.attributes is None else self.attributes

    @property
    def reported_columns(self) -> tuple[str, ...]:
        """Columns to report by, where the prepared set has them: those asked for, then the attributes."""
        return tuple(dict.fromkeys((*self.subgroups, *self.taken_attributes)))

    @model_validator(mode="after")
    def _attributes_are_stated(self) -> Data:
        stated = _STATED.get(self.source, self.taken_attributes)
        if unknown := sorted(set(self.taken_attributes) - set(stated)):
            raise ValueError(
                f"data.attributes names {unknown}, which source {self.source!r} does not state: it has {list(stated)}"
            )
        return self

    @model_validator(mode="after")
    def _path_where_needed(self) -> Data:
        if self.source != "phantom" and not self.path:
            raise ValueError(f"data.path is empty: source {self.source!r} needs a folder or table")
        if "://" in self.path:
            raise ValueError(f"data.path = {self.path!r} is no folder: copy the images to one, or mount their bucket")
        return self

    @model_validator(mode="after")
    def _cohort_where_it_means_something(self) -> Data:
        knob = "findings" if self.task == "multilabel" else "finding"
        if self.source in ("nih", "chexpert", "mimic") and not getattr(self.cohort, knob):
            raise ValueError(f"data.cohort.{knob} is empty: source {self.source!r} needs one, such as 'Effusion'")
        if self.source in ("folder", "table", "phantom") and self.cohort != Cohort():
            raise ValueError(f"data.cohort has no meaning for source {self.source!r}: take it out")
        return self

    @model_validator(mode="after")
    def _task_has_its_labels(self) -> Data:
        task, source = self.task, self.source
        if source not in _SOURCES_OF[task]:
            raise ValueError(f"data.task = {task!r} needs one of the sources {list(_SOURCES_OF[task])}, not {source!r}")
        if (task == "multilabel" and source == "table") != bool(self.label_columns):
            raise ValueError("data.label_columns and data.task = 'multilabel' of a table go together: give both")
        if task == "multilabel" and (self.cohort.finding or self.cohort.per_class):
            raise ValueError("data.cohort.finding and per_class speak of one finding: take them out, name `findings`")
        if (task == "segmentation") != bool(self.structures):
            raise ValueError("data.structures and data.task = 'segmentation' go together: give both")
        if self.slices and self.slices % 2 == 0:
            raise ValueError(f"data.slices = {self.slices} has no middle: take an odd number")
        several = task in ("multilabel", "segmentation")
        without_meaning = {
            "cohort.findings": self.cohort.findings and task != "multilabel",
            "classes": self.classes and (several or source not in ("folder", "table", "kermany")),
            "positive": self.positive and task != "binary",
            "image_columns": self.image_columns and source != "table",
            "slices": self.slices and source != "table",
            "tables": self.tables and source != "mimic",
            "id_namespace": self.id_namespace and source == "phantom",
        }
        for knob in (knob for knob, given in without_meaning.items() if given):
            raise ValueError(f"data.{knob} has no meaning for task {task!r} of source {source!r}: take it out")
        lists = (self.classes, self.label_columns, self.cohort.findings, self.image_columns, self.structures)
        for names in (*lists, self.taken_attributes):
            if len(set(names)) < len(names):
                raise ValueError(f"{list(names)} names one twice")
        return self

    @field_validator("patient_pattern")
    @classmethod
    def _pattern_has_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if pattern and groups < 1:
            raise ValueError(f"{pattern!r} has no group: put brackets round the part that names the patient")
        return pattern


class Folds(Table):
    """How images are divided into those that train and those held out. All images of a patient stay together."""

    kind: Literal["cv", "repeated", "holdout", "leave_one_site_out"] = Field(
        "cv",
        description="`cv`: k folds, each held out once; `repeated`: that, `repeats` times over; `holdout`: one part "
        "is held out, the rest only trains; `leave_one_site_out`: one fold for each value of `column`",
    )
    k: int = Field(10, ge=2, le=1000, description="cv, repeated: number of folds")
    repeats: int = Field(5, ge=2, le=100, description="repeated: divisions, the first from `seed`, the next from +1, …")
    share: float = Field(0.2, gt=0, lt=1, description="holdout without `column`: share of the patients held out")
    column: str = Field(
        "",
        description="holdout: column with a given split; leave_one_site_out: column with the site (data.keep_columns)",
    )
    held_out: str = Field("test", min_length=1, description="holdout with `column`: the value that is held out")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the division")
    ungrouped: bool = Field(
        False, description="allow folds that ignore patients, where patients are unknown; the report is stamped"
    )
    file: str = Field("", description="use the folds of this `folds.parquet` instead of making them")

    @model_validator(mode="after")
    def _column_where_it_means_something(self) -> Folds:
        if self.kind == "leave_one_site_out" and not self.column:
            raise ValueError("folds.column is empty: leave_one_site_out needs the column with the site")
        if self.kind in ("cv", "repeated") and self.column:
            raise ValueError(f"folds.column has no meaning for kind {self.kind!r}: take it out")
        return self
