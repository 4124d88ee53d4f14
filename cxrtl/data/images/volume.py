"""Volumes to grey slices: NIfTI through nibabel, multi-frame DICOM through pydicom.

A NIfTI volume is cut along its third axis, in stored order. A slice is turned and mirrored, by the volume's affine, as
DICOM has it: rows run to the patient's back or feet, columns to the left or, in a sagittal volume, to the back. Its
display range (`cal_min` to `cal_max`) becomes 0..255; where it has none, the range present in the whole volume. DICOM
frames go through the whole file's own window, as a single image does; windows of single frames are not looked at.
"""

from __future__ import annotations

import gzip
import io
import logging
import warnings
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from cxrtl.data.images.rules import MAX_VOXELS, Grey, Unusable

_NUMBERS = (2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280)  # NIfTI's codes of plain numbers: no colours, no complex ones
_TOWARDS = "RAS"  # axes that run there are mirrored: columns and rows run to the left, the back and the feet
_COLUMNS_FIRST = "LRAPSI"  # the axis that comes earlier in it becomes the columns

Numbers = npt.NDArray[Any]


def nifti(data: bytes) -> Grey:
    """uint8 `[slices, height, width]`; Unusable with a reason for anything else."""
    header, values = _read(data)
    low, high = float(header["cal_min"]), float(header["cal_max"])
    if not low < high:
        if not np.isfinite(values).all():
            raise Unusable("undecodable")
        low, high = float(values.min()), float(values.max())
    grey = np.empty(values.shape, dtype=np.uint8)
    for place, plane in enumerate(values):  # one by one: a volume of floats is large enough
        shares = np.clip((plane.astype(np.float64) - low) / ((high - low) or 1.0), 0, 1)
        grey[place] = np.floor(np.nan_to_num(shares) * 255 + 0.5).astype(np.uint8)
    return grey


def nifti_numbers(data: bytes) -> Numbers:
    """The numbers as they are, `[slices, height, width]`, for masks; Unusable with a reason for anything else."""
    return _read(data)[1]


def _read(data: bytes) -> tuple[Any, Numbers]:
    logging.getLogger("nibabel").setLevel(logging.CRITICAL + 1)
    stream: Any = gzip.GzipFile(fileobj=io.BytesIO(data)) if data.startswith(b"\x1f\x8b") else io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            magic = stream.read(8)
            stream.seek(0)
            kind = nibabel.Nifti2Image if magic[4:8] == b"n+2\0" else nibabel.Nifti1Image
            image = kind.from_stream(stream)
            shape = tuple(size for place, size in enumerate(image.shape) if place < 3 or size > 1)
            if len(shape) > 3:
                raise Unusable("several_images")
            if len(shape) < 2 or not all(shape) or image.header["datatype"] not in _NUMBERS:
                raise Unusable("undecodable")
            if int(np.prod(shape, dtype=np.int64)) > MAX_VOXELS:
                raise Unusable("too_many_pixels")
            codes = nibabel.aff2axcodes(image.affine)  # type: ignore[no-untyped-call]
            values = np.asarray(image.dataobj, dtype=np.float32).reshape(*shape[:2], -1)
            return image.header, _upright(values, codes)
    except (Unusable, MemoryError):
        raise
    except EOFError:
        raise Unusable("truncated") from None
    except Exception as error:  # damaged files raise nearly anything
        short = "expected" in str(error).lower() and "got" in str(error).lower()
        raise Unusable("truncated" if short else "undecodable") from None


def _upright(values: Numbers, codes: tuple[str | None, ...]) -> Numbers:
    """`[first, second, slices]` → `[slices, rows, columns]`."""
    for axis in (0, 1):
        if codes[axis] and str(codes[axis]) in _TOWARDS:
            values = np.flip(values, axis)
    first, second = (_COLUMNS_FIRST.find(code or "?") for code in codes[:2])
    return values.transpose(2, 1, 0) if first <= second else values.transpose(2, 0, 1)


def neighbours(volume: Numbers, slices: int, at: int | None) -> Numbers:
    """`slices` slices about number `at`, from 0; None: about the middle one. Beyond the ends, the last is repeated."""
    middle = len(volume) // 2 if at is None else at
    if not 0 <= middle < len(volume):
        raise Unusable("no_such_slice")
    places = np.arange(middle - slices // 2, middle + slices // 2 + 1).clip(0, len(volume) - 1)
    chosen: Numbers = volume[places]
    return chosen
