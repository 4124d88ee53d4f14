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


def of_kind(**cfg: object) -> Folds:
    """24 images of 12 patients at two sites."""
    index = fake_index(["a", "a", "b", "b"] * 6, [f"pat-{number // 2}" for number in range(24)])
    index["site"] = ["here"] * 12 + ["there"] * 12
    return make_folds(index, fake_prepared(index), FoldsConfig.model_validate({"k": 2, **cfg}))


def test_every_repeat_is_checked() -> None:
    original = of_kind(kind="repeated", repeats=2)
    certificate = audit(original)
    require_clean(certificate)
    assert [(each["fold"], each["images"]) for each in certificate["per_fold"]] == [(fold, 12) for fold in range(4)]
    leaking = audit(changed(original, 0, fold_1=5 - original.frame["fold_1"][0]))
    assert failed(leaking) == ["no patient in two folds"]
    assert leaking["checks"][0]["examples"] == ["pat-0"]
    gone = audit(changed(original, 0, fold_1=-1))
    assert failed(gone) == ["no patient in two folds", "every image in exactly one fold"]


def test_patient_on_both_sides_of_a_holdout() -> None:
    original = of_kind(kind="holdout", share=0.3)
    certificate = audit(original)
    require_clean(certificate)
    assert [each["fold"] for each in certificate["per_fold"]] == [-1, 0]
    torn = audit(changed(original, 0, fold=-1 - original.frame["fold"][0]))
    with pytest.raises(LeakageError, match=r"no patient in two folds: fails for 1, such as \['pat-0'\]"):
        require_clean(torn)
    everything = original.frame.assign(fold=0)
    assert failed(audit(Folds(everything, "", True, ""))) == ["no fold is empty", "each class in each fold"]


def test_patient_seen_at_two_sites_is_a_leak() -> None:
    cfg = {"kind": "leave_one_site_out", "column": "site"}
    assert [each["part"] for each in audit(of_kind(**cfg))["per_fold"]] == ["here", "there"]
    with pytest.raises(LeakageError, match="mend the column"):
        require_clean(audit(changed(of_kind(**cfg), 0, patient_id="pat-11")))


def test_study_in_two_folds() -> None:
    index = fake_index(["a", "a", "b", "b"] * 4, [""] * 16)
    index["study_id"] = [f"std-{number // 2}" for number in range(16)]
    original = make_folds(index, fake_prepared(index), FoldsConfig(k=2, ungrouped=True))
    require_clean(audit(original))
    with pytest.raises(LeakageError, match=r"no study in two folds: fails for 1, such as \['std-0'\]"):
        require_clean(audit(changed(original, 0, fold=1 - original.frame["fold"][0])))


@pytest.mark.usefixtures("without_ray", "small_slices")
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
