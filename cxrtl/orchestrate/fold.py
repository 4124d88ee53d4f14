"""One trial: an arm on a fold, run by Ray Train inside a Tune trial's own, warm process, or in a group of workers."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pandas as pd
import ray
import ray.train
import ray.train.torch
import torch
from ray import tune
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.train import TrainingFailedError

from cxrtl import rundir, storage
from cxrtl.data import feed, flat
from cxrtl.errors import SupersededError
from cxrtl.learn import devices, features, loop, memory, objective, state, transfer
from cxrtl.learn.parallel import ALONE, Workers
from cxrtl.orchestrate import group, supply
from cxrtl.orchestrate.board import Board
from cxrtl.orchestrate.claim import Claim
from cxrtl.orchestrate.job import Job as Job
from cxrtl.orchestrate.notice import Notice
from cxrtl.orchestrate.signals import Signals, failed
from cxrtl.orchestrate.writer import Writer
from cxrtl.predictions import Predictions
from cxrtl.records import FoldResult, Milestone, Progress, Trial

HEARTBEAT = 1.0  # seconds between progress files
_TRIAL = "cxrtl_trial"  # what a fault bears of the trial that it befell


def fold_trial(config: dict[str, Any], images: feed.Blocks, shared: tuple[Any]) -> None:
    """The Tune trainable; `shared`: the job, in the object store. A fault that another try cannot mend is reported, not
    raised: Tune would try it again.

    What an earlier try finished, whose process was lost before Tune heard of it, is not done again.
    """
    job: Job = ray.get(shared[0])
    trials = [job.trials[name] for name in config["trials"].split()]
    try:
        for trial in trials:
            storage.pull(job.run.trial(trial))
        trials = [trial for trial in trials if job.run.result(trial, job.hashes[trial.arm]) is None]
        if trials:
            group.train(fold_loop, job, shared[0], trials, images)
    except Exception as error:
        lost = isinstance(error, (SupersededError, RayError, TrainingFailedError))
        if lost and not isinstance(error, RayTaskError):
            raise  # the folder to a later try, images with their node, or a worker: no fault of the trial's own
        folder = job.run.trial(getattr(error, _TRIAL, trials[0]))
        failed(folder, error)
        tune.report({"broken": group.describe(error, folder / "error.txt")})
    else:
        tune.report({"broken": ""})


def fold_loop(config: dict[str, Any]) -> None:
    """What Ray Train runs, in this process or in a worker."""
    started = time.monotonic()
    job: Job = config["job"]
    workers = Workers.here()
    trials: list[Trial] = config["trials"]
    # for the dashboard, ps and top
    ray._raylet.setproctitle(f"ray::{'+'.join(trial.name for trial in trials)}")  # type: ignore[attr-defined]
    devices.settle(job.share.cpus)
    memory.keep_freed_memory()
    if job.flat and storage.at(job.flat.path):
        flat.make_here(job.prepared)
    # in a process of its own Ray Train names a GPU wherever torch sees one, asked for or not
    here = ray.train.torch.get_device() if job.share.gpus else torch.device("cpu")
    parts, whole = supply.gather(job, trials, config["images"], here, workers.first)
    runs = [
        FoldRun(job, trial, *part, here, started, workers, whole) for trial, part in zip(trials, parts, strict=True)
    ]
    nodes = workers.all_of(ray.get_runtime_context().get_node_id() if ray.is_initialized() else "")
    with Notice(nodes) as notice:
        run_all(runs, notice)


def run_all(runs: Sequence[FoldRun], notice: Notice) -> None:
    """Run one fold, or on a GPU several side by side. Where one fails, the others save and leave at their next step.

    Raises:
        Whatever one of them raised, for itself and not to make way; it bears the trial.
    """
    running = {devices.beside(partial(run.run, notice)): run.trial for run in runs}
    faults: list[tuple[BaseException, Trial]] = []
    for done in as_completed(running):
        if fault := done.exception():
            notice.give()
            faults.append((fault, running[done]))
    for fault, trial in sorted(faults, key=lambda item: isinstance(item[0], RayActorError)):
        if not isinstance(fault, RayActorError):
            setattr(fault, _TRIAL, trial)
        raise fault


class FoldRun:
    """A trial in progress: the loop's hooks, and what they write to the trial's folder.

    Of several workers the first does so; the others train along, and neither read nor write there.
    """

    def __init__(
        self,
        job: Job,
        trial: Trial,
        train: feed.Part,
        test: feed.Part,
        device: torch.device,
        started: float,
        workers: Workers = ALONE,
        whole: loop.Images | None = None,
    ) -> None:
        """`train`, `test` and `whole`: as `supply.gather` gives them."""
        self.job, self.trial, self.test, self.device, self.started = job, trial, test, device, started
        recipe = job.recipes[trial.arm]
        budgets = recipe.train.model_copy(update={"budgets": trial.budgets})
        precision, classes, task = job.precision[trial.arm], len(job.prepared.classes), job.prepared.task
        self.setting = loop.Setting(
            budgets, recipe.augment, job.seed, trial.fold, classes, precision, device, task, workers
        )
        self.folder = job.run.trial(trial)
        start, channels = job.weights[trial.arm], job.prepared.channels
        self.model = transfer.make_model(recipe.train, start, classes, job.seed, trial.fold, device, task, channels)
        tested = job.tested(trial)
        self.train_images = supply.images(job, trial, self.setting, train, ~tested, whole)
        self.test_images = supply.images(job, trial, self.setting, test, tested & workers.first, whole)
        kept = isinstance(self.train_images, loop.Images) and self.train_images.features is not None
        self.net = features.net(recipe.train, self.model, classes, task, kept)
        self.optimizer = transfer.make_optimizer(recipe.train, self.model, classes)
        self.run_hash = job.hashes[trial.arm]
        self.state = workers.agree(self._saved() if workers.first else state.State(), self.model, self.optimizer)
        self.state.tries += 1
        self.wall_before, self.beat = self.state.wall_seconds, -math.inf
        self.shown = len(self.state.curve)  # lines of it on TensorBoard
        self.writer = Writer()

    def _saved(self) -> state.State:
        """Take the folder, and find what an earlier try left there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.claim = Claim.take(self.folder)
        storage.pull(self.folder)
        self.claim.require_undone(self.job.run.result(self.trial, self.run_hash))
        self.every = storage.pace(self.folder, HEARTBEAT)
        rundir.drop_parts(self.folder)
        for stale in ("result.json", "error.txt"):  # of a trial that is made again: it is neither done nor failed
            storage.remove(self.folder / stale)
        return state.load(self.folder, self.run_hash, self.model, self.optimizer)

    def run(self, notice: Notice | None = None) -> None:
        self.notice = notice or Notice([])
        self.state.setup_seconds += time.monotonic() - self.started
        hooks = loop.Hooks(noticed=partial(self.notice.told, self.setting.workers, self.device, self.state))
        if first := self.setting.workers.first:
            job, trial = self.job, self.trial
            self.board = Board(job.run, trial, job.recipes[trial.arm], resume_at=self.state.iteration)
            self.signals = Signals(self.folder, job.run.name, trial, self.state, job.metered)
            hooks = replace(hooks, milestone=self.milestone, save=self.save, progress=self.progress)
        with self.writer, devices.own_stream(self.device):
            loop.fit(self.setting, self.train_images, self.net, self.optimizer, self.state, hooks)
        if first:
            self.finish()
            self.board.close()

    def milestone(self, at: state.State) -> None:
        """Score the held-out fold, keep weights and predictions, save the state that vouches for them."""
        started = time.monotonic()
        scores = loop.predict(self.setting, self.test_images, self.net)
        truth = torch.cat([part.cpu() for part in self.test_images.truth()])
        loss, accuracy = objective.judge(self.setting.task, self.setting.classes, scores, truth)
        seconds = time.monotonic() - started
        reached = Milestone(at.iteration, at.train_seconds, seconds, loss, accuracy)
        at.milestones.append(reached)
        more = at.iteration < self.trial.budgets[-1]  # after the last, the result follows at once
        taken = state.Snapshot(self.model, self.optimizer if more else None)
        self.writer.wait()  # the state vouches for the files of the one before
        masks = scores if self.setting.task == "segmentation" else None
        found = self._predictions(at.iteration, scores, truth)
        self.writer(partial(self._keep, self._tell(at), self._as_now(at), found, masks, taken, more))
        self.board.milestone(reached)

    def _keep(
        self,
        show: Callable[[], None],
        at: state.State,
        predictions: Predictions,
        masks: torch.Tensor | None,
        taken: state.Snapshot,
        more: bool,
    ) -> None:
        """In the writer's thread: `at` is a copy, what the files hash to goes to the trial's own state."""
        show()
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
        """In the writer's thread; after notice, until it is written, and then leave."""
        taken = state.Snapshot(self.model, self.optimizer)
        self.writer.wait()
        self.writer(partial(state.save, self.folder, self._as_now(at), taken, self.run_hash))
        self.board.keep()
        if self.notice.leaving:
            self.writer.wait()
            self.notice.leave(self.setting.workers)

    def progress(self, at: state.State) -> None:
        """New lines of the curve: shown at once on TensorBoard, and once a second to whoever watches the folder."""
        self.board.curve(at.curve[self.shown :])
        self.shown = len(at.curve)
        if time.monotonic() - self.beat >= self.every and self.writer.idle():
            self.writer(self._tell(at))

    def _tell(self, at: state.State) -> Callable[[], None]:
        """Count what was done; gives what writes it down, for the writer's thread: a GPU would wait for the disk."""
        self.beat = time.monotonic()  # the clock on the wall may be set back
        self.signals.tell(at, self.setting.train.batch_size)
        beat = Progress(
            iteration=at.iteration,
            images=at.iteration * self.setting.train.batch_size,
            train_seconds=round(at.train_seconds, 3),
            milestones=tuple(done.iterations for done in at.milestones),
            updated=time.time(),
            process=f"{os.getpid()} on {os.uname().nodename}",
        )
        return partial(self._show, list(at.curve), beat)

    def _show(self, curve: Sequence[dict[str, float]], beat: Progress) -> None:
        self._write_curve(curve)
        rundir.write_json(self.folder / "progress.json", asdict(beat))

    def _write_curve(self, curve: Sequence[dict[str, float]]) -> None:
        lines = "".join(json.dumps(line) + "\n" for line in curve)
        rundir.write_bytes(self.folder / "curve.jsonl", lines.encode())

    def finish(self) -> None:
        """Write the result last: from then on the trial is done."""
        at, last = self.state, self.trial.budgets[-1]
        self._write_curve(at.curve)
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
