"""A study on a cluster whose machines come with work: `python -m tests.orchestrate.growing EXPERIMENT HOME [K=V …]`.

The head offers no CPU. Ray's own autoscaler, with the provider it is tested with, starts nodes of one CPU on this
machine as they are asked for, and ends them when they are idle. Prints as JSON what came of it.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from cxrtl import config
from cxrtl.orchestrate import study
from tests.hosts import until
from tests.orchestrate import left
from tests.orchestrate.nodes import Nobody

FAKE = "ray.autoscaler._private.fake_multi_node.node_provider"
HEAD_ID, HEAD_TYPE = "f" * 51 + "00000", "ray.head.default"  # as that module has them
ENVIRONMENT = {  # of the process before it imports Ray: what `ray up` and KubeRay set, and what the provider asks for
    "RAY_enable_autoscaler_v2": "1",
    "RAY_NODE_TYPE_NAME": HEAD_TYPE,
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


def settings(port: int) -> dict[str, Any]:
    provider = {
        "type": "external",
        "module": f"{FAKE}.FakeMultiNodeProvider",
        "gcs_address": f"{ray.util.get_node_ip_address()}:{port}",
        "head_node_id": HEAD_ID,
        "launch_multiple": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    types = {
        HEAD_TYPE: {"resources": {}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    }
    return {
        "cluster_name": "growing",
        "max_workers": 2,
        "idle_timeout_minutes": 0.15,
        "provider": provider,
        "available_node_types": types,
        "head_node_type": HEAD_TYPE,
        **{f"{what}_commands": [] for what in ("setup", "head_setup", "worker_setup", "initialization")},
        **{f"{who}_start_ray_commands": [] for who in ("head", "worker")},
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "upscaling_speed": 1.0,
        "docker": {},
    }


def below(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            if f"\nPPid:\t{pid}\n" in path.read_text():
                found += [int(path.parent.name), *below(int(path.parent.name))]
    return found


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = folder / "cluster.json"  # which is YAML, too
    path.write_text(json.dumps(settings(port)))
    raylet = {"RAY_CLOUD_INSTANCE_ID": HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID}
    head = {"num_cpus": 0, "gcs_server_port": port, "autoscaling_config": str(path), "env_vars": raylet}
    made = Cluster(True, False, {**head, "include_dashboard": False})
    monitor = made.head_node.all_processes["monitor"][0].process.pid
    try:
        yield made
    finally:
        for process in below(monitor):  # nodes outlive it
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        made.shutdown()


class Listener(Nobody):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.concurrent = 0

    def stage(self, text: str) -> None:
        self.said.append(text)

    def planned(self, run: Any, plan: Any) -> None:
        self.concurrent = plan.concurrent


def grow(experiment: Path, home: Path, overrides: list[str]) -> dict[str, Any]:
    heard = Listener()
    with cluster(home) as made:
        before = len(made.list_all_nodes())
        study.run(config.load(experiment, overrides), study.Options(home, "", address=made.address), heard)
        left.connect(made.address)
        until(lambda: left.nodes() == 1, 60)  # nothing asks for machines any more
        asked = left.over()
        ray.shutdown()
    return {"before": before, "said": heard.said, "concurrent": heard.concurrent, "left": asked}


if __name__ == "__main__":
    print(json.dumps(grow(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])))
