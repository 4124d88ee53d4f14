"""A Ray cluster of three logical nodes in one process tree, one of which is lost on the way.

    python -m tests.orchestrate.nodes study EXPERIMENT.toml HOME [KEY=VALUE ...]
    python -m tests.orchestrate.nodes images FOLDER

A process of its own, for a process has one Ray. Prints as JSON what came of it.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster
from ray.experimental.locations import get_object_locations

from cxrtl import config
from cxrtl.config import Data
from cxrtl.data import feed
from cxrtl.data.prepared import shard_paths
from cxrtl.orchestrate import study
from tests.hosts import until
from tests.orchestrate import left
from tests.orchestrate.helpers import training

# A dead raylet counts as lost sooner than by default.
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 2}


class Nobody:
    """Watches a study without a word."""

    def stage(self, text: str) -> None: ...
    def preparing(self, done: int, total: int) -> None: ...
    def planned(self, run: Any, plan: Any) -> None: ...
    def training(self, run: Any) -> None: ...


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A head that offers no CPU; nodes that do are to be added."""
    made = Cluster(True, False, {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK})
    try:
        yield made
    finally:
        made.shutdown()


def lost_node(experiment: Path, home: Path, overrides: list[str]) -> dict[str, Any]:
    """A study on two nodes of one CPU each; the one that trains fold 0 is killed when it is beyond its first budget."""
    killed: list[str] = []
    with cluster() as made:
        workers = {made.add_node(num_cpus=1) for _ in range(2)}

        def kill() -> None:
            beat = until(lambda: training(home), 60)
            raylet = int(Path(f"/proc/{beat['process'].split()[0]}/stat").read_text().rpartition(")")[2].split()[1])
            mine = next(n for n in workers if n.all_processes["raylet"][0].process.pid == raylet)
            made.remove_node(mine, allow_graceful=False)
            killed.append(beat["process"])

        hand = threading.Thread(target=kill)
        hand.start()
        options = study.Options(home, "", address=made.address)
        study.run(config.load(experiment, overrides), options, Nobody())
        hand.join()
        left.connect(made.address)
        until(lambda: left.over() == left.NOTHING, 60)
        ray.shutdown()
    return {"killed": len(killed)}


def lost_images(home: Path) -> dict[str, Any]:
    """All images in the memory of one node; a trial's part of them is gathered when that node is gone."""
    with cluster() as made, ExitStack() as stack:
        first = made.add_node(num_cpus=1)
        session = study.Session(study.Options(home, "", address=made.address), stack)
        data = Data(source="phantom", positive="effusion", image_size=64, phantom_patients=150)
        prepared = study.prepare(data, home, session, Nobody())
        images = feed.images(prepared)
        places = get_object_locations(images)
        made.add_node(num_cpus=1)
        made.remove_node(first, allow_graceful=False)
        part = feed.collect(ray.get(images), prepared, [np.ones(prepared.images, dtype=bool)])[0]
    table = pq.read_table(shard_paths(prepared), columns=["image_id", "pixels"])
    assert part.pixels is not None
    return {
        "nodes": sorted({node for place in places.values() for node in place["node_ids"]}),
        "blocks": len(places),
        "same": part.index["image_id"].tolist() == table["image_id"].to_pylist()
        and part.pixels.tobytes() == b"".join(table["pixels"].to_pylist()),
    }


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    done = lost_node(Path(words[0]), Path(words[1]), words[2:]) if what == "study" else lost_images(Path(words[0]))
    print(json.dumps(done))
