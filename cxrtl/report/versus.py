"""One run against another on the same held-out images, or against a published table: `compare.html`, `.md`, `.json`."""

from __future__ import annotations

import csv
import tomllib
from pathlib import Path
from typing import TypedDict

from pydantic import TypeAdapter, ValidationError

from cxrtl.config import Published
from cxrtl.errors import ConfigError, PredictionsError
from cxrtl.evaluate.compare import unpaired
from cxrtl.evaluate.estimates import Estimate
from cxrtl.evaluate.intervals import LEVEL
from cxrtl.evaluate.judge import judge
from cxrtl.evaluate.paired import common
from cxrtl.predictions import Predictions
from cxrtl.records import Task, held_out
from cxrtl.report.contrast import adjusted, published_rows, with_parts
from cxrtl.report.load import Loaded
from cxrtl.report.measures import value, value_of
from cxrtl.report.numbers import plural
from cxrtl.report.shape import DifferenceRow, PublishedRow, Value
from cxrtl.report.summary import build
from cxrtl.report.vocabulary import columns

COMPARISON_VERSION = 2
UNPAIRED = (
    "The runs count as independent samples: each interval comes from the two sides' own (MOVER, Zou & Donner 2008), "
    "and there is no paired test. Where the runs share patients this is too cautious; where their images differ, so "
    "may the difficulty of the task, and no interval covers that."
)
Place = tuple[str, int]  # an arm and a budget


class Side(TypedDict):
    """One of the two: a run with its hashes, or a published table (hashes empty)."""

    name: str
    run_hash: str
    dataset_hash: str
    folds_hash: str
    images: int


class Entry(TypedDict):
    """An arm at a budget of one run with its metrics, as in `Row`."""

    run: str
    arm: str
    iterations: int
    images: int
    metrics: dict[str, Value]


class Comparison(TypedDict):
    """Everything the page says. `first` and `second` of `differences` are arms; `published` is empty between runs."""

    version: int
    task: Task
    columns: list[str]
    level: float
    paired: bool
    first: Side
    second: Side
    entries: list[Entry]
    differences: list[DifferenceRow]
    published: list[PublishedRow]


def said(found: Comparison) -> str:
    """What is set side by side, in a sentence."""
    if found["published"]:
        return f"Published values against the intervals of {found['first']['name']}."
    images = plural(found["first"]["images"], "held-out image")
    if found["paired"]:
        return f"Paired on the same {images} in the same folds."
    return f"Unpaired: {images} of the first run against {found['second']['images']:,} of the second."


def compare_runs(first: Loaded, second: Loaded, ask_unpaired: bool = False) -> Comparison:
    """Every arm and budget of the same name in both runs; where there is none, the headline of each.

    Paired on common images by default. With `ask_unpaired` the runs count as independent samples, which is too
    cautious where they share patients.

    Raises:
        PredictionsError: the classes differ; or, unless `ask_unpaired`, the images, labels or folds do.
    """
    tops = first.experiment.report.top_k
    if (first.predictions.task, first.predictions.classes) != (second.predictions.task, second.predictions.classes):
        raise PredictionsError(
            f"the runs tell different classes apart: {first.predictions.classes} and {second.predictions.classes}"
        )
    if not ask_unpaired:
        _require_same_folds(first, second)
    entries, differences = [], []
    for here, there in _places(first, second):
        parts = [run.predictions.select(*place) for run, place in ((first, here), (second, there))]
        found = [judge(part, tops).metrics for part in parts]
        for run, place, part, metrics in zip(_names(first, second), (here, there), parts, found, strict=True):
            entries.append(_entry(run, place, part, metrics))
        names = here[0], there[0]
        if ask_unpaired:
            differences.append(_apart(names, there[1], parts, found))
        else:
            differences += with_parts(first, *names, there[1], common(*parts))
    return Comparison(
        version=COMPARISON_VERSION,
        task=first.predictions.task,
        columns=columns(first.predictions.task, list(entries[0]["metrics"])),
        level=LEVEL,
        paired=not ask_unpaired,
        first=_side(first),
        second=_side(second),
        entries=entries,
        differences=adjusted(differences),
        published=[],
    )


def compare_published(ours: Loaded, path: Path) -> Comparison:
    """Each published row against every arm of the same length: inside our interval, above or below it."""
    summary, rows = build(ours), read_published(path)
    return Comparison(
        version=COMPARISON_VERSION,
        task=summary["task"],
        columns=summary["columns"],
        level=LEVEL,
        paired=False,
        first=_side(ours),
        second=Side(name=path.name, run_hash="", dataset_hash="", folds_hash="", images=0),
        entries=[
            Entry(
                run=ours.experiment.name,
                arm=row["arm"],
                iterations=row["iterations"],
                images=row["images"],
                metrics=row["metrics"],
            )
            for row in summary["rows"]
        ],
        differences=[],
        published=published_rows(rows, summary["rows"]),
    )


def read_published(path: Path) -> tuple[Published, ...]:
    """The rows of a published table: CSV with the columns of `Published`, or TOML with `[[published]]` tables.

    Raises:
        ConfigError: the file cannot be read, or holds faults; names each.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".toml":
            raw = tomllib.loads(text).get("published", [])
        else:
            raw = [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(text.splitlines())]
        found = TypeAdapter(tuple[Published, ...]).validate_python(raw)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"published table {path.name!r} cannot be read: {error}") from None
    except ValidationError as error:
        faults = [f"  row {item['loc'][0]}, {item['loc'][-1]}: {item['msg']}" for item in error.errors()]
        listed = "\n".join(faults)
        raise ConfigError(f"published table {path.name!r} holds faults (shares lie in 0 … 1):\n{listed}") from None
    if not found:
        raise ConfigError(f"published table {path.name!r} has no rows: CSV with a header, or [[published]] in TOML")
    return found


def _require_same_folds(first: Loaded, second: Loaded) -> None:
    one, two = (held_out(run.folds) for run in (first, second))
    both = one.merge(two, on=["image_id", "repeat"], how="outer", suffixes=("", "_other"))
    alone = int(both[["fold", "fold_other"]].isna().any(axis=1).sum())
    shared = both.dropna(subset=["fold", "fold_other"])
    moved = int((shared["fold"] != shared["fold_other"]).sum())
    renamed = int((shared["label"] != shared["label_other"]).sum())
    if alone or moved or renamed:
        raise PredictionsError(
            f"the runs were not made on the same folds: of {len(both)} images {alone} are in one run only, {moved} "
            f"stand in different folds and {renamed} have different labels. Run one on the other's folds (folds.file), "
            "or compare them as independent samples (--unpaired)"
        )


def _places(first: Loaded, second: Loaded) -> list[tuple[Place, Place]]:
    ours, theirs = (
        [(recipe.name, length) for recipe in run.recipes for length in recipe.train.budgets] for run in (first, second)
    )
    common = [(place, place) for place in ours if place in theirs]
    if common:
        return common
    heads = [(run.recipes[0].name, run.recipes[0].train.budgets[-1]) for run in (first, second)]
    return [(heads[0], heads[1])]


def _names(first: Loaded, second: Loaded) -> tuple[str, str]:
    """The runs' names, told apart where they are the same."""
    one, two = first.experiment.name, second.experiment.name
    return (one, two) if one != two else (f"{one} (first)", f"{two} (second)")


def _side(run: Loaded) -> Side:
    return Side(
        name=run.experiment.name,
        run_hash=str(run.resolved["run_hash"]),
        dataset_hash=str(run.resolved["dataset"].get("dataset_hash", "")),
        folds_hash=str(run.resolved.get("folds_hash", "")),
        images=held_out(run.folds)["image_id"].nunique(),
    )


def _entry(run: str, place: Place, part: Predictions, found: dict[str, Estimate]) -> Entry:
    metrics = {name: value_of(item) for name, item in found.items()}
    return Entry(run=run, arm=place[0], iterations=place[1], images=part.frame["image_id"].nunique(), metrics=metrics)


def _apart(
    names: tuple[str, str], iterations: int, parts: list[Predictions], found: list[dict[str, Estimate]]
) -> DifferenceRow:
    gaps = {name: unpaired(found[0][name], found[1][name]) for name in found[0]}
    return DifferenceRow(
        first=names[0],
        second=names[1],
        part="",
        iterations=iterations,
        images=sum(len(part.frame) for part in parts),
        metrics={name: value(gap.value, gap.interval) for name, gap in gaps.items() if gap},
        tests={},
    )
