"""How a number is written, the same in the page and in Markdown."""

from __future__ import annotations

from cxrtl.report import vocabulary
from cxrtl.report.shape import Value

UNDEFINED = "undefined"


def share(value: float | None) -> str:
    """A share as a percentage without its sign: 0.881 → 88.1."""
    return UNDEFINED if value is None else f"{100 * value:.1f}"


def area(value: float | None) -> str:
    """An AUC, Brier score or p-like share: three decimals."""
    return UNDEFINED if value is None else f"{value:z.3f}".replace("-", "−")


def metric(name: str, value: float | None) -> str:
    """A measure as its column writes it: shares as percentages, distances in pixels, the rest as they are."""
    if vocabulary.is_share(name):
        return share(value)
    if name == "hausdorff95" and value is not None:
        return f"{value:.1f}"
    return area(value)


def metric_of(value: float | None, name: str) -> str:
    """`metric`, value first, as a template's filter wants it."""
    return metric(name, value)


def bounds(name: str, value: Value) -> str:
    """`86.0–90.0`, or why there is none."""
    if value["low"] is None or value["high"] is None:
        return "" if value["value"] is None else "no interval"
    return f"{metric(name, value['low'])}–{metric(name, value['high'])}"


def signed(value: float | None, digits: int = 3, scale: float = 1) -> str:
    """A difference with its sign: −0.012."""
    if value is None:
        return UNDEFINED
    text = f"{abs(scale * value):.{digits}f}"
    if float(text) == 0:
        return text
    return f"−{text}" if value < 0 else f"+{text}"


def gain(name: str, value: float | None) -> str:
    """A difference in the measure's own unit; shares in percentage points."""
    own = name.removeprefix("fold_")
    if vocabulary.is_share(own):
        return signed(value, 1, 100)
    return signed(value, 1) if own == "hausdorff95" else signed(value)


def gain_bounds(name: str, value: Value) -> str:
    if value["low"] is None or value["high"] is None:
        return "no interval"
    return f"{gain(name, value['low'])} to {gain(name, value['high'])}"


def p_value(value: float | None) -> str:
    if value is None:
        return "not tested"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def seconds(value: float | None) -> str:
    """Seconds for a table: one decimal below 100, then whole."""
    if value is None:
        return "–"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def duration(value: float | None) -> str:
    """Seconds for a sentence: `74.5 s`, `442 s`, `14 min`, `1 h 54 min`."""
    if value is None:
        return "not recorded"
    if value < 600:
        return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def plural(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
