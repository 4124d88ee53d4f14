"""`report.html`: one file that needs no network and is complete without its script. `report.md`, `summary.json` and
`figures/` are written with it."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cxrtl.report import captions, examined, glance, lineage, numbers, versus, vocabulary, words
from cxrtl.report.figures import SHOWN_PROGRESS, Drawings, draw
from cxrtl.report.load import load_run
from cxrtl.report.markdown import markdown
from cxrtl.report.measures import threshold_table
from cxrtl.report.references import references
from cxrtl.report.reporting import reporting
from cxrtl.report.saliency import Gallery, read_gallery
from cxrtl.report.samples import SHOWN_SIDE, Sample, read_samples
from cxrtl.report.set_beside import comparison
from cxrtl.report.shape import Row, Summary
from cxrtl.report.style import SHOWN_ARMS
from cxrtl.report.summary import build
from cxrtl.rundir import RunDir, drop_parts, write_bytes, write_json

SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
_DIGEST = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
# nothing may be fetched, embedded or sent, and nothing run but the one script that hashes to this: a result file that
# smuggles in markup finds no door
CSP = (
    f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_DIGEST}'; base-uri 'none'; "
    "form-action 'none'"
)


def write_report(run: RunDir, partial: bool = False) -> Path:
    """Write `summary.json`, `figures/`, `report.md`, `reporting.md`, `references.bib` and `report.html`; return
    the page's path.

    The same result files give the same bytes. Each file is replaced atomically, the page last.

    Raises:
        DamagedError, ChangedError, PredictionsError: as `load_run` does.
    """
    loaded = load_run(run, partial)
    summary = build(loaded)
    samples = read_samples(run)
    drop_parts(run.root, shared=True)  # a run may go on elsewhere
    drawings = draw(loaded, summary)
    write_json(run.path("summary.json"), summary)
    write_bytes(run.path("report.md"), markdown(summary).encode())
    write_bytes(run.path("reporting.md"), reporting(summary).encode())
    gallery = read_gallery(run)
    write_bytes(run.path("references.bib"), references(loaded, summary, gallery is not None).encode())
    page = run.path("report.html")
    shown = summary["rows"] if summary["task"] == "binary" else []
    scores = [threshold_table(loaded.predictions.select(row["arm"], row["iterations"])) for row in shown]
    twins = examined.read_twins(run, summary["examined"])
    write_bytes(page, render(summary, drawings, samples, scores, twins, gallery).encode())
    return page


def render(
    summary: Summary,
    drawings: Drawings,
    samples: list[Sample],
    scores: list[dict[str, list[int]]],
    twins: list[examined.Twins],
    gallery: Gallery | None = None,
) -> str:
    """The page; `scores` has a `threshold_table` for each row of a binary task, else nothing.

    Everything that comes from a result file is escaped by the template engine.
    """
    return fill(
        "page.html",
        s=summary,
        head=words.headline(summary),
        scores=scores,
        drawings=drawings,
        cells=_by_cell(samples),
        side=SHOWN_SIDE,
        groups=groups(summary),
        cost=vocabulary.COST[summary["task"]],
        captions=captions,
        glance=glance,
        lineage=lineage,
        shown_arms=SHOWN_ARMS,
        shown_progress=SHOWN_PROGRESS,
        gallery=gallery,
        twins=twins,
        examined=examined,
    )


def write_comparison(found: versus.Comparison, folder: Path) -> Path:
    """Write `compare.json`, `compare.md` and `compare.html` into `folder`; return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    said = versus.said(found)
    write_json(folder / "compare.json", found)
    write_bytes(folder / "compare.md", comparison(found, said, versus.UNPAIRED).encode())
    write_bytes(folder / "compare.html", fill("compare.html", c=found, said=said, unpaired=versus.UNPAIRED).encode())
    return folder / "compare.html"


def fill(template: str, **values: object) -> str:
    """A page of its own: a template with `values`, the policy, the script and the words that all pages share."""
    shared = {"csp": CSP, "script": Markup(SCRIPT), "vocabulary": vocabulary, "words": words, "numbers": numbers}
    return _templates().get_template(template).render(**shared, **values)


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("cxrtl.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(numbers, name) for name in FILTERS}
    environment.filters |= {"uri": uri, "shade": shade, "mean_sd": words.mean_sd}
    return environment


FILTERS = (
    "share",
    "area",
    "metric_of",
    "seconds",
    "duration",
    "p_value",
    "plural",
)


def uri(data: bytes, kind: str) -> Markup:
    """A data URI of an image of ours; base64 holds no character that HTML would read."""
    return Markup(f"data:image/{kind};base64,{base64.b64encode(data).decode()}")


def shade(row: Row, cell: str) -> str:
    """The share of its true class that a confusion cell holds, for the depth of its colour, 0 … 1."""
    found = row["confusion"]
    positives, negatives = found["tp"] + found["fn"], found["fp"] + found["tn"]
    count, whole = {
        "tp": (found["tp"], positives),
        "fn": (found["fn"], positives),
        "fp": (found["fp"], negatives),
        "tn": (found["tn"], negatives),
    }[cell]
    return f"{count / whole if whole else 0:.3f}"


def groups(summary: Summary) -> list[tuple[str, list[Row]]]:
    """Rows by arm, in the experiment's order; arms without a finished fold are left out."""
    found = [(arm, [row for row in summary["rows"] if row["arm"] == arm]) for arm in summary["arms"]]
    return [(arm, rows) for arm, rows in found if rows]


def _by_cell(samples: list[Sample]) -> list[tuple[str, list[Sample]]]:
    cells = [(name, [sample for sample in samples if sample.cell == name]) for name in words.CELL_NAMES]
    return [(name, chosen) for name, chosen in cells if chosen]
