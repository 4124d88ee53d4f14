"""Manifest to Parquet shards, through Ray Data: a task decodes a run of slices and writes a shard of each.

<out>/
  shards/part-00000.parquet, .json …    see `shards`
  skipped.parquet                       image_id, reason
  private/identities.parquet            image_id, path: for the researcher; see `private`
  dataset.json                          written last: its presence means that the set is whole

Only content hashes and reason codes come back to the driver, so memory stays flat however large the set.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import ray.data
from ray.data import ExecutionResources
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from cxrtl import rundir, storage
from cxrtl.config import Data
from cxrtl.data import private
from cxrtl.data.attributes import site_key
from cxrtl.data.ids import load_key
from cxrtl.data.images import REASONS, How
from cxrtl.data.prepared import DATASET, open_prepared, read_index, shard_paths, write_description
from cxrtl.data.shards import Layout, Shard, extra_types, make_shards, shard_name, slices
from cxrtl.data.sources.common import LISTED
from cxrtl.errors import ManifestError, PreparedError, SkippedError
from cxrtl.records import FlowStep, Manifest, Prepared, label_columns

__all__ = ["open_prepared", "prepare", "read_index", "shard_paths"]

Progress = Callable[[int, int], None]
_TELL_EVERY = 1.0  # seconds; each time costs Ray some milliseconds, here and in the driver
_REPORT = "This is a fault in cxrtl or a lack of memory; finished shards are kept"


def prepare(manifest: Manifest, data: Data, out: Path, *, on_progress: Progress | None = None) -> Prepared:
    """Decode every image of `manifest` into `out`, which all machines of the cluster must see; Ray must be running.

    Files that cannot be used become rows of `skipped.parquet`. After a crash the same call does only what is missing
    and gives the same bytes. `on_progress(done, total)` is called as slices complete, in images.

    Raises:
        SkippedError: more unusable files than `data.max_skipped`, or none left of a class.
        PreparedError: `out` cannot be written, or a worker died.
        RunError: `out` cannot be made; LockedError, another process prepares into it.
    """
    out, how = Path(out).absolute(), how_of(manifest, data)
    if manifest.frame.empty:
        raise ManifestError("there is not one image to prepare")
    with rundir.RunDir(out).lock():
        try:
            private.write_identities(manifest, out)
            shards = _all_shards(manifest, how, out, on_progress)
            _write_skipped(shards, out)
        except OSError as error:
            raise _cannot_write(out, error.strerror) from None
        finally:
            private.forget(out)
        prepared = _describe(manifest, how, out, shards)
        refuse_skipped(manifest, prepared, data.max_skipped)
        write_description(prepared, shards)
    return prepared


def how_of(manifest: Manifest, data: Data) -> How:
    """How the files of `manifest` are decoded."""
    attributes = tuple(name for name in data.taken_attributes if name not in manifest.frame)
    key = site_key(load_key()).hex() if "site" in attributes else ""
    decoding = {**data.decode.model_dump(), "channels": data.channels, "slices": data.slices}
    return How(data.image_size, **decoding, structures=len(data.structures), attributes=attributes, site_key=key)


def _all_shards(manifest: Manifest, how: How, out: Path, on_progress: Progress | None) -> list[Shard]:
    folder = out / "shards"
    folder.mkdir(exist_ok=True)
    storage.remove(out / DATASET)
    pieces = private.hide(slices(manifest, how.site_key), out)
    _remove_others(folder, len(pieces))
    extras = {**extra_types(manifest), **dict.fromkeys(how.attributes, "string")}
    layout = Layout(str(folder), replace(how, site_key=""), manifest.classes, extras)
    shards: dict[int, Shard] = {}
    done, total = 0, len(manifest.frame)
    for number, shard in _stream(pieces, layout):
        shards[number] = shard
        done += len(shard.hashes)
        if on_progress:
            on_progress(done, total)
    storage.pull(folder)
    absent = [shard.file for shard in shards.values() if not (folder / shard.file).is_file()]
    if absent:
        raise PreparedError(
            f"{len(absent)} shard(s) were written on another machine and are not in {folder}: let `out` be a folder "
            "that all machines of the cluster share"
        )
    return [shards[number] for number in range(len(pieces))]


def _remove_others(folder: Path, count: int) -> None:
    """Shards of an earlier, longer manifest, and parts that a killed worker left behind."""
    wanted = {Path(shard_name(number)).stem for number in range(count)}
    for path in [*folder.glob("part-*.parquet"), *folder.glob("part-*.json"), *folder.glob(".part-*.part")]:
        if path.is_file() and path.stem not in wanted:
            storage.remove(path)


def _stream(pieces: list[str], layout: Layout) -> Iterator[tuple[int, Shard]]:
    """Run `make_shards` on runs of slices, as CPUs come free; yields in the order of completion."""
    cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    items = [
        {"numbers": list(numbers), "pieces": [pieces[k] for k in numbers]} for numbers in shares(len(pieces), cpus)
    ]
    with _ray_data(cpus):
        rows = ray.data.from_items(items, override_num_blocks=len(items))
        made = rows.flat_map(partial(_task, layout=layout), num_cpus=1)
        try:
            for row in made.iter_rows():
                if row["write_fault"]:
                    raise _cannot_write(Path(layout.folder), row["write_fault"], row["file"])
                if row["fault"]:
                    raise PreparedError(f"a shard could not be made: {row['fault']}. {_REPORT}")
                yield from ((number, Shard(**shard)) for number, shard in json.loads(row["shards"]))
        except RayError as error:
            raise PreparedError(
                f"a worker that decodes images failed ({type(error).__name__}): out of memory or a lost machine? Run "
                "the same command again; finished shards are kept."
            ) from None


def shares(slices: int, cpus: int) -> list[range]:
    """Runs of slices, a task each: two thirds of what is left, in equal parts for all CPUs, and so on to single ones:
    few tasks do most, and no CPU waits long for another's at the end."""
    found: list[range] = []
    begin = 0
    while begin < slices:
        size = max(1, (slices - begin) * 2 // (3 * cpus))
        for first in range(begin, min(begin + size * cpus, slices), size):
            found.append(range(first, min(first + size, slices)))
        begin = found[-1].stop
    return found


def _task(row: dict[str, Any], layout: Layout) -> Iterator[dict[str, Any]]:
    """A run of slices in a Ray worker; what is done is told of at the end and about every `_TELL_EVERY`. One whose
    worker dies starts again, and finds what is made. Faults come back as text, the last of the run: Ray would log a
    raised one, with the slice's paths."""
    told = {"shards": "[]", "file": "", "write_fault": "", "fault": ""}
    done: list[tuple[int, dict[str, Any]]] = []
    since = time.monotonic()
    try:
        for number, shard in make_shards(zip(row["numbers"], row["pieces"], strict=True), layout):
            done.append((number, vars(shard)))
            if time.monotonic() - since >= _TELL_EVERY:
                yield {**told, "shards": json.dumps(done)}
                done, since = [], time.monotonic()
        if done:
            yield {**told, "shards": json.dumps(done)}
    except OSError as error:
        file = Path(error.filename or "a shard").name
        yield {**told, "file": file, "write_fault": error.strerror or type(error).__name__}
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        yield {**told, "fault": f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"}


@contextmanager
def _ray_data(cpus: int) -> Iterator[None]:
    """No progress bars, execution plans or warnings on the console; each row as it comes, for the progress; and a task
    more a CPU than there is room for: Ray runs it as soon as one has ended, which Ray Data sees some tenths of a second
    later. Ray Data also counts the cluster's CPUs a second after its beginning, and until then takes them for none."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    quiet = {"enable_progress_bars": False, "print_on_execution_start": False, "target_max_block_size": 1}
    ours: list[tuple[Any, str, Any]] = [(context, name, value) for name, value in quiet.items()]
    if hasattr(context.execution_options, "exclude_resources"):  # Ray means to take it away
        ours.append((context.execution_options, "exclude_resources", ExecutionResources(cpu=-cpus)))
    before, level = [(where, name, getattr(where, name)) for where, name, _ in ours], logger.level
    logger.setLevel(logging.ERROR)
    try:
        _set(ours)
        yield
    finally:
        _set(before)
        logger.setLevel(level)


def _set(values: list[tuple[Any, str, Any]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)
        for where, name, value in values:
            setattr(where, name, value)


def _write_skipped(shards: list[Shard], out: Path) -> None:
    skipped = [row for shard in shards for row in shard.skipped]
    columns = {"image_id": [image for image, _ in skipped], "reason": [reason for _, reason in skipped]}
    schema = pa.schema([("image_id", pa.string()), ("reason", pa.string())])
    rundir.write_table(out / "skipped.parquet", pa.table(columns, schema=schema))


def _describe(manifest: Manifest, how: How, out: Path, shards: list[Shard]) -> Prepared:
    hashes = [digest for shard in shards for digest in shard.hashes]
    frame = manifest.frame.assign(content_hash=np.array(hashes, object))
    if how.structures:
        frame["mask"] = [digest for shard in shards for digest in shard.masks]
    frame = frame.dropna(subset="content_hash")
    groups = frame["patient_id"].factorize()[0]  # numbered by first appearance: no identifier enters the hash
    rows = list(zip(frame["content_hash"], _labels(manifest, frame), groups.tolist(), strict=True))
    skipped = dict(sorted(Counter(reason for shard in shards for _, reason in shard.skipped).items()))
    shape = how.size if how.aspect == "stretch" else [how.size, how.aspect]
    if how.channels > 1:
        shape = [shape, how.channels]
    return Prepared(
        folder=out,
        classes=manifest.classes,
        image_size=how.size,
        images=len(frame),
        grouped=bool((manifest.frame["patient_id"] != "").all()),
        dataset_hash=rundir.content_hash([shape, manifest.classes, rows]),
        skipped=skipped,
        counts=_counts(manifest, frame, shards),
        flow=_flow(manifest, dict(row for shard in shards for row in shard.skipped)),
        task=manifest.task,
        channels=how.channels,
    )


def _labels(manifest: Manifest, frame: pd.DataFrame) -> list[Any]:
    """What the dataset's hash holds of each image's label: its class, its label of each finding, or its mask's hash."""
    if manifest.task == "segmentation":
        return frame[["label", "mask"]].to_numpy().tolist()
    if manifest.task != "multilabel":
        return frame["label"].tolist()
    stated = frame[label_columns(manifest.classes)]
    return stated.astype(object).where(stated.notna(), None).to_numpy().tolist()


def _counts(manifest: Manifest, frame: pd.DataFrame, shards: list[Shard]) -> dict[str, int]:
    if manifest.task == "segmentation":
        return {name: sum(shard.present[k] for shard in shards) for k, name in enumerate(manifest.classes)}
    if manifest.task == "multilabel":
        return {name: int((frame[f"label_{name}"] == 1).sum()) for name in manifest.classes}
    return {name: int((frame["label"] == name).sum()) for name in manifest.classes}


def _flow(manifest: Manifest, skipped: dict[str, str]) -> tuple[FlowStep, ...]:
    """The manifest's steps, then one for each reason of `skipped`, image id → reason."""
    left = manifest.frame[["image_id", "patient_id"]]
    steps = list(manifest.flow) or [FlowStep.of(LISTED, 0, left["patient_id"].tolist())]
    for reason in sorted(set(skipped.values())):
        out = left["image_id"].map(skipped) == reason
        left = left[~out]
        steps.append(FlowStep.of(f"unusable: {REASONS[reason]}", int(out.sum()), left["patient_id"].tolist()))
    return tuple(steps)


def refuse_skipped(manifest: Manifest, prepared: Prepared, max_skipped: float) -> None:
    """Raises SkippedError where more of `manifest` is unusable than `max_skipped`, a share, or all of a class."""
    skipped, total = sum(prepared.skipped.values()), len(manifest.frame)
    reasons = ", ".join(f"{reason} {count}" for reason, count in prepared.skipped.items())
    where = (
        f"{prepared.folder / 'skipped.parquet'} lists them by id, {prepared.folder / 'private/identities.parquet'} has "
        "their paths"
    )
    if skipped > max_skipped * total:
        raise SkippedError(
            f"{skipped} of {total} files cannot be used ({reasons}), more than data.max_skipped = {max_skipped:g} "
            f"allows: mend or remove them, or raise max_skipped. {where}."
        )
    empty = [name for name, count in prepared.counts.items() if not count]
    if empty:
        raise SkippedError(f"no usable image is left of {empty} ({reasons}): mend the files. {where}.")


def _cannot_write(place: Path, reason: str | None, name: str = "the prepared set") -> PreparedError:
    return PreparedError(
        f"{name} could not be written in {storage.name(place)}: {reason or 'unknown reason'}. Make room there or "
        "choose another folder, then run the same command again; finished shards are kept."
    )
