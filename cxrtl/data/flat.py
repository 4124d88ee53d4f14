"""A prepared set's pixels in one flat file, read image by image: for sets larger than memory.

    pixels.u8     uint8, an image after the other in the order of the set: its channels, then a segmentation's mask
    pixels.json   written after it: what it was made from, and its bytes

All processes of a node read it through the page cache, which holds one copy.
"""

from __future__ import annotations

import fcntl
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from cxrtl import rundir, storage
from cxrtl.data.prepared import DATASET, shard_paths
from cxrtl.data.shards import PICTURES
from cxrtl.errors import DamagedError, PreparedError
from cxrtl.records import Prepared

NAME, ABOUT = "pixels.u8", "pixels.json"
_ROWS = 256  # images written at once


@dataclass(frozen=True)
class Flat:
    """The file, and the planes and side of each of its images. Only its name travels to other processes."""

    path: Path
    planes: int
    side: int

    def read(self, rows: npt.NDArray[np.int64], first: int = 0) -> npt.NDArray[np.uint8]:
        """The images in these places, from plane `first` on: `[n, planes - first, side, side]`.

        Other threads run while the disk is waited for.

        Raises:
            DamagedError: the file is gone or ends before them.
        """
        plane = self.side * self.side
        out = np.empty((len(rows), self.planes - first, self.side, self.side), dtype=np.uint8)
        try:
            with self.path.open("rb", buffering=0) as file:
                for place, row in enumerate(rows.tolist()):
                    file.seek((row * self.planes + first) * plane)
                    if file.readinto(memoryview(out[place]).cast("B")) != out[place].nbytes:
                        raise OSError(0, "it ends too early")
        except OSError as error:
            raise DamagedError(f"{self.path} cannot be read: {error.strerror}. Run the same command again.") from None
        return out


def describe(prepared: Prepared) -> Flat:
    """Where the set's flat file is, or will be."""
    planes = prepared.channels + (prepared.task == "segmentation")
    return Flat(prepared.folder / NAME, planes, prepared.image_size)


def size(prepared: Prepared) -> int:
    """Bytes of all its pixels and masks."""
    flat = describe(prepared)
    return prepared.images * flat.planes * flat.side**2


def make(prepared: Prepared) -> Flat:
    """The flat file of the set; written from the shards, a few images at a time, where none of this set is there.

    Raises:
        PreparedError: the disk has too little room for it.
        LockedError: another process writes into the set's folder.
    """
    if not _made(prepared):
        with rundir.RunDir(prepared.folder).lock():  # which clears away what a killed writer left: it may fill the disk
            _fill(prepared)
    return describe(prepared)


def make_here(prepared: Prepared) -> None:
    """`make` on a machine that has only a mirror of the set: its own file, from shards pulled first, by one process."""
    prepared.folder.mkdir(parents=True, exist_ok=True)
    with (prepared.folder / f"{NAME}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of this machine alone: others make theirs at the same time
        storage.pull(prepared.folder)
        if not _made(prepared):
            rundir.drop_parts(prepared.folder)
            _fill(prepared)


def _about(prepared: Prepared) -> dict[str, Any]:
    return {"made_from": rundir.sha256_file(prepared.folder / DATASET), "bytes": size(prepared)}  # names all shards


def _made(prepared: Prepared) -> bool:
    try:
        there = describe(prepared).path.stat().st_size
        return there == size(prepared) and bool(rundir.read_json(prepared.folder / ABOUT) == _about(prepared))
    except (DamagedError, OSError):  # not made yet, or cut off
        return False


def _fill(prepared: Prepared) -> None:
    flat, about = describe(prepared), prepared.folder / ABOUT
    about.unlink(missing_ok=True)
    flat.path.unlink(missing_ok=True)  # of a set that this folder held before
    free = shutil.disk_usage(prepared.folder).free
    if free < size(prepared):
        raise PreparedError(
            f"streaming needs {size(prepared) / 1e9:.1f} GB beside the shards in {prepared.folder}, "
            f"{free / 1e9:.1f} GB are free: make room, choose another --home, or set resources.images to 'memory'"
        )
    rundir.write_atomic(flat.path, lambda part: _write(part, prepared))
    rundir.write_json(about, _about(prepared))


def _write(path: Path, prepared: Prepared) -> None:
    columns = list(PICTURES if prepared.task == "segmentation" else PICTURES[:1])
    with path.open("wb") as out:
        for shard in shard_paths(prepared):
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(_ROWS, columns=columns):
                    for image in zip(*(batch[name].to_pylist() for name in columns), strict=True):
                        out.writelines(image)
