from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cxrtl.data.images import REASONS
from tests.data.bad_inputs import NAMES, corpus

CAP_MIB = 1024
# In a process of its own, whose only child is the one that decodes: its peak is the corpus's, whatever ran before
CODE = f"""
import json, resource, sys
from cxrtl.data.images import Decoded, How
from cxrtl.data.images.guard import close, decode_all
found = list(decode_all(json.load(sys.stdin), How(32, file_seconds=120, memory_mib={CAP_MIB})))
close()
shapes = [answer.pixels.shape for answer in found if isinstance(answer, Decoded)]
reasons = ["" if isinstance(answer, Decoded) else answer.reason for answer in found]
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({{"shapes": shapes, "reasons": reasons, "peak": peak}}))
"""


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Shapes and reasons of all files, and the largest memory in kibibytes; the files are decoded once for all."""
    paths = corpus(tmp_path_factory.mktemp("bad") / "files")
    done = subprocess.run([sys.executable, "-c", CODE], input=json.dumps(paths), capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return {"names": [Path(path).name for path in paths], **json.loads(done.stdout)}


@pytest.fixture(scope="module")
def answers(decoded: dict[str, Any]) -> dict[str, str]:
    """Reason by file name, "" where the file is used."""
    return dict(zip(decoded["names"], decoded["reasons"], strict=True))


def test_none_crashes_or_hangs(answers: dict[str, str]) -> None:
    assert len(answers) > 150
    assert set(answers.values()) <= {"", *REASONS}
    assert not {"decoder_died", "timed_out"} & set(answers.values())


def test_memory_stays_under_the_cap(decoded: dict[str, Any]) -> None:
    assert 0 < decoded["peak"] < CAP_MIB * 1024


def test_squares(decoded: dict[str, Any]) -> None:
    assert decoded["shapes"] and all(shape == [32, 32] for shape in decoded["shapes"])


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
