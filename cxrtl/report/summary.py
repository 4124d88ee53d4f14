"""Every number of the page, from result files only: `summarise` fills `summary.json` (its types are in `shape`)."""

from __future__ import annotations

import numpy as np

from cxrtl.evaluate.estimates import estimate
from cxrtl.evaluate.intervals import LEVEL
from cxrtl.evaluate.metrics import THRESHOLD, Confusion, auc, confusion, fold_aucs, mean_sd
from cxrtl.predictions import Predictions
from cxrtl.records import Milestone, held_out
from cxrtl.report.contrast import differences, published_rows
from cxrtl.report.load import Done, Loaded, load_run
from cxrtl.report.measures import (
    average_precision,
    calibration,
    chance,
    folds_of,
    mark_pareto,
    operating,
    patients_of,
    sample_size,
    value_of,
)
from cxrtl.report.provenance import dataset, leakage, run_time, settings, stamps, texts, weights
from cxrtl.report.shape import VERSION, Counts, FoldAuc, FoldRow, Row, Summary, Times
from cxrtl.report.subgroups import subgroups
from cxrtl.rundir import RunDir, write_json

AUC_GAP = 0.01  # beyond it the page says that folds differ in calibration


def summarise(run: RunDir, partial: bool = False) -> Summary:
    """Read and check the run folder, compute everything, write `summary.json`.

    Raises:
        DamagedError, ChangedError, PredictionsError: as `load_run` does.
    """
    summary = build(load_run(run, partial))
    write_json(run.path("summary.json"), summary)
    return summary


def build(loaded: Loaded) -> Summary:
    """The summary of a run that has been read. Deterministic: it holds no time of its own making."""
    rows, fold_rows = [], []
    for recipe in loaded.recipes:
        for iterations in recipe.train.budgets:
            chosen = loaded.predictions.select(recipe.name, iterations)
            if len(chosen.frame):
                rows.append(_row(loaded, recipe.name, iterations, chosen))
                fold_rows += _fold_rows(loaded, recipe.name, iterations, chosen)
    mark_pareto(rows)
    head = rows[_headline(rows)]
    resolved = loaded.resolved
    negative, positive = loaded.predictions.classes
    threads = resolved.get("threads")
    return Summary(
        version=VERSION,
        name=loaded.experiment.name,
        description=loaded.experiment.description,
        run_hash=str(resolved["run_hash"]),
        command=str(resolved.get("command") or f"cxrtl run {loaded.run.path('experiment.toml')}"),
        threshold=THRESHOLD,
        level=LEVEL,
        prevalence=loaded.experiment.report.prevalence,
        folds=loaded.k,
        trials_done=len(loaded.trials),
        trials_wanted=_trials_wanted(loaded),
        arms=[recipe.name for recipe in loaded.recipes],
        positive=positive,
        negative=negative,
        stamps=stamps(loaded, _trials_wanted(loaded)),
        missing=[{**vars(gap), "folds": list(gap.folds)} for gap in loaded.missing],  # type: ignore[typeddict-item]
        headline=_headline(rows),
        rows=rows,
        published=published_rows(loaded.experiment.published, rows),
        differences=differences(loaded),
        sample_size=sample_size(head),
        fold_rows=fold_rows,
        subgroups=subgroups(loaded, loaded.predictions.select(head["arm"], head["iterations"])),
        smallest_group=loaded.experiment.report.smallest_group,
        data=dataset(loaded),
        leakage=leakage(loaded),
        time=run_time(loaded),
        settings=settings(loaded.recipes),
        weights=weights(resolved.get("weights")),
        environment=texts(loaded.environment),
        device=str(resolved.get("device", "not recorded")),
        precision=str(resolved.get("precision", "not recorded")),
        threads=threads if isinstance(threads, int) else None,
    )


def _trials_wanted(loaded: Loaded) -> int:
    return loaded.k * sum(
        len(recipe.train.budgets) if recipe.train.independent or recipe.train.schedule != "constant" else 1
        for recipe in loaded.recipes
    )


def _headline(rows: list[Row]) -> int:
    """The first arm's last budget: a rule that no result can bend."""
    return max((i for i, row in enumerate(rows) if row["arm"] == rows[0]["arm"]), key=lambda i: rows[i]["iterations"])


def counts_of(found: Confusion) -> Counts:
    return Counts(tp=found.tp, fp=found.fp, fn=found.fn, tn=found.tn)


def _row(loaded: Loaded, arm: str, iterations: int, chosen: Predictions) -> Row:
    truth, score, frame = chosen.truth, chosen.score, chosen.frame
    metrics = {name: value_of(found) for name, found in estimate(truth, score, patients_of(chosen)).items()}
    named = frame["patient_id"][frame["patient_id"] != ""]
    return Row(
        arm=arm,
        iterations=iterations,
        images=len(frame),
        positives=int(truth.sum()),
        patients=int(named.nunique()) if len(named) == len(frame) else None,
        folds=int(frame["fold"].nunique()),
        complete=len(frame) == len(held_out(loaded.folds)),
        confusion=counts_of(confusion(truth, score)),
        metrics=metrics,
        average_precision=average_precision(chosen),
        chance_p=chance(chosen),
        pareto=False,
        calibration=calibration(chosen),
        operating=operating(chosen, loaded.experiment.report),
        fold_auc=_fold_auc(chosen, metrics["auc"]["value"]),
        time=_times(_milestones(loaded, arm, iterations)),
    )


def _fold_auc(chosen: Predictions, pooled: float | None) -> FoldAuc:
    found = fold_aucs(chosen.truth, chosen.score, folds_of(chosen))
    mean, sd = mean_sd(list(found.values()))
    gap = None if pooled is None or mean is None else pooled - mean
    return FoldAuc(
        mean=mean,
        sd=sd,
        folds=sum(value is not None for value in found.values()),
        undefined=[fold for fold, value in found.items() if value is None],
        gap=gap,
        differs=gap is not None and abs(gap) > AUC_GAP,
    )


def _milestones(loaded: Loaded, arm: str, iterations: int) -> list[tuple[Done, Milestone]]:
    return [
        (trial, milestone)
        for trial in loaded.trials
        if trial.result.arm == arm and iterations in trial.result.budgets
        for milestone in trial.result.milestones
        if milestone.iterations == iterations
    ]


def _times(reached: list[tuple[Done, Milestone]]) -> Times:
    train = [milestone.train_seconds for _, milestone in reached]
    last = all(milestone.iterations == max(trial.result.budgets) for trial, milestone in reached)
    return Times(
        train_total=sum(train),
        train_fold=sum(train) / len(train),
        train_fold_min=min(train),
        train_fold_max=max(train),
        wall_total=sum(trial.result.wall_seconds for trial, _ in reached) if last else None,
    )


def _fold_rows(loaded: Loaded, arm: str, iterations: int, chosen: Predictions) -> list[FoldRow]:
    fold, truth, score = folds_of(chosen), chosen.truth, chosen.score
    seconds = {trial.result.fold: point.train_seconds for trial, point in _milestones(loaded, arm, iterations)}
    rows = []
    for k in np.unique(fold):
        mask = fold == k
        found = confusion(truth[mask], score[mask])
        rows.append(
            FoldRow(
                arm=arm,
                iterations=iterations,
                fold=int(k),
                images=found.images,
                positives=found.tp + found.fn,
                confusion=counts_of(found),
                accuracy=found.ratio("accuracy"),
                sensitivity=found.ratio("sensitivity"),
                specificity=found.ratio("specificity"),
                auc=auc(truth[mask], score[mask]),
                train_seconds=seconds[int(k)],
            )
        )
    return rows
