"""A label table, CSV or Parquet: one row an image, with its path, class and, where known, patient and study."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxrtl.config import Data, expand
from cxrtl.data import attributes
from cxrtl.data.groups import together
from cxrtl.data.sources.common import RESERVED, Rows, locate, several, to_manifest
from cxrtl.data.sources.text import UNREADABLE, read_text, why_unreadable
from cxrtl.errors import ManifestError
from cxrtl.records import Manifest, label_columns


def build(data: Data, key: bytes) -> Manifest:
    """Read the table in its own order. Image paths are relative to the table's folder.

    Identifiers and labels are text, never numbers: patient 0012 stays 0012, and blanks at either end are dropped. A
    blank patient or study is unknown; where both are, rows that share a file, such as slices of a volume, count as of
    one study. Of further columns, which may name people, only `data.keep_columns` go along, CSV's as text, Parquet's
    numbers as numbers, and `data.attributes`, in words of ours (see `attributes`).

    Raises:
        ManifestError: the table cannot be read, lacks a column, or holds blank labels or paths, paths that leave its
            folder, an image twice, a file of two patients, patients known only in part, labels of a multilabel task
            that are none of 1, 0 and blank, attributes that do not fit, or not the classes that the task needs.
    """
    path = expand(data.path)
    table = _read(path, data.path)
    columns = data.image_columns or (data.image_column,)
    masks = (data.mask_column,) if data.structures else ()
    _require(table, [*columns, *masks, *_label_columns(data), *data.kept_columns, *_named(data)], data.path)
    _refuse_identifying(data)
    files = [_paths(_text(table, column), column) for column in (*columns, *masks)]
    at = _slices(table, data)
    named = [name for name in data.taken_attributes if name in table.column_names]
    extras = {name: _extra(table[name]) for name in data.kept_columns}
    extras |= {name: attributes.of_column(name, _text(table, name), key) for name in named}
    root = path.parent.resolve()
    patients = _optional(table, data.patient_column)
    rows = Rows(
        images=_identities(files[: len(columns)], at),
        labels=_labels(table, data),
        paths=_places(root, files, at, data),
        patients=patients,
        studies=_studies(table, data, files[: len(columns)]),
        extras=extras,
        findings={name: _stated(table, name) for name in data.label_columns},
    )
    made = to_manifest(rows, key, data)
    _refuse_shared(files[: len(columns)], patients)
    return made


def _studies(table: pa.Table, data: Data, files: list[list[str]]) -> list[str]:
    """Each row's study; where it is blank and no patient is known, one for all rows that share a file."""
    stated = _optional(table, data.study_column)
    if any(_optional(table, data.patient_column)):
        return stated
    groups = together(*files)
    named = dict(zip(groups[::-1].tolist(), (f"file\0{file}" for file in reversed(files[0])), strict=True))
    named |= {group: text for group, text in zip(groups.tolist(), stated, strict=True) if text}
    alone = np.bincount(groups)[groups] == 1
    return [
        text or ("" if single else named[group])
        for text, group, single in zip(stated, groups.tolist(), alone, strict=True)
    ]


def _refuse_shared(files: list[list[str]], patients: list[str]) -> None:
    """No file shows two people: slices of one would lie on both sides of a fold."""
    if not any(patients):
        return
    rows = pd.DataFrame({"group": together(*files), "patient": patients})
    shared = int((rows.groupby("group")["patient"].nunique() > 1).sum())
    if shared:
        raise ManifestError(
            f"{shared} image file(s), or groups that share files, are listed under several patients each: let the "
            "patient column hold the same for all rows of a file"
        )


def _named(data: Data) -> list[str]:
    """Columns that need not be there under their usual names, but were given others."""
    optional = ["patient_column", "study_column", *(["slice_column"] if data.slices else [])]
    return [name for key in optional if (name := getattr(data, key)) != Data.model_fields[key].default]


def _label_columns(data: Data) -> list[str]:
    """Those that must be there. A segmentation's images have a class where they have the column for it."""
    if data.task == "segmentation" and "label_column" not in data.model_fields_set:
        return []
    return list(data.label_columns) or [data.label_column]


def _labels(table: pa.Table, data: Data) -> list[str]:
    if data.task == "segmentation":
        return _optional(table, data.label_column)
    if data.label_columns:
        return [""] * table.num_rows
    labels = _text(table, data.label_column)
    _refuse_blank(labels, data.label_column, "give each image its class or take the rows out")
    return labels


def _slices(table: pa.Table, data: Data) -> list[int | None]:
    """Each row's slice; None, the middle one, where it is blank or there is no such column."""
    texts = _optional(table, data.slice_column) if data.slices else [""] * table.num_rows
    odd = sum(not (text == "" or (text.isascii() and text.isdigit())) for text in texts)
    if odd:
        raise ManifestError(f"column {data.slice_column!r} holds {odd} value(s) that are no whole numbers from 0")
    return [int(text) if text else None for text in texts]


def _identities(files: list[list[str]], at: list[int | None]) -> list[str]:
    """What identifies a row: its image's path, or all its images' and its slice."""
    rows = zip(zip(*files, strict=True), at, strict=True)
    return ["\0".join([*names, *([f"slice {number}"] if number is not None else [])]) for names, number in rows]


def _places(root: Path, files: list[list[str]], at: list[int | None], data: Data) -> list[str]:
    found = [[locate(root, name) for name in names] for names in files]
    if not (data.structures or data.image_columns or data.slices):
        return found[0]
    masks = found.pop() if data.structures else [""] * len(at)
    return [
        several(names, number, mask) for names, number, mask in zip(zip(*found, strict=True), at, masks, strict=True)
    ]


def images_of(data: Data) -> tuple[list[str], list[str]]:
    """The image paths of a table that needs no labels: as it has them, and where each file lies.

    Raises:
        ManifestError: the table cannot be read, lacks the image column, or holds blank paths or ones that leave it.
    """
    path = expand(data.path)
    table = _read(path, data.path)
    _require(table, [data.image_column], data.path)
    images = _paths(_text(table, data.image_column), data.image_column)
    root = path.parent.resolve()
    return images, [locate(root, image) for image in images]


def columns_of(data: Data) -> dict[str, list[str]]:
    """Every column of a table as text. Raises ManifestError where it cannot be read."""
    table = _read(expand(data.path), data.path)
    return {name: _text(table, name) for name in table.column_names}


def _read(path: Path, typed: str) -> pa.Table:
    """The table, as text where it is CSV. No message quotes the table's contents."""
    if not path.is_file():
        raise ManifestError(f"data.path = {typed!r} is no file: give a label table (.csv, .csv.gz, .parquet)")
    name = path.name.lower()
    if not name.endswith((".csv", ".csv.gz", ".parquet")):
        raise ManifestError(f"data.path = {typed!r} is no .csv, .csv.gz or .parquet file")
    try:
        table = (
            pq.read_table(path)
            if name.endswith(".parquet")
            else pa.Table.from_pandas(read_text(path), preserve_index=False)
        )
    except (*UNREADABLE, pa.ArrowException) as error:
        raise ManifestError(f"label table {typed!r} cannot be read ({why_unreadable(error)})") from None
    if len(set(table.column_names)) != table.num_columns:
        raise ManifestError(f"label table {typed!r} has several columns of the same name: rename them")
    return table


def _require(table: pa.Table, columns: list[str], typed: str) -> None:
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise ManifestError(
            f"label table {typed!r} lacks the column(s) {missing} among its {table.num_columns}: is its first line a "
            "header? Set data.image_column and all others of data that name columns to what stands there."
        )


def _refuse_identifying(data: Data) -> None:
    """What becomes a hash must not go along in the clear as well, nor take a name that cxrtl itself uses."""
    taken = {data.image_column, *data.image_columns, data.patient_column, data.study_column, *RESERVED}
    if data.structures:
        taken.add(data.mask_column)
    taken = (taken | set(label_columns(data.label_columns))) & {*data.kept_columns, *data.taken_attributes}
    if taken:
        raise ManifestError(f"data.keep_columns holds {sorted(taken)}, which cxrtl keeps as hashes or uses: rename")


def _text(table: pa.Table, column: str) -> list[str]:
    """A column as stripped text, "" where it is blank."""
    return [_as_text(value).strip() for value in table[column].to_pylist()]


def _as_text(value: object) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # whole numbers in a column with blanks are stored as floats
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _optional(table: pa.Table, column: str) -> list[str]:
    return _text(table, column) if column in table.column_names else [""] * table.num_rows


def _extra(values: pa.ChunkedArray) -> Sequence[Any]:
    """Numbers as they are, anything else as text."""
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        numbers: list[Any] = values.to_pandas().tolist()  # blanks become NaN
        return numbers
    return [_as_text(value) for value in values.to_pylist()]


def _refuse_blank(values: list[str], column: str, cure: str) -> None:
    blank = sum(not value for value in values)
    if blank:
        raise ManifestError(f"column {column!r} is blank in {blank} of {len(values)} rows: {cure}")


def _stated(table: pa.Table, column: str) -> list[float]:
    """1, 0, or NaN where the cell is blank."""
    values = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "": float("nan")}
    texts = _text(table, column)
    odd = sum(text not in values for text in texts)
    if odd:
        raise ManifestError(f"column {column!r} holds {odd} value(s) that are none of 1, 0 and blank: mend them")
    return [values[text] for text in texts]


def _paths(values: list[str], column: str) -> list[str]:
    """Image paths in their shortest form, so that `./a.png` and `a.png` are one image."""
    _refuse_blank(values, column, "fill in the paths or take the rows out")
    paths = [posixpath.normpath(value) for value in values]
    bad = sum(path.startswith(("/", "../")) or path in ("..", ".") or "\0" in path for path in paths)
    if bad:
        raise ManifestError(
            f"column {column!r} holds {bad} path(s) that are absolute or lead out of the table's folder: "
            "write them relative to it, or put the table above the images"
        )
    return paths
