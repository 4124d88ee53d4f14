"""What names files, in a prepared set: `private/`, mode 0700, with files of mode 0600, which no storage is sent.

    identities.parquet   image_id, path: for the researcher on this machine
    slices               while the set is made: what its tasks are to decode, with paths and the key of sites

Ray keeps what it passes on in memory that others may read, spills it to disk and writes about it: so tasks are told
where in `slices` theirs stands, and no more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cxrtl import rundir, storage
from cxrtl.records import Manifest

SLICES = "slices"


def write_identities(manifest: Manifest, out: Path) -> None:
    # a file name that is not UTF-8 cannot stand in Parquet: its odd bytes are written as \udcNN
    paths = [path.encode("utf-8", "backslashreplace").decode() for path in manifest.frame["path"]]
    table = pa.table({"image_id": pa.array(manifest.frame["image_id"], pa.string()), "path": pa.array(paths)})
    _write(out, "identities.parquet", lambda part: pq.write_table(table, part))


def hide(slices: Iterable[str], out: Path) -> list[str]:
    """Write `slices` down; returns what `reveal` makes each from. With a home at a storage, where `private/` is on this
    machine alone and tasks elsewhere could not read it, the slices themselves."""
    if storage.at(out):
        return list(slices)
    told: list[str] = []

    def write(part: Path) -> None:
        with part.open("wb") as file:
            for text in slices:
                begin = file.tell()
                size = file.write(text.encode())
                told.append(json.dumps({"file": str(out / "private" / SLICES), "begin": begin, "bytes": size}))

    _write(out, SLICES, write)
    return told


def reveal(text: str) -> str:
    """The slice that `text`, from `hide`, stands for.

    Raises:
        OSError: it cannot be read on this machine, or by this process's user.
    """
    told = json.loads(text)
    if "file" not in told:
        return text
    try:
        with Path(told["file"]).open("rb") as file:
            file.seek(told["begin"])
            return file.read(told["bytes"]).decode()
    except OSError as error:
        what = f"private/ cannot be read on a machine of the cluster, as the user of Ray there ({error.strerror})"
        raise OSError(error.errno, what) from None


def forget(out: Path) -> None:
    """The slices are done."""
    (out / "private" / SLICES).unlink(missing_ok=True)


def _write(out: Path, name: str, fill: Callable[[Path], object]) -> None:
    folder = out / "private"
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    rundir.drop_parts(folder)

    def write(part: Path) -> None:
        part.touch(mode=0o600)
        fill(part)

    rundir.write_atomic(folder / name, write)
