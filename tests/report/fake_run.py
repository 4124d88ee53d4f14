"""Run folders as the orchestrator writes them, with simulated scores: what the report's tests read.

PYTHONPATH=. python tests/report/fake_run.py FOLDER     writes the runs of `fake_shape` there, with their reports
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fake_shape import ENVIRONMENT as ENVIRONMENT
from fake_shape import SESSIONS as SESSIONS
from fake_shape import SHAPES as SHAPES
from fake_shape import SMALL as SMALL
from fake_shape import TASKS as TASKS
from fake_shape import Fake as Fake
from fake_shape import certificate, make_experiment, resolved, write_curve

from cxrtl.predictions import Predictions
from cxrtl.records import FoldResult, Milestone, Prepared
from cxrtl.rundir import RunDir, sha256_file, write_frame, write_json, write_predictions
from tests.fakes import predict, truths


def make_run(root: Path, fake: Fake) -> RunDir:
    """Write a run folder at `root` with the files that a finished (or cut-off) run leaves."""
    rng = np.random.default_rng(fake.seed)
    run = RunDir(root)
    root.mkdir(parents=True)
    folds = make_folds(fake, rng)
    shown = [name for name in folds if not name.startswith("truth_")]
    write_frame(root / "folds.parquet", folds[shown])
    if fake.readers:
        write_frame(root / "subjects.parquet", read(fake, folds))
    experiment = make_experiment(fake)
    write_json(root / "experiment.resolved.json", resolved(fake, experiment))
    write_json(root / "leakage.json", certificate(fake, folds))
    write_json(root / "environment.json", ENVIRONMENT)
    write_json(root / "sessions.json", SESSIONS)
    patient_effect = dict(zip(sorted(set(folds["patient_id"])), rng.normal(size=len(folds)), strict=False))
    effect = folds["patient_id"].map(patient_effect).to_numpy()
    noise = rng.normal(size=len(folds))
    done = fake.folds * fake.repeats if fake.done is None else fake.done
    for place, arm in enumerate(fake.names):
        own = rng.normal(size=len(folds))
        for fold in range(done):
            repeat = fold // fake.folds
            column = f"fold_{repeat}" if repeat else "fold"
            rows = folds[folds[column] == fold].assign(fold=fold, **({"repeat": repeat} if fake.repeats > 1 else {}))
            base = (0.8 * effect + 0.6 * noise + 0.5 * own)[rows.index]
            for budgets in [(budget,) for budget in fake.budgets] if fake.independent else [fake.budgets]:
                write_trial(run, replace(fake, budgets=budgets), place, arm, fold, rows, base, rng)
    return run


def make_folds(fake: Fake, rng: np.random.Generator) -> pd.DataFrame:
    patients = -(-fake.images // fake.per_patient)
    patient = np.repeat(np.arange(patients), fake.per_patient)[: fake.images]
    label = np.where(rng.permutation(patients) < patients // 2, fake.classes[-1], fake.classes[0])
    fold = np.empty(patients, int)
    for name in fake.classes:  # stratified: each class dealt out in turn
        members = np.flatnonzero(label == name)
        fold[members] = np.arange(len(members)) % fake.folds
    frame = pd.DataFrame(
        {
            "image_id": [f"{i:012x}" for i in rng.permutation(10**9 + np.arange(fake.images))],
            "patient_id": [f"p{i:08x}" for i in patient] if fake.grouped else "",
            "label": label[patient],
            "content_hash": [f"{i:064x}" for i in range(fake.images)],
            "fold": fold[patient],
        }
    )
    if fake.task != "binary":
        frame = frame.drop(columns="label").join(truths(fake.task, fake.classes, patient, rng))
    if fake.kind == "holdout":
        frame["fold"] = np.where(patient % 10 < 4, 0, -1)
    for repeat in range(1, fake.repeats):
        frame[f"fold_{repeat}"] = rng.permutation(np.arange(patients) % fake.folds)[patient] + repeat * fake.folds
    return frame


def read(fake: Fake, folds: pd.DataFrame) -> pd.DataFrame:
    """One reader who labels all images, one who gives scores or reads half of them, and a column that is neither."""
    rng = np.random.default_rng(5)
    truth, other = folds["label"].to_numpy(), rng.choice(np.array(fake.classes), size=len(folds))
    first, second = (np.where(rng.random(len(folds)) < skill, truth, other) for skill in (0.7, 0.5))
    if fake.task == "binary":
        score = np.clip(0.3 * (truth == fake.classes[1]) + 0.7 * rng.random(len(folds)), 0, 1)
        second = np.array([f"{value:.3f}" for value in score])
    else:
        second = np.where(np.arange(len(folds)) % 2 == 0, second, "")
    return pd.DataFrame(
        {"image_id": folds["image_id"], "reader_a": first, "reader_b": second, "reader_note": "see letter"}
    )


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
    positive = (rows["label"] == fake.classes[-1]).to_numpy()
    reach = 0.05 if arm == "scratch" else 1.75 + 0.15 * np.cos(place)
    milestones, files = [], {}
    shift = rng.normal(scale=0.8)  # folds differ in calibration
    for iterations in fake.budgets:
        signal = reach * (1 - np.exp(-iterations / 150))
        told = ["image_id", "patient_id", "fold", *(["repeat"] if fake.repeats > 1 else [])]
        frame = rows[told].assign(arm=arm, iterations=iterations).reset_index(drop=True)
        if fake.task == "binary":
            logit = signal * (positive - 0.5) * 2 * 0.75 + base + shift * 180 / iterations
            score = 1 / (1 + np.exp(-logit))
            names = [f"score_{name}" for name in fake.classes]
            frame = frame.assign(label=rows["label"].to_numpy(), **{names[0]: 1 - score, names[1]: score})
            right = float(((score >= 0.5) == positive).mean())
        else:
            true = rows[[name for name in rows if name.partition("_")[0] in ("label", "truth")]]
            made = predict(fake.task, fake.classes, true.reset_index(drop=True), base, 1.5 * signal, rng)
            frame, right = frame.join(made), 1 - 0.4 * np.exp(-iterations / 150)
        path = folder / f"predictions-{iterations}.parquet"
        write_predictions(path, Predictions(frame, fake.classes, fake.task))
        files[path.name] = sha256_file(path)
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


if __name__ == "__main__":
    from cxrtl.report.load import load_run
    from cxrtl.report.page import write_report
    from cxrtl.report.samples import collect_samples

    for key, shape in {**SHAPES, **TASKS}.items():
        made = make_run(Path(sys.argv[1]) / key, shape)
        prepared = make_prepared(Path(sys.argv[1]) / f"{key}-prepared", made, shape)
        collect_samples(made, load_run(made, partial=True).predictions, prepared)
        sys.stdout.write(f"{write_report(made, partial=True)}\n")
