"""The images of a process's folds: on a CPU a copy for each fold, on a GPU one for all; or from disk."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import ray
import torch

from cxrtl.data import feed
from cxrtl.learn import augment, features, loop
from cxrtl.orchestrate.job import Job
from cxrtl.records import Trial

SHARED_ON = ("cuda",)  # kinds of devices on which a process's folds share one copy


def gather(
    job: Job, trials: Sequence[Trial], blocks: feed.Blocks, device: torch.device, first: bool
) -> tuple[list[tuple[feed.Part, feed.Part]], loop.Images | None]:
    """What each trial trains on and what it holds out, nothing unless this worker is the `first`. On a GPU these
    lack pixels and masks, and all images come along, for `images`."""
    once = device.type in SHARED_ON and not job.flat
    if once:
        gc.collect()  # what earlier folds of this process have on the GPU, if still
    masks = [mask for trial in trials for mask in (~job.tested(trial), job.tested(trial) & first)]
    parts = feed.collect(ray.get(blocks), job.prepared, masks, once=once)
    whole = parts.pop() if once else None
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    if whole is None or all(trial.arm in job.bank.uses for trial in trials):
        return pairs, None
    assert whole.pixels is not None and whole.targets is not None
    pixels, targets = (torch.from_numpy(each).to(device) for each in (whole.pixels, whole.targets))
    return pairs, loop.Images(pixels, targets)


def images(
    job: Job,
    trial: Trial,
    setting: loop.Setting,
    part: feed.Part,
    wanted: npt.NDArray[np.bool_],
    whole: loop.Images | None,
) -> loop.Images | loop.Streamed:
    """A part, `[N]` True in `wanted`, as the trial takes it: features where its arm keeps them, else from disk, of
    `whole`, or from the part's own pixels."""
    device, rows = setting.device, np.flatnonzero(wanted)
    count = features.view_count(setting.train, setting.augment) if setting.augment.active else 0
    drawn = augment.draw_views(setting.augment, setting.seed, count, len(wanted)) if count else None
    views = (drawn[0][:, rows], drawn[1][:, rows]) if drawn else None
    found = job.bank.part(trial.arm, rows, device)
    if whole and not found:
        return replace(whole, views=views, rows=torch.from_numpy(rows).to(device))
    targets = None if part.targets is None else torch.from_numpy(part.targets).to(device)
    if job.flat and not found:
        return loop.Streamed(job.flat, rows, targets, device, views)
    assert targets is not None
    pixels = torch.empty(0) if found or part.pixels is None else torch.from_numpy(part.pixels).to(device)
    return loop.Images(pixels, targets, views, found)
