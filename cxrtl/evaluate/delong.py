"""Variance of an AUC and covariance of several on the same images, without assuming a distribution of scores.

DeLong, DeLong & Clarke-Pearson, Biometrics 1988; 44:837, in the O(N log N) form of Sun & Xu, IEEE Signal Processing
Letters 2014; 21:1389. Where patients hold several images: Obuchowski, Biometrics 1997; 53:567, which sums the same
components within each patient first and equals DeLong's where each patient holds one image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from cxrtl.errors import PredictionsError
from cxrtl.evaluate.metrics import BoolArray, IntArray
from cxrtl.predictions import FloatArray


@dataclass(frozen=True)
class Areas:
    """`area` `[A]` and `covariance` `[A, A]` of the AUCs of A score vectors on the same images."""

    area: FloatArray
    covariance: FloatArray


def components(truth: BoolArray, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """DeLong's structural components of `scores` `[A, N]`: of positives `[A, m]` and of negatives `[A, n]`.

    A positive's component is the share of negatives it outranks, a negative's the share of positives that outrank
    it; ties count half. The mean of either is the AUC.
    """
    positives, negatives = scores[:, truth], scores[:, ~truth]
    together = rankdata(scores, axis=1)
    of_positives = (together[:, truth] - rankdata(positives, axis=1)) / negatives.shape[1]
    of_negatives = 1 - (together[:, ~truth] - rankdata(negatives, axis=1)) / positives.shape[1]
    return of_positives, of_negatives


def delong(truth: BoolArray, scores: FloatArray, patients: IntArray | None = None) -> Areas:
    """AUCs and their covariance. `truth` `[N]`, `scores` `[A, N]`, `patients` `[N]` codes, None: all differ.

    Raises:
        PredictionsError: shapes differ, a score is not finite, or a class has fewer than two patients (or images).
    """
    if scores.ndim != 2 or scores.shape[1] != len(truth) or not np.isfinite(scores).all():
        raise PredictionsError(f"scores {scores.shape} must be [arms, {len(truth)}] and finite")
    codes = np.arange(len(truth)) if patients is None else np.unique(patients, return_inverse=True)[1]
    groups = [len(np.unique(codes[mask])) for mask in (truth, ~truth)]
    if min(groups) < 2:
        raise PredictionsError(f"a variance needs two patients of each class, there are {groups[0]} and {groups[1]}")
    above, below = components(truth, scores)
    area = above.mean(axis=1)
    patients_in_all = int(codes.max()) + 1
    sums = [
        _by_patient(part - area[:, None], codes[mask], patients_in_all)
        for part, mask in ((above, truth), (below, ~truth))
    ]
    sizes = [above.shape[1], below.shape[1]]
    covariance = sum((sums[i] @ sums[i].T) * groups[i] / ((groups[i] - 1) * sizes[i] ** 2) for i in (0, 1)) + _cross(
        sums[0], sums[1], patients_in_all
    ) / (sizes[0] * sizes[1])
    return Areas(area, np.asarray(covariance))


def _by_patient(values: FloatArray, codes: IntArray, patients: int) -> FloatArray:
    """Sum `values` `[A, n]` within patients: `[A, patients]`."""
    return np.stack([np.bincount(codes, weights=row, minlength=patients) for row in values])


def _cross(positive: FloatArray, negative: FloatArray, patients: int) -> FloatArray:
    """The part that patients with images of both classes add, `[A, A]`."""
    product = positive @ negative.T * patients / (patients - 1)
    return np.asarray(product + product.T)
