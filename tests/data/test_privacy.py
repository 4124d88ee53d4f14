from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrtl import rundir
from cxrtl.config import Data
from cxrtl.config import Folds as FoldsConfig
from cxrtl.data import private
from cxrtl.data.attributes import site_key
from cxrtl.data.audit import audit
from cxrtl.data.folds import make_folds, write_folds
from cxrtl.data.manifest import build
from cxrtl.data.prepare import prepare
from cxrtl.records import INDEX_COLUMNS, SIZE_COLUMNS
from tests.data.helpers import CANARY, Prepare, save, table_config
from tests.data.test_dicom import RAMP, encoded, radiograph

pytestmark = pytest.mark.usefixtures("small_slices")
on_ray = pytest.mark.usefixtures("ray_instance")


class TestPrivacy:
    @on_ray
    def test_identifiers_stay_in_private(
        self, labels: Path, key: bytes, prepare_set: Prepare, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """File names and patient numbers reach no file, no console and no log of Ray's, but private/."""
        import ray

        (labels.parent / pd.read_csv(labels)["image"][3]).write_bytes(b"")
        data = table_config(labels, max_skipped=0.5)
        prepared, index = prepare_set(build(data, key), data)
        folds = make_folds(index, prepared, FoldsConfig(k=2))
        write_folds(prepared.folder / "folds.parquet", folds)
        rundir.write_json(prepared.folder / "leakage.json", audit(folds))
        for path in prepared.folder.rglob("*"):
            if path.is_file() and path.parent.name != "private":
                assert CANARY.encode() not in path.read_bytes(), path.name
        everything = index.to_csv() + pd.read_parquet(prepared.folder / "skipped.parquet").to_csv()
        assert CANARY not in everything + folds.frame.to_csv() + "".join(capfd.readouterr())
        for path in Path(ray._private.worker._global_node.get_logs_dir_path()).rglob("*"):
            if path.is_file():
                assert CANARY.encode() not in path.read_bytes(), path.name

    @on_ray
    def test_ray_is_told_no_path_and_no_key(
        self, labels: Path, key: bytes, prepare_set: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of all that is handed to Ray: the items and the function, as it would keep them."""
        import ray.data
        from ray import cloudpickle

        told: list[bytes] = []
        begin, do = ray.data.from_items, ray.data.Dataset.flat_map
        monkeypatch.setattr(
            ray.data, "from_items", lambda items, **how: told.append(cloudpickle.dumps(items)) or begin(items, **how)
        )
        monkeypatch.setattr(
            ray.data.Dataset,
            "flat_map",
            lambda rows, task, **how: told.append(cloudpickle.dumps(task)) or do(rows, task, **how),
        )
        data = table_config(labels, attributes=["site"])
        prepared, _ = prepare_set(build(data, key), data)
        secret = site_key(key).hex().encode()
        assert len(told) == 2 and not any(CANARY.encode() in text or secret in text for text in told)
        assert [path.name for path in (prepared.folder / "private").iterdir()] == ["identities.parquet"]

    @pytest.mark.usefixtures("without_ray")
    def test_slices_are_for_the_owner_alone(
        self, labels: Path, key: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        modes: list[int] = []

        def look(text: str) -> str:
            modes.append((tmp_path / "out/private/slices").stat().st_mode & 0o777)
            return reveal(text)

        reveal = private.reveal
        monkeypatch.setattr("cxrtl.data.shards.private.reveal", look)
        data = table_config(labels)
        prepare(build(data, key), data, tmp_path / "out")
        assert modes == [0o600] * 3

    @on_ray
    def test_dicom_tags_stay_in_the_file(
        self, tmp_path: Path, key: bytes, prepare_set: Prepare, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Names, numbers and dates of DICOM, used or refused, reach nothing that is written or printed."""
        import ray

        for number in range(6):
            dataset = radiograph(
                np.roll(RAMP, 99 * number),
                PatientName=f"{CANARY}^{number}",
                PatientID=f"{CANARY}{number}",
                StudyDescription=CANARY,
                InstitutionName=CANARY,
                AccessionNumber=CANARY,
                ImageComments=f"{CANARY} \\ {CANARY}",
                BurnedInAnnotation="YES" if number == 5 else "NO",
                PatientBirthDate=CANARY[:8],
                PatientSex="F" if number % 2 else CANARY,
                PatientAge="058Y",
                ViewPosition=CANARY if number % 2 else "PA",
                StudyDate="20190401",
                SpecificCharacterSet=CANARY if number == 4 else "ISO_IR 100",
            )
            path = tmp_path / "set" / ("sick" if number % 2 else "healthy") / f"{CANARY}-{number}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(dataset)[: -1 if number == 3 else None])
        attributes = ("view", "sex", "age_band", "site", "year")
        data = Data(source="folder", path=str(tmp_path / "set"), image_size=32, max_skipped=0.9, attributes=attributes)
        prepared, index = prepare_set(build(data, key), data)
        assert prepared.images == 4 and prepared.skipped == {"burned_in": 1, "truncated": 1}
        assert list(index.columns) == [*INDEX_COLUMNS, *attributes, *SIZE_COLUMNS]
        assert sorted(index["view"]) == ["", "PA", "PA", "PA"] and sorted(index["sex"]) == ["", "", "", "F"]
        assert set(index["age_band"]) == {"50-59"} and set(index["year"]) == {"2019"}
        assert index["site"].nunique() == 1 and index["site"].str.fullmatch("site-[0-9a-f]{16}").all()
        assert CANARY not in index.to_csv() + "".join(capfd.readouterr())
        logs = Path(ray._private.worker._global_node.get_logs_dir_path())
        for path in [*prepared.folder.rglob("*"), *logs.rglob("*")]:
            if path.is_file() and path.parent.name != "private":
                assert CANARY.encode() not in path.read_bytes(), path.name

    @pytest.mark.usefixtures("without_ray")
    def test_identities_are_for_the_owner_alone(self, labels: Path, key: bytes, prepare_set: Prepare) -> None:
        data = table_config(labels)
        prepared, index = prepare_set(build(data, key), data)
        private = prepared.folder / "private"
        assert private.stat().st_mode & 0o777 == 0o700
        assert (private / "identities.parquet").stat().st_mode & 0o777 == 0o600
        identities = pd.read_parquet(private / "identities.parquet")
        assert identities["image_id"].tolist() == index["image_id"].tolist()
        assert all(Path(path).is_file() for path in identities["path"])

    @on_ray
    def test_name_that_is_not_utf8(self, tmp_path: Path, key: bytes, prepare_set: Prepare) -> None:
        for number, name in enumerate(("a/1.png", "b/2.png", "b/3.png")):
            save(tmp_path / "set" / name, number)
        (tmp_path / "set/b/3.png").rename(tmp_path / "set/b" / os.fsdecode(b"\xff.png"))
        data = Data(source="folder", path=str(tmp_path / "set"), image_size=32)
        prepared, _ = prepare_set(build(data, key), data)
        assert prepared.images == 3
