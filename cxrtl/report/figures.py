"""The drawings of the report. Numbers come from the summary, curves from the run folder's own files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxrtl import storage
from cxrtl.predictions import FloatArray
from cxrtl.report import curves, flow, numbers, parts, vocabulary, words
from cxrtl.report.load import Done, Loaded, read_curve
from cxrtl.report.shape import Row, Summary
from cxrtl.report.style import (
    GRID,
    INK,
    OTHERS,
    QUIET,
    SHOWN_ARMS,
    Drawing,
    Mark,
    colour,
    line,
    marker,
    new,
    save,
    short,
    styled,
)
from cxrtl.rundir import drop_parts

SHOWN_BUDGETS = 6
SHOWN_PROGRESS = 12


@dataclass(frozen=True)
class Drawings:
    """Everything drawn; `roc`, `precision` and `calibration` one a budget, `progress` one an arm, `parts` the ROC
    curves of one class or finding each, or how the Dice of one structure is spread."""

    time: Drawing
    roc: tuple[Drawing, ...]
    precision: tuple[Drawing, ...]
    calibration: tuple[Drawing, ...]
    parts: tuple[Drawing, ...]
    confusion: Drawing | None
    progress: tuple[Drawing, ...]
    forest: Drawing | None
    flow: Drawing | None


def draw(loaded: Loaded, summary: Summary) -> Drawings:
    """Draw all figures into the run's `figures/`, replacing what an earlier report left there."""
    folder = loaded.run.path("figures")
    folder.mkdir(exist_ok=True)
    drop_parts(folder, shared=True)
    for kind in ("roc-", "precision-", "calibration-", "progress-", "part-", "confusion", "subgroups", "flow"):
        for stale in folder.glob(f"{kind}*.*"):
            storage.remove(stale)
    budgets = sorted({row["iterations"] for row in summary["rows"]})[-SHOWN_BUDGETS:]
    binary = budgets if summary["task"] == "binary" else []
    with styled():
        return Drawings(
            time=_time(summary, folder),
            roc=tuple(curves.roc(summary, loaded.predictions, budget, folder) for budget in binary),
            precision=tuple(curves.precision_recall(summary, loaded.predictions, budget, folder) for budget in binary),
            calibration=tuple(curves.calibration(summary, budget, folder) for budget in binary),
            parts=parts.draw(summary, loaded.predictions, folder),
            confusion=parts.confusion(summary, budgets, folder),
            progress=_progress(loaded, folder),
            forest=curves.forest(summary, folder),
            flow=flow.draw(loaded, folder),
        )


def _time(summary: Summary, folder: Path) -> Drawing:
    figure, axes = new(6.6, 4.1)
    name, scale = vocabulary.COST[summary["task"]], _scale(summary)
    for place, arm in enumerate(summary["arms"]):
        rows = [row for row in summary["rows"] if row["arm"] == arm]
        if rows and place < SHOWN_ARMS:
            _time_of_arm(axes, rows, place, name, scale)
        elif rows:
            label = f"{len(summary['arms']) - SHOWN_ARMS} other arms" if place == SHOWN_ARMS else ""
            _time_in_grey(axes, rows, label, name, scale)
    _pareto(axes, summary["rows"], name, scale)
    _time_published(axes, summary)
    seconds = [row["time"]["train_fold"] for row in summary["rows"]]
    seconds += [row["seconds"] for row in summary["published"] if row["seconds"]]
    if min(seconds) > 0 and max(seconds) > 30 * min(seconds):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel("training time of a fold, seconds (mean over folds)")
    axes.set_ylabel(f"{vocabulary.of(name)}{', %' * vocabulary.is_share(name)}")
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i].endswith("(published)"))
    figure.legend([handles[i] for i in order], [labels[i] for i in order], loc="outside lower center", ncols=3)
    alt = (
        f"{vocabulary.name(name)} with {words.level(summary)} intervals against mean training time of a fold, one "
        "point for each arm and budget; the values are in Table 1."
    )
    return save(figure, folder, "accuracy-time", alt, _time_marks(axes, summary))


def _scale(summary: Summary) -> int:
    """Shares are drawn as percentages, areas as they are."""
    return 100 if vocabulary.is_share(vocabulary.COST[summary["task"]]) else 1


def _time_marks(axes: Axes, summary: Summary) -> list[Mark]:
    name, scale = vocabulary.COST[summary["task"]], _scale(summary)
    ours = [(r["arm"], r["iterations"], r["time"]["train_fold"], r["metrics"][name]["value"]) for r in summary["rows"]]
    theirs = [(r["study"], r["iterations"], r["seconds"], r["metrics"].get(name)) for r in summary["published"]]
    return [
        (axes, x, scale * y, f"{arm}, {length} iterations: {_said(name, y)} in {numbers.duration(x)}")
        for arm, length, x, y in [*ours, *theirs]
        if x is not None and y is not None
    ]


def _said(name: str, value: float) -> str:
    return f"{vocabulary.of(name)} {numbers.metric(name, value)}{' %' * vocabulary.is_share(name)}"


def _time_of_arm(axes: Axes, rows: Sequence[Row], place: int, name: str, scale: int) -> None:
    x = [row["time"]["train_fold"] for row in rows]
    found = [row["metrics"][name] for row in rows]
    y = np.array([scale * (value["value"] or 0) for value in found])
    low = np.array([np.nan if value["low"] is None else scale * value["low"] for value in found])
    high = np.array([np.nan if value["high"] is None else scale * value["high"] for value in found])
    axes.errorbar(
        x,
        y,
        yerr=np.maximum(0, [y - low, high - y]),
        color=colour(place),
        linestyle=line(place),
        linewidth=1.2,
        marker=marker(place),
        markersize=5,
        capsize=2.5,
        elinewidth=0.9,
        label=short(rows[0]["arm"]),
    )
    if place == 0:
        for row, left, top in zip(rows, x, np.fmax(y, high), strict=True):
            text = str(row["iterations"])
            axes.annotate(text, (left, top), (0, 3), textcoords="offset points", ha="center", fontsize=7.5, color=QUIET)


def _time_in_grey(axes: Axes, rows: Sequence[Row], label: str, name: str, scale: int) -> None:
    """An arm beyond the palette: its line only, behind the others."""
    points = [(row["time"]["train_fold"], row["metrics"][name]["value"]) for row in rows]
    x, y = zip(*[(seconds, scale * value) for seconds, value in points if value is not None], strict=True)
    axes.plot(x, y, color=OTHERS, linewidth=0.7, marker=".", markersize=4, zorder=1, label=label or None)


def _pareto(axes: Axes, rows: Sequence[Row], name: str, scale: int) -> None:
    """A step through the rows that no other row beats in both the measure and time."""
    front = [(row["time"]["train_fold"], row["metrics"][name]["value"] or 0) for row in rows if row["pareto"]]
    if len(front) > 1:
        x, y = np.array(sorted(front)).T
        axes.step(x, scale * y, where="post", color=QUIET, linewidth=5, alpha=0.18, zorder=0, label="Pareto front")


def _time_published(axes: Axes, summary: Summary) -> None:
    name, scale = vocabulary.COST[summary["task"]], _scale(summary)
    for place, study in enumerate(dict.fromkeys(row["study"] for row in summary["published"])):
        points = [
            (row["seconds"], scale * value)
            for row in summary["published"]
            if row["study"] == study and row["seconds"] and (value := row["metrics"].get(name)) is not None
        ]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(
                x,
                y,
                linestyle="none",
                marker=("D", "s", "o", "^")[place % 4],
                markerfacecolor="none",
                markeredgecolor=INK,
                markersize=6,
                label=f"{short(study)} (published)",
            )


def _progress(loaded: Loaded, folder: Path) -> tuple[Drawing, ...]:
    """One drawing for each arm with a recorded curve, all on the same axes, so that arms compare by eye."""
    arms = []
    for place, recipe in enumerate(loaded.recipes[:SHOWN_PROGRESS]):
        trials = [trial for trial in loaded.trials if trial.result.arm == recipe.name]
        curves = [_smooth(curve) for trial in trials if len(curve := read_curve(trial))]
        if curves:
            arms.append((place, trials, curves))
    if not arms:
        return ()
    every = pd.concat([curve for _, _, curves in arms for curve in curves])
    held = [100 * point.held_out_accuracy for _, trials, _ in arms for t in trials for point in t.result.milestones]
    lowest = min(100 * float(every["accuracy"].min()), *held)
    limits = (1.05 * float(every["loss"].max()), max(0.0, lowest - 3))
    names = [recipe.name for recipe in loaded.recipes]
    word = words.accuracy(loaded.predictions.task)
    return tuple(
        _progress_of(names[place], word, place, trials, curves, limits, folder) for place, trials, curves in arms
    )


def _progress_of(
    arm: str,
    word: str,
    place: int,
    trials: Sequence[Done],
    curves: Sequence[pd.DataFrame],
    limits: tuple[float, float],
    folder: Path,
) -> Drawing:
    """Loss and accuracy, called `word`, against iteration: thin a fold, thick their mean; held out at budgets."""
    figure = Figure(figsize=(4.1, 4.6), layout="constrained")
    loss, accuracy = figure.subplots(2, 1, sharex=True)
    for curve in curves:
        loss.plot(curve["iteration"], curve["loss"], color=colour(place), linewidth=0.7, alpha=0.4)
        accuracy.plot(curve["iteration"], 100 * curve["accuracy"], color=colour(place), linewidth=0.7, alpha=0.4)
    middle = pd.concat(curves).groupby("iteration").mean().reset_index()
    loss.plot(middle["iteration"], middle["loss"], color=colour(place), linewidth=1.8, label="training, mean of folds")
    accuracy.plot(middle["iteration"], 100 * middle["accuracy"], color=colour(place), linewidth=1.8)
    _held_out(accuracy, trials)
    loss.set(ylim=(0, limits[0]), ylabel="training loss")
    accuracy.set(ylim=(limits[1], 101), ylabel=f"{word}, %", xlabel="iteration")
    loss.set_title(short(arm))
    for axes in (loss, accuracy):
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2)
    alt = (
        f"Training progress of {arm}: loss and smoothed training {word} against iteration in "
        f"{numbers.plural(len(curves), 'training')}, and held-out {word} at each budget."
    )
    return save(figure, folder, f"progress-{place + 1:02d}", alt)


def _held_out(axes: Axes, trials: Sequence[Done]) -> None:
    points = sorted(
        (point.iterations, 100 * point.held_out_accuracy)
        for trial in trials
        for point in trial.result.milestones
        if np.isfinite(point.held_out_accuracy)
    )
    if not points:
        return
    x, y = np.array(points).T
    axes.plot(x, y, linestyle="none", marker=".", markersize=3.5, color=QUIET)
    lengths = np.unique(x)
    means: FloatArray = np.array([y[x == length].mean() for length in lengths])
    axes.plot(lengths, means, linestyle="none", marker="D", markersize=5, color=INK, label="held out, mean of folds")


def _smooth(curve: pd.DataFrame, points: int = 200) -> pd.DataFrame:
    """Moving mean over a twentieth of the recorded points, thinned to about `points`."""
    window = max(1, len(curve) // 20)
    smooth = curve.assign(**{name: curve[name].rolling(window, min_periods=1).mean() for name in ("loss", "accuracy")})
    return smooth.iloc[:: max(1, len(smooth) // points)]
