"""Simulated truths and predictions of every task, alike within a patient: what the judging side's tests read."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cxrtl.predictions import Predictions
from cxrtl.records import Task

CLASSES: dict[Task, tuple[str, ...]] = {
    "binary": ("normal", "effusion"),
    "multiclass": ("abdomen", "breast", "chest", "hand"),
    "multilabel": ("effusion", "oedema", "nodule"),
    "segmentation": ("lung",),
}
SIDE = 64  # pixels of a made-up image


def truths(task: Task, classes: tuple[str, ...], patient: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """The columns that are true of each image of `patient` `[N]`: label, `label_<finding>` or `truth_<structure>`."""
    images, patients = len(patient), int(patient.max()) + 1
    if task in ("binary", "multiclass"):
        return pd.DataFrame({"label": np.array(classes)[rng.permutation(np.arange(patients) % len(classes))[patient]]})
    frame = pd.DataFrame({"label": [""] * images})
    for place, name in enumerate(classes):
        if task == "multilabel":
            found = (rng.random(patients) < 0.45 - 0.1 * place)[patient].astype(float)
            frame[f"label_{name}"] = np.where(rng.random(images) < 0.1 * place, np.nan, found)
        else:
            area = np.round(SIDE**2 * rng.uniform(0.1, 0.3, size=images))
            frame[f"truth_{name}"] = np.where(rng.random(images) < 0.03, 0, area)
    return frame


def predict(
    task: Task, classes: tuple[str, ...], truth: pd.DataFrame, noise: np.ndarray, reach: float, rng: np.random.Generator
) -> pd.DataFrame:
    """`truth` with the task's own columns; `noise` `[N]` is what images of a patient share, `reach` the skill."""
    frame, images = truth.copy(), len(truth)
    if task in ("binary", "multiclass"):
        own = (truth["label"].to_numpy()[:, None] == np.array(classes)).astype(float)
        logits = 1.5 * reach * own + noise[:, None] * np.linspace(-0.5, 0.5, len(classes))
        logits += rng.normal(size=own.shape)
        scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return frame.assign(**{f"score_{name}": scores[:, k] for k, name in enumerate(classes)})
    for name in classes:
        if task == "multilabel":
            found = truth[f"label_{name}"].fillna(0.5).to_numpy()
            logit = 1.5 * reach * (found - 0.5) + 0.7 * noise + rng.normal(size=images)
            frame[f"score_{name}"] = 1 / (1 + np.exp(-logit))
            continue
        area = truth[f"truth_{name}"].to_numpy()
        share = 1 / (1 + np.exp(-(1.2 * reach + 0.5 * noise + 0.4 * rng.normal(size=images))))
        predicted = np.where(area > 0, np.round(area * rng.uniform(0.85, 1.15, size=images)), 0)
        predicted = np.where((area == 0) & (rng.random(images) < 0.5), 40, predicted)
        shared = np.floor(np.minimum(area, predicted) * share)
        distance = np.where((area > 0) & (predicted > 0), 2 + 30 * (1 - share), np.nan)
        frame = frame.assign(**{f"predicted_{name}": predicted, f"shared_{name}": shared})
        frame[f"hausdorff95_{name}"] = distance
    return frame


def simulate(
    task: Task,
    images: int = 160,
    per_patient: int = 2,
    reach: tuple[float, ...] = (1.2,),
    folds: int = 4,
    repeats: int = 1,
    classes: tuple[str, ...] = (),
    seed: int = 0,
) -> list[Predictions]:
    """One set of predictions for each skill of `reach`, on the same images; several `repeats` have a column."""
    rng, names = np.random.default_rng(seed), classes or CLASSES[task]
    patient = np.arange(images) // per_patient
    truth = truths(task, names, patient, rng)
    noise = rng.normal(size=images)[patient]
    made = []
    for place, skill in enumerate(reach):
        parts = []
        for repeat in range(repeats):
            frame = predict(task, names, truth, noise, skill, rng).assign(
                image_id=[f"i{i:05d}" for i in range(images)],
                patient_id=[f"p{i:05d}" for i in patient],
                fold=(patient * 7 + repeat) % folds + folds * repeat,
                arm=f"arm{place}",
                iterations=10,
            )
            parts.append(frame.assign(repeat=repeat) if repeats > 1 else frame)
        made.append(Predictions(pd.concat(parts, ignore_index=True), names, task))
    return made
