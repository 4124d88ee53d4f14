"""Which measures a task is told by, and what they are called. The numbers are `evaluate.judge`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cxrtl.evaluate.paired import LEADING as LEADING
from cxrtl.records import Task

NAMES = {
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "auc": "AUC",
    "dice": "Dice",
    "iou": "IoU",
    "hausdorff95": "Hausdorff 95",
}
UNITS = {"auc": "pooled", "dice": "mean", "iou": "mean"}
COST = {
    "binary": "accuracy",
    "multiclass": "top1",
    "multilabel": "macro_auc",
    "segmentation": "dice",
}  # set beside time
MULTILABEL = ("macro_auc", "macro_sensitivity", "macro_specificity", "macro_f1", "micro_f1")
GOOD = {
    "binary": ("auc", "accuracy", "sensitivity", "specificity"),
    "multiclass": ("macro_auc", "top1", "top2", "macro_f1"),
    "multilabel": ("macro_auc", "macro_sensitivity", "macro_specificity"),
    "segmentation": ("dice", "iou", "hausdorff95"),
}
SURE = {
    "binary": ("auc", "accuracy"),
    "multiclass": ("macro_auc", "top1"),
    "multilabel": ("macro_auc", "macro_sensitivity"),
    "segmentation": ("dice", "iou"),
}
PUBLISHED = ("accuracy", "sensitivity", "specificity", "auc", "top1", "top2", "dice")
PARTS = {
    "multiclass": ("class", "classes"),
    "multilabel": ("finding", "findings"),
    "segmentation": ("structure", "structures"),
}
TESTED: dict[str, dict[str, tuple[str, str]]] = {
    "binary": {
        "auc": ("AUC, pooled", "difference"),
        "fold_auc": ("AUC, mean of folds", "difference"),
        "accuracy": ("Accuracy", "difference, points"),
    },
    "multiclass": {
        "macro_auc": ("Macro AUC, pooled", "difference"),
        "fold_macro_auc": ("Macro AUC, mean of folds", "difference"),
        "top1": ("Top-1", "difference, points"),
    },
    "multilabel": {
        "macro_auc": ("Macro AUC, pooled", "difference"),
        "fold_macro_auc": ("Macro AUC, mean of folds", "difference"),
    },
    "segmentation": {
        "dice": ("Dice, mean of images", "difference"),
        "wilcoxon": ("Dice, median of patients", "difference"),
        "fold_dice": ("Dice, mean of folds", "difference"),
    },
}


def columns(task: Task, metrics: Sequence[str]) -> list[str]:
    """The measures of the first table, of those that a row has."""
    shown = {"binary": ("accuracy", "sensitivity", "specificity", "auc"), "multilabel": MULTILABEL}
    return list(shown.get(task, metrics))


def tested(found: Any) -> dict[str, tuple[str, str]]:
    """The tests of a summary's or a comparison's task: name → what it is of, and its unit."""
    return TESTED[found["task"]]


def tested_part(found: Any) -> dict[str, tuple[str, str]]:
    """The tests of one of its findings, which is binary, or structures."""
    return TESTED["segmentation" if found["task"] == "segmentation" else "binary"]


def goal(task: Task, classes: Sequence[str]) -> str:
    """What a model of this task does: `tells effusion from normal`, `outlines lung`."""
    if task == "binary":
        return f"tells {classes[1]} from {classes[0]}"
    does = {"multiclass": "tells apart", "multilabel": "finds", "segmentation": "outlines"}[task]
    return f"{does} {', '.join(classes)}"


def name(metric: str) -> str:
    """`macro_auc` → `Macro AUC`, `top2` → `Top-2`."""
    if metric in NAMES:
        return NAMES[metric]
    if metric.startswith("top"):
        return f"Top-{metric[3:]}"
    kind, _, rest = metric.partition("_")
    return f"{kind.capitalize()} {NAMES[rest] if rest in ('auc', 'f1', 'dice', 'iou') else NAMES[rest].lower()}"


def of(metric: str) -> str:
    """The name amid a sentence: `accuracy`, but `AUC` and `Macro AUC` → `macro AUC`."""
    said = name(metric)
    return said if said[:2].isupper() or metric in ("f1", "dice", "iou", "hausdorff95") else said[0].lower() + said[1:]


def unit(metric: str) -> str:
    """What stands beneath a column's name: `%`, or over what it was computed."""
    if is_share(metric):
        return "%"
    if metric == "hausdorff95":
        return "pixels, mean"
    return UNITS.get(metric.removeprefix("macro_"), "")


def is_share(metric: str) -> bool:
    """Whether the measure is written as a percentage."""
    own = metric.removeprefix("macro_").removeprefix("micro_")
    return own.startswith("top") or own in ("accuracy", "sensitivity", "specificity", "ppv", "npv", "ppv_at", "npv_at")
