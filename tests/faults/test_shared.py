"""Folds of one process, as on a GPU: what they end with does not depend on what they share, or who is beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cxrtl import config
from cxrtl.data import shards
from cxrtl.orchestrate import fold, frozen, study, supply, sweep
from cxrtl.rundir import RunDir
from tests.faults import alone


def files(work: Path) -> dict[str, str]:
    """sha256 of what every trial of a study left, but of its curve, which has times."""
    work.mkdir()
    path = alone.begin(work)
    path.write_text(path.read_text().replace('images = "stream"', 'images = "memory"'))
    study.run(config.load(path), study.Options(work, "cxrtl run"), alone.Silent())
    results = RunDir(work / "runs/small").results()
    return {f"{each.arm}/{name}": each.files[name] for each in results for name in each.files if "curve" not in name}


def test_images_shared_and_folds_side_by_side_give_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone.stand_in(monkeypatch.setattr)
    own, shared, images = files(tmp_path / "own"), [], supply.images
    assert len(own) == 2 * 2 * 2  # arms, budgets, weights and predictions

    def watched(*given: Any) -> Any:
        shared.append(given[-1] is not None)
        return images(*given)

    monkeypatch.setattr(supply, "SHARED_ON", ("cpu",))
    monkeypatch.setattr(supply, "images", watched)
    assert files(tmp_path / "shared") == own
    assert sorted(shared) == [False, False, True, True]  # the frozen arm has features

    def all_at_once(job: fold.Job, plan: Any, images: Any, *_: Any) -> None:
        fold.fold_loop({"job": job, "trials": list(plan.todo), "images": images})

    monkeypatch.setattr(sweep, "run", all_at_once)
    assert files(tmp_path / "packed") == own


def test_features_are_the_same_whoever_computes_which_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On GPUs a task has several shards."""
    alone.stand_in(monkeypatch.setattr)
    monkeypatch.setattr(shards, "SLICE", 5)
    own, compute, counts, few = files(tmp_path / "own"), frozen._compute, [], frozen._shards

    def on_gpus(*given: Any) -> None:
        *others, plan = given
        compute(*others, replace(plan, gpus_per_fold=1.0, concurrent=2))

    def watched(*given: Any) -> dict[str, str]:
        counts.append(len(given[-1]))
        return few(*given)

    monkeypatch.setattr(frozen, "_compute", on_gpus)
    monkeypatch.setattr(frozen, "_shards", watched)
    assert files(tmp_path / "gpus") == own
    assert counts == 2 * [3, 2]  # of five, plain and augmented
