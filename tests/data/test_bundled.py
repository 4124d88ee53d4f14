"""Every file that pydicom brings along: through `prepare`, and each coding of a picture against the others."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import get_frame

from cxrtl.data.images import FILES, REASONS, Decoded, How, Unusable
from cxrtl.data.images.files import decode_file, to_grey
from cxrtl.data.images.guard import decode_all
from cxrtl.data.manifest import build
from tests.data.helpers import Prepare, table_config
from tests.data.test_dicom import BUNDLED, KEEP, encoded, grey, radiograph

ROOT = Path(pydicom.__file__).parent / "data"
FOLDERS = ROOT / "test_files/dicomdirtests"
# Files of one picture, without loss or with the same loss; a volume's name begins with a star
CODINGS = [
    "MR_small MR_small_RLE MR_small_bigendian MR_small_expb MR_small_implicit MR_small_jp2klossless "
    "MR_small_jpeg_ls_lossless MR_small_padded",
    "SC_rgb_rle SC_rgb_jpeg_gdcm SC_rgb_gdcm_KY SC_rgb_rle_16bit SC_rgb_rle_32bit",
    "SC_rgb_small_odd SC_rgb_small_odd_big_endian",
    "SC_rgb_dcmtk_+eb+cy+n1 SC_rgb_dcmtk_+eb+cy+np",
    "SC_rgb_dcmtk_+eb+cy+n2 SC_rgb_dcmtk_+eb+cy+s2 SC_rgb_dcmtk_+eb+cy+s4 SC_rgb_jpeg_dcmtk "
    "SC_ybr_full_422_uncompressed",
    "SC_rgb_jls_lossy_line SC_rgb_jls_lossy_sample",
    "SC_rgb_jpeg_dcmd SC_rgb_jpeg SC_jpeg_no_color_transform",
    "SC_rgb_jpeg_app14_dcmd SC_jpeg_no_color_transform_2",
    "SC_rgb_dcmtk_+eb+cr",
    "SC_rgb_jpeg_lossy_gdcm",
    "liver_1frame liver_expb_1frame",
    "rtdose_1frame rtdose_expb_1frame rtdose_rle_1frame",
    "*rtdose *rtdose_expb *rtdose_rle",
    "chrArab chrFren chrFrenMulti chrGerm chrGreek chrH31 chrH32 chrHbrw chrI2 chrRuss chrX1 chrX2",
]
# Red, light red, green, light green, blue, light blue, black, three greys: ten rows of each
BARS = [(255, 0, 0), (255, 128, 128), (0, 255, 0), (128, 255, 128), (0, 0, 255), (128, 128, 255)]
BARS += [(shade, shade, shade) for shade in (0, 64, 192, 255)]
Answers = dict[str, Decoded | Unusable]


def luminance(colour: np.ndarray) -> np.ndarray:
    return colour[..., :3].astype(np.float64) @ [0.299, 0.587, 0.114]


@pytest.fixture(scope="module")
def answers() -> Answers:
    """By the path within pydicom's data."""
    names = [str(path.relative_to(ROOT)) for path in BUNDLED]
    return dict(zip(names, decode_all([str(path) for path in BUNDLED], KEEP), strict=True))


def found(name: str) -> np.ndarray:
    """The whole picture in grey."""
    return to_grey(Path(get_testdata_file(name)).read_bytes(), KEEP)


class TestAll:
    @pytest.mark.usefixtures("ray_instance")
    def test_through_prepare(self, tmp_path: Path, key: bytes, prepare_set: Prepare, answers: Answers) -> None:
        """Each is used as by itself or skipped with its reason; none crashes it, hangs it or fills its memory."""
        shutil.copytree(ROOT, tmp_path / "set/data", ignore=shutil.ignore_patterns("*.py", "*.pyc"))
        frame = pd.DataFrame({"image": [f"data/{name}" for name in answers]})
        frame["label"] = np.where(np.arange(len(frame)) % 2, "a", "b")
        frame.to_csv(tmp_path / "set/labels.csv", index=False)
        keep = {"secondary_capture": "keep", "burned_in": "keep"}
        data = table_config(tmp_path / "set/labels.csv", max_skipped=1, decode=keep)
        manifest = build(data, key)
        prepared, index = prepare_set(manifest, data)
        skipped = pd.read_parquet(prepared.folder / "skipped.parquet")
        told = dict(zip(index["image_id"], index["content_hash"], strict=True))
        told |= dict(zip(skipped["image_id"], skipped["reason"], strict=True))
        expected = [each.content_hash if isinstance(each, Decoded) else each.reason for each in answers.values()]
        assert [told[name] for name in manifest.frame["image_id"]] == expected
        assert len(expected) > 160 and len(index) >= 90
        assert set(skipped["reason"]) <= set(REASONS) - {"decoder_died", "timed_out", "out_of_memory"}

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("test_files/rtplan.dcm", "no_pixels"),
            ("test_files/test-SR.dcm", "no_pixels"),
            ("test_files/waveform_ecg.dcm", "no_pixels"),
            ("test_files/dicomdirtests/DICOMDIR", "no_pixels"),
            ("test_files/ExplVR_LitEndNoMeta.dcm", "no_pixels"),
            ("test_files/ExplVR_BigEndNoMeta.dcm", "no_pixels"),
            ("test_files/rtdose.dcm", "several_images"),
            ("test_files/examples_ybr_color.dcm", "several_images"),
            ("test_files/MR_truncated.dcm", "truncated"),
            ("test_files/badVR.dcm", "undecodable"),
            ("test_files/README.txt", "unknown_format"),
            ("test_files/zipMR.gz", "unknown_format"),
            ("test_files/rtplan.dump", "unknown_format"),
            ("charset_files/FileInfo.txt", "unknown_format"),
        ],
    )
    def test_reasons(self, answers: Answers, name: str, expected: str) -> None:
        answer = answers[name]
        assert isinstance(answer, Unusable) and answer.reason == expected

    def test_tiff_in_the_preamble_is_still_dicom(self, answers: Answers) -> None:
        assert Path(get_testdata_file("CT_small.dcm")).read_bytes().startswith(b"II*\0")
        answer = answers["test_files/CT_small.dcm"]
        assert isinstance(answer, Decoded) and (answer.width, answer.height) == (128, 128)

    def test_without_preamble(self) -> None:
        bare = encoded(radiograph())[132:]
        assert (to_grey(bare, KEEP) == grey(radiograph())).all()

    @pytest.mark.parametrize("implicit", [False, True])
    def test_without_a_header_at_all(self, implicit: bool) -> None:
        """As some archives kept them: from the first element of the data on."""
        bare, dataset = io.BytesIO(), radiograph()
        del dataset.file_meta
        dataset.save_as(bare, implicit_vr=implicit, little_endian=True)
        assert bare.getvalue()[:2] == b"\x08\x00"
        assert (to_grey(bare.getvalue(), KEEP) == grey(radiograph())).all()


class TestCodings:
    @pytest.mark.parametrize("names", [line for line in CODINGS if " " in line])
    def test_one_picture_in_several(self, names: str) -> None:
        hashes = set()
        for name in names.split():
            path = get_testdata_file(f"{name.removeprefix('*')}.dcm") or str(ROOT / f"charset_files/{name}.dcm")
            entry, how = (FILES + json.dumps({"images": [path]}), How(32, slices=1)) if "*" in name else (path, KEEP)
            hashes.add(decode_file(entry, how).content_hash)
        assert len(hashes) == 1

    @pytest.mark.parametrize("name", [name for line in CODINGS for name in line.split() if name.startswith("SC_rgb_")])
    def test_colour_bars(self, name: str) -> None:
        """What was drawn, to the bit where the coding keeps it; JPEG's loss is some steps."""
        shades = found(f"{name}.dcm")
        if shades.shape != (100, 100):
            assert shades.shape in ((3, 3), (256, 256))  # other pictures
            return
        lossless = name in CODINGS[1].split()
        assert np.abs(shades[5::10, 50] - luminance(np.array(BARS))).max() <= (0.51 if lossless else 2.5)

    def test_stored_values_by_hand(self) -> None:
        """MR_small's bytes through its window, 600 and 1600; a dose's through the range present."""
        dataset = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
        stored = np.frombuffer(dataset.PixelData, "<i2").reshape(64, 64)
        assert np.abs(found("MR_small.dcm") - np.clip((stored - 599.5) / 1599 + 0.5, 0, 1) * 255).max() <= 0.51
        dataset = pydicom.dcmread(get_testdata_file("rtdose_1frame.dcm"))
        dose = np.frombuffer(dataset.PixelData, "<u4").reshape(10, 10).astype(np.float64)
        assert np.abs(found("rtdose_1frame.dcm") - (dose - dose.min()) / np.ptp(dose) * 255).max() <= 0.51
        dataset = pydicom.dcmread(get_testdata_file("liver_1frame.dcm"))
        bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")[: 512 * 512]
        assert np.array_equal(found("liver_1frame.dcm"), bits.reshape(512, 512) * 255)

    def test_colours_by_hand(self) -> None:
        """Planes of RGB, half the chroma of YBR_FULL_422 (ITU-R BT.601), palettes: from the bytes alone."""
        dataset = pydicom.dcmread(get_testdata_file("examples_rgb_color.dcm"))
        rgb = np.frombuffer(dataset.PixelData, np.uint8).reshape(240, 320, 3)
        assert np.abs(found("examples_rgb_color.dcm") - luminance(rgb)).max() <= 0.51
        dataset = pydicom.dcmread(get_testdata_file("SC_ybr_full_422_uncompressed.dcm"))
        pairs = np.frombuffer(dataset.PixelData, np.uint8).reshape(100, 50, 4).astype(np.float64)
        y, blue, red = pairs[..., :2].reshape(100, 100), *(pairs[..., k].repeat(2, axis=1) - 128 for k in (2, 3))
        colours = np.dstack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue]).clip(0, 255)
        assert np.abs(found("SC_ybr_full_422_uncompressed.dcm") - luminance(colours)).max() <= 1.01
        dataset = pydicom.dcmread(get_testdata_file("examples_palette.dcm"))
        index = np.frombuffer(dataset.PixelData, np.uint8).reshape(350, 800)
        names = [f"{name}PaletteColorLookupTableData" for name in ("Red", "Green", "Blue")]
        tables = [np.frombuffer(dataset[name].value, "<u2") >> 8 for name in names]
        assert (
            np.abs(found("examples_palette.dcm") - luminance(np.dstack([each[index] for each in tables]))).max() <= 0.51
        )

    def test_jpeg_2000_by_another_decoder(self) -> None:
        dataset = pydicom.dcmread(get_testdata_file("examples_jpeg2k.dcm"))
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        with Image.open(io.BytesIO(frame), formats=["JPEG2000"]) as image:
            assert np.abs(found("examples_jpeg2k.dcm") - luminance(np.asarray(image))).max() <= 0.51


class TestSeries:
    """Folders as pydicom has them: few slices are left of each series."""

    def reason(self, folder: str) -> str:
        with pytest.raises(Unusable) as caught:
            decode_file(FILES + json.dumps({"images": [str(FOLDERS / folder)]}), How(32, slices=1))
        return caught.value.reason

    def test_five_slices_upwards(self) -> None:
        """Numbered downwards in their names; a window of 400 about 40, -1024 to be added."""
        entry = FILES + json.dumps({"images": [str(FOLDERS / "98892001/CT5N")], "slice": 1})
        shown = decode_file(entry, How(16, slices=1)).pixels
        dataset = pydicom.dcmread(FOLDERS / "98892001/CT5N/3023")
        centre, width = float(dataset.WindowCenter), float(dataset.WindowWidth)
        stored = np.frombuffer(dataset.PixelData, "<i2").reshape(16, 16).astype(np.float64)
        expected = np.clip((stored - 1024 - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255
        assert np.abs(shown - np.where(stored == -2000, 0, expected)).max() <= 0.51

    @pytest.mark.parametrize(
        ("folder", "expected"),
        [
            ("77654033/CT2", "slice_gaps"),  # a slice far below the other three
            ("98892001/CT2N", "mixed_series"),  # views from the front and the side
            ("98892003/MR2", "mixed_series"),  # of three series
            ("98892003/MR700", "mixed_series"),  # turning about an axis
            ("77654033/CR1", "no_volume"),
            ("TINY_ALPHA", "no_volume"),
        ],
    )
    def test_what_is_no_volume(self, folder: str, expected: str) -> None:
        assert self.reason(folder) == expected
