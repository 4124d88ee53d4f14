"""One unit of work, how far it is and what it did: the files of a run that others read, held against their types."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter

# What files of a run may say, wherever the folder comes from: `from_json` of the types below takes nothing else.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]  # of an arm or file: it leads out of nowhere
Within = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)+$")]  # a folder inside
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]
Number = Annotated[float, Field(ge=-1e12, le=1e12)]  # sums of them are finite, too
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Budgets = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]


@dataclass(frozen=True)
class Trial:
    """One unit of work: an arm on a fold, up to its last budget. `folder` is relative to the run folder."""

    arm: Name
    fold: Count
    budgets: Budgets
    folder: Within

    @property
    def name(self) -> str:
        return self.folder

    @classmethod
    def from_json(cls, raw: Any) -> Trial:
        """Raises ValueError where `raw` describes none."""
        return _TRIAL.validate_python(raw)


@dataclass(frozen=True)
class Milestone:
    """What a trial knew when it reached a budget. Times in seconds; `train_seconds` excludes all but training.

    `held_out_accuracy` is the share of images whose class scores highest; multilabel: the share of stated labels on
    whose side of 0.5 the score lies; segmentation: the mean Dice over structures and images, 1 where the structure is
    neither there nor found. `held_out_loss` is the mean cross-entropy over the same images or labels, nats;
    segmentation: 1 - the mean Dice.
    """

    iterations: Count
    train_seconds: Seconds
    evaluate_seconds: Seconds
    held_out_loss: Number
    held_out_accuracy: Number


@dataclass(frozen=True)
class Progress:
    """`progress.json`: how far a trial is, about once a second. `updated` in seconds since 1970, by its own clock."""

    iteration: Count
    images: Count
    train_seconds: Seconds
    milestones: tuple[Count, ...]
    updated: Seconds
    process: str

    @classmethod
    def from_json(cls, raw: Any) -> Progress:
        """Raises ValueError where `raw` describes none."""
        return _PROGRESS.validate_python(raw)


@dataclass(frozen=True)
class FoldResult:
    """`result.json`: written last, so that its presence means that the trial is done.

    `run_hash` is that of the arm: what decides its numbers, other arms apart (`ledger.Identity.arm_hashes`). `files`
    maps each file the result vouches for to its sha256. `wall_seconds` spans every try from start to end;
    `setup_seconds` is the part before the first training step; `images_per_second` counts training only, of which
    `data_wait_seconds` were spent waiting for images on disk.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    arm: Name
    fold: Count
    budgets: Budgets
    run_hash: str
    train_images: Count
    test_images: Count
    milestones: tuple[Milestone, ...]
    setup_seconds: Seconds
    wall_seconds: Seconds
    images_per_second: Seconds
    device: str
    precision: str
    threads: Count
    tries: Count
    files: dict[Name, Sha256]
    data_wait_seconds: Seconds = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Any) -> FoldResult:
        """Raises ValueError where `raw` describes none."""
        return _RESULT.validate_python(raw)


_TRIAL, _PROGRESS, _RESULT = TypeAdapter(Trial), TypeAdapter(Progress), TypeAdapter(FoldResult)
