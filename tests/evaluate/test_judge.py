"""The measures of every task against scikit-learn, SciPy and plain loops over resampled patients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import dice as scipy_dice
from scipy.spatial.distance import jaccard as scipy_jaccard
from sklearn import metrics as sk

from cxrtl.evaluate import judge, overlap
from cxrtl.evaluate.estimates import estimate
from cxrtl.evaluate.metrics import auc
from cxrtl.predictions import Predictions
from tests.fakes import simulate


def value(chosen: Predictions) -> dict[str, float | None]:
    return {name: item.value for name, item in judge.judge(chosen).metrics.items()}


def test_multiclass_is_scikit_learns() -> None:
    (chosen,) = simulate("multiclass")
    truth, scores, called = chosen.targets, chosen.scores, chosen.scores.argmax(axis=1)
    wanted = {
        "top1": sk.accuracy_score(truth, called),
        "top2": sk.top_k_accuracy_score(truth, scores, k=2),
        "macro_sensitivity": sk.balanced_accuracy_score(truth, called),
        "macro_f1": sk.f1_score(truth, called, average="macro"),
        "macro_auc": sk.roc_auc_score(truth, scores, multi_class="ovr", average="macro"),
    }
    assert value(chosen) == pytest.approx(wanted)
    for score in (sk.recall_score, sk.precision_score, sk.f1_score):
        assert score(truth, called, average="micro") == pytest.approx(wanted["top1"])
    assert judge.confusion_table(chosen).tolist() == sk.confusion_matrix(truth, called).tolist()
    parts = judge.judge(chosen).parts
    for name, found in (("sensitivity", sk.recall_score), ("ppv", sk.precision_score), ("f1", sk.f1_score)):
        wanted_parts = found(truth, called, average=None)
        assert [parts[key][name].value for key in chosen.classes] == pytest.approx(wanted_parts)
    for place, key in enumerate(chosen.classes):
        assert parts[key]["auc"].value == pytest.approx(sk.roc_auc_score(truth == place, scores[:, place]))
        assert parts[key]["specificity"].value == pytest.approx(sk.recall_score(truth != place, called != place))


def test_top_k_knobs_and_ties() -> None:
    (chosen,) = simulate("multiclass")
    assert judge.names(chosen, (3, 9)) == ("top1", "top3", *judge.MULTICLASS)  # the ninth of four is always right
    wanted = sk.top_k_accuracy_score(chosen.targets, chosen.scores, k=3)
    assert judge.judge(chosen, (3,)).metrics["top3"].value == pytest.approx(wanted)
    flat = chosen.frame.assign(**{f"score_{name}": 0.25 for name in chosen.classes})
    tied = Predictions(flat, chosen.classes, "multiclass")
    assert judge.among(tied, 1).mean() == np.trace(judge.confusion_table(tied)) / len(flat) == 0.25
    assert judge.among(tied, 2).mean() == 0.5


def test_multilabel_counts_only_what_is_stated() -> None:
    (chosen,) = simulate("multilabel")
    areas_of, recalls, f1s, truths, calls = [], [], [], [], []
    for place, name in enumerate(chosen.classes):
        labels = chosen.labels[:, place]
        stated = ~np.isnan(labels)
        truth, score = labels[stated] == 1, chosen.scores[stated, place]
        called = score >= 0.5
        mine = judge.judge(chosen).parts[name]
        assert mine == estimate(truth, score, judge.patients_of(judge.part_of(chosen, name)))
        assert mine["auc"].value == pytest.approx(sk.roc_auc_score(truth, score))
        areas_of.append(mine["auc"].value)
        recalls.append(sk.recall_score(truth, called))
        f1s.append(sk.f1_score(truth, called))
        truths.append(truth)
        calls.append(called)
    assert np.isnan(chosen.labels).sum() > 20
    found, truth, called = value(chosen), np.concatenate(truths), np.concatenate(calls)
    assert found["macro_auc"] == pytest.approx(np.mean(areas_of))
    assert found["macro_sensitivity"] == pytest.approx(np.mean(recalls)) and found["macro_f1"] == pytest.approx(
        np.mean(f1s)
    )
    assert found["micro_sensitivity"] == pytest.approx(sk.recall_score(truth, called))
    assert found["micro_f1"] == pytest.approx(sk.f1_score(truth, called))


def test_a_finding_without_a_positive_takes_no_part_in_the_mean() -> None:
    (chosen,) = simulate("multilabel")
    none = Predictions(chosen.frame.assign(label_nodule=0.0), chosen.classes, "multilabel")
    found = judge.judge(none)
    assert found.parts["nodule"]["auc"].value is None and found.parts["nodule"]["auc"].interval is None
    two = [found.parts[name]["auc"].value for name in chosen.classes[:2]]
    assert found.metrics["macro_auc"].value == pytest.approx(np.mean(two)) and found.metrics["macro_auc"].interval
    unstated = Predictions(chosen.frame.assign(label_nodule=np.nan), chosen.classes, "multilabel")
    assert judge.judge(unstated).parts["nodule"]["accuracy"].value is None
    assert judge.point(unstated)["macro_auc"] == pytest.approx(np.mean(two))


def masks(rng: np.random.Generator, images: int) -> tuple[np.ndarray, np.ndarray]:
    truth, predicted = (rng.random((images, 12, 12)) < 0.3 for _ in range(2))
    truth[0] = predicted[0] = predicted[1] = truth[2] = False
    return truth, predicted


def test_overlap_from_masks_is_scipys() -> None:
    truth, predicted = masks(np.random.default_rng(0), 30)
    counts = [part.sum(axis=(1, 2)).astype(float) for part in (truth, predicted, truth & predicted)]
    dice, iou = overlap.dice(*counts), overlap.iou(*counts)
    assert (dice[:3].tolist(), iou[:3].tolist()) == ([1, 0, 0], [1, 0, 0])
    for place in range(3, 30):
        flat = truth[place].ravel(), predicted[place].ravel()
        assert dice[place] == pytest.approx(1 - scipy_dice(*flat))
        assert iou[place] == pytest.approx(1 - scipy_jaccard(*flat))


def test_segmentation_means_and_pooled() -> None:
    (chosen,) = simulate("segmentation", classes=("left", "right"))
    frame, found = chosen.frame, judge.judge(chosen)
    per = {}
    for name in chosen.classes:
        t, p, s, h = (frame[f"{kind}_{name}"] for kind in ("truth", "predicted", "shared", "hausdorff95"))
        dice = [2 * c / (a + b) if a + b else 1.0 for a, b, c in zip(t, p, s, strict=True)]
        iou = [c / (a + b - c) if a + b else 1.0 for a, b, c in zip(t, p, s, strict=True)]
        per[name] = {
            "dice": np.mean(dice),
            "iou": np.mean(iou),
            "pooled_dice": 2 * s.sum() / (t.sum() + p.sum()),
            "pooled_iou": s.sum() / (t.sum() + p.sum() - s.sum()),
            "hausdorff95": h.dropna().mean(),
        }
        assert h.isna().any() and {n: e.value for n, e in found.parts[name].items()} == pytest.approx(per[name])
    wanted = {name: np.mean([part[name] for part in per.values()]) for name in overlap.METRICS}
    assert {name: item.value for name, item in found.metrics.items()} == pytest.approx(wanted)


def macro_auc(frame: pd.DataFrame, classes: tuple[str, ...]) -> float:
    scores = frame[[f"score_{name}" for name in classes]].to_numpy()
    truths = [(frame["label"] == name).to_numpy() for name in classes]
    return float(np.mean([auc(truth, scores[:, k]) or np.nan for k, truth in enumerate(truths)]))


def mean_dice(frame: pd.DataFrame, classes: tuple[str, ...]) -> float:
    t, p, s = (frame[f"{kind}_lung"].to_numpy() for kind in ("truth", "predicted", "shared"))
    return float(np.mean([2 * c / (a + b) if a + b else 1.0 for a, b, c in zip(t, p, s, strict=True)]))


@pytest.mark.parametrize(
    ("task", "name", "by_hand"), [("multiclass", "macro_auc", macro_auc), ("segmentation", "dice", mean_dice)]
)
def test_intervals_resample_patients(
    task: str, name: str, by_hand: Callable[[pd.DataFrame, tuple[str, ...]], float]
) -> None:
    (chosen,) = simulate(task, images=150, per_patient=3)  # type: ignore[arg-type]
    places = list(chosen.frame.groupby("patient_id").indices.values())
    rng = np.random.default_rng(7)
    drawn = [
        by_hand(chosen.frame.iloc[np.concatenate([places[i] for i in rng.integers(50, size=50)])], chosen.classes)
        for _ in range(400)
    ]
    found = judge.judge(chosen).metrics[name]
    assert found.value == pytest.approx(by_hand(chosen.frame, chosen.classes))
    assert found.interval and found.interval.method == "patient bootstrap (BCa)"
    ends = (found.interval.low, found.interval.high)
    assert ends == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.25 * np.std(drawn) + 1e-9 + 0.01)


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "segmentation"])
def test_leaving_a_patient_out_is_computing_without_him(task: str) -> None:
    (chosen,) = simulate(task, images=40, per_patient=2, classes=("a", "b", "c"))  # type: ignore[arg-type]
    codes, patients = judge.dense(chosen)
    found = judge.statistic(chosen, codes, patients).left_out()
    for patient in (0, 7, 19):
        without = judge.point(judge.rows(chosen, codes != patient))
        assert {name: found[name][patient] for name in without} == pytest.approx(without)


def test_one_image_a_patient_takes_wilson_and_delong() -> None:
    (chosen,) = simulate("multiclass", per_patient=1)
    found = judge.judge(chosen)
    assert found.metrics["top2"].interval and found.metrics["top2"].interval.method == "Wilson"
    assert found.metrics["macro_auc"].interval
    assert {item.interval.method for item in found.parts["hand"].values() if item.interval} >= {"Wilson", "DeLong"}


def test_perfect_scores_still_have_an_interval() -> None:
    (chosen,) = simulate("multiclass", reach=(60.0,))
    found = judge.judge(chosen).metrics
    assert {name: item.value for name, item in found.items()} == pytest.approx(dict.fromkeys(found, 1.0))
    assert all(item.interval and item.interval.low < 1 == item.interval.high for item in found.values())
    assert found["macro_auc"].interval and found["macro_auc"].interval.method == judge.FALLBACK


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "segmentation"])
def test_repeats_are_pooled_apart_and_averaged(task: str) -> None:
    (chosen,) = simulate(task, repeats=3)  # type: ignore[arg-type]
    split = [judge.point(judge.rows(chosen, (chosen.frame["repeat"] == k).to_numpy())) for k in range(3)]
    found = judge.judge(chosen)
    wanted = {name: np.mean([part[name] for part in split]) for name in split[0]}
    assert {name: item.value for name, item in found.metrics.items()} == pytest.approx(wanted)
    first = chosen.frame[chosen.frame["repeat"] == 0]
    copies = pd.concat([first.assign(repeat=k) for k in range(3)], ignore_index=True)
    thrice = judge.judge(Predictions(copies, chosen.classes, chosen.task))
    once = judge.judge(Predictions(first, chosen.classes, chosen.task)).metrics
    for name, item in thrice.metrics.items():  # a repeat brings no new patient: the same again narrows no interval
        assert item.interval and once[name].interval
        assert (item.interval.low, item.interval.high) == pytest.approx(
            (once[name].interval.low, once[name].interval.high)
        )


def test_images_of_unknown_patients_stay_together_over_repeats() -> None:
    (chosen,) = simulate("multiclass", repeats=2)
    unknown = Predictions(chosen.frame.assign(patient_id=""), chosen.classes, "multiclass")
    assert judge.dense(unknown)[1] == 160
