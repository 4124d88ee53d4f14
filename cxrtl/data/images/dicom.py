"""DICOM to grey, through pydicom and its decoders: `shades` says how, `places` puts slices in order.

Only the tags named in these modules are looked at, and those of `data.attributes` where they are asked for. No tag's
value reaches a message.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cxrtl.data.attributes import TAGS, of_tags
from cxrtl.data.images import places, shades
from cxrtl.data.images.rules import MAX_NESTING, MAX_PIXELS, MAX_VOXELS, Grey, How, Unusable, Volume
from cxrtl.data.images.shades import Numbers, Plane, to_greys

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and, behind a dot, its multi-frame kinds
# A frame's functional groups that hold what a file of one picture says at its top
_GROUPS = (
    *("PixelValueTransformationSequence", "FrameVOILUTSequence", "PlanePositionSequence"),
    *("PlaneOrientationSequence", "PixelMeasuresSequence", "SegmentIdentificationSequence"),
)
# (implicit, little-endian) → transfer syntax
_UNSTATED: dict[tuple[bool | None, bool | None], UID] = {
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}
_SAID_THERE = (*shades.TAGS, *places.TAGS, "ReferencedSegmentNumber")


def to_grey(data: bytes, how: How) -> Grey:
    """Decode a file of one picture to uint8 `[height, width]`; Unusable with a reason for anything else."""
    with reasons():
        dataset = opened(data, how)
        if frames(dataset) > 1:
            raise Unusable("several_images")
        stored = _stored(dataset)
        if stored.ndim == 3:
            return _luminance(stored, dataset)
        (grey,) = to_greys([Plane(stored, next(_said(dataset, shades.TAGS)))])
        return np.asarray(grey)


def volume(data: bytes, how: How) -> Volume:
    """Decode a file of several frames, in the order of their positions, or as stored where none has one."""
    with reasons():
        dataset = opened(data, how)
        if frames(dataset) < 2:
            raise Unusable("no_volume")
        return of_planes(planes(dataset))


def of_planes(found: list[Plane]) -> Volume:
    """Slices put in order. Unusable where they make no volume."""
    order, affine = places.in_order([plane.about for plane in found])
    return Volume(to_greys([found[place] for place in order]), affine)


def planes(dataset: Dataset) -> list[Plane]:
    """Each frame of a grey file, with what is said of it and of where it lies."""
    stored = _stored(dataset)
    several = frames(dataset) > 1
    if stored.ndim != 2 + several:
        raise Unusable("several_images")
    # the top's position would be that of the first frame alone
    said = _said(dataset, (*shades.TAGS, places.SERIES) if several else (*shades.TAGS, *places.TAGS))
    return [Plane(frame, about) for frame, about in zip(stored if several else [stored], said, strict=True)]


def _said(dataset: Dataset, names: Iterable[str]) -> Iterator[Dataset]:
    """Of each frame, what the file says at its top of `names`, before it what its shared functional groups say, and
    before these its own. The pixels stay behind."""
    groups = [list(dataset.get(f"{whose}FunctionalGroupsSequence") or []) for whose in ("Shared", "PerFrame")]
    for number in range(frames(dataset)):
        about = Dataset()
        about.file_meta = dataset.file_meta
        _add(about, dataset, names)
        for group in (*groups[0][:1], *groups[1][number : number + 1]):
            for item in (item for name in _GROUPS for item in list(group.get(name) or [])[:1]):
                _add(about, item, _SAID_THERE)
        yield about


def _add(about: Dataset, part: Dataset, names: Iterable[str]) -> None:
    for name in names:
        if name in part:
            about.add(part[name])


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


@contextmanager
def reasons() -> Iterator[None]:
    """Silence; and Unusable with a reason for whatever pydicom raises."""
    try:
        with _hush():
            yield
    except (Unusable, MemoryError):
        raise
    except RecursionError:
        raise Unusable("nested_too_deep") from None
    except EOFError:
        raise Unusable("truncated") from None
    except Exception as error:  # damaged files raise nearly anything
        if "unable to allocate" in str(error).lower():  # NumPy's, within a decoder, of which pydicom keeps the text
            raise MemoryError from None
        raise Unusable(_why(str(error).lower())) from None


def _why(text: str) -> str:
    """The reason behind what pydicom says."""
    words = {
        "truncated": ("end of file", "truncated", "less than expected"),
        "no_decoder": ("does not support", "missing dependencies", "no pixel data decoders"),
    }
    return next((reason for reason, known in words.items() if any(word in text for word in known)), "undecodable")


def opened(data: bytes, how: How) -> Dataset:
    """The file, undecoded; Unusable where that already tells. To be called within `reasons`."""
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:  # a file that begins at its data: pydicom tells by what it found
        dataset.file_meta.TransferSyntaxUID = _UNSTATED[dataset.original_encoding]
    if _depth(dataset) > MAX_NESTING:
        raise Unusable("nested_too_deep")
    if not any(name in dataset for name in _PIXELS) or not {"Rows", "Columns"} <= set(dataset.dir()):
        raise Unusable("no_pixels")
    pixels = int(dataset.Rows) * int(dataset.Columns)
    if pixels > MAX_PIXELS or pixels * frames(dataset) > MAX_VOXELS:
        raise Unusable("too_many_pixels")
    if how.burned_in == "refuse" and str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES":
        raise Unusable("burned_in")
    if how.secondary_capture == "refuse" and _is_secondary_capture(dataset):
        raise Unusable("secondary_capture")
    return dataset


def frames(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


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


def _stored(dataset: Dataset) -> Numbers:
    """`[height, width]`, with frames before it where there are several, and colours behind it where there are any."""
    stored = pixel_array(dataset)
    several = frames(dataset) > 1
    if stored.size > (MAX_VOXELS if several else 3 * MAX_PIXELS):  # the compressed stream knows a size of its own
        raise Unusable("too_many_pixels")
    coloured = int(dataset.get("SamplesPerPixel") or 1) > 1
    if _is_palette(dataset):
        stored, coloured = apply_color_lut(stored, dataset), True
    if stored.ndim != 2 + several + coloured:  # so does it know a number of frames
        raise Unusable("several_images")
    return stored


def _is_palette(dataset: Dataset) -> bool:
    return str(dataset.get("PhotometricInterpretation", "")).strip().upper() == "PALETTE COLOR"


def _luminance(colour: Numbers, dataset: Dataset) -> Grey:
    """Of deep colour the high bits that are used."""
    said = dataset.RedPaletteColorLookupTableDescriptor[2] if _is_palette(dataset) else dataset.get("BitsStored")
    bits = min(int(said or 64), 8 * colour.dtype.itemsize)
    channels = np.minimum(colour[..., :3] >> max(bits - 8, 0), 255).astype(np.uint8)
    return np.asarray(Image.fromarray(np.ascontiguousarray(channels)).convert("L"))
