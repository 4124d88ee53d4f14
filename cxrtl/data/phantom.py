"""Synthetic chest images with a known answer: fluid at a lung base, its meniscus at any height, on either side.

Images are drawn from whole random numbers with + − × ÷ and comparisons alone, which IEEE arithmetic rounds alike
everywhere: the same pixels on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxrtl.config import Data
from cxrtl.data.sources.common import Rows, to_manifest
from cxrtl.records import Manifest

SCHEME = "phantom:"  # in the `path` column: `phantom:<seed>:<index>:<0 or 1>:<patient>`
KEY = b"cxrtl phantom: nothing to hide!!"  # public, so that ids are the same everywhere
_ANATOMY, _IMAGE = 0, 1

Floats = npt.NDArray[np.float32]


def build(data: Data) -> Manifest:
    """`phantom_patients` × `phantom_images_per_patient` images; every second patient has an effusion in all of them."""
    pairs = [(patient, index) for patient in range(data.phantom_patients) for index in _indices(data, patient)]
    rows = Rows(
        images=[f"{data.phantom_seed}/{index}" for _, index in pairs],
        labels=["effusion" if patient % 2 else "normal" for patient, _ in pairs],
        paths=[f"{SCHEME}{data.phantom_seed}:{index}:{patient % 2}:{patient}" for patient, index in pairs],
        patients=[f"{data.phantom_seed}/{patient}" for patient, _ in pairs],
        studies=[""] * len(pairs),
        extras={},
    )
    return to_manifest(rows, KEY, data.model_copy(update={"positive": data.positive or "effusion"}))


def _indices(data: Data, patient: int) -> range:
    return range(patient * data.phantom_images_per_patient, (patient + 1) * data.phantom_images_per_patient)


def from_path(path: str, size: int) -> npt.NDArray[np.uint8]:
    """Draw what a manifest's `phantom:...` path names; uint8 `[size, size]`."""
    seed, index, positive, patient = (int(part) for part in path.removeprefix(SCHEME).split(":"))
    return draw(seed, index, bool(positive), patient, size)


def draw(seed: int, index: int, positive: bool, patient: int, size: int) -> npt.NDArray[np.uint8]:
    """One image, uint8 `[size, size]`: anatomy from (seed, patient), everything else from (seed, index).

    The negative and the positive drawing of the same numbers differ in the fluid alone.
    """
    body = _anatomy(_uniform(seed, _ANATOMY, patient, count=10))
    u = _uniform(seed, _IMAGE, index, count=16)
    zoom, shift_x, shift_y = _between(u[0], 0.95, 1.06), _between(u[1], -0.03, 0.03), _between(u[2], -0.03, 0.03)
    step = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size) - np.float32(0.5)
    x = step[None, :] * zoom + np.float32(0.5) + shift_x  # [1, size], 0 at the image's left, 1 at its right
    y = step[:, None] * zoom + np.float32(0.5) + shift_y  # [size, 1], 0 at the top
    picture = _tissue(body, x, y)
    lungs = [_lung(body, side, x, y, breath=_between(u[3], -0.03, 0.03)) for side in (-1, 1)]
    ribs = _ribs(body, x, y)
    for lung in lungs:
        picture += lung * (np.float32(55) - picture + ribs)
    for side, lung in zip((-1, 1), lungs, strict=True):
        haze = np.float32(max(0.0, u[4 + (side > 0)] - 0.5) * 90)  # unsharp shadow at a base, in either class
        picture += lung * haze * _ramp((y - np.float32(0.45)) * np.float32(2.5))
    if positive:
        side = -1 if u[6] < 0.5 else 1
        picture += _fluid(body, side, x, y, u[7], u[8]) * lungs[side > 0] * np.float32(_between(u[9], 60, 85))
    picture += _middle(body, x, y) * (body.grey + np.float32(45) - picture)
    return _expose(picture, x, y, u[10:], seed, index)


@dataclass(frozen=True)
class _Body:
    """One patient's anatomy, in shares of the image side; greys on the 0..255 scale."""

    spread: np.float32  # from the middle line to a lung's centre
    width: np.float32  # half a lung's width
    height: np.float32  # half a lung's height
    base: np.float32  # lowest point of the lungs
    dome: np.float32  # how far the diaphragm arches up
    heart: np.float32  # heart's radius
    spacing: np.float32  # of the ribs
    phase: np.float32
    slope: np.float32
    grey: np.float32  # of soft tissue


def _anatomy(u: npt.NDArray[np.float64]) -> _Body:
    low = (0.17, 0.115, 0.30, 0.74, 0.02, 0.10, 0.07, 0.0, 0.8, 135.0)
    high = (0.20, 0.140, 0.35, 0.80, 0.07, 0.14, 0.09, 1.0, 1.6, 160.0)
    return _Body(*map(_between, u, low, high))


def _tissue(body: _Body, x: Floats, y: Floats) -> Floats:
    """The trunk in dark air."""
    across, down = (x - np.float32(0.5)) / np.float32(0.47), (y - np.float32(0.62)) / np.float32(0.66)
    trunk = _ramp((1 - across * across * across * across - down * down * down * down) * np.float32(8))
    return np.float32(12) + trunk * (body.grey - np.float32(12))


def _lung(body: _Body, side: int, x: Floats, y: Floats, breath: np.float32) -> Floats:
    """Share of each pixel, 0..1, that lies in the lung of one side; the diaphragm cuts it off below."""
    across = (x - np.float32(0.5) - np.float32(side) * body.spread) / body.width
    down = (y - np.float32(0.46)) / body.height
    floor = body.base + breath - body.dome * (1 - across * across)
    oval = _ramp((1 - across * across - down * down * down * down) * np.float32(5))
    return oval * _ramp((floor - y) * np.float32(40) + np.float32(0.5))


def _middle(body: _Body, x: Floats, y: Floats) -> Floats:
    """0..1: spine and great vessels, and the heart, which leans to the image's right."""
    across, down = (x - np.float32(0.54)) / body.heart, (y - np.float32(0.65)) / (body.heart * np.float32(0.85))
    heart = _ramp((1 - across * across - down * down) * np.float32(3))
    spine = _ramp(np.float32(1.5) - np.abs(x - np.float32(0.5)) * np.float32(24)) * _ramp(y * np.float32(6))
    middle: Floats = np.maximum(heart, spine * np.float32(0.9))
    return middle


def _ribs(body: _Body, x: Floats, y: Floats) -> Floats:
    """Bright arcs, as grey levels to add."""
    middle = x - np.float32(0.5)
    along = (y + body.slope * middle * middle) / body.spacing + body.phase
    wave: Floats = np.abs(along - np.floor(along) - np.float32(0.5)) * 2  # triangle, 0..1
    return wave * wave * np.float32(30)


def _fluid(body: _Body, side: int, x: Floats, y: Floats, height: float, rise: float) -> Floats:
    """0..1: full below a surface that climbs towards the chest wall. Low levels are the more frequent."""
    level = body.base - body.dome - (np.float32(0.03) + np.float32(0.30 * height * (0.4 + 0.6 * height)))
    wall = (np.float32(side) * (x - np.float32(0.5)) - body.spread) / body.width  # -1 at the heart, 1 at the ribs
    climb = (wall + 1) * (wall + 1) * np.float32(0.25) * _between(rise, 0.03, 0.12)
    return _ramp((y - level + climb) * np.float32(25) + np.float32(0.5))


def _expose(
    picture: Floats, x: Floats, y: Floats, u: npt.NDArray[np.float64], seed: int, index: int
) -> npt.NDArray[np.uint8]:
    """Uneven exposure, contrast, brightness and grain; rounded to bytes."""
    size = picture.shape[0]
    uneven = _between(u[0], -0.12, 0.12) * (x - np.float32(0.5)) + _between(u[1], -0.12, 0.12) * (y - np.float32(0.5))
    picture = picture * (1 + uneven) * _between(u[2], 0.85, 1.12) + _between(u[3], -12, 18)
    raw = _stream(seed, _IMAGE + 1, index).random_raw((size * size + 1) // 2)
    grain = raw.astype("<u8").view(np.uint8)[: 4 * size * size].reshape(4, size, size)
    summed = grain.sum(axis=0, dtype=np.int32).astype(np.float32) - np.float32(510)  # near normal, sd 148
    picture = picture + summed * (_between(u[4], 5, 10) / np.float32(148))
    grey: npt.NDArray[np.uint8] = np.floor(np.clip(picture, 0, 255) + np.float32(0.5)).astype(np.uint8)
    return grey


def _stream(*numbers: int) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence(numbers))


def _uniform(*numbers: int, count: int) -> npt.NDArray[np.float64]:
    """`count` numbers in [0, 1), from the raw stream: numpy keeps that one fixed from release to release."""
    return (_stream(*numbers).random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _between(u: float, low: float, high: float) -> np.float32:
    return np.float32(low + (high - low) * float(u))


def _ramp(values: Floats) -> Floats:
    return np.clip(values, 0, 1)
