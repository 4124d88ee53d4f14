"""Rows of a table that name several files: from the table to the fold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray

from cxrtl.config import Data
from cxrtl.data.feed import collect, images
from cxrtl.data.images import FILES, How
from cxrtl.data.images.rules import file_paths
from cxrtl.data.manifest import build
from cxrtl.errors import ManifestError
from tests.data.helpers import Prepare
from tests.data.test_stack import BOX, PICTURE, decoded, saved


def table(root: Path, frame: pd.DataFrame, **changes: object) -> Data:
    frame.to_csv(root / "labels.csv", index=False)
    raw = {"source": "table", "path": str(root / "labels.csv"), "image_size": 32, **changes}
    return Data.model_validate(raw)


class TestTable:
    def test_a_file_shows_one_patient(self, tmp_path: Path, key: bytes) -> None:
        """Slices told apart as patients would lie on both sides of a fold."""
        frame = pd.DataFrame({"image": ["a.nii", "a.nii", "b.nii"], "slice": ["1", "2", "1"], "label": ["x", "x", "y"]})
        kept = frame.assign(patient_id=["p1", "p1", "p2"])
        assert build(table(tmp_path, kept, slices=3), key).frame["patient_id"].nunique() == 2
        with pytest.raises(ManifestError, match=r"1 image file\(s\), or groups that share files, are listed under sev"):
            build(table(tmp_path, frame.assign(patient_id=["p1_1", "p1_2", "p2"]), slices=3), key)
        with pytest.raises(ManifestError, match=r"lacks the column\(s\) \['slice_no'\]"):
            build(table(tmp_path, kept, slices=3, slice_column="slice_no"), key)

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
        (part,) = collect(ray.get(images(prepared)), prepared, [taken])
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
