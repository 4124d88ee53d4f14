"""Frozen layers' features: which arms keep them; computed once on the cluster, kept under `<home>/features/<hash>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import ray
import torch
from torch import Tensor

from cxrtl import rundir, storage
from cxrtl.config import Experiment, Recipe
from cxrtl.data.prepared import shard_paths
from cxrtl.errors import TrialError, last_line
from cxrtl.learn import features, freeze, memory, transfer
from cxrtl.learn.augment import draw_views
from cxrtl.learn.devices import settle
from cxrtl.learn.weights import Weights
from cxrtl.orchestrate.ledger import Machine
from cxrtl.records import Plan, Prepared

Starts = Mapping[str, Weights | None]


@dataclass(frozen=True)
class Bank:
    """Features by their hash, and by arm the hashes of those it is scored and trained on. `held`: those that a process
    has on its device, for all its folds."""

    arrays: dict[str, features.Array] = field(default_factory=dict)
    uses: dict[str, tuple[str, str]] = field(default_factory=dict)
    held: dict[str, Tensor] = field(default_factory=dict)

    def part(self, arm: str, rows: npt.NDArray[np.int64], device: torch.device) -> features.Features | None:
        """Those of the images in these places of the prepared set; None where the arm computes its own."""
        if arm not in self.uses:
            return None
        for name in self.uses[arm]:
            if name not in self.held:
                self.held[name] = features.on_device(self.arrays[name], device)
        plain, views = (self.held[name] for name in self.uses[arm])
        return features.part_of(plain, views, rows)


def kept(experiment: Experiment, starts: Starts, prepared: Prepared) -> dict[str, bool]:
    """By arm with frozen layers, whether their features are computed once and kept.

    Not kept: ever new augmentation (`train.views = 0`); layers from scratch, which each fold draws for itself; a freeze
    that ends where no single tensor goes on; a segmentation's, whose decoder needs more of them than the last; more
    bytes than `resources.features_gib`.
    """
    found, most = {}, experiment.resources.features_gib * 2**30
    for recipe in experiment.recipes:
        views = features.view_count(recipe.train, recipe.augment)
        if freeze.frozen(recipe.train):
            one = bool(views and starts[recipe.name]) and prepared.task != "segmentation"
            found[recipe.name] = one and 0 < features.size(recipe, prepared) <= most
    return found


def specs(
    recipe: Recipe, start: Weights, prepared: Prepared, seed: int, machine: Machine
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What decides an arm's features: those it is scored on, and those it trains on."""
    train = recipe.train
    plain: dict[str, Any] = {
        "version": features.VERSION,
        "torch": torch.__version__,
        "backbone": train.backbone,
        "stem": train.stem,
        "freeze": train.freeze_until or train.freeze,
        "weights_sha256": start.sha256,
        "data": prepared.dataset_hash,
        "size": prepared.image_size,
        "device": machine.device,
        "threads": machine.threads,
        "precision": "fp32",
        "views": 0,
        **({"gpu": machine.gpu} if machine.gpu else {}),
    }
    views = {**plain, "precision": machine.precision[recipe.name]}
    if recipe.augment.active:
        drawn = {"views": train.views, "augment": recipe.augment.model_dump(), "seed": seed}
        views |= drawn
    return plain, views


def bank(
    home: Path,
    seed: int,
    recipes: Sequence[Recipe],
    starts: Starts,
    prepared: Prepared,
    machine: Machine,
    plan: Plan,
) -> Bank:
    """The features of `recipes`, read where they were computed before, else computed by as many tasks as fit.

    Raises:
        TrialError: a task failed.
    """
    out = Bank()
    for recipe in recipes:
        start = starts[recipe.name]
        assert start is not None
        names: list[str] = []
        for spec in specs(recipe, start, prepared, seed, machine):
            name = rundir.content_hash(spec)
            if name not in out.arrays and spec["precision"] == "bf16" and not spec["views"]:
                out.arrays[name] = features.rounded(out.arrays[names[0]])
            elif name not in out.arrays:
                folder = home / "features" / name[:16]
                rundir.drop_parts(folder, shared=True)
                found = features.read(folder, spec)
                if found is None:
                    _compute(folder, spec, recipe, start, prepared, plan)
                    found = features.read(folder, spec)
                if found is None:
                    raise TrialError(f"features written to {folder} do not read back: is its disk sound?")
                out.arrays[name] = found
            names.append(name)
        out.uses[recipe.name] = names[0], names[1]
    return out


def _compute(
    folder: Path, spec: dict[str, Any], recipe: Recipe, start: Weights, prepared: Prepared, plan: Plan
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    task = ray.remote(num_cpus=spec["threads"], num_gpus=plan.gpus_per_fold)(_shards)
    shards, first = [], 0
    for number, path in enumerate(shard_paths(prepared)):
        rows = pq.read_metadata(path).num_rows
        shards.append(_Shard(f"part-{number:05d}.safetensors", path, first, rows))
        first += rows
    # a task a shard; where each would cost a process of its own, as Ray has it on GPUs, one a process
    tasks = min(plan.processes, len(shards)) if plan.gpus_per_fold else len(shards)
    shared = ray.put(start)
    calls = [task.remote(folder, spec, recipe, shared, prepared, shards[place::tasks]) for place in range(tasks)]
    try:
        done = ray.get(calls)
    except ray.exceptions.RayError as error:
        raise TrialError(
            f"arm {recipe.name!r}: its frozen layers' features could not be computed: {last_line(str(error))}"
        ) from None
    features.finish(folder, spec, dict(sorted(item for part in done for item in part.items())))


@dataclass(frozen=True)
class _Shard:
    """`name`: of its features; `first`: the place of its first image among all, `rows` of which it has."""

    name: str
    path: Path
    first: int
    rows: int


def _shards(
    folder: Path, spec: dict[str, Any], recipe: Recipe, start: Weights, prepared: Prepared, shards: Sequence[_Shard]
) -> dict[str, str]:
    """The features of some shards, one after another. Gives name → sha256."""
    settle(spec["threads"])
    memory.keep_freed_memory()
    device, channels, found = torch.device(spec["device"]), prepared.channels, dict[str, str]()
    model = transfer.make_model(recipe.train, start, 2, 0, 0, device, channels=channels)
    body = freeze.split(recipe.train, model, 2).body
    assert body is not None
    drawn = draw_views(recipe.augment, spec["seed"], spec["views"], prepared.images) if spec["views"] else None
    for shard in shards:
        storage.fetch(shard.path)
        column = pq.read_table(shard.path, columns=["pixels"])["pixels"].to_pylist()
        pixels = np.frombuffer(b"".join(column), np.uint8).reshape(shard.rows, channels, spec["size"], spec["size"])
        part = slice(shard.first, shard.first + shard.rows)
        changes = (drawn[0][:, part], drawn[1][:, part]) if drawn else None
        made = features.compute(body, torch.from_numpy(pixels.copy()), changes, spec["precision"], device)
        found |= features.write_part(folder, shard.name, made)
    return found
