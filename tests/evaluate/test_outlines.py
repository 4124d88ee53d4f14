"""HD95 against the definition, point by point."""

from __future__ import annotations

import numpy as np
import pytest

from cxrtl.evaluate.outlines import counts, hausdorff95


def outline(area: np.ndarray) -> np.ndarray:
    """Points with a neighbour outside, by looking at each."""
    framed = np.pad(area, 1)
    inner = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return np.argwhere(area & ~inner)


def by_hand(truth: np.ndarray, found: np.ndarray) -> float:
    one, two = outline(truth), outline(found)
    apart = np.sqrt(((one[:, None] - two[None]) ** 2).sum(-1))
    return max(np.percentile(apart.min(1), 95), np.percentile(apart.min(0), 95))


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_every_pair_of_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = (rng.random((24, 31)) < share for share in (0.1, 0.5))
    truth[5:15, 8:20] = True
    assert hausdorff95(truth, found) == pytest.approx(by_hand(truth, found))


def test_known_distances() -> None:
    one, two = np.zeros((2, 40, 40), dtype=bool)
    one[10:20, 10:20] = True
    two[10:20, 13:23] = True
    assert hausdorff95(one, one) == 0 and hausdorff95(one, two) == 3
    assert np.isnan(hausdorff95(one, np.zeros_like(one))) and np.isnan(hausdorff95(np.zeros_like(one), one))
    assert [value.tolist() for value in counts(one[None], two[None])] == [[100], [100], [70]]
