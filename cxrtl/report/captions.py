"""What stands over and under samples, parts, readers and lineage, the same in the page and in Markdown."""

from __future__ import annotations

from cxrtl.report.numbers import area, plural
from cxrtl.report.samples import Sample
from cxrtl.report.shape import Reader, Stage, Summary
from cxrtl.report.vocabulary import PARTS, name, tested
from cxrtl.report.words import capital, level


def sampled(summary: Summary, first: Sample) -> str:
    """By which rule the sampled images were taken."""
    of_arm = f"{first.arm} after {plural(first.iterations, 'iteration')}"
    if summary["task"] == "segmentation":
        lines = "Light blue: the true outline; orange: the predicted one. " if first.outlined else ""
        return f"The images of the lowest, the middle and the highest Dice of {of_arm}. {lines}The number is Dice."
    number = {
        "binary": f"the score of {summary['positive']}",
        "multiclass": "the score of the class called",
        "multilabel": "the share of stated findings called right",
    }[summary["task"]]
    return (
        f"Drawn at random with a fixed seed from each outcome of {of_arm}; none was chosen by how it looks. "
        f"The number is {number}."
    )


def sample(summary: Summary, found: Sample, short: bool = False) -> str:
    """An image's truth, call and score; `short` beneath the image, else for those who cannot see it."""
    score = area(found.score)
    if summary["task"] == "binary":
        return f"{found.label}, {score}" if short else f"{found.label}, scored {score} for {summary['positive']}"
    if summary["task"] == "segmentation":
        return f"Dice {score}" if short else f"An image with Dice {score}"
    called = f", called {found.called}" if found.called != found.label or not short else ""
    return f"{found.label}{called}, {score}"


STAGE = ("Stage", "Run", "Started from", "Learned", "Images", "Patients", "Iterations", "Weights chosen", "sha256")


def stage(item: Stage) -> tuple[str, ...]:
    """One stage of a lineage, in the order of `STAGE`; hashes are cut to 12 digits."""
    images, patients, iterations = (
        "–" if item[key] is None else f"{item[key]:,}" for key in ("images", "patients", "iterations")
    )
    run = f"{item['run']} {item['run_hash'][:12]}".strip() or "–"
    data = f" (data {item['data_hash'][:12]})" if item["data_hash"] else ""
    learned = f"{', '.join(item['classes'])}{data}" or "–"
    sha256 = item["weights_sha256"][:12] or "–"
    start = f"{item['init']} {item['init_sha256'][:12]}".strip() or "–"
    return item["stage"], run, start, learned, images, patients, iterations, item["rule"] or "–", sha256


def parts(summary: Summary) -> str:
    """The caption of the table of classes, findings or structures."""
    several = PARTS[summary["task"]][1]
    against = {
        "multiclass": "each class against all others, called where its score is the largest",
        "multilabel": f"each finding on the images where it is stated, called from {summary['threshold']} on",
        "segmentation": "each structure on its own",
    }[summary["task"]]
    return f"{capital(several)} of the same predictions with {level(summary)} intervals: {against}."


def reader(found: Reader) -> str:
    """What a reader gave, or why he is not scored."""
    if not found["kind"]:
        return "not scored: the column holds neither class names nor, in two classes, scores between 0 and 1"
    return f"{found['kind']} of {plural(found['images'], 'image')}"


def read_by(summary: Summary) -> set[str]:
    """The measures that some reader has."""
    return {key for found in summary["readers"] for key in found["metrics"]}


def reader_tests(summary: Summary) -> dict[str, tuple[str, str]]:
    """The tests that some arm and reader have, as `vocabulary.tested`."""
    known = {key for found in summary["readers"] for row in found["differences"] for key in row["tests"]}
    return {key: label for key, label in tested(summary).items() if key in known}


def reader_note(summary: Summary) -> str:
    """Which tests set arms against readers."""
    rows = [row for found in summary["readers"] for row in found["differences"]]
    methods = sorted({f"{name(key)} by {test['method']}" for row in rows for key, test in row["tests"].items()})
    return (
        f"{'; '.join(methods)}. Holm's adjustment is over {plural(len(rows), 'comparison')} with readers. Readers' "
        "labels are taken as they are: one operating point of each, without an AUC."
    )
