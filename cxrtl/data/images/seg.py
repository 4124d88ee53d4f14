"""DICOM SEG (PS3.3 A.51): the mask of a volume, a binary frame for each structure and slice that it is in."""

from __future__ import annotations

import numpy as np

from cxrtl.data.images import dicom
from cxrtl.data.images.places import place_of, slice_at
from cxrtl.data.images.rules import Grid, How, Unusable, Volume


def numbers(data: bytes, grid: Grid, how: How) -> Volume:
    """Each voxel's segment number, 0 where there is none, uint8, on the grid of the images.

    Raises:
        Unusable: mask_size, a frame does not lie on one of the images' slices; mask_unusable, anything else: fractions
            or several segments at a voxel, frames or images that do not say where they lie.
    """
    with dicom.reasons():
        dataset = dicom.opened(data, how)
        if str(dataset.get("SegmentationType", "")).strip().upper() != "BINARY" or grid.affine is None:
            raise Unusable("mask_unusable")
        found = np.zeros(grid.shape, np.uint8)
        for plane in dicom.planes(dataset):
            place, number = place_of(plane.about), int(plane.about.get("ReferencedSegmentNumber") or 0)
            if place is None or not 0 < number < 256:
                raise Unusable("mask_unusable")
            at = slice_at(place, grid.affine)
            if at is None or not 0 <= at < len(found) or plane.stored.shape != grid.shape[1:]:
                raise Unusable("mask_size")
            inside = plane.stored != 0
            if not np.isin(found[at][inside], (0, number)).all():  # another segment's
                raise Unusable("mask_unusable")
            found[at][inside] = number
        return Volume(found, grid.affine)
