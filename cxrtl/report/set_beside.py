"""Markdown of what is set beside our arms: published values, other arms, readers, another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cxrtl.report import captions, numbers, vocabulary, words
from cxrtl.report.pipes import cell, escape, heads, table
from cxrtl.report.shape import DifferenceRow, PublishedRow, Summary
from cxrtl.report.versus import Comparison


def published(summary: Summary) -> list[str]:
    names = [name for name in summary["columns"] if name in vocabulary.PUBLISHED]
    first = words.headline(summary)["arm"]
    return _published_table(summary["published"], first, names) if summary["published"] else []


def _published_table(published: Sequence[PublishedRow], first: str, names: Sequence[str]) -> list[str]:
    """Each value with its place against every arm of the same length; where there is none, `first` stands for it."""
    rows = []
    for item in published:
        for arm in [verdict["arm"] for verdict in item["against"]] or [first]:
            cells = []
            for name in names:
                value = item["metrics"].get(name)
                said = words.verdict(item, arm, name)
                cells.append("–" if value is None else f"{numbers.metric(name, value)} ({said})")
            rows.append([escape(item["study"]), str(item["iterations"]), escape(arm), *cells])
    head = ["Study", "Iterations", "Against arm", *heads(names, pooled=False)]
    return ["## Published values", table(head, rows)]


def differences(summary: Summary) -> list[str]:
    found = summary["differences"]
    return ["## Differences between arms", *difference_tables(summary, found)] if found else []


def difference_tables(found: Summary | Comparison, rows: Sequence[DifferenceRow]) -> list[str]:
    """Each difference with its interval, p and Holm's p; findings or structures in a table of their own."""
    whole, parts = [row for row in rows if not row["part"]], [row for row in rows if row["part"]]
    blocks = [_difference_table(whole, vocabulary.tested(found))]
    return blocks + ([_difference_table(parts, vocabulary.tested_part(found))] if parts else [])


def _difference_table(found: Sequence[DifferenceRow], labels: Mapping[str, tuple[str, str]]) -> str:
    head = ["Arm", "Iterations"]
    for label, unit in labels.values():
        head += [f"{label}, {unit}", "p", "p, Holm"]
    rows = []
    for row in found:
        cells = [escape(words.sides(row)), str(row["iterations"])]
        for name in labels:
            value, test = row["metrics"].get(name), row["tests"].get(name)
            cells.append(f"{numbers.gain(name, value)} [{numbers.gain_bounds(name, value)}]" if value else "–")
            cells += [numbers.p_value(test["p"]), numbers.p_value(test["p_holm"])] if test else ["–", "–"]
        rows.append(cells)
    return table(head, rows)


def readers(summary: Summary) -> list[str]:
    """Readers' own values, then every arm against every reader."""
    if not summary["readers"]:
        return []
    names = [name for name in summary["columns"] if any(name in item["metrics"] for item in summary["readers"])]
    own = [
        [
            escape(item["name"]),
            captions.reader(item),
            *(cell(item["metrics"], name) if name in item["metrics"] else "–" for name in names),
        ]
        for item in summary["readers"]
    ]
    blocks = ["## Readers", table(["Reader", "Gave", *heads(names, pooled=False)], own)]
    rows = [row for item in summary["readers"] for row in item["differences"]]
    labels = {
        name: label for name, label in vocabulary.tested(summary).items() if any(name in r["tests"] for r in rows)
    }
    return [*blocks, _difference_table(rows, labels), captions.reader_note(summary)] if rows else blocks


def comparison(found: Comparison, said: str, unpaired: str) -> str:
    """`compare.md`: the comparison page's numbers."""
    blocks = [f"# {escape(found['first']['name'])} and {escape(found['second']['name'])}", escape(said)]
    if found["differences"]:
        note = words.difference_note(found) if found["paired"] else unpaired
        blocks += ["## Differences", *difference_tables(found, found["differences"]), note]
    names = found["columns"]
    if found["published"]:
        shown = [name for name in names if name in vocabulary.PUBLISHED]
        blocks += _published_table(found["published"], found["entries"][0]["arm"], shown)
    head = ["Run", "Arm", "Iterations", "Images", *heads(names, pooled=False)]
    rows = [
        [
            escape(item["run"]),
            escape(item["arm"]),
            str(item["iterations"]),
            str(item["images"]),
            *(cell(item["metrics"], name) for name in names),
        ]
        for item in found["entries"]
    ]
    return "\n\n".join([*blocks, "## Values", table(head, rows)]) + "\n"
