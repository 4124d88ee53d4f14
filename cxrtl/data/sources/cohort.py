"""From all images of a public set to those of an experiment, counting what every step leaves out.

Labels are numbers: 1 stated present, 0 stated absent, -1 uncertain, NaN not stated. NaN never becomes 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cxrtl.config import Cohort, Data
from cxrtl.data.sources.common import LISTED, NONE_STATED, Rows, locate, to_manifest
from cxrtl.errors import ManifestError
from cxrtl.records import FlowStep, Manifest, label_columns

NO_FINDING = "No Finding"
FRONTAL = ("AP", "PA")


@dataclass
class Funnel:
    """Images in the clear, narrowed step by step.

    `frame` has `image` (path relative to the set, POSIX), `patient`, `study`, `label` once settled, and columns to
    keep beside them.
    """

    frame: pd.DataFrame
    flow: list[FlowStep] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.flow.append(FlowStep.of(LISTED, 0, self.frame["patient"].tolist()))

    def keep(self, wanted: pd.Series[bool], step: str) -> None:
        """Keep the rows where `wanted`; `step` says what was wrong with the others."""
        before = len(self.frame)
        self.frame = self.frame[wanted.to_numpy(dtype=bool)].reset_index(drop=True)
        self.flow.append(FlowStep.of(step, before - len(self.frame), self.frame["patient"].tolist()))

    def take_split(self, cohort: Cohort) -> None:
        if cohort.split != "all":
            self.keep(self.frame["split"] == cohort.split, f"not in the {cohort.split} split")

    def take_view(self, cohort: Cohort) -> None:
        """Views are those of `attributes.view`."""
        if cohort.view == "any":
            return
        view = self.frame["view"]
        self.keep(view != "", "view not stated")
        view = self.frame["view"]
        wanted = view.isin(FRONTAL) if cohort.view == "frontal" else view == cohort.view
        self.keep(wanted, f"view not {cohort.view}")

    def take_labelled(self, cohort: Cohort) -> None:
        """Leave out images of neither class; in a multilabel task, those of which no label is stated."""
        if cohort.findings:
            self.keep(self.frame[label_columns(cohort.findings)].notna().any(axis=1), NONE_STATED)
        else:
            self.keep(self.frame["label"] != "", f"neither {cohort.finding} nor {negative_name(cohort)}")

    def take_present(self, root: Path) -> None:
        """Leave out images that are not on the disk: public sets are often downloaded in part."""
        there = [(root / image).is_file() for image in self.frame["image"]]
        self.keep(pd.Series(there, dtype=bool), "file not there")

    def draw(self, cohort: Cohort) -> None:
        """One image a patient and `per_class` of each class, where asked.

        Images are drawn by the order of a hash of (seed, image): the same on every machine, whatever the order of
        the tables and however many other images there are.
        """
        if not (cohort.one_per_patient or cohort.per_class):
            return
        self.frame["lot"] = [_lot(cohort.seed, image) for image in self.frame["image"]]
        if cohort.one_per_patient:
            first = self.frame.sort_values("lot").drop_duplicates("patient").index
            self.keep(pd.Series(self.frame.index.isin(first)), "another image of the patient was drawn")
        if cohort.per_class:
            counts = self.frame["label"].value_counts()
            short = {str(name): int(count) for name, count in counts.items() if count < cohort.per_class}
            if short:
                raise ManifestError(
                    f"data.cohort.per_class = {cohort.per_class} is more than there are images: {short}. Lower it, or "
                    "0 to take all"
                )
            drawn = self.frame.sort_values("lot").groupby("label", sort=False).head(cohort.per_class).index
            self.keep(pd.Series(self.frame.index.isin(drawn)), f"not drawn ({cohort.per_class} of each class)")

    def manifest(self, root: Path, key: bytes, data: Data, positive: str, extras: Sequence[str]) -> Manifest:
        """Hash the identifiers; only `extras` go along, so that nothing else of the tables can.

        `positive` is the positive class where `data` names none.
        """
        if self.frame.empty:
            steps = "; ".join(f"{step.step}: {step.removed}" for step in self.flow[1:])
            raise ManifestError(f"of {self.flow[0].left} images listed none is left ({steps}): check data.cohort")
        frame = self.frame
        images = frame["image"].tolist()
        rows = Rows(
            images=images,
            labels=frame["label"].tolist(),
            paths=[locate(root, image) for image in images],
            patients=frame["patient"].tolist(),
            studies=frame["study"].tolist(),
            extras={name: frame[name].tolist() for name in extras},
            findings={name: frame[f"label_{name}"].tolist() for name in data.cohort.findings},
        )
        if data.task == "binary" and not data.classes:
            data = data.model_copy(update={"positive": data.positive or positive})
        return to_manifest(rows, key, data, self.flow)


def _lot(seed: int, image: str) -> str:
    stem = image.rpartition(".")[0]  # the same draw from JPEG and DICOM files of one set
    return hashlib.sha256(f"{seed}\0{stem}".encode("utf-8", "surrogateescape")).hexdigest()


def negative_name(cohort: Cohort) -> str:
    """The negative class's name."""
    return NO_FINDING if cohort.negative == "no_finding" else f"no {cohort.finding}"


def classify(labels: pd.DataFrame, cohort: Cohort) -> pd.Series[str]:
    """The class of each row of numbers (a column a finding), "" where it is neither or both, or of no meaning."""
    if cohort.findings:
        return pd.Series("", index=labels.index, dtype=object)
    stated = settle(labels, cohort)
    sick = stated[cohort.finding] == 1
    # `uncertain` speaks of findings: a doubtful No Finding states nothing
    well = labels[NO_FINDING] == 1 if cohort.negative == "no_finding" else stated[cohort.finding] == 0
    both = sick & well
    names = np.where(sick, cohort.finding, np.where(well, negative_name(cohort), ""))
    return pd.Series(np.where(both, "", names), index=labels.index, dtype=object)


def settle(labels: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    """Labels with -1 read as `cohort.uncertain` says."""
    return labels.replace(-1.0, {"ignore": np.nan, "positive": 1.0, "negative": 0.0}[cohort.uncertain])


def stated(labels: pd.DataFrame, cohort: Cohort) -> dict[str, pd.Series[float]]:
    """The columns `label_<finding>` of a multilabel task: 1, 0 or NaN. A No Finding states nothing else absent."""
    settled = settle(labels, cohort)
    return {f"label_{name}": settled[name] for name in cohort.findings}


def numbers(text: pd.DataFrame) -> pd.DataFrame:
    """Labels as numbers, blank as NaN; raises ManifestError for anything but -1, 0, 1 and blank."""
    columns = {name: pd.to_numeric(text[name].replace("", np.nan), errors="coerce") for name in text}
    found = pd.DataFrame(columns, index=text.index).astype(float)
    odd = int(((found.isna() & (text != "")) | ~(found.isna() | found.isin([-1, 0, 1]))).to_numpy().sum())
    if odd:
        raise ManifestError(f"{odd} label(s) are none of 1, 0, -1 and blank: is it the set's own table?")
    return found


def check_finding(cohort: Cohort, known: Sequence[str]) -> None:
    """Raises ManifestError where a finding that is asked for is not of the set's vocabulary."""
    for finding in cohort.findings or (cohort.finding,):
        if finding not in known:
            knob = "findings holds" if cohort.findings else "finding ="
            raise ManifestError(f"data.cohort.{knob} {finding!r} is not among the set's findings: {list(known)}")


def finding_column(finding: str) -> str:
    """The further column that keeps a finding's label: 1, 0, -1, or nothing where it is not stated."""
    return f"finding:{finding}"


def mapped(values: pd.Series[str], change: Callable[[str], str]) -> list[str]:
    """`change` of each value."""
    return [change(value) for value in values]
