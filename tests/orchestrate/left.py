"""What is on a Ray cluster beside its nodes: `python -m tests.orchestrate.left ADDRESS` prints it as JSON."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import ray


def connect(address: str) -> None:
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)


def nodes() -> int:
    return sum(node["Alive"] for node in ray.nodes())


def over() -> dict[str, Any]:
    """What runs that are over should not have left: actors, placement groups, CPUs in use. Ray Data keeps some actors
    of its own as long as the cluster lives; they are detached, ours never are."""
    actors = ray._private.state.actors().values()
    groups = ray.util.placement_group_table().values()
    return {
        "actors": [found["ActorClassName"] for found in actors if found["State"] != "DEAD" and not found["IsDetached"]],
        "groups": [found["state"] for found in groups if found["state"] != "REMOVED"],
        "cpus": ray.cluster_resources().get("CPU", 0.0) - ray.available_resources().get("CPU", 0.0),
    }


NOTHING: dict[str, Any] = {"actors": [], "groups": [], "cpus": 0.0}

if __name__ == "__main__":
    connect(sys.argv[1])
    print(json.dumps({"nodes": nodes(), "over": over()}))
