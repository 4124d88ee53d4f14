"""Ray Train for one trial: in the trial's own process, or with workers that share out each batch (`learn.parallel`)."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from cxrtl import rundir
from cxrtl.data import feed
from cxrtl.errors import CxrtlError, of_system
from cxrtl.learn.parallel import PeerLost
from cxrtl.orchestrate.job import Job
from cxrtl.orchestrate.probe import Share
from cxrtl.records import Trial

_HEAD = {"node:__internal_head__": 0.001}  # what every head node has one of
_PATIENCE = 24 * 3600  # seconds that workers wait for the first to score and save; Ray sees to those that died


def trial_resources(share: Share) -> dict[str, float]:
    """What a trial's own process takes. One that trains in workers holds no CPU, which its workers could wait for in
    vain, and stays on the head node."""
    return {"CPU": share.cpus, "GPU": share.gpus} if share.workers == 1 else _HEAD


def train(
    loop: Callable[[dict[str, Any]], None], job: Job, shared: Any, trials: Sequence[Trial], images: feed.Blocks
) -> None:
    """Run `loop` with `job`, `trials` and `images` to its end: here, or, taking the job from the object store
    (`shared`), in as many processes as it shares a fold out among, on whatever nodes.

    Raises:
        TrainingFailedError, RayActorError: a worker died, or left after notice; another try goes on from the saved
            state. Else whatever `loop` raised.
    """
    share = job.share
    if share.workers == 1:
        TorchTrainer(
            loop,
            train_loop_config={"job": job, "trials": trials, "images": images},
            scaling_config=ScalingConfig(num_workers=0, use_gpu=share.gpus > 0),
        ).fit()
        return

    def in_worker(config: dict[str, Any]) -> None:
        loop({**config, "job": ray.get(config["job"])})

    each = {"CPU": share.cpus, "GPU": share.gpus} if share.gpus else {"CPU": share.cpus}
    with tempfile.TemporaryDirectory(prefix="cxrtl-train-") as scratch:  # nothing of Train's own is kept
        trainer = TorchTrainer(
            in_worker,
            train_loop_config={"job": shared, "trials": trials, "images": images},
            scaling_config=ScalingConfig(num_workers=share.workers, use_gpu=share.gpus > 0, resources_per_worker=each),
            run_config=RunConfig(name="fold", storage_path=scratch),
            torch_config=TorchConfig(timeout_s=_PATIENCE),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            faults = list(getattr(error, "worker_failures", {}).values())
            told = [fault for fault in faults if getattr(fault, "preempted", False)]  # no death, see `sweep.Deaths`
            for fault in [fault for fault in faults if not _died(fault)] + told:
                raise fault from error
            raise


def _died(fault: Exception) -> bool:
    """Whether it is no fault of the loop: Ray speaks of a worker, or a worker of another."""
    return isinstance(fault, PeerLost) or type(fault).__module__.partition(".")[0] == "ray"


def describe(error: Exception, path: Path) -> str:
    """One line for the console; the traceback goes to `path`, whose folder is made where it is missing."""
    line = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, OSError) and error.errno:
        line = of_system(error)
    elif not isinstance(error, CxrtlError):
        line = f"{type(error).__name__}: {line}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rundir.write_bytes(path, "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace"))
    except OSError as failed:  # a full disk, most likely the fault itself
        return f"{line} The traceback could not be written to {path}: {failed.strerror}"
    return f"{line} (traceback: {path})"
