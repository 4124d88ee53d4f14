"""What makes a run this run: everything that decides its numbers, hashed; kept, and compared on every start."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import tomli_w

from cxrtl import rundir
from cxrtl.config import Experiment, Recipe
from cxrtl.errors import ChangedError
from cxrtl.learn.features import view_count
from cxrtl.learn.weights import Weights
from cxrtl.records import Folds, Prepared
from cxrtl.rundir import RunDir

_NO_INFLUENCE = {"checkpoint_every", "init_sha256", "init"}  # `init` counts by its kind and the file's own sha256


@dataclass(frozen=True)
class Machine:
    """The kind of device that trains, the number format by arm, the threads of a fold, and the GPU's name."""

    device: str
    precision: Mapping[str, str]
    threads: int
    gpu: str = ""

    @classmethod
    def of(cls, saved: Mapping[str, Any], precision: Mapping[str, str]) -> Machine:
        """The one that a run was begun on, as `experiment.resolved.json` says."""
        return cls(saved["device"], precision, saved["threads"], saved.get("gpu", ""))

    def decides(self) -> dict[str, Any]:
        """What of it decides the last bits; without a GPU, no name of one."""
        return {key: value for key, value in asdict(self).items() if key != "gpu" or value}


@dataclass(frozen=True)
class Identity:
    """`decides` is everything, as nested names and values, that the user chose and that decides the numbers.

    What stands under `arms` decides the numbers of one arm each; all else, those of all.
    """

    decides: dict[str, Any]

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        prepared: Prepared,
        folds: Folds,
        weights: dict[str, Weights | None],
        kept: Mapping[str, bool],
    ) -> Identity:
        workers = experiment.resources.workers_per_fold  # one or more: sums in another order
        return cls(
            {
                **({"workers_per_fold": workers} if workers > 1 else {}),
                "seed": experiment.seed,
                "task": prepared.task,
                "classes": list(prepared.classes),
                "data": prepared.dataset_hash,
                "folds": folds.hash,
                "division": experiment.folds.model_dump(exclude={"ungrouped"}),  # saved folds outlive a change
                "threads": experiment.resources.cpus_per_fold,
                "arms": {
                    recipe.name: _recipe(recipe, weights[recipe.name], kept.get(recipe.name))
                    for recipe in experiment.recipes
                },
            }
        )

    def run_hash(self, machine: Machine) -> str:
        """sha256 over the identity and the machine's kind, which decides the last bits."""
        return rundir.content_hash({**self.decides, **machine.decides()})

    def arm_hashes(self, machine: Machine) -> dict[str, str]:
        """For each arm, what its trials' results bear: the run hash it would have without the others."""
        precision = machine.precision
        return {
            name: Identity({**self.decides, "arms": {name: arm}}).run_hash(
                replace(machine, precision={name: precision[name]})
            )
            for name, arm in self.decides["arms"].items()
        }


def _recipe(recipe: Recipe, weights: Weights | None, kept: bool | None) -> dict[str, Any]:
    """`kept`: whether frozen layers' features are computed once, which changes the last bits; None: no such layers."""
    train = recipe.train.model_dump(mode="json", exclude=_NO_INFLUENCE)
    start: dict[str, Any] = {
        "init": recipe.train.init.partition(":")[0],
        "weights_sha256": weights.sha256 if weights else "",
    }
    if weights and weights.stages:
        start["stages"] = list(weights.stages)
    once = {} if kept is None else {"features": {"views": view_count(recipe.train, recipe.augment), "kept": kept}}
    return {"train": {**train, **start}, "augment": recipe.augment.model_dump(mode="json"), **once}


def check_unchanged(run: RunDir, identity: Identity) -> dict[str, Any] | None:
    """What `experiment.resolved.json` holds, if the run was begun before. Arms may be new; one may have gone that no
    fold was finished of.

    Raises:
        ChangedError: it was begun with something else; names both hashes and each difference.
    """
    if not run.path("experiment.resolved.json").exists():
        return None
    saved: dict[str, Any] = rundir.read_json(run.path("experiment.resolved.json"))
    was, now = saved["decides"], identity.decides
    arms = {name: now["arms"].get(name, "absent") for name in was["arms"]}
    kept = {name for name, arm in arms.items() if arm != "absent" or any(run.root.glob(f"{name}/fold*/**/result.json"))}
    pairs = [
        {**each, "arms": {name: found[name] for name in kept}} for each, found in ((was, was["arms"]), (now, arms))
    ]
    if pairs[0] == pairs[1]:
        return saved
    lines = [f"  {key}: {old!r} → {new!r}" for key, old, new in differences(pairs[0], pairs[1])]
    hashes = (rundir.content_hash(value)[:12] for value in (was, now))
    raise ChangedError(
        f"run {run.name!r} was begun with another experiment ({next(hashes)}, now {next(hashes)}). Changed:\n"
        + "\n".join(lines[:20])
        + "\nGive the changed experiment another name, or undo the change to go on. Only new arms may be added, and an "
        "arm taken out before a fold of it is finished: what was tried belongs in the report."
    )


def check_machine(run: RunDir, saved: Mapping[str, Any], machine: Machine) -> Machine:
    """The machine as the run is to remember it: as begun, with the formats of all arms.

    Raises:
        ChangedError: a begun run would go on on another kind of device or GPU, or in another number format.
    """
    was = saved["precision_by_arm"]
    begun = Machine.of(saved, {**was, **machine.precision})
    now = {arm: begun.precision[arm] for arm in was}  # of the arms it has had
    # runs begun before GPUs were named have none; of several kinds, the timed steps may have met some
    alike = not begun.gpu or set(machine.gpu.split(" + ")) <= set(begun.gpu.split(" + "))
    if (begun.device, was) != (machine.device, now) or not alike:
        raise ChangedError(
            f"run {run.name!r} was begun on {begun.gpu or begun.device} with {was}; here it would go on on "
            f"{machine.gpu or machine.device} with {now}, and folds would differ. Go on on the first kind of machine, "
            "set train.precision, or give a new name."
        )
    return begun


def differences(was: Any, now: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) wherever two nested values differ; "absent" stands for no value."""
    if isinstance(was, dict) and isinstance(now, dict):
        names = dict.fromkeys(itertools.chain(was, now))
        parts = (differences(was.get(n, "absent"), now.get(n, "absent"), f"{key}.{n}".lstrip(".")) for n in names)
        return [item for part in parts for item in part]
    return [] if was == now else [(key, was, now)]


def write(
    run: RunDir,
    experiment: Experiment,
    identity: Identity,
    prepared: Prepared,
    folds: Folds,
    weights: dict[str, Weights | None],
    machine: Machine,
    command: str,
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """Keep the experiment as given (`experiment.toml`) and with every knob filled in (`experiment.resolved.json`, with
    `origin` beside)."""
    given = experiment.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    rundir.write_bytes(run.path("experiment.toml"), tomli_w.dumps(given).encode())
    resolved = {
        "run_hash": identity.run_hash(machine),
        "arm_hashes": identity.arm_hashes(machine),
        "decides": identity.decides,
        "experiment": experiment.model_dump(mode="json"),
        "recipes": [recipe.model_dump(mode="json") for recipe in experiment.recipes],
        "dataset": {
            "dataset_hash": prepared.dataset_hash,
            "images": prepared.images,
            "task": prepared.task,
            "classes": list(prepared.classes),
            "counts": prepared.counts,
            "skipped": prepared.skipped,
            "flow": [asdict(step) for step in prepared.flow],
            "grouped": prepared.grouped,
            "image_size": prepared.image_size,
        },
        "folds_hash": folds.hash,
        "weights": {arm: found.describe() if found else None for arm, found in weights.items()},
        "device": machine.device,
        "gpu": machine.gpu,
        "precision": "/".join(sorted(set(machine.precision.values()))),
        "precision_by_arm": dict(machine.precision),
        "threads": machine.threads,
        "command": command,
        **origin,
    }
    rundir.write_json(run.path("experiment.resolved.json"), resolved)
    return resolved
