"""What DICOM stores to shades of grey, in the standard's order (PS3.3 C.11, PS3.4 N.2).

1. stored values → modality LUT, or rescale slope and intercept, which are none where they are 1 and 0
2. → VOI LUT where there is one, else the first window; a window's own range becomes 0..255
3. where there is neither, 8 bits stay as they are, and deeper ones map the range present, padding left out
4. inversion, once, for MONOCHROME1 or PresentationLUTShape INVERSE
5. padding is black, whatever came before

Slices of one volume share one scale: a VOI LUT or window counts only where all have the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRBigEndian

from cxrtl.data.images.raster import stretch
from cxrtl.data.images.rules import Grey, Unusable

TAGS = (
    *("PhotometricInterpretation", "PresentationLUTShape", "BitsStored", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
)

Numbers = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Plane:
    """One picture as it is stored, `[height, width]`, and what its file says of it: `TAGS`, and where it lies."""

    stored: Numbers
    about: Dataset


@dataclass(frozen=True)
class _Window:
    centre: float
    width: float
    function: str

    def shades(self, values: Numbers) -> Grey:
        """PS3.3 C.11.2.1.2 and C.11.2.1.3, onto 0..255."""
        floats = values.astype(np.float32)
        if self.function == "SIGMOID":
            return _bytes(1 / (1 + np.exp(np.clip(-4 * (floats - self.centre) / self.width, -80, 80))))
        if self.function == "LINEAR_EXACT":
            return _bytes((floats - self.centre) / self.width + 0.5)
        return _bytes((floats - (self.centre - 0.5)) / max(self.width - 1, 1e-6) + 0.5)


@dataclass(frozen=True)
class _Table:
    """A modality or VOI LUT: values below or above the table's take its first or last entry."""

    first: int
    bits: int
    entries: bytes  # int64

    def values(self, values: Numbers) -> Numbers:
        entries = np.frombuffer(self.entries, np.int64)
        return entries[self._places(values, len(entries))]

    def shades(self, values: Numbers) -> Grey:
        entries = np.frombuffer(self.entries, np.int64)
        return _bytes(entries / (2**self.bits - 1))[self._places(values, len(entries))]

    def _places(self, values: Numbers, count: int) -> npt.NDArray[np.int64]:
        places: npt.NDArray[np.int64] = np.clip(np.floor(values).astype(np.int64) - self.first, 0, count - 1)
        return places


def to_greys(planes: Sequence[Plane]) -> Grey:
    """uint8 `[planes, height, width]` of planes of one size, all on one scale."""
    views = {_view(plane.about) for plane in planes}
    view = views.pop() if len(views) == 1 else None
    within = None if view or all(map(_is_grey_already, planes)) else _range(planes)
    greys = np.empty((len(planes), *planes[0].stored.shape), np.uint8)
    for place, plane in enumerate(planes):  # one by one: a volume of fractions would be large
        values, padded = _values(plane), _padding(plane)
        if view:
            grey = view.shades(values)
        elif within is None:
            grey = values * np.uint8(255) if _bits(plane) == 1 else values
        else:
            grey = stretch(values if padded is None else np.where(padded, within[0], values), within)
        greys[place] = 255 - grey if _is_inverted(plane.about) else grey
        if padded is not None:
            greys[place][padded] = 0
    return greys


def _values(plane: Plane) -> Numbers:
    """`stored` behind the modality LUT."""
    about = plane.about
    table = about.get("ModalityLUTSequence")
    if table:
        return _table(table[0], about).values(plane.stored)
    slope, intercept = (about.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope in (None, "") or intercept in (None, "") or (slope, intercept) == (1, 0):
        return plane.stored
    return plane.stored.astype(np.float64) * float(slope) + float(intercept)


def _is_grey_already(plane: Plane) -> bool:
    return plane.stored.dtype == np.uint8 and _bits(plane) in (1, 8) and _values(plane) is plane.stored


def _bits(plane: Plane) -> int:
    return int(plane.about.get("BitsStored") or 8 * plane.stored.dtype.itemsize)


def _is_inverted(about: Dataset) -> bool:
    words = [_word(about, name) for name in ("PhotometricInterpretation", "PresentationLUTShape")]
    return words[0] == "MONOCHROME1" or words[1] == "INVERSE"


def _word(about: Dataset, name: str) -> str:
    return str(about.get(name) or "").strip().upper()


def _range(planes: Sequence[Plane]) -> tuple[Any, Any]:
    """The smallest and the largest value that is no padding."""
    spans = []
    for plane in planes:
        values, padded = _values(plane), _padding(plane)
        seen = values if padded is None else values[~padded]
        if seen.size:
            spans += [seen.min(), seen.max()]
    return (np.min(spans), np.max(spans)) if spans else (0, 0)


def _padding(plane: Plane) -> npt.NDArray[np.bool_] | None:
    """Where the scanner saw nothing; None where it says no such thing."""
    value, limit = (plane.about.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if not isinstance(value, int):
        return None
    ends, kind = [value, limit if isinstance(limit, int) else value], plane.stored.dtype
    if kind.itemsize == 2:  # many write -2000 as 63536
        ends = [int(np.int64(end).astype(kind)) for end in ends]
    padded: npt.NDArray[np.bool_] = (plane.stored >= min(ends)) & (plane.stored <= max(ends))
    return padded if padded.any() else None


def _view(about: Dataset) -> _Window | _Table | None:
    """The VOI LUT, else the first window that means anything; None where there is neither."""
    table = about.get("VOILUTSequence")
    return _table(table[0], about) if table else _window(about)


def _table(item: Dataset, about: Dataset) -> _Table:
    """What the sequence's item holds; `about` says in which order the file's words have their bytes."""
    count, first, bits = (int(entry) for entry in item.LUTDescriptor)
    count, raw = count or 2**16, item.LUTData
    if isinstance(raw, bytes):  # words, which hold two entries each where these are of 8 bits
        big = about.file_meta.get("TransferSyntaxUID") == ExplicitVRBigEndian
        words = np.frombuffer(raw, ">u2" if big else "<u2").astype("<u2")
        raw = words.view(np.uint8) if 2 * len(words) < 2 * count else words
    entries = np.asarray(raw, np.int64)[:count]
    if not entries.size:
        raise Unusable("undecodable")
    return _Table(first, bits, entries.tobytes())


def _window(about: Dataset) -> _Window | None:
    pair = [about.get(name) for name in ("WindowCenter", "WindowWidth")]
    firsts = [value[0] if isinstance(value, (list, MultiValue)) and value else value for value in pair]
    if any(value is None or value == "" or isinstance(value, (list, MultiValue)) for value in firsts):
        return None
    centre, width = (float(value) for value in firsts if value is not None)
    found = _Window(centre, width, _word(about, "VOILUTFunction") or "LINEAR")
    least = 0 if found.function in ("SIGMOID", "LINEAR_EXACT") else 1
    return found if np.isfinite([centre, width]).all() and width > 0 and width >= least else None


def _bytes(shares: npt.NDArray[np.floating[Any]]) -> Grey:
    grey: Grey = np.floor(np.clip(shares, 0, 1) * 255 + 0.5).astype(np.uint8)
    return grey
