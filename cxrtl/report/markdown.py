"""The report's numbers as Markdown, for a repository, an issue or a pull request."""

from __future__ import annotations

import html

from cxrtl.report import captions, examined, glance, numbers, set_beside, vocabulary, words
from cxrtl.report.pipes import cell, escape, heads, table
from cxrtl.report.shape import Row, Summary

FURTHER = ("ppv", "npv", "f1")


def markdown(summary: Summary) -> str:
    """`report.md`: stamps first, then the same numbers as the page. Names are escaped."""
    blocks = [
        *(f"> **{escape(stamp['text'])}**" for stamp in summary["stamps"]),
        f"# {escape(summary['name'])}",
        escape(summary["description"]),
        *_glance(summary),
        *_budgets(summary),
        *(_binary(summary) if summary["task"] == "binary" else _parts(summary)),
        *set_beside.published(summary),
        *set_beside.differences(summary),
        *set_beside.readers(summary),
        *_folds(summary),
        *_subgroups(summary),
        *_examined(summary),
        *_lineage(summary),
        *_provenance(summary),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _glance(summary: Summary) -> list[str]:
    answers = (
        ("How good", glance.how_good(summary), glance.how_good_note(summary)),
        ("How sure", glance.how_sure(summary), glance.how_sure_note(summary)),
        ("How long", glance.how_long(summary), glance.how_long_note(summary)),
        ("Leak-free", glance.leak_free(summary), glance.leak_free_note(summary)),
    )
    return ["\n".join(f"- **{name}**: {escape(answer)}. {escape(note)}" for name, answer, note in answers)]


def _budgets(summary: Summary) -> list[str]:
    lead = vocabulary.name(summary["lead"])
    head = ["Arm", "Iterations", *heads(summary["columns"]), f"{lead} folds, mean ± sd"]
    head += ["Train s, sum", "Train s, fold", "Wall s, sum"]
    rows = [
        [
            escape(row["arm"]),
            str(row["iterations"]),
            *(cell(row["metrics"], name) for name in summary["columns"]),
            words.mean_sd(row),
            numbers.seconds(row["time"]["train_total"]),
            numbers.seconds(row["time"]["train_fold"]),
            numbers.seconds(row["time"]["wall_total"]),
        ]
        for row in summary["rows"]
    ]
    notes = [f"- {escape(note)}" for note in words.gap_notes(summary)]
    why = "Pooled and mean-fold AUC differ by more than 0.01, usually because folds differ in calibration:"
    return [
        "## Results",
        f"Intervals at {words.level(summary)}.",
        table(head, rows),
        *(["\n".join([why, "", *notes])] if notes else []),
    ]


def _binary(summary: Summary) -> list[str]:
    return [*_further(summary), *_operating(summary), *_calibration(summary)]


def _parts(summary: Summary) -> list[str]:
    """Classes, findings or structures; of several classes also who was called what, by the headline."""
    names = list(summary["rows"][0]["parts"][0]["metrics"])
    one, several = vocabulary.PARTS[summary["task"]]
    rows = [
        [
            escape(row["arm"]),
            str(row["iterations"]),
            escape(part["name"]),
            str(part["images"]),
            str(part["positives"]),
            *(cell(part["metrics"], name) for name in names),
        ]
        for row in summary["rows"]
        for part in row["parts"]
    ]
    head = ["Arm", "Iterations", words.capital(one), "Images", "With it", *heads(names)]
    blocks = [f"## {words.capital(several)}", captions.parts(summary), table(head, rows), words.sample_size(summary)]
    row, classes = words.headline(summary), summary["data"]["classes"]
    if "table" in row:
        counts = [[escape(name), *map(str, line)] for name, line in zip(classes, row["table"], strict=True)]
        head = ["Truth", *(f"called {escape(name)}" for name in classes)]
        blocks += [f"Confusion matrix of {escape(row['arm'])}, {row['iterations']}:", table(head, counts)]
    return blocks


def _further(summary: Summary) -> list[str]:
    head = ["Arm", "Iterations", "PPV %", "NPV %", "F1", "AP", "Chance p", "Brier", "TP", "FN", "FP", "TN"]
    rows = [
        [
            escape(row["arm"]),
            str(row["iterations"]),
            *(cell(row["metrics"], name) for name in FURTHER),
            cell({"auc": row["average_precision"]}, "auc"),
            numbers.p_value(row["chance_p"]),
            cell(row["calibration"]["measures"], "brier"),
            *(str(count) for count in _counts(row)),
        ]
        for row in summary["rows"]
    ]
    return ["## Further metrics", table(head, rows), words.CHANCE, words.sample_size(summary)]


def _counts(row: Row) -> tuple[int, int, int, int]:
    found = row["confusion"]
    return found["tp"], found["fn"], found["fp"], found["tn"]


def _operating(summary: Summary) -> list[str]:
    names = words.operating_metrics(summary)
    stated = f" at {numbers.share(summary['prevalence'])}"
    labels = [vocabulary.name(name.removesuffix("_at")) + (stated if name.endswith("_at") else "") for name in names]
    rows = [
        [
            escape(row["arm"]),
            str(row["iterations"]),
            words.rule(point),
            words.thresholds(point),
            *(cell(point["metrics"], name) if name in point["metrics"] else "–" for name in names),
        ]
        for row in summary["rows"]
        for point in row["operating"]
    ]
    head = ["Arm", "Iterations", "Rule", "Threshold", *(f"{label} %" for label in labels)]
    return ["## Operating points", words.OPERATING, table(head, rows)]


def _calibration(summary: Summary) -> list[str]:
    rows = []
    for row in summary["rows"]:
        found = row["calibration"]["measures"]
        parts = [
            numbers.area(part["value"]) if part["low"] is None else cell(found, name) for name, part in found.items()
        ]
        rows.append([escape(row["arm"]), str(row["iterations"]), *parts])
    head = ["Arm", "Iterations", "Brier", "Reliability", "Resolution", "Uncertainty", "Within bins", "ECE"]
    said = f"Brier = reliability − resolution + uncertainty + within, in ten bins of equal width. {words.CALIBRATED}"
    return ["## Calibration", said, table(head, rows)]


def _folds(summary: Summary) -> list[str]:
    names = summary["columns"]
    head = ["Arm", "Iterations", "Fold", "Images", *heads(names, pooled=False), "Train s"]
    rows = [
        [
            escape(row["arm"]),
            str(row["iterations"]),
            str(row["fold"]),
            str(row["images"]),
            *(numbers.metric(name, words.fold_value(row, name)) for name in names),
            numbers.seconds(row["train_seconds"]),
        ]
        for row in summary["fold_rows"]
    ]
    return ["## Folds", f"<details><summary>{len(rows)} rows</summary>", table(head, rows), "</details>"]


def _subgroups(summary: Summary) -> list[str]:
    if not summary["subgroups"]:
        return []
    names = summary["columns"]
    head = ["Column", "Group", "Images", "Patients", *heads(names, pooled=False)]
    rows = []
    for row in summary["subgroups"]:
        cells = [escape(row["column"]), escape(row["group"])]
        if row["hidden"]:
            rows.append([*cells, f"fewer than {summary['smallest_group']}", *[""] * (1 + len(names))])
        else:
            patients = "unknown" if row["patients"] is None else str(row["patients"])
            rows.append([*cells, str(row["images"]), patients, *(cell(row["metrics"], name) for name in names)])
    return ["## Subgroups", words.subgroups(summary), table(head, rows)]


def _examined(summary: Summary) -> list[str]:
    found = summary["examined"]
    if not found:
        return []
    rows = [
        [escape(row["features"]), escape(row["target"]), cell({"auc": row["auc"]}, "auc"), escape(row["reading"])]
        for row in found["shortcuts"]
    ]
    return ["## Look-alikes and shortcuts", examined.said(found), table(["From", "Label", "AUC", "Reading"], rows)]


def _provenance(summary: Summary) -> list[str]:
    data, found = summary["data"], summary["leakage"]
    counts = ", ".join(f"{escape(name)} {count:,}" for name, count in data["counts"].items())
    patients = "unknown" if data["patients"] is None else f"{data['patients']:,}"
    facts = [
        f"Images: {data['images']:,} ({counts}); patients: {patients}",
        f"Left out, of {words.listed(data):,} listed: {escape(words.left_out(data)) or 'none'}",
        f"Folds: {data['folds']}, hash `{escape(data['folds_hash'][:12])}`, data `{escape(data['dataset_hash'][:12])}`",
        f"Leakage certificate: {'passed' if found['passed'] else 'not passed' if found['present'] else 'absent'}",
        f"Machine: {escape(', '.join(f'{key} {value}' for key, value in summary['environment'].items()))}",
        f"Run: {escape(summary['run_hash'][:12])}, {escape(summary['device'])}, {escape(summary['precision'])}",
    ]
    return [
        "## Where the numbers come from",
        "\n".join(f"- {fact}" for fact in facts),
        "Run it again:",
        f"    {html.escape(' '.join(summary['command'].split()), quote=False)}",
        "## Limits",
        "\n".join(f"- {escape(line)}" for line in words.limits(summary)),
        "## How to cite",
        escape(words.citation(summary)),
    ]


def _lineage(summary: Summary) -> list[str]:
    if not summary["lineage"]:
        return []
    rows = [[escape(item["arm"]), *map(escape, captions.stage(item))] for item in summary["lineage"]]
    return ["## Lineage", table(["Arm", *captions.STAGE], rows)]
