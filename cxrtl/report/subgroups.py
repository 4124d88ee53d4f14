"""The headline's metrics by `data.subgroups` and `data.attributes`: sex, age, view, site."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrtl.config import Report
from cxrtl.data.prepared import read_index
from cxrtl.evaluate.judge import judge, rows
from cxrtl.predictions import Predictions
from cxrtl.records import READER, Prepared
from cxrtl.report.load import Loaded, load_run
from cxrtl.report.measures import value_of
from cxrtl.report.shape import Subgroup
from cxrtl.rundir import RunDir, write_frame

MOST_GROUPS = 20  # a column of text with more values may hold identifiers: none of them is shown
BANDS = 4  # numbers of more values than this are cut into bands of about equally many images
UNKNOWN = "not recorded"


def keep_subjects(run: RunDir, prepared: Prepared) -> None:
    """Write `subjects.parquet`: `image_id`, and of the prepared set's columns those to report by and those of
    readers, `reader_…`."""
    index = read_index(prepared)
    asked = load_run(run).experiment.data.reported_columns
    kept = [name for name in index if name in asked or str(name).startswith(READER)]
    if asked or kept:
        write_frame(run.path("subjects.parquet"), index[["image_id", *kept]])


def subgroups(loaded: Loaded, headline: Predictions) -> list[Subgroup]:
    """A row for each group of each column, columns in the experiment's order; empty where none were kept.

    An attribute that is the same in all images is left out, unless `data.subgroups` names it.
    Groups of fewer patients (images, where patients are unknown) than `report.smallest_group` are hidden.
    """
    if loaded.subjects is None:
        return []
    at = loaded.subjects.set_index("image_id").reindex(headline.frame["image_id"])
    data = loaded.experiment.data
    columns = [
        name
        for name in data.reported_columns
        if name in at and (name in data.subgroups or at[name].fillna("").nunique() > 1)
    ]
    made = []
    for column in columns:
        groups = banded(at[column])
        names = sorted(set(groups) - {UNKNOWN}, key=_order) + [UNKNOWN] * (UNKNOWN in groups)
        for name in names:
            made.append(_row(column, str(name), rows(headline, groups == name), loaded.experiment.report))
    return made


def banded(values: pd.Series[Any]) -> npt.NDArray[np.str_]:
    """Each value's group: numbers of many values in bands, text as it is, too many texts as one group."""
    text = np.array(["" if pd.isna(item) else str(item).strip() for item in values])
    number = pd.to_numeric(pd.Series(text), errors="coerce").to_numpy(dtype=np.float64)
    known = np.isfinite(number)
    if len(np.unique(number[known])) > BANDS and known.sum() >= 0.9 * (text != "").sum():
        inner = np.quantile(number[known], np.linspace(0, 1, BANDS + 1)[1:-1])
        place = np.where(known, np.searchsorted(inner, number), -1)
        ends = {k: (number[place == k].min(), number[place == k].max()) for k in np.unique(place[known])}
        return np.array([f"{ends[k][0]:g}–{ends[k][1]:g}" if k >= 0 else UNKNOWN for k in place])
    if len(np.unique(text[text != ""])) > MOST_GROUPS:
        text = np.where(text == "", text, f"more than {MOST_GROUPS} values: not shown apart")
    return np.where(text == "", UNKNOWN, text)


def _order(name: str) -> tuple[float, str]:
    """Bands by their lower bound, names by the alphabet."""
    try:
        return float(name.partition("–")[0]), name
    except ValueError:
        return float("inf"), name


def _row(column: str, name: str, part: Predictions, knobs: Report) -> Subgroup:
    ids, images = part.frame["patient_id"], part.frame["image_id"].nunique()
    patients = int(ids.nunique()) if (ids != "").all() else None
    if (images if patients is None else patients) < knobs.smallest_group:
        return Subgroup(column=column, group=name, hidden=True, images=None, patients=None, positives=None, metrics={})
    once = part.frame.drop_duplicates("image_id")
    return Subgroup(
        column=column,
        group=name,
        hidden=False,
        images=images,
        patients=patients,
        positives=int((once["label"] == part.classes[1]).sum()) if part.task == "binary" else None,
        metrics={metric: value_of(item) for metric, item in judge(part, knobs.top_k).metrics.items()},
    )
