"""A file to a square: read it within limits, tell its format by its first bytes, decode, fit."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from cxrtl.data.images import raster
from cxrtl.data.images.rules import MAX_FILE_BYTES, Decoded, Grey, How, Unusable

_DICOM_AT = 128  # where `DICM` stands, behind a preamble that may hold anything
_RUNNABLE = (b"MZ", b"\x7fELF", b"#!", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe")


def decode_file(path: str, how: How) -> Decoded:
    """Read one image file, in this process.

    Raises:
        Unusable: with the reason; no other error for anything that a file may hold, save MemoryError.
    """
    return decoded(to_grey(read(path), how), how)


def decoded(grey: Grey, how: How) -> Decoded:
    """Hash the full-size image and fit it into the square."""
    height, width = grey.shape
    digest = hashlib.sha256(f"{height}x{width}:".encode())
    digest.update(np.ascontiguousarray(grey).data)
    return Decoded(square(grey, how), digest.hexdigest(), width, height)


def read(path: str) -> bytes:
    """The file's bytes; Unusable where there is no plain file of a bearable size."""
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block for ever
            raise Unusable("unreadable")
        if status.st_size == 0:
            raise Unusable("empty")
        if status.st_size > MAX_FILE_BYTES:
            raise Unusable("too_large_file")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise Unusable("missing") from None
    except (OSError, ValueError):
        raise Unusable("unreadable") from None


def to_grey(data: bytes, how: How) -> Grey:
    """Decode to uint8 `[height, width]`."""
    kind = format_of(data)
    if kind == "DICOM":
        from cxrtl.data.images import dicom  # pydicom takes a quarter of a second to import

        return dicom.to_grey(data, how)
    return raster.to_grey(data, kind)


def format_of(data: bytes) -> str:
    """`DICOM` or a format name of Pillow's.

    A TIFF header in the preamble of a DICOM file is a known practice, and the file is taken as DICOM. Any other
    format or program there is a disguise.
    """
    kind = raster.format_of(data)
    if data[_DICOM_AT : _DICOM_AT + 4] == b"DICM":
        if kind not in ("", "TIFF") or data.startswith(_RUNNABLE):
            raise Unusable("ambiguous_format")
        return "DICOM"
    if not kind and _bare_dicom(data):
        return "DICOM"
    if not kind:
        raise Unusable("unknown_format")
    return kind


def _bare_dicom(data: bytes) -> bool:
    """Whether the file begins with a data element of group 2 or 8, as DICOM without preamble does."""
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for order in orders:
        group, element, length = (int.from_bytes(data[a:b], order) for a, b in ((0, 2), (2, 4), (4, 8)))
        if group in (2, 8) and element < 0x100:
            return (data[4:6].isalpha() and data[4:6].isupper()) or length <= len(data)
    return False


def square(grey: Grey, how: How) -> Grey:
    """Fit `[height, width]` into `[size, size]` as `how.aspect` says."""
    size, image = how.size, Image.fromarray(grey)
    if how.aspect == "crop":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    elif how.aspect == "pad":
        scale = size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        inner = image.resize((width, height), Image.Resampling.BILINEAR)
        image = Image.new("L", (size, size))
        image.paste(inner, ((size - width) // 2, (size - height) // 2))
        return np.asarray(image)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
