from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from cxrtl.data.images import REASONS, Decoded, How, Unusable
from cxrtl.data.images.guard import close, decode_all
from tests.data.bad_inputs import NAMES, corpus

CAP_MIB = 1024
HOW = How(32, file_seconds=20, memory_mib=CAP_MIB)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Reason by file name, "" where the file is used; the files are decoded once for all tests."""
    paths = corpus(tmp_path_factory.mktemp("bad") / "files")
    started = time.monotonic()
    found = list(decode_all(paths, HOW))
    assert time.monotonic() - started < 120
    close()  # so that its memory is counted
    assert all(isinstance(each, Unusable) or each.pixels.shape == (32, 32) for each in found)
    return {
        Path(path).name: "" if isinstance(answer, Decoded) else answer.reason
        for path, answer in zip(paths, found, strict=True)
    }


def test_none_crashes_or_hangs(answers: dict[str, str]) -> None:
    assert len(answers) > 150
    assert set(answers.values()) <= {"", *REASONS}
    assert not {"decoder_died", "timed_out"} & set(answers.values())


def test_memory_stays_under_the_cap(answers: dict[str, str]) -> None:
    """The largest process that this one ever waited for; kibibytes, as Linux counts."""
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < CAP_MIB * 1024


@pytest.mark.parametrize("name", NAMES)
def test_any_name_will_do(answers: dict[str, str], name: str) -> None:
    assert answers[name] == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("claims-900-gigapixels.png", "too_many_pixels"),
        ("claims-more-than-allowed.png", "too_many_pixels"),
        ("jpeg-claims-4-gigapixels.jpg", "too_many_pixels"),
        ("dicom-bomb.dcm", "out_of_memory"),
        ("gzip-bomb.png", "unknown_format"),
        ("zero-bytes.png", "empty"),
        ("wide.png", ""),
        ("tall.bmp", ""),
        ("wide.tif", ""),
        ("cmyk.jpg", ""),
        ("palette.png", ""),
        ("palette-see-through.png", ""),
        ("bits.png", ""),
        ("one-pixel.png", ""),
        ("animated.png", "several_images"),
        ("animated.gif", "unknown_format"),
        ("pages.tif", "several_images"),
        ("jpeg-and-zip.jpg", ""),
        ("dicom-and-4d5a.dcm", "ambiguous_format"),
        ("dicom-and-ffd8ff.dcm", "ambiguous_format"),
        ("dicom-of-nothing.dcm", "no_pixels"),
        ("page.png", "unknown_format"),
        ("postscript.png", "unknown_format"),
        ("cut-50.png", "truncated"),
        ("cut-50.bmp", "truncated"),
    ],
)
def test_reasons(answers: dict[str, str], name: str, reason: str) -> None:
    assert answers[name] == reason
