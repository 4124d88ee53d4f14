"""The fold models together on a set that they never saw: prepared as in training, overlap with it found first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from cxrtl.config import Data
from cxrtl.data.prepared import read_index, shard_paths
from cxrtl.errors import LeakageError, PredictionsError
from cxrtl.learn import objective
from cxrtl.predictions import Predictions
from cxrtl.records import Prepared
from cxrtl.report.external import External, Overlap, external
from cxrtl.use.model import Trained, best_device
from cxrtl.use.predict import BATCH

Seen = Literal["refuse", "drop", "other-patients"]
Progress = Callable[[int, int], None]


def as_in_training(trained: Trained, data: Data) -> Data:
    """`data` with the run's image size, decoding, and positive class or structures."""
    mine = trained.loaded.experiment.data
    same: dict[str, object] = {"image_size": mine.image_size, "decode": mine.decode}
    if trained.task == "segmentation":
        same |= {"task": mine.task, "structures": mine.structures}
    if trained.task == "binary":
        same["positive"] = trained.classes[1]
    return data.model_copy(update=same)


def evaluate(
    trained: Trained, prepared: Prepared, name: str, seen: Seen = "refuse", on_progress: Progress | None = None
) -> tuple[External, Predictions, Predictions]:
    """Score and judge `prepared`; returns the findings, the scores, and the same arm's out-of-fold scores.

    `seen` says what to do with images that are identical to one of training, or of a patient in it: `refuse`; `drop`
    them; `other-patients`: drop identical images only, because equal patient numbers are other people here.

    Raises:
        PredictionsError: other classes than the run's, or no image is left.
        LeakageError: the sets overlap and `seen` is `refuse`.
    """
    if (tuple(prepared.classes), prepared.task) != (trained.classes, trained.task):
        raise PredictionsError(
            f"the set holds the classes {list(prepared.classes)} ({prepared.task}), the run tells "
            f"{list(trained.classes)} apart ({trained.task}): name its classes alike, or set data.label_column to the "
            "right column"
        )
    index = read_index(prepared)
    keep, overlap = _overlap(trained, index, seen)
    stated = [f"label_{name}" for name in trained.classes] if trained.task == "multilabel" else []
    frame = index.loc[keep, ["image_id", "patient_id", "label", *stated]].assign(
        fold=0, arm=trained.recipe.name, iterations=trained.iterations
    )
    frame = frame.merge(_predicted(trained, prepared, on_progress), on="image_id", validate="1:1")
    found = Predictions(frame, trained.classes, trained.task)
    chosen = trained.loaded.predictions.select(trained.recipe.name, trained.iterations)
    return external(trained.loaded, chosen, found, name, prepared, overlap), found, chosen


def _overlap(trained: Trained, index: pd.DataFrame, seen: Seen) -> tuple[pd.Series[bool], Overlap]:
    """Which rows of `index` to keep, and what was known."""
    folds = trained.loaded.folds
    images = index["content_hash"].isin(set(folds["content_hash"]) - {""})
    patients = index["patient_id"].isin(set(folds["patient_id"]) - {""})
    known = int(images.sum()), int(index["patient_id"][patients].nunique())
    drop = images if seen == "other-patients" else images | patients
    if drop.any() and seen == "refuse":
        raise LeakageError(
            f"{known[0]} image(s) and {known[1]} patient(s) of this set were in training, such as those of "
            f"{index['image_id'][drop].head(5).tolist()}: performance on them says nothing. Take them out with --seen "
            "drop; where equal patient numbers mean other people, use --seen other-patients, or give the set a "
            "data.id_namespace of its own"
        )
    note = (
        f"{int(drop.sum())} image(s) that training knew, or whose patient it knew, were taken out."
        if drop.any()
        else ""
    )
    if seen == "other-patients" and patients.any():
        note = f"{note} {known[1]} patient number(s) also occur in training; they were said to be other people.".strip()
    return ~drop, Overlap(images=known[0], patients=known[1], removed=int(drop.sum()), note=note)


def _predicted(trained: Trained, prepared: Prepared, on_progress: Progress | None) -> pd.DataFrame:
    """`image_id` and the task's own columns of what the folds say together, shard after shard."""
    ensemble, parts, done = trained.ensemble(best_device()), [], 0
    for ids, pixels, masks in batches(prepared):
        if masks is None:
            means = ensemble(pixels).mean(axis=0)
            own = {f"score_{name}": means[:, place] for place, name in enumerate(trained.classes)}
        else:
            together, truth = (torch.from_numpy(each) for each in (ensemble.masks(pixels)[0], masks))
            own = objective.columns(trained.task, trained.classes, together, truth)
        parts.append(pd.DataFrame({"image_id": ids, **own}))
        done += len(ids)
        if on_progress:
            on_progress(done, prepared.images)
    return pd.concat(parts, ignore_index=True)


def batches(prepared: Prepared) -> Iterator[tuple[list[str], np.ndarray, np.ndarray | None]]:
    """Image ids, uint8 pixels `[N, size, size]` and, of a segmentation, masks alike, in the order of the set."""
    size, pictures = prepared.image_size, ["pixels", *(["mask"] if prepared.task == "segmentation" else [])]
    for path in shard_paths(prepared):
        for batch in pq.ParquetFile(path).iter_batches(BATCH, columns=["image_id", *pictures]):
            pixels, *masks = (
                np.frombuffer(b"".join(batch[name].to_pylist()), np.uint8).reshape(-1, size, size).copy()
                for name in pictures
            )
            yield batch["image_id"].to_pylist(), pixels, masks[0] if masks else None
