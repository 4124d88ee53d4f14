"""Drawings of classes, findings and structures: confusion matrices, ROC curves of each, how Dice is spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxrtl.evaluate import curves, overlap
from cxrtl.evaluate.judge import against_rest
from cxrtl.predictions import Predictions
from cxrtl.report import numbers
from cxrtl.report.curves import finish, look
from cxrtl.report.shape import Row, Summary
from cxrtl.report.style import GRID, INK, SHOWN_ARMS, Drawing, colour, new, save, short

SHOWN_PARTS = 16  # drawn; the rest is in the tables


def last_rows(summary: Summary) -> list[Row]:
    """Each arm at its longest budget, in the arms' order."""
    found = {row["arm"]: row for row in sorted(summary["rows"], key=lambda row: row["iterations"])}
    return [found[arm] for arm in summary["arms"] if arm in found]


def draw(summary: Summary, predictions: Predictions, folder: Path) -> tuple[Drawing, ...]:
    """One drawing a part, every arm at its longest budget; none in binary."""
    if summary["task"] == "binary":
        return ()
    shown = [(place, row) for place, row in enumerate(last_rows(summary)) if place < SHOWN_ARMS]
    one = _dice if summary["task"] == "segmentation" else _roc
    chosen = [(place, row, predictions.select(row["arm"], row["iterations"])) for place, row in shown]
    names = predictions.classes[:SHOWN_PARTS]
    return tuple(one(summary, chosen, name, number, folder) for number, name in enumerate(names, start=1))


Chosen = Sequence[tuple[int, Row, Predictions]]  # an arm's place, its row, its predictions


def _roc(summary: Summary, chosen: Chosen, name: str, number: int, folder: Path) -> Drawing:
    """One class against the rest, or one finding where it is stated."""
    figure, axes = new(4.1, 4.2)
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1)
    for place, row, predictions in reversed(chosen):
        truth, _, score, _ = against_rest(predictions, name)
        curve = curves.roc(truth, score)
        if curve:
            label = f"{short(row['arm'], 22)}  {numbers.area(_part(row, name, 'auc'))}"
            axes.plot(curve.false_positive_rate, curve.true_positive_rate, label=label, **look(place))
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal", xlabel="1 − specificity", ylabel="sensitivity")
    finish(axes, summary, 0, "AUC, pooled", "lower right", short(name, 34))
    alt = f"ROC curves of {name} after each arm's longest budget, pooled over folds, with each arm's AUC."
    return save(figure, folder, f"part-{number:02d}", alt)


def _dice(summary: Summary, chosen: Chosen, name: str, number: int, folder: Path) -> Drawing:
    """Every image's Dice as a point, an arm a row: the median, the middle half, and 5 to 95 in 100."""
    figure, axes = new(6.6, 1.2 + 0.55 * len(chosen))
    for place, _, predictions in chosen:
        found = overlap.image_dice(predictions)[:, predictions.classes.index(name)]
        height = place + np.random.default_rng(0).uniform(-0.3, 0.3, size=len(found))
        axes.plot(found, height, linestyle="none", marker=".", markersize=2.5, alpha=0.45, color=colour(place))
        low, first, middle, third, high = np.quantile(found, [0.05, 0.25, 0.5, 0.75, 0.95])
        axes.hlines(place, low, high, color=INK, linewidth=1.1)
        axes.hlines(place, first, third, color=INK, linewidth=4.5)
        axes.vlines(middle, place - 0.22, place + 0.22, color=INK, linewidth=2)
    axes.set_yticks(range(len(chosen)), [f"{short(row['arm'], 22)}, {row['iterations']}" for _, row, _ in chosen])
    axes.set(xlim=(-0.02, 1.02), ylim=(len(chosen) - 0.5, -0.5), xlabel="Dice of an image")
    axes.set_title(short(name, 34))
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    alt = f"How the Dice of {name} is spread over images, one row an arm; means and intervals are in the tables."
    return save(figure, folder, f"part-{number:02d}", alt)


def _part(row: Row, name: str, metric: str) -> float | None:
    return next(part["metrics"][metric]["value"] for part in row["parts"] if part["name"] == name)


def matrix(row: Row) -> list[list[int]]:
    """Images by class and call, rows the truth."""
    if "table" in row:
        return row["table"]
    found = row["confusion"]
    return [[found["tn"], found["fp"]], [found["fn"], found["tp"]]]


def confusion(summary: Summary, budgets: Sequence[int], folder: Path) -> Drawing | None:
    """Every arm at every budget; of several classes at its longest. None where calls do not exclude each other."""
    if summary["task"] not in ("binary", "multiclass"):
        return None
    binary, classes = summary["task"] == "binary", summary["data"]["classes"]
    rows = summary["rows"] if binary else last_rows(summary)
    arms = summary["arms"][:SHOWN_ARMS]
    side = 1.95 if binary else 1.3 + 0.5 * len(classes)
    across = len(budgets) if binary else min(2, len(rows))
    down = len(arms) if binary else -(-min(len(rows), SHOWN_ARMS) // across)
    figure = Figure(figsize=(1.1 + side * across, 0.5 + side * down), layout="constrained")
    for place, row in enumerate(
        row for row in rows if row["arm"] in arms and (not binary or row["iterations"] in budgets)
    ):
        at = arms.index(row["arm"]) * len(budgets) + budgets.index(row["iterations"]) if binary else place
        _confusion_panel(figure.add_subplot(down, across, at + 1), row, classes)
    alt = "Confusion matrices by arm and budget; the same counts stand in the table of confusion matrices."
    return save(figure, folder, "confusion", alt)


def _confusion_panel(axes: Axes, row: Row, classes: Sequence[str]) -> None:
    table = np.array(matrix(row), dtype=float)
    axes.imshow(table / np.maximum(table.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1.6)
    for (y, x), count in np.ndenumerate(table):
        axes.text(x, y, f"{int(count)}", ha="center", va="center", fontsize=11 if len(table) == 2 else 8, color=INK)
    names, two = [short(name, 10) for name in classes], len(classes) == 2
    axes.set_xticks(range(len(names)), names, rotation=0 if two else 90)
    axes.set_yticks(range(len(names)), names, rotation=90 if two else 0, va="center")
    axes.tick_params(length=0, labelsize=7.5)
    axes.set_xlabel("called", fontsize=7.5)
    axes.set_ylabel("truth", fontsize=7.5)
    axes.set_title(f"{short(row['arm'], 16)}, {row['iterations']}", fontsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)
