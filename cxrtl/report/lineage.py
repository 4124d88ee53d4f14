"""How images were held out, and through which trainings each arm's weights came."""

from __future__ import annotations

from typing import Any, cast

from cxrtl.records import division_columns, held_out
from cxrtl.report.load import Loaded
from cxrtl.report.numbers import plural
from cxrtl.report.shape import Division, Stage


def division(loaded: Loaded) -> Division:
    """As `experiment.folds` says, with what was held out in fact."""
    knobs = loaded.experiment.folds
    repeats = len(division_columns(loaded.folds))
    tested = held_out(loaded.folds)["image_id"].nunique()
    return Division(
        kind=knobs.kind, repeats=repeats, folds=loaded.k // repeats, images=len(loaded.folds), tested=tested
    )


def said(found: Division) -> str:
    """`10-fold cross-validation`, and its likes."""
    if found["kind"] == "holdout":
        return f"one holdout of {plural(found['tested'], 'image')} out of {found['images']:,}"
    if found["kind"] == "leave_one_site_out":
        return f"leave-one-site-out over {plural(found['folds'], 'site')}"
    repeated = f", repeated {found['repeats']} times" if found["repeats"] > 1 else ""
    return f"{found['folds']}-fold cross-validation{repeated}"


def caution(found: Division) -> str:
    """What this division does not show, for the stamp; "" for plain cross-validation."""
    if found["kind"] == "holdout":
        return (
            f"Holdout: the models were tested on one part of {plural(found['tested'], 'image')}. No interval covers "
            "which images that part happens to hold, and there is no spread over folds."
        )
    if found["kind"] == "leave_one_site_out":
        return (
            "Leave-one-site-out: each fold is a site that its model never saw. The mean and the spread of the folds "
            "speak of a new site; the pooled values weigh sites by their images."
        )
    if found["repeats"] > 1:
        return (
            f"Repeated: {found['repeats']} divisions into {found['folds']} folds. Values are pooled within a repeat "
            "and averaged over repeats; intervals resample patients, of whom repeats add none. Operating points and "
            "the test against chance are of the first repeat."
        )
    return ""


def lineage(loaded: Loaded) -> list[Stage]:
    """The stages of every arm that started from another run, as recorded, first stage first."""
    recorded: dict[str, list[dict[str, Any]]] = loaded.resolved["lineage"]
    return [_stage(arm, place, item) for arm, stages in recorded.items() for place, item in enumerate(stages)]


def _stage(arm: str, place: int, item: dict[str, Any]) -> Stage:
    texts = {"arm": arm, "place": place, "stage": str(item["stage"]), "classes": list(item["classes"])}
    return cast(Stage, {**item, **texts})
