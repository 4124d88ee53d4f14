"""All trials through one Tune run, on processes that stay warm from trial to trial."""

from __future__ import annotations

import tempfile
from typing import Any

import ray.data
from ray import tune

from cxrtl.errors import Interrupted, TrialError
from cxrtl.orchestrate.fold import Job, fold_trial
from cxrtl.records import Plan, Trial

MAX_DEATHS = 3  # of a trial's process, by whatever hand, before the run gives up on it


class _StopAtFault(tune.Stopper):
    """Ends the whole run at the first trial that reports a fault of its own."""

    def __init__(self) -> None:
        self.fault = ""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.fault = self.fault or result.get("broken", "")
        return bool(self.fault)

    def stop_all(self) -> bool:
        return bool(self.fault)


def run(job: Job, plan: Plan, images: ray.data.Dataset, verbose: bool = False) -> None:
    """Run what the ledger lacks, longest first; returns when every trial's result is in it.

    A trial whose process dies (killed, out of memory, node lost) starts again from its saved state, on any node. Tune's
    own files serve nobody afterwards and go to a temporary folder.

    Raises:
        TrialError: a trial failed of itself, or its process died too often.
        Interrupted: the user stopped the run.
    """
    todo = sorted(plan.todo, key=lambda trial: -_work(job, trial))
    together, order = job.share.folds, [trial.name for trial in todo]
    packs = [order[first : first + together] for first in range(0, len(order), together)]
    stopper = _StopAtFault()
    with tempfile.TemporaryDirectory(prefix="cxrtl-tune-") as scratch:
        results = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(fold_trial, images=images, job=job), {"CPU": job.share.cpus, "GPU": job.share.gpus}
            ),
            param_space={"trials": tune.grid_search(packs)},
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                max_concurrent_trials=-(-plan.concurrent // together),
                trial_name_creator=lambda trial: "+".join(trial.config["trials"]),
                trial_dirname_creator=lambda trial: trial.config["trials"][0].replace("/", "-"),
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                failure_config=tune.FailureConfig(max_failures=MAX_DEATHS),
                stop=stopper,
                verbose=2 if verbose else 0,
            ),
        ).fit()
    missing = [trial for trial in todo if job.run.result(trial, job.hashes[trial.arm]) is None]
    if stopper.fault:
        raise TrialError(stopper.fault)
    if missing and results.errors:
        names = ", ".join(trial.name for trial in missing[:5])
        last = str(results.errors[0]).strip().splitlines()[-1]
        raise TrialError(
            f"the process of {names} died {MAX_DEATHS + 1} times, of too little memory most likely: lower "
            f"train.batch_size or resources.max_concurrent, then run the same command. Ray says: {last}"
        )
    if missing:
        raise Interrupted(f"Ray Tune ended with {len(missing)} trial(s) to go: run the same command to go on")


def _work(job: Job, trial: Trial) -> int:
    return trial.budgets[-1] * job.recipes[trial.arm].train.batch_size
