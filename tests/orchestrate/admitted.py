"""A Ray cluster that asks for a token, or for none, and what comes of it with each word and token of a driver's.

    python -m tests.orchestrate.admitted token|disabled

A process of its own, for a process has one Ray. Prints as JSON what was said to each, "" to who was let in, and whether
a task of who was let in for the asking came back from another node.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path

import ray
from ray._raylet import AuthenticationTokenLoader
from ray.cluster_utils import Cluster

from cxrtl.errors import PlanError
from cxrtl.orchestrate import admission
from cxrtl.orchestrate import cluster as joining

WORDS = ("", "token", "disabled")


def speak(mode: str, token: str) -> None:
    """From now on this process has this word for RAY_AUTH_MODE, and this token."""
    os.environ.pop("RAY_AUTH_TOKEN", None)
    if token:
        os.environ["RAY_AUTH_TOKEN"] = token
    admission._use(mode or None)
    AuthenticationTokenLoader.instance().reset_cache()


def main(mode: str, home: Path) -> None:
    os.environ["HOME"] = str(home)  # without a token in it
    right = secrets.token_hex(32)
    speak(mode, right)
    cluster = Cluster(True, False, {"num_cpus": 0, "include_dashboard": False})
    said: dict[str, str] = {}
    try:
        cluster.add_node(num_cpus=1)
        for name, token in {"right": right, "wrong": secrets.token_hex(32), "none": ""}.items():
            for word in WORDS:
                speak(word, token)
                try:
                    admission.match(cluster.address)
                    said[f"{word or 'unset'}, {name}"] = ""
                except PlanError as error:
                    said[f"{word or 'unset'}, {name}"] = str(error)
                assert token not in "".join(said.values()) or not token
        speak("", right)
        with joining.connect(cluster.address, verbose=False):
            large = ray.get(ray.remote(lambda: bytes(10**6)).remote(), timeout=60)
    finally:
        speak(mode, right)
        cluster.shutdown()
    print(json.dumps({"said": said, "came": len(large)}))


main(sys.argv[1], Path(sys.argv[2]))
