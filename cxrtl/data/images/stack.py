"""Several files to one row: channels, slices of volumes, and the mask of what is to be found."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from cxrtl.data.images import raster, volume
from cxrtl.data.images.files import decoded, format_of, picture, read, square, with_attributes
from cxrtl.data.images.rules import FILES, Decoded, Grey, Grid, How, Unusable, Volume, folder_files
from cxrtl.data.images.volume import Numbers

_OF_MASKS = ("no_such_slice", "mask_size", "mask_values")  # reasons that say more than mask_unusable

_kept: dict[tuple[object, ...], Volume] = {}  # the least lately used first: rows of one volume follow each other


def decode(path: str, how: How) -> Decoded:
    """Decode what `files:<JSON>` names: each file becomes a channel, or as many as it gives slices.

    All channels must lie on one grid, as far as their files tell, and so must the mask, or be a picture of the slice.
    They are fitted into the square alike, the mask by the nearest pixel.

    Raises:
        Unusable: with the reason, of whichever file it is.
    """
    named = json.loads(path.removeprefix(FILES))
    try:
        return _decode(named, how)
    except MemoryError:
        if not _kept:
            raise
    _kept.clear()  # whether a row can be used must not depend on those before it
    return _decode(named, how)


def _decode(named: dict[str, Any], how: How) -> Decoded:
    files, at = named["images"], named.get("slice") if how.slices else 0
    planes: list[Grey] = []
    grids: list[Grid] = []
    tagged: list[str] = []
    for file in files:
        found = _image(file, how)
        planes += list(volume.neighbours(found.values, how.slices or 1, at))
        grids.append(found.grid)
        tagged.append(found.source or file)
    if not all(grid.is_that_of(grids[0]) for grid in grids):
        raise Unusable("channel_size")
    row = decoded(planes, how)
    if how.attributes:
        row = with_attributes(row, read(tagged[0]), how)
    if not how.structures:
        return row
    mask = _mask(named["mask"], how, at, grids[0], files[0])
    digest = hashlib.sha256(np.ascontiguousarray(mask).data).hexdigest()
    return replace(row, mask=square(mask, how, Image.Resampling.NEAREST), mask_hash=digest)


def _image(file: str, how: How) -> Volume:
    if not how.slices:
        return picture(read(file), how)
    return _recent((file, how, *_stamps(file)), how, lambda: _volume(file, how))


def _recent(key: tuple[object, ...], how: How, make: Callable[[], Volume]) -> Volume:
    """The volume of before, or one made. Those kept take up to a quarter of the memory, or are but one."""
    found = _kept.pop(key, None)
    while found is None and sum(each.values.nbytes for each in _kept.values()) > how.memory_mib << 18:
        del _kept[next(iter(_kept))]
    _kept[key] = found or make()
    return _kept[key]


def _stamps(file: str) -> list[object]:
    """Changes with the file, or with any of the folder's."""
    try:
        statuses = [os.stat(name) for name in folder_files(file) or [file]]  # noqa: PTH116  # may be no path at all
    except (OSError, ValueError):
        return []
    return [(status.st_size, status.st_mtime_ns) for status in statuses]


def _volume(file: str, how: How) -> Volume:
    if os.path.isdir(file):  # noqa: PTH112  # a Path's raises where it may not look, or the name is too long
        from cxrtl.data.images import series

        return series.volume(file, how)
    data = read(file)
    kind = format_of(data)
    if kind == "NIfTI":
        return volume.nifti(data)
    if kind == "DICOM":
        from cxrtl.data.images import dicom

        return dicom.volume(data, how)
    raise Unusable("no_volume")


def _mask(file: str, how: How, at: int | None, grid: Grid, image: str) -> Grey:
    """uint8 `[height, width]`: 0, or the structure's number from 1."""
    try:
        key = (file, how, image, *_stamps(file), *_stamps(image))
        found = _recent(key, how, lambda: _structures(file, how, grid)) if how.slices else _structures(file, how, grid)
        if found.affine is None and len(found.values) == 1:  # a picture, of this slice
            at, grid = 0, Grid((1, *grid.shape[1:]), None)
        if not found.grid.is_that_of(grid):
            raise Unusable("mask_size")
        mask: Grey = volume.neighbours(found.values, 1, at)[0]
    except Unusable as unusable:
        raise Unusable(unusable.reason if unusable.reason in _OF_MASKS else "mask_unusable") from None
    return mask


def _structures(file: str, how: How, grid: Grid) -> Volume:
    """The whole mask, a picture or a volume, in structures' numbers."""
    data = read(file)
    kind = format_of(data)
    if kind == "NIfTI":
        found = volume.nifti_numbers(data)
    elif kind == "DICOM":
        from cxrtl.data.images import seg

        found = seg.numbers(data, grid, how)
    else:
        found = Volume(raster.numbers(data, kind)[None])
    return replace(found, values=_numbered(found.values, how.structures))


def _numbered(numbers: Numbers, structures: int) -> Grey:
    """`[slices, height, width]`: 0, or the structure's number from 1."""
    values = sorted({value for plane in numbers for value in np.unique(plane).tolist()})
    if structures == 1 and len(values) <= 2 and values[0] >= 0 and (len(values) < 2 or values[0] == 0):
        drawn: Grey = (numbers != 0).astype(np.uint8)
        return drawn  # 0 and 255, or whatever else one structure is drawn in
    if not np.isin(values, np.arange(structures + 1)).all():
        raise Unusable("mask_values")
    numbered: Grey = numbers.astype(np.uint8)
    return numbered
