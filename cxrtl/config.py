"""Every knob of an experiment, once: its type, unit, default and meaning.

An experiment file is TOML with the tables `data`, `folds`, `train`, `augment`, `resources`, `report`, any number of
`[[arm]]` (a name and overrides of `train` and `augment`), a `grid` of further arms, and `[[published]]` rows to compare
with.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from cxrtl.data_config import Cohort as Cohort
from cxrtl.data_config import Data as Data
from cxrtl.data_config import Decode as Decode
from cxrtl.data_config import Folds as Folds
from cxrtl.data_config import Probability, Table
from cxrtl.errors import ConfigError
from cxrtl.grid import OVERRIDDEN, points
from cxrtl.train_config import Augment as Augment
from cxrtl.train_config import Train as Train

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
TAKEN = ("figures", "lock", "tensorboard")  # what a run folder holds beside its arms
DATA_HOME = {"CXRTL_DATA": "../shared/data"}  # what `$CXRTL_DATA` in a path means where it is not set, but in a job


class Resources(Table):
    """What one fold occupies while it trains."""

    cpus_per_fold: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = Field(
        "auto", description="CPU cores, and threads, of one fold; `auto`: what a few timed steps find fastest"
    )
    gpus_per_fold: float | Literal["auto"] = Field(
        "auto",
        description="`auto`: 1 where the cluster has GPUs, else 0; to be said outright where none is there yet and "
        "machines start as they are asked for; a fraction lets folds share one",
    )
    folds_per_gpu: Annotated[int, Field(ge=1, le=32)] | Literal["auto"] = Field(
        "auto",
        description="folds that share a whole GPU in one process; `auto`: what timed steps find fastest",
    )
    workers_per_fold: int = Field(
        1,
        ge=1,
        le=1024,
        description="processes, on any nodes, that share out each batch of a fold; each takes `cpus_per_fold` and "
        "`gpus_per_fold`, and holds the training images",
    )
    max_concurrent: int = Field(0, ge=0, description="folds at once; 0: as many as fit")
    images: Literal["auto", "memory", "stream"] = Field(
        "auto",
        description="where pixels are while folds train: `memory`, or on disk, read ahead of each batch (`stream`); "
        "`auto`: memory, unless the copies that a node's processes hold exceed half of it",
    )
    cost_per_node_hour: float | None = Field(
        None, gt=0, description="price of a node, `currency` an hour; without it `cxrtl plan` shows no cost"
    )
    currency: str = Field("USD", min_length=1, max_length=8, description="of `cost_per_node_hour`")
    features_gib: float = Field(
        4,
        ge=0,
        description="frozen layers' features of an arm are kept if smaller, GiB of memory (a GPU's too) and disk",
    )

    @field_validator("gpus_per_fold")
    @classmethod
    def _whole_or_fraction(cls, gpus: float | str) -> float | str:
        if isinstance(gpus, float) and not (0 <= gpus <= 1 or gpus == int(gpus)):
            raise ValueError(f"{gpus} GPUs: take a fraction up to 1 or a whole number")
        return gpus

    @model_validator(mode="after")
    def _workers_stand_alone(self) -> Resources:
        """Workers of a fold wait for each other at every step: nothing else may keep their GPU busy."""
        if self.workers_per_fold > 1:
            what = f"workers_per_fold = {self.workers_per_fold}"
            if self.folds_per_gpu not in ("auto", 1):
                raise ValueError(f"{what} with folds_per_gpu = {self.folds_per_gpu}: set one of them to 1")
            if isinstance(self.gpus_per_fold, float) and 0 < self.gpus_per_fold < 1:
                raise ValueError(f"{what} with gpus_per_fold = {self.gpus_per_fold}: give each worker a whole GPU")
        return self


class Arm(Table):
    """One recipe under comparison: a name and what it changes in `train` and `augment`."""

    name: str = Field(pattern=NAME, description="the arm's name, also its folder's")
    train: dict[str, Any] = Field(default_factory=dict, description="overrides of `train`")
    augment: dict[str, Any] = Field(default_factory=dict, description="overrides of `augment`")


class Published(Table):
    """A row of a published table, shown beside ours."""

    study: str = Field(description="who published it")
    iterations: int = Field(ge=1, description="training length; of ours to set it beside, where the study states none")
    accuracy: Probability | None = Field(None, description="share right")
    sensitivity: Probability | None = Field(None, description="share of positives found")
    specificity: Probability | None = Field(None, description="share of negatives found")
    auc: Probability | None = Field(None, description="area under the ROC curve")
    top1: Probability | None = Field(None, description="multiclass: share whose class scores highest")
    top2: Probability | None = Field(None, description="multiclass: share whose class is among the two highest")
    dice: Probability | None = Field(None, description="segmentation: mean Dice of images")
    seconds: float | None = Field(None, gt=0, description="time the study states")


class Report(Table):
    """What the report says besides; nothing here changes a training."""

    prevalence: Probability | None = Field(None, description="share of positives at which PPV and NPV are also given")
    sensitivity_target: Probability = Field(0.9, description="sensitivity that an operating point is chosen for")
    specificity_target: Probability = Field(0.9, description="specificity that an operating point is chosen for")
    top_k: tuple[Annotated[int, Field(ge=2, le=100)], ...] = Field(
        (2,), description="multiclass: also the share of images whose class is among the k highest scores"
    )
    explain: bool = Field(False, description="end the run with Grad-CAM of held-out images, as `cxrtl explain` does")
    smallest_group: int = Field(10, ge=1, description="subgroups of fewer patients are not shown")


class Recipe(Table):
    """An arm with every knob filled in."""

    name: str = Field(pattern=NAME)
    train: Train
    augment: Augment


class Experiment(Table):
    """One experiment: data, folds and the recipes compared on them."""

    name: str = Field(pattern=NAME, description="the run's name, also its folder's")
    description: str = Field("", description="one line for the report")
    seed: int = Field(0, ge=0, description="seed of batch order, augmentation, dropout and new layers")
    data: Data
    folds: Folds = Folds()
    train: Train = Train()
    augment: Augment = Augment()
    resources: Resources = Resources()
    arm: tuple[Arm, ...] = Field((), description="the recipes; with no grid either: one arm, named after the backbone")
    grid: dict[str, Any] = Field(
        default_factory=dict, description="further arms: every combination of the listed values (see `grid`)"
    )
    published: tuple[Published, ...] = Field((), description="published rows to compare with")
    report: Report = Report()

    @model_validator(mode="after")
    def _explainable(self) -> Experiment:
        if self.report.explain and (self.data.task == "segmentation" or self.data.channels > 1):
            raise ValueError("report.explain is for classes of single images: take it out")
        return self

    @model_validator(mode="after")
    def _arms_resolve(self) -> Experiment:
        smallest = min(recipe.train.batch_size for recipe in self.recipes)
        if smallest < self.resources.workers_per_fold:
            raise ValueError(
                f"resources.workers_per_fold = {self.resources.workers_per_fold} share out batches of {smallest} "
                f"images: take {smallest} workers at most, or a larger train.batch_size"
            )
        return self

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The arms with every knob filled in: the listed ones in the file's order, then the grid's."""
        faults: list[str] = []
        recipes = []
        names: list[str] = []
        for name, changes in self._arms():
            try:
                arm = Arm(name=name, **changes)
                merged = {table: {**getattr(self, table).model_dump(), **getattr(arm, table)} for table in OVERRIDDEN}
                recipes.append(Recipe(name=arm.name, **merged))
            except ValidationError as error:
                faults += [f"arm {name!r}: {fault}" for fault in _faults(error)]
            names.append(name.lower())
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            faults.append(f"arm names repeat (case apart): {repeated}")
        if taken := sorted(set(names) & set(TAKEN)):
            faults.append(f"arm names {taken} are taken by the run folder's own files: choose others")
        if faults:
            raise ValueError("\n".join(faults))
        return tuple(recipes)

    def _arms(self) -> list[tuple[str, dict[str, Any]]]:
        listed = [(arm.name, {table: getattr(arm, table) for table in OVERRIDDEN}) for arm in self.arm]
        return [*listed, *points(self.grid)] or [(self.train.backbone, {})]


def load(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and apply `key=value` overrides (`train.budgets=[20]`, `arm.0.train.init="scratch"`).

    Raises:
        ConfigError: the file cannot be read, or holds faults; all of them are listed.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"experiment file {str(path)!r} cannot be read: {reason}. Give a .toml file.") from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"experiment file {str(path)!r} is not valid TOML: {error}") from None
    for override in overrides:
        apply(raw, override)
    return parse(raw, where=str(path))


def parse(raw: dict[str, Any], where: str = "experiment") -> Experiment:
    """Check a nested dict against the schema; raises ConfigError listing every fault."""
    try:
        return Experiment.model_validate(raw)
    except ValidationError as error:
        faults = "\n".join(f"  - {line}" for fault in _faults(error) for line in fault.splitlines())
        raise ConfigError(f"{where}: {faults.count(chr(10)) + 1} fault(s)\n{faults}") from None


def refuse_secret(place: str, what: str) -> None:
    """Raises ConfigError where `place`, a path or URL, holds a password or key: logs and run folders would keep it."""
    url = urlsplit(place)
    if "@" in url.netloc or re.search(r"key|secret|token|password", url.query, re.IGNORECASE):
        raise ConfigError(f"{what} holds a password or key, which logs and runs would keep: take it out of the URL")


def expand(path: str) -> Path:
    """Fill `$NAME` and `~` into a path of the experiment file and make it absolute."""
    refuse_secret(path, "a path of the experiment")

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        found = os.environ.get(name, None if in_job() else DATA_HOME.get(name))
        if found is None:
            where = " where the cluster's `ray start` is called" if in_job() else ""
            raise ConfigError(
                f"path {path!r}: environment variable {name} is not set. Set it{where} or write the path out."
            )
        return found

    return Path(re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, path)).expanduser().absolute()


def in_job() -> bool:
    """Whether this is a job of a Ray cluster: the current folder is a copy that is thrown away."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _faults(error: ValidationError) -> list[str]:
    faults = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "unknown key; take it out or correct its spelling"
        elif fault["type"] not in ("missing", "value_error"):
            message = f"{message} (received {fault['input']!r})"
        faults.append(f"{key}: {message}" if key else message)
    return faults


def apply(raw: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"--set {override!r}: write KEY=VALUE, such as train.rate=1e-3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string, as on any command line
    *parents, last = key.strip().split(".")
    node: Any = raw
    try:
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        node[int(last) if isinstance(node, list) else last] = value
    except (ValueError, IndexError, TypeError, AttributeError):
        raise ConfigError(f"--set {override!r}: there is no place {key.strip()!r} in the experiment") from None
