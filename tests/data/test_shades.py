"""The grey-scale pipeline of DICOM against values worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_voi_lut
from pydicom.uid import ExplicitVRBigEndian

from tests.data.test_dicom import RAMP, grey, radiograph


def rescaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """`low`..`high` onto 0..255, in fractions."""
    return np.clip((values - low) / (high - low), 0, 1) * 255


def table(entries: np.ndarray, first: int, bits: int = 16, kind: str = "<u2") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 2**16, first, bits])
    item.add_new("LUTData", "OW", entries.astype(kind).tobytes())
    return item


class TestGreyScale:
    def test_without_window_the_range_present(self) -> None:
        assert np.abs(grey(radiograph()) - rescaled(RAMP, 1000, 2023)).max() <= 0.51

    def test_eight_bits_stay(self) -> None:
        values = np.linspace(40, 90, 32 * 32).astype(np.uint8).reshape(32, 32)
        assert (grey(radiograph(values)) == values).all()

    @pytest.mark.parametrize(("slope", "intercept"), [(1, 0), ("1.0", "0.0"), ("1.000000", "0")])
    def test_a_scale_that_changes_nothing_is_none(self, slope: Any, intercept: Any) -> None:
        """Many makers write it, and 8 bits stay as they are even so."""
        values = np.linspace(40, 90, 32 * 32).astype(np.uint8).reshape(32, 32)
        found = grey(radiograph(values, RescaleSlope=slope, RescaleIntercept=intercept))
        assert np.array_equal(found, values)
        scaled = grey(radiograph(values, RescaleSlope=2, RescaleIntercept=intercept))
        assert (scaled.min(), scaled.max()) == (0, 255)

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

    def test_voi_lut_wins_over_the_window(self) -> None:
        entries = np.linspace(65535, 0, 512).astype(np.uint16)  # falls from 1100 to 1611
        dataset = radiograph(VOILUTSequence=[table(entries, 1100)], WindowCenter=1500, WindowWidth=10)
        expected = entries[np.clip(RAMP.astype(int) - 1100, 0, 511)] / 65535 * 255
        assert np.abs(grey(dataset) - expected).max() <= 0.51

    def test_modality_lut(self) -> None:
        item = table(np.arange(2048) * 3, 0)
        item.ModalityLUTType = "US"
        assert np.abs(grey(radiograph(ModalityLUTSequence=[item])) - rescaled(RAMP, 1000, 2023)).max() <= 0.51

    def test_modality_lut_of_all_signed_values(self) -> None:
        """What lies further from the table's first than 16 bits can say is not taken for the first."""
        values = np.linspace(-32768, 32767, 32 * 32).astype(np.int16).reshape(32, 32)
        found = grey(radiograph(values, ModalityLUTSequence=[table(np.arange(2**16), -32768)]))
        assert np.abs(found - rescaled(values.astype(float), -32768, 32767)).max() <= 0.51

    @pytest.mark.parametrize("name", ["ModalityLUTSequence", "VOILUTSequence"])
    def test_tables_of_bytes(self, name: str) -> None:
        """Two to a word, PS3.3 C.11.1.1."""
        found = grey(radiograph(**{name: [table(np.arange(256), 1500, 8, "u1")]}))
        assert np.abs(found - np.clip(RAMP.astype(int) - 1500, 0, 255)).max() <= 0.51

    @pytest.mark.parametrize(("bits", "kind"), [(16, ">u2"), (8, "u1")])
    def test_tables_of_words_with_the_high_byte_first(self, bits: int, kind: str) -> None:
        entries = np.linspace(0, 2**bits - 1, 512).astype(int)
        little = grey(radiograph(VOILUTSequence=[table(entries, 1100, bits, kind.replace(">", "<"))]))
        packed = table(entries, 1100, bits, kind)
        if bits == 8:
            packed.LUTData = np.frombuffer(packed.LUTData, "u2").byteswap().tobytes()
        big = radiograph(RAMP.byteswap(), VOILUTSequence=[packed])
        big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        assert np.array_equal(grey(big), little) and np.ptp(little) > 200

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

    def test_signed(self) -> None:
        found = grey(radiograph((RAMP.astype(np.int32) - 1500).astype(np.int16)))
        assert (found == grey(radiograph())).all()


PADDED = RAMP.copy()
PADDED[:8] = 0


class TestPadding:
    """Black on every path, so that a collimated field does not tell scanners apart."""

    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    @pytest.mark.parametrize("view", ["none", "window", "LUT"])
    def test_black_whatever_comes_before(self, photometric: str, view: str) -> None:
        attributes: dict[str, Any] = {"PhotometricInterpretation": photometric}
        if view == "window":
            attributes |= {"WindowCenter": 100, "WindowWidth": 4001}  # which shows padding as grey
        if view == "LUT":
            attributes["VOILUTSequence"] = [table(np.linspace(50000, 20000, 2048), 0)]
        found = grey(radiograph(PADDED, PixelPaddingValue=0, **attributes))
        assert not found[:8].any()
        if view == "none":
            expected = rescaled(PADDED[8:], 1256, 2023)
            assert np.abs(found[8:] - (255 - expected if photometric == "MONOCHROME1" else expected)).max() <= 0.51
        else:
            without = grey(radiograph(PADDED, **attributes))
            assert without[:8].any() and np.array_equal(found[8:], without[8:])

    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    def test_of_eight_bits(self, photometric: str) -> None:
        values = np.linspace(40, 90, 32 * 32).astype(np.uint8).reshape(32, 32)
        values[:8] = 77
        found = grey(radiograph(values, PixelPaddingValue=77, PhotometricInterpretation=photometric))
        seen = values != 77
        assert not found[~seen].any()
        assert np.array_equal(found[seen], 255 - values[seen] if photometric == "MONOCHROME1" else values[seen])

    def test_range_of_values(self) -> None:
        values = PADDED.copy()
        values[:4] = 5
        found = grey(radiograph(values, PixelPaddingValue=0, PixelPaddingRangeLimit=9))
        assert not found[:8].any() and np.abs(found[8:] - rescaled(values[8:], 1256, 2023)).max() <= 0.51

    def test_signed_and_written_as_if_unsigned(self) -> None:
        dataset = radiograph(np.where(PADDED == 0, -2000, PADDED).astype(np.int16))
        dataset.add_new("PixelPaddingValue", "US", 63536)
        assert np.array_equal(grey(dataset), grey(radiograph(PADDED, PixelPaddingValue=0)))

    def test_nothing_but_padding(self) -> None:
        assert not grey(radiograph(np.full((32, 32), 9, np.uint16), PixelPaddingValue=9)).any()
