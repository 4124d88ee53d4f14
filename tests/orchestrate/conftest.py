from __future__ import annotations

from pathlib import Path

import pytest

from tests.orchestrate.helpers import cxrtl, experiment


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a small study that nothing went wrong with."""
    home = tmp_path_factory.mktemp("undisturbed")
    done = cxrtl("run", experiment(home), "--home", home)
    assert done.returncode == 0, done.stdout + done.stderr
    return home
