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
from cxrtl.errors import ManifestError
from tests.data import public_sets
from tests.data.helpers import CANARY
from tests.data.test_dicom import encoded, radiograph

KEY = b"k" * 32
ALL = ("view", "sex", "age_band", "site", "year")


@pytest.mark.parametrize(
    ("text", "band"),
    [("0", "0-9"), ("9", "0-9"), ("74", "70-79"), ("058Y", "50-59"), ("89", "80-89"), ("90", "90+"), ("119", "90+")]
    + [("006M", "0-9"), ("012W", "0-9"), ("003D", "0-9"), ("119M", "0-9"), ("120M", "10-19"), ("600W", "10-19")]
    + [("58.4", "50-59")]
    + [(text, "") for text in ("", "414", "-3", "M", "old", "²", "9" * 5000)],
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
        assert frame["year"].tolist() == ["2019", "2020"]
        assert not set(manifest.build(self.data("table", path), KEY).frame) & set(ALL)

    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_columns_of_a_table_pass_in_words_of_ours(self, tmp_path: Path, suffix: str) -> None:
        stated = {
            "site": [f"{CANARY} Hospital", f"{CANARY.lower()}  hospital"],
            "year": ["2019-03-04", "20200405"],
            "age_band": ["97", "058Y"],
            "view": [CANARY, "ll"],
            "sex": ["female", "unknown"],
        }
        frame = pd.DataFrame({"image": ["a.png", "b.png"], "label": ["x", "y"], **stated})
        path = tmp_path / f"labels.{suffix}"
        frame.to_parquet(path) if suffix == "parquet" else frame.to_csv(path, index=False)
        made = manifest.build(self.data("table", path, attributes=ALL, keep_columns=["site"]), KEY).frame
        assert made["site"].nunique() == 1 and made["site"].str.fullmatch("site-[0-9a-f]{16}").all()
        found = made[["year", "age_band", "view", "sex"]].to_numpy().tolist()
        assert found == [["2019", "90+", "other", "F"], ["2020", "50-59", "lateral", ""]]
        text = made.drop(columns=["path", "image_id", "site"]).to_csv()
        assert not any(word in text for word in ("97", "03-04", CANARY, CANARY.lower()))

    @pytest.mark.parametrize(
        ("name", "odd"),
        [("sex", CANARY), ("age_band", "55-65"), ("age_band", "130"), ("year", "04.03.2019"), ("year", "2180-01-01")],
    )
    def test_what_does_not_fit_is_counted_and_not_quoted(self, tmp_path: Path, name: str, odd: str) -> None:
        fits = {"sex": "F", "age_band": "50-59", "year": "2019"}[name]
        rows = {"image": ["a.png", "b.png", "c.png"], "label": ["x", "y", "y"], name: [fits, odd, ""]}
        pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
        message = rf"column '{name}' holds 1 of 3 value\(s\) that do not fit"
        with pytest.raises(ManifestError, match=message) as caught:
            manifest.build(self.data("table", tmp_path / "labels.csv", attributes=[name]), KEY)
        assert odd not in str(caught.value)

    @pytest.mark.parametrize(
        ("source", "table", "columns"),
        [
            ("nih", "Data_Entry_2017.csv", ["Patient Gender", "View Position"]),
            ("mimic", "mimic-cxr-2.0.0-metadata.csv", ["ViewPosition"]),
            ("mimic", "mimic-cxr-2.0.0-split.csv", ["split"]),
            ("chexpert", "train.csv", ["Sex", "Frontal/Lateral"]),
        ],
    )
    def test_no_foreign_word_of_a_public_set(self, tmp_path: Path, source: str, table: str, columns: list[str]) -> None:
        trees = {"nih": public_sets.nih, "chexpert": public_sets.chexpert}
        root = trees[source](tmp_path) if source in trees else public_sets.mimic(tmp_path, "csv")
        frame = pd.read_csv(root / table, dtype=str, index_col=False)
        frame[columns] = CANARY
        frame.to_csv(root / table, index=False)
        finding = "Effusion" if source == "nih" else "Pleural Effusion"
        made = manifest.build(self.data(source, root, cohort={"finding": finding, "view": "any"}), KEY).frame
        assert len(made) and CANARY not in made.to_csv()
