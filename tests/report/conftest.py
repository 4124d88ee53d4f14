"""Run folders shared by the report's tests. Read them; a test that changes one copies it first."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import BINARY, Tab
from fake_run import SHAPES, SMALL, Fake, make_prepared, make_run
from matplotlib.figure import Figure

from cxrtl.report.load import load_run
from cxrtl.report.page import write_report
from cxrtl.report.samples import collect_samples
from cxrtl.rundir import RunDir


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Three arms, three budgets, ten folds, 1000 images of 500 patients, reported with samples."""
    root = tmp_path_factory.mktemp("three")
    fake = SHAPES["three"]
    run = make_run(root / "run", fake)
    collect_samples(run, load_run(run).predictions, make_prepared(root / "prepared", run, fake))
    write_report(run)
    return run


@pytest.fixture(scope="session")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Thirty arms, reported."""
    fake = Fake(arms=30, folds=2, budgets=(250,), images=60, per_patient=1)
    run = make_run(tmp_path_factory.mktemp("thirty") / "run", fake)
    write_report(run)
    return run


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_run(tmp_path_factory.mktemp("small") / "run", SMALL)


@pytest.fixture
def small(small_source: RunDir, tmp_path: Path) -> RunDir:
    """A small run of a test's own, not reported yet."""
    shutil.copytree(small_source.root, tmp_path / "run")
    return RunDir(tmp_path / "run")


@pytest.fixture(scope="session")
def tab() -> Iterator[Tab]:
    """One browser for all: a test opens its page in it, after the width it wants."""
    if BINARY is None:
        pytest.skip("no Chromium here")
    with Tab() as opened:
        yield opened


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are laid out, and saved as nothing: for what a page says, which rendering makes slow to ask."""
    empty = {"svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "png": b""}
    monkeypatch.setattr(Figure, "savefig", lambda _, file, *, format, **__: file.write(empty[format]))


@pytest.fixture
def make(tmp_path: Path) -> Callable[[Fake], RunDir]:
    return lambda fake: make_run(tmp_path / "made", fake)
