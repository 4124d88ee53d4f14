"""Intervals for independent images: one proportion, F1, one AUC. All are two-sided and stay within [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt

from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from cxrtl.evaluate.metrics import Confusion

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """`low` and `high` in the metric's own unit, at `level`; `method` is what the report names it by."""

    low: float
    high: float
    method: str
    level: float = LEVEL


def quantile(level: float) -> float:
    """The standard normal quantile that leaves (1 − level) / 2 above it.

    Raises:
        ValueError: `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1, such as 0.95")
    return float(norm.ppf(0.5 + level / 2))


def wilson(successes: float, trials: float, level: float = LEVEL, method: str = "Wilson") -> Interval | None:
    """Score interval of a proportion (Wilson, JASA 1927; 22:209; recommended by Brown, Cai & DasGupta, 2001).

    None without trials. Raises ValueError unless 0 ≤ successes ≤ trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes={successes} of trials={trials}: must be between 0 and trials")
    if not trials:
        return None
    z = quantile(level)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    # at 0 and at 1 the bound is exact; rounding must not push it past
    low = 0.0 if successes == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if successes == trials else min(1.0, (centre + half) / scale)
    return Interval(low, high, method, level)


def f1_interval(counts: Confusion, level: float = LEVEL) -> Interval | None:
    """Interval of F1 through the Jaccard index J = tp / (tp + fp + fn), a proportion of the images not called tn.

    F1 = 2J / (1 + J) rises with J, so Wilson's bounds of J map onto bounds of F1 (Takahashi et al., Applied
    Intelligence 2022; 52:4961, discuss intervals for F1). None where tp + fp + fn is 0.
    """
    jaccard = wilson(counts.tp, counts.tp + counts.fp + counts.fn, level)
    if jaccard is None:
        return None
    low, high = (2 * bound / (1 + bound) for bound in (jaccard.low, jaccard.high))
    return Interval(low, high, "Wilson (Jaccard)", level)


def auc_interval(area: float, variance: float, level: float = LEVEL, method: str = "DeLong") -> Interval:
    """Interval of an AUC from its variance, on the logit scale, where it cannot leave (0, 1).

    The delta method gives se(logit A) = se(A) / (A (1 − A)) (Pepe, The Statistical Evaluation of Medical Tests,
    2003, § 5.2.5); near 1 it covers better than the symmetric interval (Qin & Hotilovac, Stat Methods Med Res
    2008; 17:207). `area` must lie strictly between 0 and 1: use `newcombe` elsewhere.
    """
    if not 0 < area < 1 or variance < 0:
        raise ValueError(f"area={area}, variance={variance}: the logit scale needs 0 < area < 1 and variance ≥ 0")
    centre = log(area / (1 - area))
    half = quantile(level) * sqrt(variance) / (area * (1 - area))
    low, high = expit([centre - half, centre + half])
    return Interval(float(low), float(high), method, level)


def boyd(average: float, positives: int, level: float = LEVEL) -> Interval | None:
    """Logit interval of an average precision over `positives` positive images, or patients (Boyd, Eng & Page, ECML
    2013, § 3.2). None for an average of 0 or 1, where it has no width."""
    if not 0 < average < 1:
        return None
    reach = quantile(level) / sqrt(positives * average * (1 - average))
    centre = log(average / (1 - average))
    low, high = expit([centre - reach, centre + reach])
    return Interval(float(low), float(high), "logit (Boyd)", level)


def newcombe(area: float, positives: int, negatives: int, level: float = LEVEL) -> Interval:
    """Score-like interval of an AUC from the class sizes alone, for an area of 0 or 1, where DeLong's variance is 0.

    Newcombe, Statistics in Medicine 2006; 25:559, method 5: the areas t with |area − t| ≤ z·sqrt(V(t)), where
    V(t) = t(1 − t)[1 + s((1 − t)/(2 − t) + t/(1 + t))] / (m n) and s = (m + n)/2 − 1.
    """
    if not 0 <= area <= 1 or positives < 1 or negatives < 1:
        raise ValueError(f"area={area} of {positives} positives and {negatives} negatives has no interval")
    z, spread = quantile(level), (positives + negatives) / 2 - 1

    def excess(t: float) -> float:
        factor = 1 + spread * ((1 - t) / (2 - t) + t / (1 + t))
        return (area - t) ** 2 - z * z * t * (1 - t) * factor / (positives * negatives)

    low = 0.0 if area == 0 else float(brentq(excess, 0.0, area if area < 1 else 1 - 1e-12))
    high = 1.0 if area == 1 else float(brentq(excess, area if area > 0 else 1e-12, 1.0))
    return Interval(low, high, "Newcombe", level)
