"""What a run's JSON files must say, by type: all that the report reads of them, whoever wrote them.

Fields of other versions are left out, missing ones filled in; one of another type is a fault of the file.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from cxrtl.config import Experiment, Recipe
from cxrtl.records import FlowStep
from cxrtl.trials import Count, Seconds

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Start(Record):
    """The weights that an arm started from, in `experiment.resolved.json`."""

    source: str = ""
    file: str = ""
    sha256: Hash = ""


class Earlier(Record):
    """A stage that an arm came from, likewise."""

    stage: int | str = ""
    run: str = ""
    run_hash: Hash = ""
    weights_sha256: Hash = ""
    data_hash: Hash = ""
    classes: tuple[str, ...] = ()
    images: Count | None = None
    patients: Count | None = None
    iterations: Count | None = None
    rule: str = ""
    init: str = ""
    init_sha256: Hash = ""


class ResolvedDataset(Record):
    """What was prepared, in `experiment.resolved.json`."""

    dataset_hash: Hash = ""
    classes: tuple[str, ...] = Field(min_length=1)
    counts: dict[str, Count] = {}
    skipped: dict[str, Count] = {}
    flow: tuple[FlowStep, ...] = ()
    grouped: bool = False
    image_size: int | None = Field(None, ge=1, le=4096)


class Resolved(Record):
    """`experiment.resolved.json`, as far as it is read here."""

    run_hash: Hash
    arm_hashes: dict[str, Hash]
    experiment: Experiment
    recipes: tuple[Recipe, ...] = Field(min_length=1)
    dataset: ResolvedDataset
    folds_hash: Hash = ""
    weights: dict[str, Start | None] = {}
    lineage: dict[str, tuple[Earlier, ...]] = {}
    device: str = "not recorded"
    precision: str = "not recorded"
    threads: int | None = None
    command: str = ""


class Certificate(Record):
    """`leakage.json`, as far as it is read here."""

    passed: bool = False
    grouped: bool = False
    folds_hash: str = ""
    dataset_hash: str = ""
    checks: list[dict[str, Any]] = []
    notes: list[str] = []


class Session(Record):
    """One entry of `sessions.json`."""

    started: str = ""
    wall_seconds: Seconds | None = None
    prepare_seconds: Seconds | None = None
    launch_seconds: Seconds | None = None
