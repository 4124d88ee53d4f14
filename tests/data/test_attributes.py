"""Of patients and pictures nothing but the few attributes asked for goes along, in words of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxrtl.config import Data
from cxrtl.data import manifest
from cxrtl.data.attributes import TAGS, age_band, of_tags
from cxrtl.data.images import Decoded, How
from cxrtl.data.images.files import decode_file
from cxrtl.data.images.guard import decode
from tests.data import public_sets
from tests.data.helpers import CANARY
from tests.data.test_dicom import encoded, radiograph

KEY = b"k" * 32
ALL = ("view", "sex", "age_band", "site", "year")


@pytest.mark.parametrize(
    ("text", "band"),
    [("0", "0-9"), ("9", "0-9"), ("74", "70-79"), ("058Y", "50-59"), ("89", "80-89"), ("90", "90+"), ("119", "90+")]
    + [(text, "") for text in ("", "414", "-3", "12M", "old", "²", "9" * 5000)],
)
def test_age_band(text: str, band: str) -> None:
    assert age_band(text) == band


@pytest.mark.parametrize(
    ("name", "tags", "said"),
    [
        ("view", {"ViewPosition": "pa"}, "PA"),
        ("view", {"ViewPosition": "LL"}, "lateral"),
        ("view", {"ViewPosition": CANARY, "ViewCodeSequence": "Antero-posterior"}, "AP"),
        ("view", {"ViewPosition": CANARY}, ""),
        ("sex", {"PatientSex": "f"}, "F"),
        ("sex", {"PatientSex": CANARY}, ""),
        ("age_band", {"PatientAge": "067Y"}, "60-69"),
        ("year", {"AcquisitionDate": "20190401", "StudyDate": "20200401"}, "2019"),
        ("year", {"StudyDate": "2020.04.01"}, "2020"),
        ("year", {"StudyDate": "21800506"}, ""),  # shifted, to hide it
        ("year", {"StudyDate": CANARY[:8]}, ""),
        ("site", {"InstitutionName": ""}, ""),
    ],
)
def test_only_words_foreseen(name: str, tags: dict[str, str], said: str) -> None:
    assert of_tags(name, {**dict.fromkeys(TAGS, ""), **tags}, KEY) == said


def dicom(path: Path, **tags: Any) -> str:
    path.write_bytes(encoded(radiograph(**tags)))
    return str(path)


class TestDicom:
    how = How(32, attributes=ALL, site_key=KEY.hex())

    def test_tags(self, tmp_path: Path) -> None:
        tags = {"ViewPosition": "AP", "PatientSex": "M", "PatientAge": "091Y", "StudyDate": "20150203"}
        path = dicom(tmp_path / "a.dcm", **tags, InstitutionName="St.  Mary", PatientName=CANARY)
        found = decode_file(path, self.how).attributes
        site = found["site"]
        assert found == {"view": "AP", "sex": "M", "age_band": "90+", "site": site, "year": "2015"}
        assert site.startswith("site-") and len(site) == 21
        same = dicom(tmp_path / "b.dcm", InstitutionName="ST. MARY ")
        assert decode_file(same, self.how).attributes == {**dict.fromkeys(ALL, ""), "site": site}
        other = How(32, attributes=("site",), site_key="00" * 32)
        assert decode_file(same, other).attributes["site"] not in ("", site)
        assert "00" * 32 not in repr(other)

    def test_through_the_guarded_process(self, tmp_path: Path) -> None:
        path = dicom(tmp_path / "a.dcm", PatientSex="F", PatientAge=CANARY, SpecificCharacterSet=CANARY)
        answer = decode(path, self.how)
        assert isinstance(answer, Decoded) and answer.attributes == {**dict.fromkeys(ALL, ""), "sex": "F"}

    def test_nothing_unasked(self, tmp_path: Path) -> None:
        path = dicom(tmp_path / "a.dcm", PatientSex="F")
        assert decode_file(path, How(32)).attributes == {}


class TestSources:
    def data(self, source: str, path: Path, **changes: Any) -> Data:
        raw = {"source": source, "path": str(path), "cohort": {"finding": "Pleural Effusion"}, **changes}
        if source == "table":
            del raw["cohort"]
        return Data.model_validate(raw)

    def test_public_set_gives_what_is_asked(self, tmp_path: Path) -> None:
        root = public_sets.chexpert(tmp_path)
        named = [name for name in manifest.build(self.data("chexpert", root), KEY).frame if name in ALL]
        assert named == ["view", "sex", "age_band"]
        fewer = manifest.build(self.data("chexpert", root, attributes=["sex"]), KEY).frame
        assert [name for name in fewer if name in ALL] == ["sex"]
        none = manifest.build(self.data("chexpert", root, attributes=[]), KEY).frame
        assert not set(none) & set(ALL)

    @pytest.mark.parametrize(("source", "name"), [("mimic", "year"), ("mimic", "sex"), ("nih", "site")])
    def test_what_a_set_does_not_state(self, source: str, name: str) -> None:
        with pytest.raises(ValueError, match=rf"data\.attributes names \['{name}'\], which source '{source}' does not"):
            self.data(source, Path("x"), attributes=["view", name])

    def test_columns_of_a_table(self, tmp_path: Path) -> None:
        rows = {"image": ["a.png", "b.png"], "label": ["x", "y"], "site": ["north", "south"], "year": [2019, 2020]}
        path = tmp_path / "labels.parquet"
        pd.DataFrame({**rows, "sex": ["F", "M"]}).to_parquet(path)
        frame = manifest.build(self.data("table", path, attributes=["site", "year", "view"]), KEY).frame
        assert [name for name in frame if name in ALL] == ["site", "year"]  # the view is for the files to tell
        assert frame["site"].tolist() == ["north", "south"] and frame["year"].tolist() == [2019, 2020]
        assert not set(manifest.build(self.data("table", path), KEY).frame) & set(ALL)
