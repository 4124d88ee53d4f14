"""The kinds of division: repeats, holdouts, sites in turn, studies where patients are unknown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrtl.config import Folds as FoldsConfig
from cxrtl.data.folds import check_current, make_folds, read_folds, write_folds
from cxrtl.errors import FoldsError, StaleFoldsError
from cxrtl.records import Prepared, held_out
from tests.data.helpers import fake_index, fake_prepared, grouped, ungrouped


def sited(sites: list[str], repeat: int = 6) -> tuple[pd.DataFrame, Prepared]:
    """`repeat` patients of two images at each site, every second one of class b."""
    rows = [(site, f"{site}-{number}") for site in sites for number in range(repeat) for _ in range(2)]
    index = fake_index(["ab"[int(who[-1]) % 2] for _, who in rows], [who for _, who in rows])
    return index.assign(site=[site for site, _ in rows]), fake_prepared(index)


class TestKinds:
    def test_repeats_are_divisions_of_their_own(self, tmp_path: Path) -> None:
        index, prepared = grouped()
        folds = make_folds(index, prepared, FoldsConfig(kind="repeated", k=4, repeats=3, seed=7))
        assert folds.k == 12 and folds.division.shape == (3, len(index))
        for repeat, row in enumerate(folds.division):
            assert sorted(set(row)) == list(range(repeat * 4, repeat * 4 + 4))
            assert index.groupby("patient_id").apply(lambda part, row=row: len(set(row[part.index]))).eq(1).all()
        alone = make_folds(index, prepared, FoldsConfig(k=4, seed=8))
        assert (folds.division[1] - 4 == alone.division[0]).all() and (folds.division[0] != alone.division[0]).any()
        held = held_out(folds.frame)
        assert len(held) == 3 * len(index) and held.groupby("repeat")["image_id"].nunique().eq(len(index)).all()
        write_folds(tmp_path / "folds.parquet", folds)
        pd.testing.assert_frame_equal(read_folds(tmp_path / "folds.parquet").frame, folds.frame)

    @pytest.mark.parametrize("share", [0.1, 0.3])
    def test_drawn_holdout_takes_its_share_of_the_patients_of_each_class(self, share: float) -> None:
        index, prepared = grouped(count=600, patients=100)
        cfg = FoldsConfig(kind="holdout", share=share)
        folds = make_folds(index, prepared, cfg)
        assert folds.k == 1 and set(folds.frame["fold"]) == {-1, 0}
        patients = folds.frame.groupby("patient_id").agg({"fold": ["min", "max"], "label": "first"})
        assert (patients["fold", "min"] == patients["fold", "max"]).all()
        for _, part in patients.groupby(("label", "first")):
            assert (part["fold", "max"] == 0).sum() == round(share * len(part))
        assert folds.hash == make_folds(index, prepared, cfg).hash
        assert folds.hash != make_folds(index, prepared, cfg.model_copy(update={"seed": 1})).hash
        assert set(held_out(folds.frame)["image_id"]) == set(folds.frame["image_id"][folds.frame["fold"] == 0])

    def test_given_split(self) -> None:
        index, prepared = sited(["train", "validate", "test"])
        folds = make_folds(index, prepared, FoldsConfig(kind="holdout", column="site"))
        assert (folds.frame["fold"] == np.where(index["site"] == "test", 0, -1)).all()
        assert folds.frame["part"].tolist() == index["site"].tolist()
        other = make_folds(index, prepared, FoldsConfig(kind="holdout", column="site", held_out="validate"))
        assert other.frame["part"][other.frame["fold"] == 0].unique().tolist() == ["validate"]
        with pytest.raises(FoldsError, match=r"held_out = 'Test' is no value of the column 'site': it has \['test'"):
            make_folds(index, prepared, FoldsConfig(kind="holdout", column="site", held_out="Test"))

    def test_sites_take_turns(self) -> None:
        index, prepared = sited(["Montgomery", "Shenzhen", "Bethesda"])
        folds = make_folds(index, prepared, FoldsConfig(kind="leave_one_site_out", column="site"))
        assert folds.k == 3
        assert folds.frame.groupby("part")["fold"].first().to_dict() == {"Bethesda": 0, "Montgomery": 1, "Shenzhen": 2}
        assert folds.frame.groupby("part")["fold"].nunique().eq(1).all()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"column": "hospital"}, r"'hospital' is no column of the prepared set, which keeps \['site'\]"),
            ({"blank": 2}, r"column 'site' is blank for 2 image\(s\)"),
            ({"sites": ["one"]}, "holds one site only"),
            ({"label": "a"}, r"fold\(s\) \[1\] would hold no image of class 'b': leave out the sites"),
        ],
    )
    def test_sites_that_cannot_take_turns(self, change: dict[str, object], message: str) -> None:
        index, prepared = sited(change.get("sites", ["one", "two"]))  # type: ignore[arg-type]
        index.loc[: int(change.get("blank", 0)) - 1, "site"] = ""  # type: ignore[call-overload]
        if "label" in change:
            index.loc[index["site"] == "two", ["label", "target"]] = ["a", 0]
        cfg = FoldsConfig(kind="leave_one_site_out", column=str(change.get("column", "site")))
        with pytest.raises(FoldsError, match=message):
            make_folds(index, prepared, cfg)

    def test_holdout_too_small_to_have_both_sides(self) -> None:
        index = fake_index(list("aaab"), list("wxyz"))
        with pytest.raises(FoldsError, match="class 'b' has 1 patients, too few for a holdout"):
            make_folds(index, fake_prepared(index), FoldsConfig(kind="holdout"))

    @pytest.mark.parametrize("kind", ["cv", "holdout", "repeated"])
    def test_studies_stay_together_where_patients_are_unknown(self, kind: str) -> None:
        index, prepared = ungrouped(60)
        index["label"], index["target"] = ["a"] * 30 + ["b"] * 30, [0] * 30 + [1] * 30
        index["study_id"] = [f"std-{number // 3}" for number in range(60)]
        folds = make_folds(index, prepared, FoldsConfig.model_validate({"kind": kind, "k": 4, "ungrouped": True}))
        assert not folds.grouped
        for row in folds.division:
            assert pd.Series(row).groupby(index["study_id"]).nunique().eq(1).all()

    def test_stale_repeats_and_holdouts_are_refused(self, tmp_path: Path) -> None:
        index, prepared = grouped()
        for kind in ("repeated", "holdout"):
            folds = make_folds(index, prepared, FoldsConfig.model_validate({"kind": kind, "k": 4}))
            other = Prepared(Path("/nowhere"), ("a", "b"), 32, 100, True, "1" * 64)
            with pytest.raises(StaleFoldsError):
                check_current(folds, index.iloc[1:], other)
            write_folds(tmp_path / kind, folds)
            table = pq.read_table(tmp_path / kind)
            column = table.column_names[-1]
            other_way = pa.array(table[column].to_pylist()[::-1])
            pq.write_table(table.set_column(table.num_columns - 1, column, other_way), tmp_path / kind)
            with pytest.raises(FoldsError, match="was altered"):
                read_folds(tmp_path / kind)
