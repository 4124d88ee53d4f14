"""references.bib names what the run used and nothing else, and is BibTeX."""

from __future__ import annotations

import re
from collections.abc import Callable

from fake_run import Fake

from cxrtl.report.load import load_run
from cxrtl.report.references import ENTRIES, references
from cxrtl.report.summary import build
from cxrtl.rundir import RunDir


def keys(run: RunDir, explained: bool = False) -> set[str]:
    loaded = load_run(run)
    return set(re.findall(r"^@\w+\{(\w+),", references(loaded, build(loaded), explained), re.M))


def test_what_was_used_and_no_more(small: RunDir, make: Callable[[Fake], RunDir]) -> None:
    always = {"ray", "pytorch", "sklearn", "scipy", "resnet", "wilson", "imagenet"}
    assert keys(small) == always | {"bca", "clusterbootstrap", "obuchowski", "nadeau", "holm"}
    alone = make(Fake(arms=1, folds=2, budgets=(20,), images=120, per_patient=1, grouped=False, source="kermany"))
    assert keys(alone, True) == always | {"bca", "clusterbootstrap", "delong", "kermany", "gradcam", "sanity", "captum"}


def test_entries_are_bibtex() -> None:
    blocks = ENTRIES.read_text(encoding="utf-8").strip().split("\n\n")
    names = [re.match(r"% [a-z]+( \w+)?\n@(article|inproceedings|misc)\{(\w+), author = \{", block) for block in blocks]
    assert all(names) and len({match[3] for match in names if match}) == len(blocks)
    for block in blocks:
        assert block.count("{") == block.count("}") and "title = {" in block and re.search(r"year = \{\d{4}\}", block)
