"""From all images of the source to those analysed, step by step: the flow diagram that STARD asks for."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import Literal

from matplotlib.axes import Axes

from cxrtl.records import FlowStep, exclusions
from cxrtl.report import numbers
from cxrtl.report.load import Loaded
from cxrtl.report.style import INK, QUIET, Drawing, new, save

_WAY, _BESIDE = 2.4, 5.2  # of ten: the middle of the way down, and where what is left out begins


def draw(loaded: Loaded, folder: Path) -> Drawing | None:
    """Boxes from the images listed down to those of each class and fold; beside the way, what each step left out.

    Steps that left nothing out are passed over. None where the run recorded no flow.
    """
    dataset = loaded.resolved["dataset"]
    steps = [FlowStep(**step) for step in dataset.get("flow") or []]
    if not steps:
        return None
    begin, end = steps[0], steps[-1]
    first = f"{begin.step}: {numbers.counted(begin.removed + begin.left, None if begin.removed else begin.patients)}"
    removed = [(step, numbers.counted(images, patients)) for step, images, patients in exclusions(steps)]
    classes = ", ".join(f"{name} {count:,}" for name, count in (dataset.get("counts") or {}).items())
    last = f"prepared: {numbers.counted(end.left, end.patients)}" + (f" ({classes})" if classes else "")
    tested = loaded.predictions.frame["image_id"].nunique()
    boxes = [first, *([""] * len(removed)), last, f"held out and predicted: {tested:,}, in {loaded.k} folds"]
    figure, axes = new(7.2, 0.5 + 0.62 * len(boxes))
    axes.set(xlim=(0, 10), ylim=(0.5 - len(boxes), 0.5))
    axes.axis("off")
    arrow = {"arrowstyle": "->", "color": QUIET}
    axes.plot([_WAY, _WAY], [0, 1.0 - len(boxes)], color=QUIET, linewidth=1, zorder=0)
    for place, text in enumerate(boxes):
        if text:
            _box(axes, _WAY, -place, text, "center")
        if text and place:
            axes.annotate("", (_WAY, 0.22 - place), (_WAY, 0.5 - place), arrowprops=arrow)
        if not text:
            step, out = removed[place - 1]
            axes.annotate("", (_BESIDE - 0.15, -place), (_WAY, -place), arrowprops=arrow)
            _box(axes, _BESIDE, -place, f"−{out}: {step}", "left")
    said = [first, *(f"{step}: {out} left out" for step, out in removed), last, boxes[-1]]
    return save(figure, folder, "flow", f"Flow of images: {'; '.join(said)}.")


def _box(axes: Axes, x: float, y: float, text: str, side: Literal["center", "left"]) -> None:
    look = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": QUIET, "linewidth": 0.8}
    axes.text(x, y, "\n".join(wrap(text, 46)), ha=side, va="center", fontsize=7.5, color=INK, bbox=look)
