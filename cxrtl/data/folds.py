"""Who is held out when: decided once, stratified by class and grouped by patient, saved and hashed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxrtl import rundir
from cxrtl.config import Folds as FoldsConfig
from cxrtl.data import division
from cxrtl.data.groups import together
from cxrtl.data.strata import strata
from cxrtl.errors import FoldsError, StaleFoldsError
from cxrtl.records import FOLD_COLUMNS, Folds, Prepared, count_folds, division_columns, label_columns, stated_columns

VERSION = 1
_NAMED = 5  # ids that a message names at most


def make_folds(index: pd.DataFrame, prepared: Prepared, cfg: FoldsConfig) -> Folds:
    """Divide the images of `index` (see `read_index`) as `cfg.kind` says.

    All images of a patient stay together; where patients are unknown, which `cfg.ungrouped` must allow, those of a
    study, as far as studies are known, and copies of one picture. Patients are numbered by first appearance before
    the draw, so the division depends on order, labels, grouping and seed, never on the ids.

    Raises:
        FoldsError: patients are unknown and `cfg.ungrouped` is false, or as `division.divide`.
    """
    if not prepared.grouped and not cfg.ungrouped:
        raise FoldsError(
            "no patient is known, so images of one patient may stand on both sides of a split: give a patient column "
            "(data.patient_column) or pattern (data.patient_pattern), or set folds.ungrouped = true to accept it"
        )
    if prepared.grouped:
        unit, groups = "patients", np.asarray(index["patient_id"].factorize()[0], dtype=np.int64)
    else:
        unit = "studies" if (index["study_id"] != "").all() else "images"
        groups = together(index["study_id"].tolist(), index["content_hash"].tolist())
    numbers = division.divide(index, strata(index, prepared), groups, cfg, unit)
    of_task = label_columns(prepared.classes) if prepared.task == "multilabel" else []
    columns = ["image_id", "patient_id", "label", "content_hash", *of_task]
    frame = index[columns].assign(fold=numbers[0]).reset_index(drop=True)
    for repeat, fold in enumerate(numbers[1:], start=1):
        frame[f"fold_{repeat}"] = fold
    if cfg.column:
        frame["part"] = division.given_parts(index, cfg)
    if not prepared.grouped and (index["study_id"] != "").any():
        frame["study_id"] = index["study_id"].to_numpy()
    return Folds(frame, prepared.dataset_hash, prepared.grouped, folds_hash(frame))


def folds_hash(frame: pd.DataFrame) -> str:
    """Hash over (content hash, label, folds, patient's number) in order; the same on every machine."""
    groups = frame["patient_id"].factorize()[0].tolist()
    columns = [frame[name].tolist() for name in ("content_hash", "label", *division_columns(frame))]
    columns += [[str(value) for value in frame[name]] for name in stated_columns(frame)]  # as text: NaN is no JSON
    return rundir.content_hash(list(zip(*columns, groups, strict=True)))


def write_folds(path: Path, folds: Folds) -> None:
    """The hashes stand in plain schema metadata. Raises FoldsError where it cannot be written."""
    table = pa.Table.from_pandas(folds.frame, preserve_index=False)
    about = {"version": VERSION, "dataset_hash": folds.dataset_hash, "grouped": folds.grouped, "hash": folds.hash}
    try:
        rundir.write_table(path, table.replace_schema_metadata({"cxrtl_folds": json.dumps(about)}))
    except OSError as error:
        raise FoldsError(f"{path.name} could not be written in {path.parent}: {error.strerror}") from None


def read_folds(path: Path) -> Folds:
    """Raises FoldsError for a file that is missing, no folds table, of another version or altered."""
    if not path.is_file():
        raise FoldsError(f"there is no folds file {path}: correct folds.file, or leave it out to have folds made")
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[b"cxrtl_folds"])
        frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()
        version, wanted = about["version"], about["hash"]
        if missing := set(FOLD_COLUMNS) - set(frame):
            raise ValueError(missing)
        folds = Folds(frame, about["dataset_hash"], bool(about["grouped"]), wanted)
        same = version != VERSION or (_whole(frame) and folds_hash(frame) == wanted)
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
        raise FoldsError(f"{path} is no folds table of cxrtl: give the folds.parquet of a run") from None
    if version != VERSION:
        raise FoldsError(f"{path} has version {version}, this cxrtl reads {VERSION}: make the folds again")
    if not same:
        raise FoldsError(f"{path} was altered after it was written: restore it, or delete it to have folds made again")
    return folds


def _whole(frame: pd.DataFrame) -> bool:
    """Whether the fold columns can be such: whole numbers from -1, no more folds in one than images."""
    columns = frame[division_columns(frame)]
    whole = all(kind.kind == "i" for kind in columns.dtypes)
    return whole and bool(columns.min().min() >= -1) and count_folds(frame) <= columns.size


def check_current(folds: Folds, index: pd.DataFrame, prepared: Prepared) -> None:
    """Make sure that `folds` were made for exactly the images of `index`, matched by image id.

    The same images stored at another size are current: what is compared is ids, full-size content, labels, patients
    and order.

    Raises:
        StaleFoldsError: with what differs, and up to five ids of each kind.
    """
    mine, now = folds.frame.set_index("image_id"), index.set_index("image_id")
    faults = [
        _listed("new image(s)", now.index.difference(mine.index, sort=False)),
        _listed("image(s) gone", mine.index.difference(now.index, sort=False)),
    ]
    if folds.dataset_hash == prepared.dataset_hash and any(faults):
        raise StaleFoldsError(
            "the folds hold the same images under other ids: ids are keyed by each machine's secret. Prepare the set "
            "with the id key that the folds were made with ($CXRTL_KEY_FILE)."
        )
    if not mine.index.is_unique:
        faults.append(_listed("image(s) more than once", mine.index[mine.index.duplicated()].unique()))
    else:
        faults += _changes(mine, now)
    faults = [fault for fault in faults if fault]
    if faults:
        raise StaleFoldsError(
            "the folds were made for other data: " + "; ".join(faults) + ". Start a new run (or leave folds.file out) "
            "to have folds made for these data, or prepare the data that the folds were made for."
        )


def _changes(mine: pd.DataFrame, now: pd.DataFrame) -> list[str]:
    """What differs among the images that both know."""
    shared = mine.index.intersection(now.index, sort=False)
    before, after = mine.loc[shared], now.loc[shared]
    names = {"label": "changed label(s)", "patient_id": "changed patient(s)", "content_hash": "changed picture(s)"}
    names |= {name: f"changed label(s) of {name[6:]!r}" for name in stated_columns(mine)}
    faults = [
        _listed(name, shared[~_alike(before[column], after[column])] if column in after else shared)
        for column, name in names.items()
    ]
    if len(shared) == len(mine) == len(now) and list(mine.index) != list(now.index):
        faults.append("the same images in another order")
    return faults


def _alike(before: pd.Series[Any], after: pd.Series[Any]) -> npt.NDArray[np.bool_]:
    return ((before == after) | (before.isna() & after.isna())).to_numpy()


def _listed(what: str, ids: Sequence[str] | pd.Index[str]) -> str:
    return f"{len(ids)} {what} such as {list(ids[:_NAMED])}" if len(ids) else ""
