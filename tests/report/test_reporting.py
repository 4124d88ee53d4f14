"""The checklists: whole, numbered as published, and filled with the summary's numbers only."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable

import pytest
from fake_run import Fake
from test_page import EVIL

from cxrtl.report.markdown import markdown
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


def test_what_the_cohort_left_out_is_said(three: RunDir) -> None:
    summary = read_json(three.path("summary.json"))
    summary["data"]["flow"] = [
        {"step": "images listed", "removed": 0, "left": 377_110, "patients": 65_000},
        {"step": "view not frontal", "removed": 376_000, "left": 1_110, "patients": 900},
        {"step": "not drawn (500 of each class)", "removed": 107, "left": 1_003, "patients": None},
        {"step": "unusable: the file is damaged", "removed": 3, "left": 1_000, "patients": None},
    ]
    found, text = answers(summary), markdown(summary)
    for said in (found["excluded"], found["flow"], text):
        assert "377,110" in said and "view not frontal (376,000 images, 64,100 patients)" in said
        assert "not drawn (500 of each class) (107 images)" in said and "the file is damaged (3 images)" in said
    assert "taken as it was" not in found["size"] and "what was left of 377,110 images listed" in found["size"]
    summary["data"] |= {"flow": summary["data"]["flow"][:1], "skipped": {}}
    found = answers(summary)
    assert found["excluded"].endswith("left out before the folds were made: none.") and "as it was" in found["size"]


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
