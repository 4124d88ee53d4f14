"""Statistics written anew for `test_recompute`: scikit-learn, SciPy and statsmodels where they have it, else the
textbook's formula over every pair and every image. Nothing of `cxrtl` is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn import metrics as sk
from statsmodels.stats.proportion import proportion_confint

RATIOS = {  # name → numerator and denominator, of (tp, fp, fn, tn)
    "accuracy": ((1, 0, 0, 1), (1, 1, 1, 1)),
    "sensitivity": ((1, 0, 0, 0), (1, 0, 1, 0)),
    "specificity": ((0, 0, 0, 1), (0, 1, 0, 1)),
    "ppv": ((1, 0, 0, 0), (1, 1, 0, 0)),
    "npv": ((0, 0, 0, 1), (0, 0, 1, 1)),
    "f1": ((2, 0, 0, 0), (2, 1, 1, 0)),
}
Z = stats.norm.ppf([0.025, 0.975])
Weighted = Callable[[np.ndarray], dict[str, np.ndarray]]  # patients' weights [B, P] → name → [B]
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Called:
    """Truths and calls `[N]`, scores where they rank something, and whose each image is, places 0 … P − 1."""

    truth: np.ndarray
    called: np.ndarray
    score: np.ndarray | None
    patient: np.ndarray

    def points(self) -> dict[str, float | None]:
        tn, fp, fn, tp = sk.confusion_matrix(self.truth, self.called, labels=[False, True]).ravel()
        found: dict[str, float | None] = {}
        for name, (above, below) in RATIOS.items():
            whole = np.dot(below, (tp, fp, fn, tn))
            found[name] = float(np.dot(above, (tp, fp, fn, tn)) / whole) if whole else None
        if self.score is not None:
            both = self.truth.any() and not self.truth.all()
            found["auc"] = float(sk.roc_auc_score(self.truth, self.score)) if both else None
        return found

    def weighted(self) -> Weighted:
        cells = np.stack([self.truth & self.called, ~self.truth & self.called, self.truth & ~self.called], 1)
        cells = np.hstack([cells, (~self.truth & ~self.called)[:, None]])

        def under(weights: np.ndarray) -> dict[str, np.ndarray]:
            image = weights[:, self.patient]
            counts = image @ cells
            with np.errstate(all="ignore"):
                found = {name: (counts @ above) / (counts @ below) for name, (above, below) in RATIOS.items()}
                if self.score is not None:
                    positive, negative = image[:, self.truth], image[:, ~self.truth]
                    right = ((positive @ pairs(self.truth, self.score)) * negative).sum(1)
                    found["auc"] = right / (positive.sum(1) * negative.sum(1))
            return found

        return under

    def bounds(self, name: str, method: str) -> Bounds:
        """By a method that needs no resampling."""
        if method in ("DeLong", "Obuchowski"):
            assert self.score is not None
            (area,), ((variance,),) = areas(self.truth, [self.score], self.patient)
            middle, reach = np.log(area / (1 - area)), Z[1] * np.sqrt(variance) / (area * (1 - area))
            return 1 / (1 + np.exp(reach - middle)), 1 / (1 + np.exp(-reach - middle))
        if method == "Newcombe":
            groups = [len(np.unique(self.patient[mask])) for mask in (self.truth, ~self.truth)]
            return newcombe(self.points()["auc"] or 0.0, *groups)
        above, below = RATIOS[name]
        places = np.where(self.truth, np.where(self.called, 0, 2), np.where(self.called, 1, 3))
        counted = np.isin(places, np.flatnonzero(below))
        trials = len(np.unique(self.patient[counted])) if "patients" in method else int(counted.sum())
        share = (np.isin(places, np.flatnonzero(above)) & counted).sum() / counted.sum()
        low, high = proportion_confint(share * trials, trials, method="wilson")
        return (2 * low / (1 + low), 2 * high / (1 + high)) if name == "f1" else (low, high)


def pairs(truth: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Of each positive and negative image, whether they rank right: 1, 0, or ½ for a tie."""
    return np.asarray(np.sign(score[truth][:, None] - score[~truth][None]) / 2 + 0.5)


def areas(truth: np.ndarray, scores: list[np.ndarray], patient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUCs and their covariance from every pair, summed within patients (Obuchowski 1997; of one image each, DeLong
    1988)."""
    wins = np.stack([pairs(truth, score) for score in scores])
    area = wins.mean(axis=(1, 2))
    names, ours = np.unique(patient, return_inverse=True)
    sums = []
    for axis, mask in ((2, truth), (1, ~truth)):
        member = ours[mask][:, None] == np.arange(len(names))
        sums.append((wins.mean(axis=axis) - area[:, None]) @ member)
    m, n = truth.sum(), (~truth).sum()
    i10, i01, i = len(np.unique(ours[truth])), len(np.unique(ours[~truth])), len(names)
    between = sums[0] @ sums[1].T * i / (i - 1) / (m * n)
    own = sums[0] @ sums[0].T * i10 / (i10 - 1) / m**2 + sums[1] @ sums[1].T * i01 / (i01 - 1) / n**2
    return area, own + between + between.T


def newcombe(area: float, positives: int, negatives: int) -> Bounds:
    """Newcombe's fifth method (Stat Med 2006; 25:559) on a grid."""
    t, spread = np.linspace(1e-9, 1 - 1e-9, 2_000_001), (positives + negatives) / 2 - 1
    variance = t * (1 - t) * (1 + spread * ((1 - t) / (2 - t) + t / (1 + t))) / (positives * negatives)
    inside = t[(area - t) ** 2 <= Z[1] ** 2 * variance]
    return float(inside.min()), float(inside.max())


def mean(parts: list[Weighted], patients: int) -> Weighted:
    """Of the parts that all patients together define; undefined where one of them is."""
    whole = [part(np.ones((1, patients))) for part in parts]

    def under(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = [part(weights) for part in parts]
        defined = {name: [k for k, item in enumerate(whole) if np.isfinite(item[name][0])] for name in whole[0]}
        none = np.full(len(weights), np.nan)
        return {name: np.mean([found[k][name] for k in at], axis=0) if at else none for name, at in defined.items()}

    return under


def ranked(truth: np.ndarray, score: np.ndarray, patient: np.ndarray) -> Weighted:
    """Average precision, Brier score, and ECE in ten bins."""
    above = score[:, None] >= score[None, truth]
    member = np.minimum((score * 10).astype(int), 9)[:, None] == np.arange(10)

    def under(weights: np.ndarray) -> dict[str, np.ndarray]:
        image = weights[:, patient]
        positive, total = image[:, truth], image.sum(1)
        with np.errstate(all="ignore"):
            precision = np.nan_to_num((positive @ above[truth]) / (image @ above))
            scored, found = (image * part @ member for part in (score, truth))
            return {
                "average_precision": (positive * precision).sum(1) / positive.sum(1),
                "brier": image @ (score - truth) ** 2 / total,
                "ece": np.abs(scored - found).sum(1) / total,
            }

    return under


@dataclass(frozen=True)
class Bootstrap:
    """A statistic in 2000 resamples of patients, and without each (Efron 1987)."""

    whole: dict[str, np.ndarray]
    drawn: dict[str, np.ndarray]
    without: dict[str, np.ndarray]

    @classmethod
    def of(cls, under: Weighted, patients: int, seed: int = 5) -> Bootstrap:
        weights = np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), size=2000)
        return cls(under(np.ones((1, patients))), under(weights.astype(float)), under(1 - np.eye(patients)))

    def silent(self, name: str) -> bool:
        """Whether BCa has nothing to say: too often undefined, or all resamples on one side of the value."""
        known = self.drawn[name][np.isfinite(self.drawn[name])]
        value = self.whole[name][0]
        below = np.mean(known < value - 1e-12) + np.isclose(known, value, rtol=0, atol=1e-12).mean() / 2
        return len(known) < 0.96 * 2000 or np.ptp(known) == 0 or not 0.001 < below < 0.999

    def bca(self, name: str, level: float = 0.95, off: float = 0.0) -> Bounds:
        """The interval; `off`: as it were, had the draws fallen so many standard errors to either side."""
        drawn, without = (part[name][np.isfinite(part[name])] for part in (self.drawn, self.without))
        value = self.whole[name][0]
        equal = np.isclose(drawn, value, rtol=0, atol=1e-12)
        bias = stats.norm.ppf(np.mean((drawn < value) & ~equal) + equal.mean() / 2) + 1.25 * off / np.sqrt(len(drawn))
        gap = without.mean() - without
        spread = (gap**2).sum() ** 1.5
        acceleration = (gap**3).sum() / (6 * spread) if spread else 0.0
        reach = bias + stats.norm.ppf([0.5 - level / 2, 0.5 + level / 2])
        share = stats.norm.cdf(bias + reach / (1 - acceleration * reach))
        share += off * np.sqrt(share * (1 - share) / len(drawn))
        beyond = (share > 1).astype(float) - (share < 0)  # other draws may reach further than these
        low, high = np.quantile(drawn, np.clip(share, 0, 1)) + beyond * drawn.std()
        return float(low), float(high)

    def p(self, name: str) -> float:
        """The level at which a bound meets 0, by bisection."""
        leaves_out, holds = 0.0, 1.0  # levels whose interval leaves 0 out, or holds it
        for _ in range(40):
            middle = (leaves_out + holds) / 2
            low, high = self.bca(name, middle)
            leaves_out, holds = (leaves_out, middle) if low <= 0 <= high else (middle, holds)
        return max(1 - holds, 2 / 2001)


def gap(first: Weighted, second: Weighted) -> Weighted:
    def under(weights: np.ndarray) -> dict[str, np.ndarray]:
        one, two = first(weights), second(weights)
        return {name: two[name] - one[name] for name in one}

    return under


def flips(gains: np.ndarray) -> float:
    """Share of random signs of the patients' gains that reach their sum."""
    sums = gains[gains != 0]
    signs = np.random.default_rng(8).choice([-1.0, 1.0], size=(10_000, len(sums)))
    return float((1 + (np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9).sum()) / 10_001)
