"""How a number is written, the same in the page and in Markdown."""

from __future__ import annotations

from math import floor, log10

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


def gain(name: str, found: Value) -> str:
    """A difference in the measure's own unit; shares in percentage points."""
    return signed(found["value"], *_written(name, found))


def gain_bounds(name: str, found: Value) -> str:
    if found["low"] is None or found["high"] is None:
        return "no interval"
    low, high = (signed(found[end], *_written(name, found)) for end in ("low", "high"))
    return f"{low} to {high}"


def _written(name: str, found: Value) -> tuple[int, float]:
    """Decimals and scale of a difference and its bounds: as many decimals as its measure has, or more, where two
    digits of the interval's width need them; of the difference itself where there is no interval."""
    own = name.removeprefix("fold_")
    share = vocabulary.is_share(own)
    scale, least = 100 if share else 1, 1 if share or own == "hausdorff95" else 3
    low, high = found["low"], found["high"]
    told = found["value"] if low is None or high is None else high - low
    if told is None or abs(told) < 1e-9:  # what rounding leaves of two equal numbers
        return least, scale
    return max(least, 1 - floor(log10(scale * abs(told)))), scale


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


def counted(images: int, patients: int | None) -> str:
    """`7 images, 2 patients`; patients where they are known, and there are any."""
    return plural(images, "image") + (f", {plural(patients, 'patient')}" if patients else "")
