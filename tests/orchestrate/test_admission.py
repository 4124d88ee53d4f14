"""A driver shows Ray's token to clusters that ask for one, to no other, and is told where the two do not agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RpcError

from cxrtl.errors import PlanError
from cxrtl.orchestrate import admission, cluster


def told(mode: str, home: Path) -> dict[str, Any]:
    words = [sys.executable, "-m", "tests.orchestrate.admitted", mode, str(home)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_cluster_that_asks_for_a_token(tmp_path: Path) -> None:
    found = told("token", tmp_path)
    reasons = {name: text.partition(": ")[0].rpartition("token")[2] for name, text in found["said"].items()}
    assert reasons == {
        "unset, right": "",
        "token, right": "",
        "disabled, right": ", and RAY_AUTH_MODE=disabled",
        "unset, wrong": " that is here",
        "token, wrong": " that is here",
        "disabled, wrong": ", and RAY_AUTH_MODE=disabled",
        "unset, none": ", and there is none here",
        "token, none": ", and there is none here",
        "disabled, none": ", and RAY_AUTH_MODE=disabled",
    }
    assert all("RAY_AUTH_TOKEN" in text for text in found["said"].values() if text)
    assert found["came"] == 10**6


def test_cluster_that_asks_for_none(tmp_path: Path) -> None:
    """A token of this user's, left from a Ray of their own, does not keep the cluster's workers out."""
    found = told("disabled", tmp_path)
    refused = {name for name, text in found["said"].items() if text}
    assert refused == {"token, right", "token, wrong", "token, none"}
    assert all("asks for no token" in found["said"][name] for name in refused)
    assert found["came"] == 10**6


@pytest.fixture
def no_word() -> Iterator[None]:
    """RAY_AUTH_MODE is not set; afterwards it is as it was, for Ray too: another test's may run in this process."""
    before = os.environ.get("RAY_AUTH_MODE")
    admission._use(None)
    yield
    admission._use(before)


@pytest.mark.usefixtures("no_word")
def test_something_else_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(address: str) -> None:
        raise RpcError("Timed out while waiting for GCS to become available.")

    monkeypatch.setattr(admission, "GcsClient", waits)
    with pytest.raises(PlanError, match=r"no Ray cluster answers at '127\.0\.0\.1:80': Timed out while waiting"):
        admission.match("127.0.0.1:80")
    assert "RAY_AUTH_MODE" not in os.environ


def test_no_cluster_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(address: str) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(cluster, "canonicalize_bootstrap_address_or_die", none)
    with (
        pytest.raises(PlanError, match="no Ray cluster answers at 'auto': Could not find"),
        cluster.connect("auto", False),
    ):
        pass
