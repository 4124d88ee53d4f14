"""What Markdown files are made of: escaped text, pipe tables, a value with its interval."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from cxrtl.report import numbers, vocabulary
from cxrtl.report.shape import Value


def escape(text: str) -> str:
    """Text that Markdown, HTML inside it and a table cell all leave alone."""
    plain = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", plain)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A pipe table; the first column reads left, the rest right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(metrics: dict[str, Value], name: str) -> str:
    value = metrics[name]
    return f"{numbers.metric(name, value['value'])} [{numbers.bounds(name, value)}]".replace(" []", "")


def heads(names: Sequence[str], pooled: bool = True) -> list[str]:
    """`Accuracy %`, `AUC pooled`; without `pooled` only the percent sign is kept."""
    return [
        f"{vocabulary.name(name)} {vocabulary.unit(name) if pooled or vocabulary.is_share(name) else ''}".strip()
        for name in names
    ]
