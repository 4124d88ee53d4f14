"""Copies are found whatever was done to them, and nothing else is."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageEnhance

from cxrtl.data import lookalikes, phantom
from cxrtl.data.lookalikes import BANDS, BITS, CROWD, Found, Pair, find, frequencies
from cxrtl.data.survey import reduce

SIDE = 96


@pytest.fixture(scope="module")
def chests() -> npt.NDArray[np.uint8]:
    """120 phantoms of as many patients."""
    return np.stack([phantom.draw(0, number, number % 2 == 1, number, SIDE) for number in range(120)])


def encoded(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=30)
    return Image.open(buffer)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "encoded again": encoded,
    "made small and large again": lambda picture: picture.resize((48, 48)).resize((SIDE, SIDE)),
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.15),
    "flatter": lambda picture: ImageEnhance.Contrast(picture).enhance(0.7),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mirrored", [False, True])
def test_copies_are_found_and_no_others(chests: npt.NDArray[np.uint8], change: str, mirrored: bool) -> None:
    copies = [np.asarray(CHANGES[change](Image.fromarray(chest))) for chest in chests[:10]]
    copies = [copy[:, ::-1] if mirrored else copy for copy in copies]
    found = find(frequencies(reduce(np.concatenate([chests, np.stack(copies)]))))
    pairs = found.pairs
    assert found.whole
    assert [(pair.first, pair.second) for pair in sorted(pairs, key=lambda pair: pair.first)] == [
        (number, 120 + number) for number in range(10)
    ]
    assert {pair.mirrored for pair in pairs} == {mirrored}


def test_nothing_is_like_nothing(chests: npt.NDArray[np.uint8]) -> None:
    for some in (chests, chests[:1], chests[:0]):
        assert find(frequencies(reduce(some))) == Found([], True)


def test_band_search_finds_what_all_pairs_would() -> None:
    """Against the square search, on hashes with planted neighbours at every distance that is guaranteed."""
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(400, BITS)).astype(np.float32)
    for number in range(BANDS):
        waves[200 + number] = waves[number]
        flipped = rng.choice(np.arange(1, BITS), number, replace=False)
        waves[200 + number, flipped] *= -1
    bits = waves > np.median(waves, axis=0)
    apart = (bits[:, None] != bits[None]).sum(axis=2)
    square = {(a, b) for a, b in zip(*np.nonzero(apart < BANDS), strict=True) if a < b}
    found = {(pair.first, pair.second): pair for pair in find(waves).pairs if pair.distance < BANDS}
    assert found.keys() == square and len(square) >= BANDS - 2
    assert all(pair == Pair(*key, int(apart[key]), False) for key, pair in found.items())


def test_a_thousand_blank_images_end_in_time() -> None:
    found = find(frequencies(np.zeros((1000, 32, 32), np.uint8)))
    assert 1000 <= len(found.pairs) <= 1000 * 999 / 2 and not found.whole
    assert len({(pair.first, pair.second) for pair in found.pairs}) == len(found.pairs)


@pytest.mark.parametrize(("images", "whole"), [(CROWD + 1, False), (CROWD // 2, True)])
def test_crowd_is_said(images: int, whole: bool) -> None:
    """Of so many blank images, and their mirror images."""
    found = find(frequencies(np.zeros((images, 32, 32), np.uint8)))
    assert found.whole == whole and len(found.pairs) == images * (images - 1) / 2


def test_no_more_pairs_are_kept_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookalikes, "MOST", 50)
    found = find(frequencies(np.zeros((30, 32, 32), np.uint8)))
    assert len(found.pairs) == 50 and not found.whole


def test_only_wanted_pairs_count(chests: npt.NDArray[np.uint8]) -> None:
    waves = frequencies(reduce(np.concatenate([chests[:3]] * 3)))
    assert len(find(waves).pairs) == 9
    found = find(waves, lambda first, second: (first < 3) & (second >= 6))
    assert [(pair.first, pair.second) for pair in found.pairs] == [(0, 6), (1, 7), (2, 8)]


def test_candidates_are_never_held_at_once() -> None:
    rng = np.random.default_rng(3)
    waves = np.abs(rng.normal(size=(8_000, BITS))).astype(np.float32)
    waves.reshape(-1, 16, 16)[:, :, 1:6] = 0  # half of the bands say next to nothing: crowds, and no pair
    tracemalloc.start()
    find(waves)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < waves.nbytes * 3


@pytest.mark.parametrize("side", [32, 50, 224])
def test_reduction_is_the_mean_of_blocks(side: int) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (3, side, side), dtype=np.uint8)
    found = reduce(pixels)
    starts = [side * step // 32 for step in range(33)]
    for row, column in ((0, 0), (31, 31), (7, 20)):
        block = pixels[1, starts[row] : starts[row + 1], starts[column] : starts[column + 1]]
        assert abs(float(found[1, row, column]) - block.mean()) <= 0.51
