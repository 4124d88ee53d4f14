"""Out-of-fold scores: the hinge. Everything to its right runs and is tested without Ray, torch or a GPU.

Every task has `PREDICTION_COLUMNS`, one row for each (arm, iterations, image) and, where the division was repeated, for
each `repeat`; and columns of its own:

    binary        label a class, `score_<class>` summing to 1; `classes` is `(negative, positive)`
    multiclass    the same with three classes or more
    multilabel    label "", for each finding `label_<finding>` (1, 0, or NaN where it is not stated) and
                  `score_<finding>`, each a probability of its own
    segmentation  label the image's class where it is known, else ""; for each structure `truth_`, `predicted_` and
                  `shared_<structure>`, counts of pixels, and `hausdorff95_<structure>`, in pixels of the prepared
                  image, NaN where either area is empty
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrtl.errors import PredictionsError
from cxrtl.records import Task

FloatArray = npt.NDArray[np.float64]
PREDICTION_COLUMNS = ("image_id", "patient_id", "fold", "arm", "iterations", "label")
_OWN_COLUMNS: dict[Task, tuple[str, ...]] = {
    "binary": ("score",),
    "multiclass": ("score",),
    "multilabel": ("label", "score"),
    "segmentation": ("truth", "predicted", "shared", "hausdorff95"),
}


@dataclass(frozen=True)
class Predictions:
    """`frame` as described above; `classes` are the classes, findings or structures, in their own order.

    Raises:
        PredictionsError: a column is missing, or holds what it cannot.
    """

    frame: pd.DataFrame
    classes: tuple[str, ...]
    task: Task = "binary"

    def __post_init__(self) -> None:
        wanted = [*PREDICTION_COLUMNS, *(f"{kind}_{name}" for kind in _OWN_COLUMNS[self.task] for name in self.classes)]
        missing = [name for name in wanted if name not in self.frame]
        if missing:
            raise PredictionsError(f"predictions lack the columns {missing}")
        if self.task == "binary" and len(self.classes) != 2:
            raise PredictionsError(f"two classes are binary; these predictions have {len(self.classes)}")
        if self.task == "segmentation":
            self._check_areas()
        else:
            self._check_scores()

    def _check_scores(self) -> None:
        scores = self.scores
        bad = not np.isfinite(scores).all() or (scores < 0).any() or (scores > 1 + 1e-4).any()
        if self.task == "multilabel":
            stated = self.labels[~np.isnan(self.labels)]
            if not np.isin(stated, (0, 1)).all():
                raise PredictionsError("predictions hold labels that are none of 1, 0 and not stated")
        else:
            bad = bad or (np.abs(scores.sum(axis=1) - 1) > 1e-4).any()
            unknown = sorted(set(self.frame["label"]) - set(self.classes))
            if unknown:
                raise PredictionsError(f"predictions hold labels {unknown[:5]} that are not among {list(self.classes)}")
        if bad:
            raise PredictionsError("predictions hold scores that are no probabilities: did training diverge?")

    def _check_areas(self) -> None:
        truth, predicted, shared = (self._values(kind) for kind in ("truth", "predicted", "shared"))
        if not np.isfinite(truth + predicted + shared).all() or (shared < 0).any():
            raise PredictionsError("predictions hold areas that are no counts of pixels")
        if (shared > np.minimum(truth, predicted)).any():
            raise PredictionsError("predictions hold areas that share more pixels than they have")

    @classmethod
    def concat(cls, parts: Iterable[Predictions]) -> Predictions:
        """Pool the predictions of many trials; all must have the same task and classes."""
        parts = list(parts)
        if not parts:
            raise PredictionsError("there are no predictions to pool: no fold is done yet")
        if len({(part.task, part.classes) for part in parts}) > 1:
            found = sorted({(part.task, *part.classes) for part in parts})
            raise PredictionsError(f"predictions of different classes cannot be pooled: {found}")
        return cls(pd.concat([part.frame for part in parts], ignore_index=True), parts[0].classes, parts[0].task)

    def select(self, arm: str, iterations: int) -> Predictions:
        """The rows of one arm at one budget."""
        frame = self.frame
        chosen = frame[(frame["arm"] == arm) & (frame["iterations"] == iterations)]
        return Predictions(chosen, self.classes, self.task)

    @property
    def owners(self) -> list[str]:
        """Whose each row is: the patient, or the image where patients are unknown; `[N]`."""
        return [
            patient or image for patient, image in zip(self.frame["patient_id"], self.frame["image_id"], strict=True)
        ]

    def _values(self, kind: str) -> FloatArray:
        return self.frame[[f"{kind}_{name}" for name in self.classes]].to_numpy(dtype=np.float64)

    @property
    def scores(self) -> FloatArray:
        """`[N, classes]`; not for segmentation."""
        return self._values("score")

    @property
    def labels(self) -> FloatArray:
        """`[N, findings]`, 1, 0 or NaN; multilabel only."""
        return self._values("label")

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """`[N]`, the label's place among the classes; binary and multiclass."""
        return np.asarray(pd.Categorical(self.frame["label"], list(self.classes)).codes, dtype=np.int64)

    @property
    def truth(self) -> npt.NDArray[np.bool_]:
        """`[N]`, True where the label is the positive class; binary only."""
        return (self.frame["label"] == self.classes[1]).to_numpy()

    @property
    def score(self) -> FloatArray:
        """`[N]`, the positive class's score; binary only."""
        return self.frame[f"score_{self.classes[1]}"].to_numpy(dtype=np.float64)
