"""Two predictions of any task on the same images: differences, second minus first, with intervals and tests.

Binary predictions, and each finding of a multilabel set, have DeLong's and McNemar's tests; measures that are means
over classes or images have none of their own, so their p comes from the paired bootstrap of patients. Nadeau and
Bengio's test over folds allows for other training sets; the others hold the trained models fixed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from cxrtl.errors import PredictionsError
from cxrtl.evaluate import bootstrap, overlap
from cxrtl.evaluate.compare import Difference, compare_auc, compare_ratios, compare_right, nadeau_bengio
from cxrtl.evaluate.intervals import LEVEL
from cxrtl.evaluate.judge import TOPS, among, dense, names, patients_of, point, repeats_of, rows, statistic
from cxrtl.evaluate.metrics import THRESHOLD, BoolArray
from cxrtl.evaluate.weighted import values
from cxrtl.predictions import FloatArray, Predictions

LEADING = {"binary": "auc", "multiclass": "macro_auc", "multilabel": "macro_auc", "segmentation": "dice"}


def common(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions]:
    """The rows of images (and repeats, where both have them) that both hold, sorted by id: row i of each belongs to
    the same image. The second's rows take the first's folds and patients.

    Raises:
        PredictionsError: the two are of another task or of other classes, or differ in what is true.
    """
    if (first.task, first.classes) != (second.task, second.classes):
        raise PredictionsError(f"predictions of {first.classes} cannot be paired with those of {second.classes}")
    keys = ["image_id", *(["repeat"] if "repeat" in first.frame and "repeat" in second.frame else [])]
    places = [part.frame[keys].assign(place=np.arange(len(part.frame))) for part in (first, second)]
    both = places[0].merge(places[1], on=keys, suffixes=("", "_other")).sort_values(["image_id", "place"])
    one, two = first.frame.iloc[both["place"]], second.frame.iloc[both["place_other"]]
    if not _same_truth(one, two):
        raise PredictionsError("two arms were judged by different labels or areas of the same images")
    shared = [name for name in ("fold", "patient_id", "repeat") if name in one]
    two = two.drop(columns=shared, errors="ignore").assign(**{name: one[name].to_numpy() for name in shared})
    return Predictions(one, first.classes, first.task), Predictions(two, first.classes, first.task)


def _same_truth(one: pd.DataFrame, two: pd.DataFrame) -> bool:
    own = [name for name in one if str(name).startswith(("label_", "truth_"))]
    before, after = (frame[own].to_numpy(np.float64) for frame in (one, two))
    return one["label"].tolist() == two["label"].tolist() and np.array_equal(before, after, equal_nan=True)


def differences(first: Predictions, second: Predictions, tops: Sequence[int] = TOPS) -> dict[str, Difference]:
    """Every measure's difference, with intervals that resample patients; `first` and `second` as `common` gives."""
    if first.task == "binary" and repeats_of(first) is None:
        return compare_ratios(first.truth, first.score, second.score, patients_of(first))
    return _resampled(first, second, tops)


def tests(
    first: Predictions, second: Predictions, test_to_train: float, tops: Sequence[int] = TOPS
) -> dict[str, Difference]:
    """The task's tests by name, `first` and `second` as `common` gives; what cannot be tested is absent.

    `test_to_train` as `nadeau_bengio` wants it.
    """
    lead, found = LEADING[first.task], dict[str, Difference | None]()
    if first.task == "binary" and repeats_of(first) is None:
        found["auc"] = compare_auc(first.truth, first.score, second.score, patients_of(first))
    else:
        found[lead] = _resampled(first, second, tops).get(lead)
    if first.task in ("binary", "multiclass"):
        name = "accuracy" if first.task == "binary" else "top1"
        found[name] = compare_right(_right(first), _right(second), patients_of(first))
    if first.task == "segmentation":
        found["wilcoxon"] = signed_ranks(first, second)
    found[f"fold_{lead}"] = nadeau_bengio(fold_gains(first, second, lead, tops), test_to_train)
    return {name: item for name, item in found.items() if item is not None}


def signed_ranks(first: Predictions, second: Predictions) -> Difference:
    """Wilcoxon's signed-rank test (Biometrics Bulletin 1945; 1:80) of the patients' mean gains in Dice.

    `value` is the median gain. Patients without a difference are left out of the ranks, as Wilcoxon did.
    """
    codes, _ = dense(first)
    gain = pd.Series((overlap.image_dice(second) - overlap.image_dice(first)).mean(axis=1)).groupby(codes).mean()
    moved = gain[gain.abs() > 1e-12]
    p = float(wilcoxon(moved).pvalue) if len(moved) else 1.0
    return Difference(float(gain.median()), None, p, "Wilcoxon signed-rank")


def fold_gains(first: Predictions, second: Predictions, name: str, tops: Sequence[int] = TOPS) -> list[float]:
    """The difference in the measure `name` within each fold where both have it."""
    frame = first.frame
    gains = []
    for _, places in sorted(frame.groupby("fold").indices.items()):
        mask = np.zeros(len(frame), bool)
        mask[places] = True
        one, two = (point(rows(part, mask), tops)[name] for part in (first, second))
        if one is not None and two is not None:
            gains.append(two - one)
    return gains


def _right(chosen: Predictions) -> BoolArray:
    if chosen.task == "multiclass":
        return among(chosen, 1)
    return np.asarray((chosen.score >= THRESHOLD) == chosen.truth)


def _resampled(first: Predictions, second: Predictions, tops: Sequence[int]) -> dict[str, Difference]:
    """Both arms meet the same resampled patients."""
    codes, patients = dense(first)
    sides = [statistic(part, codes, patients, tops) for part in (first, second)]
    one, two = (values(side, patients) for side in sides)
    drawn = [bootstrap.redraw(side, patients, len(codes)) for side in sides]
    found = {}
    for name in names(first, tops):
        before, after = one[name], two[name]
        if before is not None and after is not None:
            gap = bootstrap.Resampled(*(_gap(drawn, name, part) for part in ("resamples", "left_out")))
            interval = bootstrap.bca(after - before, gap, LEVEL)
            same = np.ptp(gap.resamples) == 0 and after == before
            p = 1.0 if same else bootstrap.bca_p(after - before, gap)
            found[name] = Difference(after - before, interval, p, f"paired {bootstrap.METHOD}")
    return found


def _gap(drawn: Sequence[dict[str, bootstrap.Resampled]], name: str, part: str) -> FloatArray:
    return np.asarray(getattr(drawn[1][name], part) - getattr(drawn[0][name], part))
