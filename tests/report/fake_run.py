"""Run folders as the orchestrator writes them, with simulated scores: what the report's tests read.

python tests/report/fake_run.py FOLDER     writes three.., two.. and thirty.. there, with their reports
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxrtl.config import Experiment
from cxrtl.predictions import Predictions
from cxrtl.records import FoldResult, Milestone, Prepared
from cxrtl.rundir import RunDir, sha256_file, write_json, write_predictions

PUBLISHED = [
    (250, 0.881, 0.848, 0.914, 0.9353, 158),
    (500, 0.876, 0.846, 0.906, 0.9326, 230),
    (1000, 0.875, 0.832, 0.918, 0.9317, 446),
]


@dataclass(frozen=True)
class Fake:
    """What to simulate."""

    arms: int = 3
    folds: int = 10
    budgets: tuple[int, ...] = (250, 500, 1000)
    images: int = 1000
    per_patient: int = 2
    grouped: bool = True
    seed: int = 0
    done: int | None = None  # folds to finish; None: all
    name: str = "effusion-fake"
    description: str = "Effusion against normal, transfer from ImageNet, ten folds by patient"
    classes: tuple[str, str] = ("normal", "effusion")
    study: str = "Huang et al. 2022"
    arm_names: tuple[str, ...] = ("resnet50", "resnet50-hflip", "scratch")
    published: bool = True
    image_size: int = 64
    source: str = "table"
    independent: bool = False  # one training a budget, in folders of their own

    @property
    def names(self) -> list[str]:
        extra = [f"arm-{i:02d}" for i in range(len(self.arm_names), self.arms)]
        return [*self.arm_names[: self.arms], *extra]


def make_run(root: Path, fake: Fake) -> RunDir:
    """Write a run folder at `root` with the files that a finished (or cut-off) run leaves."""
    rng = np.random.default_rng(fake.seed)
    run = RunDir(root)
    root.mkdir(parents=True)
    folds = make_folds(fake, rng)
    pq.write_table(pa.Table.from_pandas(folds, preserve_index=False), root / "folds.parquet")
    experiment = make_experiment(fake)
    write_json(root / "experiment.resolved.json", resolved(fake, experiment))
    write_json(root / "leakage.json", certificate(fake, folds))
    write_json(root / "environment.json", ENVIRONMENT)
    write_json(root / "sessions.json", SESSIONS)
    patient_effect = dict(zip(sorted(set(folds["patient_id"])), rng.normal(size=len(folds)), strict=False))
    effect = folds["patient_id"].map(patient_effect).to_numpy()
    noise = rng.normal(size=len(folds))
    done = fake.folds if fake.done is None else fake.done
    for place, arm in enumerate(fake.names):
        own = rng.normal(size=len(folds))
        for fold in range(done):
            rows = folds[folds["fold"] == fold]
            base = (0.8 * effect + 0.6 * noise + 0.5 * own)[rows.index]
            for budgets in [(budget,) for budget in fake.budgets] if fake.independent else [fake.budgets]:
                write_trial(run, replace(fake, budgets=budgets), place, arm, fold, rows, base, rng)
    return run


def make_folds(fake: Fake, rng: np.random.Generator) -> pd.DataFrame:
    patients = -(-fake.images // fake.per_patient)
    patient = np.repeat(np.arange(patients), fake.per_patient)[: fake.images]
    label = np.where(rng.permutation(patients) < patients // 2, fake.classes[1], fake.classes[0])
    fold = np.empty(patients, int)
    for name in fake.classes:  # stratified: each class dealt out in turn
        members = np.flatnonzero(label == name)
        fold[members] = np.arange(len(members)) % fake.folds
    return pd.DataFrame(
        {
            "image_id": [f"{i:012x}" for i in rng.permutation(10**9 + np.arange(fake.images))],
            "patient_id": [f"p{i:08x}" for i in patient] if fake.grouped else "",
            "label": label[patient],
            "content_hash": [f"{i:064x}" for i in range(fake.images)],
            "fold": fold[patient],
        }
    )


def make_experiment(fake: Fake) -> Experiment:
    published = [
        dict(zip(("study", "iterations", "accuracy", "sensitivity", "specificity", "auc", "seconds"), row, strict=True))
        for row in ((fake.study, *values) for values in PUBLISHED)
    ]
    return Experiment.model_validate(
        {
            "name": fake.name,
            "description": fake.description,
            "data": {"source": fake.source, "path": "labels.csv"},
            "folds": {"k": fake.folds, "ungrouped": not fake.grouped},
            "train": {"budgets": fake.budgets, "independent": fake.independent},
            "published": published if fake.published else [],
        }
    )


def resolved(fake: Fake, experiment: Experiment) -> dict[str, object]:
    recipes = []
    for name in fake.names:
        train = experiment.train.model_dump(mode="json") | {"init": "scratch" if name == "scratch" else "imagenet"}
        augment = experiment.augment.model_dump(mode="json")
        augment["flip_vertical_probability"] = 0.0 if name.endswith("hflip") else 0.5
        recipes.append({"name": name, "train": train, "augment": augment})
    half = fake.images // 2
    return {
        "experiment": experiment.model_dump(mode="json"),
        "recipes": recipes,
        "run_hash": "c0ffee" + "0" * 58,
        "arm_hashes": dict.fromkeys(fake.names, "c0ffee" + "0" * 58),
        "dataset": {
            "dataset_hash": "da7a" + "0" * 60,
            "images": fake.images,
            "classes": list(fake.classes),
            "counts": {fake.classes[0]: fake.images - half, fake.classes[1]: half},
            "skipped": {"truncated": 2, "not_an_image": 1},
            "grouped": fake.grouped,
            "image_size": fake.image_size,
        },
        "folds_hash": "f01d" + "0" * 60,
        "weights": {
            name: None
            if name == "scratch"
            else {"source": "imagenet", "file": "resnet50-11ad3fa6.pth", "sha256": "11ad3fa6" + "0" * 56}
            for name in fake.names
        },
        "device": "cpu",
        "precision": "bf16",
        "threads": 1,
        "command": "cxrtl run jobs/experiments/effusion.toml",
    }


def certificate(fake: Fake, folds: pd.DataFrame) -> dict[str, object]:
    patients = folds["patient_id"].nunique() if fake.grouped else 0
    return {
        "passed": True,
        "grouped": fake.grouped,
        "folds_hash": "f01d" + "0" * 60,
        "dataset_hash": "da7a" + "0" * 60,
        "checks": [
            {"name": "patient in two folds", "passed": True, "found": 0, "examples": []},
            {"name": "identical image in two folds", "passed": True, "found": 0, "examples": []},
            {"name": "image without a fold", "passed": True, "found": 0, "examples": []},
        ],
        "notes": [] if fake.grouped else ["Patients are unknown: folds are stratified, not grouped."],
        "per_fold": [
            {
                "fold": int(fold),
                "images": len(rows),
                "patients": int(rows["patient_id"].nunique()),
                "positives": int((rows["label"] == fake.classes[1]).sum()),
            }
            for fold, rows in folds.groupby("fold")
        ],
        "images": len(folds),
        "patients": int(patients),
    }


ENVIRONMENT = {
    "python": "3.11.2",
    "cxrtl": "0.1.0",
    "torch": "2.9.1+cpu",
    "torchvision": "0.24.1",
    "ray": "2.60.0",
    "processor": "AMD EPYC 9R14",
    "cores": 2,
    "memory_gib": 7.6,
    "gpu": "none",
    "platform": "Linux-6.1-x86_64",
    "commit": "0123456789abcdef",
}
SESSIONS = [
    {
        "started": "2026-11-20T09:12:00+00:00",
        "prepare_seconds": 21.4,
        "launch_seconds": 14.2,
        "wall_seconds": 2150.0,
        "trials_done": 12,
    },
    {
        "started": "2026-11-20T10:02:00+00:00",
        "prepare_seconds": 0.6,
        "launch_seconds": 13.8,
        "wall_seconds": 3410.5,
        "trials_done": 18,
    },
]


def write_trial(
    run: RunDir,
    fake: Fake,
    place: int,
    arm: str,
    fold: int,
    rows: pd.DataFrame,
    base: np.ndarray,
    rng: np.random.Generator,
) -> None:
    folder = run.path(arm, f"fold{fold}", *([f"budget{fake.budgets[0]}"] if fake.independent else []))
    folder.mkdir(parents=True)
    positive = (rows["label"] == fake.classes[1]).to_numpy()
    reach = 0.05 if arm == "scratch" else 1.75 + 0.15 * np.cos(place)
    milestones, files = [], {}
    shift = rng.normal(scale=0.8)  # folds differ in calibration
    for iterations in fake.budgets:
        signal = reach * (1 - np.exp(-iterations / 150))
        logit = signal * (positive - 0.5) * 2 * 0.75 + base + shift * 180 / iterations
        score = 1 / (1 + np.exp(-logit))
        names = [f"score_{name}" for name in fake.classes]
        frame = rows[["image_id", "patient_id", "fold", "label"]].assign(arm=arm, iterations=iterations)
        frame = frame.assign(**{names[0]: 1 - score, names[1]: score}).reset_index(drop=True)
        path = folder / f"predictions-{iterations}.parquet"
        write_predictions(path, Predictions(frame, fake.classes))
        files[path.name] = sha256_file(path)
        right = float(((score >= 0.5) == positive).mean())
        speed = 0.44 * (1 + 0.08 * np.sin(place)) * (1 + 0.03 * rng.normal())
        milestones.append(Milestone(iterations, iterations * speed, 1.2, 0.4, right))
    write_curve(folder / "curve.jsonl", fake, reach, rng)
    files["curve.jsonl"] = sha256_file(folder / "curve.jsonl")
    train = milestones[-1].train_seconds
    result = FoldResult(
        arm=arm,
        fold=fold,
        budgets=fake.budgets,
        run_hash="c0ffee" + "0" * 58,
        train_images=fake.images - len(rows),
        test_images=len(rows),
        milestones=tuple(milestones),
        setup_seconds=1.1,
        wall_seconds=train + 5.5,
        images_per_second=25 * fake.budgets[-1] / train,
        device="cpu",
        precision="bf16",
        threads=1,
        tries=1,
        files=files,
    )
    write_json(folder / "result.json", result.to_json())


def write_curve(path: Path, fake: Fake, reach: float, rng: np.random.Generator) -> None:
    last = fake.budgets[-1]
    every = max(1, last // 100)
    lines = []
    for iteration in range(every, last + 1, every):
        fitted = 1 - np.exp(-iteration / 150)
        loss = 0.693 - 0.21 * reach * fitted + 0.05 * rng.normal()
        accuracy = min(1.0, 0.5 + 0.17 * reach * fitted + 0.05 * rng.normal())
        record = {"iteration": iteration, "loss": max(loss, 0.01), "accuracy": accuracy, "rate": 1e-4}
        lines.append(json.dumps({**record, "train_seconds": iteration * 0.44}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_prepared(folder: Path, run: RunDir, fake: Fake) -> Prepared:
    """Shards with a pixel pattern that tells each image apart."""
    folds = pd.read_parquet(run.path("folds.parquet"))
    (folder / "shards").mkdir(parents=True)
    size = fake.image_size
    ramp = np.add.outer(np.arange(size), np.arange(size))
    kind = pa.binary(size * size)
    for number, part in enumerate(np.array_split(np.arange(len(folds)), 3)):
        pixels = [((ramp * (1 + i % 3) + 37 * i) % 256).astype(np.uint8).tobytes() for i in part]
        table = pa.table({"image_id": folds["image_id"].iloc[part].to_list(), "pixels": pa.array(pixels, type=kind)})
        pq.write_table(table, folder / "shards" / f"part-{number:05d}.parquet")
    return Prepared(folder, fake.classes, size, len(folds), fake.grouped, "da7a" + "0" * 60)


SMALL = Fake(arms=2, folds=3, budgets=(10, 20), images=90, image_size=32)
SHAPES = {
    "three": Fake(),
    "two": Fake(arms=1, folds=2, budgets=(20,), images=120, per_patient=1, grouped=False, published=False),
    "thirty": Fake(arms=30, folds=3, images=300),
    "partial": Fake(done=7),
}

if __name__ == "__main__":
    from cxrtl.report.load import load_run
    from cxrtl.report.page import write_report
    from cxrtl.report.samples import collect_samples

    for key, shape in SHAPES.items():
        made = make_run(Path(sys.argv[1]) / key, shape)
        prepared = make_prepared(Path(sys.argv[1]) / f"{key}-prepared", made, shape)
        collect_samples(made, load_run(made, partial=True).predictions, prepared)
        sys.stdout.write(f"{write_report(made, partial=True)}\n")
