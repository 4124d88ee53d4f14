from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cxrtl.config import Folds as FoldsConfig
from cxrtl.data.audit import audit, require_clean
from cxrtl.data.folds import make_folds
from cxrtl.data.groups import together
from cxrtl.data.manifest import build
from cxrtl.errors import LeakageError
from tests.data.helpers import fake_prepared
from tests.data.test_stack_rows import table


def test_rows_are_linked_by_any_column_and_by_way_of_others() -> None:
    first, second = ["a", "b", "", "b", "", "e", ""], ["x", "y", "x", "z", "z", "a", ""]
    assert together(first, second).tolist() == [0, 1, 0, 1, 1, 0, 2]  # 5 has the a of 0, if in another column


def test_nothing_known_leaves_each_alone() -> None:
    assert together(["", "", ""]).tolist() == [0, 1, 2]
    assert together([]).tolist() == []


@pytest.mark.parametrize("columns", [["image"], ["image", "next"]])
def test_rows_that_share_a_file_share_a_fold(tmp_path: Path, key: bytes, columns: list[str]) -> None:
    """Of 20 volumes three slices each, or three stacks of which each shares a file with the next."""
    rows = [
        {"image": f"{v}.nii" if columns == ["image"] else f"{v}-{s}.png", "next": f"{v}-{s + 1}.png", "slice": s}
        for v in range(20)
        for s in range(3)
    ]
    frame = pd.DataFrame(rows).assign(label=["ab"[row // 3 % 2] for row in range(60)])
    alone = pd.DataFrame({"image": ["x.png", "y.png"], "next": ["x2.png", "y2.png"], "slice": "", "label": "a"})
    changes = {"image_columns": columns} if len(columns) > 1 else {"slices": 1}
    made = build(table(tmp_path, pd.concat([frame, alone]), **changes), key)
    study = made.frame["study_id"]
    assert study[:60].nunique() == 20 and study.groupby(study).size().max() == 3 and (study[60:] == "").all()
    index = made.frame.assign(content_hash=made.frame["image_id"], target=(made.frame["label"] == "b").astype(int))
    folds = make_folds(index, fake_prepared(index), FoldsConfig(k=4, ungrouped=True))
    assert folds.frame[:60].groupby(study[:60])["fold"].nunique().eq(1).all()
    require_clean(audit(folds))
    folds.frame.loc[1, "fold"] = (folds.frame["fold"][0] + 1) % 4
    with pytest.raises(LeakageError, match="no study in two folds"):
        require_clean(audit(folds))


def test_known_patients_and_studies_are_left_alone(tmp_path: Path, key: bytes) -> None:
    rows = {"image": ["a.nii"] * 3, "slice": list("012"), "label": list("aab"), "study_id": ["s", "", ""]}
    frame = pd.DataFrame(rows)
    given = build(table(tmp_path, frame, slices=1), key).frame["study_id"]
    assert given.nunique() == 1  # what one row of the file says, holds for all
    known = build(table(tmp_path, frame.assign(patient_id="p", study_id=""), slices=1), key).frame["study_id"]
    assert known.eq("").all()
