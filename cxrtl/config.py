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

from pydantic import Field, ValidationError, field_validator, model_validator

from cxrtl.data_config import Cohort as Cohort
from cxrtl.data_config import Data as Data
from cxrtl.data_config import Decode as Decode
from cxrtl.data_config import Folds as Folds
from cxrtl.data_config import Probability, Table
from cxrtl.errors import ConfigError
from cxrtl.grid import OVERRIDDEN, points

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
TAKEN = ("figures", "lock", "tensorboard")  # what a run folder holds beside its arms
DATA_HOME = {"CXRTL_DATA": "../shared/data"}  # what `$CXRTL_DATA` in a path means where it is not set


class Train(Table):
    """The transfer recipe."""

    backbone: str = Field("resnet50", description="any classification model of torchvision, by name")
    init: str = Field(
        "imagenet",
        description="`imagenet`, `scratch`, `file:PATH` (.safetensors, .pth), `weights:NAME` (see `cxrtl weights`), or "
        "`stage:RUN` or `stage:RUN/ARM`: another run's weights",
    )
    init_sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$", description="what the weights file must hash to")
    stem: Literal["rgb", "grey"] = Field(
        "rgb", description="`rgb`: grey images in three channels; `grey`: the first layer's RGB filters summed for one"
    )
    freeze: Literal["none", "backbone"] = Field("none", description="`backbone`: train the model's classifier alone")
    freeze_until: str = Field("", description="freeze up to the end of this module, such as `layer3` or `features.8`")
    views: int = Field(
        8, ge=0, le=1000, description="fixed draws of augmentation an image where layers are frozen; 0: ever new ones"
    )
    budgets: tuple[Annotated[int, Field(ge=1, le=10_000_000)], ...] = Field(
        (250, 500, 1000), min_length=1, description="training lengths to report, iterations"
    )
    independent: bool = Field(False, description="train each budget from the start, not as a point on the way")
    batch_size: int = Field(25, ge=2, le=4096, description="images an iteration")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="SGD with momentum, or AdamW")
    rate: float = Field(1e-4, gt=0, le=10, description="learning rate of the pretrained layers")
    head_rate_factor: float = Field(10, gt=0, le=1e4, description="learning rate of the new layer, times `rate`")
    schedule: Literal["constant", "cosine"] = Field("constant", description="cosine falls to 0 at the budget")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's momentum; AdamW's first beta")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="SGD: L2 term; AdamW: decoupled decay")
    class_weights: bool = Field(False, description="weight the loss by inverse class frequency of the training folds")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="`auto`: bf16 where it is native")
    checkpoint_every: int = Field(100, ge=1, description="iterations between saved states (budgets save anyway)")

    @field_validator("budgets")
    @classmethod
    def _ascending(cls, budgets: tuple[int, ...]) -> tuple[int, ...]:
        if list(budgets) != sorted(set(budgets)):
            raise ValueError(f"{list(budgets)} must ascend without repeats")
        return budgets

    @field_validator("init")
    @classmethod
    def _known_init(cls, init: str) -> str:
        kind, _, where = init.partition(":")
        if init not in ("imagenet", "scratch") and not (kind in ("file", "weights", "stage") and where):
            raise ValueError(f"{init!r} is none of: imagenet, scratch, file:PATH, weights:NAME, stage:RUN/ARM")
        return init

    @model_validator(mode="after")
    def _one_way_to_freeze(self) -> Train:
        if self.freeze != "none" and self.freeze_until:
            raise ValueError(f"freeze = {self.freeze!r} and freeze_until = {self.freeze_until!r}: give one of them")
        return self


class Augment(Table):
    """Random changes of the training images; each is drawn with its own probability."""

    scale_probability: Probability = Field(0.5, description="of zooming")
    scale: float = Field(0.10, ge=0, lt=1, description="zoom range, ± share")
    flip_horizontal_probability: Probability = Field(0.5, description="of mirroring left and right")
    flip_vertical_probability: Probability = Field(0.5, description="of mirroring top and bottom")
    crop_probability: Probability = Field(0.5, description="of cutting out a square and enlarging it")
    crop: float = Field(0.10, ge=0, lt=1, description="at most this share of the side is cut away")
    translate_probability: Probability = Field(0.5, description="of shifting, along each axis by its own amount")
    translate: float = Field(0.065, ge=0, le=0.5, description="shift range, ± share of the side")

    @property
    def active(self) -> bool:
        """Whether anything may change."""
        return any(chance > 0 for name, chance in self if name.endswith("_probability"))


class Resources(Table):
    """What one fold occupies while it trains."""

    cpus_per_fold: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = Field(
        "auto", description="CPU cores, and threads, of one fold; `auto`: what a few timed steps find fastest"
    )
    gpus_per_fold: float | Literal["auto"] = Field(
        "auto", description="`auto`: 1 where the cluster has GPUs, else 0; a fraction lets folds share one"
    )
    folds_per_gpu: Annotated[int, Field(ge=1, le=32)] | Literal["auto"] = Field(
        "auto",
        description="folds that share a whole GPU in one process; `auto`: what timed steps find fastest",
    )
    max_concurrent: int = Field(0, ge=0, description="folds at once; 0: as many as fit")
    images: Literal["auto", "memory", "stream"] = Field(
        "auto",
        description="where pixels are while folds train: `memory`, or on disk, read ahead of each batch (`stream`); "
        "`auto`: memory, unless the copies that a node's processes hold exceed half of it",
    )
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


class Arm(Table):
    """One recipe under comparison: a name and what it changes in `train` and `augment`."""

    name: str = Field(pattern=NAME, description="the arm's name, also its folder's")
    train: dict[str, Any] = Field(default_factory=dict, description="overrides of `train`")
    augment: dict[str, Any] = Field(default_factory=dict, description="overrides of `augment`")


class Published(Table):
    """A row of a published table, shown beside ours."""

    study: str = Field(description="who published it")
    iterations: int = Field(ge=1, description="training length")
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

    name: str
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
        _ = self.recipes
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


def expand(path: str) -> Path:
    """Fill `$NAME` and `~` into a path of the experiment file and make it absolute."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        found = os.environ.get(name, DATA_HOME.get(name))
        if found is None:
            raise ConfigError(f"path {path!r}: environment variable {name} is not set. Set it or write the path out.")
        return found

    return Path(re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, path)).expanduser().absolute()


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
