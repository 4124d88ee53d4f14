"""One image file to grey pixels. JPEG and PNG, told by content and not by name.

How a pixel becomes a grey byte: 8-bit grey stays; colour becomes luminance (0.299 R + 0.587 G + 0.114 B); alpha and
colour profiles are ignored; 16-bit grey maps the range from the smallest to the largest value present onto 0..255,
because scanners use 10, 12 or 16 of the bits and do not say which; 16-bit colour keeps its high bytes. EXIF
orientation is applied. The square is made by stretching, bilinear with antialiasing, as the published studies do:
aspect is not kept.
"""

from __future__ import annotations

import hashlib
import io
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from cxrtl.data import phantom
from cxrtl.data.sources.common import REFUSED

MAX_FILE_BYTES = 256 * 2**20
MAX_PIXELS = 64 * 2**20
REASONS = (
    "missing",
    "empty",
    "too_large_file",
    "too_many_pixels",
    "not_jpeg_or_png",
    "several_images",
    "truncated",
    "undecodable",
    "unreadable",
    "outside_root",
)

Grey = npt.NDArray[np.uint8]


class Unusable(Exception):
    """A file that cannot be used; `reason` is one of `REASONS` and nothing of the file's name is in the message."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Decoded:
    """`pixels` is uint8 `[size, size]`; the rest speaks of the full-size grey image, upright, sizes in pixels."""

    pixels: Grey
    content_hash: str
    width: int
    height: int


def decode(path: str, size: int) -> Decoded:
    """Read one image of a manifest's `path` column.

    Raises:
        Unusable: with the reason; no other error for anything that a file may hold.
    """
    if path.startswith(phantom.SCHEME):
        grey = phantom.from_path(path, size)
    elif path.startswith(REFUSED):
        raise Unusable(path.split(":", 2)[1])
    else:
        grey = _grey(_read(path))
    height, width = grey.shape
    digest = hashlib.sha256(f"{height}x{width}:".encode() + grey.tobytes()).hexdigest()
    square = Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR)
    return Decoded(np.asarray(square), digest, width, height)


def _read(path: str) -> bytes:
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block for ever
            raise Unusable("unreadable")
        if status.st_size == 0:
            raise Unusable("empty")
        if status.st_size > MAX_FILE_BYTES:
            raise Unusable("too_large_file")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise Unusable("missing") from None
    except (OSError, ValueError):
        raise Unusable("unreadable") from None


def _grey(data: bytes) -> Grey:
    """Decode to uint8 `[height, width]`."""
    if not data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        raise Unusable("not_jpeg_or_png")
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # whatever another library in this process has set
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode(data)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unusable("too_many_pixels") from None
    except Unusable:
        raise
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
        cut = not isinstance(error, UnidentifiedImageError) and "truncated" in str(error).lower()
        raise Unusable("truncated" if cut else "undecodable") from None


def _decode(data: bytes) -> Grey:
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Unusable("too_many_pixels")
        if getattr(image, "n_frames", 1) > 1:
            raise Unusable("several_images")
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            return _stretch(np.asarray(upright).astype(np.int32))
        if upright.mode not in ("1", "L", "LA", "RGB", "RGBA"):
            upright = upright.convert("RGB")
        return np.asarray(upright.convert("L"))


def _stretch(values: npt.NDArray[np.int32]) -> Grey:
    """Map smallest..largest onto 0..255, rounded to nearest, in whole numbers; a flat image becomes black."""
    low, span = int(values.min()), int(values.max() - values.min())
    return ((2 * 255 * (values - low) + span) // max(2 * span, 1)).astype(np.uint8)
