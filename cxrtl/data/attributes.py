"""What `data.attributes` may let through of a patient and a picture: few values, all in words of ours.

Tables of public sets state them, or a label table's columns of these names, or else the tags of DICOM files. A tag's
value that is none of the words foreseen here is taken for not stated: it could be anything, a name included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from cxrtl.data.ids import keyed_id

VIEWS = {"AP": "AP", "PA": "PA", "LATERAL": "lateral", "LL": "lateral", "RL": "lateral"}  # ViewPosition
MEANINGS = {  # ViewCodeSequence's meaning, in lower case
    "antero-posterior": "AP",
    "postero-anterior": "PA",
    "lateral": "lateral",
    "left lateral": "lateral",
    "right lateral": "lateral",
}
TAGS = (
    *("ViewPosition", "ViewCodeSequence", "PatientSex", "PatientAge"),
    *("InstitutionName", "AcquisitionDate", "StudyDate"),
)
_OLDEST = 120  # years; beyond, the entry is a slip of the pen
_DATE = re.compile(r"((?:19|20)\d\d)\.?\d\d\.?\d\d")  # a year beyond these is that of a shifted date


def of_tags(name: str, tags: Mapping[str, str], site_key: bytes) -> str:
    """The attribute `name` from the text of `TAGS`, "" where they do not state it.

    A site is the keyed hash of InstitutionName: the same hospital has the same one, and who has no key cannot tell
    which it is.
    """
    return _OF_TAGS[name](tags, site_key)


def _view(tags: Mapping[str, str], _: bytes) -> str:
    stated = VIEWS.get(tags["ViewPosition"].upper(), "")
    return stated or MEANINGS.get(tags["ViewCodeSequence"].lower(), "")


def _sex(tags: Mapping[str, str], _: bytes) -> str:
    stated = tags["PatientSex"].upper()
    return stated if stated in ("F", "M", "O") else ""


def _site(tags: Mapping[str, str], key: bytes) -> str:
    return keyed_id("site", " ".join(tags["InstitutionName"].upper().split()), key)


def _year(tags: Mapping[str, str], _: bytes) -> str:
    found = _DATE.fullmatch(tags["AcquisitionDate"] or tags["StudyDate"])
    return found[1] if found else ""


def age_band(text: str) -> str:
    """Ten years wide; 90 and over is one band, as de-identification asks; "" where unknown or impossible."""
    digits = text.strip().removesuffix("Y")
    if not re.fullmatch("[0-9]{1,3}", digits) or int(digits) > _OLDEST:
        return ""
    low = int(digits) // 10 * 10
    return f"{low}-{low + 9}" if low < 90 else "90+"


_OF_TAGS: dict[str, Callable[[Mapping[str, str], bytes], str]] = {
    "view": _view,
    "sex": _sex,
    "age_band": lambda tags, _: age_band(tags["PatientAge"]),
    "site": _site,
    "year": _year,
}
