"""TensorBoard's view of a run: `tensorboard --logdir runs/<name>/tensorboard`.

Each trial has its curves under its own name, and each of its budgets an entry of the hparams table.
"""

from __future__ import annotations

from collections.abc import Iterable

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from cxrtl.config import Recipe
from cxrtl.records import Milestone, Trial
from cxrtl.rundir import RunDir

_KNOBS = ("backbone", "init", "optimizer", "rate", "head_rate_factor", "schedule", "batch_size", "weight_decay")


class Board:
    """Writes one trial's events; what an earlier try wrote past `resume_at` iterations is purged."""

    def __init__(self, run: RunDir, trial: Trial, recipe: Recipe, resume_at: int) -> None:
        self.folder = run.path("tensorboard", trial.folder)
        self.trial, self.recipe = trial, recipe
        self.writer = SummaryWriter(str(self.folder), purge_step=resume_at + 1)

    def curve(self, lines: Iterable[dict[str, float]]) -> None:
        for line in lines:
            step = int(line["iteration"])
            for name in ("loss", "accuracy", "rate"):
                self.writer.add_scalar(f"training/{name}", line[name], step)

    def milestone(self, reached: Milestone) -> None:
        scores = {
            "held_out/accuracy": reached.held_out_accuracy,
            "held_out/loss": reached.held_out_loss,
            "time/train_seconds": reached.train_seconds,
        }
        for name, value in scores.items():
            self.writer.add_scalar(name, value, reached.iterations)
        knobs = {name: getattr(self.recipe.train, name) for name in _KNOBS}
        knobs |= {"arm": self.trial.arm, "fold": self.trial.fold, "budget": reached.iterations}
        with SummaryWriter(str(self.folder / f"budget-{reached.iterations}")) as writer:
            for event in hparams(knobs, scores):
                writer.file_writer.add_summary(event)
            for name, value in scores.items():
                writer.add_scalar(name, value, reached.iterations)

    def close(self) -> None:
        self.writer.close()
