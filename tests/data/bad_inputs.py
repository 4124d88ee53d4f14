"""A corpus of bad inputs, made on the spot: each a name and its bytes. Some are odd but usable, most are neither."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = [
    "new\nline.png",
    "quo\"t'e.png",
    "<script>alert(1)</script>.png".replace("/", "⁄"),
    "‮gnp.exe",
    "x" * 251 + ".png",
    "$(touch owned);.png",
    "%s%n.png",
    "é́.png",
]


def corpus(root: Path) -> list[str]:
    """Write all of it below `root`; returns the paths."""
    root.mkdir()
    paths = []
    for name, data in (*_names(), *_bombs(), *_liars(), *_modes(), *_polyglots(), *_damage()):
        (root / name).write_bytes(data)
        paths.append(str(root / name))
    return paths


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _picture(mode: str = "L", size: tuple[int, int] = (48, 40)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def _names() -> Iterator[tuple[str, bytes]]:
    for name in NAMES:
        yield name, _saved(_picture(), "PNG")


def png(width: int, height: int, depth: int = 8, colour: int = 0, body: bytes = b"\0", extra: bytes = b"") -> bytes:
    """A PNG with any header and any body."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(body, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _bombs() -> Iterator[tuple[str, bytes]]:
    yield "claims-900-gigapixels.png", png(2**20, 2**20)
    yield "claims-more-than-allowed.png", png(8193, 8193)
    yield "unpacks-to-much-more.png", png(100, 100, body=bytes(2**27))
    text = zlib.compress(bytes(2**27), 9)
    chunk = b"zTXt" + b"Comment\0\0" + text
    packed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    yield "text-bomb.png", png(40, 40, body=bytes(40 * 41), extra=packed)
    yield "gzip-bomb.png", gzip.compress(bytes(2**24))
    yield "wide.png", _saved(Image.new("L", (100_000, 3)), "PNG")
    yield "tall.bmp", _saved(Image.new("L", (3, 100_000)), "BMP")
    yield "wide.tif", _saved(Image.new("L", (100_000, 3)), "TIFF", compression="tiff_lzw")


def _liars() -> Iterator[tuple[str, bytes]]:
    bmp, tiff, jpeg = (bytearray(_saved(_picture(), kind)) for kind in ("BMP", "TIFF", "JPEG"))
    yield "zero-bytes.png", b""
    for value in (0, 1, 2**31 - 1, -(2**31), -1):
        data = bytearray(bmp)
        struct.pack_into("<ii", data, 18, value, value)
        yield f"bmp-size-{value}.bmp", bytes(data)
    struct.pack_into("<I", tiff, 4, 2**32 - 2)
    yield "tiff-directory-outside.tif", bytes(tiff)
    yield "tiff-directory-of-itself.tif", b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0"
    place = jpeg.index(b"\xff\xc0")
    struct.pack_into(">HH", jpeg, place + 5, 65500, 65500)
    yield "jpeg-claims-4-gigapixels.jpg", bytes(jpeg)
    struct.pack_into(">HH", jpeg, place + 5, 0, 0)
    yield "jpeg-without-size.jpg", bytes(jpeg)
    yield "png-of-no-width.png", png(0, 10)
    yield "png-of-odd-depth.png", png(10, 10, depth=3)
    yield "png-of-odd-colour.png", png(10, 10, colour=5)


def _modes() -> Iterator[tuple[str, bytes]]:
    yield "cmyk.jpg", _saved(_picture("CMYK"), "JPEG")
    yield "cmyk.tif", _saved(_picture("CMYK"), "TIFF")
    yield "lab.tif", _saved(_picture("RGB").convert("LAB"), "TIFF")
    yield "palette.png", _saved(_picture("P"), "PNG")
    yield "palette-see-through.png", _saved(_picture("P"), "PNG", transparency=3)
    yield "bits.png", _saved(_picture("1"), "PNG")
    frames = [Image.new("L", (40, 40), grey) for grey in (0, 99, 255)]
    yield "animated.png", _saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    yield "animated.gif", _saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield "pages.tif", _saved(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    yield "one-pixel.png", _saved(Image.new("L", (1, 1)), "PNG")


def _polyglots() -> Iterator[tuple[str, bytes]]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", b"a" * 99)
    yield "jpeg-and-zip.jpg", _saved(_picture(), "JPEG") + archive.getvalue()
    yield "png-and-script.png", _saved(_picture(), "PNG") + b"<script>alert(1)</script>"
    for magic in (b"MZ", b"\x7fELF", b"\xff\xd8\xff", b"%PDF-1.4", b"#!/bin/sh\n"):
        yield f"dicom-and-{magic.hex()}.dcm", magic.ljust(128, b"\0") + b"DICM" + bytes(64)
    yield "page.png", b"<!doctype html><script>alert(1)</script>"
    yield "vector.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    yield "postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run"
    yield "archive.png", archive.getvalue()


def _damage() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(0)
    dicom = b"\0" * 128 + b"DICM"
    yield "dicom-of-nothing.dcm", dicom
    yield "dicom-of-noise.dcm", dicom + rng.bytes(4096)
    yield "dicom-of-endless-length.dcm", dicom + b"\x08\0\x05\0UN\0\0" + b"\xff" * 4 + bytes(99)
    yield "dicom-of-huge-element.dcm", dicom + b"\xe0\x7f\x10\0OW\0\0\xfe\xff\xff\xff" + bytes(99)
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -15)
    meta = b"\x02\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99"
    group = b"\x02\0\0\0UL\x04\0" + len(meta).to_bytes(4, "little")
    part = squeezed.compress(bytes(2**24)) + squeezed.flush(zlib.Z_FULL_FLUSH)  # stands by itself
    body = 128 * part + squeezed.flush()  # 2 GiB
    yield "dicom-bomb.dcm", dicom + group + meta + body
    for kind in ("PNG", "JPEG", "TIFF", "BMP"):
        whole = _saved(_picture(), kind)
        for share in (10, 50, 90, 99):
            yield f"cut-{share}.{kind.lower()}", whole[: len(whole) * share // 100]
        for number in range(25):
            data = bytearray(whole)
            for place in rng.integers(2, len(data), 6):
                data[place] = rng.integers(256)
            yield f"flipped-{number}.{kind.lower()}", bytes(data)
