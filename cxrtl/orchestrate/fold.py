"""One trial: an arm on a fold, run by Ray Train inside a Tune trial's own, warm process."""

from __future__ import annotations

import copy
import json
import math
import os
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import ray.data
import ray.train
import ray.train.torch
import torch
from ray import tune
from ray.exceptions import RayError, RayTaskError
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from cxrtl import rundir
from cxrtl.config import Recipe
from cxrtl.data import feed
from cxrtl.data.flat import Flat
from cxrtl.errors import CxrtlError, SupersededError, of_system
from cxrtl.learn import augment, devices, features, loop, memory, objective, state, transfer
from cxrtl.learn.precision import Precision
from cxrtl.learn.weights import Weights
from cxrtl.orchestrate import frozen
from cxrtl.orchestrate.board import Board
from cxrtl.orchestrate.claim import Claim
from cxrtl.orchestrate.probe import Share
from cxrtl.orchestrate.signals import Signals, failed
from cxrtl.orchestrate.writer import Writer
from cxrtl.predictions import Predictions
from cxrtl.records import FoldResult, IntArray, Milestone, Prepared, Progress, Trial

HEARTBEAT = 1.0  # seconds between progress files


@dataclass(frozen=True)
class Job:
    """All that trials need besides images; travels once through the object store."""

    run: rundir.RunDir
    hashes: dict[str, str]  # by arm, see `ledger`
    recipes: dict[str, Recipe]
    trials: dict[str, Trial]
    weights: dict[str, Weights | None]  # by arm
    precision: dict[str, Precision]  # by arm
    seed: int
    division: IntArray  # `[repeats, N]`, each image's fold
    prepared: Prepared
    share: Share
    bank: frozen.Bank
    flat: Flat | None = None  # where pixels stream
    metered: bool = False  # where a cluster gathers metrics

    def tested(self, trial: Trial) -> npt.NDArray[np.bool_]:
        """`[N]`, the images that the trial's fold holds out."""
        return (self.division == trial.fold).any(axis=0)  # type: ignore[no-any-return]


def fold_trial(config: dict[str, Any], images: ray.data.Dataset, job: Job) -> None:
    """The Tune trainable. A fault that another try cannot mend is reported, not raised: Tune would try it again.

    What an earlier try finished, whose process was lost before Tune heard of it, is not done again.
    """
    named = [job.trials[name] for name in config["trials"]]
    trials = [trial for trial in named if job.run.result(trial, job.hashes[trial.arm]) is None]
    try:
        if trials:
            TorchTrainer(
                fold_loop,
                train_loop_config={"job": job, "trials": trials},
                scaling_config=ScalingConfig(num_workers=0, use_gpu=job.share.gpus > 0),
                datasets={"images": images},  # blocks are shared, not copied
            ).fit()
    except Exception as error:
        lost = isinstance(error, (SupersededError, RayError)) and not isinstance(error, RayTaskError)
        if lost:  # the folder to a later try, or images with their node: no fault of the trial's own
            raise
        failed(job.run.trial(trials[0]), error)
        tune.report({"broken": describe(error, job.run.trial(trials[0]) / "error.txt")})
    else:
        tune.report({"broken": ""})


def describe(error: Exception, path: Path) -> str:
    """One line for the console; the traceback goes to `path`, whose folder is made where it is missing."""
    line = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, OSError) and error.errno:
        line = of_system(error)
    elif not isinstance(error, CxrtlError):
        line = f"{type(error).__name__}: {line}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as failed:  # a full disk, most likely the fault itself
        return f"{line} The traceback could not be written to {path}: {failed.strerror}"
    return f"{line} (traceback: {path})"


def fold_loop(config: dict[str, Any]) -> None:
    """What Ray Train runs, in this process or in a worker."""
    started = time.monotonic()
    job: Job = config["job"]
    trials: list[Trial] = config["trials"]
    devices.settle(job.share.cpus)
    memory.keep_freed_memory()
    masks = [mask for trial in trials for mask in (~job.tested(trial), job.tested(trial))]
    parts = feed.collect(ray.train.get_dataset_shard("images"), job.prepared, masks)
    here = ray.train.torch.get_device()
    pairs = zip(trials, parts[::2], parts[1::2], strict=True)
    runs = [FoldRun(job, trial, train, test, here, started) for trial, train, test in pairs]
    with ThreadPoolExecutor(len(runs)) as threads:  # one fold, or on a GPU several side by side
        for done in [threads.submit(run.run) for run in runs]:
            done.result()


class FoldRun:
    """A trial in progress: the loop's hooks, and what they write to the trial's folder."""

    def __init__(
        self, job: Job, trial: Trial, train: feed.Part, test: feed.Part, device: torch.device, started: float
    ) -> None:
        self.job, self.trial, self.test, self.device, self.started = job, trial, test, device, started
        recipe = job.recipes[trial.arm]
        budgets = recipe.train.model_copy(update={"budgets": trial.budgets})
        precision, classes, task = job.precision[trial.arm], len(job.prepared.classes), job.prepared.task
        self.setting = loop.Setting(budgets, recipe.augment, job.seed, trial.fold, classes, precision, device, task)
        self.folder = job.run.trial(trial)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.claim = Claim.take(self.folder)
        rundir.drop_parts(self.folder)
        for stale in ("result.json", "error.txt"):  # of a trial that is made again: it is neither done nor failed
            (self.folder / stale).unlink(missing_ok=True)
        start, channels = job.weights[trial.arm], job.prepared.channels
        self.model = transfer.make_model(recipe.train, start, classes, job.seed, trial.fold, device, task, channels)
        tested = job.tested(trial)
        self.train_images, self.test_images = self._images(train, ~tested), self._images(test, tested)
        kept = isinstance(self.train_images, loop.Images) and self.train_images.features is not None
        self.net = features.net(recipe.train, self.model, classes, task, kept)
        self.optimizer = transfer.make_optimizer(recipe.train, self.model, classes)
        self.run_hash = job.hashes[trial.arm]
        self.state = state.load(self.folder, self.run_hash, self.model, self.optimizer)
        self.state.tries += 1
        self.wall_before, self.beat = self.state.wall_seconds, -math.inf
        self.writer = Writer()
        self.board = Board(job.run, trial, recipe, resume_at=self.state.iteration)
        self.signals = Signals(self.folder, job.run.name, trial, self.state, job.metered)

    def _images(self, part: feed.Part, wanted: npt.NDArray[np.bool_]) -> loop.Images | loop.Streamed:
        setting, rows = self.setting, np.flatnonzero(wanted)
        count = features.view_count(setting.train, setting.augment) if setting.augment.active else 0
        drawn = augment.draw_views(setting.augment, setting.seed, count, len(wanted)) if count else None
        views = (drawn[0][:, rows], drawn[1][:, rows]) if drawn else None
        found = self.job.bank.part(self.trial.arm, rows, self.device)
        targets = None if part.targets is None else torch.from_numpy(part.targets).to(self.device)
        if self.job.flat and not found:
            return loop.Streamed(self.job.flat, rows, targets, self.device, views)
        assert targets is not None
        pixels = torch.empty(0) if part.pixels is None else torch.from_numpy(part.pixels)
        return loop.Images(pixels if found else pixels.to(self.device), targets, views, found)

    def run(self) -> None:
        self.state.setup_seconds += time.monotonic() - self.started
        hooks = loop.Hooks(self.milestone, self.save, self.progress)
        with self.writer, devices.own_stream(self.device):
            loop.fit(self.setting, self.train_images, self.net, self.optimizer, self.state, hooks)
        self.finish()
        self.board.close()

    def milestone(self, at: state.State) -> None:
        """Score the held-out fold, keep weights and predictions, save the state that vouches for them."""
        started = time.monotonic()
        scores = loop.predict(self.setting, self.test_images, self.net)
        truth = torch.cat(tuple(self.test_images.truth())).cpu()
        loss, accuracy = objective.judge(self.setting.task, self.setting.classes, scores, truth)
        seconds = time.monotonic() - started
        reached = Milestone(at.iteration, at.train_seconds, seconds, loss, accuracy)
        at.milestones.append(reached)
        more = at.iteration < self.trial.budgets[-1]  # after the last, the result follows at once
        taken = state.Snapshot(self.model, self.optimizer if more else None)
        self.writer.wait()  # the state vouches for the files of the one before
        masks = scores if self.setting.task == "segmentation" else None
        self.writer(
            partial(self._keep, self._as_now(at), self._predictions(at.iteration, scores, truth), masks, taken, more)
        )
        self.board.milestone(reached)
        self._tell(at)

    def _keep(
        self,
        at: state.State,
        predictions: Predictions,
        masks: torch.Tensor | None,
        taken: state.Snapshot,
        more: bool,
    ) -> None:
        """In the writer's thread: `at` is a copy, what the files hash to goes to the trial's own state."""
        names = (f"predictions-{at.iteration}.parquet", f"weights-{at.iteration}.safetensors")
        rundir.write_predictions(self.folder / names[0], predictions)
        at.files[names[0]] = rundir.sha256_file(self.folder / names[0])
        if masks is not None:
            name = f"masks-{at.iteration}.parquet"
            rows = {"image_id": self.test.index["image_id"], "mask": [mask.tobytes() for mask in masks.numpy()]}
            rundir.write_frame(self.folder / name, pd.DataFrame(rows))
            at.files[name] = rundir.sha256_file(self.folder / name)
        at.files[names[1]] = rundir.write_bytes(self.folder / names[1], taken.weights())
        self.state.files |= at.files
        self.signals.milestone(at.milestones[-1])
        if more:
            state.save(self.folder, at, taken, self.run_hash)

    def _as_now(self, at: state.State) -> state.State:
        at.wall_seconds = self.wall_before + time.monotonic() - self.started
        return copy.deepcopy(at)

    def _predictions(self, iterations: int, scores: torch.Tensor, truth: torch.Tensor) -> Predictions:
        frame = self.test.index[["image_id", "patient_id", "label"]].copy()
        frame.insert(2, "fold", self.trial.fold)
        frame.insert(3, "arm", self.trial.arm)
        frame.insert(4, "iterations", iterations)
        if len(self.job.division) > 1:
            frame.insert(5, "repeat", int((self.job.division == self.trial.fold).any(axis=1).argmax()))
        prepared = self.job.prepared
        columns = objective.columns(prepared.task, prepared.classes, scores, truth)
        return Predictions(frame.assign(**columns), prepared.classes, prepared.task)

    def save(self, at: state.State) -> None:
        taken = state.Snapshot(self.model, self.optimizer)
        self.writer.wait()
        self.writer(partial(state.save, self.folder, self._as_now(at), taken, self.run_hash))

    def progress(self, at: state.State) -> None:
        """A new line of the curve: shown at once on TensorBoard, and once a second to whoever watches the folder."""
        self.board.curve(at.curve[-1:])
        if time.monotonic() - self.beat >= HEARTBEAT:
            self._tell(at)

    def _tell(self, at: state.State) -> None:
        self.beat = time.monotonic()  # the clock on the wall may be set back
        self.signals.tell(at, self.setting.train.batch_size)
        self._write_curve(at)
        beat = Progress(
            iteration=at.iteration,
            images=at.iteration * self.setting.train.batch_size,
            train_seconds=round(at.train_seconds, 3),
            milestones=tuple(done.iterations for done in at.milestones),
            updated=time.time(),
            process=f"{os.getpid()} on {os.uname().nodename}",
        )
        rundir.write_json(self.folder / "progress.json", asdict(beat))

    def _write_curve(self, at: state.State) -> None:
        lines = "".join(json.dumps(line) + "\n" for line in at.curve)
        rundir.write_bytes(self.folder / "curve.jsonl", lines.encode())

    def finish(self) -> None:
        """Write the result last: from then on the trial is done."""
        at, last = self.state, self.trial.budgets[-1]
        self._write_curve(at)
        at.files["curve.jsonl"] = rundir.sha256_file(self.folder / "curve.jsonl")
        result = FoldResult(
            arm=self.trial.arm,
            fold=self.trial.fold,
            budgets=self.trial.budgets,
            run_hash=self.run_hash,
            train_images=len(self.train_images),
            test_images=len(self.test_images),
            milestones=tuple(at.milestones),
            setup_seconds=at.setup_seconds,
            wall_seconds=self.wall_before + time.monotonic() - self.started,
            images_per_second=last * self.setting.train.batch_size / at.train_seconds,
            device=devices.name(self.device),
            precision=self.setting.precision,
            threads=self.job.share.cpus,
            tries=at.tries,
            files=at.files,
            data_wait_seconds=at.data_wait_seconds,
        )
        self.signals.finished(result)
        rundir.write_json(self.folder / "result.json", result.to_json())
        state.clear(self.folder)
        self.claim.release()
