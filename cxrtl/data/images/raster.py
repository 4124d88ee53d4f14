"""JPEG, PNG, TIFF and BMP to grey, through Pillow. No other format of Pillow's is ever tried."""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

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


def format_of(data: bytes) -> str:
    """The format that the first bytes tell, "" for none of these."""
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "")


def to_grey(data: bytes, kind: str) -> Grey:
    """Decode to uint8 `[height, width]`; Unusable with a reason for anything that is damaged."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # whatever another library in this process has set
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode(data, kind)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unusable("too_many_pixels") from None
    except (Unusable, MemoryError):
        raise
    except UnidentifiedImageError:  # two bytes make a BMP, so much that is none begins like one
        raise Unusable("unknown_format" if kind == "BMP" else "undecodable") from None
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
        raise Unusable("truncated" if "truncated" in str(error).lower() else "undecodable") from None


def _decode(data: bytes, kind: str) -> Grey:
    with Image.open(io.BytesIO(data), formats=(kind,)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Unusable("too_many_pixels")
        if getattr(image, "n_frames", 1) > 1:
            raise Unusable("several_images")
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(("I", "F")):
            return stretch(np.asarray(upright))
        if upright.mode not in ("1", "L", "LA", "RGB", "RGBA"):
            upright = upright.convert("RGB")
        return np.asarray(upright.convert("L"))


def stretch(values: npt.NDArray[np.generic]) -> Grey:
    """Map smallest..largest onto 0..255, rounded to nearest; a flat image becomes black.

    Whole numbers of up to 32 bits are mapped in whole numbers. Fractions that are not finite make it Unusable.
    """
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise Unusable("undecodable")
        lowest = float(values.min())
        width = float(values.max()) - lowest
        shares = (values.astype(np.float64) - lowest) / (width or 1.0)
        return np.floor(shares * 255 + 0.5).astype(np.uint8)
    low = int(values.min())
    span = int(values.max()) - low
    # 2 · 255 · span must fit: 32 bits hold it for all 16-bit images
    whole = values.astype(np.int32 if span < 2**21 and abs(low) < 2**30 else np.int64)
    return ((2 * 255 * (whole - low) + span) // max(2 * span, 1)).astype(np.uint8)
