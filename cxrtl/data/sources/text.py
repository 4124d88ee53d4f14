"""CSV files as text: nothing is guessed to be a number, a date or missing, and no message quotes a cell."""

from __future__ import annotations

import csv
import gzip
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cxrtl.errors import ManifestError

UNREADABLE = (OSError, EOFError, ValueError, zlib.error, pd.errors.ParserWarning)  # what `read_text` raises


class RepeatedError(ValueError):
    """Two columns have the same name."""


def read_text(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """All cells as text, "" where blank; `.gz` is read compressed. Raises one of `UNREADABLE`."""
    with warnings.catch_warnings():
        # rows longer than the header would otherwise lose cells, or turn the first column into an index
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame = pd.read_csv(
            path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False, usecols=columns
        )
    _check(path)
    return frame


def _check(path: Path) -> None:
    """What pandas lets pass. Raises ParserError for rows of fewer cells than the header, which it fills up with blanks
    (lines without any are none), and RepeatedError for two columns of one name, of which it renames the second."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            rows = (row for row in csv.reader(file) if "".join(row).strip() or len(row) > 1)
            header = next(rows)
            shortest = min(map(len, rows), default=len(header))
    except csv.Error:
        raise pd.errors.ParserError from None
    if shortest < len(header):
        raise pd.errors.ParserError
    names = [name for cell in header if (name := cell.strip())]
    if len(set(names)) < len(names):
        raise RepeatedError


def read_columns(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """The named columns of one of a public set's own tables, as stripped text.

    Raises:
        ManifestError: the file is missing, damaged, or lacks a column.
    """
    try:
        header = read_text_header(path)
        missing = [name for name in columns if name not in header]
        if missing:
            raise ManifestError(f"{path.name} lacks the column(s) {missing}: is it the set's own table?")
        frame = read_text(path, list(columns))
    except UNREADABLE as error:
        raise ManifestError(f"{path.name} cannot be read ({why_unreadable(error)})") from None
    return pd.DataFrame({name: frame[name].str.strip() for name in columns})


def read_text_header(path: Path) -> list[str]:
    """The column names; raises one of `UNREADABLE`."""
    return [str(name) for name in pd.read_csv(path, dtype=str, encoding="utf-8-sig", index_col=False, nrows=0)]


def one_of(folder: Path, names: Sequence[str], cure: str = "") -> Path:
    """The first of `names` that is a file in `folder`; raises ManifestError where none is."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    cure = cure or "give the folder of the set, with its own file names"
    raise ManifestError(f"{folder} holds none of {list(names)}: {cure}")


def why_unreadable(error: Exception) -> str:
    """What was wrong, without quoting the file."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, pd.errors.EmptyDataError):
        return "it is empty"
    if isinstance(error, RepeatedError):
        return "two of its columns have the same name: rename one"
    if isinstance(error, pd.errors.ParserError | pd.errors.ParserWarning):
        return "its rows do not all have as many cells as the header"
    return (isinstance(error, OSError) and error.strerror) or "it is damaged"
