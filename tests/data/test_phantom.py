import hashlib

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import roc_auc_score

from cxrtl.config import Data
from cxrtl.data import phantom
from cxrtl.data.manifest import build

DATA = Data(source="phantom", phantom_patients=200)


def base_brightness(size: int = 64) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Truth, and the mean grey of the brighter lung base: what a ruler would measure."""
    frame = build(DATA, b"").frame
    images = np.stack([phantom.from_path(path, size) for path in frame["path"]]).astype(float)
    rows = images[:, int(0.55 * size) : int(0.8 * size)]
    left = rows[:, :, int(0.2 * size) : int(0.42 * size)].mean(axis=(1, 2))
    right = rows[:, :, int(0.58 * size) : int(0.8 * size)].mean(axis=(1, 2))
    return (frame["label"] == "effusion").to_numpy(), np.maximum(left, right)


def test_manifest_is_balanced_by_patient_and_the_same_everywhere() -> None:
    found = build(DATA, b"any key")
    assert found.classes == ("normal", "effusion")
    assert len(found.frame) == 400 and found.frame["patient_id"].nunique() == 200
    assert found.frame.groupby("patient_id")["label"].nunique().eq(1).all()
    assert found.frame["label"].value_counts().tolist() == [200, 200]
    assert found.frame["image_id"][0] == "img-7a94ec606ef018e3"


def test_positive_can_be_chosen() -> None:
    assert build(Data(source="phantom", positive="normal"), b"").classes == ("effusion", "normal")


def test_pixels_are_the_same_on_every_machine() -> None:
    drawn = b"".join(phantom.draw(3, index, index % 2 == 1, index // 2, 64).tobytes() for index in range(8))
    assert hashlib.sha256(drawn).hexdigest() == "0cf9b161ce62ecee70e04a2de3a109408cb35d457f46eb59d9f5439e5430b40d"


def test_drawings_differ_only_in_what_they_should() -> None:
    sick, well = phantom.draw(0, 5, True, 2, 96), phantom.draw(0, 5, False, 2, 96)
    changed = (sick != well).any(axis=1)
    assert sick.dtype == np.uint8 and sick.shape == (96, 96)
    assert changed.any() and not changed[: 96 // 4].any()  # fluid lies below
    assert (phantom.draw(0, 5, True, 2, 96) == sick).all()
    assert (phantom.draw(0, 6, True, 2, 96) != sick).any()
    assert (phantom.draw(1, 5, True, 2, 96) != sick).any()
    assert (phantom.draw(0, 5, True, 3, 96) != sick).any()


def test_known_answer() -> None:
    """A ruler at the lung bases tells the classes apart, but far from perfectly; with shuffled labels it cannot."""
    truth, score = base_brightness()
    assert 0.75 < roc_auc_score(truth, score) < 0.90
    shuffled = [roc_auc_score(np.random.default_rng(seed).permutation(truth), score) for seed in range(20)]
    assert np.mean(shuffled) == pytest.approx(0.5, abs=0.03)
