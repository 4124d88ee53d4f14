from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from cxrtl.data import images
from cxrtl.data.images import REASONS, Decoded, How, Unusable
from cxrtl.data.images.files import decode_file, square, unsquare
from tests.data.bad_inputs import png

GREY = (np.arange(48 * 40) % 251).astype(np.uint8).reshape(48, 40)  # 40 wide, 48 high


def decode(path: str, size: int, aspect: str = "stretch") -> Decoded:
    """In this process, so that what a test changes here is seen."""
    return decode_file(path, How(size, aspect))


def saved(path: Path, image: Image.Image, **options: Any) -> str:
    image.save(path, **options)
    return str(path)


def full(path: str) -> np.ndarray:
    """The square at the file's own side, where nothing is resampled."""
    size = Image.open(path).width
    return decode(path, size).pixels


def reason(path: str | Path) -> str:
    with pytest.raises(Unusable) as caught:
        decode(str(path), 32)
    assert caught.value.reason in REASONS
    assert str(caught.value) == caught.value.reason  # the path stays out
    return caught.value.reason


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0")
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (header, body)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


class TestUsable:
    def test_shape_type_and_original_size(self, tmp_path: Path) -> None:
        found = decode(saved(tmp_path / "a.png", Image.fromarray(GREY)), 32)
        assert found.pixels.shape == (32, 32) and found.pixels.dtype == np.uint8
        assert (found.width, found.height) == (40, 48)

    def test_content_decides_and_not_the_name(self, tmp_path: Path) -> None:
        one = decode(saved(tmp_path / "a.txt", Image.fromarray(GREY), format="PNG"), 32)
        two = decode(saved(tmp_path / "b.jpg", Image.fromarray(GREY), format="PNG"), 48)
        assert one.content_hash == two.content_hash

    def test_content_hash_knows_the_shape(self, tmp_path: Path) -> None:
        one = decode(saved(tmp_path / "a.png", Image.fromarray(GREY)), 32)
        two = decode(saved(tmp_path / "b.png", Image.fromarray(GREY.reshape(40, 48))), 32)
        assert one.content_hash != two.content_hash

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
    def test_png_modes_give_the_same_grey(self, tmp_path: Path, mode: str) -> None:
        halves = Image.fromarray(np.where(GREY[:40] > 100, 255, 0).astype(np.uint8))
        converted = full(saved(tmp_path / "a.png", halves.convert(mode)))
        assert (converted == np.asarray(halves)).all()

    def test_colour_becomes_luminance(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "a.png", Image.new("RGB", (32, 32), (255, 0, 0)))
        assert set(full(path).ravel()) == {76}  # 0.299 * 255

    @pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
    def test_jpeg_modes(self, tmp_path: Path, mode: str) -> None:
        path = saved(tmp_path / "a.jpg", Image.new("L", (32, 32), 180).convert(mode), quality=95)
        assert np.abs(full(path).astype(int) - 180).max() <= 2

    def test_sixteen_bits_use_the_range_present(self, tmp_path: Path) -> None:
        values = np.linspace(1000, 4095, 32 * 32).astype(np.uint16).reshape(32, 32)  # 12 of 16 bits, with an offset
        found = full(saved(tmp_path / "a.png", Image.fromarray(values)))
        assert found.min() == 0 and found.max() == 255
        assert (np.diff(found.ravel().astype(int)) >= 0).all()
        assert np.abs(found - (values - 1000.0) * 255 / 3095).max() <= 0.5

    def test_full_sixteen_bits_equal_eight(self, tmp_path: Path) -> None:
        eight = np.linspace(0, 255, 32 * 32).astype(np.uint8).reshape(32, 32)
        sixteen = Image.fromarray(eight.astype(np.uint16) * 257)
        assert (full(saved(tmp_path / "a.png", sixteen)) == eight).all()

    def test_flat_sixteen_bits_are_black(self, tmp_path: Path) -> None:
        flat = Image.fromarray(np.full((32, 32), 777, np.uint16))
        assert not full(saved(tmp_path / "a.png", flat)).any()

    @pytest.mark.parametrize("suffix", ["png", "jpg"])
    def test_exif_orientation_is_applied(self, tmp_path: Path, suffix: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # shown turned by 90° clockwise
        image = Image.new("L", (32, 64))
        image.paste(255, (0, 0, 32, 32))  # top half white
        found = decode(saved(tmp_path / f"a.{suffix}", image, exif=exif), 32)
        assert (found.width, found.height) == (64, 32)
        assert found.pixels[:, :15].max() < 10 and found.pixels[:, 17:].min() > 245

    @pytest.mark.parametrize("aspect", ["stretch", "pad", "crop"])
    @pytest.mark.parametrize("shape", [(64, 64), (90, 150), (151, 40)])
    def test_the_way_back_from_the_square(self, aspect: str, shape: tuple[int, int]) -> None:
        """A box comes back to its place, but for a pixel of the square at its edges; what was cropped away is 0."""
        how, mask = How(64, aspect), np.zeros(shape, np.uint8)
        middle, side = (shape[0] // 2, shape[1] // 2), min(shape) // 4
        mask[middle[0] - side : middle[0] + side, middle[1] - side : middle[1] + side] = 2
        back = unsquare(square(mask, how, Image.Resampling.NEAREST), *shape, how)
        wrong = back != mask
        assert back.shape == shape and set(np.unique(back)) == {0, 2} and wrong.mean() < 0.06
        inner = 1 + max(shape) // 64
        inside = [slice(at - side + inner, at + side - inner) for at in middle]
        assert not wrong[inside[0], inside[1]].any()

    def test_square_is_stretched_and_antialiased(self, tmp_path: Path) -> None:
        stripes = np.tile(np.array([0, 255], np.uint8), (64, 128))  # 256 wide, 64 high
        found = decode(saved(tmp_path / "a.png", Image.fromarray(stripes)), 32).pixels
        assert np.abs(found.astype(int) - 128).max() <= 16  # fine stripes turn grey instead of aliasing

    @pytest.mark.parametrize("kind", ["TIFF", "BMP"])
    def test_tiff_and_bmp_hold_the_same_grey_as_png(self, tmp_path: Path, kind: str) -> None:
        one = decode(saved(tmp_path / "a", Image.fromarray(GREY), format=kind), 32)
        assert one.content_hash == decode(saved(tmp_path / "b", Image.fromarray(GREY), format="PNG"), 32).content_hash

    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
    def test_sixteen_bit_tiff_uses_the_range_present(self, tmp_path: Path, compression: str) -> None:
        values = np.linspace(1000, 4095, 32 * 32).astype(np.uint16).reshape(32, 32)
        path = saved(tmp_path / "a.tif", Image.fromarray(values), compression=compression)
        assert np.abs(full(path) - (values - 1000.0) * 255 / 3095).max() <= 0.5

    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
    @pytest.mark.parametrize("kind", [np.uint16, np.float32])
    def test_deep_tiff_where_white_is_zero(self, tmp_path: Path, compression: str, kind: Any) -> None:
        values = np.linspace(1000, 4095, 32 * 32).astype(kind).reshape(32, 32)
        path = saved(tmp_path / "a.tif", Image.fromarray(values), compression=compression, tiffinfo={262: 0})
        assert Image.open(path).tag_v2[262] == 0  # type: ignore[attr-defined]
        assert np.abs(full(path) - (255 - (values - 1000.0) * 255 / 3095)).max() <= 0.51

    @pytest.mark.parametrize("rows_as_differences", [False, True])
    def test_sixteen_bits_with_alpha(self, tmp_path: Path, rows_as_differences: bool) -> None:
        """12 of 16 bits, of which Pillow itself would give the high bytes: nearly black."""
        values = np.linspace(0, 4095, 32 * 32).astype(">u2").reshape(32, 32)
        rows = np.dstack([values, np.full_like(values, 65535)]).astype(">u2").view(np.uint8).reshape(32, 128)
        if rows_as_differences:  # PNG's filter 1: from the pixel to the left
            rows = np.hstack([rows[:, :4], rows[:, 4:] - rows[:, :-4]])
        body = np.hstack([np.full((32, 1), int(rows_as_differences), np.uint8), rows]).tobytes()
        (tmp_path / "a.png").write_bytes(png(32, 32, 16, 4, body))
        assert np.abs(full(str(tmp_path / "a.png")) - values * (255 / 4095)).max() <= 0.51

    def test_fractions_use_the_range_present(self, tmp_path: Path) -> None:
        values = np.linspace(-0.5, 0.25, 32 * 32).astype(np.float32).reshape(32, 32)
        found = full(saved(tmp_path / "a.tif", Image.fromarray(values)))
        assert np.abs(found - (values + 0.5) * 255 / 0.75).max() <= 0.51

    def test_aspect(self, tmp_path: Path) -> None:
        """A white square of 64 between grey flanks of 32, 128 wide: stretched, between bars, or alone."""
        image = Image.new("L", (128, 64), 100)
        image.paste(255, (32, 0, 96, 64))
        path = saved(tmp_path / "a.png", image)
        stretched, padded, cropped = (decode(path, 64, aspect).pixels for aspect in ("stretch", "pad", "crop"))
        assert (stretched[:, 4] == 100).all() and (stretched[:, 32] == 255).all()
        assert not padded[:15].any() and not padded[49:].any() and padded[32, 4] == 100 and padded[32, 32] == 255
        assert (cropped == 255).all()

    @pytest.mark.parametrize("aspect", ["stretch", "pad", "crop"])
    def test_very_wide(self, tmp_path: Path, aspect: str) -> None:
        found = decode(saved(tmp_path / "a.png", Image.new("L", (100_000, 2), 9)), 32, aspect)
        assert found.pixels.shape == (32, 32) and found.width == 100_000 and found.pixels.max() == 9


class TestUnusable:
    def test_missing(self, tmp_path: Path) -> None:
        assert reason(tmp_path / "absent.png") == "missing"

    def test_empty(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").touch()
        assert reason(tmp_path / "a.png") == "empty"

    def test_folder_pipe_and_impossible_name(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.png")
        assert {reason(tmp_path), reason(tmp_path / "pipe.png"), reason("a\0b")} == {"unreadable"}

    @pytest.mark.parametrize("content", [b"plain text", b"GIF89a" + b"\0" * 20, b"\x89PNG", b"%PDF-1.4", b"BMI is 23"])
    def test_unknown_format(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.png").write_bytes(content)
        assert reason(tmp_path / "a.png") == "unknown_format"

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    @pytest.mark.parametrize("lenient", [False, True])
    def test_truncated(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, lenient: bool) -> None:
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)  # as a library beside us may set it
        noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, kind)
        (tmp_path / "a").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        assert reason(tmp_path / "a") == "truncated"

    @pytest.mark.parametrize("content", [b"\xff\xd8\xff" + b"\0" * 99, b"\x89PNG\r\n\x1a\n" + b"\0" * 99])
    def test_undecodable(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a").write_bytes(content)
        assert reason(tmp_path / "a") == "undecodable"

    def test_animated_png(self, tmp_path: Path) -> None:
        frames = [Image.new("L", (32, 32), grey) for grey in (0, 255)]
        assert reason(saved(tmp_path / "a.png", frames[0], save_all=True, append_images=frames[1:])) == "several_images"

    def test_pages_of_a_tiff(self, tmp_path: Path) -> None:
        pages = [Image.new("L", (32, 32), grey) for grey in (0, 255)]
        assert reason(saved(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])) == "several_images"

    def test_fractions_that_are_not_finite(self, tmp_path: Path) -> None:
        values = np.full((32, 32), np.nan, np.float32)
        assert reason(saved(tmp_path / "a.tif", Image.fromarray(values))) == "undecodable"

    @pytest.mark.parametrize("side", [8193, 9700, 60000])  # ours; beyond Pillow's warning; beyond its error
    def test_pixel_limit_holds_before_decoding(self, tmp_path: Path, side: int) -> None:
        (tmp_path / "a.png").write_bytes(png_header(side, side))
        assert reason(tmp_path / "a.png") == "too_many_pixels"

    def test_file_limit(self, tmp_path: Path) -> None:
        with (tmp_path / "a.png").open("wb") as file:
            file.truncate(images.MAX_FILE_BYTES + 1)  # a hole: takes no room
        assert reason(tmp_path / "a.png") == "too_large_file"

    def test_damage_anywhere_is_an_image_or_a_reason(self, tmp_path: Path) -> None:
        """Bytes flipped at random never give another error, nor a warning on the console."""
        rng = np.random.default_rng(0)
        for kind in ("PNG", "JPEG", "TIFF", "BMP"):
            buffer = io.BytesIO()
            Image.fromarray(GREY).save(buffer, kind)
            for _ in range(150):
                data = bytearray(buffer.getvalue())
                for place in rng.integers(8, len(data), 4):
                    data[place] = rng.integers(256)
                (tmp_path / "a").write_bytes(data)
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    try:
                        assert decode(str(tmp_path / "a"), 32).pixels.shape == (32, 32)
                    except Unusable as unusable:
                        assert unusable.reason in REASONS
