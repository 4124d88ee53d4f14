"""What `data.attributes` may let through of a patient and a picture: few values, all in words of ours.

Tables of public sets state them, or a label table's columns of these names, or else the tags of DICOM files. A tag's
value that is none of the words foreseen here is taken for not stated: it could be anything, a name included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from cxrtl.data.ids import derived, keyed_id
from cxrtl.errors import ManifestError

_VIEWS = {"AP": "AP", "PA": "PA", "LATERAL": "lateral", "LL": "lateral", "RL": "lateral"}  # ViewPosition
_MEANINGS = {  # ViewCodeSequence's meaning, in lower case
    "antero-posterior": "AP",
    "postero-anterior": "PA",
    "lateral": "lateral",
    "left lateral": "lateral",
    "right lateral": "lateral",
}
OTHER = "other"  # a view that is stated, and none of these
TAGS = (
    *("ViewPosition", "ViewCodeSequence", "PatientSex", "PatientAge"),
    *("InstitutionName", "AcquisitionDate", "StudyDate"),
)
_SEXES = {"F": "F", "FEMALE": "F", "M": "M", "MALE": "M", "O": "O", "OTHER": "O"}
_OLDEST = 120  # years; beyond, the entry is a slip of the pen
_UNITS = {"Y": 1, "M": 12, "W": 52.18, "D": 365.25}  # how many are a year
_DATE = re.compile(r"((?:19|20)\d\d)(?:([-.]?)\d\d\2\d\d(?:[T ].*)?)?")  # other years are those of shifted dates
_UNKNOWN = ("", "U", "UNKNOWN")
_BANDS = frozenset({*(f"{low}-{low + 9}" for low in range(0, 90, 10)), "90+"})


def of_tags(name: str, tags: Mapping[str, str], site_key: bytes) -> str:
    """The attribute `name` from the text of `TAGS`, "" where they do not state it.

    A site is the keyed hash of InstitutionName: the same hospital has the same one, and who has no key cannot tell
    which it is.
    """
    return _OF_TAGS[name](tags, site_key)


def of_column(name: str, texts: Sequence[str], key: bytes) -> list[str]:
    """The attribute `name` from a label table's column, as text: a view, a sex, an age or its band, a year or date, a
    site's name, "" where it is blank or says that it is unknown. `key` is the identifiers'.

    Raises:
        ManifestError: values that are none of these; counted, not quoted.
    """
    key = site_key(key)
    stated = ["" if text.upper() in _UNKNOWN else text for text in texts]
    found = [_OF_TEXT[name](text, key) for text in stated]
    odd = sum(bool(text) and not value for text, value in zip(stated, found, strict=True))
    if odd:
        raise ManifestError(
            f"column {name!r} holds {odd} of {len(texts)} value(s) that do not fit: it takes {_TAKES[name]}. Mend "
            f"them, leave them blank, or take {name!r} out of data.attributes"
        )
    return found


def site_key(key: bytes) -> bytes:
    """What sites are hashed with, where identifiers are with `key`."""
    return derived(key, "\0site")


def view(text: str) -> str:
    """`AP`, `PA`, `lateral`, or `OTHER` for any other word; "" where it is blank."""
    return _VIEWS.get(text.upper()) or _MEANINGS.get(text.lower()) or (OTHER if text else "")


def sex(text: str) -> str:
    """`F`, `M`, `O`, or "" for anything else."""
    return _SEXES.get(text.upper(), "")


def age_band(text: str) -> str:
    """Of `58`, or DICOM's `058Y`, `006M`, `012W`, `003D`: ten years wide; 90 and over is one band, as
    de-identification asks; "" where unknown or impossible."""
    found = re.fullmatch(r"([0-9]{1,3})(?:\.[0-9]+)?([YMWD]?)", text.strip())
    years = int(int(found[1]) / _UNITS[found[2] or "Y"]) if found else _OLDEST + 1
    low = years // 10 * 10
    return "" if years > _OLDEST else f"{low}-{low + 9}" if low < 90 else "90+"


def year(text: str) -> str:
    """Of a year, or of a date as DICOM or ISO 8601 writes it; "" for anything else."""
    found = _DATE.fullmatch(text.removesuffix(".0"))  # as spreadsheets write numbers
    return found[1] if found else ""


def site(text: str, key: bytes) -> str:
    """A keyed hash; the same for the same words, however they are spaced, in upper or lower case."""
    return keyed_id("site", " ".join(text.upper().split()), key)


def _view(tags: Mapping[str, str], _: bytes) -> str:
    """The first of the two tags that says one of our words."""
    found = (view(tags[name]) for name in ("ViewPosition", "ViewCodeSequence"))
    return next((word for word in found if word not in ("", OTHER)), "")


_OF_TAGS: dict[str, Callable[[Mapping[str, str], bytes], str]] = {
    "view": _view,
    "sex": lambda tags, _: sex(tags["PatientSex"]),
    "age_band": lambda tags, _: age_band(tags["PatientAge"]),
    "site": lambda tags, key: site(tags["InstitutionName"], key),
    "year": lambda tags, _: year(tags["AcquisitionDate"] or tags["StudyDate"]),
}
_OF_TEXT: dict[str, Callable[[str, bytes], str]] = {
    "view": lambda text, _: view(text),
    "sex": lambda text, _: sex(text),
    "age_band": lambda text, _: text if text in _BANDS else age_band(text),
    "site": site,
    "year": lambda text, _: year(text),
}
_TAKES = {  # the others take any text
    "sex": "F, M, O or U, also written out",
    "age_band": "ages such as 58, 058Y or 006M, and bands such as 50-59 and 90+",
    "year": "years, and dates such as 2019-04-01 or 20190401, from 1900 to 2099",
}
