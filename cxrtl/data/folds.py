"""Cross-validation folds: decided once, stratified by class and grouped by patient, saved and hashed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from cxrtl import rundir
from cxrtl.config import Folds as FoldsConfig
from cxrtl.errors import FoldsError, StaleFoldsError
from cxrtl.records import FOLD_COLUMNS, Folds, Prepared

VERSION = 1
_NAMED = 5  # ids that a message names at most


def make_folds(index: pd.DataFrame, prepared: Prepared, cfg: FoldsConfig) -> Folds:
    """Divide the images of `index` (see `read_index`) into `cfg.k` folds.

    All images of a patient share a fold. Patients are numbered by first appearance before the draw, so the division
    depends on order, labels, grouping and seed, never on the ids. Where patients are unknown, images are divided one
    by one, which `cfg.ungrouped` must allow.

    Raises:
        FoldsError: patients are unknown and `cfg.ungrouped` is false, a class has too few patients (or images) for
            k folds, or a fold would lack a class.
    """
    if not prepared.grouped and not cfg.ungrouped:
        raise FoldsError(
            "no patient is known, so images of one patient may stand on both sides of a split: give a patient column "
            "(data.patient_column) or pattern (data.patient_pattern), or set folds.ungrouped = true to accept it"
        )
    if cfg.seed >= 2**32:
        raise FoldsError(f"folds.seed = {cfg.seed} is too large: take one below 4294967296")
    groups = _groups(index, prepared.grouped)
    _require_enough(index, groups, prepared, cfg.k)
    fold = _divide(index["target"].to_numpy(), groups, prepared.grouped, cfg)
    frame = index[["image_id", "patient_id", "label", "content_hash"]].assign(fold=fold).reset_index(drop=True)
    _require_both_classes(frame, prepared, cfg)
    return Folds(frame, prepared.dataset_hash, prepared.grouped, folds_hash(frame))


def folds_hash(frame: pd.DataFrame) -> str:
    """Hash over (content hash, label, patient's number, fold) in order; the same on every machine."""
    groups = frame["patient_id"].factorize()[0].tolist()
    columns = [frame[name].tolist() for name in ("content_hash", "label", "fold")]
    return rundir.content_hash(list(zip(*columns, groups, strict=True)))


def write_folds(path: Path, folds: Folds) -> None:
    """Write `FOLD_COLUMNS`; the hashes stand in plain schema metadata. Raises FoldsError where it cannot be."""
    table = pa.Table.from_pandas(folds.frame[list(FOLD_COLUMNS)], preserve_index=False)
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
        frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()[list(FOLD_COLUMNS)]
        version, wanted = about["version"], about["hash"]
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
    """Whether the fold column can be one: whole numbers from 0, no more folds than images."""
    return frame["fold"].dtype.kind == "i" and bool(frame["fold"].between(0, len(frame) - 1).all())


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
    faults = [
        _listed(name, shared[before[column].to_numpy() != after[column].to_numpy()]) for column, name in names.items()
    ]
    if len(shared) == len(mine) == len(now) and list(mine.index) != list(now.index):
        faults.append("the same images in another order")
    return faults


def _listed(what: str, ids: Sequence[str] | pd.Index[str]) -> str:
    return f"{len(ids)} {what} such as {list(ids[:_NAMED])}" if len(ids) else ""


def _groups(index: pd.DataFrame, grouped: bool) -> npt.NDArray[np.int64]:
    """`[N]`: each image's patient, numbered by first appearance; without patients, each image by itself."""
    if not grouped:
        return np.arange(len(index))
    return np.asarray(index["patient_id"].factorize()[0], dtype=np.int64)


def _require_enough(index: pd.DataFrame, groups: npt.NDArray[np.int64], prepared: Prepared, k: int) -> None:
    unit = "patients" if prepared.grouped else "images"
    for target, name in enumerate(prepared.classes):
        count = len(np.unique(groups[index["target"].to_numpy() == target]))
        if count < k:
            raise FoldsError(f"class {name!r} has {count} {unit}, too few for folds.k = {k}: lower k or add {unit}")


def _divide(
    targets: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], grouped: bool, cfg: FoldsConfig
) -> npt.NDArray[np.int64]:
    splitter = (StratifiedGroupKFold if grouped else StratifiedKFold)(cfg.k, shuffle=True, random_state=cfg.seed)
    fold = np.full(len(targets), -1, dtype=np.int64)
    for number, (_, held_out) in enumerate(splitter.split(targets, targets, groups if grouped else None)):
        fold[held_out] = number
    return fold


def _require_both_classes(frame: pd.DataFrame, prepared: Prepared, cfg: FoldsConfig) -> None:
    counts = frame.groupby(["fold", "label"]).size().unstack(fill_value=0).reindex(range(cfg.k), fill_value=0)
    for name in prepared.classes:
        lacking = [int(fold) for fold in counts.index[counts[name] == 0]]
        if lacking:
            raise FoldsError(
                f"fold(s) {lacking} would hold no image of class {name!r}: lower folds.k = {cfg.k} or try another "
                "folds.seed"
            )
