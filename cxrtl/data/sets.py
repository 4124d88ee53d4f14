"""The prepared sets of one source: the first that was made of it, and those after files that were refused were mended.

A set is never changed once it is whole: runs may have begun with it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from cxrtl import rundir, storage
from cxrtl.config import Data
from cxrtl.data import refused
from cxrtl.data.images import How
from cxrtl.data.images.rules import MAY_PASS, file_paths
from cxrtl.data.prepared import open_prepared
from cxrtl.errors import PreparedError
from cxrtl.records import Manifest, Prepared


def fingerprint(data: Data, listed: Manifest) -> str:
    """Hash of all that decides the set, as far as it can be told without reading an image.

    File by file and column by column: next to nothing of a large set is held twice.
    """
    files = hashlib.sha256()
    for path in (file for entry in listed.frame["path"] for file in file_paths(entry)):
        try:
            found = Path(path).stat()
            files.update(f"{found.st_size} {found.st_mtime_ns}\n".encode())
        except OSError:  # missing, or drawn rather than read: preparing decides
            files.update(b"\n")
    # not by pandas' `astype(str)`, which refuses file names that are not UTF-8
    columns = {str(name): rundir.content_hash([str(value) for value in listed.frame[name]]) for name in listed.frame}
    decode = data.decode.model_dump(exclude={"file_seconds", "memory_mib"})
    flow = [asdict(step) for step in listed.flow]
    tags = [name for name in data.taken_attributes if name not in listed.frame]
    what = [listed.task, list(listed.classes), list(data.image_columns), data.slices, *tags]
    return rundir.content_hash([data.image_size, decode, what, columns, files.hexdigest(), flow])


def made(first: Path) -> tuple[list[Prepared], Path]:
    """The sets in `first` and its successors, oldest first, and the folder for the next: not made yet, cut off or
    damaged; its shards that are whole are kept."""
    found: list[Prepared] = []
    for number in itertools.count():
        folder = first.with_name(f"{first.name}-{number}") if number else first
        storage.pull(folder)
        try:
            found.append(open_prepared(folder))
        except PreparedError:
            break
    return found, folder


def doubtful(prepared: Prepared) -> int:
    """Files that were refused for a reason that may have passed."""
    return sum(count for reason, count in prepared.skipped.items() if reason in MAY_PASS)


def stands(prepared: Prepared, listed: Manifest, how: How) -> bool:
    """Whether the files of `listed` that could not be used still cannot; tries the doubtful ones."""
    if not doubtful(prepared):
        return True
    skipped = pd.read_parquet(prepared.folder / "skipped.parquet")
    paths = dict(zip(listed.frame["image_id"], listed.frame["path"], strict=True))
    return refused.still(paths, zip(skipped["image_id"], skipped["reason"], strict=True), how)


def link_shards(done: Path, folder: Path) -> None:
    """Let a new set begin with the shards of an earlier one: those of files that can be used now are made anew."""
    if not storage.at(folder) and not (folder / "shards").exists():
        with suppress(OSError):  # a filesystem without links: all is decoded again
            shutil.copytree(done / "shards", folder / "shards", copy_function=os.link)
