"""Any task's predictions to its measures, each with an interval: what the report calls.

    binary        every ratio of `metrics`, and the AUC
    multiclass    `top1`, `top2` … : the share of images whose class is among the k largest scores; `macro_…`: the mean
                  over classes of one class against the rest, called where its score is the largest. One class an
                  image makes micro-averaged sensitivity, PPV and F1 all equal `top1`
    multilabel    each finding on the images where it is stated, called at 0.5; `macro_…`: the mean over findings;
                  `micro_…`: all stated pairs of image and finding as one table
    segmentation  see `overlap`; of several structures the mean

A macro mean is over the parts that the data define. Repeated cross-validation, told by a column `repeat`: every value
is computed within a repeat and averaged over repeats, and a resampled patient brings his images in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cxrtl.evaluate import estimates, overlap
from cxrtl.evaluate.estimates import METRICS as BINARY
from cxrtl.evaluate.estimates import Estimate, estimate, patient_codes, resampled
from cxrtl.evaluate.intervals import LEVEL, Interval
from cxrtl.evaluate.metrics import THRESHOLD, BoolArray, IntArray
from cxrtl.evaluate.weighted import Calls, Mean, Named, Statistic, Sums, values
from cxrtl.predictions import FloatArray, Predictions

TOPS = (2,)
MULTICLASS = ("macro_sensitivity", "macro_f1", "macro_auc")
CLASS = ("sensitivity", "specificity", "ppv", "npv", "f1", "auc")
MULTILABEL = (
    "macro_auc",
    "macro_sensitivity",
    "macro_specificity",
    "macro_f1",
    "micro_sensitivity",
    "micro_specificity",
    "micro_f1",
)
FALLBACK = "mean of the parts' bounds"


@dataclass(frozen=True)
class Judged:
    """The task's measures, and those of each class, finding or structure (none in binary) by name."""

    metrics: dict[str, Estimate]
    parts: dict[str, dict[str, Estimate]]


def names(chosen: Predictions, tops: Sequence[int] = TOPS) -> tuple[str, ...]:
    """The task's measures, in the order of the report."""
    if chosen.task == "multiclass":
        return (*(f"top{k}" for k in _tops(chosen, tops)), *MULTICLASS)
    return {"binary": BINARY, "multilabel": MULTILABEL, "segmentation": overlap.METRICS}[chosen.task]


def judge(chosen: Predictions, tops: Sequence[int] = TOPS, level: float = LEVEL) -> Judged:
    """`names` of `chosen`, and each part's own; intervals resample patients.

    Where no patient holds two images, single proportions and AUCs take the intervals of `estimates` instead. Where a
    mean over parts cannot be resampled (a perfect score, a rare class), its bounds are the means of the parts' bounds,
    which is never narrower.
    """
    codes, repeated = patients_of(chosen), repeats_of(chosen) is not None
    parts = {} if chosen.task == "binary" else {name: _part(chosen, name, codes, level) for name in chosen.classes}
    if chosen.task == "binary" and not repeated:
        return Judged(estimate(chosen.truth, chosen.score, codes, level=level), parts)
    found = _drawn(chosen, tops, level)
    metrics = {name: found[name] for name in names(chosen, tops)}
    if chosen.task == "multiclass" and not repeated:
        metrics |= {f"top{k}": proportion(among(chosen, k), codes, level) for k in _tops(chosen, tops)}
    for name, item in metrics.items():
        if item.value is not None and item.interval is None:
            metrics[name] = replace(item, interval=_mean_bounds(name, parts, level))
    return Judged(metrics, parts)


def point(chosen: Predictions, tops: Sequence[int] = TOPS) -> dict[str, float | None]:
    """`names` without intervals; None where undefined."""
    codes, patients = dense(chosen)
    found = values(statistic(chosen, codes, patients, tops), patients)
    return {name: found[name] for name in names(chosen, tops)}


def proportion(right: BoolArray, patients: IntArray | None, level: float = LEVEL) -> Estimate:
    """The share that is `right` `[N]`: Wilson, or patients resampled."""
    return estimate(np.ones(len(right), bool), right.astype(np.float64), patients, level=level, ranks=False)["accuracy"]


def statistic(chosen: Predictions, codes: IntArray, patients: int, tops: Sequence[int] = TOPS) -> Statistic:
    """The task's measures, and some more, under patient weights; `codes` `[N]` are places 0 … `patients` − 1."""
    repeats = repeats_of(chosen)
    if repeats is None:
        return _once(chosen, codes, patients, tops)
    split = [repeats == k for k in np.unique(repeats)]
    return Mean.of([_once(rows(chosen, mask), codes[mask], patients, tops) for mask in split], patients)


def _once(chosen: Predictions, codes: IntArray, patients: int, tops: Sequence[int]) -> Statistic:
    if chosen.task == "segmentation":
        return Mean.of([overlap.sums(chosen, name, codes, patients) for name in chosen.classes], patients)
    if chosen.task == "binary":
        return _calls(chosen, chosen.classes[1], codes, patients)
    calls = [_calls(chosen, name, codes, patients) for name in chosen.classes]
    if chosen.task == "multilabel":
        together = Calls(np.sum([part.table for part in calls], axis=0))
        return Named({"macro_": Mean.of(calls, patients), "micro_": together})
    one = np.ones(len(codes))
    top = Sums.of({f"top{k}": (among(chosen, k) * one, one) for k in _tops(chosen, tops)}, codes, patients)
    return Named({"": top, "macro_": Mean.of(calls, patients)})


def _calls(chosen: Predictions, name: str, codes: IntArray, patients: int) -> Calls:
    truth, called, score, stated = against_rest(chosen, name)
    return Calls.of(truth, called, codes[stated], patients, score)


def against_rest(chosen: Predictions, name: str) -> tuple[BoolArray, BoolArray, FloatArray, BoolArray]:
    """One class or finding: `truth`, `called` and `score` `[n]` of the images where it is `stated` `[N]`."""
    place = chosen.classes.index(name)
    score = chosen.scores[:, place]
    if chosen.task == "multilabel":
        labels = chosen.labels[:, place]
        stated = ~np.isnan(labels)
        return labels[stated] == 1, score[stated] >= THRESHOLD, score[stated], stated
    called = score >= THRESHOLD if chosen.task == "binary" else chosen.scores.argmax(axis=1) == place
    return chosen.targets == place, called, score, np.ones(len(score), bool)


def among(chosen: Predictions, k: int) -> BoolArray:
    """Whether each image's class is among its `k` largest scores, `[N]`; of equal scores the earlier class leads."""
    scores, target = chosen.scores, chosen.targets[:, None]
    own = np.take_along_axis(scores, target, axis=1)
    ahead = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < target))
    return np.asarray(ahead.sum(axis=1) < k)


def confusion_table(chosen: Predictions) -> IntArray:
    """Images by class and call, `[K, K]`, rows the truth; a tie is called for the earliest class."""
    k = len(chosen.classes)
    return np.bincount(chosen.targets * k + chosen.scores.argmax(axis=1), minlength=k * k).reshape(k, k)


def rows(chosen: Predictions, mask: BoolArray) -> Predictions:
    """The rows of `mask` `[N]`."""
    return Predictions(chosen.frame[mask], chosen.classes, chosen.task)


def part_of(chosen: Predictions, name: str) -> Predictions:
    """One finding as binary predictions on the images where it is stated, or one structure on its own.

    Raises:
        KeyError: `chosen` is of another task.
    """
    if chosen.task == "segmentation":
        return Predictions(chosen.frame, (name,), "segmentation")
    frame = chosen.frame[chosen.frame[f"label_{name}"].notna()]
    score, without = frame[f"score_{name}"], f"no {name}"
    label = np.where(frame[f"label_{name}"] == 1, name, without)
    return Predictions(frame.assign(label=label, **{f"score_{without}": 1 - score}), (without, name))


def repeats_of(chosen: Predictions) -> IntArray | None:
    """The repeat of each row, `[N]`; None unless cross-validation was repeated."""
    if "repeat" not in chosen.frame or chosen.frame["repeat"].nunique() < 2:
        return None
    return chosen.frame["repeat"].to_numpy(np.int64)


def first_repeat(chosen: Predictions) -> Predictions:
    """The rows of the first repeat, one an image; all of them where nothing was repeated."""
    repeats = repeats_of(chosen)
    return chosen if repeats is None else rows(chosen, repeats == repeats.min())


def patients_of(chosen: Predictions) -> IntArray | None:
    """As `patient_codes`, `[N]`; the rows of one image belong together where its patient is unknown."""
    return patient_codes(chosen.owners)


def dense(chosen: Predictions) -> tuple[IntArray, int]:
    """Each row's patient as a place 0 … P − 1, `[N]`, and P; every image its own where no patient holds two."""
    return estimates.dense(patients_of(chosen), len(chosen.frame))


def _tops(chosen: Predictions, tops: Sequence[int]) -> list[int]:
    """1 and those of `tops` that leave something to be wrong about."""
    return [k for k in sorted({1, *tops}) if k < len(chosen.classes)]


def _drawn(chosen: Predictions, tops: Sequence[int], level: float) -> dict[str, Estimate]:
    codes, patients = dense(chosen)
    return resampled(statistic(chosen, codes, patients, tops), patients, len(codes), level)


def _part(chosen: Predictions, name: str, codes: IntArray | None, level: float) -> dict[str, Estimate]:
    """The measures of one class, finding or structure."""
    if chosen.task == "segmentation":
        return _drawn(part_of(chosen, name), (), level)
    if chosen.task == "multilabel":
        part = part_of(chosen, name)
        return judge(part, level=level).metrics if len(part.frame) else dict.fromkeys(BINARY, Estimate(None, None))
    repeats = repeats_of(chosen)
    if repeats is not None:
        places, patients = dense(chosen)
        split = [repeats == k for k in np.unique(repeats)]
        calls = [_calls(rows(chosen, mask), name, places[mask], patients) for mask in split]
        found = resampled(Mean.of(calls, patients), patients, len(places), level)
        return {metric: found[metric] for metric in CLASS}
    truth, called, score, _ = against_rest(chosen, name)
    ratios = estimate(truth, called.astype(np.float64), codes, level=level, ranks=False)
    ranked = estimate(truth, score, codes, level=level)["auc"]
    return {metric: ratios[metric] for metric in CLASS[:-1]} | {"auc": ranked}


def _mean_bounds(name: str, parts: dict[str, dict[str, Estimate]], level: float) -> Interval | None:
    own = name.removeprefix("macro_")
    found = [part[own].interval for part in parts.values() if own in part and part[own].value is not None]
    known = [item for item in found if item is not None]
    if own == name or not known or len(known) < len(found):
        return None
    low, high = (float(np.mean([getattr(item, end) for item in known])) for end in ("low", "high"))
    return Interval(low, high, FALLBACK, level)
