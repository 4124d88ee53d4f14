"""Statistics that can be recomputed when patients weigh more or less: what the bootstrap resamples.

A statistic answers two questions: its values under patient weights `[B, P]`, each a `[B]`, and its values with each
patient left out, `[P]`; NaN where undefined. All but ranks are ratios of sums over patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cxrtl.evaluate.metrics import BoolArray, IntArray, counts_to_ratios
from cxrtl.predictions import FloatArray


class Statistic(Protocol):
    """Named values under patient weights."""

    def under(self, weights: FloatArray) -> dict[str, FloatArray]: ...
    def left_out(self) -> dict[str, FloatArray]: ...


def values(statistic: Statistic, patients: int) -> dict[str, float | None]:
    """The statistic's values with every one of its `patients` counted once; None where undefined."""
    found = statistic.under(np.ones((1, patients)))
    return {name: float(value[0]) if np.isfinite(value[0]) else None for name, value in found.items()}


@dataclass(frozen=True)
class Calls:
    """Every ratio of `metrics.RATIOS` and, with `pairs`, the AUC; `table` is (tp, fp, fn, tn) a patient, `[P, 4]`."""

    table: FloatArray
    pairs: Pairs | None = None

    @classmethod
    def of(
        cls, truth: BoolArray, called: BoolArray, codes: IntArray, patients: int, score: FloatArray | None = None
    ) -> Calls:
        """From images: all arrays `[N]`, `codes` the patient's place, 0 … `patients` − 1."""
        cell = np.where(truth, np.where(called, 0, 2), np.where(called, 1, 3))
        table = np.bincount(codes * 4 + cell, minlength=patients * 4).reshape(patients, 4).astype(np.float64)
        return cls(table, None if score is None else Pairs.of(truth, score, codes))

    def under(self, weights: FloatArray) -> dict[str, FloatArray]:
        areas = {"auc": self.pairs.auc(weights)} if self.pairs else {}
        return counts_to_ratios(weights @ self.table) | areas

    def left_out(self) -> dict[str, FloatArray]:
        areas = {"auc": self.pairs.auc_left_out(len(self.table))} if self.pairs else {}
        return counts_to_ratios(self.table.sum(axis=0) - self.table) | areas


@dataclass(frozen=True)
class Sums:
    """Ratios of sums over patients: name → (numerator `[P]`, denominator `[P]`)."""

    parts: Mapping[str, tuple[FloatArray, FloatArray]]

    @classmethod
    def of(cls, images: Mapping[str, tuple[FloatArray, FloatArray]], codes: IntArray, patients: int) -> Sums:
        """From name → (numerator `[N]`, denominator `[N]`) of each image."""
        return cls(
            {
                name: (_by_patient(above, codes, patients), _by_patient(below, codes, patients))
                for name, (above, below) in images.items()
            }
        )

    def under(self, weights: FloatArray) -> dict[str, FloatArray]:
        return {name: _ratio(weights @ above, weights @ below) for name, (above, below) in self.parts.items()}

    def left_out(self) -> dict[str, FloatArray]:
        return {name: _ratio(above.sum() - above, below.sum() - below) for name, (above, below) in self.parts.items()}


@dataclass(frozen=True)
class Mean:
    """The unweighted mean over `parts`: over classes, findings, structures (macro) or over repeats.

    A part that all patients together leave undefined takes no part in that name's mean; a resample that leaves one
    of the others undefined leaves the mean undefined, so that every resample averages the same parts.
    """

    parts: Sequence[Statistic]
    defined: Mapping[str, tuple[int, ...]]  # name → the places of the parts that have it

    @classmethod
    def of(cls, parts: Sequence[Statistic], patients: int) -> Mean:
        found = [values(part, patients) for part in parts]
        names = dict.fromkeys(name for part in found for name in part)
        return cls(parts, {name: tuple(k for k, part in enumerate(found) if part[name] is not None) for name in names})

    def under(self, weights: FloatArray) -> dict[str, FloatArray]:
        return self._mean([part.under(weights) for part in self.parts])

    def left_out(self) -> dict[str, FloatArray]:
        return self._mean([part.left_out() for part in self.parts])

    def _mean(self, found: Sequence[dict[str, FloatArray]]) -> dict[str, FloatArray]:
        return {
            name: np.mean([found[k][name] for k in places], axis=0) if places else np.full_like(found[0][name], np.nan)
            for name, places in self.defined.items()
        }


@dataclass(frozen=True)
class Named:
    """Several statistics of the same patients, each value's name behind its own prefix."""

    parts: Mapping[str, Statistic]

    def under(self, weights: FloatArray) -> dict[str, FloatArray]:
        return {
            f"{key}{name}": value for key, part in self.parts.items() for name, value in part.under(weights).items()
        }

    def left_out(self) -> dict[str, FloatArray]:
        return {f"{key}{name}": value for key, part in self.parts.items() for name, value in part.left_out().items()}


@dataclass(frozen=True)
class Pairs:
    """Images sorted by score, for AUCs under patient weights. All arrays `[N]`, `starts` `[distinct scores]`."""

    truth: BoolArray
    score: FloatArray
    codes: IntArray
    starts: IntArray

    @classmethod
    def of(cls, truth: BoolArray, score: FloatArray, codes: IntArray) -> Pairs:
        order = np.argsort(score, kind="stable")
        starts = np.concatenate([[0], np.flatnonzero(np.diff(score[order])) + 1])
        return cls(truth[order], score[order], codes[order], starts)

    def auc(self, weights: FloatArray) -> FloatArray:
        """AUC under patient `weights` `[B, patients]`: `[B]`, NaN where a class weighs nothing."""
        if not len(self.truth):
            return np.full(len(weights), np.nan)
        of_images = weights[:, self.codes]
        positive = of_images * self.truth
        negative = of_images - positive
        if len(self.starts) < len(self.truth):  # ties: what scores the same is one step
            positive, negative = (np.add.reduceat(part, self.starts, axis=1) for part in (positive, negative))
        below = np.cumsum(negative, axis=1) - negative / 2
        total = positive.sum(axis=1) * negative.sum(axis=1)
        right = np.einsum("bn,bn->b", positive, below)
        return np.where(total > 0, right / np.where(total > 0, total, 1), np.nan)

    def auc_left_out(self, patients: int) -> FloatArray:
        """AUC without each patient in turn, `[patients]`, from pair counts rather than by recomputing P times."""
        if not len(self.truth):
            return np.full(patients, np.nan)
        truth, codes = self.truth, self.codes
        wins = self._wins()
        positives = np.bincount(codes[truth], minlength=patients)
        negatives = np.bincount(codes[~truth], minlength=patients)
        lost = np.bincount(codes, weights=wins, minlength=patients)
        for patient in np.flatnonzero((positives > 0) & (negatives > 0)):  # their own pairs were taken off twice
            mine = codes == patient
            gap = self.score[mine & truth][:, None] - self.score[mine & ~truth][None, :]
            lost[patient] -= float((gap > 0).sum() + 0.5 * (gap == 0).sum())
        total = (positives.sum() - positives) * (negatives.sum() - negatives)
        left = wins[truth].sum() - lost
        return np.where(total > 0, left / np.where(total > 0, total, 1), np.nan)

    def _wins(self) -> FloatArray:
        """Each image's pairs ranked right (a tie counts half), `[N]`; the positives' sum equals the negatives'."""
        lengths = np.diff(np.append(self.starts, len(self.truth)))
        positive = np.add.reduceat(self.truth.astype(np.float64), self.starts)
        negative = lengths - positive
        below = np.cumsum(negative) - negative / 2
        above = positive.sum() - np.cumsum(positive) + positive / 2
        return np.where(self.truth, np.repeat(below, lengths), np.repeat(above, lengths))


@dataclass(frozen=True)
class Precision:
    """Images by falling score, for the average precision under patient weights: `truth` and `codes` `[N]`; `group`
    `[N]` is each image's place among the distinct scores, `ends` `[distinct scores]` the last image of each."""

    truth: BoolArray
    codes: IntArray
    group: IntArray
    ends: IntArray
    patients: int

    @classmethod
    def of(cls, truth: BoolArray, score: FloatArray, codes: IntArray, patients: int) -> Precision:
        order = np.argsort(-score, kind="stable")
        steps = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
        group = np.repeat(np.arange(len(steps)), np.diff(steps, prepend=-1))
        return cls(truth[order], codes[order], group, steps, patients)

    def under(self, weights: FloatArray) -> dict[str, FloatArray]:
        gained, precision, _ = self._steps(weights[:, self.codes])
        return {"average_precision": _ratio((gained * precision).sum(axis=1), gained.sum(axis=1))}

    def left_out(self) -> dict[str, FloatArray]:
        """To first order: by the derivative with respect to each patient's weight (the infinitesimal jackknife,
        DiCiccio & Efron, Stat Sci 1996; 11:189, § 6), since one image moves the precision of all that rank below."""
        gained, precision, called = (part[0] for part in self._steps(np.ones((1, len(self.codes)))))
        positives = gained.sum()
        value = _ratio((gained * precision).sum(), positives)
        below, share = (np.cumsum(part[::-1])[::-1] for part in (gained / called, gained * precision / called))
        own = self.truth * (precision[self.group] + below[self.group] - value) - share[self.group]
        return {"average_precision": value - _ratio(_by_patient(own, self.codes, self.patients), positives)}

    def _steps(self, of_images: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """From image weights `[B, N]`: the weight of the positives at each distinct score, the precision when it and
        all above are called, and how much that calls; each `[B, distinct scores]`."""
        true, called = (np.cumsum(part, axis=1)[:, self.ends] for part in (of_images * self.truth, of_images))
        return np.diff(true, prepend=0.0, axis=1), true / np.where(called > 0, called, 1), called


def _by_patient(values: FloatArray, codes: IntArray, patients: int) -> FloatArray:
    return np.bincount(codes, weights=values, minlength=patients).astype(np.float64)


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """`above` / `below`, NaN where that is 0; of one shape, or `below` alone for all."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(below > 0, above / below, np.nan))
