"""Two arms of every task on the same images, against statsmodels, SciPy and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cxrtl.errors import PredictionsError
from cxrtl.evaluate import bootstrap, judge, overlap, paired
from cxrtl.evaluate.compare import compare_auc, compare_ratios
from cxrtl.predictions import Predictions
from tests.fakes import simulate

contingency = pytest.importorskip("statsmodels.stats.contingency_tables")


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "segmentation"])
def test_differences_are_second_minus_first(task: str) -> None:
    one, two = paired.common(*simulate(task, reach=(0.6, 1.4)))  # type: ignore[arg-type]
    found = paired.differences(one, two)
    before, after = judge.point(one), judge.point(two)
    wanted = {name: after[name] - before[name] for name in before if name != "auc"}
    assert {name: item.value for name, item in found.items()} == pytest.approx(wanted)
    assert all(item.interval and item.interval.low <= item.value <= item.interval.high for item in found.values())
    tests = paired.tests(one, two, 1 / 3)
    lead = paired.LEADING[task]  # type: ignore[index]
    assert (
        set(tests)
        == {
            "binary": {"auc", "accuracy", "fold_auc"},
            "multiclass": {"macro_auc", "top1", "fold_macro_auc"},
            "multilabel": {"macro_auc", "fold_macro_auc"},
            "segmentation": {"dice", "wilcoxon", "fold_dice"},
        }[task]
    )
    assert all(item.p is not None and 0 < item.p <= 1 for item in tests.values())
    gains = paired.fold_gains(one, two, lead)
    error = np.std(gains, ddof=1) * np.sqrt(1 / 4 + 1 / 3)
    assert tests[f"fold_{lead}"].p == pytest.approx(2 * stats.t.sf(abs(np.mean(gains)) / error, 3))


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "segmentation"])
def test_an_arm_against_itself_does_not_differ(task: str) -> None:
    (one,) = simulate(task)  # type: ignore[arg-type]
    assert {item.p for item in paired.tests(*paired.common(one, one), 1 / 3).values()} == {1.0}


def test_binary_is_judged_as_before() -> None:
    one, two = paired.common(*simulate("binary", reach=(0.6, 1.4)))
    arms, patients = (one.truth, one.score, two.score), judge.patients_of(one)
    assert paired.differences(one, two) == compare_ratios(*arms, patients)
    assert paired.tests(one, two, 1 / 3)["auc"] == compare_auc(*arms, patients)


def test_top1_is_exact_mcnemar_between_independent_images() -> None:
    one, two = paired.common(*simulate("multiclass", reach=(0.6, 1.4), per_patient=1))
    right = [part.scores.argmax(axis=1) == part.targets for part in (one, two)]
    table = [[int((right[0] == a)[right[1] == b].sum()) for b in (True, False)] for a in (True, False)]
    found = paired.tests(one, two, 1 / 3)["top1"]
    assert found.method == "exact McNemar"
    assert found.p == pytest.approx(contingency.mcnemar(table, exact=True).pvalue)


def test_wilcoxon_ranks_the_gains_of_patients() -> None:
    one, two = paired.common(*simulate("segmentation", reach=(1.0, 1.2), images=90, per_patient=3))
    gain = (overlap.image_dice(two) - overlap.image_dice(one))[:, 0]
    of_patients = np.array([gain[places].mean() for places in one.frame.groupby("patient_id").indices.values()])
    found = paired.tests(one, two, 1 / 3)["wilcoxon"]
    assert len(of_patients) == 30 and found.value == pytest.approx(np.median(of_patients))
    assert found.p == pytest.approx(stats.wilcoxon(of_patients[np.abs(of_patients) > 1e-12]).pvalue)


def test_pairs_keep_their_images_whatever_the_order() -> None:
    one, two = simulate("segmentation", reach=(0.6, 1.4), repeats=2)
    shuffled = Predictions(two.frame.sample(frac=0.7, random_state=1), two.classes, two.task)
    before, after = paired.common(one, shuffled)
    for name in ("image_id", "repeat", "fold", "truth_lung"):
        assert before.frame[name].tolist() == after.frame[name].tolist()
    assert len(after.frame) == len(shuffled.frame)


def test_other_truths_or_classes_are_refused() -> None:
    (one,) = simulate("multiclass")
    other = one.frame.assign(label=np.roll(one.frame["label"], 1))
    with pytest.raises(PredictionsError, match="different labels"):
        paired.common(one, Predictions(other, one.classes, "multiclass"))
    with pytest.raises(PredictionsError, match="cannot be paired"):
        paired.common(one, simulate("multilabel")[0])


def test_p_and_interval_of_the_bootstrap_agree() -> None:
    """p is below 0.05 exactly where the 95 % interval leaves 0 out; and near a z test's on a normal sample."""
    rng = np.random.default_rng(0)
    for shift in np.linspace(0.0, 0.5, 26):
        sample = rng.normal(shift, size=60)
        weights = next(bootstrap.draws(60, 60, 20_000, 1))
        left = (sample.sum() - sample) / 59
        drawn = bootstrap.Resampled(weights @ sample / 60, left)
        p, interval = bootstrap.bca_p(sample.mean(), drawn), bootstrap.bca(sample.mean(), drawn)
        assert p is not None and interval is not None
        assert (p < 0.05) == (interval.low > 0 or interval.high < 0) or p == pytest.approx(0.05, abs=0.003)
        z = sample.mean() / (sample.std() / np.sqrt(60))
        assert p == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.04)
    assert bootstrap.bca_p(1.0, bootstrap.Resampled(np.ones(9), np.ones(9))) is None
