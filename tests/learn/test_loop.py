"""The loop's guarantees: the same bits however a run is cut, and one clock that counts training alone."""

from __future__ import annotations

import gc
import math
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cxrtl.config import Augment, Train
from cxrtl.errors import TrialError
from cxrtl.learn import loop, objective, state, step, transfer
from cxrtl.learn.precision import Precision
from cxrtl.records import Task

CPU = torch.device("cpu")


def images(count: int = 30, size: int = 32, seed: int = 0, task: Task = "binary") -> loop.Images:
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(0, 255, (count, 1, size, size), dtype=np.uint8))
    targets = objective.blank_targets(task, count, 2 if task == "binary" else 3, size)
    if task == "multilabel":
        targets[::4, 1] = torch.nan
    return loop.Images(pixels, targets)


class Run:
    """A trial without Ray: collects scores at budgets, and saves where it is told to."""

    def __init__(
        self,
        train: Train,
        precision: Precision = "fp32",
        fold: int = 0,
        folder: Path | None = None,
        task: Task = "binary",
    ) -> None:
        classes = 2 if task == "binary" else 3
        self.setting = loop.Setting(train, Augment(), 0, fold, classes, precision, CPU, task)
        self.model = transfer.make_model(train, None, classes, 0, fold, CPU, task)
        self.optimizer = transfer.make_optimizer(train, self.model, classes)
        self.folder, self.scores, self.stop_at = folder, {}, 0
        self.state = state.load(folder, "hash", self.model, self.optimizer) if folder else state.State()
        self.images: loop.Images | loop.Streamed = images(task=task)
        self.held_out: loop.Images | loop.Streamed = images(11, seed=1, task=task)

    def milestone(self, at: state.State) -> None:
        self.scores[at.iteration] = loop.predict(self.setting, self.held_out, self.model)

    def save(self, at: state.State) -> None:
        if self.folder:
            state.save(self.folder, at, state.Snapshot(self.model, self.optimizer), "hash")
        if at.iteration == self.stop_at:
            raise KeyboardInterrupt

    def fit(self) -> Run:
        hooks = loop.Hooks(self.milestone, self.save, lambda _: None)
        loop.fit(self.setting, self.images, self.model, self.optimizer, self.state, hooks)
        return self


def recipe(*budgets: int, **knobs: object) -> Train:
    defaults = {
        "backbone": "mobilenet_v3_small",
        "init": "scratch",
        "batch_size": 4,
        "rate": 1e-3,
    }  # has dropout and BatchNorm
    return Train.model_validate({**defaults, "budgets": budgets, **knobs})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_budget_on_the_way_equals_a_run_of_that_length(precision: Precision) -> None:
    alone = Run(recipe(50), precision).fit().scores[50]
    on_the_way = Run(recipe(50, 100), precision).fit().scores
    assert torch.equal(alone, on_the_way[50])
    assert not torch.equal(on_the_way[50], on_the_way[100])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("cut", [7, 14])
def test_resumed_run_equals_undisturbed_run(tmp_path: Path, optimizer: str, cut: int) -> None:
    train = recipe(21, optimizer=optimizer, checkpoint_every=7, schedule="cosine", class_weights=True)
    whole = Run(train).fit()
    first = Run(train, folder=tmp_path)
    first.stop_at = cut
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second = Run(train, folder=tmp_path)
    assert second.state.iteration == cut
    second.fit()
    assert torch.equal(whole.scores[21], second.scores[21])
    assert [line["loss"] for line in whole.state.curve] == [line["loss"] for line in second.state.curve]


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "segmentation"])
def test_other_tasks_repeat_bit_for_bit_however_they_are_cut(tmp_path: Path, task: Task) -> None:
    train = recipe(4, 8, checkpoint_every=3, class_weights=True)
    whole = Run(train, task=task).fit()
    first = Run(train, folder=tmp_path, task=task)
    first.stop_at = 6
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second = Run(train, folder=tmp_path, task=task).fit()
    alone = Run(recipe(4, class_weights=True), task=task).fit()
    assert torch.equal(whole.scores[8], second.scores[8]) and torch.equal(whole.scores[4], alone.scores[4])


def test_folds_side_by_side_in_one_process_equal_folds_alone() -> None:
    train = recipe(6)  # has dropout: one generator serves all threads
    alone = [Run(train, fold=fold).fit().scores[6] for fold in range(3)]
    runs = [Run(train, fold=fold) for fold in range(3)]
    with ThreadPoolExecutor(3) as threads:
        together = [done.scores[6] for done in threads.map(Run.fit, runs)]
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("task", ["binary", "multilabel", "segmentation"])
def test_part_of_shared_images_equals_images_of_its_own(task: Task) -> None:
    train, whole = recipe(4, class_weights=True), images(41, task=task)
    order = torch.randperm(41, generator=torch.Generator().manual_seed(0))
    own, shared = Run(train, task=task), Run(train, task=task)
    parts = [order[:30].sort().values, order[30:].sort().values]
    own.images, own.held_out = (loop.Images(whole.pixels[rows], whole.targets[rows]) for rows in parts)
    shared.images, shared.held_out = (replace(whole, rows=rows) for rows in parts)
    assert [len(shared.images), len(shared.held_out)] == [30, 11]
    for one, other in ((own.images, shared.images), (own.held_out, shared.held_out)):
        pairs = zip(one.truth(), other.truth(), strict=True)
        assert all(torch.equal(mine.nan_to_num(2), theirs.nan_to_num(2)) for mine, theirs in pairs)
    assert torch.equal(own.fit().scores[4], shared.fit().scores[4])


def test_folds_and_seeds_differ() -> None:
    assert not torch.equal(Run(recipe(5)).fit().scores[5], Run(recipe(5), fold=1).fit().scores[5])


def test_predicting_draws_no_random_numbers_and_keeps_batchnorm() -> None:
    run = Run(recipe(1, backbone="resnet18"))
    before, generator = state.Snapshot(run.model).weights(), torch.get_rng_state()
    loop.predict(run.setting, run.held_out, run.model)
    assert state.Snapshot(run.model).weights() == before
    assert torch.equal(torch.get_rng_state(), generator)
    assert run.model.training


def test_scores_are_probabilities_whatever_the_batch() -> None:
    run = Run(recipe(1))
    scores = loop.predict(run.setting, images(loop.EVALUATION_BATCH["cpu"] + 3), run.model)
    assert scores.dtype == torch.float64 and scores.shape == (loop.EVALUATION_BATCH["cpu"] + 3, 2)
    assert torch.allclose(scores.sum(1), torch.ones(len(scores), dtype=torch.float64))


def test_larger_images_are_scored_fewer_at_once() -> None:
    """So that no size needs more memory than the usual one."""
    setting = Run(recipe(1)).setting
    asked = {side: loop.evaluation_batch(setting, side) for side in (64, 224, 448, 2240)}
    most = loop.EVALUATION_BATCH["cpu"]
    assert asked == {64: most, 224: most, 448: most // 4, 2240: most // 100}
    assert loop.evaluation_batch(setting, 10_000) == 1


def test_notice_is_asked_for_after_every_step() -> None:
    """Also where a state is saved anyway: workers who share a fold out ask each other then."""
    run, asked = Run(recipe(6, checkpoint_every=2)), list[int]()
    hooks = loop.Hooks(noticed=lambda: bool(asked.append(run.state.iteration)))
    loop.fit(run.setting, run.images, run.model, run.optimizer, run.state, hooks)
    assert asked == [1, 2, 3, 4, 5, 6]


def test_clock_leaves_out_what_happens_between_steps() -> None:
    run = Run(recipe(3, 6))
    milestone = run.milestone
    run.milestone = lambda at: (milestone(at), time.sleep(1))[0]  # type: ignore[assignment, func-returns-value]
    started = time.perf_counter()
    run.fit()
    assert run.state.train_seconds <= time.perf_counter() - started - 2  # two milestones slept


def test_what_a_step_holds_ends_with_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU that is gigabytes, which the next fold needs before Python looks for cycles."""
    held = []

    class Watched(step.Step):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            held.append(weakref.ref(self))

    monkeypatch.setattr(loop, "Step", Watched)
    gc.disable()
    try:
        Run(recipe(2)).fit()
        assert [ref() for ref in held] == [None]
    finally:
        gc.enable()


def test_diverged_training_is_an_error_that_names_the_rate() -> None:
    with pytest.raises(TrialError, match=r"diverged.*train\.rate \(now 10"):
        Run(recipe(40, rate=10, head_rate_factor=1000, backbone="resnet18")).fit()


def test_batch_larger_than_the_training_folds_is_an_error() -> None:
    with pytest.raises(TrialError, match=r"batch_size = 31 exceeds the 30 training images"):
        Run(recipe(2, batch_size=31)).fit()


def test_first_step_of_sgd_follows_the_two_rates() -> None:
    train = recipe(1, head_rate_factor=10, weight_decay=0.01)
    run = Run(train)
    before = {key: value.clone() for key, value in run.model.named_parameters()}
    run.fit()
    for key, value in run.model.named_parameters():
        rate = 1e-3 * (10 if key.startswith("classifier.3") else 1)
        assert value.grad is not None
        assert torch.allclose(value, before[key] - rate * (value.grad + 0.01 * before[key]), atol=1e-7), key


def test_cosine_rate_falls_from_full_to_nothing() -> None:
    train = recipe(100, schedule="cosine")
    shares = [transfer.rate_share(train, iteration) for iteration in (0, 50, 100)]
    assert shares == pytest.approx([1, 0.5, 0])


def test_every_image_is_seen_at_most_once_a_pass() -> None:
    batches = step.Batches(Run(recipe(1, batch_size=7)).setting, 30)
    for index in range(3):
        seen = torch.cat([batches[index * 4 + place][0] for place in range(4)])
        assert len(seen) == 28 == len(set(seen.tolist()))


def test_curve_tells_the_iterations_means() -> None:
    curve = Run(recipe(12)).fit().state.curve
    assert [line["iteration"] for line in curve] == [5, 10, 12]
    assert all(math.isfinite(line["loss"]) and 0 <= line["accuracy"] <= 1 for line in curve)
