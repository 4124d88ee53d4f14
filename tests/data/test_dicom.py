"""DICOM: pydicom's own files, and the grey-scale pipeline against values worked out by hand."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_voi_lut
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from cxrtl.data.images import REASONS, Decoded, How, Unusable
from cxrtl.data.images.files import decode_file, to_grey
from cxrtl.data.images.guard import decode_all

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


def rescaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """`low`..`high` onto 0..255, in fractions."""
    return np.clip((values - low) / (high - low), 0, 1) * 255


class TestBundled:
    @pytest.fixture(scope="class")
    @staticmethod
    def answers() -> dict[str, Decoded | Unusable]:
        return dict(
            zip((path.name for path in BUNDLED), decode_all([str(path) for path in BUNDLED], KEEP), strict=True)
        )

    def test_each_is_used_or_has_a_reason(self, answers: dict[str, Decoded | Unusable]) -> None:
        """None crashes, hangs or fills the decoder."""
        assert len(answers) > 120
        reasons = {name: answer.reason for name, answer in answers.items() if isinstance(answer, Unusable)}
        assert set(reasons.values()) <= set(REASONS)
        assert not {"decoder_died", "timed_out", "out_of_memory"} & set(reasons.values())
        assert len(answers) - len(reasons) >= 70

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("rtplan.dcm", "no_pixels"),
            ("test-SR.dcm", "no_pixels"),
            ("waveform_ecg.dcm", "no_pixels"),
            ("DICOMDIR", "no_pixels"),
            ("rtdose.dcm", "several_images"),
            ("examples_ybr_color.dcm", "several_images"),
            ("MR_truncated.dcm", "truncated"),
            ("badVR.dcm", "undecodable"),
            ("README.txt", "unknown_format"),
            ("zipMR.gz", "unknown_format"),
            ("rtplan.dump", "unknown_format"),
        ],
    )
    def test_reasons(self, answers: dict[str, Decoded | Unusable], name: str, expected: str) -> None:
        answer = answers[name]
        assert isinstance(answer, Unusable) and answer.reason == expected

    @pytest.mark.parametrize(
        "name",
        [
            "MR_small_RLE.dcm",
            "MR_small_bigendian.dcm",
            "MR_small_expb.dcm",
            "MR_small_implicit.dcm",
            "MR_small_jp2klossless.dcm",
            "MR_small_jpeg_ls_lossless.dcm",
            "MR_small_padded.dcm",
        ],
    )
    def test_one_image_in_every_lossless_coding(self, answers: dict[str, Decoded | Unusable], name: str) -> None:
        reference, answer = answers["MR_small.dcm"], answers[name]
        assert isinstance(reference, Decoded) and isinstance(answer, Decoded)
        assert answer.content_hash == reference.content_hash

    @pytest.mark.parametrize("name", ["SC_rgb_rle.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_gdcm_KY.dcm"])
    def test_colour_in_several_codings(self, name: str) -> None:
        """Run lengths, lossless JPEG and JPEG 2000 of one picture."""
        path = get_testdata_file(name)
        pixels = pydicom.dcmread(path).pixel_array
        expected = np.asarray(Image.fromarray(pixels).convert("L"))
        assert (to_grey(Path(path).read_bytes(), KEEP) == expected).all()

    def test_tiff_in_the_preamble_is_still_dicom(self, answers: dict[str, Decoded | Unusable]) -> None:
        assert Path(get_testdata_file("CT_small.dcm")).read_bytes().startswith(b"II*\0")
        answer = answers["CT_small.dcm"]
        assert isinstance(answer, Decoded) and (answer.width, answer.height) == (128, 128)

    def test_without_preamble(self, answers: dict[str, Decoded | Unusable]) -> None:
        for name in ("ExplVR_LitEndNoMeta.dcm", "ExplVR_BigEndNoMeta.dcm"):  # neither holds an image
            answer = answers[name]
            assert isinstance(answer, Unusable) and answer.reason == "no_pixels"
        bare = encoded(radiograph())[132:]
        assert (to_grey(bare, KEEP) == grey(radiograph())).all()


class TestGreyScale:
    def test_without_window_the_range_present(self) -> None:
        assert np.abs(grey(radiograph()) - rescaled(RAMP, 1000, 2023)).max() <= 0.51

    def test_eight_bits_stay(self) -> None:
        values = np.linspace(40, 90, 32 * 32).astype(np.uint8).reshape(32, 32)
        assert (grey(radiograph(values)) == values).all()

    def test_window(self) -> None:
        """PS3.3 C.11.2.1.2: centre 1500, width 401 spans 1299.5 to 1699.5 about 1499.5."""
        found = grey(radiograph(WindowCenter=1500, WindowWidth=401))
        assert np.abs(found - rescaled(RAMP, 1299.5, 1699.5)).max() <= 0.51

    def test_first_of_several_windows(self) -> None:
        one = grey(radiograph(WindowCenter=[1500, 1000], WindowWidth=[401, 10]))
        assert (one == grey(radiograph(WindowCenter=1500, WindowWidth=401))).all()

    @pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
    def test_window_functions_agree_with_pydicom(self, function: str) -> None:
        dataset = radiograph(WindowCenter=1500, WindowWidth=300, VOILUTFunction=function)
        expected = apply_voi_lut(RAMP, dataset) / 65535 * 255
        assert np.abs(grey(dataset) - expected).max() <= 0.51

    @pytest.mark.parametrize(("centre", "width"), [(1500, 0), ("", ""), ([], []), (None, 400)])
    def test_windows_that_mean_nothing_are_passed_over(self, centre: Any, width: Any) -> None:
        assert (grey(radiograph(WindowCenter=centre, WindowWidth=width)) == grey(radiograph())).all()

    def test_rescale_comes_before_the_window(self) -> None:
        found = grey(radiograph(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=2000, WindowWidth=801))
        assert np.abs(found - rescaled(RAMP * 2.0 - 1000, 1599.5, 2399.5)).max() <= 0.51

    def table(self, entries: np.ndarray, first: int, bits: int = 16) -> Dataset:
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
        item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
        return item

    def test_voi_lut_wins_over_the_window(self) -> None:
        entries = np.linspace(65535, 0, 512).astype(np.uint16)  # falls from 1100 to 1611
        dataset = radiograph(VOILUTSequence=[self.table(entries, 1100)], WindowCenter=1500, WindowWidth=10)
        expected = entries[np.clip(RAMP.astype(int) - 1100, 0, 511)] / 65535 * 255
        assert np.abs(grey(dataset) - expected).max() <= 0.51

    def test_modality_lut(self) -> None:
        item = self.table(np.arange(2048) * 3, 0)
        item.ModalityLUTType = "US"
        assert np.abs(grey(radiograph(ModalityLUTSequence=[item])) - rescaled(RAMP, 1000, 2023)).max() <= 0.51

    @pytest.mark.parametrize(
        ("attributes", "inverted"),
        [
            ({"PhotometricInterpretation": "MONOCHROME1"}, True),
            ({"PresentationLUTShape": "INVERSE"}, True),
            ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, True),
            ({"PresentationLUTShape": "IDENTITY"}, False),
        ],
    )
    def test_inverted_once(self, attributes: dict[str, str], inverted: bool) -> None:
        plain = grey(radiograph(WindowCenter=1500, WindowWidth=401))
        found = grey(radiograph(WindowCenter=1500, WindowWidth=401, **attributes))
        assert (found == (255 - plain if inverted else plain)).all()

    def test_padding_is_no_part_of_the_range(self) -> None:
        values = RAMP.copy()
        values[:8] = 0
        found = grey(radiograph(values, PixelPaddingValue=0))
        assert not found[:8].any()
        assert np.abs(found[8:] - rescaled(values[8:], 1256, 2023)).max() <= 0.51

    def test_signed(self) -> None:
        found = grey(radiograph((RAMP.astype(np.int32) - 1500).astype(np.int16)))
        assert (found == grey(radiograph())).all()


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
