"""The card of an exported model: what it is for, what it was trained on, how well it did, what it must not be used for.

After Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxrtl.data.images import How
from cxrtl.evaluate.intervals import LEVEL
from cxrtl.evaluate.judge import judge
from cxrtl.report import numbers, vocabulary
from cxrtl.report.load import Loaded
from cxrtl.report.measures import value_of
from cxrtl.report.pipes import escape
from cxrtl.report.provenance import dataset

FILL = "**author to fill**"


@dataclass(frozen=True)
class Exported:
    """The file, its sha256, the models in it, and how far it is from PyTorch on images of which `kind`."""

    file: str
    sha256: str
    arm: str
    iterations: int
    folds: Sequence[int]
    difference: float
    kind: str


def card(loaded: Loaded, how: How, exported: Exported) -> str:
    """Markdown. What the run knows is filled in; the rest says who must fill it."""
    sections = [
        f"# {escape(loaded.experiment.name)}, arm {escape(exported.arm)} after {exported.iterations} iterations",
        "**Research use only. This is no medical device: nothing here was validated for the care of patients, and it "
        "must not decide or advise about any.**",
        _file(loaded, how, exported),
        _data(loaded),
        _performance(loaded, exported),
        _limits(loaded, exported),
        _provenance(loaded, exported),
    ]
    return "\n\n".join(sections) + "\n"


def _file(loaded: Loaded, how: How, exported: Exported) -> str:
    classes, many = loaded.predictions.classes, len(exported.folds) > 1
    order = escape(", ".join(classes))
    shape = f"`[N, {len(classes)}]` in the order {order}"
    if loaded.predictions.task == "segmentation":
        shape = f"`[N, {1 + len(classes)}, {how.size}, {how.size}]`, each pixel's in the order background, {order}"
    models = f"the mean of {len(exported.folds)} fold models" if many else f"the model of fold {exported.folds[0]}"
    return (
        f"## File\n\n- `{exported.file}`, sha256 `{exported.sha256}`\n"
        "- Input `grey`: uint8 `[N, 1, H, W]`, any height and width, 0 black to 255 white. DICOM and deeper images "
        "must be turned into 8-bit grey as `cxrtl` does; resizing and normalising happen inside, bit for bit as in "
        f"training ({how.aspect} to {how.size} × {how.size}).\n"
        f"- Output `probabilities`: float32 {shape}; {models}.\n"
        f"- Checked by onnxruntime against PyTorch on {exported.kind} and drawn ones: largest difference "
        f"{exported.difference:.1g}."
    )


def _data(loaded: Loaded) -> str:
    data, what = dataset(loaded), vocabulary.goal(loaded.predictions.task, loaded.predictions.classes)
    counts = escape(", ".join(f"{count} {name}" for name, count in data["counts"].items()))
    patients = "unknown" if data["patients"] is None else str(data["patients"])
    return (
        f"## Intended use\n\nResearch with a model that {escape(what)} in images like those below. "
        f"Other uses: {FILL}.\n\n## Training data\n\n- {data['images']} images ({counts}), patients: {patients}\n"
        f"- Source, years, countries, devices, consent: {FILL}\n- Data hash `{data['dataset_hash']}`"
    )


def _performance(loaded: Loaded, exported: Exported) -> str:
    chosen = loaded.predictions.select(exported.arm, exported.iterations)
    judged = judge(chosen, loaded.experiment.report.top_k)
    found = {name: value_of(item) for name, item in judged.metrics.items()}
    rows = "\n".join(
        f"| {vocabulary.name(name)} | {numbers.metric(name, item['value'])} | {numbers.bounds(name, item)} |"
        for name, item in found.items()
    )
    return (
        "## Performance\n\nOut of fold, each image by the one model that did not train on it, called at 0.5 or as "
        f"the highest score; {100 * LEVEL:.0f} % intervals. The ensemble in this file was not measured itself: "
        f"`cxrtl evaluate` does that on another set.\n\n| Metric | Value | Interval |\n|---|---|---|\n{rows}"
    )


def _limits(loaded: Loaded, exported: Exported) -> str:
    areas = loaded.predictions.task == "segmentation"
    lines = [
        "Cross-validation speaks of images like these, from the same source.",
        f"Nothing else was looked for; an image of anything gets {'outlines' if areas else 'scores'} all the same.",
        "Distances and areas are of the square that the model sees, not in millimetres."
        if areas
        else "Scores need not be probabilities: see the calibration in the report.",
        f"Known failures and groups it does worse on: {FILL} (the report's subgroups help)",
    ]
    if dataset(loaded)["patients"] is None:
        lines.insert(1, "Patients are unknown: performance on new patients may be lower.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _provenance(loaded: Loaded, exported: Exported) -> str:
    start = (loaded.resolved.get("weights") or {}).get(exported.arm) or {}
    begun = f"{escape(start['file'])}, sha256 {escape(start['sha256'])}" if start else "random weights"
    recipe = next(recipe for recipe in loaded.recipes if recipe.name == exported.arm)
    return (
        f"## Provenance\n\n- Run `{loaded.resolved['run_hash']}`, folds `{loaded.resolved['folds_hash']}`\n"
        f"- Backbone {recipe.train.backbone}, started from {begun}\n"
        f"- Trained by {escape(loaded.resolved['command'])}\n- Licence of the model, which may depend on the images' "
        f"and the starting weights': {FILL}\n- Contact: {FILL}"
    )
