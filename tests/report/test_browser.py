"""The page in a real browser: slider, sorting, keyboard, phone width, print, nothing sent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import PHONE, Tab
from fake_run import Fake
from test_summary import pooled

from cxrtl.evaluate.metrics import confusion
from cxrtl.report.page import write_report
from cxrtl.rundir import RunDir, read_json

CELLS = "Object.fromEntries(['tp','fp','fn','tn'].map(n => [n, +document.getElementById('explore-' + n).textContent]))"
TABLE = "document.querySelector('[aria-label=\"{}\"] table')"


@pytest.fixture
def page(tab: Tab, three: RunDir) -> Iterator[Tab]:
    tab.width(1280)
    tab.open(three.path("report.html"))
    yield tab
    assert tab.complaints() == []


def test_the_slider_moves_the_matrix_and_the_point(page: Tab, three: RunDir) -> None:
    frame = pooled(three)
    part = frame[(frame["arm"] == "resnet50") & (frame["iterations"] == 1000)]
    truth, score = (part["label"] == "effusion").to_numpy(), part["score_effusion"].to_numpy()
    assert page.do(CELLS) == vars(confusion(truth, score, 0.5))
    before = page.do("document.getElementById('explore-point').getAttribute('cy')")
    page.do("document.getElementById('explore-threshold').focus()")
    for _ in range(7):
        page.press("ArrowRight", 39)
    found = confusion(truth, score, 0.57)
    assert page.do(CELLS) == vars(found)
    assert page.do("document.getElementById('explore-value').textContent") == "0.57"
    assert page.do("document.getElementById('explore-sensitivity').textContent") == f"{100 * found.tp / 500:.1f} %"
    after = page.do("document.getElementById('explore-point').getAttribute('cy')")
    assert float(after) == pytest.approx(100 - 100 * found.tp / 500) and after != before
    page.do("var c = document.getElementById('explore-row'); c.value = 0; c.dispatchEvent(new Event('change'))")
    part = frame[(frame["arm"] == "resnet50") & (frame["iterations"] == 250)]
    wanted = confusion((part["label"] == "effusion").to_numpy(), part["score_effusion"].to_numpy(), 0.57)
    assert page.do(CELLS) == vars(wanted)


def test_tables_sort_by_keyboard(page: Tab) -> None:
    table = TABLE.format("Table 1")
    column = f"[...{table}.tBodies[0].rows].map(r => r.cells[2].firstChild.textContent.trim())"
    total = page.do(f"{table}.rows.length")
    page.do(f"{table}.tHead.rows[0].cells[2].querySelector('button').focus()")
    for wanted, falls in (("descending", True), ("ascending", False)):
        page.press("Enter", 13, "\r")
        values = [float(value) for value in page.do(column)]
        assert values == sorted(values, reverse=falls) and len(values) == total - 1
        assert page.do(f"{table}.tHead.rows[0].cells[2].getAttribute('aria-sort')") == wanted
    page.do(f"{table}.tHead.rows[0].cells[0].querySelector('button').click()")
    names = page.do(f"[...{table}.tBodies[0].rows].map(r => r.cells[0].firstChild.textContent.trim())")
    assert names == sorted(names, key=str.lower) and len(set(names)) == 4
    assert page.do(f"[...{table}.tBodies[0].rows].every(r => r.querySelector('th[scope=row]'))")


def test_values_show_under_the_pointer(page: Tab) -> None:
    """Each spot lies on its figure, and the first arm's last point is where the pointer finds it."""
    assert page.do("document.querySelectorAll('.wide circle title').length") == 9 + 3
    page.do("document.querySelector('.wide').scrollIntoView()")
    hit = page.do(
        "(() => { const c = document.querySelectorAll('.wide circle')[2], b = c.getBoundingClientRect();"
        "return document.elementFromPoint(b.x + b.width / 2, b.y + b.height / 2).textContent; })()"
    )
    assert hit.startswith("resnet50, 1000 iterations: accuracy")
    outside = (
        "[...document.querySelectorAll('.plot')].flatMap(p => { const b = p.getBoundingClientRect();"
        "return [...p.querySelectorAll('circle')].filter(c => { const r = c.getBoundingClientRect();"
        "return r.right < b.left || r.left > b.right || r.bottom < b.top || r.top > b.bottom }) }).length"
    )
    assert page.do(outside) == 0


def test_every_control_has_a_name(page: Tab) -> None:
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "slider", "combobox", "link", "image", "region", "table", "img", "navigation"}
    nameless = [
        node["role"]["value"]
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in roles and not node.get("name", {}).get("value")
    ]
    found = {node["role"]["value"] for node in nodes if not node["ignored"]}
    assert nameless == [] and {"button", "slider", "combobox", "image"} <= found


@pytest.mark.parametrize("run", ["three", pytest.param("thirty", marks=pytest.mark.slow)])
def test_the_page_has_no_faults(tab: Tab, request: pytest.FixtureRequest, run: str) -> None:
    assert tab.faults(request.getfixturevalue(run).path("report.html")) == []


@pytest.mark.skipif("CXRTL_RUN" not in os.environ, reason="CXRTL_RUN names no run folder")
def test_a_real_run(tab: Tab) -> None:
    """As above; and at each place of the slider the counts are those of the run's own predictions."""
    run = RunDir(Path(os.environ["CXRTL_RUN"]).absolute())
    assert tab.faults(run.path("report.html")) == []
    summary = read_json(run.path("summary.json"))
    if summary["task"] == "binary":
        frame, head = pooled(run), summary["rows"][summary["headline"]]
        part = frame[(frame["arm"] == head["arm"]) & (frame["iterations"] == head["iterations"])]
        truth = (part["label"] == summary["positive"]).to_numpy()
        score = part[f"score_{summary['positive']}"].to_numpy()
        for step in (0, 3, 50, 71, 100):
            tab.do(f"var s = document.getElementById('explore-threshold'); s.value = {step}")
            tab.do("s.dispatchEvent(new Event('input'))")
            assert tab.do(CELLS) == vars(confusion(truth, score, step / 100))
        assert tab.do("document.getElementById('explore-point').getAttribute('cx')") == "0"
        assert tab.complaints() == []


@pytest.mark.parametrize("arms", [1, 3, pytest.param(30, marks=pytest.mark.slow)])
def test_phone_width(tab: Tab, request: pytest.FixtureRequest, make: Callable[[Fake], RunDir], arms: int) -> None:
    """Nothing but tables and wide figures, in boxes of their own, is wider than the screen."""
    if arms == 1:
        run = make(Fake(arms=1, folds=2, budgets=(250,), images=60, per_patient=1))
        write_report(run)
    else:
        run = request.getfixturevalue("three" if arms == 3 else "thirty")
    tab.width(PHONE)
    tab.open(run.path("report.html"))
    assert tab.do("document.scrollingElement.scrollWidth") <= PHONE
    assert tab.do("document.getElementById('explore').getBoundingClientRect().width") > 200
    assert tab.complaints() == []


def test_without_script_and_in_print(tab: Tab, three: RunDir) -> None:
    tab.width(1280)
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(three.path("report.html"))
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    assert tab.do("document.getElementById('explore').hidden") and not tab.do(
        "document.querySelectorAll('th button').length"
    )
    tab.open(three.path("report.html"))
    tab.call("Emulation.setEmulatedMedia", media="print")
    assert tab.do("getComputedStyle(document.getElementById('explore')).display") == "none"
    pages = tab.call("Page.printToPDF", preferCSSPageSize=True)["data"]
    assert len(pages) > 100_000
    tab.call("Emulation.setEmulatedMedia", media="")


def test_a_smuggled_script_does_not_run(tab: Tab, three: RunDir, tmp_path: Path) -> None:
    """The policy stops any script but ours, were the escaping ever to fail."""
    text = three.path("report.html").read_text(encoding="utf-8")
    path = tmp_path / "report.html"
    path.write_text(text.replace("</main>", "<script>document.title = 'owned'</script></main>"), encoding="utf-8")
    tab.open(path)
    assert tab.do("document.title") != "owned"
    assert any("Content Security Policy" in str(item) for item in tab.complaints())
