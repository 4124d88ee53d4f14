"""Several files to one row: channels, slices of volumes, and the mask of what is to be found."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from dataclasses import replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageOps

from cxrtl.data.images import volume
from cxrtl.data.images.files import decoded, format_of, read, square, to_grey, with_attributes
from cxrtl.data.images.raster import FORMATS
from cxrtl.data.images.rules import FILES, MAX_PIXELS, Decoded, Grey, How, Unusable
from cxrtl.data.images.volume import Numbers


def decode(path: str, how: How) -> Decoded:
    """Decode what `files:<JSON>` names: each file becomes a channel, or as many as it gives slices.

    Channels are fitted into the square one by one: they should show the same field. The mask must be as large as the
    first image, and is fitted alike, by the nearest pixel.

    Raises:
        Unusable: with the reason, of whichever file it is.
    """
    named = json.loads(path.removeprefix(FILES))
    at = named.get("slice")
    planes = [plane for file in named["images"] for plane in _planes(file, how, at)]
    found = decoded(planes, how)
    if how.attributes:
        found = with_attributes(found, read(named["images"][0]), how)
    if not how.structures:
        return found
    mask = _mask(named["mask"], how, at)
    if mask.shape != planes[0].shape:
        raise Unusable("mask_size")
    digest = hashlib.sha256(np.ascontiguousarray(mask).data).hexdigest()
    return replace(found, mask=square(mask, how, Image.Resampling.NEAREST), mask_hash=digest)


def _planes(file: str, how: How, at: int | None) -> list[Grey]:
    if not how.slices:
        return [to_grey(read(file), how)]
    return list(volume.neighbours(_volume(file, how), how.slices, at))


@lru_cache(maxsize=4)  # rows of one volume follow each other
def _volume(file: str, how: How) -> Grey:
    data = read(file)
    kind = format_of(data)
    if kind == "NIfTI":
        return volume.nifti(data)
    if kind == "DICOM":
        from cxrtl.data.images import dicom

        return dicom.to_grey(data, how, frames=True)
    raise Unusable("no_volume")


def _mask(file: str, how: How, at: int | None) -> Grey:
    """uint8 `[height, width]`: 0, or the structure's number from 1."""
    try:
        numbers = _numbers(file, at if how.slices else 0)
    except Unusable as unusable:
        raise Unusable("no_such_slice" if unusable.reason == "no_such_slice" else "mask_unusable") from None
    values = np.unique(numbers)
    if how.structures == 1 and len(values) <= 2 and values[0] >= 0 and (len(values) < 2 or values[0] == 0):
        drawn: Grey = (numbers != 0).astype(np.uint8)
        return drawn  # 0 and 255, or whatever else one structure is drawn in
    if not np.isin(values, np.arange(how.structures + 1)).all():
        raise Unusable("mask_values")
    numbered: Grey = numbers.astype(np.uint8)
    return numbered


def _numbers(file: str, at: int | None) -> Numbers:
    """The numbers that the mask's file holds, not as shades of grey."""
    data = read(file)
    kind = format_of(data)
    if kind == "NIfTI":
        found: Numbers = volume.neighbours(_mask_volume(file), 1, at)[0]
        return found
    if kind not in FORMATS:
        raise Unusable("mask_unusable")
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=(kind,)) as image:
            warnings.simplefilter("ignore")
            if image.width * image.height > MAX_PIXELS or getattr(image, "n_frames", 1) > 1:
                raise Unusable("mask_unusable")
            numbers = np.asarray(ImageOps.exif_transpose(image))
    except (Unusable, MemoryError):
        raise
    except Exception:  # Pillow's plugins raise nearly anything on damaged files
        raise Unusable("mask_unusable") from None
    if numbers.ndim == 3:
        if (numbers[..., :3] != numbers[..., :1]).any():  # coloured: no telling which colour is which
            raise Unusable("mask_unusable")
        numbers = numbers[..., 0]
    return numbers


@lru_cache(maxsize=1)
def _mask_volume(file: str) -> Numbers:
    return volume.nifti_numbers(read(file))
