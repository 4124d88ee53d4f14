"""What of `summary.json` was computed again, and equal: `test_recompute` asks that no number is left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recompute.again import Bootstrap, Bounds, Called
from recompute.judged import Areas, Judge

BCA = "patient bootstrap (BCa)"
APART = 4.5  # standard errors, of two bootstraps together: some hundred bounds are compared
Path_ = tuple[str | int, ...]


@dataclass
class Claims:
    """A run folder, read plainly, and its summary."""

    root: Path
    summary: dict[str, Any]
    done: set[Path_] = field(default_factory=set)

    def json(self, name: str) -> Any:
        return json.loads((self.root / name).read_text())

    @cached_property
    def resolved(self) -> dict[str, Any]:
        return self.json("experiment.resolved.json")

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.root.glob("*/fold*/**/result.json"))]

    @cached_property
    def frame(self) -> pd.DataFrame:
        paths = sorted(self.root.glob("*/fold*/**/predictions-*.parquet"))
        return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)

    @cached_property
    def folds(self) -> pd.DataFrame:
        return pd.read_parquet(self.root / "folds.parquet")

    @property
    def held(self) -> pd.DataFrame:
        """A row for each image and repeat that holds it out."""
        columns = [name for name in self.folds if name == "fold" or str(name).startswith("fold_")]
        named = self.folds.rename(columns={"fold": "fold_0"})
        long = named.melt("image_id", ["fold_0", *columns[1:]], "repeat", "fold")
        return long[long["fold"] >= 0]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        if self.summary["task"] == "segmentation":
            return tuple(str(name).removeprefix("truth_") for name in self.frame if str(name).startswith("truth_"))
        return tuple(self.resolved["dataset"]["classes"])

    def judge(self, arm: str, iterations: int, rows: pd.Series[bool] | None = None) -> Judge:
        frame = self.frame
        chosen = frame[(frame["arm"] == arm) & (frame["iterations"] == iterations)]
        if rows is not None:
            chosen = chosen[rows[chosen["image_id"]].to_numpy()]
        tops = tuple(self.resolved["experiment"]["report"]["top_k"])
        return Judge(chosen.sort_values("image_id", kind="stable"), self.summary["task"], self.classes, tops)

    def at(self, path: Path_) -> Any:
        found: Any = self.summary
        for key in path:
            found = found[key]
        return found

    def same(self, wanted: Any, *path: str | int, within: float = 1e-9) -> None:
        """The summary holds `wanted` at `path`: a number, None, or lists and dictionaries of them."""
        found = self.at(path)
        if isinstance(wanted, dict):
            assert list(found) == list(wanted) or set(found) == set(wanted), (path, found)
            for key, item in wanted.items():
                self.same(item, *path, key, within=within)
        elif isinstance(wanted, list):
            assert len(found) == len(wanted), path
            for place, item in enumerate(wanted):
                self.same(item, *path, place, within=within)
        else:
            number = isinstance(wanted, int | float) and not isinstance(wanted, bool)
            assert found == (pytest.approx(float(wanted), rel=1e-9, abs=within) if number else wanted), path
            self.done.add(path)

    def bounds(self, wanted: Bounds | None, *path: str | int) -> None:
        """The interval of the value at `path`."""
        low, high = wanted or (None, None)
        self.same(low, *path, "low", within=1e-6)
        self.same(high, *path, "high", within=1e-6)

    def resampled(self, drawn: Bootstrap, name: str, *path: str | int) -> None:
        """The interval by another bootstrap: as near as two of 2000 draws each come to each other."""
        least, most = drawn.bca(name, off=-APART), drawn.bca(name, off=APART)
        slack = 0.05 * (most[1] - least[0])  # between the few draws of a tail
        for end, low, high in zip(("low", "high"), least, most, strict=True):
            assert low - slack <= self.at(path)[end] <= high + slack, (path, end, low, self.at(path)[end], high)
            self.done.add((*path, end))

    def values(self, judge: Judge, *path: str | int, part: str = "") -> None:
        """A dictionary of measures with their intervals: the whole's, or those of one class of several."""
        points = judge.part_points(part) if part else judge.points()
        drawn = cache(lambda: judge.bootstrap(judge.part_weighted(part) if part else judge.weighted()))
        own = judge.part(part or judge.classes[-1])
        for name in self.at(path):
            self.same(points[name], *path, name, "value")
            top = judge.among(int(name[3:]), judge.repeats[0]) if name.startswith("top") else None
            self.interval(drawn, top or own, judge.several, name, *path, name)

    def interval(
        self, drawn: Callable[[], Bootstrap], own: Called | Areas, several: bool, name: str, *path: str | int
    ) -> None:
        """By the method that the summary names; only a bootstrap that has nothing to say may be replaced."""
        item = self.at(path)
        if item["value"] is None:
            self.bounds(None, *path)
        elif item["method"] == BCA:
            self.resampled(drawn(), name, *path)
        elif item["method"] is None:
            assert drawn().silent(name), path
            self.bounds(None, *path)
        elif item["method"] == "mean of the parts' bounds":
            assert drawn().silent(name), path
            parts = [part["metrics"][name.removeprefix("macro_")] for part in self.at(path[:-2])["parts"]]
            known = [part for part in parts if part["value"] is not None]
            low, high = (sum(part[end] for part in known) / len(known) for end in ("low", "high"))
            self.bounds((low, high), *path)
        else:
            assert isinstance(own, Called) and (not several or drawn().silent(name)), path
            self.bounds(own.bounds("accuracy" if name.startswith("top") else name, item["method"]), *path)

    def left(self) -> list[Path_]:
        """The numbers that nothing was compared with."""

        def walk(value: Any, path: Path_) -> Iterator[Path_]:
            items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
            for key, item in items:
                yield from walk(item, (*path, key))
            if isinstance(value, int | float) and not isinstance(value, bool) and path not in self.done:
                yield path

        return list(walk(self.summary, ()))


def positives(judge: Judge, name: str) -> tuple[int, int]:
    """Images where the class, finding or structure is stated, and those that have it."""
    frame = judge.frame.drop_duplicates("image_id")
    if judge.task == "segmentation":
        return len(frame), int((frame[f"truth_{name}"] > 0).sum())
    if judge.task == "multilabel":
        return int(frame[f"label_{name}"].notna().sum()), int((frame[f"label_{name}"] == 1).sum())
    return len(frame), int((frame["label"] == name).sum())
