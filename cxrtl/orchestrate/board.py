"""TensorBoard's view of a run: `tensorboard --logdir runs/<name>/tensorboard`.

Each trial has its curves under its own name, and each of its budgets an entry of the hparams table; once the report is
written, so has each arm with its pooled metrics, beside the ROC curves and confusion matrices.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams, scalar

from cxrtl import rundir, storage
from cxrtl.config import Recipe
from cxrtl.records import Milestone, Trial
from cxrtl.rundir import RunDir

_KNOBS = ("backbone", "init", "optimizer", "rate", "head_rate_factor", "schedule", "batch_size", "weight_decay")


class Events:
    """One events file. Written in this thread: tensorboardX's usual writer takes half a second to end its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.writer = EventsWriter(str(folder / "events"))

    def add(self, summary: Any, step: int) -> None:
        self.writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))

    def purge_from(self, step: int) -> None:
        start = SessionLog(status=SessionLog.START)
        self.writer.write_event(Event(wall_time=time.time(), step=step, session_log=start))

    def close(self) -> None:
        self.writer.close()


class Board:
    """Writes one trial's events; what an earlier try wrote past `resume_at` iterations is purged."""

    def __init__(self, run: RunDir, trial: Trial, recipe: Recipe, resume_at: int) -> None:
        self.folder = run.path("tensorboard", trial.folder)
        self.trial, self.recipe = trial, recipe
        self.events = Events(self.folder)
        self.events.purge_from(resume_at + 1)

    def curve(self, lines: Iterable[dict[str, float]]) -> None:
        for line in lines:
            for name in ("loss", "accuracy", "rate"):
                self.events.add(scalar(f"training/{name}", line[name]), int(line["iteration"]))
        self.events.writer.flush()

    def milestone(self, reached: Milestone) -> None:
        scores = {
            "held_out/accuracy": reached.held_out_accuracy,
            "held_out/loss": reached.held_out_loss,
            "time/train_seconds": reached.train_seconds,
        }
        knobs = {name: getattr(self.recipe.train, name) for name in _KNOBS}
        knobs |= {"arm": self.trial.arm, "fold": self.trial.fold, "budget": reached.iterations}
        entry = Events(self.folder / f"budget-{reached.iterations}")
        for summary in hparams(knobs, scores):
            entry.add(summary, 0)
        for name, value in scores.items():
            entry.add(scalar(name, value), reached.iterations)
            self.events.add(scalar(name, value), reached.iterations)
        entry.close()
        self.keep()

    def keep(self) -> None:
        """Where the run is at a storage, send it what was added here."""
        storage.send(self.folder)

    def close(self) -> None:
        self.events.close()
        self.keep()


def pooled(run: RunDir) -> None:
    """What the report found, under `pooled`: each arm and budget an entry of the hparams table with its pooled
    metrics, and the drawings of ROC curves and confusion matrices as images. What an earlier report left is replaced.

    Raises:
        DamagedError: the run has no report yet.
    """
    root, summary = run.path("tensorboard", "pooled"), rundir.read_json(run.path("summary.json"))
    storage.remove(root)
    knobs = {item["knob"]: item["values"] for item in summary["settings"] if item["knob"] in _KNOBS}
    for row in summary["rows"]:
        values = {name: values[summary["arms"].index(row["arm"])] for name, values in knobs.items()}
        metrics = {f"pooled/{name}": found["value"] for name, found in row["metrics"].items()}
        known = {name: value for name, value in metrics.items() if value is not None}
        entry = Events(root / row["arm"] / f"budget-{row['iterations']}")
        for part in hparams({**values, "arm": row["arm"], "budget": row["iterations"]}, known):
            entry.add(part, 0)
        for name, value in known.items():
            entry.add(scalar(name, value), row["iterations"])
        entry.close()
    pictures = Events(root)
    drawn = [*run.path("figures").glob("roc-*.png"), *run.path("figures").glob("confusion*.png")]
    steps = {path: int(budget) if (budget := path.stem.partition("-")[2]).isdigit() else 0 for path in drawn}
    for path, step in sorted(steps.items(), key=lambda item: (item[1], item[0])):
        with Image.open(path) as image:
            shown = Summary.Image(height=image.height, width=image.width, colorspace=3)
        shown.encoded_image_string = path.read_bytes()
        pictures.add(Summary(value=[Summary.Value(tag=f"report/{path.stem.partition('-')[0]}", image=shown)]), step)
    pictures.close()
    storage.send(root)
