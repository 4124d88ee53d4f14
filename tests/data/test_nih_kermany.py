"""NIH ChestX-ray14 and Kermany's set: their layouts in small, and the real images where they are at hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cxrtl.config import Data
from cxrtl.config import Folds as FoldsConfig
from cxrtl.data import manifest
from cxrtl.data.audit import audit, require_clean
from cxrtl.data.folds import make_folds
from cxrtl.errors import LeakageError, ManifestError
from tests.data import public_sets
from tests.data.helpers import CANARY, fake_prepared, save
from tests.data.test_sources import build, steps

KEY = b"k" * 32


def nih(root: Path, **cohort: object) -> manifest.Manifest:
    return manifest.build(
        Data.model_validate({"source": "nih", "path": str(root), "cohort": {"finding": "Effusion", **cohort}}), KEY
    )


class TestNih:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return public_sets.nih(tmp_path)

    def test_cohort(self, root: Path) -> None:
        made = nih(root)
        assert made.classes == ("No Finding", "Effusion")
        assert [Path(path).name for path in made.frame["path"]] == [
            *("00000001_000.png", "00000001_001.png", "00000002_000.png", "00000004_000.png")
        ]
        assert made.frame["label"].tolist() == ["Effusion", "Effusion", "No Finding", "No Finding"]
        assert made.frame["patient_id"].nunique() == 3
        assert made.frame["age_band"].tolist() == ["50-59", "50-59", "", "70-79"]
        assert made.frame["split"].tolist() == ["train", "train", "train", "test"]
        assert made.frame["finding:Mass"].tolist() == [1, 0, 0, 0]
        assert steps(made) == [
            ("images listed", 0, 6),
            ("view not stated", 0, 6),
            ("view not frontal", 0, 6),
            ("neither Effusion nor No Finding", 1, 5),
            ("file not there", 1, 4),
        ]

    def test_absent(self, root: Path) -> None:
        assert len(nih(root, negative="absent").frame) == 5

    def test_several_findings(self, root: Path) -> None:
        raw = {"source": "nih", "path": str(root), "task": "multilabel", "cohort": {"findings": ["Mass", "Effusion"]}}
        made = manifest.build(Data.model_validate(raw), KEY)
        assert made.task == "multilabel" and made.classes == ("Mass", "Effusion") and len(made.frame) == 5
        assert made.frame["label_Effusion"].tolist() == [1, 1, 0, 0, 0]
        assert made.frame["label_Mass"].tolist() == [1, 0, 0, 0, 0]

    def test_split(self, root: Path) -> None:
        assert len(nih(root, split="train").frame) == 3
        with pytest.raises(ManifestError, match=r"data\.cohort\.split = 'validate' needs one of"):
            nih(root, split="validate")
        (root / "train_val_list.txt").unlink()
        (root / "test_list.txt").unlink()
        assert set(nih(root).frame["split"]) == {""}
        with pytest.raises(ManifestError, match="needs one of"):
            nih(root, split="train")

    def test_one_folder(self, root: Path, tmp_path: Path) -> None:
        flat = tmp_path / "flat"
        for path in root.glob("images_*/images/*"):
            (flat / "images").mkdir(parents=True, exist_ok=True)
            path.rename(flat / "images" / path.name)
        (root / "Data_Entry_2017.csv").rename(flat / "Data_Entry_2017_v2020.csv")
        assert nih(flat).frame["image_id"].nunique() == 4

    def test_files_of_the_desktop_s_are_no_images(self, root: Path) -> None:
        before = nih(root).frame
        for number in (1, 2):
            (root / f"images_{number:03d}/images/.DS_Store").write_bytes(b"x")
        assert nih(root).frame.equals(before)

    def test_two_tables_and_two_copies(self, root: Path) -> None:
        save(root / "images/00000001_000.png", 0)
        with pytest.raises(ManifestError, match=r"1 image name\(s\) occur in two of the image folders"):
            nih(root)
        (root / "Data_Entry_2017_v2020.csv").write_text(public_sets.NIH_HEADER)
        with pytest.raises(ManifestError, match="holds 2 tables"):
            nih(root)

    def test_file_that_cannot_be_looked_at_is_not_named(self, root: Path) -> None:
        table = root / "Data_Entry_2017.csv"
        table.write_text(table.read_text().replace("00000005_000.png", CANARY * 40))
        with pytest.raises(ManifestError, match=r"cannot be looked at \(File name too long\)") as caught:
            nih(root)
        assert CANARY not in str(caught.value)

    def test_foreign_finding_is_not_quoted(self, root: Path) -> None:
        rows = [public_sets.NIH_HEADER, public_sets.NIH_ROWS[0].replace("Mass", CANARY)]
        (root / "Data_Entry_2017.csv").write_text("\n".join(rows))
        with pytest.raises(ManifestError, match="1 row") as caught:
            nih(root)
        assert CANARY not in str(caught.value)

    def test_real(self, shared_data: Path) -> None:
        """Counted in the table: 10 images with an effusion, 41 without finding, all frontal, all there."""
        made = nih(shared_data / "nih-named")
        assert Counter(made.frame["label"]) == {"Effusion": 10, "No Finding": 41}
        assert steps(made)[0][2] == 105 and steps(made)[-1][1] == 0
        assert all(Path(path).is_file() for path in made.frame["path"])
        assert len(nih(shared_data / "nih-named", view="AP").frame) + len(
            nih(shared_data / "nih-named", view="PA").frame
        ) == len(made.frame)


class TestKermany:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        names = [
            "train/NORMAL/IM-0115-0001.jpeg",
            "train/NORMAL/IM-0115-0001-0002.jpeg",
            "train/NORMAL/NORMAL2-IM-0115-0001.jpeg",
            "test/NORMAL/IM-0115-0003.jpeg",
            "train/PNEUMONIA/person7_bacteria_24.jpeg",
            "test/PNEUMONIA/person7_virus_3.jpeg",
            "val/PNEUMONIA/person70_virus_3.jpeg",
        ]
        for number, name in enumerate(names):
            save(tmp_path / "chest_xray" / name, number)
        save(tmp_path / "chest_xray/__MACOSX/train/NORMAL/._IM-0115-0001.jpeg", 0)
        (tmp_path / "chest_xray/train/NORMAL/.DS_Store").write_text("x")
        return tmp_path

    def test_merged_and_grouped_by_patient(self, root: Path) -> None:
        """`IM-0115` and `NORMAL2-IM-0115` are two patients; `person7` of train and test is one."""
        made = build("kermany", root)
        frame = made.frame
        assert made.classes == ("NORMAL", "PNEUMONIA") and len(frame) == 7
        assert frame["patient_id"].nunique() == 4
        assert frame.groupby("split").size().to_dict() == {"test": 2, "train": 4, "validate": 1}
        assert frame["cause"].tolist() == ["", "", "", "bacteria", "virus", "", "virus"]
        assert len(build("kermany", root / "chest_xray").frame) == 7

    def test_three_classes_by_cause(self, root: Path) -> None:
        made = manifest.build(Data(source="kermany", path=str(root), task="multiclass"), KEY)
        assert made.classes == ("NORMAL", "BACTERIA", "VIRUS")
        assert Counter(made.frame["label"]) == {"NORMAL": 4, "BACTERIA": 1, "VIRUS": 2}

    def test_patients_that_share_a_file_are_one(self, root: Path) -> None:
        train = root / "chest_xray/train/NORMAL"
        (train / "IM-0200-0001.jpeg").write_bytes((train / "IM-0115-0001.jpeg").read_bytes())
        (train / "IM-0300-0001.jpeg").write_bytes((train / "NORMAL2-IM-0115-0001.jpeg").read_bytes())
        (train / "IM-0300-0002.jpeg").write_bytes((train / "IM-0115-0001.jpeg").read_bytes())
        frame = build("kermany", root).frame
        assert len(frame) == 10 and frame["patient_id"].nunique() == 3  # the normal ones are all linked

    def test_public_split(self, root: Path) -> None:
        made = build("kermany", root, split="train")
        assert len(made.frame) == 4 and steps(made)[-1] == ("not in the train split", 3, 4)

    def test_public_split_as_a_holdout_is_a_leak(self, root: Path) -> None:
        """`IM-0115` and `person7` have images in train and in test."""
        frame = build("kermany", root).frame
        index = frame.assign(target=(frame["label"] == "PNEUMONIA").astype(int), content_hash=frame["image_id"])
        prepared = fake_prepared(index, ("NORMAL", "PNEUMONIA"))
        folds = make_folds(index, prepared, FoldsConfig(kind="holdout", column="split"))
        assert (folds.frame["fold"] == 0).sum() == 2
        with pytest.raises(LeakageError, match="no patient in two folds: fails for 2"):
            require_clean(audit(folds))

    def test_other_edition(self, root: Path) -> None:
        save(root / "chest_xray/train/PNEUMONIA/BACTERIA-1008087-0001.jpeg", 9)
        save(root / "chest_xray/train/NORMAL/NORMAL-1008087-0001.jpeg", 9)
        frame = build("kermany", root).frame
        assert len(frame) == 9 and frame["patient_id"].nunique() == 5

    def test_file_that_is_gone_while_it_is_read_is_not_named(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def gone(path: Path) -> str:
            raise OSError(5, "Input/output error", str(path))

        train = root / "chest_xray/train/NORMAL"
        (train / "IM-0200-0001.jpeg").write_bytes((train / "IM-0115-0001.jpeg").read_bytes())
        monkeypatch.setattr("cxrtl.data.sources.kermany.sha256_file", gone)
        with pytest.raises(ManifestError, match=r"cannot be looked at \(Input/output error\)") as caught:
            build("kermany", root)
        assert "IM-" not in str(caught.value) and "person" not in str(caught.value)

    def test_name_without_patient(self, root: Path) -> None:
        save(root / f"chest_xray/train/NORMAL/{CANARY}.png", 0)
        with pytest.raises(ManifestError, match="1 of 8 file names are not the set's own") as caught:
            build("kermany", root)
        assert CANARY not in str(caught.value)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match="holds no images in "):
            build("kermany", tmp_path)

    def test_real(self, shared_data: Path) -> None:
        made = build("kermany", shared_data / "kermany-pneumonia")
        assert Counter(made.frame["label"]) == {"NORMAL": 602, "PNEUMONIA": 602}
        assert Counter(made.frame["cause"]) == {"": 602, "bacteria": 387, "virus": 215}
        parts = made.frame.groupby("patient_id")["split"].nunique()
        assert (parts > 1).any()  # why the public split is not kept
