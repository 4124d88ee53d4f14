"""Images that look alike though their bytes differ: copies re-encoded, resized, brightened, cropped a little, mirrored.

Each image becomes `BITS` bits: the signs of its low spatial frequencies (discrete cosine transform of a 32 × 32
reduction: Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"), each taken about its
median over the set, so that what all chests have in common says nothing. Two images are alike where at most `NEAR`
bits differ; of unrelated ones about half do. Pairs are found by multi-index hashing (Norouzi et al., CVPR 2012): the
bits are cut into `BANDS` bands, and only images that agree in a whole band are compared, so that the work grows with
the number of images and not with its square. All pairs up to `BANDS - 1` bits apart agree in a band; of those at
`NEAR`, more than nine in ten. Where more than `CROWD` images agree in a band, each is compared there with so many of
them, and others may be missed; `Found.whole` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn

SIDE = 32  # of the reduction
FREQUENCIES = 16  # along each axis
BITS = FREQUENCIES**2  # the first, the mean brightness, is always 0
BANDS = 16
NEAR = 24
CROWD = 64  # followers that an image is compared with in a band where very many agree
MOST = 100_000  # pairs: there may be as many as images squared
BLOCK = 2**16  # images whose bits are made at once
_STEPS = 2 * (NEAR + 1)

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]
Wanted = Callable[[Rows, Rows], npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Pair:
    """Two rows that look alike: `first` < `second`; `mirrored` where one is the other's mirror image."""

    first: int
    second: int
    distance: int
    mirrored: bool


@dataclass(frozen=True)
class Found:
    """`pairs`, nearest first; there may be more of them unless it is the `whole`."""

    pairs: list[Pair]
    whole: bool


def frequencies(reduced: npt.NDArray[np.uint8]) -> Floats:
    """`[N, SIDE, SIDE]` to `[N, BITS]`: low frequencies, without mean and contrast."""
    waves = dctn(reduced.astype(np.float32), axes=(1, 2), norm="ortho")[:, :FREQUENCIES, :FREQUENCIES]
    waves[:, 0, 0] = 0
    flat = waves.reshape(len(waves), BITS)
    found: Floats = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return found


def find(waves: Floats, wanted: Wanted | None = None) -> Found:
    """All pairs of rows of `waves` `[N, BITS]` that look alike, and are `wanted`; by default any."""
    pairs, whole = np.empty(0, np.int64), True
    if len(waves) > 1:
        bits = _bits(waves)
        for band in range(BANDS):
            parts = [pairs]
            for one, two in _candidates(bits, band, len(waves)):
                if two is None or sum(map(len, parts)) > MOST:
                    whole = False
                    break
                parts.append(_near(bits, one, two, len(waves), wanted))
            pairs = _nearest(np.concatenate(parts))
    return Found(_listed(pairs[:MOST], len(waves)), whole and len(pairs) <= MOST)


def _bits(waves: Floats) -> Bits:
    """`[2 N, BITS / 8]`: of each image, and then of the mirror image of each."""
    middle = np.array([np.median(waves[:, place]) for place in range(BITS)], dtype=waves.dtype)
    mirror = np.where(np.arange(BITS) % FREQUENCIES % 2 == 0, 1, -1).astype(np.float32)  # odd waves across change sign
    found = np.empty((2 * len(waves), BITS // 8), np.uint8)
    for first in range(0, len(waves), BLOCK):
        some = waves[first : first + BLOCK]
        for begin, values in ((first, some), (len(waves) + first, some * mirror)):
            found[begin : begin + len(some)] = np.packbits(values > middle, axis=1)
    return found


def _candidates(bits: Bits, band: int, images: int) -> Iterator[tuple[Rows, Rows | None]]:
    """Rows that agree in a whole band, the first of each pair no mirror image; at the end those with further ones."""
    key = np.ascontiguousarray(bits[:, band::BANDS]).view(">u2").ravel()  # bits from all over the hash
    order = np.argsort(key, kind="stable")
    alive = np.arange(len(order) - 1)
    for step in range(1, CROWD + 2):
        alive = alive[alive + step < len(order)]
        alive = alive[key[order[alive]] == key[order[alive + step]]]
        if not len(alive):
            return
        one, two = order[alive], order[alive + step]  # stable: a mirror image comes after every image
        wanted = (one < images) & (one != two - images)
        yield (one[wanted], two[wanted]) if step <= CROWD else (one, None)


def _near(bits: Bits, one: Rows, two: Rows, images: int, wanted: Wanted | None) -> Rows:
    """Of the candidates those that look alike, each as a number; see `_listed`."""
    apart = np.bitwise_count(bits[one] ^ bits[two]).sum(axis=1, dtype=np.int64)
    near = apart <= NEAR
    one, two, apart = one[near], two[near], apart[near]
    mirrored = two >= images
    first, second = np.minimum(one, two % images), np.maximum(one, two % images)
    numbers: Rows = (first * images + second) * _STEPS + 2 * apart + mirrored
    return numbers[wanted(first, second)] if wanted else numbers


def _nearest(numbers: Rows) -> Rows:
    """Each pair once, the way it is nearest, ascending."""
    ordered = np.unique(numbers)
    found: Rows = ordered[np.unique(ordered // _STEPS, return_index=True)[1]]
    return found


def _listed(numbers: Rows, images: int) -> list[Pair]:
    rest, how = np.divmod(numbers, _STEPS)
    columns = (*np.divmod(rest, max(images, 1)), how // 2, how % 2 == 1)
    pairs = [Pair(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    return sorted(pairs, key=lambda pair: (pair.distance, pair.first, pair.second))
