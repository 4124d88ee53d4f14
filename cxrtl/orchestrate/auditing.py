"""`cxrtl audit`: a run's folds and images, or those that a source would give, looked over without training anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrtl import config, rundir
from cxrtl.config import Experiment
from cxrtl.data import audit, folds, survey
from cxrtl.data.prepared import read_index
from cxrtl.orchestrate import study
from cxrtl.orchestrate.study import Session, Watcher
from cxrtl.rundir import RunDir


@dataclass(frozen=True)
class Audited:
    """Where the files are, the leakage certificate, and what `audit.json` says."""

    folder: Path
    certificate: dict[str, Any]
    found: dict[str, Any]


def audit_run(run: RunDir, session: Session, watcher: Watcher) -> Audited:
    """Look a run over again, its images prepared again where they are no longer there.

    Raises:
        StaleFoldsError: the source holds other images now.
    """
    experiment = config.load(run.path("experiment.toml"))
    return _audit(run, experiment, run.path("folds.parquet"), session, watcher)


def audit_source(experiment: Experiment, session: Session, watcher: Watcher) -> Audited:
    """Prepare the images and divide them as the experiment says; files go to the prepared set's folder `audit`.

    Unknown patients are no reason to refuse here: the certificate says so.
    """
    given = config.expand(experiment.folds.file) if experiment.folds.file else None
    return _audit(None, experiment, given, session, watcher)


def _audit(
    run: RunDir | None, experiment: Experiment, given: Path | None, session: Session, watcher: Watcher
) -> Audited:
    saved = folds.read_folds(given) if given else None
    begun = saved.dataset_hash if saved else ""
    prepared = study.prepare(experiment.data, session.options.home, session, watcher, begun)
    index = read_index(prepared)
    made = saved or folds.make_folds(index, prepared, experiment.folds.model_copy(update={"ungrouped": True}))
    folds.check_current(made, index, prepared)
    place = run or RunDir(prepared.folder / "audit")
    with place.lock():
        certificate = audit.audit(made, prepared.classes[-1], prepared.task)
        rundir.write_json(place.path("leakage.json"), certificate)
        watcher.stage(f"looking at {prepared.images} images")
        survey.survey(place, prepared, made)
    return Audited(place.root, certificate, rundir.read_json(place.path("audit.json")))
