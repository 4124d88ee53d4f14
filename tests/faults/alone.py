"""A study in one process, without Ray: the same code from an experiment to its report, in a second or two.

`stand_in` puts something plain in place of each call of Ray's that a study makes, of the timed steps, and of the thread
that saves. `here` is for what forks, in place of the threads that train: a child has none of its parent's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
import ray.train.torch
import safetensors.torch
import torch
from torch import nn

from cxrtl.data import shards
from cxrtl.errors import TrialError
from cxrtl.learn import backbones, vision
from cxrtl.orchestrate import cluster, fold, group, growth, probe, sweep
from cxrtl.orchestrate.writer import Writer
from cxrtl.records import Plan, Prepared

EXPERIMENT = """
name = "small"
[data]
source = "phantom"
positive = "effusion"
image_size = 32
phantom_patients = 12
[folds]
kind = "holdout"
share = 0.4
[train]
backbone = "tiny"
init = "scratch"
budgets = [2, 3]
batch_size = 4
checkpoint_every = 1
views = 1
[resources]
cpus_per_fold = 1
images = "stream"
[[arm]]
name = "plain"
[[arm]]
name = "frozen"
train = {{ freeze = "backbone", init = "file:{weights}" }}
"""


class Silent:
    """A study's watcher."""

    def stage(self, text: str) -> None: ...
    def preparing(self, done: int, total: int) -> None: ...
    def planned(self, run: Any, plan: Plan) -> None: ...
    def training(self, run: Any) -> None: ...


class AtOnce(Writer):
    """Saves before training goes on: writes come in the same order every time."""

    def __call__(self, job: Callable[[], None]) -> None:
        super().__call__(job)
        self.wait()


def here(job: Callable[[], Any]) -> Future[Any]:
    done: Future[Any] = Future()
    try:
        done.set_result(job())
    except BaseException as fault:
        done.set_exception(fault)
    return done


class _Rows:
    """In place of a Ray dataset of rows."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self.rows = rows

    def flat_map(self, make: Callable[[Any], Iterable[Any]], **_: Any) -> _Rows:
        return _Rows(made for row in self.rows for made in make(row))

    def iter_rows(self) -> Iterator[Any]:
        return iter(self.rows)


class _Images:
    """In place of a Ray dataset of shards."""

    table: pa.Table

    def __init__(self, folder: str) -> None:
        self._paths = sorted(Path(folder).glob("*.parquet"))

    def select_columns(self, columns: Sequence[str]) -> _Images:
        self.table = pa.concat_tables(pq.read_table(path, columns=list(columns)) for path in self._paths)
        return self

    def materialize(self) -> _Images:
        return self

    def to_arrow_refs(self) -> list[pa.Table]:
        return [self.table]


def tiny(*, weights: None = None, num_classes: int = 2) -> nn.Module:
    features = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    parts = {"features": features, "flat": nn.Flatten(), "fc": nn.Linear(4, num_classes)}
    return nn.Sequential(OrderedDict(parts))


def begin(work: Path) -> Path:
    """Write the experiment and the weights that one of its arms starts from; returns the experiment's path."""
    torch.manual_seed(0)
    (work / "tiny.safetensors").write_bytes(safetensors.torch.save(tiny().state_dict()))
    (work / "small.toml").write_text(EXPERIMENT.format(weights=work / "tiny.safetensors"))
    return work / "small.toml"


ALONE = cluster.Node(1.0, 0.0, 1e12)


@contextmanager
def _connect(address: str | None, verbose: bool) -> Iterator[list[cluster.Node]]:
    yield [ALONE]


def _train(job: fold.Job, plan: Plan, images: list[pa.Table], at_once: int, verbose: bool = False) -> None:
    for trial in plan.todo:
        try:
            fold.fold_loop({"job": job, "trials": [trial], "images": images})
        except Exception as error:
            raise TrialError(group.describe(error, job.run.trial(trial) / "error.txt")) from None


def stand_in(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """`put` sets an attribute: for good, or as pytest's `monkeypatch.setattr` for a test."""
    tiny.__module__ = "torchvision.models.tiny"  # where the names of backbones are taken from
    known = (*backbones.names(), "tiny")
    put(vision.models._api, "BUILTIN_MODELS", {**vision.models._api.BUILTIN_MODELS, "tiny": tiny})
    put(backbones, "names", lambda: known)
    put(shards, "SLICE", 12)  # two shards
    put(ray.data, "from_items", lambda items, **_: _Rows(items))
    put(ray.data, "read_parquet", lambda folder, **_: _Images(folder))
    put(ray.train.torch, "get_device", None)  # on a CPU it is not asked: it would name a GPU where there is one
    put(ray, "cluster_resources", lambda: {"CPU": 1.0})
    put(cluster, "nodes", lambda: [ALONE])
    put(growth, "grows", lambda: False)
    put(ray, "put", lambda value: value)
    put(ray, "get", list)
    put(ray, "remote", lambda **_: lambda work: SimpleNamespace(remote=work))
    put(cluster, "connect", _connect)
    put(cluster, "spare_data_actors", lambda: None)
    put(probe.Prober, "time", lambda *_: probe.Probe("cpu", "", "fp32", 0.01, 1000))
    put(fold, "Writer", AtOnce)
    put(sweep, "run", _train)


def prepared_of(home: Path) -> Prepared:
    from cxrtl.data.prepared import open_prepared

    return open_prepared(next((home / "prepared").iterdir()), verify=True)
