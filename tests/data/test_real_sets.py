from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrtl.config import Data
from cxrtl.config import Folds as FoldsConfig
from cxrtl.data.audit import audit, require_clean
from cxrtl.data.folds import make_folds
from cxrtl.data.manifest import build
from tests.data.helpers import Prepare, table_config

pytestmark = pytest.mark.usefixtures("ray_instance")


class TestRealSets:
    def test_nih_effusion(self, shared_data: Path, key: bytes, prepare_set: Prepare) -> None:
        path = shared_data / "nih-effusion/labels.csv"
        data = table_config(path, label_column="finding", positive="effusion", image_size=224)
        prepared, index = prepare_set(build(data, key), data)
        assert prepared.counts == {"normal": 500, "effusion": 500} and not prepared.skipped
        folds = make_folds(index, prepared, FoldsConfig(ungrouped=True))
        certificate = audit(folds, prepared.classes[1])
        require_clean(certificate)
        assert [fold["positives"] for fold in certificate["per_fold"]] == [50] * 10

    def test_kermany_by_patient(self, shared_data: Path, key: bytes, prepare_set: Prepare) -> None:
        data = Data(
            source="folder",
            path=str(shared_data / "kermany-pneumonia/chest_xray/train"),
            patient_pattern=r"^(person\d+|(?:NORMAL2-)?IM-\d+)",
            image_size=64,
        )
        prepared, index = prepare_set(build(data, key), data)
        assert prepared.classes == ("NORMAL", "PNEUMONIA") and prepared.grouped
        assert 10 < index["patient_id"].nunique() < len(index)
        require_clean(audit(make_folds(index, prepared, FoldsConfig(k=5))))

    def test_nih_named_table(self, shared_data: Path, key: bytes, tmp_path: Path, prepare_set: Prepare) -> None:
        source = shared_data / "nih-named"
        shutil.copytree(source / "images", tmp_path / "set", copy_function=shutil.copyfile)
        frame = pd.read_csv(source / "Data_Entry_2017_v2020.csv", dtype=str)
        frame["any"] = np.where(frame["Finding Labels"] == "No Finding", "none", "some")
        frame.to_csv(tmp_path / "set/entries.csv", index=False)
        data = table_config(
            tmp_path / "set/entries.csv",
            image_column="Image Index",
            label_column="any",
            patient_column="Patient ID",
            image_size=64,
        )
        prepared, index = prepare_set(build(data, key), data)
        assert prepared.images == 105 and index["patient_id"].nunique() == 102
        assert set(index["View Position"]) <= {"PA", "AP"}
