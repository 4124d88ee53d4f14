"""Intervals that resample whole patients, because the images of one patient resemble each other.

Cluster bootstrap: Field & Welsh, JRSS B 2007; 69:369. Bias-corrected and accelerated bounds (BCa): Efron, JASA 1987;
82:171, with the acceleration from leaving out one patient at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from cxrtl.evaluate.intervals import LEVEL, Interval, quantile
from cxrtl.evaluate.metrics import THRESHOLD, BoolArray, IntArray, check
from cxrtl.evaluate.weighted import Calls, Statistic
from cxrtl.predictions import FloatArray

METHOD = "patient bootstrap (BCa)"
RESAMPLES = 2000
_CELLS = 4_000_000  # weights held at once: 32 MB
_TIE = 1e-12  # the same ratio summed in another order is the same ratio


@dataclass(frozen=True)
class Resampled:
    """A metric's value in each resample `[B]` and with each patient left out `[P]`; NaN where undefined."""

    resamples: FloatArray
    left_out: FloatArray


def resample(
    truth: BoolArray,
    score: FloatArray,
    patients: IntArray,
    threshold: float = THRESHOLD,
    resamples: int = RESAMPLES,
    seed: int = 0,
    ranks: bool = True,
) -> dict[str, Resampled]:
    """Draw P of P patients with replacement, `resamples` times, and recompute every ratio and, with `ranks`, the AUC.

    `truth`, `score`, `patients` (any codes) are `[N]`. The same seed and patients give the same draws, whatever the
    scores.
    """
    check(truth, score)
    codes = np.unique(patients, return_inverse=True)[1]
    size = int(codes.max()) + 1
    statistic = Calls.of(truth, score >= threshold, codes, size, score if ranks else None)
    return redraw(statistic, size, len(truth), resamples, seed)


def redraw(
    statistic: Statistic, patients: int, images: int, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Resampled]:
    """The same draws for any statistic of `patients` patients; `images` only bounds the memory of a block."""
    blocks = [statistic.under(weights) for weights in draws(patients, images, resamples, seed)]
    without = statistic.left_out()
    return {name: Resampled(np.concatenate([block[name] for block in blocks]), without[name]) for name in without}


def draws(patients: int, images: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """How often each patient was drawn: `[rows, patients]`, in blocks that together hold `resamples` rows."""
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // max(images, patients))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(patients, size=(rows, patients)) + np.arange(rows)[:, None] * patients
        counted = np.bincount(drawn.ravel(), minlength=rows * patients)
        yield counted.reshape(rows, patients).astype(np.float64)


def bca(value: float, drawn: Resampled, level: float = LEVEL) -> Interval | None:
    """The BCa interval of `value`.

    None where it would mean nothing: more than 5 % of the resamples leave the metric undefined, or all resamples
    lie on one side of the value or on it (as with a perfect score).
    """
    known = drawn.resamples[np.isfinite(drawn.resamples)]
    if len(known) < 0.95 * len(drawn.resamples) or len(known) < 2 or np.ptp(known) == 0:
        return None
    below = float(np.mean(known < value - _TIE) + 0.5 * np.mean(np.abs(known - value) <= _TIE))
    if not 0 < below < 1:
        return None
    bias = float(norm.ppf(below))
    acceleration = _acceleration(drawn.left_out)
    reach = quantile(level)
    shares = []
    for z in (bias - reach, bias + reach):
        shrink = 1 - acceleration * z
        if shrink <= 0:  # beyond the pole the adjustment turns round: take the outermost resample
            shares.append(float(z > 0))
        else:
            shares.append(float(norm.cdf(bias + z / shrink)))
    low, high = np.quantile(known, shares)
    return Interval(float(low), float(high), METHOD, level)


def bca_p(value: float, drawn: Resampled) -> float | None:
    """Two-sided p of the null hypothesis 0: the level at which a bound of the BCa interval of `value` meets 0.

    So p < 0.05 where the 95 % interval leaves 0 out (Efron & Tibshirani, An Introduction to the Bootstrap, 1993,
    § 15.3 and 22.4). No smaller than 2 / (resamples + 1); None where `bca` has no interval.
    """
    if bca(value, drawn) is None:
        return None
    known = drawn.resamples[np.isfinite(drawn.resamples)]
    outermost = 1 / (len(known) + 1)

    def score(point: float) -> float:
        """The normal quantile of a point among the resamples."""
        below = float(np.mean(known < point - _TIE) + 0.5 * np.mean(np.abs(known - point) <= _TIE))
        return float(norm.ppf(min(max(below, outermost), 1 - outermost)))

    bias, place = score(value), score(0.0)
    shrink = 1 + _acceleration(drawn.left_out) * (place - bias)
    if shrink <= 0:  # beyond the pole: 0 lies outside every resample the adjustment can reach
        return 2 * outermost
    tail = float(norm.cdf((place - bias) / shrink - bias))
    return max(2 * min(tail, 1 - tail), 2 * outermost)


def _acceleration(left_out: FloatArray) -> float:
    known = left_out[np.isfinite(left_out)]
    distance = known.mean() - known if len(known) else known
    spread = float((distance**2).sum()) ** 1.5
    return float((distance**3).sum()) / (6 * spread) if spread > 0 else 0.0
