from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrtl.config import Folds as FoldsConfig
from cxrtl.data.audit import audit, require_clean
from cxrtl.data.folds import check_current, make_folds, read_folds, write_folds
from cxrtl.errors import FoldsError, LeakageError, StaleFoldsError
from cxrtl.records import FOLD_COLUMNS, Folds, Prepared, stated_columns
from tests.data.helpers import fake_index, fake_prepared, grouped, ungrouped


def made() -> tuple[Folds, pd.DataFrame, Prepared]:
    index, prepared = grouped()
    return make_folds(index, prepared, FoldsConfig(k=5)), index, prepared


def findings(count: int = 150, patients: int = 60) -> tuple[pd.DataFrame, Prepared]:
    """Three findings, one of them in every twelfth patient alone; a fifth of the labels is not stated."""
    rng = np.random.default_rng(1)
    owner = rng.integers(0, patients, count)
    index = fake_index([""] * count, [f"pat-{number:016x}" for number in owner], ("",))
    for name, sick in (("common", owner % 2 == 0), ("some", owner % 4 == 1), ("rare", owner % 12 == 0)):
        index[f"label_{name}"] = np.where(rng.random(count) < 0.2, np.nan, sick.astype(float))
    return index, replace(fake_prepared(index, ("common", "some", "rare")), task="multilabel")


class TestFindings:
    def test_patients_together_and_the_rarest_finding_spread(self) -> None:
        index, prepared = findings()
        folds = make_folds(index, prepared, FoldsConfig(k=4))
        assert folds.frame.groupby("patient_id")["fold"].nunique().eq(1).all()
        assert stated_columns(folds.frame) == ["label_common", "label_some", "label_rare"]
        for name in stated_columns(folds.frame):
            present = (folds.frame[name] == 1).groupby(folds.frame["fold"]).sum()
            assert present.min() >= 1, name
        certificate = audit(folds, task="multilabel")
        require_clean(certificate)
        counted = [fold["labels"]["rare"] for fold in certificate["per_fold"]]
        assert sum(counted) == (index["label_rare"] == 1).sum() and "positives" not in certificate["per_fold"][0]

    def test_saved_labels_are_compared_with_todays(self, tmp_path: Path) -> None:
        index, prepared = findings()
        write_folds(tmp_path / "folds.parquet", make_folds(index, prepared, FoldsConfig(k=4)))
        saved = read_folds(tmp_path / "folds.parquet")
        check_current(saved, index, prepared)
        unstated = index["label_some"].isna().idxmax()
        index.loc[unstated, "label_some"] = 0.0
        with pytest.raises(StaleFoldsError, match=r"1 changed label\(s\) of 'some'"):
            check_current(saved, index, prepared)

    def test_finding_that_one_fold_keeps_to_itself(self) -> None:
        index, prepared = findings()
        folds = make_folds(index, prepared, FoldsConfig(k=4))
        folds.frame["label_rare"] = (folds.frame["fold"] == 2).astype(float)
        with pytest.raises(FoldsError, match=r"present and absent in training: fails for 1, such as \[2\]"):
            require_clean(audit(folds, task="multilabel"))


class TestMake:
    def test_every_class_of_several_in_each_fold(self) -> None:
        index = fake_index(["a", "b", "c", "c"] * 15, [""] * 60, ("c", "a", "b"))
        folds = make_folds(index, fake_prepared(index, ("c", "a", "b")), FoldsConfig(k=5, ungrouped=True))
        assert folds.frame.groupby(["fold", "label"]).size().tolist() == [3, 3, 6] * 5
        require_clean(audit(folds, "", "multiclass"))

    def test_every_image_once_patients_together_classes_in_each(self) -> None:
        folds, index, _ = made()
        assert list(folds.frame.columns) == list(FOLD_COLUMNS) and folds.k == 5 and folds.grouped
        assert folds.frame["image_id"].tolist() == index["image_id"].tolist()
        assert folds.frame.groupby("patient_id")["fold"].nunique().eq(1).all()
        assert folds.frame.groupby("fold")["label"].nunique().eq(2).all()
        share = folds.frame["label"].eq("b").groupby(folds.frame["fold"]).mean()
        assert (share - index["label"].eq("b").mean()).abs().max() < 0.15

    def test_same_seed_same_folds_other_seed_others(self) -> None:
        index, prepared = grouped()
        one, again, other = (make_folds(index, prepared, FoldsConfig(k=5, seed=seed)) for seed in (0, 0, 1))
        assert one.hash == again.hash != other.hash

    def test_ids_do_not_matter(self) -> None:
        """Another machine has another id key: same images, other ids, same folds and hash."""
        index, prepared = grouped()
        other = index.assign(
            image_id="img-" + index["image_id"].str[::-1], patient_id="pat-" + index["patient_id"].str[::-1]
        )
        one, two = (make_folds(each, prepared, FoldsConfig(k=5)) for each in (index, other))
        assert one.hash == two.hash and one.frame["fold"].tolist() == two.frame["fold"].tolist()

    def test_unknown_patients_need_a_flag(self) -> None:
        index, prepared = ungrouped()
        with pytest.raises(FoldsError, match=r"folds\.ungrouped = true"):
            make_folds(index, prepared, FoldsConfig(k=4))
        folds = make_folds(index, prepared, FoldsConfig(k=4, ungrouped=True))
        assert not folds.grouped
        assert folds.frame.groupby(["fold", "label"]).size().tolist() == [5, 10] * 4

    def test_copies_of_a_picture_share_a_fold(self) -> None:
        index, prepared = ungrouped()
        index.loc[[1, 8, 40], "content_hash"] = index["content_hash"][1]
        folds = make_folds(index, prepared, FoldsConfig(k=4, ungrouped=True))
        assert folds.frame["fold"][[1, 8, 40]].nunique() == 1
        require_clean(audit(folds))

    def test_studies_known_in_part_and_copies_are_kept_together(self) -> None:
        """Study s has images 0 and 9, and a copy of 9 is in study t: all of both share a fold."""
        index, prepared = ungrouped()
        index.loc[[0, 9], "study_id"], index.loc[[22, 31], "study_id"] = "s", "t"
        index.loc[22, "content_hash"] = index["content_hash"][9]
        folds = make_folds(index, prepared, FoldsConfig(k=4, ungrouped=True))
        assert folds.frame["fold"][[0, 9, 22, 31]].nunique() == 1
        certificate = audit(folds)
        require_clean(certificate)
        assert "no study in two folds" in [check["name"] for check in certificate["checks"]]
        folds.frame.loc[0, "fold"] = (folds.frame["fold"][9] + 1) % 4
        with pytest.raises(LeakageError, match="no study in two folds: fails for 1"):
            require_clean(audit(folds))

    def test_the_flag_does_not_ignore_known_patients(self) -> None:
        index, prepared = grouped()
        assert make_folds(index, prepared, FoldsConfig(k=5, ungrouped=True)).grouped

    def test_too_few(self) -> None:
        index, prepared = ungrouped()
        with pytest.raises(FoldsError, match=r"class 'a' has 20 images, too few for folds\.k = 21"):
            make_folds(index, prepared, FoldsConfig(k=21, ungrouped=True))
        index, prepared = grouped(patients=12)
        with pytest.raises(FoldsError, match=r"class 'a' has 6 patients, too few for folds\.k = 7"):
            make_folds(index, prepared, FoldsConfig(k=7))

    def test_fold_that_would_lack_a_class(self) -> None:
        """Two patients have class b, enough for two folds, but the draw puts both into one."""
        index = fake_index(list("aaabbbaab"), [*["x"] * 6, "y", "y", "z"])
        with pytest.raises(FoldsError, match=r"fold\(s\) \[0\] would hold no image of class 'b': lower folds\.k = 2"):
            make_folds(index, fake_prepared(index), FoldsConfig(k=2))

    def test_seed_beyond_what_the_generator_takes(self) -> None:
        with pytest.raises(ValueError, match="less than 4294967296"):
            FoldsConfig(k=5, seed=2**32)


class TestFile:
    def test_round_trip(self, tmp_path: Path) -> None:
        folds, _, _ = made()
        write_folds(tmp_path / "folds.parquet", folds)
        back = read_folds(tmp_path / "folds.parquet")
        pd.testing.assert_frame_equal(back.frame, folds.frame)
        assert (back.hash, back.dataset_hash, back.grouped) == (folds.hash, folds.dataset_hash, folds.grouped)

    def test_missing_foreign_and_altered(self, tmp_path: Path) -> None:
        path = tmp_path / "folds.parquet"
        with pytest.raises(FoldsError, match="there is no folds file"):
            read_folds(path)
        path.write_bytes(b"no parquet")
        with pytest.raises(FoldsError, match="is no folds table"):
            read_folds(path)
        pq.write_table(pa.table({"image_id": ["a"], "fold": [0]}), path)
        with pytest.raises(FoldsError, match="is no folds table"):
            read_folds(path)
        write_folds(path, made()[0])
        table = pq.read_table(path)
        fold = pa.array([4 - value for value in table["fold"].to_pylist()])
        pq.write_table(table.set_column(4, "fold", fold), path)
        with pytest.raises(FoldsError, match="was altered"):
            read_folds(path)

    def test_full_disk(self, tmp_path: Path) -> None:
        with pytest.raises(FoldsError, match="could not be written"):
            write_folds(tmp_path / "absent" / "folds.parquet", made()[0])


class TestCurrent:
    def test_current(self) -> None:
        check_current(*made())

    @pytest.mark.parametrize(
        ("column", "value", "message"),
        [
            ("label", "b", r"1 changed label\(s\) such as \['img-0000000000000003'\]"),
            ("patient_id", "pat-x", r"1 changed patient\(s\) such as \['img-0000000000000003'\]"),
            ("content_hash", "f" * 64, r"1 changed picture\(s\) such as \['img-0000000000000003'\]"),
            ("image_id", "img-x", r"1 new image\(s\) such as \['img-x'\]; 1 image\(s\) gone such as"),
        ],
    )
    def test_what_differs_is_named(self, column: str, value: str, message: str) -> None:
        index, _ = grouped()
        index.loc[3, "label"] = "a"
        folds = make_folds(index, fake_prepared(index), FoldsConfig(k=5))
        changed = index.copy()
        changed.loc[3, column] = value
        other = Prepared(Path("/nowhere"), ("a", "b"), 32, len(index), True, "1" * 64)
        with pytest.raises(StaleFoldsError, match=message):
            check_current(folds, changed, other)

    def test_at_most_five_ids_and_the_count(self) -> None:
        folds, index, _ = made()
        other = Prepared(Path("/nowhere"), ("a", "b"), 32, 100, True, "1" * 64)
        with pytest.raises(StaleFoldsError, match=r"20 image\(s\) gone such as") as caught:
            check_current(folds, index.iloc[20:], other)
        assert str(caught.value).count("img-") == 5

    def test_other_order(self) -> None:
        folds, index, prepared = made()
        with pytest.raises(StaleFoldsError, match="the same images in another order"):
            check_current(folds, index.iloc[::-1], prepared)

    def test_other_id_key_is_told_from_other_data(self) -> None:
        folds, index, prepared = made()
        with pytest.raises(StaleFoldsError, match=r"CXRTL_KEY_FILE"):
            check_current(folds, index.assign(image_id="x" + index["image_id"]), prepared)

    def test_image_twice(self) -> None:
        folds, index, prepared = made()
        doubled = pd.concat([folds.frame, folds.frame.head(1)])
        with pytest.raises(StaleFoldsError, match=r"1 image\(s\) more than once"):
            check_current(Folds(doubled, "", True, ""), index, prepared)
