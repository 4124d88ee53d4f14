"""How findings are said, the same in the page and in Markdown. Every number comes from the summary."""

from __future__ import annotations

from cxrtl.report.numbers import UNDEFINED, area, bounds, duration, plural, share, signed
from cxrtl.report.shape import DifferenceRow, Levelled, Operating, PublishedRow, Row, Summary, Verdict

METRIC_NAMES = {
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "auc": "AUC",
}
VERDICTS = {"inside": "inside our interval", "above": "outside, above", "below": "outside, below"}
OPERATING = (
    "The threshold for a held-out fold is chosen on the pooled out-of-fold scores of the other folds, of the same arm "
    "and budget, and carried to that fold: no image helps to choose the threshold that calls it. Caveat: the models "
    "behind those scores trained on the held-out fold's images, and may differ from its own model in calibration."
)
CHANCE = (
    "AUC against chance: one-sided permutation test. Patients of one fold exchange their labels, so that neither a "
    "patient's likeness to himself nor a fold's calibration counts as skill. "
    "Average precision: logit interval over positive patients."
)
TESTED = {
    "auc": ("AUC, pooled", "difference"),
    "fold_auc": ("AUC, mean of folds", "difference"),
    "accuracy": ("Accuracy", "difference, points"),
}
CELL_NAMES = {
    "tp": "true positives",
    "fn": "false negatives",
    "fp": "false positives",
    "tn": "true negatives",
}


def mean_sd(row: Row) -> str:
    found = row["fold_auc"]
    if found["mean"] is None:
        return UNDEFINED
    return f"{found['mean']:.3f}" if found["sd"] is None else f"{found['mean']:.3f} ± {found['sd']:.3f}"


def level(summary: Levelled) -> str:
    return f"{100 * summary['level']:.0f}\u00a0%"


def headline(summary: Summary) -> Row:
    return summary["rows"][summary["headline"]]


def how_good(summary: Summary) -> str:
    found = headline(summary)["metrics"]
    shares = [f"{name} {share(found[name]['value'])}\u00a0%" for name in ("accuracy", "sensitivity", "specificity")]
    return f"AUC {area(found['auc']['value'])}, {', '.join(shares)}"


def how_good_note(summary: Summary) -> str:
    row = headline(summary)
    why = "the first arm at its last budget" if len(summary["rows"]) > 1 else "the only arm and budget"
    if len(summary["arms"]) > 1:
        why += "; no arm is picked by its result, and all of them are in the table below"
    return (
        f"{row['arm']} after {plural(row['iterations'], 'iteration')}, on held-out images pooled over "
        f"{plural(row['folds'], 'fold')}: {why}. A score of {summary['threshold']} or more is called "
        f"{summary['positive']}."
    )


def how_sure(summary: Summary) -> str:
    found = headline(summary)["metrics"]
    return (
        f"AUC {bounds('auc', found['auc'])}, accuracy {bounds('accuracy', found['accuracy'])}\u00a0% "
        f"({level(summary)} intervals)"
    )


def how_sure_note(summary: Summary) -> str:
    row = headline(summary)
    methods = sorted({value["method"] for value in row["metrics"].values() if value["method"]})
    folds = f"Between folds the AUC is {mean_sd(row)} (mean ± sd)." if row["fold_auc"]["mean"] is not None else ""
    return f"From {images_of(row)}, by {', '.join(methods) or 'no method'}. {folds}".strip()


def images_of(row: Row) -> str:
    patients = "unknown patients" if row["patients"] is None else plural(row["patients"], "patient")
    return f"{plural(row['images'], 'image')} of {patients}"


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


def sample_size(summary: Summary) -> str:
    """How the headline's intervals would shrink with more patients."""
    patients = headline(summary)["patients"]
    unit = "image" if patients is None else "patient"
    widths = "; ".join(
        f"{plural(item['size'], unit)}: AUC {area(item['auc'])}, accuracy {share(item['accuracy'])} points"
        for item in summary["sample_size"]
    )
    return (
        f"Sample size: width of the headline's {level(summary)} intervals, here and, as it falls with the square root "
        f"of the number of {unit}s like these, for other numbers. {widths}."
    )


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
    return row["first"] if row["first"] == row["second"] else f"{row['second']} − {row['first']}"


def difference_note(row: DifferenceRow) -> str:
    """Which tests a table of differences shows, and what they speak of."""
    tests = row["tests"]
    used = ", ".join(f"{TESTED[name][0]} by {tests[name]['method']}" for name in TESTED if name in tests)
    return (
        f"{used}. Intervals of accuracy by paired bootstrap of patients. These hold the trained models fixed and speak "
        "of other patients, not of another training run; Nadeau–Bengio's test over folds allows for other training "
        "sets too, which makes it the most cautious."
    )


def leak_free(summary: Summary) -> str:
    found = summary["leakage"]
    if not found["present"]:
        return "Not shown: there is no leakage certificate"
    if not found["passed"]:
        return "No: the leakage check failed"
    return "Yes" if found["grouped"] else "Between images yes; between patients not shown"


def leak_free_note(summary: Summary) -> str:
    found, folds = summary["leakage"], f"the {summary['folds']} folds"
    found_again = (
        (found["patients_in_two_folds"], "known patient stands", "known patients stand"),
        (found["identical_images_in_two_folds"], "identical image stands", "identical images stand"),
    )
    if not any(count for count, _, _ in found_again):
        said = f"Looked at again for this page: no known patient and no identical image stands in two of {folds}."
    else:
        faults = " and ".join(plural(count, one, many) for count, one, many in found_again if count)
        said = f"Looked at again for this page: {faults} in two of {folds}."
    passed = sum(bool(check["passed"]) for check in found["checks"])
    return f"{passed} of {plural(len(found['checks']), 'check')} passed. {said}" if found["present"] else said


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
    notes = []
    for row in summary["rows"]:
        found = row["fold_auc"]
        if found["differs"]:
            notes.append(
                f"{row['arm']} at {row['iterations']}: pooled AUC {area(row['metrics']['auc']['value'])} against a "
                f"mean of {area(found['mean'])} within folds ({signed(found['gap'])})"
            )
    return notes


def methods(row: Row) -> str:
    """The methods of a row's intervals, each once: `Wilson; AUC DeLong; F1 Wilson (Jaccard)`."""
    found: dict[str, list[str]] = {}
    for name, value in row["metrics"].items():
        if value["method"]:
            found.setdefault(value["method"], []).append(METRIC_NAMES[name])
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{', '.join(names)}: {method}" for method, names in found.items())


def _verdicts(verdicts: list[Verdict], arm: str) -> dict[str, str | None]:
    """One arm's verdicts, empty where it has no budget of that length."""
    return next((verdict["metrics"] for verdict in verdicts if verdict["arm"] == arm), {})


def verdict(row: PublishedRow, arm: str, name: str) -> str:
    """Where a published value lies, in words; empty where it was not published."""
    if row["metrics"][name] is None:
        return ""
    found = _verdicts(row["against"], arm).get(name)
    return VERDICTS[found] if found else "no interval of this length"


def citation(summary: Summary) -> str:
    """The sentence that goes with the headline number."""
    row, data = headline(summary), summary["data"]
    found = row["metrics"]["auc"]
    grouped = "grouped by patient" if summary["leakage"]["grouped"] else "not grouped by patient"
    version = summary["environment"].get("cxrtl", "")
    partial = f" ({row['folds']} of them finished)" if not row["complete"] else ""
    return (
        f"Pooled out-of-fold AUC {area(found['value'])} ({level(summary)} interval {bounds('auc', found)}, "
        f"{found['method'] or 'no interval'}), {images_of(row)}, {data['folds']}-fold cross-validation {grouped}"
        f"{partial}, {row['arm']} after {plural(row['iterations'], 'iteration')}; cxrtl {version}, "
        f"run {summary['run_hash'][:12]}, data {data['dataset_hash'][:12]}, folds {data['folds_hash'][:12]}."
    )


def limits(summary: Summary) -> list[str]:
    """What the numbers do not say."""
    found = [
        "Research use only: this is no medical device, and nothing here was validated for the care of patients.",
        "Cross-validation speaks of images like these, from the same source. Another hospital, scanner or mix of "
        "patients needs its own test.",
        "Intervals hold the trained models fixed. They cover the choice of patients, not another seed or another run.",
        "Two classes only: other findings were not looked for, and PPV and NPV hold at this set's share of "
        f"{summary['positive']}.",
    ]
    if summary["data"]["patients"] is None:
        found.append("Patients are unknown, so intervals treat images as independent and may be too narrow.")
    if len(summary["arms"]) > 1:
        found.append("Several arms were compared on the same folds: do not pick one by these numbers and quote them.")
    return found
