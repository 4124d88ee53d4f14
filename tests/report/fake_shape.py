"""What the made-up run folders of `fake_run` are like, and the files that say so."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxrtl.config import Experiment
from cxrtl.records import Task
from tests.fakes import CLASSES

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
    classes: tuple[str, ...] = ("normal", "effusion")
    study: str = "Huang et al. 2022"
    arm_names: tuple[str, ...] = ("resnet50", "resnet50-hflip", "scratch")
    published: bool = True
    image_size: int = 64
    source: str = "table"
    independent: bool = False  # one training a budget, in folders of their own
    task: Task = "binary"
    kind: str = "cv"
    repeats: int = 1
    readers: bool = False
    staged: bool = False  # the first arm came through two stages

    @property
    def names(self) -> list[str]:
        extra = [f"arm-{i:02d}" for i in range(len(self.arm_names), self.arms)]
        return [*self.arm_names[: self.arms], *extra]


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
            "folds": {
                "kind": fake.kind,
                "k": max(2, fake.folds),
                "ungrouped": not fake.grouped,
                "column": "site" if fake.kind == "leave_one_site_out" else "",
            },
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
            "counts": {fake.classes[0]: fake.images - half, fake.classes[-1]: half},
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
        **({"lineage": {fake.names[0]: STAGES}} if fake.staged else {}),
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
                "positives": int((rows["label"] == fake.classes[-1]).sum()),
            }
            for fold, rows in folds.groupby("fold")
        ],
        "images": len(folds),
        "patients": int(patients),
    }


STAGES = [
    {
        "stage": place,
        "run": run,
        "run_hash": "beef" + "0" * 60,
        "weights_sha256": "5a9e" + "0" * 60,
        "data_hash": "0dd5" + "0" * 60,
        "classes": classes,
        "images": 1083,
        "patients": patients,
        "iterations": 500,
        "rule": "last budget, fold of median held-out loss on the stage's own images: fold 3",
        "init": init,
        "init_sha256": "dc1de4b3" + "0" * 56,
    }
    for place, run, classes, patients, init in (
        (1, "organs/squeezenet", ["AbdomenCT", "Hand"], None, "imagenet"),
        (2, "kermany-stage/staged", ["NORMAL", "PNEUMONIA"], 998, "stage"),
    )
]
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


SMALL = Fake(arms=2, folds=3, budgets=(10, 20), images=90, image_size=32)
SHAPES = {
    "three": Fake(),
    "two": Fake(arms=1, folds=2, budgets=(20,), images=120, per_patient=1, grouped=False, published=False),
    "thirty": Fake(arms=30, folds=3, images=300),
    "partial": Fake(done=7),
}
_OTHER = Fake(
    arms=2, folds=5, budgets=(50, 100), images=240, published=False, arm_names=("staged", "direct", "scratch")
)
TASKS: dict[str, Fake] = {
    task: replace(_OTHER, task=task, classes=CLASSES[task], name=f"{task}-fake", description=f"Made-up {task} run")
    for task in ("multiclass", "multilabel", "segmentation")
}
TASKS["multiclass"] = replace(TASKS["multiclass"], readers=True, staged=True)
