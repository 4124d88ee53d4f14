"""A folder of DICOM files of a slice each, as CT and MR are mostly kept, to one volume."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from cxrtl.data.images import dicom
from cxrtl.data.images.files import format_of, read
from cxrtl.data.images.rules import MAX_FOLDER_BYTES, MAX_FOLDER_FILES, MAX_VOXELS, How, Unusable, Volume, folder_files
from cxrtl.data.images.shades import Plane

_NO_SLICE = ("unknown_format", "no_pixels")  # notes, previews, a DICOMDIR: passed over


def volume(folder: str, how: How) -> Volume:
    """Decode the DICOM images in `folder`, not those in folders within it; one file of several frames will do as well.

    Raises:
        Unusable: with the reason why one of them cannot be used, or why they are not the slices of one volume.
    """
    files = folder_files(folder)
    if len(files) > MAX_FOLDER_FILES:
        raise Unusable("too_large_file")
    found: dict[str, list[Plane]] = {}
    size = voxels = 0
    for file in files:
        if Path(file).is_symlink() and not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder)):
            raise Unusable("outside_root")
        data = read(file)
        size += len(data)
        if size > MAX_FOLDER_BYTES:
            raise Unusable("too_large_file")
        planes = _planes(data, how)
        voxels += sum(plane.stored.size for plane in planes)
        if voxels > MAX_VOXELS:
            raise Unusable("too_many_pixels")
        if planes:
            found[file] = planes
    return _assembled(found)


def _planes(data: bytes, how: How) -> list[Plane]:
    try:
        if format_of(data) != "DICOM":
            return []
        with dicom.reasons():
            return dicom.planes(dicom.opened(data, how))
    except Unusable as unusable:
        if unusable.reason in _NO_SLICE:
            return []
        raise


def _assembled(found: dict[str, list[Plane]]) -> Volume:
    slices = [plane for planes in found.values() for plane in planes]
    if len(slices) < 2:
        raise Unusable("no_volume")
    if 1 < len(found) < len(slices) or len({plane.stored.shape for plane in slices}) > 1:
        raise Unusable("mixed_series")
    with dicom.reasons():
        made = dicom.of_planes(slices)
    if made.affine is None and len(found) > 1:  # the order of their names says nothing
        raise Unusable("slice_gaps")
    return replace(made, source=next(iter(found)))
