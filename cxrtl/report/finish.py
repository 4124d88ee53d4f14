"""The end of a run: sample images and subgroups kept beside the results, then the report."""

from __future__ import annotations

from pathlib import Path

from cxrtl.records import Prepared
from cxrtl.report.load import load_run
from cxrtl.report.masks import read_masks
from cxrtl.report.page import write_report
from cxrtl.report.samples import choose, collect_samples
from cxrtl.report.subgroups import keep_subjects
from cxrtl.rundir import RunDir


def finish(run: RunDir, prepared: Prepared) -> Path:
    """Write `samples.parquet`, `subjects.parquet` and the report of a complete run; returns the page's path."""
    keep_subjects(run, prepared)
    predictions = load_run(run).predictions
    masks = read_masks(run, prepared, choose(run, predictions)) if prepared.task == "segmentation" else None
    collect_samples(run, predictions, prepared, masks=masks)
    return write_report(run)
