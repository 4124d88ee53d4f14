"""How findings are said, the same in the page and in Markdown. Every number comes from the summary."""

from __future__ import annotations

from typing import Any, cast

from cxrtl.records import FlowStep, Task, exclusions
from cxrtl.report import lineage
from cxrtl.report.numbers import UNDEFINED, area, bounds, counted, metric, plural, share, signed
from cxrtl.report.shape import (
    Dataset,
    DifferenceRow,
    FoldAuc,
    FoldRow,
    Levelled,
    Operating,
    PublishedRow,
    Row,
    Summary,
    Verdict,
)
from cxrtl.report.vocabulary import is_share, name, of, tested, tested_part

VERDICTS = {"inside": "inside our interval", "above": "outside, above", "below": "outside, below"}
OPERATING = (
    "The threshold for a held-out fold is chosen on the pooled out-of-fold scores of the other folds, of the same arm "
    "and budget, and carried to that fold: no image helps to choose the threshold that calls it. Caveat: the models "
    "behind those scores trained on the held-out fold's images, and may differ from its own model in calibration."
)
CHANCE = (
    "AUC against chance: one-sided permutation test. Patients of one fold exchange their labels, so that neither a "
    "patient's likeness to himself nor a fold's calibration counts as skill. "
    "Intervals of average precision and Brier score by patient bootstrap (BCa)."
)
CALIBRATED = (
    "Intervals by patient bootstrap (BCa), which allows for what chance adds: ECE comes out too large in a finite set, "
    "and its interval may lie below it."
)
CELL_NAMES = {
    "tp": "true positives",
    "fn": "false negatives",
    "fp": "false positives",
    "tn": "true negatives",
    "wrong": "called wrong",
    "right": "called right",
    "worst": "lowest Dice",
    "median": "middle Dice",
    "best": "highest Dice",
}


def spread(row: Row) -> FoldAuc:
    """The leading measure within folds."""
    return row["fold_auc"] if "fold_auc" in row else row["fold_lead"]


def mean_sd(row: Row) -> str:
    found = spread(row)
    if found["mean"] is None:
        return UNDEFINED
    return f"{found['mean']:.3f}" if found["sd"] is None else f"{found['mean']:.3f} ± {found['sd']:.3f}"


def accuracy(task: Task) -> str:
    """What `accuracy` in a training's records is."""
    return "Dice" if task == "segmentation" else "accuracy"


def level(summary: Levelled) -> str:
    return f"{100 * summary['level']:.0f}\u00a0%"


def headline(summary: Summary) -> Row:
    return summary["rows"][summary["headline"]]


def images_of(row: Row) -> str:
    patients = "unknown patients" if row["patients"] is None else plural(row["patients"], "patient")
    return f"{plural(row['images'], 'image')} of {patients}"


def sample_size(summary: Summary) -> str:
    """How the headline's intervals would shrink with more patients."""
    patients = headline(summary)["patients"]
    unit = "image" if patients is None else "patient"
    widths = "; ".join(
        f"{plural(int(item['size'] or 0), unit)}: "
        + ", ".join(
            f"{of(key)} {metric(key, width)}{' points' * is_share(key)}" for key, width in item.items() if key != "size"
        )
        for item in summary["sample_size"]
    )
    return (
        f"Sample size: width of the headline's {level(summary)} intervals, here and, as it falls with the square root "
        f"of the number of {unit}s like these, for other numbers. {widths}."
    )


def listed(data: Dataset) -> int:
    """Images that the source listed."""
    first = data["flow"][0] if data["flow"] else {"left": data["images"], "removed": sum(data["skipped"].values())}
    return int(first["left"] + first["removed"])


def left_out(data: Dataset) -> str:
    """What was left out on the way from the images listed to those used, and how many; "" where nothing was."""
    steps = exclusions(FlowStep(**step) for step in data["flow"])
    if not data["flow"]:
        steps = [(reason.replace("_", " "), count, None) for reason, count in data["skipped"].items()]
    return "; ".join(f"{step} ({counted(images, patients)})" for step, images, patients in steps)


def subgroups(summary: Summary) -> str:
    """The caption of the subgroups."""
    row = headline(summary)
    unit = "images" if row["patients"] is None else "patients"
    return (
        f"{row['arm']} after {plural(row['iterations'], 'iteration')} by group, with {level(summary)} intervals. "
        f"Groups of fewer than {summary['smallest_group']} {unit} are not shown. Many groups were looked at: "
        "with this many intervals some lie apart by chance."
    )


def sides(row: DifferenceRow) -> str:
    """What is subtracted from what; one name where an arm meets itself in another run."""
    whole = row["first"] if row["first"] == row["second"] else f"{row['second']} − {row['first']}"
    return f"{row['part']}: {whole}" if row["part"] else whole


def difference_note(found: Any, part: bool = False) -> str:
    """Which tests a table of differences shows, and what they speak of; `found` is a summary or a comparison."""
    labels = (tested_part if part else tested)(found)
    row = next(row for row in found["differences"] if bool(row["part"]) == part)
    tests = row["tests"]
    used = ", ".join(f"{labels[name][0]} by {tests[name]['method']}" for name in labels if name in tests)
    share = next((name for name in ("accuracy", "top1") if name in labels), None)
    own = f" Intervals of {of(share)} by paired bootstrap of patients." if share else ""
    over_folds = (
        "; Nadeau–Bengio's test over folds allows for other training sets too, which makes it the most cautious"
        if any(name.startswith("fold_") for name in tests)
        else ""
    )
    return (
        f"{used}.{own} These hold the trained models fixed and speak of other patients, not of another training "
        f"run{over_folds}."
    )


def rule(point: Operating) -> str:
    """What an operating point was chosen for."""
    return "Youden" if point["target"] is None else f"{point['rule']} ≥ {share(point['target'])}\u00a0%"


def thresholds(point: Operating) -> str:
    """The lowest and highest threshold over the folds."""
    known = [value for value in point["thresholds"] if value is not None]
    if len(known) < len(point["thresholds"]) or not known:
        return UNDEFINED
    low, high = area(min(known)), area(max(known))
    return low if low == high else f"{low}–{high}"


def operating_metrics(summary: Summary) -> list[str]:
    """The columns of the operating points."""
    stated = [] if summary["prevalence"] is None else ["ppv_at", "npv_at"]
    return ["sensitivity", "specificity", "accuracy", "ppv", "npv", *stated]


def gap_notes(summary: Summary) -> list[str]:
    """One sentence for each row whose pooled and mean-fold AUC disagree."""
    notes, lead = [], summary["lead"]
    for row in summary["rows"]:
        found = spread(row)
        if found["differs"]:
            notes.append(
                f"{row['arm']} at {row['iterations']}: pooled {of(lead)} {area(row['metrics'][lead]['value'])} against "
                f"a mean of {area(found['mean'])} within folds ({signed(found['gap'])})"
            )
    return notes


def methods(row: Row) -> str:
    """The methods of a row's intervals, the most frequent without its measures: `Wilson; F1: Wilson (Jaccard)`."""
    found: dict[str, list[str]] = {}
    for key, value in row["metrics"].items():
        if value["method"]:
            found.setdefault(value["method"], []).append(name(key))
    most = max(found, key=lambda method: len(found[method]), default="no method")
    others = [f"{', '.join(names)}: {method}" for method, names in found.items() if method != most]
    return "; ".join([most, *others])


def _verdicts(verdicts: list[Verdict], arm: str) -> dict[str, str | None]:
    """One arm's verdicts, empty where it has no budget of that length."""
    return next((verdict["metrics"] for verdict in verdicts if verdict["arm"] == arm), {})


def verdict(row: PublishedRow, arm: str, name: str) -> str:
    """Where a published value lies, in words; empty where it was not published."""
    if row["metrics"].get(name) is None:
        return ""
    found = _verdicts(row["against"], arm).get(name)
    return VERDICTS[found] if found else "no interval of this length"


def citation(summary: Summary) -> str:
    """The sentence that goes with the headline number."""
    row, data, lead = headline(summary), summary["data"], summary["lead"]
    found = row["metrics"][lead]
    grouped = "grouped by patient" if summary["leakage"]["grouped"] else "not grouped by patient"
    version = summary["environment"].get("cxrtl", "")
    partial = f" ({row['folds']} of them finished)" if not row["complete"] else ""
    return (
        f"{'Pooled out-of-fold' if lead.endswith('auc') else 'Out-of-fold'} {of(lead)} "
        f"{area(found['value'])} ({level(summary)} interval {bounds(lead, found)}, "
        f"{found['method'] or 'no interval'}), {images_of(row)}, {lineage.said(summary['division'])} {grouped}"
        f"{partial}, {row['arm']} after {plural(row['iterations'], 'iteration')}; cxrtl {version}, "
        f"run {summary['run_hash'][:12]}, data {data['dataset_hash'][:12]}, folds {data['folds_hash'][:12]}."
    )


SCOPE = {
    "multiclass": "The classes of this set only: nothing else was looked for, and PPV, F1 and top-k hold at its mix "
    "of classes.",
    "multilabel": "The findings of this set only: others were not looked for, and PPV and F1 hold at its share of "
    "each. Images on which a finding is not stated say nothing of it.",
    "segmentation": "The structures of this set only. Overlap says little of small structures' outlines, and "
    "distances are in pixels of the prepared image, not in millimetres.",
}


def fold_value(row: FoldRow, metric: str) -> float | None:
    """A fold's measure, of whichever task."""
    return cast(dict[str, float | None], row.get("metrics", row))[metric]


def limits(summary: Summary) -> list[str]:
    """What the numbers do not say."""
    found = [
        "Research use only: this is no medical device, and nothing here was validated for the care of patients.",
        f"{'A holdout' if summary['division']['kind'] == 'holdout' else 'Cross-validation'} speaks of images like "
        "these, from the same source. Another hospital, scanner or mix of patients needs its own test.",
        "Intervals hold the trained models fixed. They cover the choice of patients, not another seed or another run.",
        "Two classes only: other findings were not looked for, and PPV and NPV hold at this set's share of "
        f"{summary['positive']}."
        if summary["task"] == "binary"
        else SCOPE[summary["task"]],
    ]
    if summary["data"]["patients"] is None:
        found.append(
            "Patients are unknown: methods named after them take each image as one; intervals may be too narrow."
        )
    if len(summary["arms"]) > 1:
        found.append("Several arms were compared on the same folds: do not pick one by these numbers and quote them.")
    return found


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
