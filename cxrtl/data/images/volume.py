"""Volumes to grey slices: NIfTI through nibabel. `dicom` and `series` read those of DICOM.

A NIfTI volume is cut along its third axis, in stored order. A slice is turned and mirrored, by the volume's affine, as
DICOM has it: rows run to the patient's back or feet, columns to the left or, in a sagittal volume, to the back. Its
display range (`cal_min` to `cal_max`) becomes 0..255; where it has none, the range present in the whole volume.
"""

from __future__ import annotations

import gzip
import io
import logging
import warnings
from typing import Any, NamedTuple

import nibabel
import numpy as np
import numpy.typing as npt

from cxrtl.data.images.rules import MAX_VOXELS, Grey, Unusable, Volume

_NUMBERS = (2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280)  # NIfTI's codes of plain numbers: no colours, no complex ones
_TOWARDS = "RAS"  # axes that run there are mirrored: columns and rows run to the left, the back and the feet
_COLUMNS_FIRST = "LRAPSI"  # the axis that comes earlier in it becomes the columns

Numbers = npt.NDArray[Any]
Affine = npt.NDArray[np.float64]


class _Stored(NamedTuple):
    """`values[slices, height, width]` as in the file, which times `slope` plus `inter` are meant."""

    header: Any
    values: Numbers
    slope: float
    inter: float
    affine: Affine

    def plane(self, number: int) -> npt.NDArray[np.float64]:
        return np.asarray(self.values[number], np.float64) * self.slope + self.inter


def nifti(data: bytes) -> Volume:
    """Shades of grey; Unusable with a reason for anything else."""
    stored = _read(data)
    slices = range(len(stored.values))  # one by one: as fractions a volume would be large
    low, high = float(stored.header["cal_min"]), float(stored.header["cal_max"])
    if not low < high:
        ends = [(plane.min(), plane.max()) for plane in map(stored.plane, slices)]
        low, high = float(np.min(ends)), float(np.max(ends))
        if not np.isfinite([low, high]).all():  # what is not finite is the smallest, the largest, or both
            raise Unusable("undecodable")
    grey = np.empty(stored.values.shape, dtype=np.uint8)
    for place in slices:
        shares = np.clip((stored.plane(place) - low) / ((high - low) or 1.0), 0, 1)
        grey[place] = np.floor(np.nan_to_num(shares) * 255 + 0.5).astype(np.uint8)
    return Volume(grey, stored.affine)


def nifti_numbers(data: bytes) -> Volume:
    """The numbers as they are, for masks; Unusable with a reason for anything else."""
    stored = _read(data)
    if (stored.slope, stored.inter) == (1, 0):
        return Volume(stored.values, stored.affine)
    planes = [stored.plane(number).astype(np.float32) for number in range(len(stored.values))]
    return Volume(np.stack(planes), stored.affine)


def _read(data: bytes) -> _Stored:
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
            proxy: Any = image.dataobj
            values = np.asarray(proxy.get_unscaled()).reshape(*shape[:2], -1)
            upright, affine = _upright(values, image.affine)
            return _Stored(image.header, upright, float(proxy.slope), float(proxy.inter), affine)
    except (Unusable, MemoryError):
        raise
    except EOFError:
        raise Unusable("truncated") from None
    except Exception as error:  # damaged files raise nearly anything
        short = "expected" in str(error).lower() and "got" in str(error).lower()
        raise Unusable("truncated" if short else "undecodable") from None


def _upright(values: Numbers, affine: Affine) -> tuple[Numbers, Affine]:
    """`[first, second, slices]` → `[slices, rows, columns]`, and the affine from (column, row, slice)."""
    codes = nibabel.aff2axcodes(affine)  # type: ignore[no-untyped-call]
    for axis in (0, 1):
        if codes[axis] and str(codes[axis]) in _TOWARDS:
            values = np.flip(values, axis)
            mirror = np.eye(4)
            mirror[axis, [axis, 3]] = -1, values.shape[axis] - 1
            affine = affine @ mirror
    first, second = (_COLUMNS_FIRST.find(code or "?") for code in codes[:2])
    if first <= second:
        return values.transpose(2, 1, 0), affine
    return values.transpose(2, 0, 1), affine[:, [1, 0, 2, 3]]


def neighbours(volume: Numbers, slices: int, at: int | None) -> Grey:
    """`slices` slices about number `at`, from 0; None: about the middle one. Beyond the ends, the last is repeated."""
    middle = len(volume) // 2 if at is None else at
    if not 0 <= middle < len(volume):
        raise Unusable("no_such_slice")
    places = np.arange(middle - slices // 2, middle + slices // 2 + 1).clip(0, len(volume) - 1)
    chosen: Grey = volume[places]
    return chosen
