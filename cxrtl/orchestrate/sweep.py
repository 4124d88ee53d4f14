"""All trials through one Tune run, on processes that stay warm from trial to trial."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray.data
from ray import tune
from ray.tune.execution import class_cache

from cxrtl.errors import Interrupted, TrialError
from cxrtl.orchestrate.fold import Job, fold_trial
from cxrtl.orchestrate.plan import packs
from cxrtl.records import Plan

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
    step = {each.arm: each.step_seconds for each in plan.estimates}
    order = [[trial.name for trial in pack] for pack in packs(plan.todo, step, job.share.folds)]
    trainable = tune.with_parameters(fold_trial, images=images, job=job)
    # Tune would put these of the driver's environment into each trial's, which Ray logs: nodes have their own
    class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    needs, stopper = {"CPU": job.share.cpus, "GPU": job.share.gpus}, _StopAtFault()
    results = schedule(trainable, order, needs, plan.processes, stopper, verbose)
    missing = [trial for trial in plan.todo if job.run.result(trial, job.hashes[trial.arm]) is None]
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


def schedule(
    trainable: Callable[..., None],
    runs: Sequence[Sequence[str]],
    needs: Mapping[str, float],
    at_once: int,
    stopper: tune.Stopper | None = None,
    verbose: bool = False,
) -> tune.ResultGrid:
    """Run `trainable` once for each of `runs`, which it finds in its config under `trials`, in their order, `at_once`
    of them; a process that has ended one takes the next. `needs`: what each takes, by resource."""
    with tempfile.TemporaryDirectory(prefix="cxrtl-tune-") as scratch:
        return tune.Tuner(
            tune.with_resources(trainable, dict(needs)),
            param_space={"trials": tune.grid_search([list(names) for names in runs])},
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                max_concurrent_trials=at_once,
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
