"""DICOM to grey, through pydicom and its decoders, in the standard's order (PS3.3 C.11, PS3.4 N.2).

1. stored values → modality LUT, or rescale slope and intercept
2. → VOI LUT where there is one, else the first window; a window's own range becomes 0..255
3. where there is neither, 8 bits stay as they are, and deeper ones map the range present, padding left out
4. inversion, once, for MONOCHROME1 or PresentationLUTShape INVERSE

Only the tags named here are looked at, and those of `data.attributes` where they are asked for. No tag's value reaches
a message.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.sequence import Sequence

from cxrtl.data.attributes import TAGS, of_tags
from cxrtl.data.images.raster import stretch
from cxrtl.data.images.rules import MAX_NESTING, MAX_PIXELS, MAX_VOXELS, Grey, How, Unusable

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and, behind a dot, its multi-frame kinds

Numbers = npt.NDArray[Any]


def to_grey(data: bytes, how: How, frames: bool = False) -> Grey:
    """Decode to uint8 `[height, width]`; with `frames`, several to `[frames, height, width]`, which share one scale.

    Unusable with a reason for anything else.
    """
    try:
        with _hush():
            dataset = pydicom.dcmread(io.BytesIO(data), force=True)
            _refuse(dataset, how, frames)
            return _decode(dataset)
    except (Unusable, MemoryError):
        raise
    except RecursionError:
        raise Unusable("nested_too_deep") from None
    except EOFError:
        raise Unusable("truncated") from None
    except Exception as error:  # damaged files raise nearly anything
        raise Unusable(_why(str(error).lower())) from None


def attributes(data: bytes, how: How) -> dict[str, str]:
    """Each of `how.attributes` of a file that `to_grey` takes; "" where its tags do not state it."""
    with _hush():
        dataset = pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=True, specific_tags=list(TAGS))
        tags = {name: _text(dataset, name) for name in TAGS}
    key = bytes.fromhex(how.site_key)
    return {name: of_tags(name, tags, key) for name in how.attributes}


def _text(dataset: Dataset, name: str) -> str:
    """A tag's value, or its code's meaning; "" where there is none or it is damaged, which pydicom finds out late."""
    try:
        value = dataset.get(name)
        if isinstance(value, Sequence):
            value = value[0].get("CodeMeaning") if value else None
        return "" if value is None else str(value).strip()
    except Exception:  # whatever it raises, the tag states nothing
        return ""


@contextmanager
def _hush() -> Iterator[None]:
    """pydicom logs values, names among them, and so do its warnings."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _why(text: str) -> str:
    """The reason behind what pydicom says."""
    words = {
        "truncated": ("end of file", "truncated", "less than expected"),
        "no_decoder": ("does not support", "missing dependencies", "no pixel data decoders"),
    }
    return next((reason for reason, known in words.items() if any(word in text for word in known)), "undecodable")


def _refuse(dataset: Dataset, how: How, frames: bool) -> None:
    """What is told without decoding."""
    if _depth(dataset) > MAX_NESTING:
        raise Unusable("nested_too_deep")
    if not any(name in dataset for name in _PIXELS) or not {"Rows", "Columns"} <= set(dataset.dir()):
        raise Unusable("no_pixels")
    if int(dataset.Rows) * int(dataset.Columns) > MAX_PIXELS:
        raise Unusable("too_many_pixels")
    count = int(dataset.get("NumberOfFrames") or 1)
    if (count > 1) != frames:
        raise Unusable("no_volume" if frames else "several_images")
    if count * int(dataset.Rows) * int(dataset.Columns) > MAX_VOXELS:
        raise Unusable("too_many_pixels")
    if how.burned_in == "refuse" and str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES":
        raise Unusable("burned_in")
    if how.secondary_capture == "refuse" and _is_secondary_capture(dataset):
        raise Unusable("secondary_capture")


def _depth(dataset: Dataset) -> int:
    """How deep the sequences that reading has opened lie within each other; walked without recursion."""
    deepest, level = 0, [dataset]
    while level and deepest <= MAX_NESTING:
        values = [getattr(each.get_item(tag), "value", None) for each in level for tag in each.keys()]  # noqa: SIM118
        level = [item for value in values if isinstance(value, Sequence) for item in value]
        deepest += bool(level)
    return deepest


def _is_secondary_capture(dataset: Dataset) -> bool:
    kind, words = str(dataset.get("SOPClassUID", "")), dataset.get("ImageType") or ()
    words = [words] if isinstance(words, str) else words
    captured = kind == _SECONDARY_CAPTURE or kind.startswith(f"{_SECONDARY_CAPTURE}.")
    return captured or any(str(word).upper().startswith("SCREEN") for word in words)


def _decode(dataset: Dataset) -> Grey:
    stored = pixel_array(dataset)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if stored.size > (3 * MAX_PIXELS if frames == 1 else MAX_VOXELS):  # the compressed stream knows a size of its own
        raise Unusable("too_many_pixels")
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2")).strip().upper()
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
    if stored.ndim == 3 and stored.shape[2] >= 3 and frames == 1:
        return _luminance(stored)
    if stored.ndim != (2 if frames == 1 else 3):
        raise Unusable("several_images")
    grey = _shades(stored, dataset)
    inverse = str(dataset.get("PresentationLUTShape", "")).strip().upper() == "INVERSE"
    return 255 - grey if photometric == "MONOCHROME1" or inverse else grey


def _luminance(colour: Numbers) -> Grey:
    """Deep colour keeps its high bytes."""
    deep = 8 * (colour.dtype.itemsize - 1)
    channels = (colour[..., :3] >> deep).astype(np.uint8)
    return np.asarray(Image.fromarray(np.ascontiguousarray(channels)).convert("L"))


def _shades(stored: Numbers, dataset: Dataset) -> Grey:
    values = apply_modality_lut(stored, dataset)
    table = dataset.get("VOILUTSequence")
    if table:
        return _look_up(values, table[0])
    window = _window(dataset)
    if window:
        return _through(window, values, str(dataset.get("VOILUTFunction", "LINEAR")).strip().upper())
    bits = int(dataset.get("BitsStored") or 8 * stored.dtype.itemsize)
    if values is stored and stored.dtype == np.uint8 and bits in (1, 8):
        return stored * np.uint8(255) if bits == 1 else stored
    return _present(values, _padding(stored, dataset))


def _look_up(values: Numbers, table: Dataset) -> Grey:
    """VOI LUT: values below or above the table's take its first or last entry."""
    count, first, bits = (int(entry) for entry in table.LUTDescriptor)
    count = count or 2**16
    raw = table.LUTData
    entries = (
        np.frombuffer(raw, np.uint8 if bits <= 8 and len(raw) == count else "<u2") if isinstance(raw, bytes) else raw
    )
    entries = np.asarray(entries, dtype=np.float64)[:count]
    places = np.clip(np.floor(values).astype(np.int64) - first, 0, len(entries) - 1)
    return _bytes(entries / (2**bits - 1))[places]


def _window(dataset: Dataset) -> tuple[float, float] | None:
    """(centre, width) of the first window; None where there is none that means anything."""
    pair = [dataset.get(name) for name in ("WindowCenter", "WindowWidth")]
    firsts = [value[0] if isinstance(value, (list, pydicom.multival.MultiValue)) and value else value for value in pair]
    if any(value is None or value == "" or isinstance(value, (list, pydicom.multival.MultiValue)) for value in firsts):
        return None
    centre, width = (float(value) for value in firsts if value is not None)
    return (centre, width) if np.isfinite([centre, width]).all() and width >= 1 else None


def _through(window: tuple[float, float], values: Numbers, function: str) -> Grey:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, onto 0..255."""
    centre, width = window
    floats = values.astype(np.float32)
    if function == "SIGMOID":
        return _bytes(1 / (1 + np.exp(np.clip(-4 * (floats - centre) / width, -80, 80))))
    if function == "LINEAR_EXACT":
        return _bytes((floats - centre) / width + 0.5)
    return _bytes((floats - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5)


def _bytes(shares: npt.NDArray[np.floating[Any]]) -> Grey:
    grey: Grey = np.floor(np.clip(shares, 0, 1) * 255 + 0.5).astype(np.uint8)
    return grey


def _padding(stored: Numbers, dataset: Dataset) -> npt.NDArray[np.bool_] | None:
    """Where the scanner saw nothing; None where it says no such thing."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return None
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    padded: npt.NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return padded if padded.any() and not padded.all() else None


def _present(values: Numbers, padded: npt.NDArray[np.bool_] | None) -> Grey:
    if padded is None:
        return stretch(values)
    seen = values[~padded]
    return stretch(np.where(padded, seen.min(), values))
