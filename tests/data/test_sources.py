"""MIMIC-CXR and CheXpert on trees with their genuine names and quirks, against cohorts counted by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cxrtl.config import Data
from cxrtl.data import manifest
from cxrtl.data.sources import chexpert as chexpert_source
from cxrtl.errors import ConfigError, ManifestError
from cxrtl.records import Manifest
from tests.data import public_sets

KEY = b"k" * 32
EFFUSION = "Pleural Effusion"


def build(source: str, root: Path, **cohort: object) -> Manifest:
    finding = {} if source == "kermany" else {"finding": EFFUSION}
    return manifest.build(
        Data.model_validate({"source": source, "path": str(root), "cohort": {**finding, **cohort}}), KEY
    )


def findings(source: str, root: Path, *names: str, **cohort: object) -> Manifest:
    raw = {"source": source, "path": str(root), "task": "multilabel", "cohort": {"findings": names, **cohort}}
    return manifest.build(Data.model_validate(raw), KEY)


def stated(made: Manifest, finding: str = EFFUSION) -> dict[str, float]:
    """By image: 1 or 0; -9 where it is not stated."""
    labels = made.frame[f"label_{finding}"].fillna(-9)
    return {Path(path).name: label for path, label in zip(made.frame["path"], labels, strict=True)}


def steps(made: Manifest) -> list[tuple[str, int, int]]:
    return [(step.step, step.removed, step.left) for step in made.flow]


class TestMimic:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return public_sets.mimic(tmp_path / "mimic")

    def names(self, made: Manifest) -> dict[str, str]:
        return {Path(path).name: label for path, label in zip(made.frame["path"], made.frame["label"], strict=True)}

    @pytest.mark.parametrize("suffix", ["csv.gz", "csv"])
    def test_cohort_of_both_programs(self, tmp_path: Path, suffix: str) -> None:
        made = build("mimic", public_sets.mimic(tmp_path, suffix))
        assert made.classes == ("No Finding", EFFUSION)
        assert self.names(made) == {
            "a1.jpg": EFFUSION,
            "b1.jpg": "No Finding",
            "b2.jpg": "No Finding",
            "g1.jpg": EFFUSION,
            "i1.jpg": "No Finding",
        }
        assert steps(made) == [
            ("images listed", 0, 16),
            ("view not stated", 1, 15),  # g2
            ("view not frontal", 3, 12),  # a2, g3, i2
            ("study not labelled by both programs", 1, 11),  # h1
            ("the two programs differ", 2, 9),  # c1, j1
            ("neither Pleural Effusion nor No Finding", 3, 6),  # d1, e1, f1
            ("file not there", 1, 5),  # gone
        ]

    def test_patients_left_are_counted_at_every_step(self, root: Path) -> None:
        """Nine, of whom 10000032 has two studies; a patient is lost with the last image."""
        assert [step.patients for step in build("mimic", root).flow] == [9, 9, 9, 8, 6, 3, 3]

    def test_patients_and_studies_are_grouped(self, root: Path) -> None:
        frame = build("mimic", root).frame
        assert frame["patient_id"].nunique() == 3 and frame["study_id"].nunique() == 4
        assert frame["patient_id"].tolist()[0] == frame["patient_id"].tolist()[1]

    @pytest.mark.parametrize(
        ("view", "names"),
        [
            ("AP", {"b1.jpg", "g1.jpg"}),
            ("PA", {"a1.jpg", "b2.jpg", "i1.jpg"}),
            ("any", {"a1.jpg", "a2.jpg", "b1.jpg", "b2.jpg", "g1.jpg", "g2.jpg", "g3.jpg", "i1.jpg", "i2.jpg"}),
        ],
    )
    def test_views(self, root: Path, view: str, names: set[str]) -> None:
        assert set(self.names(build("mimic", root, view=view))) == names

    def test_uncertain_as_positive(self, root: Path) -> None:
        """-1 with both becomes a positive, and so does 1 with one and -1 with the other."""
        names = self.names(build("mimic", root, uncertain="positive"))
        assert names["c1.jpg"] == names["d1.jpg"] == EFFUSION and len(names) == 7

    def test_stated_absent_as_negative(self, root: Path) -> None:
        """e1 is stated absent; the blanks of f1 and of the No Finding studies are not."""
        made = build("mimic", root, negative="absent")
        assert made.classes == (f"no {EFFUSION}", EFFUSION)
        assert self.names(made) == {"a1.jpg": EFFUSION, "e1.dcm": f"no {EFFUSION}", "g1.jpg": EFFUSION}

    def test_uncertain_as_negative(self, root: Path) -> None:
        names = self.names(build("mimic", root, negative="absent", uncertain="negative"))
        assert names["d1.jpg"] == f"no {EFFUSION}" and "c1.jpg" not in names  # there the programs differ

    def test_findings_on_which_both_programs_agree(self, root: Path) -> None:
        """The No Finding of b1 states no effusion absent; c1 and d1 are stated only where uncertain is positive."""
        assert stated(findings("mimic", root, EFFUSION)) == {"a1.jpg": 1, "e1.dcm": 0, "g1.jpg": 1}
        assert steps(findings("mimic", root, EFFUSION))[-2:] == [("no finding stated", 8, 3), ("file not there", 0, 3)]
        both = stated(findings("mimic", root, EFFUSION, uncertain="positive"))
        assert both == {"a1.jpg": 1, "c1.jpg": 1, "d1.jpg": 1, "e1.dcm": 0, "g1.jpg": 1}

    def test_official_split(self, root: Path) -> None:
        made = build("mimic", root, split="train")
        assert set(self.names(made)) == {"a1.jpg", "b1.jpg", "b2.jpg", "i1.jpg"}
        assert steps(made)[1] == ("not in the train split", 4, 12)

    def test_one_image_a_patient(self, root: Path) -> None:
        made = build("mimic", root, one_per_patient=True)
        assert made.frame["patient_id"].is_unique and len(made.frame) == 3
        assert steps(made)[-1] == ("another image of the patient was drawn", 2, 3)

    def test_drawn_with_a_seed(self, root: Path) -> None:
        one, again, *others = (build("mimic", root, per_class=1, seed=seed) for seed in (0, 0, *range(1, 12)))
        assert self.names(one) == self.names(again)
        assert sorted(self.names(one).values()) == ["No Finding", EFFUSION]
        assert steps(one)[-1] == ("not drawn (1 of each class)", 3, 2)
        assert len({tuple(self.names(each)) for each in others}) > 1

    def test_more_asked_than_there_is(self, root: Path) -> None:
        with pytest.raises(
            ManifestError, match=r"per_class = 3 is more than there are images: {'Pleural Effusion': 2}"
        ):
            build("mimic", root, per_class=3)

    def test_labels_go_along_and_blank_is_not_zero(self, root: Path) -> None:
        frame = build("mimic", root, view="any", uncertain="positive").frame
        frame.index = pd.Index([Path(path).stem for path in frame["path"]])
        column = frame[f"finding:{EFFUSION}"]
        assert column["a1"] == 1 and column["d1"] == -1 and pd.isna(column["b1"]) and pd.isna(column["c1"])
        assert frame["view"][["g1", "g2", "g3", "i2"]].tolist() == ["AP", "", "lateral", "other"]

    def test_dates_and_times_do_not_go_along(self, root: Path) -> None:
        frame = build("mimic", root).frame
        assert "21800506" not in frame.to_csv() and "10000032" not in frame.drop(columns="path").to_csv()

    def test_wrong_finding_and_missing_table(self, root: Path) -> None:
        with pytest.raises(ManifestError, match=r"finding = 'Effusion' is not among the set's findings: .*Effusion"):
            build("mimic", root, finding="Effusion")
        (root / "mimic-cxr-2.0.0-negbio.csv.gz").unlink()
        with pytest.raises(ManifestError, match=r"holds none of \['mimic-cxr-2.0.0-negbio.csv.gz'"):
            build("mimic", root)

    def test_tables_of_the_jpeg_set_beside_dicom_files(self, root: Path, tmp_path: Path) -> None:
        tables = tmp_path / "jpg"
        tables.mkdir()
        for path in root.glob("*.csv.gz"):
            path.rename(tables / path.name)
        with pytest.raises(ManifestError, match=r"in data\.tables; MIMIC-CXR, the DICOM files, comes without it"):
            build("mimic", root)
        raw = {"source": "mimic", "path": str(root), "tables": str(tables), "cohort": {"finding": EFFUSION}}
        assert len(manifest.build(Data.model_validate(raw), KEY).frame) == 5
        with pytest.raises(ValueError, match=r"data\.tables has no meaning"):
            Data.model_validate({**raw, "source": "chexpert"})

    def test_identifiers_that_would_leave_the_folder(self, root: Path) -> None:
        path = root / "mimic-cxr-2.0.0-metadata.csv.gz"
        frame = pd.read_csv(path, dtype=str)
        frame.loc[0, "dicom_id"] = "../../../../secret"
        frame.to_csv(path, index=False)
        with pytest.raises(ManifestError, match="metadata holds 1 identifiers that are not the set's own") as caught:
            build("mimic", root)
        assert "secret" not in str(caught.value)


class TestChexpert:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return public_sets.chexpert(tmp_path / "renamed")

    def test_cohort(self, root: Path) -> None:
        made = build("chexpert", root)
        assert [Path(path).parts[-3] for path in made.frame["path"]] == [
            *("patient00001", "patient00002", "patient00003", "patient00006", "patient00006"),
            *("patient64541", "patient64542"),
        ]
        assert made.frame["label"].tolist() == ["No Finding", *[EFFUSION] * 5, "No Finding"]
        assert made.frame["split"].tolist() == ["train"] * 5 + ["validate"] * 2
        assert made.frame["view"].tolist() == ["AP", "PA", "frontal", "AP", "frontal", "AP", "PA"]
        assert made.frame["sex"].tolist() == list("FFMFFMM")
        bands = ["60-69", "80-89", "40-49", "50-59", "50-59", "70-79", "70-79"]
        assert made.frame["age_band"].tolist() == bands
        assert made.frame["study_id"].nunique() == 6  # a study1 each, and two images of one
        stated = made.frame[[f"finding:{name}" for name in chexpert_source.FINDINGS]].notna().sum(axis=1)
        assert stated.tolist() == [0, 1, 1, 1, 1, 13, 13]
        assert steps(made) == [
            ("images listed", 0, 12),
            ("view not frontal", 1, 11),
            ("neither Pleural Effusion nor No Finding", 3, 8),
            ("file not there", 1, 7),
        ]

    @pytest.mark.parametrize(("view", "count"), [("AP", 3), ("PA", 2), ("lateral", 1), ("any", 8)])
    def test_views(self, root: Path, view: str, count: int) -> None:
        if view == "lateral":
            with pytest.raises(ManifestError, match="there are 1 classes"):
                build("chexpert", root, view=view)
        else:
            assert len(build("chexpert", root, view=view).frame) == count

    @pytest.mark.parametrize(("uncertain", "label"), [("positive", EFFUSION), ("negative", f"no {EFFUSION}")])
    def test_uncertain(self, root: Path, uncertain: str, label: str) -> None:
        frame = build("chexpert", root, uncertain=uncertain, negative="absent").frame
        doubtful = frame[frame[f"finding:{EFFUSION}"] == -1]
        assert doubtful["label"].tolist() == [label]

    def test_blank_is_never_absent(self, root: Path) -> None:
        """Of the frontal images two are stated absent: patient 4 and 64542; patients 1 and 5 are blank."""
        frame = build("chexpert", root, negative="absent").frame
        negative = frame[frame["label"] == f"no {EFFUSION}"]
        assert [Path(path).parts[-3] for path in negative["path"]] == ["patient00004", "patient64542"]
        assert negative[["sex", "age_band"]].iloc[0].tolist() == ["", ""]  # Unknown, and 0 in a set of adults

    def test_blank_findings_are_not_stated(self, root: Path) -> None:
        path = root / "train.csv"
        frame = pd.read_csv(path, dtype=str)
        frame["Edema"] = ["1.0", "0.0", *[""] * (len(frame) - 2)]
        frame.to_csv(path, index=False)
        made = findings("chexpert", root, "Edema", EFFUSION, view="any", split="train")
        assert made.frame["label"].eq("").all() and made.classes == ("Edema", EFFUSION)
        edema, effusion = (made.frame[f"label_{name}"].fillna(-9).tolist() for name in made.classes)
        assert edema == [1, 0, *[-9] * 6] and effusion == [-9, -9, 1, 1, 1, 0, 1, 1]
        doubted = findings("chexpert", root, "Edema", EFFUSION, view="any", split="train", uncertain="negative")
        assert doubted.frame[f"label_{EFFUSION}"][1] == 0

    def test_large_edition_and_split(self, tmp_path: Path) -> None:
        root = public_sets.chexpert(tmp_path, "CheXpert-v1.0")
        made = build("chexpert", root, split="validate")
        assert len(made.frame) == 2 and steps(made)[0] == ("images listed", 0, 2)

    def test_paths_that_are_not_the_set_s(self, root: Path) -> None:
        frame = pd.read_csv(root / "train.csv", dtype=str)
        frame.loc[0, "Path"] = "CheXpert-v1.0-small/train/../../etc/passwd"
        frame.to_csv(root / "train.csv", index=False)
        with pytest.raises(ManifestError, match="1 entries of the column Path"):
            build("chexpert", root)

    def test_labels_that_are_not_the_set_s(self, root: Path) -> None:
        frame = pd.read_csv(root / "train.csv", dtype=str)
        frame.loc[0, "Edema"] = "yes"
        frame.loc[1, "Edema"] = "2"
        frame.to_csv(root / "train.csv", index=False)
        with pytest.raises(ManifestError, match="2 label"):
            build("chexpert", root)


class TestKnobs:
    def test_finding_is_needed(self) -> None:
        with pytest.raises(ValueError, match=r"data\.cohort\.finding is empty: source 'mimic' needs one"):
            Data.model_validate({"source": "mimic", "path": "x"})

    def test_cohort_without_a_public_set(self) -> None:
        with pytest.raises(ValueError, match=r"data\.cohort has no meaning for source 'table'"):
            Data.model_validate({"source": "table", "path": "x", "cohort": {"per_class": 5}})

    def test_policy_that_would_do_nothing(self) -> None:
        with pytest.raises(ValueError, match="set negative = 'absent' as well"):
            Data.model_validate({"source": "mimic", "path": "x", "cohort": {"finding": "x", "uncertain": "negative"}})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"task": "multiclass", "source": "phantom"}, "'multiclass' needs one of the sources"),
            ({"task": "multilabel"}, "go together: give both"),
            ({"task": "multilabel", "source": "nih"}, r"data\.cohort\.findings is empty"),
            ({"label_columns": ["a"]}, "go together: give both"),
            ({"task": "multiclass", "positive": "a"}, r"data\.positive has no meaning for task 'multiclass'"),
            ({"task": "multilabel", "label_columns": ["a"], "classes": ["a"]}, r"data\.classes has no meaning"),
            ({"classes": ["a", "a"]}, r"\['a', 'a'\] names one twice"),
        ],
    )
    def test_labels_of_another_task(self, changes: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Data.model_validate({"source": "table", "path": "x", **changes})

    def test_faults_are_told_by_the_file_s_reader(self, tmp_path: Path) -> None:
        from cxrtl import config

        (tmp_path / "a.toml").write_text(
            'name = "a"\n[data]\nsource = "nih"\npath = "x"\n[data.cohort]\nview = "top"\n'
        )
        with pytest.raises(ConfigError, match=r"data\.cohort\.view: .*received 'top'"):
            config.load(tmp_path / "a.toml")
