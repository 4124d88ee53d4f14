"""`reporting.md`: a methods paragraph, and three reporting checklists filled with what the run knows."""

from __future__ import annotations

import tomllib
from pathlib import Path

from cxrtl.report import glance, lineage, numbers, vocabulary, words
from cxrtl.report.pipes import escape, table
from cxrtl.report.shape import Row, Summary

AUTHOR = "**author to fill**"
CHECKLISTS = Path(__file__).with_name("checklists.toml")


def reporting(summary: Summary) -> str:
    """The file's text. Item numbers are the guidelines', wordings short paraphrases; names are escaped."""
    known = answers(summary)
    blocks = ["# For the paper", "## Methods", escape(methods(summary))]
    for checklist in tomllib.loads(CHECKLISTS.read_text(encoding="utf-8"))["checklist"]:
        rows = [[number, asks, escape(known[key]) if key else AUTHOR] for number, asks, key in checklist["items"]]
        filled = sum(bool(key) for _, _, key in checklist["items"])
        blocks += [
            f"## {checklist['name']}",
            f"{checklist['source']}. Paraphrased; the guideline's own text decides. {filled} of {len(rows)} items are "
            "filled from the run, to be checked; the rest is the author's.",
            table(["Item", "Asks for", "Answer"], rows),
        ]
    return "\n\n".join(blocks) + "\n"


def methods(summary: Summary) -> str:
    """How the first arm was trained and evaluated, in plain prose."""
    known, row = answers(summary), words.headline(summary)
    arms = f" {known['arms']}" if len(summary["arms"]) > 1 else ""
    return (
        f"{known['source']} {known['preprocessing']} {known['partition']} {known['disjoint']} The arm {row['arm']} is "
        f"described here. {known['model']} {known['init']} {known['training']} {known['selection']}{arms} "
        f"{known['internal']} {known['metrics']} {known['uncertainty']} {known['software']}"
    )


def answers(summary: Summary) -> dict[str, str]:
    """Answers by key, each one or more whole sentences about the headline's arm or the whole run."""
    return {**_of_data(summary), **_of_training(summary), **_of_results(summary)}


def _of_data(summary: Summary) -> dict[str, str]:
    data, grouped = summary["data"], summary["leakage"]["grouped"]
    counts = ", ".join(f"{count:,} {name}" for name, count in data["counts"].items())
    patients = "unknown patients" if data["patients"] is None else numbers.plural(data["patients"], "patient")
    listed, left_out = numbers.plural(words.listed(data), "image"), words.left_out(data)
    narrowed = f"The set is what was left of {listed} listed" if left_out else "The set was taken as it was"
    size = f"{data['image_size']} × {data['image_size']} pixels" if data["image_size"] else "a size not recorded"
    shown = "by the columns in the table of subgroups" if summary["subgroups"] else "not analysed by subgroup"
    unit = "patient: all images of a patient stand in one fold" if grouped else "image; patients were not kept together"
    return {
        "source": f"The set holds {data['images']:,} images ({counts}) of {patients}.",
        "excluded": f"Of {listed} listed, left out before the folds were made: {left_out or 'none'}.",
        "preprocessing": f"Images were decoded to grey and stored at {size}.",
        "identity": "Patient numbers and file names were replaced by keyed hashes before any other step.",
        "partition": _partition(summary),
        "disjoint": f"Folds are disjoint at the level of the {unit}.",
        "size": f"{words.sample_size(summary)} {narrowed}; no size was planned by the software.",
        "flow": f"{listed} listed; left out: {left_out or 'none'}; {data['images']:,} images of {patients} analysed.",
        "subgroups": f"Performance is given {shown}.",
        "predictors": "The model saw the image's pixels alone.",
    }


def _partition(summary: Summary) -> str:
    found = summary["division"]
    if found["kind"] == "cv":
        return f"They were divided once into {found['folds']} stratified folds, each held out in turn."
    return f"Held out by {lineage.said(found)}, decided once before training."


def _of_training(summary: Summary) -> dict[str, str]:
    place = summary["arms"].index(words.headline(summary)["arm"])
    knob = {item["knob"]: item["values"][place] for item in summary["settings"]}
    differing = [item["knob"].replace("_", " ") for item in summary["settings"] if item["differs"]]
    weighted = "weighted by inverse class frequency" if knob["class_weights"] == "yes" else "not weighted by class"
    machine = ", ".join(f"{key} {summary['environment'][key]}" for key in SOFTWARE if key in summary["environment"])
    compared = f"{len(summary['arms'])} arms were compared on the same folds"
    return {
        "goal": f"To estimate how well the recipe {vocabulary.goal(summary['task'], summary['data']['classes'])}.",
        "model": f"The network is {knob['backbone']} with a new {LAYERS[summary['task']]}.",
        "init": f"It started from {STARTS[knob['init'].partition(':')[0]]}.",
        "training": f"It was trained for up to {knob['budgets'].split(', ')[-1]} iterations of {knob['batch_size']} "
        f"images ({knob['optimizer']}, rate {knob['rate']}, new layer times {knob['head_rate_factor']}, "
        f"{knob['schedule']} schedule, weight decay {knob['weight_decay']}), loss {weighted}, on {summary['device']} "
        f"in {summary['precision']}.",
        "imbalance": f"The loss was {weighted}; nothing was resampled.",
        "selection": "Training lengths were fixed beforehand and final weights used; held-out folds chose nothing.",
        "ensemble": "No ensemble: each image was scored by the one model that did not train on it.",
        "updating": "No model was updated or recalibrated.",
        "arms": f"{compared}; they differ in {', '.join(differing)}." if differing else "One recipe was trained.",
        "software": f"Software: {machine or 'see environment.json'}.",
        "protocol": "experiment.resolved.json holds every setting.",
        "code": f"Run it again with: {summary['command']}. Weights of every fold stand in the run folder.",
    }


LAYERS = {
    "binary": "two-class layer",
    "multiclass": "layer of one output a class",
    "multilabel": "layer of one output a finding",
    "segmentation": "decoder",
}
STARTS = {
    "scratch": "random weights",
    "imagenet": "ImageNet weights",
    "file": "weights of a file, named with its hash in the report",
    "weights": "weights of a file, named with its hash in the report",
    "stage": "the weights of an earlier run, whose lineage is kept with this one",
}
SOFTWARE = ("cxrtl", "python", "torch", "torchvision", "ray")


def _of_results(summary: Summary) -> dict[str, str]:
    row = words.headline(summary)
    found, binary = row["metrics"], summary["task"] == "binary"
    said = ", ".join(
        f"{vocabulary.name(name)} {numbers.metric(name, found[name]['value'])} ({numbers.bounds(name, found[name])})"
        for name in (("sensitivity", "specificity", "ppv", "npv", "auc") if binary else summary["columns"])
    )
    return {
        "metrics": MEASURES[summary["task"]],
        "uncertainty": f"Intervals at {words.level(summary)}: {words.methods(row)}.",
        "internal": f"Held-out scores of {numbers.plural(row['folds'], 'fold')} were pooled, one for each image"
        f"{' and repeat' if summary['division']['repeats'] > 1 else ''}.",
        "threshold": f"A score of {summary['threshold']} or more is positive, set beforehand. {words.OPERATING}"
        if binary
        else glance.called(summary),
        "result": words.citation(summary),
        "diagnostic": f"{said}; {words.level(summary)} intervals in brackets.",
        "confusion": _confusion(row),
        "failures": "Sampled false positives and negatives are in the report, drawn at random.",
        "indeterminate": "None: every image has a score.",
        "limits": " ".join(words.limits(summary)),
    }


def _confusion(row: Row) -> str:
    if "confusion" in row:
        cells = row["confusion"]
        return f"TP {cells['tp']}, FN {cells['fn']}, FP {cells['fp']}, TN {cells['tn']}."
    return "See the confusion matrix in the report." if "table" in row else "Counts by finding are in the report."


MEASURES = {
    "binary": "Sensitivity, specificity, predictive values, accuracy, F1, area under the ROC curve, average "
    "precision, Brier score and calibration error were computed.",
    "multiclass": "Top-1 and top-k accuracy, macro-averaged sensitivity, F1 and area under the ROC curve (one class "
    "against the rest), and sensitivity, specificity, predictive values and AUC of each class were computed.",
    "multilabel": "Sensitivity, specificity, predictive values, F1 and area under the ROC curve of each finding, on "
    "the images where it is stated, and their macro and micro averages were computed.",
    "segmentation": "Dice and IoU, as means over images and over pooled pixels, and the 95th percentile of the "
    "Hausdorff distance were computed.",
}
