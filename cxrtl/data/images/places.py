"""Where DICOM slices lie (PS3.3 C.7.6.2): from their positions to the order of a volume and its affine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from cxrtl.data.images.rules import Unusable

SERIES = "SeriesInstanceUID"
TAGS = (SERIES, "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_SAME = 1e-3  # millimetres, or parts of a direction
_UNEVEN = 0.25  # of the distance between slices: positions are rounded, a missing slice makes 1
_TO_NIFTI = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's axes run to the left and the back

Numbers = npt.NDArray[np.float64]


class Place(NamedTuple):
    """Millimetres in DICOM's axes: the first pixel's centre, and the ways to its right and its lower neighbour."""

    corner: Numbers
    along: Numbers
    down: Numbers


def place_of(about: Dataset) -> Place | None:
    """None where the file does not say it in full."""
    corner, directions, spacing = (
        _floats(about, name, count)
        for name, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2))
    )
    if corner is None or directions is None or spacing is None or not (spacing > 0).all():
        return None
    return Place(corner, directions[:3] * spacing[1], directions[3:] * spacing[0])


def in_order(slices: Sequence[Dataset]) -> tuple[list[int], Numbers | None]:
    """The slices' numbers from the lowest to the highest along their normal, right × down, and the volume's affine.

    As they stand and None where none has a position.

    Raises:
        Unusable: mixed_series, slice_gaps.
    """
    if len({str(about.get(SERIES, "")) for about in slices}) > 1:
        raise Unusable("mixed_series")
    if not any("ImagePositionPatient" in about for about in slices):
        return list(range(len(slices))), None
    found = [place for place in map(place_of, slices) if place]
    if len(found) < len(slices):
        raise Unusable("slice_gaps")
    if np.ptp([np.concatenate(place[1:]) for place in found], axis=0).max() > _SAME:
        raise Unusable("mixed_series")
    corners = np.array([place.corner for place in found])
    normal = np.cross(found[0].along, found[0].down)
    heights = corners @ (normal / (np.linalg.norm(normal) or 1.0))
    order = np.argsort(heights, kind="stable")
    steps, gaps = np.diff(corners[order], axis=0), np.diff(heights[order])
    if (gaps < _SAME).any():
        raise Unusable("mixed_series")
    if (np.linalg.norm(steps - np.median(steps, axis=0), axis=1) > _UNEVEN * np.median(gaps)).any():
        raise Unusable("slice_gaps")
    affine = np.eye(4)
    affine[:3] = np.column_stack([found[0].along, found[0].down, steps.mean(axis=0), corners[order[0]]])
    return order.tolist(), _TO_NIFTI @ affine


def slice_at(place: Place, affine: Numbers) -> int | None:
    """Which slice of a volume, by its affine, lies at `place`; None where none does, or in another direction."""
    ours = _TO_NIFTI @ affine
    if max(np.abs(ours[:3, 0] - place.along).max(), np.abs(ours[:3, 1] - place.down).max()) > _SAME:
        return None
    step, way = ours[:3, 2], place.corner - ours[:3, 3]
    number = round(float(way @ step / (step @ step)))
    return number if np.linalg.norm(way - number * step) <= _UNEVEN * np.linalg.norm(step) else None


def _floats(about: Dataset, name: str, count: int) -> Numbers | None:
    value = about.get(name)
    if value is None or isinstance(value, (str, float, int)) or len(value) != count:
        return None
    numbers = np.array([float(number) for number in value])
    return numbers if np.isfinite(numbers).all() else None
