"""The end of a run: sample images and subgroups kept beside the results, then the report."""

from __future__ import annotations

from pathlib import Path

from cxrtl.errors import PredictionsError
from cxrtl.records import Prepared
from cxrtl.report.load import load_run
from cxrtl.report.page import write_report
from cxrtl.report.samples import collect_samples
from cxrtl.report.subgroups import keep_subjects
from cxrtl.rundir import RunDir


def finish(run: RunDir, prepared: Prepared) -> Path:
    """Write `samples.parquet`, `subjects.parquet` and the report of a complete run; returns the page's path.

    Raises:
        PredictionsError: the task is one that the report has no words for yet.
    """
    if prepared.task != "binary":
        raise PredictionsError(
            f"the run is complete, but there is no report of a {prepared.task} task yet: its out-of-fold predictions "
            f"are the files predictions-*.parquet in {run.root}"
        )
    keep_subjects(run, prepared)
    collect_samples(run, load_run(run).predictions, prepared)
    return write_report(run)
