"""JPEG, PNG, TIFF and BMP to grey, through Pillow. No other format of Pillow's is ever tried."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from cxrtl.data.images.rules import MAX_PIXELS, Grey, Unusable

FORMATS = ("JPEG", "PNG", "TIFF", "BMP")
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"BM": "BMP",
}
_DEEP_ALPHA = "LA;16B"  # what Pillow calls 16-bit grey with alpha, which it would cut down to 8 bits


class _Picture(NamedTuple):
    """Loaded and upright. `stored` is Pillow's word for how the file has a pixel; `white_is_zero` of deep grey only."""

    image: Image.Image
    stored: str
    white_is_zero: bool


def format_of(data: bytes) -> str:
    """The format that the first bytes tell, "" for none of these."""
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "")


def to_grey(data: bytes, kind: str) -> Grey:
    """Decode to uint8 `[height, width]`; Unusable with a reason for anything that is damaged."""
    with _reasons(kind):
        picture = _opened(data, kind)
        image = picture.image
        if picture.stored == _DEEP_ALPHA:
            return stretch(_deep(image))
        if image.mode.startswith(("I", "F")):
            grey = stretch(np.asarray(image))
            return 255 - grey if picture.white_is_zero else grey
        if image.mode not in ("1", "L", "LA", "RGB", "RGBA"):
            image = image.convert("RGB")
        return np.asarray(image.convert("L"))


def numbers(data: bytes, kind: str) -> npt.NDArray[Any]:
    """The numbers that the file holds, `[height, width]`, not as shades of grey; Unusable where there are none."""
    with _reasons(kind):
        picture = _opened(data, kind)
        if picture.stored == _DEEP_ALPHA:
            return _deep(picture.image)
        values = np.asarray(picture.image)
        if values.ndim == 2:
            return values
        colours = values[..., : 1 if picture.image.mode in ("LA", "La", "PA") else 3]
        deep = ";16" in picture.stored  # of which Pillow keeps the high bytes alone
        if deep or (colours != values[..., :1]).any():  # coloured: no telling which colour is which
            raise Unusable("undecodable")
        return np.asarray(values[..., 0])


@contextmanager
def _reasons(kind: str) -> Iterator[None]:
    """Whatever Pillow raises becomes Unusable with a reason."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # whatever another library in this process has set
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unusable("too_many_pixels") from None
    except (Unusable, MemoryError):
        raise
    except UnidentifiedImageError:  # two bytes make a BMP, so much that is none begins like one
        raise Unusable("unknown_format" if kind == "BMP" else "undecodable") from None
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
        raise Unusable("truncated" if "truncated" in str(error).lower() else "undecodable") from None


def _opened(data: bytes, kind: str) -> _Picture:
    with Image.open(io.BytesIO(data), formats=(kind,)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Unusable("too_many_pixels")
        if getattr(image, "n_frames", 1) > 1:
            raise Unusable("several_images")
        args = image.tile[0].args if image.tile else ""
        stored = str(args[0] if isinstance(args, tuple) else args)
        if stored == _DEEP_ALPHA:  # as long as RGBA: so high and low bytes come as red and green
            image.tile = [image.tile[0]._replace(args="RGBA")]
        image.load()
        white_is_zero = isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION, 0) == 0
        return _Picture(ImageOps.exif_transpose(image), stored, white_is_zero)


def _deep(image: Image.Image) -> npt.NDArray[np.uint16]:
    high, low = (np.asarray(image)[..., band].astype(np.uint16) for band in (0, 1))
    return high * np.uint16(256) + low


def stretch(values: npt.NDArray[Any], within: tuple[Any, Any] | None = None) -> Grey:
    """Map smallest..largest, or `within`, which holds all there are, onto 0..255, rounded to nearest; flat is black.

    Whole numbers of up to 32 bits are mapped in whole numbers. Fractions that are not finite make it Unusable.
    """
    ends = np.asarray(within or (values.min(), values.max()))
    if "f" in (values.dtype.kind, ends.dtype.kind):
        if not np.isfinite(ends).all():  # what is not finite is the smallest, the largest, or both
            raise Unusable("undecodable")
        lowest, highest = (float(end) for end in ends)
        shares = (values.astype(np.float64) - lowest) / ((highest - lowest) or 1.0)
        return np.floor(shares * 255 + 0.5).astype(np.uint8)
    low, high = (int(end) for end in ends)
    span = high - low
    # 2 · 255 · span must fit: 32 bits hold it for all 16-bit images
    whole = values.astype(np.int32 if span < 2**21 and abs(low) < 2**30 else np.int64)
    return ((2 * 255 * (whole - low) + span) // max(2 * span, 1)).astype(np.uint8)
