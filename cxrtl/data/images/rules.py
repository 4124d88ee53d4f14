"""Limits, reason codes and the types that go into and come out of decoding. Imports next to nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

MAX_FILE_BYTES = 256 * 2**20
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
    "too_large_file": f"more than {MAX_FILE_BYTES >> 20} MiB",
    "too_many_pixels": f"more than {MAX_PIXELS >> 20} Mi pixels",
    "unknown_format": "neither JPEG, PNG, TIFF, BMP, DICOM nor NIfTI",
    "ambiguous_format": "DICOM and something else at once",
    "several_images": "several pages or frames: an animation, a volume where data.slices is 0",
    "no_volume": "a single picture where data.slices asks for a volume",
    "no_such_slice": "the volume has fewer slices than the table says",
    "truncated": "the file ends too early",
    "undecodable": "the file is damaged",
    "no_decoder": "no decoder for this coding is installed, such as 12-bit JPEG (the extra `jpeg12` brings one)",
    "no_pixels": "DICOM without an image: a report, a plan, a structure set",
    "burned_in": "DICOM that is marked as having text in its pixels",
    "secondary_capture": "DICOM secondary capture: a screenshot, a scan of film",
    "nested_too_deep": f"DICOM sequences more than {MAX_NESTING} deep",
    "mask_unusable": "the mask is missing, damaged or no picture of numbers",
    "mask_size": "the mask is not as large as its image",
    "mask_values": "the mask holds numbers that stand for no structure",
    "out_of_memory": "decoding takes more memory than data.decode.memory_mib",
    "timed_out": "decoding takes longer than data.decode.file_seconds",
    "decoder_died": "the decoder crashed on this file, twice",
}
MAY_PASS = frozenset(  # of them: what permissions, a storage that is back, a decoder or a larger limit may mend
    {"missing", "unreadable", "no_decoder", "mask_unusable", "out_of_memory", "timed_out", "decoder_died"}
)

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


def file_paths(path: str) -> list[str]:
    """The files that an entry of a manifest's `path` column names."""
    if not path.startswith(FILES):
        return [path]
    named = json.loads(path.removeprefix(FILES))
    return [*named["images"], *([named["mask"]] if named.get("mask") else [])]
