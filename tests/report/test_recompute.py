"""Every number of summary.json again, from the run folder's other files, by code that is not ours (`recompute`).

CXRTL_RUN=runs/mine pytest tests/report/test_recompute.py     checks a run of yours, after its report was written
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_run import SMALL, TASKS, Fake, make_run
from recompute import facts, pairs, rows
from recompute.again import Bootstrap, Called
from recompute.claims import Claims
from scipy import stats

from cxrtl.report.summary import summarise
from cxrtl.rundir import RunDir, read_json, write_frame, write_json

FAKES = {
    "patients": Fake(arms=2, folds=4, budgets=(250, 500), images=160),
    "images": Fake(arms=3, folds=3, budgets=(250,), images=150, per_patient=1, grouped=False),
    "repeated": replace(SMALL, kind="repeated", repeats=2, images=120),
    "holdout": replace(SMALL, kind="holdout", folds=1, images=120),
    "partial": replace(SMALL, done=2, images=150, independent=True),
    "readers": replace(SMALL, readers=True, images=150),
    "multiclass": replace(TASKS["multiclass"], folds=3, images=120, budgets=(100,)),
    "multilabel": replace(TASKS["multilabel"], folds=3, images=180, budgets=(100,)),
    "segmentation": replace(TASKS["segmentation"], folds=3, images=150, budgets=(100,), classes=("heart", "lung")),
    "classes-repeated": replace(TASKS["multiclass"], folds=3, images=180, budgets=(100,), repeats=2, kind="repeated"),
}
PARTS = (rows.rows, pairs.differences, pairs.readers, *facts.EVERY)


SLOW = ("repeated", "holdout", "readers", "classes-repeated")


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in FAKES])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunDir:
    made = make_run(tmp_path / "run", FAKES[request.param])
    resolved, ids = read_json(made.path("experiment.resolved.json")), pd.read_parquet(made.path("folds.parquet"))
    several = FAKES[request.param].task == "multiclass"  # its bands would hold too few of a class
    resolved["experiment"]["data"]["subgroups"] = ["view"] if several else ["view", "age"]
    resolved["experiment"]["report"]["prevalence"] = 0.1
    write_json(made.path("experiment.resolved.json"), resolved)
    path, place = made.path("subjects.parquet"), np.arange(len(ids))
    kept = pd.read_parquet(path) if path.exists() else ids[["image_id"]]
    views = np.where(place % 40 == 0, "", np.where(place % 40 == 1, "LL", np.where(place % 3 == 0, "PA", "AP")))
    write_frame(path, kept.assign(view=views, age=np.where(place % 9 == 0, np.nan, 20.0 + place // 2 % 60)))
    summarise(made, partial=True)
    return made


def check(root: Path) -> None:
    claims = Claims(root, json.loads((root / "summary.json").read_text()))
    for part in PARTS:
        part(claims)
    assert claims.left() == []


def test_every_number_is_computed_again(run: RunDir) -> None:
    check(run.root)


@pytest.mark.skipif("CXRTL_RUN" not in os.environ, reason="CXRTL_RUN names no run folder")
def test_every_number_of_a_real_run_is_computed_again() -> None:
    check(Path(os.environ["CXRTL_RUN"]))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    made = make_run(tmp_path_factory.mktemp("sound") / "run", replace(SMALL, images=60, budgets=(20,)))
    summarise(made)
    return made


@pytest.mark.parametrize("where", ["auc", "ece", "chance_p", "thresholds", "p_holm", "train_seconds", "size"])
def test_a_number_that_is_off_is_found(sound: RunDir, tmp_path: Path, where: str) -> None:
    """Each kind of number in turn, moved by more than another bootstrap could."""
    run = RunDir(Path(shutil.copytree(sound.root, tmp_path / "run")))
    summary = read_json(run.path("summary.json"))

    def move(value: Any, inside: bool = False) -> bool:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            if (inside or key == where) and isinstance(item, float | int) and not isinstance(item, bool):
                value[key] = item + 0.5
                return True
            if move(item, inside or key == where):
                return True
        return False

    assert move(summary)
    write_json(run.path("summary.json"), summary)
    with pytest.raises(AssertionError):
        check(run.root)


def test_the_bootstrap_written_anew_is_scipys() -> None:
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(90), 2)
    truth = (rng.random(90) < 0.4)[patient]
    score = 1 / (1 + np.exp(-(1.2 * (truth - 0.5) + rng.normal(size=90)[patient] + 0.4 * rng.normal(size=180))))
    own = Called(truth, score >= 0.5, score, patient)
    found = Bootstrap.of(own.weighted(), 90)
    for name in ("f1", "auc"):

        def measure(drawn: np.ndarray, name: str = name) -> float:
            at = (2 * drawn[:, None] + [0, 1]).ravel()
            value = Called(truth[at], own.called[at], score[at], patient[at]).points()[name]
            return float("nan") if value is None else value

        wanted = stats.bootstrap(
            (np.arange(90),), measure, vectorized=False, n_resamples=400, rng=np.random.default_rng(6)
        ).confidence_interval
        width = wanted.high - wanted.low
        assert found.bca(name) == pytest.approx((wanted.low, wanted.high), abs=0.2 * width), name


def test_every_number_of_the_tables_stands_in_the_summary(three: RunDir) -> None:
    """What the page's tables show is a rounding of a number in summary.json."""
    known: set[str] = set()

    def walk(value: Any) -> None:
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
            walk(item)
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = abs(value)  # the sign is a character of its own
            known.update((f"{100 * value:.1f}", f"{value:.3f}", f"{value:.1f}", f"{value:,.0f}", f"{value:.0f}"))

    summary = json.loads(three.path("summary.json").read_text())
    walk(summary)
    page = three.path("report.html").read_text()
    tables = re.findall(r"<tbody.*?</tbody>", page.split('<h2 id="samples"')[0], re.S)
    shown = set(re.findall(r"(?<![\w.#-])\d[\d,]*\.\d+(?![\w.-])", re.sub(r"<[^>]+>", " ", " ".join(tables))))
    strange = {number for number in shown if number not in known}
    assert strange <= {f"{step / 10:.1f}" for step in range(11)} and len(shown) > 200  # bins of calibration
