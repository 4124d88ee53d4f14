"""Fixtures that any test may use."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("CXRTL_DATA") or Path(__file__).parents[1] / "../shared/data").resolve()


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
