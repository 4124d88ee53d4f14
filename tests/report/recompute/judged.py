"""The measures of every task written anew for `test_recompute`, on plain frames of predictions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from recompute.again import Bootstrap, Called, Weighted, mean

BINARY = ("accuracy", "sensitivity", "specificity", "ppv", "npv", "f1", "auc")
CLASS = ("sensitivity", "specificity", "ppv", "npv", "f1", "auc")
LEADING = {"binary": "auc", "multiclass": "macro_auc", "multilabel": "macro_auc", "segmentation": "dice"}
MACRO = {
    "multiclass": ("macro_sensitivity", "macro_f1", "macro_auc"),
    "multilabel": ("macro_auc", "macro_sensitivity", "macro_specificity", "macro_f1"),
}
MICRO = ("micro_sensitivity", "micro_specificity", "micro_f1")
OVERLAP = ("dice", "iou", "pooled_dice", "pooled_iou", "hausdorff95")


@dataclass(frozen=True)
class Areas:
    """One structure: pixels `[N]` of the true and the predicted area and of both, and the distance where there is
    one."""

    truth: np.ndarray
    predicted: np.ndarray
    shared: np.ndarray
    distance: np.ndarray
    patient: np.ndarray

    @property
    def _sums(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        t, p, s, one = self.truth, self.predicted, self.shared, np.ones(len(self.truth))
        with np.errstate(all="ignore"):
            dice = np.where(t + p > 0, 2 * s / (t + p), 1.0)
            iou = np.where(t + p > 0, s / (t + p - s), 1.0)
        known = np.isfinite(self.distance)
        return {
            "dice": (dice, one),
            "iou": (iou, one),
            "pooled_dice": (2 * s, t + p),
            "pooled_iou": (s, t + p - s),
            "hausdorff95": (np.where(known, self.distance, 0), known.astype(float)),
        }

    def points(self) -> dict[str, float | None]:
        return {key: float(a.sum() / b.sum()) if b.sum() else None for key, (a, b) in self._sums.items()}

    def weighted(self) -> Weighted:
        def under(weights: np.ndarray) -> dict[str, np.ndarray]:
            image = weights[:, self.patient]
            with np.errstate(all="ignore"):
                return {key: (image @ a) / (image @ b) for key, (a, b) in self._sums.items()}

        return under


@dataclass(frozen=True)
class Judge:
    """Predictions of one task: rows of one arm and budget, or of a reader."""

    frame: pd.DataFrame
    task: str
    classes: tuple[str, ...]
    tops: tuple[int, ...] = (2,)

    @cached_property
    def patient(self) -> np.ndarray:
        owner = np.where(self.frame["patient_id"] == "", self.frame["image_id"], self.frame["patient_id"])
        return np.unique(owner, return_inverse=True)[1]

    @property
    def patients(self) -> int:
        return int(self.patient.max()) + 1

    @property
    def several(self) -> bool:
        """Whether a patient (or over repeats an image) has several rows."""
        return self.patients < len(self.frame)

    @property
    def repeats(self) -> list[np.ndarray]:
        given = self.frame["repeat"].to_numpy() if "repeat" in self.frame else np.zeros(len(self.frame))
        return [given == k for k in np.unique(given)]

    @property
    def names(self) -> tuple[str, ...]:
        if self.task == "multiclass":
            return (*(f"top{k}" for k in sorted({1, *self.tops}) if k < len(self.classes)), *MACRO["multiclass"])
        return {"binary": BINARY, "multilabel": (*MACRO["multilabel"], *MICRO), "segmentation": OVERLAP}[self.task]

    def part(self, name: str, rows: np.ndarray | None = None) -> Called | Areas:
        """A class against the rest, a finding where it is stated, or a structure."""
        rows = np.ones(len(self.frame), bool) if rows is None else rows
        frame, patient = self.frame[rows], self.patient[rows]
        if self.task == "segmentation":
            kinds = ("truth", "predicted", "shared", "hausdorff95")
            return Areas(*(frame[f"{kind}_{name}"].to_numpy(float) for kind in kinds), patient)
        score = frame[f"score_{name}"].to_numpy()
        if self.task == "multilabel":
            stated = frame[f"label_{name}"].notna().to_numpy()
            truth, score = (frame[f"label_{name}"] == 1).to_numpy()[stated], score[stated]
            return Called(truth, score >= 0.5, score, patient[stated])
        table = frame[[f"score_{each}" for each in self.classes]].to_numpy()
        called = score >= 0.5 if self.task == "binary" else table.argmax(1) == self.classes.index(name)
        return Called((frame["label"] == name).to_numpy(), called, score, patient)

    def among(self, k: int, rows: np.ndarray) -> Called:
        """Whether the class is among the k largest scores; of equal ones the earlier leads."""
        frame = self.frame[rows]
        order = np.argsort(-frame[[f"score_{each}" for each in self.classes]].to_numpy(), axis=1, kind="stable")
        hit = (np.array(self.classes)[order[:, :k]] == frame["label"].to_numpy()[:, None]).any(1)
        return Called(np.ones(len(frame), bool), hit, None, self.patient[rows])

    def micro(self, rows: np.ndarray) -> Called:
        parts = [part for name in self.classes if isinstance(part := self.part(name, rows), Called)]
        joined = (np.concatenate([getattr(part, key) for part in parts]) for key in ("truth", "called", "patient"))
        truth, called, patient = joined
        return Called(truth, called, None, patient)

    def _own(self) -> tuple[str, ...]:
        return self.classes[1:] if self.task == "binary" else self.classes

    def points(self, rows: np.ndarray | None = None) -> dict[str, float | None]:
        """Means over repeats, where defined."""
        rows = np.ones(len(self.frame), bool) if rows is None else rows
        found = [self._once(repeat & rows) for repeat in self.repeats if (repeat & rows).any()]
        return {name: average([each[name] for each in found]) for name in self.names}

    def _once(self, rows: np.ndarray) -> dict[str, float | None]:
        each = [self.part(name, rows).points() for name in self._own()]
        found = {name: average([part[name] for part in each]) for name in each[0]}
        if self.task in ("binary", "segmentation"):
            return found
        found = {f"macro_{name}": value for name, value in found.items()}
        if self.task == "multilabel":
            return found | {f"micro_{name}": value for name, value in self.micro(rows).points().items()}
        return found | {f"top{k}": self.among(k, rows).points()["accuracy"] for k in range(1, len(self.classes))}

    def weighted(self) -> Weighted:
        return mean([self._weighted_once(rows) for rows in self.repeats], self.patients)

    def _weighted_once(self, rows: np.ndarray) -> Weighted:
        over = mean([self.part(name, rows).weighted() for name in self._own()], self.patients)
        if self.task in ("binary", "segmentation"):
            return over
        more: dict[str, Weighted] = {}
        if self.task == "multilabel":
            more["micro_"] = self.micro(rows).weighted()
        tops = (
            [self.among(k, rows).weighted() for k in range(1, len(self.classes))] if self.task == "multiclass" else []
        )

        def under(weights: np.ndarray) -> dict[str, np.ndarray]:
            found = {f"macro_{name}": value for name, value in over(weights).items()}
            for prefix, other in more.items():
                found |= {f"{prefix}{name}": value for name, value in other(weights).items()}
            return found | {f"top{k}": top(weights)["accuracy"] for k, top in enumerate(tops, start=1)}

        return under

    def part_weighted(self, name: str) -> Weighted:
        return mean([self.part(name, rows).weighted() for rows in self.repeats], self.patients)

    def part_points(self, name: str) -> dict[str, float | None]:
        found = [self.part(name, rows).points() for rows in self.repeats]
        return {key: average([each[key] for each in found]) for key in found[0]}

    def bootstrap(self, under: Weighted) -> Bootstrap:
        return Bootstrap.of(under, self.patients)

    def alone(self, name: str) -> Judge:
        """A finding as two classes on the images where it is stated, or a structure."""
        if self.task == "segmentation":
            return Judge(self.frame, "segmentation", (name,))
        frame = self.frame[self.frame[f"label_{name}"].notna()]
        label = np.where(frame[f"label_{name}"] == 1, name, "")
        return Judge(frame.assign(label=label, score_=1 - frame[f"score_{name}"]), "binary", ("", name))


def average(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
