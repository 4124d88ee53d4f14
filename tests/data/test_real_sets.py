from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cxrtl.config import Data
from cxrtl.config import Folds as FoldsConfig
from cxrtl.data.audit import audit, require_clean
from cxrtl.data.folds import make_folds
from cxrtl.data.manifest import build
from tests.data.helpers import Prepare, table_config


@pytest.mark.usefixtures("ray_instance")
class TestOnRay:
    def test_nih_effusion(self, shared_data: Path, key: bytes, prepare_set: Prepare) -> None:
        path = shared_data / "nih-effusion/labels.csv"
        data = table_config(path, label_column="finding", positive="effusion", image_size=224)
        prepared, index = prepare_set(build(data, key), data)
        assert prepared.counts == {"normal": 500, "effusion": 500} and not prepared.skipped
        folds = make_folds(index, prepared, FoldsConfig(ungrouped=True))
        certificate = audit(folds, prepared.classes[1])
        require_clean(certificate)
        assert [fold["positives"] for fold in certificate["per_fold"]] == [50] * 10


@pytest.mark.usefixtures("without_ray")
class TestRealSets:
    def test_kermany_by_patient(self, shared_data: Path, key: bytes, prepare_set: Prepare) -> None:
        data = Data(source="kermany", path=str(shared_data / "kermany-pneumonia"), image_size=64)
        prepared, index = prepare_set(build(data, key), data)
        assert prepared.classes == ("NORMAL", "PNEUMONIA") and prepared.grouped and prepared.images == 1204
        assert 10 < index["patient_id"].nunique() < len(index)
        require_clean(audit(make_folds(index, prepared, FoldsConfig(k=5))))

    def test_nih_named(self, shared_data: Path, key: bytes, prepare_set: Prepare) -> None:
        cohort = {"finding": "Effusion", "negative": "absent"}
        raw = {"source": "nih", "path": str(shared_data / "nih-named"), "image_size": 64, "cohort": cohort}
        data = Data.model_validate(raw)
        prepared, index = prepare_set(build(data, key), data)
        assert prepared.counts == {"no Effusion": 95, "Effusion": 10} and index["patient_id"].nunique() == 102
        assert set(index["view"]) == {"PA", "AP"}
        assert index["finding:Effusion"].sum() == 10 and index["finding:Infiltration"].sum() == 18
        described = json.loads((prepared.folder / "dataset.json").read_text())
        assert described["flow"][0].items() >= {"step": "images listed", "removed": 0, "left": 105}.items()
        assert described["flow"][-1]["left"] == 105

    def test_lung_masks_as_a_table(self, shared_data: Path, key: bytes, prepare_set: Prepare) -> None:
        data = table_config(shared_data / "lung-masks/labels.csv", label_column="finding", keep_columns=["site"])
        prepared, index = prepare_set(build(data, key), data)
        assert prepared.images == 250 and not prepared.skipped
        assert set(index["site"]) == {"Montgomery", "Shenzhen"}

    def test_two_classes_of_mednist(self, shared_data: Path, key: bytes, tmp_path: Path, prepare_set: Prepare) -> None:
        for name in ("Hand", "HeadCT"):
            shutil.copytree(shared_data / "mednist" / name, tmp_path / "set" / name, copy_function=shutil.copyfile)
        data = Data(source="folder", path=str(tmp_path / "set"), image_size=64)
        prepared, _ = prepare_set(build(data, key), data)
        assert prepared.counts == {"Hand": 200, "HeadCT": 200}
