"""Where each file of a run lives, and how it is written so that a crash at any moment leaves a readable folder.

runs/<name>/
  experiment.toml experiment.resolved.json environment.json folds.parquet leakage.json audit.json data.json plan.json
  samples.parquet subjects.parquet lookalikes.parquet
  <arm>/fold<k>/  weights-<iterations>.safetensors  state.json  curve.jsonl  predictions-<iterations>.parquet
                  masks-<iterations>.parquet (segmentation: `image_id` and the `mask` found, a byte a pixel)
                  progress.json  result.json (written last: its presence, with the hashes it names, means done)
  summary.json  report.html  report.md  reporting.md  figures/
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxrtl import lease, storage
from cxrtl.errors import DamagedError, LockedError, RunError
from cxrtl.parts import drop_parts as drop_parts
from cxrtl.parts import part_of
from cxrtl.predictions import Predictions
from cxrtl.records import FoldResult, Task, Trial

_NUMBERS = ("score", "label", "truth", "predicted", "shared", "hausdorff95", "repeat")  # how columns of numbers begin
LOCK_TRIES = 10
guards: dict[Path, Callable[[], None]] = {}  # by folder: called before a file appears there; raises to keep it out
LARGEST_JSON = 256 * 2**20  # bytes; a run's largest is its plan
MOST_ROWS = 50_000_000  # of a table: a small file may claim any number


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(value: Any) -> str:
    """sha256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, flush it to disk and rename it into place, in a mirror once the storage
    has it.

    A reader sees the old file or the new one, never a part. A failure leaves `path` as it was and removes the part.
    """
    part = part_of(path)
    if storage.at(path):  # this machine's mirror may lack the folder
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        require_mine(path.parent)
        storage.push(part, path)
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):  # a write says what is wrong, but not with which file
            raise OSError(error.errno, error.strerror, storage.name(path)) from error
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def require_mine(folder: Path) -> None:
    """Raise what the folder's guard does where this process may no longer change it."""
    guards.get(folder, lambda: None)()


def write_bytes(path: Path, data: bytes) -> str:
    """Write atomically; returns the sha256."""
    write_atomic(path, lambda part: part.write_bytes(data))
    return hashlib.sha256(data).hexdigest()


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def write_table(path: Path, table: pa.Table) -> None:
    write_atomic(path, lambda part: pq.write_table(table, part))


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """A table without pandas' own metadata."""
    write_table(path, pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None))


def read_json(path: Path) -> Any:
    """Raises DamagedError, naming the file, where it is missing, no JSON, or holds numbers that none of ours does."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError("size")
        return json.loads(path.read_bytes(), parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except FileNotFoundError:
        raise DamagedError(f"{path.name} is missing in {path.parent}") from None
    except (ValueError, RecursionError):
        raise DamagedError(f"{path.name} in {path.parent} is no valid JSON: delete it to have it made again") from None


def _whole(text: str) -> int:
    if len(text) > 19:
        raise ValueError(text)
    return int(text)


def _finite(text: str) -> float:
    if not abs(value := float(text)) < 1e18:  # sums of them are finite, too
        raise ValueError(text)
    return value


def read_result(path: Path) -> FoldResult:
    """A `result.json`; whether its files are those it names is for the reader to see.

    Raises:
        DamagedError: it is missing or none.
    """
    raw = read_json(path)
    try:
        return FoldResult.from_json(raw)
    except ValueError:
        raise DamagedError(
            f"{path.name} in {path.parent} is no result of this version: delete its folder and run again"
        ) from None


def read_table(path: Path, text: Iterable[str] = (), whole: Iterable[str] = ()) -> pa.Table:
    """A Parquet file that has the columns `text` of strings and `whole` of integers, without gaps, whatever else.

    Raises:
        DamagedError: it is missing, no such table, or claims more than `MOST_ROWS`.
    """
    try:
        if pq.read_metadata(path).num_rows > MOST_ROWS:
            raise pa.ArrowInvalid("rows")
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        raise DamagedError(f"{path.name} in {path.parent} is missing or no Parquet file") from None
    kinds = dict.fromkeys(text, "text") | dict.fromkeys(whole, "whole numbers")
    for name, kind in kinds.items():
        index = table.schema.get_field_index(name)
        of = table.schema.field(index).type if index >= 0 else pa.null()
        fits = pa.types.is_integer(of) if kind != "text" else pa.types.is_string(of) or pa.types.is_large_string(of)
        if not fits or table.column(index).null_count:
            raise DamagedError(f"{path.name} in {path.parent} lacks a column {name!r} of {kind}")
    return table


def write_predictions(path: Path, predictions: Predictions) -> None:
    table = pa.Table.from_pandas(predictions.frame, preserve_index=False)
    about = {"classes": json.dumps(predictions.classes), "task": predictions.task}
    write_table(path, table.replace_schema_metadata(about))


def read_predictions(path: Path) -> Predictions:
    """Raises DamagedError for a file that is no predictions table."""
    table = read_table(path, text=("image_id", "patient_id", "arm", "label"), whole=("fold", "iterations"))
    try:
        about = table.schema.metadata or {}
        classes = tuple(str(name) for name in json.loads(about[b"classes"]))
        task = about.get(b"task", b"binary").decode()
        if task not in get_args(Task):
            raise ValueError(task)
        for field in table.schema:
            numbers = field.name.partition("_")[0] in _NUMBERS and field.name != "label"
            if numbers and not pa.types.is_floating(field.type):
                wanted = pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
                if not wanted or table[field.name].null_count:
                    raise TypeError(field.name)
    except (KeyError, ValueError, TypeError):
        raise DamagedError(f"{path.name} in {path.parent} is no predictions table") from None
    return Predictions(_plain(table), classes, task)


def _plain(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()
    return frame


@dataclass(frozen=True)
class RunDir:
    """The folder of one run. Paths only; nothing is read or made until asked."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    def path(self, *parts: str) -> Path:
        return self.root.joinpath(*parts)

    def trial(self, trial: Trial) -> Path:
        return self.root / trial.folder

    def results(self) -> list[FoldResult]:
        """Every finished trial's result, unverified, in folder order."""
        return [read_result(path) for path in sorted(self.root.glob("*/fold*/**/result.json"))]

    def planned(self) -> tuple[Trial, ...]:
        """The trials of `plan.json`. Raises DamagedError where it is missing or no plan."""
        raw = read_json(self.path("plan.json"))
        try:
            return tuple(Trial.from_json(item) for item in raw["trials"])
        except (ValueError, KeyError, TypeError):
            raise DamagedError(f"plan.json in {self.root} is no plan of this version: run again") from None

    def result(self, trial: Trial, run_hash: str) -> FoldResult | None:
        """The trial's result where it is done; None where it is not. `run_hash` is its arm's (see `FoldResult`).

        A result of another experiment, or one whose files do not match their hashes, counts as not done: the trial
        is run again.
        """
        folder = self.trial(trial)
        if not (folder / "result.json").exists():
            return None
        try:
            result = read_result(folder / "result.json")
            intact = all(sha256_file(folder / name) == digest for name, digest in result.files.items())
        except (DamagedError, OSError):
            return None
        wanted = (run_hash, trial.arm, trial.fold, trial.budgets)
        same = (result.run_hash, result.arm, result.fold, result.budgets) == wanted
        return result if intact and same else None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process, with all that it has at a storage pulled; the kernel, or whoever looks next
        at the storage, lets go when it ends, however it ends.

        Raises:
            LockedError: another process holds it.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = self.path("lock").open("a+b", buffering=0)  # no buffer that a full disk would refuse on closing
        except OSError as error:
            raise self._cannot_write(error) from None
        with file:
            for attempt in range(LOCK_TRIES):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:  # held by a run, or for an instant by somebody looking at its status
                    time.sleep(0.1 if attempt < LOCK_TRIES - 1 else 0)
            else:
                file.seek(0)
                owner = file.read().decode() or "?"
                raise LockedError(f"run {self.name!r} is being written by process {owner}: wait for it or stop it")
            try:
                file.truncate(0)
                file.write(f"{os.getpid()} on {os.uname().nodename}".encode())
                drop_parts(self.root)
            except OSError as error:
                raise self._cannot_write(error) from None
            with lease.hold(self.root) as check:
                guards[self.root] = check
                try:
                    storage.pull(self.root)
                    yield
                finally:
                    del guards[self.root]

    def host(self) -> str:
        """The machine whose process held the run last, or holds it; "" where none has."""
        try:
            return self.path("lock").read_text(encoding="utf-8", errors="replace").partition(" on ")[2].strip()
        except OSError:
            return ""

    def _cannot_write(self, error: OSError) -> RunError:
        return RunError(f"run folder {self.root} cannot be written: {error.strerror}")

    def locked(self) -> bool:
        """Whether a living process holds the run."""
        try:
            with self.path("lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return lease.held(self.root)
