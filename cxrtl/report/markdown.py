"""The report's numbers as Markdown, for a repository, an issue or a pull request."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from cxrtl.report import numbers, words
from cxrtl.report.shape import DifferenceRow, PublishedRow, Row, Summary, Value
from cxrtl.report.versus import Comparison

MAIN = ("accuracy", "sensitivity", "specificity", "auc")
FURTHER = ("ppv", "npv", "f1")


def markdown(summary: Summary) -> str:
    """`report.md`: stamps first, then the same numbers as the page. Names are escaped."""
    blocks = [
        *(f"> **{escape(stamp['text'])}**" for stamp in summary["stamps"]),
        f"# {escape(summary['name'])}",
        escape(summary["description"]),
        *_glance(summary),
        *_budgets(summary),
        *_further(summary),
        *_operating(summary),
        *_calibration(summary),
        *_published(summary),
        *_differences(summary),
        *_folds(summary),
        *_subgroups(summary),
        *_provenance(summary),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escape(text: str) -> str:
    """Text that Markdown, HTML inside it and a table cell all leave alone."""
    plain = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", plain)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A pipe table; the first column reads left, the rest right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _glance(summary: Summary) -> list[str]:
    answers = (
        ("How good", words.how_good(summary), words.how_good_note(summary)),
        ("How sure", words.how_sure(summary), words.how_sure_note(summary)),
        ("How long", words.how_long(summary), words.how_long_note(summary)),
        ("Leak-free", words.leak_free(summary), words.leak_free_note(summary)),
    )
    return ["\n".join(f"- **{name}**: {escape(answer)}. {escape(note)}" for name, answer, note in answers)]


def _cell(metrics: dict[str, Value], name: str) -> str:
    value = metrics[name]
    return f"{numbers.metric(name, value['value'])} [{numbers.bounds(name, value)}]".replace(" []", "")


def _budgets(summary: Summary) -> list[str]:
    head = ["Arm", "Iterations", "Accuracy %", "Sensitivity %", "Specificity %", "AUC pooled", "AUC folds, mean ± sd"]
    head += ["Train s, sum", "Train s, fold", "Wall s, sum"]
    rows = [
        [
            escape(row["arm"]),
            str(row["iterations"]),
            *(_cell(row["metrics"], name) for name in MAIN),
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


def _further(summary: Summary) -> list[str]:
    head = ["Arm", "Iterations", "PPV %", "NPV %", "F1", "AP", "Chance p", "Brier", "TP", "FN", "FP", "TN"]
    rows = [
        [
            escape(row["arm"]),
            str(row["iterations"]),
            *(_cell(row["metrics"], name) for name in FURTHER),
            _cell({"auc": row["average_precision"]}, "auc"),
            numbers.p_value(row["chance_p"]),
            numbers.area(row["calibration"]["brier"]),
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
    labels = [words.METRIC_NAMES[name.removesuffix("_at")] + (stated if name.endswith("_at") else "") for name in names]
    rows = [
        [
            escape(row["arm"]),
            str(row["iterations"]),
            words.rule(point),
            words.thresholds(point),
            *(_cell(point["metrics"], name) if name in point["metrics"] else "–" for name in names),
        ]
        for row in summary["rows"]
        for point in row["operating"]
    ]
    head = ["Arm", "Iterations", "Rule", "Threshold", *(f"{label} %" for label in labels)]
    return ["## Operating points", words.OPERATING, table(head, rows)]


def _calibration(summary: Summary) -> list[str]:
    rows = []
    for row in summary["rows"]:
        found = row["calibration"]
        parts = (found["reliability"], found["resolution"], found["uncertainty"], found["within"], found["ece"])
        rows.append([escape(row["arm"]), str(row["iterations"]), *(numbers.area(part) for part in parts)])
    head = ["Arm", "Iterations", "Reliability", "Resolution", "Uncertainty", "Within bins", "ECE"]
    said = "Brier = reliability − resolution + uncertainty + within, in ten bins of equal width."
    return ["## Calibration", said, table(head, rows)]


def _published(summary: Summary) -> list[str]:
    return _published_table(summary["published"], words.headline(summary)["arm"]) if summary["published"] else []


def _published_table(published: Sequence[PublishedRow], first: str) -> list[str]:
    """Each value with its place against every arm of the same length; where there is none, `first` stands for it."""
    rows = []
    for item in published:
        for arm in [verdict["arm"] for verdict in item["against"]] or [first]:
            cells = []
            for name in MAIN:
                value = item["metrics"][name]
                said = words.verdict(item, arm, name)
                cells.append("–" if value is None else f"{numbers.metric(name, value)} ({said})")
            rows.append([escape(item["study"]), str(item["iterations"]), escape(arm), *cells])
    head = ["Study", "Iterations", "Against arm", "Accuracy %", "Sensitivity %", "Specificity %", "AUC"]
    return ["## Published values", table(head, rows)]


def _differences(summary: Summary) -> list[str]:
    if not summary["differences"]:
        return []
    return ["## Differences between arms", difference_table(summary["differences"])]


def difference_table(found: Sequence[DifferenceRow]) -> str:
    """Each difference with its interval, p and Holm's p."""
    head = ["Arm", "Iterations"]
    for label, unit in words.TESTED.values():
        head += [f"{label}, {unit}", "p", "p, Holm"]
    rows = []
    for row in found:
        cells = [escape(words.sides(row)), str(row["iterations"])]
        for name in words.TESTED:
            value, test = row["metrics"].get(name), row["tests"].get(name)
            cells.append(f"{numbers.gain(name, value['value'])} [{numbers.gain_bounds(name, value)}]" if value else "–")
            cells += [numbers.p_value(test["p"]), numbers.p_value(test["p_holm"])] if test else ["–", "–"]
        rows.append(cells)
    return table(head, rows)


def comparison(found: Comparison, said: str, unpaired: str) -> str:
    """`compare.md`: the comparison page's numbers."""
    blocks = [f"# {escape(found['first']['name'])} and {escape(found['second']['name'])}", escape(said)]
    if found["differences"]:
        note = words.difference_note(found["differences"][0]) if found["paired"] else unpaired
        blocks += ["## Differences", difference_table(found["differences"]), note]
    if found["published"]:
        blocks += _published_table(found["published"], found["entries"][0]["arm"])
    head = ["Run", "Arm", "Iterations", "Images", "Accuracy %", "Sensitivity %", "Specificity %", "AUC"]
    rows = [
        [
            escape(item["run"]),
            escape(item["arm"]),
            str(item["iterations"]),
            str(item["images"]),
            *(_cell(item["metrics"], name) for name in MAIN),
        ]
        for item in found["entries"]
    ]
    return "\n\n".join([*blocks, "## Values", table(head, rows)]) + "\n"


def _folds(summary: Summary) -> list[str]:
    head = ["Arm", "Iterations", "Fold", "Images", "Accuracy %", "Sensitivity %", "Specificity %", "AUC", "Train s"]
    rows = [
        [
            escape(row["arm"]),
            str(row["iterations"]),
            str(row["fold"]),
            str(row["images"]),
            numbers.share(row["accuracy"]),
            numbers.share(row["sensitivity"]),
            numbers.share(row["specificity"]),
            numbers.area(row["auc"]),
            numbers.seconds(row["train_seconds"]),
        ]
        for row in summary["fold_rows"]
    ]
    return ["## Folds", f"<details><summary>{len(rows)} rows</summary>", table(head, rows), "</details>"]


def _subgroups(summary: Summary) -> list[str]:
    if not summary["subgroups"]:
        return []
    head = ["Column", "Group", "Images", "Patients", "Accuracy %", "Sensitivity %", "Specificity %", "AUC"]
    rows = []
    for row in summary["subgroups"]:
        cells = [escape(row["column"]), escape(row["group"])]
        if row["hidden"]:
            rows.append([*cells, f"fewer than {summary['smallest_group']}", *[""] * 5])
        else:
            patients = "unknown" if row["patients"] is None else str(row["patients"])
            rows.append([*cells, str(row["images"]), patients, *(_cell(row["metrics"], name) for name in MAIN)])
    return ["## Subgroups", words.subgroups(summary), table(head, rows)]


def _provenance(summary: Summary) -> list[str]:
    data, found = summary["data"], summary["leakage"]
    counts = ", ".join(f"{escape(name)} {count:,}" for name, count in data["counts"].items())
    skipped = ", ".join(f"{escape(reason)} {count:,}" for reason, count in data["skipped"].items()) or "none"
    patients = "unknown" if data["patients"] is None else f"{data['patients']:,}"
    facts = [
        f"Images: {data['images']:,} ({counts}); patients: {patients}; skipped: {skipped}",
        f"Folds: {data['folds']}, hash `{escape(data['folds_hash'][:12])}`, data `{escape(data['dataset_hash'][:12])}`",
        f"Leakage certificate: {'passed' if found['passed'] else 'not passed' if found['present'] else 'absent'}",
        f"Machine: {escape(', '.join(f'{key} {value}' for key, value in summary['environment'].items()))}",
        f"Run: {escape(summary['run_hash'][:12])}, {escape(summary['device'])}, {escape(summary['precision'])}",
    ]
    return [
        "## Where the numbers come from",
        "\n".join(f"- {fact}" for fact in facts),
        "Run it again:",
        f"    {' '.join(summary['command'].split())}",
        "## Limits",
        "\n".join(f"- {escape(line)}" for line in words.limits(summary)),
        "## How to cite",
        escape(words.citation(summary)),
    ]
