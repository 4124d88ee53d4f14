"""How drawings look and how they are saved: colour-blind-safe, and the same bytes from the same numbers."""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxrtl.rundir import write_bytes

# Okabe & Ito, Color Universal Design, 2008; yellow left out: it is too pale on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SHOWN_ARMS = 7  # drawn in their own colour; the rest stays grey, or in the tables
INK, QUIET, GRID, OTHERS = "#222222", "#666666", "#dddddd", "#bbbbbb"

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 9,
    "text.parse_math": False,  # names are text, also with a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "cxrtl",
    "svg.fonttype": "path",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Spot:
    """A point whose value shows under the pointer; `left` and `top` are shares of the drawing."""

    left: float
    top: float
    text: str


Mark = tuple[Axes, float, float, str]  # a spot in the units of its axes


@dataclass(frozen=True)
class Drawing:
    """A saved figure: `stem` names its files, `alt` says what it shows to those who cannot see it."""

    stem: str
    alt: str
    svg: bytes
    spots: tuple[Spot, ...] = ()


def colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def line(place: int) -> str | tuple[int, tuple[int, ...]]:
    return LINES[place // len(COLOURS) % len(LINES)]  # a second round of the colours is dashed


def marker(place: int) -> str:
    return MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]


def new(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one panel, in inches; no pyplot, so nothing is kept globally."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def short(text: str, width: int = 28) -> str:
    """A name that fits a legend."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def save(figure: Figure, folder: Path, stem: str, alt: str, marks: Iterable[Mark] = ()) -> Drawing:
    """Write `stem`.svg and `stem`.png (150 dpi) into `folder`, each atomically."""
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.set_layout_engine("none")  # settled, once for both
    figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    write_bytes(folder / f"{stem}.svg", svg.getvalue())
    write_bytes(folder / f"{stem}.png", png.getvalue())
    spots = []
    for axes, x, y, text in marks:  # after saving: only then is the layout settled
        left, bottom = axes.transData.transform((x, y)) / figure.bbox.size
        spots.append(Spot(float(left), float(1 - bottom), text))
    return Drawing(stem, alt, svg.getvalue(), tuple(spots))


def styled() -> AbstractContextManager[None]:
    """The context that all drawing happens in."""
    return mpl.rc_context(RC)
