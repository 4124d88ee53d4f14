"""Every number of the page, from result files only: `summarise` fills `summary.json` (its types are in `shape`)."""

from __future__ import annotations

from cxrtl.evaluate.intervals import LEVEL
from cxrtl.evaluate.judge import confusion_table, judge
from cxrtl.evaluate.metrics import THRESHOLD
from cxrtl.predictions import Predictions
from cxrtl.records import Milestone, held_out
from cxrtl.report.contrast import differences, published_rows
from cxrtl.report.examined import read_examined
from cxrtl.report.lineage import division, lineage
from cxrtl.report.load import Done, Loaded, load_run
from cxrtl.report.measures import add_binary, fold_rows, mark_pareto, parts_of, sample_size, value_of, within_folds
from cxrtl.report.provenance import dataset, leakage, run_time, settings, stamps, texts, weights
from cxrtl.report.readers import readers
from cxrtl.report.shape import VERSION, Row, Summary, Times
from cxrtl.report.subgroups import subgroups
from cxrtl.report.vocabulary import COST, LEADING, SURE, columns
from cxrtl.rundir import RunDir, write_json


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
    rows, folded = [], []
    task, tops = loaded.predictions.task, loaded.experiment.report.top_k
    for recipe in loaded.recipes:
        for iterations in recipe.train.budgets:
            chosen = loaded.predictions.select(recipe.name, iterations)
            if len(chosen.frame):
                rows.append(_row(loaded, recipe.name, iterations, chosen))
                points = _milestones(loaded, recipe.name, iterations)
                seconds = {trial.result.fold: point.train_seconds for trial, point in points}
                folded += fold_rows(chosen, seconds, tops)
    mark_pareto(rows, COST[task])
    head = rows[_headline(rows)]
    resolved = loaded.resolved
    negative, positive = loaded.predictions.classes if task == "binary" else ("", "")
    return Summary(
        version=VERSION,
        name=loaded.experiment.name,
        task=task,
        lead=LEADING[task],
        columns=columns(task, list(head["metrics"])),
        description=loaded.experiment.description,
        run_hash=resolved["run_hash"],
        command=resolved["command"] or f"cxrtl run {loaded.run.path('experiment.toml')}",
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
        readers=readers(loaded),
        sample_size=sample_size(head, SURE[task]),
        fold_rows=folded,
        subgroups=subgroups(loaded, loaded.predictions.select(head["arm"], head["iterations"])),
        smallest_group=loaded.experiment.report.smallest_group,
        division=division(loaded),
        data=dataset(loaded),
        leakage=leakage(loaded),
        examined=read_examined(loaded.run, resolved),
        time=run_time(loaded),
        settings=settings(loaded.recipes),
        weights=weights(resolved["weights"]),
        lineage=lineage(loaded),
        environment=texts(loaded.environment),
        device=resolved["device"],
        precision=resolved["precision"],
        threads=resolved["threads"],
    )


def _trials_wanted(loaded: Loaded) -> int:
    return loaded.k * sum(
        len(recipe.train.budgets) if recipe.train.independent or recipe.train.schedule != "constant" else 1
        for recipe in loaded.recipes
    )


def _headline(rows: list[Row]) -> int:
    """The first arm's last budget: a rule that no result can bend."""
    return max((i for i, row in enumerate(rows) if row["arm"] == rows[0]["arm"]), key=lambda i: rows[i]["iterations"])


def _row(loaded: Loaded, arm: str, iterations: int, chosen: Predictions) -> Row:
    frame, knobs = chosen.frame, loaded.experiment.report
    judged = judge(chosen, knobs.top_k)
    named = frame["patient_id"][frame["patient_id"] != ""]
    row = Row(
        arm=arm,
        iterations=iterations,
        images=frame["image_id"].nunique(),
        patients=int(named.nunique()) if len(named) == len(frame) else None,
        folds=int(frame["fold"].nunique()),
        complete=len(frame) == len(held_out(loaded.folds)),
        metrics={name: value_of(found) for name, found in judged.metrics.items()},
        parts=parts_of(chosen, judged),
        pareto=False,
        time=_times(_milestones(loaded, arm, iterations)),
    )
    if chosen.task == "binary":
        add_binary(row, chosen, knobs)
    else:
        row["fold_lead"] = within_folds(chosen, row["metrics"][LEADING[chosen.task]]["value"])
    if chosen.task == "multiclass":
        row["table"] = confusion_table(chosen).tolist()
    return row


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
