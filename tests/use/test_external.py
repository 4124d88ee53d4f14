"""External validation: overlap with training is found, and the numbers are those of the scores it leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, confusion_matrix, roc_auc_score, roc_curve

from cxrtl.config import Data, Experiment
from cxrtl.data.prepared import open_prepared
from cxrtl.errors import LeakageError, PredictionsError
from cxrtl.records import Prepared, Task
from cxrtl.report.external import Overlap, external, said, write_external
from cxrtl.rundir import read_predictions
from cxrtl.use.external import as_in_training, evaluate
from cxrtl.use.model import open_trained
from tests.fakes import simulate
from tests.report.browser import BINARY, Tab
from tests.use.conftest import RAW, SIZE, Tiny, draw_images, prepare


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory, id_key: bytes) -> Prepared:
    """Twelve new images of six new patients, one file of training under a new name, and a new image of patient 3."""
    root = tmp_path_factory.mktemp("other")
    table = pd.read_csv(draw_images(root, patients=6, seed=2))
    known = tmp_path_factory.mktemp("known")
    draw_images(known)
    (root / "files/copied.png").write_bytes((known / "files/scan-05.png").read_bytes())
    rows = [
        {"image": "files/copied.png", "label": "healthy", "patient_id": "p2-9"},
        {"image": "files/scan-03.png", "label": "sick", "patient_id": "p1-3"},
    ]
    table = table[table["image"] != "files/scan-03.png"]
    pd.concat([table, pd.DataFrame(rows)]).to_csv(root / "labels.csv", index=False)
    raw = {**RAW, "data": {**RAW["data"], "path": str(root / "labels.csv")}}  # type: ignore[dict-item]
    return prepare(Experiment.model_validate(raw), root / "prepared", id_key)


def test_the_other_set_is_made_as_in_training(tiny: Tiny) -> None:
    data = as_in_training(open_trained(tiny.run), Data(source="table", path="x.csv", image_size=512))
    assert (data.image_size, data.positive) == (SIZE, "sick")


def test_images_and_patients_of_training_are_refused_or_taken_out(tiny: Tiny, other: Prepared) -> None:
    trained = open_trained(tiny.run)
    with pytest.raises(LeakageError, match=r"1 image\(s\) and 1 patient\(s\) of this set were in training"):
        evaluate(trained, other, "other")
    dropped, scores, _ = evaluate(trained, other, "other", "drop")
    assert dropped["overlap"]["removed"] == 2 and len(scores.frame) == 11 and "taken out" in dropped["overlap"]["note"]
    kept, scores, _ = evaluate(trained, other, "other", "other-patients")
    assert kept["overlap"]["removed"] == 1 and len(scores.frame) == 12 and "other people" in kept["overlap"]["note"]


def test_the_training_set_itself_leaves_nothing(tiny: Tiny) -> None:
    with pytest.raises(PredictionsError, match="no image of 'itself' is left"):
        evaluate(open_trained(tiny.run), tiny.prepared, "itself", "drop")


def test_other_classes_are_refused(tiny: Tiny, other: Prepared) -> None:
    with pytest.raises(PredictionsError, match=r"the classes \['normal', 'sick'\]"):
        evaluate(open_trained(tiny.run), replace(other, classes=("normal", "sick")), "other")


def test_page_and_numbers(tiny: Tiny, other: Prepared, tmp_path: Path) -> None:
    done = []
    trained = open_trained(tiny.run)
    found, scores, chosen = evaluate(trained, open_prepared(other.folder), "b <b>", "drop", lambda *at: done.append(at))
    assert done[-1] == (13, 13)
    text = write_external(found, scores, chosen, tmp_path / "out").read_text()
    assert "b &lt;b&gt;" in text and "b <b>" not in text and "taken out" in text and "scan-" not in text
    kept = json.loads((tmp_path / "out/external.json").read_text())
    part = read_predictions(tmp_path / "out/predictions.parquet")
    truth, score = part.truth, part.score
    assert kept["here"]["metrics"]["auc"]["value"] == pytest.approx(roc_auc_score(truth, score))
    counts = confusion_matrix(truth, score >= 0.5).ravel().tolist()
    assert [kept["here"]["confusion"][name] for name in ("tn", "fp", "fn", "tp")] == counts
    rate, found_rate, thresholds = roc_curve(chosen.truth, chosen.score, drop_intermediate=False)
    youden = kept["operating"][0]
    assert youden["threshold"] == pytest.approx(thresholds[np.argmax(found_rate - rate)])
    right = ((score >= youden["threshold"]) == truth).mean()
    assert youden["metrics"]["accuracy"]["value"] == pytest.approx(right)
    assert said(found) in text.replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">")
    brier = kept["here"]["calibration"]["measures"]["brier"]
    assert brier["value"] == pytest.approx(brier_score_loss(truth, score)) and brier["low"] < brier["high"]
    if BINARY:
        with Tab() as tab:
            assert tab.faults(tmp_path / "out/external.html") == []


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_page_of_other_tasks(tiny: Tiny, tmp_path: Path, task: Task) -> None:
    loaded = replace(open_trained(tiny.run).loaded, predictions=simulate(task, images=120)[0])
    found, overlap = simulate(task, images=80)[0], Overlap(images=0, patients=0, removed=0, note="")
    judged = external(loaded, loaded.predictions, found, "other", tiny.prepared, overlap)
    text = write_external(judged, found, loaded.predictions, tmp_path / "out").read_text()
    assert said(judged).startswith("Macro AUC 0.") and "Operating points" not in text
    assert [part["name"] for part in judged["here"]["parts"]] == list(found.classes)
    first, values = found.classes[0], judged["here"]["parts"][0]["metrics"]
    truth = found.frame["label"] == first if task == "multiclass" else found.frame[f"label_{first}"]
    known = truth.notna()
    assert values["auc"]["value"] == pytest.approx(roc_auc_score(truth[known], found.frame[f"score_{first}"][known]))
    assert text.count(f'<th scope="row">{first}</th>') == 1
    if BINARY:
        with Tab() as tab:
            assert tab.faults(tmp_path / "out/external.html") == []
