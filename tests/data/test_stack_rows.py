"""Rows of a table that name several files: from the table to the fold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrtl.config import Data
from cxrtl.config import Folds as FoldsConfig
from cxrtl.data.audit import audit, require_clean
from cxrtl.data.feed import collect, images
from cxrtl.data.folds import make_folds
from cxrtl.data.images import FILES, How
from cxrtl.data.images.rules import file_paths
from cxrtl.data.manifest import build
from cxrtl.errors import LeakageError, ManifestError
from tests.data.helpers import Prepare, fake_prepared
from tests.data.test_stack import BOX, PICTURE, decoded, saved


def table(root: Path, frame: pd.DataFrame, **changes: object) -> Data:
    frame.to_csv(root / "labels.csv", index=False)
    raw = {"source": "table", "path": str(root / "labels.csv"), "image_size": 32, **changes}
    return Data.model_validate(raw)


class TestTable:
    def test_channels_slices_and_masks_of_a_row(self, tmp_path: Path, key: bytes) -> None:
        frame = pd.DataFrame({"t2": ["a.nii", "a.nii"], "adc": ["b.nii"] * 2, "slice": ["4", ""], "seg": "m.nii"})
        changes = {"image_columns": ["t2", "adc"], "slices": 3, "mask_column": "seg", "structures": ["gland"]}
        data = table(tmp_path, frame, task="segmentation", **changes)
        made = build(data, key)
        assert data.channels == 6 and made.classes == ("gland",) and made.frame["image_id"].is_unique
        assert made.frame["label"].tolist() == ["", ""]
        named = [json.loads(path.removeprefix(FILES)) for path in made.frame["path"]]
        assert [each["slice"] for each in named] == [4, None]
        assert file_paths(made.frame["path"][0]) == [str(tmp_path / name) for name in ("a.nii", "b.nii", "m.nii")]
        with pytest.raises(ManifestError, match=r"column 'slice' holds 1 value\(s\) that are no whole numbers"):
            build(table(tmp_path, frame.assign(slice=["-1", "2"]), task="segmentation", **changes), key)

    @pytest.mark.parametrize("columns", [["image"], ["image", "next"]])
    def test_rows_that_share_a_file_share_a_fold(self, tmp_path: Path, key: bytes, columns: list[str]) -> None:
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

    def test_known_patients_and_studies_are_left_alone(self, tmp_path: Path, key: bytes) -> None:
        rows = {"image": ["a.nii"] * 3, "slice": list("012"), "label": list("aab"), "study_id": ["s", "", ""]}
        frame = pd.DataFrame(rows)
        given = build(table(tmp_path, frame, slices=1), key).frame["study_id"]
        assert given.nunique() == 1  # what one row of the file says, holds for all
        known = build(table(tmp_path, frame.assign(patient_id="p", study_id=""), slices=1), key).frame["study_id"]
        assert known.eq("").all()

    def test_link_out_of_the_folder(self, tmp_path: Path, key: bytes) -> None:
        (tmp_path / "set").mkdir()
        saved(tmp_path / "out.png", BOX)
        (tmp_path / "set/m.png").symlink_to(tmp_path / "out.png")
        frame = pd.DataFrame({"image": ["a.png"], "mask": ["m.png"]})
        made = build(table(tmp_path / "set", frame, task="segmentation", structures=["box"]), key)
        assert made.frame["path"][0].startswith("refused:outside_root:")

    def test_knobs_that_do_not_fit(self) -> None:
        for changes, message in (
            ({"task": "segmentation"}, "data.structures and data.task"),
            ({"structures": ["a"]}, "data.structures and data.task"),
            ({"slices": 2}, "no middle"),
        ):
            with pytest.raises(ValueError, match=message):
                Data.model_validate({"source": "table", "path": "x", **changes})

    @pytest.mark.usefixtures("ray_instance", "small_slices")
    def test_prepared_and_fed(self, tmp_path: Path, key: bytes, prepare_set: Prepare) -> None:
        """Two channels and a mask, through shards and the object store, in order; a changed mask changes the hash."""
        rows = []
        for number in range(7):
            one, two, mask = PICTURE + number, PICTURE.T[:, ::-1].T + number, np.roll(BOX, number)
            for name, values in (("one", one), ("two", two), ("mask", mask * 255)):
                saved(tmp_path / f"{name}{number}.png", values)
            rows.append({"one": f"one{number}.png", "two": f"two{number}.png", "mask": f"mask{number}.png"})
        saved(tmp_path / "mask3.png", BOX[1:])
        frame = pd.DataFrame(rows).assign(patient_id=list("aabbccd"), finding="x")
        changes = {"image_columns": ["one", "two"], "task": "segmentation", "structures": ["box"], "max_skipped": 0.2}
        data = table(tmp_path, frame, label_column="finding", **changes)
        prepared, index = prepare_set(build(data, key), data)
        assert (prepared.task, prepared.channels, prepared.counts) == ("segmentation", 2, {"box": 6})
        assert prepared.skipped == {"mask_size": 1} and index["label"].eq("x").all() and index["target"].eq(-1).all()
        assert "mask" not in index and "pixels" not in index
        taken = np.array([True, False, False, False, True, True])
        (part,) = collect(images(prepared).iterator(), prepared, [taken])
        assert part.pixels.shape == (3, 2, 32, 32) and part.targets.shape == (3, 32, 32)
        alone = decoded(
            How(32, channels=2, structures=1),
            *(str(tmp_path / f"{name}5.png") for name in ("one", "two")),
            mask=str(tmp_path / "mask5.png"),
        )
        assert np.array_equal(part.pixels[1], alone.pixels) and np.array_equal(part.targets[1], alone.mask)
        saved(tmp_path / "mask5.png", BOX * 255)
        again, _ = prepare_set(build(data, key), data)
        assert again.dataset_hash != prepared.dataset_hash
