"""The first screen: how good, how sure, how long, is it leak-free; the same in the page and in Markdown."""

from __future__ import annotations

from cxrtl.report.numbers import bounds, duration, metric, plural
from cxrtl.report.shape import Summary, Value
from cxrtl.report.vocabulary import GOOD, SURE, is_share, of
from cxrtl.report.words import capital, headline, images_of, level, mean_sd, spread

PERCENT = "\u00a0%"
AREAS = (
    "Dice and IoU are means over images; where truth and prediction are both empty they are 1, where one of them is, "
    "0. The Hausdorff distance is a mean over images with neither empty."
)


def how_good(summary: Summary) -> str:
    found = headline(summary)["metrics"]
    shown = [name for name in GOOD[summary["task"]] if name in found]
    return capital(", ".join(f"{of(name)} {with_unit(name, found[name])}" for name in shown))


def how_good_note(summary: Summary) -> str:
    row = headline(summary)
    why = "the first arm at its last budget" if len(summary["rows"]) > 1 else "the only arm and budget"
    if len(summary["arms"]) > 1:
        why += "; no arm is picked by its result, and all of them are in the table below"
    return (
        f"{row['arm']} after {plural(row['iterations'], 'iteration')}, on held-out images {pooled_over(summary)}: "
        f"{why}. {called(summary)}"
    )


def pooled_over(summary: Summary) -> str:
    """`pooled over 10 folds`, as far as this division has them."""
    found, folds = summary["division"], headline(summary)["folds"]
    if found["kind"] == "holdout":
        return "of the holdout"
    if found["repeats"] > 1:
        return f"pooled over folds, mean of {plural(found['repeats'], 'repeat')}"
    return f"pooled over {plural(folds, 'site' if found['kind'] == 'leave_one_site_out' else 'fold')}"


def called(summary: Summary) -> str:
    """How scores became calls."""
    if summary["task"] == "multiclass":
        return "The class with the largest score is called."
    if summary["task"] == "multilabel":
        return (
            f"A score of {summary['threshold']} or more calls a finding; each is counted on the images where it is "
            "stated. Macro: mean over findings; micro: all findings as one table."
        )
    if summary["task"] == "segmentation":
        return AREAS
    return f"A score of {summary['threshold']} or more is called {summary['positive']}."


def how_sure(summary: Summary) -> str:
    found = headline(summary)["metrics"]
    shown = [name for name in SURE[summary["task"]] if name in found]
    said = (f"{of(name)} {bounds(name, found[name])}{PERCENT * is_share(name)}" for name in shown)
    return capital(f"{', '.join(said)} ({level(summary)} intervals)")


def how_sure_note(summary: Summary) -> str:
    row, lead = headline(summary), of(summary["lead"])
    methods = sorted({value["method"] for value in row["metrics"].values() if value["method"]})
    several = spread(row)["mean"] is not None and row["folds"] > 1
    folds = f"Between folds the {lead} is {mean_sd(row)} (mean ± sd)." if several else ""
    return f"From {images_of(row)}, by {', '.join(methods) or 'no method'}. {folds}".strip()


def with_unit(name: str, found: Value) -> str:
    unit = PERCENT if is_share(name) else "\u00a0px" if name == "hausdorff95" else ""
    return metric(name, found["value"]) + unit * (found["value"] is not None)


def how_long(summary: Summary) -> str:
    row = headline(summary)
    return f"{duration(row['time']['train_fold'])} of training a fold"


def how_long_note(summary: Summary) -> str:
    row, time = headline(summary), summary["time"]
    whole = duration(row["time"]["train_total"])
    wall = "" if time["wall"] is None else f"; the whole run took {duration(time['wall'])} from start to end"
    arms = f" for {plural(len(summary['arms']), 'arm')}" if wall and len(summary["arms"]) > 1 else ""
    return (
        f"{whole} over {plural(row['folds'], 'fold')} of this arm{wall}{arms}. "
        f"On {summary['device']}, {summary['precision']}."
    )


def leak_free(summary: Summary) -> str:
    found = summary["leakage"]
    if not found["present"]:
        return "Not shown: there is no leakage certificate"
    if not found["passed"]:
        return "No: the leakage check failed"
    return "Yes" if found["grouped"] else "Between images yes; between patients not shown"


def leak_free_note(summary: Summary) -> str:
    found = summary["leakage"]
    holdout = summary["division"]["kind"] == "holdout"
    where = "on both sides" if holdout else f"in two of the {summary['folds']} folds"
    found_again = (
        (found["patients_in_two_folds"], "known patient stands", "known patients stand"),
        (found["identical_images_in_two_folds"], "identical image stands", "identical images stand"),
    )
    if not any(count for count, _, _ in found_again):
        said = f"Looked at again for this page: no known patient and no identical image stands {where}."
    else:
        faults = " and ".join(plural(count, one, many) for count, one, many in found_again if count)
        said = f"Looked at again for this page: {faults} {where}."
    passed = sum(bool(check["passed"]) for check in found["checks"])
    return f"{passed} of {plural(len(found['checks']), 'check')} passed. {said}" if found["present"] else said
