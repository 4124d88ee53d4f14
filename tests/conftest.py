"""Fixtures that any test may use."""

from __future__ import annotations

import logging
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cxrtl import storage
from tests.homes import SECRET, Machines, Server

WITH_RAY = ("data", "orchestrate", "use")
SHARED = Path(os.environ.get("CXRTL_DATA") or Path(__file__).parents[1] / "../shared/data").resolve()


@pytest.hookimpl(optionalhook=True)  # xdist's
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of two processes (`make test`) one runs what starts Ray, of which there is one at a time."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = nodeid.partition("::")[0].split("/")[1]
            return "ray" if folder in WITH_RAY else folder

    return ByFolder(config, log)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real images are not at {SHARED}: set CXRTL_DATA")
    return SHARED


@pytest.fixture(scope="session")
def ray_instance() -> Iterator[None]:
    """A Ray of its own with two CPUs, for the whole session; left alone where a test started one before."""
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A fresh id key; `$CXRTL_KEY_FILE` points to it."""
    from cxrtl.data.ids import load_key

    monkeypatch.setenv("CXRTL_KEY_FILE", str(tmp_path / "key" / "id.key"))
    return load_key()


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    """A storage in memory, and machines that have mirrors of it."""
    MemoryFileSystem.store.clear()
    yield Machines(tmp_path, monkeypatch)
    MemoryFileSystem.store.clear()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An S3 server with the bucket `bucket`; environment and caches lead to it."""
    import boto3
    import fsspec

    server = Server()
    values = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "key-of-the-tests",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="bucket")
    storage._open.cache_clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield server
    storage._open.cache_clear()
    urllib.request.urlopen(f"{values['AWS_ENDPOINT_URL']}/moto-api/reset", data=b"", timeout=10).close()
    server.stop()
