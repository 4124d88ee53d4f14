from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxrtl.config import Folds as FoldsConfig
from cxrtl.data.audit import audit, require_clean
from cxrtl.data.folds import make_folds
from cxrtl.data.manifest import build
from cxrtl.errors import FoldsError, LeakageError
from cxrtl.records import Folds
from tests.data.helpers import Prepare, fake_index, fake_prepared, table_config


def folds(grouped: bool = True) -> Folds:
    """16 images of 8 patients in 2 folds."""
    patients = [f"pat-{number // 2}" if grouped else "" for number in range(16)]
    index = fake_index(["a", "a", "b", "b"] * 4, patients)
    return make_folds(index, fake_prepared(index), FoldsConfig(k=2, ungrouped=not grouped))


def changed(original: Folds, row: int, **values: Any) -> Folds:
    frame = original.frame.copy()
    for column, value in values.items():
        frame.loc[row, column] = value
    return Folds(frame, original.dataset_hash, original.grouped, original.hash)


def failed(certificate: dict[str, Any]) -> list[str]:
    return [check["name"] for check in certificate["checks"] if not check["passed"]]


def test_clean_folds_pass_and_are_counted() -> None:
    certificate = json.loads(json.dumps(audit(folds(), "b")))
    require_clean(certificate)
    assert certificate["passed"] and certificate["grouped"] and not certificate["notes"]
    assert (certificate["images"], certificate["patients"], len(certificate["checks"])) == (16, 8, 5)
    assert certificate["per_fold"] == [
        {"fold": fold, "images": 8, "patients": 4, "positives": 4, "labels": {"a": 4, "b": 4}} for fold in (0, 1)
    ]
    assert audit(folds())["per_fold"] == certificate["per_fold"]  # default: the last in the alphabet


def test_shared_patient() -> None:
    original = folds()
    certificate = audit(changed(original, 0, fold=1 - original.frame["fold"][0]))
    assert failed(certificate) == ["no patient in two folds"]
    with pytest.raises(LeakageError, match=r"no patient in two folds: fails for 1, such as \['pat-0'\]"):
        require_clean(certificate)


def test_identical_image_across_folds() -> None:
    original = folds()
    twin = int(original.frame.index[original.frame["fold"] != original.frame["fold"][0]][0])
    certificate = audit(changed(original, twin, content_hash=original.frame["content_hash"][0]))
    assert failed(certificate) == ["no identical image in two folds"]
    with pytest.raises(LeakageError, match=f"fails for 2, such as .*{original.frame['image_id'][twin]}"):
        require_clean(certificate)


def test_identical_images_within_a_fold_are_noted() -> None:
    original = folds()
    frame = original.frame
    other = int(frame.index[(frame["fold"] == frame["fold"][0]) & (frame["label"] == "b")][0])
    certificate = audit(changed(original, other, content_hash=frame["content_hash"][0]))
    require_clean(certificate)
    assert any("2 identical images bear different labels" in note for note in certificate["notes"])
    assert any("1 picture(s) occur more than once" in note for note in certificate["notes"])


def test_unknown_patients_are_stamped_not_passed() -> None:
    certificate = audit(folds(grouped=False))
    require_clean(certificate)
    assert not certificate["grouped"] and certificate["patients"] == 0
    assert not any("patient" in check["name"] for check in certificate["checks"])
    assert "Patients are unknown" in certificate["notes"][0]


def test_fold_without_a_class_and_empty_fold() -> None:
    original = folds()
    frame = original.frame.copy()
    frame["fold"] = (frame["label"] == "b") * 2
    certificate = audit(Folds(frame, "", True, ""))
    assert failed(certificate) == ["no fold is empty", "each class in each fold"]
    with pytest.raises(FoldsError) as caught:
        require_clean(certificate)
    assert not isinstance(caught.value, LeakageError)


def test_image_in_two_folds_and_in_none() -> None:
    original = folds()
    doubled = pd.concat([original.frame, original.frame.head(1).assign(fold=-1)], ignore_index=True)
    certificate = audit(Folds(doubled, "", True, ""))
    check = next(check for check in certificate["checks"] if check["name"] == "every image in exactly one fold")
    assert (check["passed"], check["found"], check["examples"]) == (False, 1, ["img-0000000000000000"])


@pytest.mark.usefixtures("ray_instance", "small_slices")
def test_duplicate_image_of_two_patients_is_a_leak(labels: Path, key: bytes, prepare_set: Prepare) -> None:
    """The way a real set goes wrong: one picture filed under two patients."""
    frame = pd.read_csv(labels, dtype=str)
    for copy in (4, 8):  # of patients 2 and 4, both healthy as patient 0 is
        (labels.parent / frame["image"][copy]).write_bytes((labels.parent / frame["image"][0]).read_bytes())
    data = table_config(labels)
    prepared, index = prepare_set(build(data, key), data)
    with pytest.raises(LeakageError, match="no identical image in two folds: fails for 3") as caught:
        require_clean(audit(make_folds(index, prepared, FoldsConfig(k=3))))
    assert all(image in str(caught.value) for image in index["image_id"][[0, 4, 8]])
