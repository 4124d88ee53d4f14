"""`references.bib`: BibTeX of what a run used, out of `references.bib` beside this module.

There each entry stands under a line that says when it is used: `% always`, `% compared` (arms were tested against each
other), `% explained`, or `% what text`, where `text` occurs among the run's methods, backbones, weights and so on.
"""

from __future__ import annotations

import json
from pathlib import Path

from cxrtl.config import Experiment, Recipe
from cxrtl.report.load import Loaded
from cxrtl.report.shape import Summary

ENTRIES = Path(__file__).with_name("references.bib")


def references(loaded: Loaded, summary: Summary, explained: bool) -> str:
    """The file's text, in the order of `references.bib`."""
    used = _used(loaded.experiment, loaded.recipes, summary)
    flags = {"always": True, "compared": bool(summary["differences"]), "explained": explained}
    found = []
    for block in ENTRIES.read_text(encoding="utf-8").strip().split("\n\n"):
        when, _, entry = block.partition("\n")
        what, _, text = when.removeprefix("% ").partition(" ")
        if flags[what] if what in flags else any(text in value for value in used[what]):
            found.append(entry)
    return "\n\n".join(found) + "\n"


def _used(experiment: Experiment, recipes: tuple[Recipe, ...], summary: Summary) -> dict[str, set[str]]:
    judged = json.dumps([summary["rows"], summary["differences"]], ensure_ascii=False)
    return {
        "method": {judged},  # every interval and test names its own
        "backbone": {recipe.train.backbone for recipe in recipes},
        "weights": {recipe.train.init.partition(":")[0] for recipe in recipes},
        "optimizer": {recipe.train.optimizer for recipe in recipes},
        "schedule": {recipe.train.schedule for recipe in recipes},
        "source": {experiment.data.source},
        "task": {summary["task"]},
    }
