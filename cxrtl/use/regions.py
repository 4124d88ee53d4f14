"""Regions that people drew, from a table, as masks of the prepared square: what maps are compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrtl.config import Data
from cxrtl.data.ids import keyed_id
from cxrtl.data.images import How, Unusable
from cxrtl.data.images.files import decode_file, square
from cxrtl.data.sources import table
from cxrtl.errors import ManifestError

BOX = ("left", "top", "right", "bottom")


def read_regions(path: Path, image_column: str, how: How, key: bytes) -> dict[str, npt.NDArray[np.bool_]]:
    """Image id → region `[size, size]`, of a table with the image column as the label table has it, and either `mask`
    (a path relative to the table; white is inside) or `left`, `top`, `right`, `bottom` (shares of the image's width
    and height). Rows of one image are joined.

    Raises:
        ManifestError: the table cannot be read, has neither, or a mask or box is none.
    """
    data = Data(source="table", path=str(path), image_column=image_column)
    names, _ = table.images_of(data)
    columns = table.columns_of(data)
    if "mask" in columns:
        masks = [_mask(path.parent / name, how) for name in columns["mask"]]
    elif set(BOX) <= columns.keys():
        if how.aspect != "stretch":
            raise ManifestError(f"boxes do not say the image's shape, which aspect {how.aspect!r} needs: give masks")
        try:
            masks = [_box(corners, how) for corners in zip(*(map(float, columns[name]) for name in BOX), strict=True)]
        except ValueError:
            raise ManifestError(
                f"{path.name} holds a box that is none: 0 ≤ left < right ≤ 1, 0 ≤ top < bottom ≤ 1"
            ) from None
    else:
        raise ManifestError(f"{path.name} has neither a column mask nor the columns {', '.join(BOX)}")
    found: dict[str, npt.NDArray[np.bool_]] = {}
    for name, mask in zip(names, masks, strict=True):
        image = keyed_id("img", name, key)
        found[image] = found[image] | mask if image in found else mask
    return found


def _mask(path: Path, how: How) -> npt.NDArray[np.bool_]:
    try:
        return decode_file(str(path), how).pixels >= 128
    except Unusable as unusable:
        raise ManifestError(f"a mask cannot be used: {unusable.reason}. Mend the file or take its row out") from None


def _box(corners: tuple[float, ...], how: How) -> npt.NDArray[np.bool_]:
    left, top, right, bottom = corners
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(corners)
    side = 1024  # drawn large, and fitted into the square as an image is
    grey = np.zeros((side, side), np.uint8)
    grey[round(top * side) : round(bottom * side), round(left * side) : round(right * side)] = 255
    return square(grey, how) >= 128
