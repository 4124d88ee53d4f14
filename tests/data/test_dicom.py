"""DICOM: colours, what is refused, and what a file may not say of a patient."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from cxrtl.data.images import REASONS, How, Unusable
from cxrtl.data.images.files import decode_file, to_grey

KEEP = How(32, secondary_capture="keep", burned_in="keep")
BUNDLED = sorted(
    path
    for path in (Path(pydicom.__file__).parent / "data").rglob("*")
    if path.is_file() and path.suffix not in (".py", ".pyc")
)
RAMP = np.arange(1000, 1000 + 32 * 32, dtype=np.uint16).reshape(32, 32)


def radiograph(values: np.ndarray = RAMP, **attributes: Any) -> Dataset:
    """A plain grey image, as a CR system stores it."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * values.dtype.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(values.dtype.kind == "i")
    dataset.PixelData = values.tobytes()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def encoded(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def grey(dataset: Dataset, how: How = KEEP) -> np.ndarray:
    return to_grey(encoded(dataset), how)


def reason(dataset: Dataset, how: How) -> str:
    with pytest.raises(Unusable) as caught:
        grey(dataset, how)
    return caught.value.reason


class TestColour:
    @pytest.mark.parametrize("bits", [8, 10, 12, 16])
    def test_the_high_ones_of_the_bits_used(self, bits: int) -> None:
        values = (np.arange(32 * 32) * (2**bits - 1) // 1023).astype(np.uint16).reshape(32, 32)
        said = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
        found = grey(radiograph(np.dstack([values] * 3), **said, BitsStored=bits, HighBit=bits - 1))
        assert np.array_equal(found, values >> (bits - 8)) and found.max() == 255

    @pytest.mark.parametrize("bits", [8, 16])
    def test_palette_of_bytes_or_words(self, bits: int) -> None:
        """Entries of 8 bits, too, may stand in words."""
        dataset = radiograph((np.arange(32 * 32) % 256).astype(np.uint8).reshape(32, 32))
        dataset.PhotometricInterpretation = "PALETTE COLOR"
        entries = np.arange(255, -1, -1) * (257 if bits == 16 else 1)
        for name in ("Red", "Green", "Blue"):
            dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, bits])
            dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", entries.astype("<u2").tobytes())
        assert np.array_equal(grey(dataset).ravel(), 255 - np.arange(32 * 32) % 256)


class TestRefused:
    def test_burned_in_names(self) -> None:
        assert reason(radiograph(BurnedInAnnotation="YES"), How(32)) == "burned_in"
        assert grey(radiograph(BurnedInAnnotation="YES"), KEEP).shape == (32, 32)
        assert grey(radiograph(BurnedInAnnotation="NO"), How(32)).shape == (32, 32)

    @pytest.mark.parametrize(
        "attributes",
        [
            {"SOPClassUID": SecondaryCaptureImageStorage},
            {"SOPClassUID": f"{SecondaryCaptureImageStorage}.2"},
            {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
        ],
    )
    def test_secondary_capture(self, attributes: dict[str, Any]) -> None:
        assert reason(radiograph(**attributes), How(32)) == "secondary_capture"
        assert grey(radiograph(**attributes), KEEP).shape == (32, 32)

    def test_lying_size(self) -> None:
        assert reason(radiograph(Rows=30000, Columns=30000), How(32)) == "too_many_pixels"
        assert reason(radiograph(Rows=33), How(32)) in ("truncated", "undecodable")

    def test_frames(self) -> None:
        assert reason(radiograph(NumberOfFrames=2, Rows=16), How(32)) == "several_images"

    @pytest.mark.parametrize("depth", [17, 300, 3000])
    @pytest.mark.parametrize("undefined", [False, True])
    def test_nesting(self, depth: int, undefined: bool) -> None:
        """Sequences of a stated length are never opened, so only the others count."""
        data = encoded(radiograph()) + nested(depth, undefined)
        if not undefined:
            assert to_grey(data, How(32)).shape == (32, 32)
            return
        with pytest.raises(Unusable, match="nested_too_deep"):
            to_grey(data, How(32))

    @pytest.mark.parametrize("magic", [b"MZ", b"\x7fELF", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"#!"])
    def test_disguise(self, magic: bytes) -> None:
        data = magic + encoded(radiograph())[len(magic) :]
        with pytest.raises(Unusable, match="ambiguous_format"):
            to_grey(data, How(32))

    def test_nothing_of_the_file_in_the_message_or_the_log(
        self, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        dataset = radiograph(PatientName="CANARY7319^X", PatientBirthDate="CANARY73", SpecificCharacterSet="CANARY")
        data = bytearray(encoded(dataset))
        broken: list[Callable[[], bytes]] = [lambda: bytes(data[:-9]), lambda: bytes(data[:400]), lambda: bytes(data)]
        for number, make in enumerate(broken):
            (tmp_path / str(number)).write_bytes(make())
            try:
                decode_file(str(tmp_path / str(number)), How(32))
            except Unusable as unusable:
                assert str(unusable) in REASONS
        assert "CANARY" not in "".join(capfd.readouterr()) + caplog.text


def nested(depth: int, undefined: bool) -> bytes:
    """A private sequence within itself, `depth` deep, explicit little endian, behind the pixels."""
    tag, item = b"\xf1\x7f\x10\x10SQ\0\0", b"\xfe\xff\x00\xe0"
    if undefined:
        close = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
        return (tag + b"\xff" * 4 + item + b"\xff" * 4) * depth + close * depth
    data = b""
    for _ in range(depth):
        inside = item + len(data).to_bytes(4, "little") + data
        data = tag + len(inside).to_bytes(4, "little") + inside
    return data
