"""The page: self-contained, escaped, accessible, and with the summary's numbers."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from fake_run import SHAPES, Fake

from cxrtl.errors import PredictionsError
from cxrtl.report.load import load_run
from cxrtl.report.page import CSP, write_report
from cxrtl.report.summary import build
from cxrtl.rundir import RunDir, read_json

EVIL = '"><img src=x onerror=alert(1)><script>alert(1)</script>{{ 7*7 }}$\\frac{1}$|`*'


class Page(HTMLParser):
    """Tags with their attributes, in order, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, *names: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag in names]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="session")
def page(three: RunDir) -> Page:
    return Page(three.path("report.html").read_text())


def test_nothing_is_fetched_or_run(three: RunDir, page: Page) -> None:
    text = three.path("report.html").read_text()
    assert not re.search(r"https?://|@import|url\(|javascript:", text)
    only_our_script(text, page)
    banned = {"iframe", "object", "embed", "form", "base", "audio", "video"}
    assert not banned & {tag for tag, _ in page.tags}
    links = [attributes["href"] for attributes in page.all("a", "link")]
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert all(attributes["src"].startswith("data:image/") for attributes in page.all("img"))
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    (csp,) = [item for item in page.all("meta") if item.get("http-equiv") == "Content-Security-Policy"]
    assert csp["content"] == CSP and "default-src 'none'" in CSP
    head = [tag for tag, _ in page.tags[:5]]
    assert head[:4] == ["html", "head", "meta", "meta"]  # the policy stands before anything it governs


def only_our_script(text: str, page: Page) -> None:
    """One block of data and the one script that the policy names by its hash."""
    assert page.all("script") == [{"type": "application/json", "id": "scores"}, {}]
    script = text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in CSP and "unsafe-eval" not in CSP
    data = text.split('id="scores">')[1].split("</script>")[0]
    assert not set("<>&") & set(data) and json.loads(data)


def test_accessible(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert all(attributes.get("scope") for attributes in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {item["href"][1:] for item in page.all("a")} <= set(ids)
    assert page.all("html")[0]["lang"] == "en" and page.all("main") and page.all("title")
    regions = [attributes for attributes in page.all("div") if "scroll" in attributes.get("class", "")]
    assert regions and all(region["tabindex"] == "0" and region["aria-label"] for region in regions)


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def test_numbers_are_the_summarys(three: RunDir, page: Page) -> None:
    summary = read_json(three.path("summary.json"))
    lines = three.path("report.md").read_text().splitlines()
    for row in summary["rows"]:
        found = row["metrics"]
        start = f"| {row['arm']} | {row['iterations']} | "
        wanted = [
            f"{percent(found[name]['value'])} [{percent(found[name]['low'])}–{percent(found[name]['high'])}]"
            for name in ("accuracy", "sensitivity", "specificity")
        ]
        wanted.append(f"{found['auc']['value']:.3f} [{found['auc']['low']:.3f}–{found['auc']['high']:.3f}]")
        wanted.append(f"{row['fold_auc']['mean']:.3f} ± {row['fold_auc']['sd']:.3f}")
        wanted += [f"{row['time']['train_total']:,.0f}", f"{row['time']['train_fold']:,.0f}"]
        assert any(line.startswith(start + " | ".join(wanted)) for line in lines), start
        counts = row["confusion"]
        brier = row["calibration"]["measures"]["brier"]
        tail = (
            f"{brier['value']:.3f} [{brier['low']:.3f}–{brier['high']:.3f}] | {counts['tp']} | {counts['fn']} | "
            f"{counts['fp']} | {counts['tn']} |"
        )
        assert any(line.startswith(start) and line.endswith(tail) for line in lines), start
        said = re.sub(r" \[(.+?)\]", r" \1", " ".join(wanted[:5]))
        if row["fold_auc"]["differs"]:
            said += " †"
        assert said in page.text, said
    for row in summary["fold_rows"]:
        cells = (percent(row["accuracy"]), percent(row["sensitivity"]), percent(row["specificity"]))
        line = f"| {row['arm']} | {row['iterations']} | {row['fold']} | {row['images']} | {' | '.join(cells)} | "
        assert any(item.startswith(line + f"{row['auc']:.3f}") for item in lines)


def test_notes_on_the_number_of_patients_and_on_folds_that_disagree(three: RunDir, page: Page) -> None:
    summary, text = read_json(three.path("summary.json")), three.path("report.md").read_text()
    head = summary["rows"][summary["headline"]]["metrics"]
    auc, accuracy = (head[name]["high"] - head[name]["low"] for name in ("auc", "accuracy"))
    widths = [(size, auc / root, 100 * accuracy / root) for size, root in ((250, 0.5**0.5), (500, 1), (2000, 2))]
    for size, area, points in widths:  # twice as sure from four times as many
        said = f"{size:,} patients: AUC {area:.3f}, accuracy {points:.1f} points"
        assert said in page.text and said in text
    differing = [row for row in summary["rows"] if row["fold_auc"]["differs"]]
    assert 0 < len(differing) < len(summary["rows"])
    assert "Pooled AUC and the mean of the folds' AUCs differ by more than 0.01" in page.text
    for place, row in enumerate(differing):
        pooled, mean = row["metrics"]["auc"]["value"], row["fold_auc"]["mean"]
        said = f"{row['arm']} at {row['iterations']}: pooled AUC {pooled:.3f} against a mean of {mean:.3f} within folds"
        assert said in text and (said in page.text) == (place < 6)


def test_first_screen(three: RunDir, page: Page) -> None:
    summary = read_json(three.path("summary.json"))
    row = summary["rows"][summary["headline"]]
    start = page.text[: page.text.index("Results at each training length")]
    for said in ("How good?", "How sure?", "How long?", "Leak-free?", f"AUC {row['metrics']['auc']['value']:.3f}"):
        assert said in start
    assert "no arm is picked by its result" in start
    assert "outside, above" in page.text or "outside, below" in page.text


def test_the_same_files_give_the_same_bytes(small: RunDir) -> None:
    write_report(small)
    names = ["report.html", "report.md", "summary.json", "figures/accuracy-time.svg", "figures/progress-01.png"]
    before = [small.path(name).read_bytes() for name in names]
    write_report(small)
    assert [small.path(name).read_bytes() for name in names] == before
    assert not list(small.root.rglob("*.part"))
    stems = {path.stem for path in small.path("figures").iterdir()}
    each = {f"{kind}-{budget}" for kind in ("roc", "precision", "calibration") for budget in (10, 20)}
    assert stems == {"accuracy-time", "confusion", "progress-01", "progress-02"} | each


@pytest.mark.usefixtures("unrendered")
def test_partial_is_refused_then_stamped(make: Callable[[Fake], RunDir]) -> None:
    run = make(Fake(arms=2, budgets=(20,), done=7, images=200))
    with pytest.raises(PredictionsError, match="incomplete"):
        write_report(run)
    assert not run.path("report.html").exists()
    text = write_report(run, partial=True).read_text()
    assert run.path("report.md").read_text().splitlines()[0].startswith("> **Partial: 7 of 10 folds")
    body = Page(text[text.index("<body>") :])
    assert body.text.startswith("Skip to the results Partial: 7 of 10 folds are finished")
    assert "<title>[Partial]" in text
    summary = read_json(run.path("summary.json"))
    assert all(row["folds"] == 7 and not row["complete"] for row in summary["rows"])
    assert {tuple(gap["folds"]) for gap in summary["missing"]} == {(7, 8, 9)}


def test_a_partial_report_is_less_sure(make: Callable[[Fake], RunDir]) -> None:
    """Seven folds of ten give wider intervals than all ten, of the same predictions."""
    run = make(Fake(arms=1, budgets=(20,), images=300))
    whole = build(load_run(run))["rows"][0]["metrics"]
    for fold in (7, 8, 9):
        run.path("resnet50", f"fold{fold}", "result.json").unlink()
    part = build(load_run(run, partial=True))["rows"][0]["metrics"]
    widths = [sum((item["high"] or 0) - (item["low"] or 0) for item in found.values()) for found in (part, whole)]
    assert widths[0] > 1.05 * widths[1]  # by a fifth, were the images of all folds alike


@pytest.mark.usefixtures("unrendered")
def test_partial_of_a_complete_run_is_not_stamped(small: RunDir) -> None:
    write_report(small, partial=True)
    assert read_json(small.path("summary.json"))["stamps"] == []


def test_names_are_escaped(make: Callable[[Fake], RunDir]) -> None:
    fake = Fake(
        arms=1,
        folds=2,
        budgets=(10, 250),
        images=60,
        classes=("normal", EVIL),
        study=EVIL,
        description=EVIL,
    )
    run = make(fake)
    text = write_report(run).read_text()
    tags = Page(text)
    only_our_script(text, tags)
    assert not [key for _, attributes in tags.tags for key in attributes if key.startswith("on")]
    assert all(attributes["src"].startswith("data:image/") for attributes in tags.all("img"))
    assert "{{ 7*7 }}" in text and "49$" not in text
    markdown = run.path("report.md").read_text()
    assert "<script>" not in markdown and "<img" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) <= 13 for line in rows)


@pytest.mark.usefixtures("unrendered")
def test_ungrouped_and_synthetic_are_stamped(make: Callable[[Fake], RunDir]) -> None:
    run = make(Fake(arms=1, folds=2, budgets=(20,), images=80, grouped=False, source="phantom"))
    body = write_report(run).read_text()
    assert [stamp["kind"] for stamp in read_json(run.path("summary.json"))["stamps"]] == ["ungrouped", "synthetic"]
    assert body.index("Ungrouped:") < body.index("<h1>")


@pytest.mark.slow
def test_thirty_arms(thirty: RunDir) -> None:
    found = Page(thirty.path("report.html").read_text())
    assert "23 more arms" in found.text and "The first 7 arms are in colour" in found.text
    assert all(name in found.text for name in SHAPES["thirty"].names)
