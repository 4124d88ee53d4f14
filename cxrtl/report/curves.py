"""Drawings of what scores do: ROC curves and reliability diagrams, one panel a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from cxrtl.evaluate import curves
from cxrtl.evaluate.judge import patients_of
from cxrtl.evaluate.metrics import confusion
from cxrtl.predictions import Predictions
from cxrtl.report import numbers, vocabulary, words
from cxrtl.report.shape import Row, Summary
from cxrtl.report.style import GRID, OTHERS, QUIET, SHOWN_ARMS, Drawing, Mark, colour, line, marker, new, save, short

Where = Literal["lower right", "upper left", "lower left"]


def rows_at(summary: Summary, iterations: int) -> list[tuple[int, Row]]:
    """The rows of a budget with their arm's place, last arm first: so the first arm is drawn on top."""
    places = {arm: place for place, arm in enumerate(summary["arms"])}
    return [(places[row["arm"]], row) for row in reversed(summary["rows"]) if row["iterations"] == iterations]


def look(place: int) -> dict[str, Any]:
    """An arm's colour, dash and width; grey beyond the palette."""
    if place < SHOWN_ARMS:
        return {"color": colour(place), "linestyle": line(place), "linewidth": 1.4}
    return {"color": OTHERS, "linestyle": "-", "linewidth": 0.6}


def roc(summary: Summary, predictions: Predictions, iterations: int, folder: Path) -> Drawing:
    figure, axes = new(4.1, 4.2)
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1)
    marks: list[Mark] = []
    for place, row in rows_at(summary, iterations):
        chosen = predictions.select(row["arm"], iterations)
        curve = curves.roc(chosen.truth, chosen.score)
        if curve:
            if place == 0 and (band := curves.roc_band(chosen.truth, chosen.score, patients_of(chosen))):
                axes.fill_between(curves.GRID, band.low, band.high, color=colour(0), alpha=0.15, linewidth=0)
            label = _label(place, row, numbers.area(row["metrics"]["auc"]["value"]))
            axes.plot(curve.false_positive_rate, curve.true_positive_rate, label=label, **look(place))
            marks += _marks(axes, row, chosen) if place < SHOWN_ARMS else []
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal", xlabel="1 − specificity", ylabel="sensitivity")
    finish(axes, summary, iterations, "AUC, pooled", "lower right")
    alt = f"ROC curves after {iterations} iterations, pooled over folds, with each arm's AUC."
    return save(figure, folder, f"roc-{iterations}", alt, marks)


def _marks(axes: Axes, row: Row, chosen: Predictions) -> list[Mark]:
    """The curve's values at thresholds 0.1, 0.2 … 0.9."""
    found = []
    for step in range(1, 10):
        counts = confusion(chosen.truth, chosen.score, step / 10)
        true, false = counts.ratio("sensitivity") or 0.0, 1 - (counts.ratio("specificity") or 0.0)
        said = f"sensitivity {numbers.share(true)} %, specificity {numbers.share(1 - false)} %"
        found.append((axes, false, true, f"{row['arm']}, threshold {step / 10:.1f}: {said}"))
    return found


def precision_recall(summary: Summary, predictions: Predictions, iterations: int, folder: Path) -> Drawing:
    figure, axes = new(4.1, 4.2)
    for place, row in rows_at(summary, iterations):
        axes.axhline(row["positives"] / row["images"], color=GRID, linewidth=1, zorder=0)
        chosen = predictions.select(row["arm"], iterations)
        curve = curves.precision_recall(chosen.truth, chosen.score)
        if curve:
            label = _label(place, row, numbers.area(curve.average))
            recall, precision = np.append(0, curve.recall), np.append(curve.precision[0], curve.precision)
            axes.step(recall, precision, label=label, **look(place))
    axes.set(
        xlim=(-0.01, 1.01), ylim=(0, 1.01), aspect="equal", xlabel="recall (sensitivity)", ylabel="precision (PPV)"
    )
    finish(axes, summary, iterations, "average precision", "lower left")
    alt = (
        f"Precision against recall after {iterations} iterations, pooled over folds, with each arm's average precision."
    )
    return save(figure, folder, f"precision-{iterations}", alt)


def calibration(summary: Summary, iterations: int, folder: Path) -> Drawing:
    figure, axes = new(4.1, 4.2)
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1)
    for place, row in rows_at(summary, iterations):
        if place >= SHOWN_ARMS:
            continue
        found = row["calibration"]
        x, y = np.array([(item["score"], item["share"]["value"]) for item in found["bins"]]).T
        if place == 0:
            ends = [(item["share"]["low"], item["share"]["high"]) for item in found["bins"]]
            axes.vlines(x, *np.array(ends, dtype=float).T, color=colour(place), linewidth=0.9)
        label = _label(place, row, numbers.area(found["measures"]["ece"]["value"]))
        axes.plot(x, y, marker=marker(place), markersize=4, label=label, **look(place))
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set(xlabel="mean score of a bin", ylabel=f"share that is {short(summary['positive'], 22)}")
    finish(axes, summary, iterations, "ECE", "upper left")
    alt = f"Reliability diagrams after {iterations} iterations, with each arm's expected calibration error."
    return save(figure, folder, f"calibration-{iterations}", alt)


def forest(summary: Summary, folder: Path) -> Drawing | None:
    """The headline's leading measure in each subgroup that has one, with its interval; the line is all images."""
    lead, said = summary["lead"], vocabulary.name(summary["lead"])
    shown = [row for row in summary["subgroups"] if not row["hidden"] and row["metrics"][lead]["value"] is not None]
    if not shown:
        return None
    figure, axes = new(6.6, 0.9 + 0.3 * len(shown))
    overall = words.headline(summary)["metrics"][lead]["value"] or 0.0
    axes.axvline(overall, color=QUIET, linewidth=0.8, linestyle="--")
    marks: list[Mark] = []
    for place, row in enumerate(shown):
        found = row["metrics"][lead]
        middle, low, high = (found[name] or 0.0 for name in ("value", "low", "high"))
        if found["low"] is not None:
            axes.hlines(place, low, high, color=colour(0), linewidth=1.4)
        axes.plot(middle, place, marker="s", markersize=5, color=colour(0))
        text = f"{row['column']} {row['group']}: {said} {numbers.area(middle)}, {numbers.bounds(lead, found)}"
        marks.append((axes, middle, place, text))
    axes.set_yticks(range(len(shown)), [short(f"{row['column']}: {row['group']}", 40) for row in shown])
    axes.set(ylim=(len(shown) - 0.5, -0.5), xlabel=f"{said} with {words.level(summary)} interval; dashed: all images")
    alt = f"{said} with interval in each subgroup; the values are in the table of subgroups."
    return save(figure, folder, "subgroups", alt, marks)


def _label(place: int, row: Row, value: str) -> str | None:
    return f"{short(row['arm'], 22)}  {value}" if place < SHOWN_ARMS else None


def finish(axes: Axes, summary: Summary, iterations: int, title: str, where: Where, heading: str = "") -> None:
    """Title, and a legend with the first arm on top."""
    axes.set_title(heading or f"{iterations} iterations")
    handles, labels = (list(reversed(found)) for found in axes.get_legend_handles_labels())
    rest = len(summary["arms"]) - SHOWN_ARMS
    if rest > 0:
        handles.append(Line2D([], [], color=OTHERS, linewidth=0.6))
        labels.append(f"{rest} other arms")
    if handles:
        axes.legend(handles, labels, loc=where, title=title)
