"""The checklists: whole, numbered as published, and filled with the summary's numbers only."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable

import pytest
from fake_run import Fake
from test_page import EVIL

from cxrtl.report.page import write_report
from cxrtl.report.reporting import AUTHOR, CHECKLISTS, answers, methods
from cxrtl.rundir import RunDir, read_json

LISTS = {item["name"]: item["items"] for item in tomllib.loads(CHECKLISTS.read_text(encoding="utf-8"))["checklist"]}


def test_every_item_is_there_once_and_in_order() -> None:
    claim, tripod, stard = ([number for number, _, _ in items] for items in LISTS.values())
    assert claim == [str(number) for number in range(1, 45)]
    assert len(tripod) == 52 and len(stard) == 34
    for numbers, last in ((tripod, 27), (stard, 30)):
        assert sorted({int(re.match(r"\d+", item)[0]) for item in numbers}) == list(range(1, last + 1))  # type: ignore[index]
        assert len(set(numbers)) == len(numbers)
        lettered = [item for item in numbers if item[-1].isalpha()]
        assert all(item[-1] == "a" or f"{item[:-1]}{chr(ord(item[-1]) - 1)}" in lettered for item in lettered)


def test_answers_are_all_used_and_known(three: RunDir) -> None:
    summary = read_json(three.path("summary.json"))
    used = {key for items in LISTS.values() for _, _, key in items} - {""}
    assert used == set(answers(summary))
    text = three.path("reporting.md").read_text()
    assert text.count(AUTHOR) == sum(not key for items in LISTS.values() for _, _, key in items)
    row = summary["rows"][summary["headline"]]
    cells = row["confusion"]
    assert f"TP {cells['tp']}, FN {cells['fn']}, FP {cells['fp']}, TN {cells['tn']}" in text
    assert f"AUC {row['metrics']['auc']['value']:.3f}" in text and "1,000 images (500 normal, 500 effusion)" in text


def test_methods_say_what_was_done(three: RunDir) -> None:
    said = methods(read_json(three.path("summary.json")))
    for part in ("10 stratified folds", "ImageNet weights", "1000 iterations of 25 images", "sgd, rate 0.0001", "bf16"):
        assert part in said, part
    assert "all images of a patient stand in one fold" in said and "3 arms were compared" in said


@pytest.mark.usefixtures("unrendered")
def test_ungrouped_runs_do_not_claim_patients(make: Callable[[Fake], RunDir]) -> None:
    run = make(Fake(arms=1, folds=2, budgets=(20,), images=80, grouped=False, classes=("normal", EVIL)))
    write_report(run)
    text = run.path("reporting.md").read_text()
    assert "patients were not kept together" in text and "unknown patients" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert "<script>" not in text and all(len(re.findall(r"(?<!\\)\|", line)) == 4 for line in rows)
