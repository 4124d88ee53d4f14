"""Images that look alike though their bytes differ: copies re-encoded, resized, brightened, cropped a little, mirrored.

Each image becomes `BITS` bits: the signs of its low spatial frequencies (discrete cosine transform of a 32 × 32
reduction: Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"), each taken about its
median over the set, so that what all chests have in common says nothing. Two images are alike where at most `NEAR`
bits differ; of unrelated ones about half do. Pairs are found by multi-index hashing (Norouzi et al., CVPR 2012): the
bits are cut into `BANDS` bands, and only images that agree in a whole band are compared, so that the work grows with
the number of images and not with its square. All pairs up to `BANDS - 1` bits apart agree in a band; of those at
`NEAR`, more than nine in ten.
"""

from __future__ import annotations

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

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """Two rows that look alike: `first` < `second`; `mirrored` where one is the other's mirror image."""

    first: int
    second: int
    distance: int
    mirrored: bool


def frequencies(reduced: npt.NDArray[np.uint8]) -> Floats:
    """`[N, SIDE, SIDE]` to `[N, BITS]`: low frequencies, without mean and contrast."""
    waves = dctn(reduced.astype(np.float32), axes=(1, 2), norm="ortho")[:, :FREQUENCIES, :FREQUENCIES]
    waves[:, 0, 0] = 0
    flat = waves.reshape(len(waves), BITS)
    found: Floats = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return found


def find(waves: Floats) -> list[Pair]:
    """All pairs of rows of `waves` `[N, BITS]` that look alike, nearest first."""
    if len(waves) < 2:
        return []
    middle = np.median(waves, axis=0)
    mirror = np.where(np.arange(BITS) % FREQUENCIES % 2 == 0, 1, -1).astype(np.float32)  # odd waves across change sign
    bits = np.packbits(np.concatenate([waves > middle, waves * mirror > middle]), axis=1)
    found: dict[tuple[int, int], Pair] = {}
    for one, two in _candidates(bits, len(waves)):
        near = np.bitwise_count(bits[one] ^ bits[two]).sum(axis=1, dtype=np.int64)
        for a, b, distance in zip(*(x[near <= NEAR].tolist() for x in (one, two, near)), strict=True):
            first, second = sorted((a % len(waves), b % len(waves)))
            mirrored = b >= len(waves)
            known = found.get((first, second))
            if known is None or (distance, mirrored) < (known.distance, known.mirrored):
                found[first, second] = Pair(first, second, distance, mirrored)
    return sorted(found.values(), key=lambda pair: (pair.distance, pair.first, pair.second))


def _candidates(bits: Bits, images: int) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Rows that agree in a whole band, the first of each pair no mirror image."""
    parts = []
    for band in range(BANDS):
        key = np.ascontiguousarray(bits[:, band::BANDS]).view(">u2").ravel()  # bits from all over the hash
        order = np.argsort(key, kind="stable")
        alive = np.arange(len(order) - 1)
        for step in range(1, CROWD + 1):
            alive = alive[alive + step < len(order)]
            alive = alive[key[order[alive]] == key[order[alive + step]]]
            if not len(alive):
                break
            one, two = order[alive], order[alive + step]  # stable: a mirror image comes after every image
            wanted = (one < images) & (one != two - images)
            parts.append((one[wanted], two[wanted]))
    return parts
