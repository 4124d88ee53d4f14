"""`explain/explain.json` of a run folder: what was explained and whether the maps can be trusted. No identifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxrtl.errors import DamagedError
from cxrtl.rundir import RunDir, read_json, sha256_file, write_json

FOLDER, FILE = "explain", "explain.json"
_PNG = r"^[a-z]+-\d{2,3}\.png$"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Picture(_Record):
    """A PNG in the folder, with its sha256: a held-out image beside itself under its map."""

    file: str = Field(pattern=_PNG)
    sha256: str
    explained: str  # the class whose score the map is of
    cell: Literal["tp", "fn", "fp", "tn"]
    why: Literal["most certain", "nearest the threshold"]
    label: str
    score: float
    fold: int


class Mean(_Record):
    """The mean map of the images of a class, over their mean image."""

    file: str = Field(pattern=_PNG)
    sha256: str
    label: str
    explained: str
    images: int


class Randomised(_Record):
    """How alike maps stay with a share of the layers, from the last on, untrained: Spearman's, over images."""

    share: float
    correlation: float | None
    sd: float | None
    images: int


class Region(_Record):
    """Maps of one class against regions drawn by people: share of maps whose peak lies inside (with Wilson's interval),
    mean share of the map inside, and the mean area of the regions, which is what a blind map would reach."""

    label: str
    images: int
    hits: float
    low: float
    high: float
    energy: float
    area: float


class Explained(_Record):
    """Everything in the folder; `rule` says how the images were chosen."""

    version: Literal[1]
    run_hash: str
    arm: str
    iterations: int
    layer: str
    rule: str
    pictures: tuple[Picture, ...]
    means: tuple[Mean, ...]
    randomised: tuple[Randomised, ...]
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class Gallery:
    """What was explained, and the bytes of each picture by file name."""

    found: Explained
    png: dict[str, bytes]


def write_explained(run: RunDir, found: Explained) -> None:
    """Write `explain.json`, last of the folder."""
    write_json(run.path(FOLDER, FILE), found.model_dump(mode="json"))


def read_gallery(run: RunDir) -> Gallery | None:
    """The run's explanations; None where there are none.

    Raises:
        DamagedError: the file is of another run or version, or a picture is not the one it names.
    """
    if not run.path(FOLDER, FILE).exists():
        return None
    again = "run `cxrtl explain` again"
    try:
        found = Explained.model_validate(read_json(run.path(FOLDER, FILE)))
    except ValidationError as error:
        raise DamagedError(f"{FOLDER}/{FILE} is not of this version ({error.error_count()} faults): {again}") from None
    png = {}
    pictures: tuple[Picture | Mean, ...] = (*found.pictures, *found.means)
    for item in pictures:
        path = run.path(FOLDER, item.file)
        if path.is_symlink() or not path.is_file() or sha256_file(path) != item.sha256:
            raise DamagedError(f"{FOLDER}/{item.file} is not the picture that {FILE} names: {again}")
        png[item.file] = path.read_bytes()
    return Gallery(found, png)
