"""Limits, reason codes and the types that go into and come out of decoding. Imports next to nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_FILE_BYTES = 256 * 2**20
MAX_FOLDER_BYTES = 2**30  # of a folder of slices: as many as there may be voxels, in 16 bits
MAX_FOLDER_FILES = 4096
MAX_PIXELS = 64 * 2**20
MAX_NESTING = 16  # DICOM sequences within sequences
MAX_VOXELS = 512 * 2**20
FILES = "files:"  # in a manifest's `path`: `files:<JSON>` with `images`, and where they are given `slice` and `mask`
REFUSED = "refused:"  # in a manifest's `path`: `refused:<reason>:<path>` is a file that the source will not open

REASONS = {
    "missing": "there is no such file",
    "empty": "the file has no bytes",
    "unreadable": "the file cannot be read: permissions, a folder, a pipe",
    "outside_root": "a link leads out of the folder of images",
    "too_large_file": f"more than {MAX_FILE_BYTES >> 20} MiB; a folder: than {MAX_FOLDER_BYTES >> 20} MiB or "
    f"{MAX_FOLDER_FILES} files",
    "too_many_pixels": f"more than {MAX_PIXELS >> 20} Mi pixels",
    "unknown_format": "neither JPEG, PNG, TIFF, BMP, DICOM nor NIfTI",
    "ambiguous_format": "DICOM and something else at once",
    "several_images": "several pages or frames: an animation, a volume where data.slices is 0",
    "no_volume": "a single picture, or a folder without DICOM images, where data.slices asks for a volume",
    "no_such_slice": "the volume has fewer slices than the table says",
    "mixed_series": "a folder's DICOM files, or a file's frames, are of several series or directions, or at one place",
    "slice_gaps": "DICOM slices without positions, or not evenly spaced: one is missing",
    "channel_size": "the files of a row differ in size or, volumes, in where their voxels lie",
    "truncated": "the file ends too early",
    "undecodable": "the file is damaged",
    "no_decoder": "no decoder for this coding is installed, such as 12-bit JPEG (the extra `jpeg12` brings one)",
    "no_pixels": "DICOM without an image: a report, a plan, a structure set",
    "burned_in": "DICOM that is marked as having text in its pixels",
    "secondary_capture": "DICOM secondary capture: a screenshot, a scan of film",
    "nested_too_deep": f"DICOM sequences more than {MAX_NESTING} deep",
    "mask_unusable": "the mask is missing, damaged or no picture of numbers",
    "mask_size": "the mask is not as large as its image or, a volume, lies elsewhere",
    "mask_values": "the mask holds numbers that stand for no structure",
    "out_of_memory": "decoding takes more memory than data.decode.memory_mib",
    "timed_out": "decoding takes longer than data.decode.file_seconds",
    "decoder_died": "the decoder crashed on this file, twice",
}
MAY_PASS = frozenset(  # of them: what permissions, a storage that is back, a decoder or a larger limit may mend
    {"missing", "unreadable", "no_decoder", "mask_unusable", "out_of_memory", "timed_out", "decoder_died"}
)
SLOW = frozenset({"out_of_memory", "timed_out", "decoder_died"})  # of these: found out by waiting for it

Grey = npt.NDArray[np.uint8]


class Unusable(Exception):
    """A file that cannot be used; `reason` is one of `REASONS` and nothing of the file's name is in the message."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class How:
    """How files become squares; see `config.Decode`. `size` in pixels.

    A row has `channels` squares, `slices` neighbouring slices (0: no volumes) of each of its files, and a mask where
    there are `structures`. `attributes` are read from DICOM's tags; `site_key`, in hex digits, hashes sites.
    """

    size: int
    aspect: str = "stretch"
    burned_in: str = "refuse"
    secondary_capture: str = "refuse"
    file_seconds: int = 30
    memory_mib: int = 3072
    channels: int = 1
    slices: int = 0
    structures: int = 0
    attributes: tuple[str, ...] = ()
    site_key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", tuple(self.attributes))  # JSON knows lists alone

    @property
    def pixel_rules(self) -> list[int | str]:
        """What decides the pixels, which files are used and what is read beside them; safety limits are left out."""
        rules: list[int | str] = [self.size, self.aspect, self.burned_in, self.secondary_capture]
        return [*rules, self.channels, self.slices, self.structures, *self.attributes]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the pixels: `(size, size)`, or `(channels, size, size)`."""
        plane = (self.size, self.size)
        return plane if self.channels == 1 else (self.channels, *plane)

    @property
    def pixel_bytes(self) -> int:
        return self.channels * self.size**2

    @property
    def mask_bytes(self) -> int:
        return self.size**2 if self.structures else 0


@dataclass(frozen=True)
class Decoded:
    """`pixels` is uint8 `[size, size]`, or `[channels, size, size]`.

    `mask` is uint8 `[size, size]`: 0, or the structure's number from 1. The rest speaks of the full-size grey image,
    upright, the first of several, sizes in pixels; the hashes are of all of it and of the full-size mask.
    `attributes` has what `How` asks for where the (first) file is DICOM, "" where it does not state it.
    """

    pixels: Grey
    content_hash: str
    width: int
    height: int
    mask: Grey | None = None
    mask_hash: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


Answer = Decoded | Unusable


@dataclass(frozen=True, eq=False)
class Volume:
    """`values` is `[slices, height, width]`: shades of grey, uint8, or a mask's numbers.

    `affine`, 4 × 4, leads from (column, row, slice) to millimetres to the right, front and head, as NIfTI has it; None
    where the file does not say. `source` is one file of a folder's, whose tags speak for all.
    """

    values: npt.NDArray[Any]
    affine: npt.NDArray[np.float64] | None = None
    source: str = ""

    @property
    def grid(self) -> Grid:
        return Grid(self.values.shape, self.affine)


@dataclass(frozen=True, eq=False)
class Grid:
    """Where a volume's voxels lie, without them."""

    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64] | None

    def is_that_of(self, other: Grid) -> bool:
        """To a thousandth of a millimetre, where both are known."""
        if self.shape != other.shape or self.affine is None or other.affine is None:
            return self.shape == other.shape
        return np.allclose(self.affine, other.affine, rtol=0, atol=1e-3)


def file_paths(path: str) -> list[str]:
    """The files that an entry of a manifest's `path` column names; instead of a folder, those in it."""
    if not path.startswith(FILES):
        return [path]
    named = json.loads(path.removeprefix(FILES))
    return [file for name in (*named["images"], named.get("mask")) if name for file in folder_files(name) or [name]]


def folder_files(path: str) -> list[str]:
    """The files of a folder by name, hidden ones left out, one more than may be there at the most; none of a file."""
    try:
        with os.scandir(path) as entries:
            plain = (entry.path for entry in entries if not entry.name.startswith(".") and not entry.is_dir())
            return sorted(islice(plain, MAX_FOLDER_FILES + 1))
    except (OSError, ValueError):
        return []
