"""A file to a square: read it within limits, tell its format by its first bytes, decode, fit."""

from __future__ import annotations

import hashlib
import stat
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from cxrtl.data.images import raster
from cxrtl.data.images.rules import FILES, MAX_FILE_BYTES, Decoded, Grey, How, Unusable, Volume

_DICOM_AT = 128  # where `DICM` stands, behind a preamble that may hold anything
_RUNNABLE = (b"MZ", b"\x7fELF", b"#!", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe")


def decode_file(path: str, how: How) -> Decoded:
    """Read the file or files of one row, in this process.

    Raises:
        Unusable: with the reason; no other error for anything that a file may hold, save MemoryError.
    """
    if path.startswith(FILES):
        from cxrtl.data.images import stack

        return stack.decode(path, how)
    data = read(path)
    return with_attributes(decoded([to_grey(data, how)], how), data, how)


def with_attributes(found: Decoded, data: bytes, how: How) -> Decoded:
    """`found` with what the file's tags state of `how.attributes`."""
    if not how.attributes or format_of(data) != "DICOM":
        return found
    from cxrtl.data.images import dicom

    return replace(found, attributes=dicom.attributes(data, how))


def decoded(planes: Sequence[Grey], how: How) -> Decoded:
    """Hash the full-size pictures, `[height, width]` each, and fit each into the square."""
    digest = hashlib.sha256()
    for grey in planes:
        digest.update(f"{grey.shape[0]}x{grey.shape[1]}:".encode())
        digest.update(np.ascontiguousarray(grey).data)
    squares = np.stack([square(grey, how) for grey in planes])
    height, width = planes[0].shape
    return Decoded(squares if len(planes) > 1 else squares[0], digest.hexdigest(), width, height)


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
    plane: Grey = picture(data, how).values[0]
    return plane


def picture(data: bytes, how: How) -> Volume:
    """Decode to shades of grey of one slice."""
    kind = format_of(data)
    if kind == "DICOM":
        from cxrtl.data.images import dicom  # pydicom takes a quarter of a second to import

        return Volume(dicom.to_grey(data, how)[None])
    if kind == "NIfTI":
        from cxrtl.data.images import volume

        found = volume.nifti(data)
        if len(found.values) > 1:
            raise Unusable("several_images")
        return found
    return Volume(raster.to_grey(data, kind)[None])


def format_of(data: bytes) -> str:
    """`DICOM`, `NIfTI` (also packed by gzip) or a format name of Pillow's.

    A TIFF header in the preamble of a DICOM file is a known practice, and the file is taken as DICOM. Any other
    format or program there is a disguise.
    """
    kind = raster.format_of(data)
    if data[_DICOM_AT : _DICOM_AT + 4] == b"DICM":
        if kind not in ("", "TIFF") or data.startswith(_RUNNABLE):
            raise Unusable("ambiguous_format")
        return "DICOM"
    if not kind and _is_nifti(data):
        return "NIfTI"
    if not kind and _bare_dicom(data):
        return "DICOM"
    if not kind:
        raise Unusable("unknown_format")
    return kind


def _is_nifti(data: bytes) -> bool:
    """Whether the header's magic stands where NIfTI-1 or NIfTI-2 has it, behind gzip's where there is one."""
    if data.startswith(b"\x1f\x8b"):
        try:
            data = zlib.decompressobj(wbits=31).decompress(data, 352)
        except zlib.error:  # damaged within the first few bytes: nobody's header
            return False
    return data[344:348] == b"n+1\0" or data[4:8] == b"n+2\0"


def _bare_dicom(data: bytes) -> bool:
    """Whether the file begins with a data element of group 2 or 8, as DICOM without preamble does."""
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for order in orders:
        group, element, length = (int.from_bytes(data[a:b], order) for a, b in ((0, 2), (2, 4), (4, 8)))
        if group in (2, 8) and element < 0x100:
            return (data[4:6].isalpha() and data[4:6].isupper()) or length <= len(data)
    return False


def square(grey: Grey, how: How, resampling: Image.Resampling = Image.Resampling.BILINEAR) -> Grey:
    """Fit `[height, width]` into `[size, size]` as `how.aspect` says."""
    size, image = how.size, Image.fromarray(grey)
    if how.aspect == "crop":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    elif how.aspect == "pad":
        scale = size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        inner = _resize(image, width, height, resampling)
        image = Image.new("L", (size, size))
        image.paste(inner, ((size - width) // 2, (size - height) // 2))
        return np.asarray(image)
    return np.asarray(_resize(image, size, size, resampling))


def unsquare(mask: Grey, height: int, width: int, how: How) -> Grey:
    """The way back of `square`, by the nearest pixel: `[size, size]` to `[height, width]`; what was cropped away, 0."""
    size, image, near = how.size, Image.fromarray(mask), Image.Resampling.NEAREST
    if how.aspect == "crop":
        side = min(height, width)
        whole = Image.new("L", (width, height))
        whole.paste(image.resize((side, side), near), ((width - side) // 2, (height - side) // 2))
        return np.asarray(whole)
    if how.aspect == "pad":
        across, down = (max(1, round(side * size / max(width, height))) for side in (width, height))
        left, top = (size - across) // 2, (size - down) // 2
        image = image.crop((left, top, left + across, top + down))
    return np.asarray(image.resize((width, height), near))


def _resize(image: Image.Image, width: int, height: int, resampling: Image.Resampling) -> Image.Image:
    """Along the width, then along the height: left to itself, Pillow's order depends on its version, and with it the
    last bit of a pixel. `use.square` does the same in tensors."""
    narrow = image.resize((width, image.height), resampling)
    return narrow.resize((width, height), resampling)
