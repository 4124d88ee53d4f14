"""All trials through one Tune run, on processes that stay warm from trial to trial."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.execution import class_cache
from ray.tune.search.basic_variant import BasicVariantGenerator

from cxrtl import storage
from cxrtl.data import feed
from cxrtl.errors import TrialError, last_line
from cxrtl.learn import state
from cxrtl.orchestrate.fold import Job, fold_trial
from cxrtl.orchestrate.group import trial_resources
from cxrtl.orchestrate.plan import packs
from cxrtl.records import Plan, Trial

MAX_DEATHS = 3  # of a trial's process, by whatever hand, without getting further, before the run gives up on it
ROUNDS = 3  # of Tune's, each with what the one before left, before the run gives up


class _StopAtFault(tune.Stopper):
    """Ends the whole run at the first trial that reports a fault of its own, or that dies and dies again."""

    def __init__(self) -> None:
        self.fault = ""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.fault = self.fault or result.get("broken", "")
        return bool(self.fault)

    def stop_all(self) -> bool:
        return bool(self.fault)

    def give_up(self, why: str) -> None:
        self.fault = self.fault or why


class Deaths(tune.Callback):
    """Counts how often each trial's process died unannounced since its saved state last got further: machines may come
    and go as often as they like over a long training. `give_up` is told of one that died too often."""

    def __init__(self, job: Job, give_up: Callable[[str], None]) -> None:
        self.job, self.give_up = job, give_up
        self.seen: dict[str, tuple[int, int]] = {}  # by the first trial's name: iterations kept, deaths there

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if _announced(_error(trial)):
            return
        names = _names(trial)
        kept = sum(self._kept(self.job.trials[name]) for name in names)
        before, deaths = self.seen.get(names[0], (0, 0))
        deaths = 1 if kept > before else deaths + 1
        self.seen[names[0]] = kept, deaths
        if deaths > MAX_DEATHS:
            last = last_line(Path(trial.error_file).read_text(encoding="utf-8", errors="replace"))
            self.give_up(
                f"the process of {', '.join(names)} died {deaths} times without getting past iteration {kept}: of too "
                "little memory (lower train.batch_size or resources.max_concurrent), or before it could save its state "
                f"(lower train.checkpoint_every). Then run the same command. Ray says: {last}"
            )

    def _kept(self, trial: Trial) -> int:
        storage.pull(self.job.run.trial(trial))
        done = self.job.run.result(trial, self.job.hashes[trial.arm])
        return trial.budgets[-1] if done else state.reached(self.job.run.trial(trial))


def _names(trial: Any) -> list[str]:
    """Which of the job's trials it runs; `schedule` wrote them down."""
    names: list[str] = trial.config["trials"].split()
    return names


def _error(trial: Any) -> Exception | None:
    """What a trial's process ended with just now. Tune writes it to a folder of the driver's, which it copies to where
    `Trial.get_pickled_error` looks seconds later."""
    if not trial.pickled_error_file:
        return None
    found: Exception = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    return found


def _announced(error: Exception | None) -> bool:
    """Whether a trial left, or its node went, after notice."""
    cause = error.as_instanceof_cause() if isinstance(error, RayTaskError) else error  # type: ignore[no-untyped-call]
    return bool(getattr(cause, "preempted", False))


def run(job: Job, plan: Plan, images: feed.Blocks, at_once: int, verbose: bool = False) -> None:
    """Run what the ledger lacks, longest first, `at_once` processes where there is room; returns when every trial's
    result is in it.

    A trial whose process dies (killed, out of memory, node lost) starts again from its saved state, on any node; so
    does one that saves and leaves because its end is announced (`notice`), which is not counted as a death. Tune gives
    up on one whose process, kept from the trial before, dies while it is handed over: another round takes what is left.
    Tune's own files serve nobody afterwards and go to a temporary folder.

    Raises:
        TrialError: a trial failed of itself, or its process died too often.
    """
    step = {each.arm: each.step_seconds for each in plan.estimates}
    trainable = _trainable(job, images)
    # Tune would put these of the driver's environment into each trial's, which Ray logs: nodes have their own
    class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    needs, stopper, left = trial_resources(job.share), _StopAtFault(), list(plan.todo)
    deaths = Deaths(job, stopper.give_up)
    for _ in range(ROUNDS):
        order = [[trial.name for trial in pack] for pack in packs(left, step, job.share.folds)]
        ended = schedule(trainable, order, needs, at_once, stopper, verbose, deaths)
        storage.pull(job.run.root)
        left = [trial for trial in left if job.run.result(trial, job.hashes[trial.arm]) is None]
        if stopper.fault:
            raise TrialError(stopper.fault)
        if not left:
            return
    said = last_line(str(ended.errors[0])) if ended.errors else "nothing"
    raise TrialError(
        f"Ray Tune ended {ROUNDS} times without a result of {left[0].name} and {len(left) - 1} more. Ray says: {said}. "
        "What is finished is kept: see with `--verbose` what ends processes, then run the same command."
    )


def _trainable(job: Job, images: feed.Blocks) -> Callable[..., None]:
    made: Callable[..., None] = tune.with_parameters(fold_trial, images=images, shared=(ray.put(job),))
    return made


def schedule(
    trainable: Callable[..., None],
    runs: Sequence[Sequence[str]],
    needs: Mapping[str, float],
    at_once: int,
    stopper: tune.Stopper | None = None,
    verbose: bool = False,
    deaths: Deaths | None = None,
) -> tune.ResultGrid:
    """Run `trainable` once for each of `runs`, whose names it finds in its config under `trials`, parted by spaces, in
    their order, `at_once` of them; a process that has ended one takes the next. `needs`: what each takes, by resource.
    One whose process dies is run again where there is somebody to count `deaths`, who may stop it all."""
    # not as a grid, all of whose values Tune copies for each of them
    points = BasicVariantGenerator([{"trials": " ".join(names)} for names in runs], max_concurrent=at_once)
    with tempfile.TemporaryDirectory(prefix="cxrtl-tune-") as scratch:
        return tune.Tuner(
            tune.with_resources(trainable, dict(needs)),
            param_space={"trials": ""},
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                search_alg=points,
                num_samples=len(runs),
                trial_name_creator=lambda trial: "+".join(_names(trial)),
                trial_dirname_creator=lambda trial: _names(trial)[0].replace("/", "-"),
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                failure_config=tune.FailureConfig(max_failures=-1 if deaths else 0),
                callbacks=[deaths] if deaths else [],
                stop=stopper,
                verbose=2 if verbose else 0,
            ),
        ).fit()
