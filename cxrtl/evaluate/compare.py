"""Two arms, mostly on the same images. All but Nadeau and Bengio's test hold the trained models fixed: they speak of
other patients, not of another training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.stats import binomtest, norm, t

from cxrtl.errors import PredictionsError
from cxrtl.evaluate import bootstrap
from cxrtl.evaluate.bootstrap import METHOD
from cxrtl.evaluate.delong import delong
from cxrtl.evaluate.estimates import Estimate
from cxrtl.evaluate.intervals import LEVEL, Interval, quantile
from cxrtl.evaluate.metrics import RATIOS, THRESHOLD, BoolArray, IntArray, confusion
from cxrtl.predictions import FloatArray

FLIPS = 10_000


@dataclass(frozen=True)
class Difference:
    """`value` is the second arm minus the first; `p` two-sided, None where the data cannot tell."""

    value: float
    interval: Interval | None
    p: float | None
    method: str


def compare_auc(
    truth: BoolArray, first: FloatArray, second: FloatArray, patients: IntArray | None = None, level: float = LEVEL
) -> Difference | None:
    """Difference of two correlated AUCs, z test and interval (DeLong 1988; Obuchowski 1997 with `patients`).

    None where a class has fewer than two patients. Arrays `[N]`, images in the same order.
    """
    codes = np.arange(len(truth)) if patients is None else patients
    if min(len(np.unique(codes[mask])) for mask in (truth, ~truth)) < 2:
        return None
    areas = delong(truth, np.stack([first, second]), patients)
    value = float(areas.area[1] - areas.area[0])
    contrast = np.array([-1.0, 1.0])
    error = sqrt(max(0.0, float(contrast @ areas.covariance @ contrast)))
    method = "paired DeLong" if patients is None else "paired Obuchowski"
    if error < 1e-12:  # identical rankings: nothing to test
        return Difference(value, None, 1.0 if abs(value) < 1e-12 else None, method)
    reach = quantile(level) * error
    interval = Interval(max(-1.0, value - reach), min(1.0, value + reach), method, level)
    return Difference(value, interval, float(2 * norm.sf(abs(value) / error)), method)


def compare_accuracy(
    truth: BoolArray,
    first: FloatArray,
    second: FloatArray,
    patients: IntArray | None = None,
    threshold: float = THRESHOLD,
    seed: int = 0,
) -> Difference:
    """`compare_right` of the calls at `threshold`."""
    right = [(score >= threshold) == truth for score in (first, second)]
    return compare_right(right[0], right[1], patients, seed)


def compare_right(first: BoolArray, second: BoolArray, patients: IntArray | None = None, seed: int = 0) -> Difference:
    """Difference in the share of right calls, both `[N]`, with exact McNemar (Psychometrika 1947; 12:153), or its
    patient-wise form.

    With `patients`, the sign of each patient's difference is flipped at random: the null hypothesis that the arms
    may be exchanged within a patient (Good, Permutation, Parametric and Bootstrap Tests, 2005). With one image a
    patient that is McNemar's test.

    Raises:
        PredictionsError: there are no images.
    """
    if not len(first):
        raise PredictionsError("two arms without a common image cannot be compared")
    gain = second.astype(np.int64) - first.astype(np.int64)
    value = float(gain.mean())
    if patients is None:
        return Difference(value, None, mcnemar(int((gain < 0).sum()), int((gain > 0).sum())), "exact McNemar")
    sums = np.bincount(np.unique(patients, return_inverse=True)[1], weights=gain)
    return Difference(value, None, _sign_flip(sums[sums != 0], seed), "patient sign-flip")


def compare_ratios(
    truth: BoolArray,
    first: FloatArray,
    second: FloatArray,
    patients: IntArray | None = None,
    threshold: float = THRESHOLD,
    level: float = LEVEL,
) -> dict[str, Difference]:
    """Differences of every ratio with paired bootstrap intervals: both arms meet the same resampled patients."""
    codes = np.arange(len(truth)) if patients is None else patients
    drawn = [bootstrap.resample(truth, score, codes, threshold, ranks=False) for score in (first, second)]
    counts = [confusion(truth, score, threshold) for score in (first, second)]
    found = {}
    for name in RATIOS:
        one, two = (count.ratio(name) for count in counts)
        if one is not None and two is not None:
            of_one, of_two = (part[name] for part in drawn)
            gaps = bootstrap.Resampled(of_two.resamples - of_one.resamples, of_two.left_out - of_one.left_out)
            found[name] = Difference(two - one, bootstrap.bca(two - one, gaps, level), None, f"paired {METHOD}")
    return found


def nadeau_bengio(gains: Sequence[float], test_to_train: float, level: float = LEVEL) -> Difference | None:
    """Mean of fold-wise differences with the corrected resampled t test (Nadeau & Bengio, Machine Learning 2003;
    52:239).

    Training sets overlap, so folds are no independent repeats: the variance of the mean is s² (1/k + n_test/n_train)
    instead of s²/k. It speaks of other training sets too, where the tests above hold the models fixed. `gains` is
    `[k]`, `test_to_train` n_test/n_train, 1/(k − 1) in k-fold cross-validation. None for fewer than two folds.
    """
    k = len(gains)
    if k < 2:
        return None
    value, method = float(np.mean(gains)), "Nadeau–Bengio t"
    error = float(np.std(gains, ddof=1)) * sqrt(1 / k + test_to_train)
    if error < 1e-12:
        return Difference(value, None, 1.0 if abs(value) < 1e-12 else None, method)
    reach = float(t.ppf(0.5 + level / 2, k - 1)) * error
    p = float(2 * t.sf(abs(value) / error, k - 1))
    return Difference(value, Interval(value - reach, value + reach, method, level), p, method)


def unpaired(first: Estimate, second: Estimate, level: float = LEVEL) -> Difference | None:
    """Difference of two estimates from different patients, its interval from theirs (MOVER: Zou & Donner, Stat Med
    2008; 27:1693; for two proportions with Wilson's bounds, Newcombe, Stat Med 1998; 17:873, method 10).

    None where either lacks a value or an interval. No p value: the interval says whether 0 is inside.
    """
    if first.value is None or second.value is None or first.interval is None or second.interval is None:
        return None
    value, one, two = second.value - first.value, first.interval, second.interval
    low = value - sqrt((second.value - two.low) ** 2 + (one.high - first.value) ** 2)
    high = value + sqrt((two.high - second.value) ** 2 + (first.value - one.low) ** 2)
    return Difference(value, Interval(low, high, "MOVER", level), None, "MOVER")


def pareto(cost: FloatArray, gain: FloatArray) -> BoolArray:
    """Which of `[A]` choices no other dominates: costs no more and gains no less, and differs in one of them."""
    cheaper, better = cost[:, None] <= cost[None], gain[:, None] >= gain[None]
    strictly = (cost[:, None] < cost[None]) | (gain[:, None] > gain[None])
    return np.asarray(~(cheaper & better & strictly).any(axis=0))


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test from the images that only one of two arms got right."""
    trials = only_first + only_second
    return float(binomtest(only_first, trials, 0.5).pvalue) if trials else 1.0


def _sign_flip(sums: FloatArray, seed: int) -> float:
    """Share of random sign patterns at least as extreme; the observed one counts (Phipson & Smyth, 2010)."""
    if not len(sums):
        return 1.0
    rng = np.random.default_rng(seed)
    extreme = 0
    block = max(1, 4_000_000 // len(sums))
    for start in range(0, FLIPS, block):
        signs = rng.choice(np.array([-1.0, 1.0]), size=(min(block, FLIPS - start), len(sums)))
        extreme += int((np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9).sum())
    return (extreme + 1) / (FLIPS + 1)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment (Scand J Statist 1979; 6:65); None stays None and is not counted."""
    known = [(p, place) for place, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(sorted(known)):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[place] = largest
    return adjusted
