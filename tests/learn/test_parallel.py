"""Two workers that share out each batch take the steps of one that has it whole."""

from __future__ import annotations

import copy
import multiprocessing
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cxrtl.config import Train
from cxrtl.learn import features, parallel, state
from cxrtl.learn.dropout import CoinDropout
from cxrtl.learn.parallel import ALONE, PeerLost, Workers
from cxrtl.learn.vision import models
from cxrtl.records import Task
from tests.learn.test_loop import Run, recipe
from tests.learn.test_stream import on_disk

STEPS, CUT, BATCH = 6, 3, 5  # five images among two workers: two and three
NAMES = ["classes", "findings", "areas", "from disk", "frozen"]


def case(name: str, steps: int) -> tuple[Train, Task]:
    knobs: dict[str, Any] = {"batch_size": BATCH, "checkpoint_every": CUT, "class_weights": True}
    task: Task = "multilabel" if name == "findings" else "segmentation" if name == "areas" else "binary"
    if name == "frozen":  # whose dropout is `CoinDropout`
        knobs |= {"backbone": "squeezenet1_1", "freeze": "backbone", "optimizer": "adamw"}
    return recipe(steps, **knobs), task


class Shared(Run):
    """A trial of which this process is one worker; the state in `folder` is the first worker's alone."""

    def __init__(self, name: str, workers: Workers, folder: Path, steps: int = STEPS, saves: bool = False) -> None:
        train, task = case(name, steps)
        super().__init__(train, folder=folder if saves and workers.first else None, task=task)
        self.setting = replace(self.setting, workers=workers)
        self.state = workers.agree(self.state, self.model, self.optimizer)
        if name == "from disk":
            self.images = on_disk(folder, f"{workers.rank}of{workers.count}.u8", self.images, task)
        self.whole, self.model = self.model, features.net(train, self.model, self.setting.classes, task, False)

    def gradients(self) -> list[Tensor]:
        return [each.grad for each in self.whole.parameters() if each.grad is not None]

    def save(self, at: state.State) -> None:
        self.model, net = self.whole, self.model
        super().save(at)
        self.model = net


def outcome(name: str, workers: Workers, folder: Path) -> dict[str, list[Tensor]]:
    """Gradients of the first step, held-out scores and losses after some, and scores of a run cut and resumed."""
    first = Shared(name, workers, folder, steps=1).fit()
    run = Shared(name, workers, folder).fit()
    cut = Shared(name, workers, folder, saves=True)
    cut.stop_at = CUT
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    resumed = Shared(name, workers, folder, saves=True)
    assert resumed.state.iteration == CUT
    resumed.fit()
    losses = [torch.tensor([line["loss"] for line in run.state.curve])]
    buffers = [value.float() for key, value in run.whole.state_dict().items() if "running" in key]
    return {
        "gradients": first.gradients(),
        "scores": [run.scores[STEPS].double()],
        "resumed": [resumed.scores[STEPS].double()],
        "losses": losses,
        "statistics": buffers,
    }


def join(rank: int, port: int) -> Workers:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    return Workers.here()


def second(port: int, folder: Path) -> None:
    """The other worker's process."""
    workers = join(1, port)
    for name in NAMES:
        outcome(name, workers, folder)
    assert workers.all_of("b") == ["a", "b"]
    assert [workers.any_told(told, torch.device("cpu")) for told in (False, True)] == [False, True]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, list[Tensor]]]]:
    """What the first of two workers got, by case; after it the second is gone."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    other = multiprocessing.get_context("spawn").Process(target=second, args=(port, folder), daemon=True)
    other.start()
    workers = join(0, port)
    try:
        outcomes = {}
        for name in NAMES:
            outcomes[name] = outcome(name, workers, folder)
            (folder / "state.json").unlink()
        assert workers.all_of("a") == ["a", "b"]
        assert [workers.any_told(False, torch.device("cpu")) for _ in range(2)] == [False, True]
        other.join(60)
        yield outcomes
    finally:
        dist.destroy_process_group()
        other.kill()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_workers_equal_one(name: str, found: dict[str, dict[str, list[Tensor]]], tmp_path: Path) -> None:
    alone = outcome(name, ALONE, tmp_path)
    assert torch.equal(found[name]["resumed"][0], found[name]["scores"][0])  # to the bit
    for what, values in alone.items():
        assert len(values) == len(found[name][what])
        for one, two in zip(values, found[name][what], strict=True):
            torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4 * max(1e-3, float(one.abs().max())))


@pytest.mark.slow
def test_lost_worker_is_told_from_a_fault_of_the_loop(found: object) -> None:
    workers = Workers.here()
    assert workers.count == 2
    with pytest.raises(PeerLost, match="another worker of the fold is gone"):
        for _ in range(10):  # the first may still be taken by the dead one's socket
            workers.whole(torch.ones(1), 2)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "module",
    [
        nn.Dropout(0.3),
        nn.Dropout(0.3, inplace=True),
        nn.Dropout2d(0.3),
        CoinDropout(),
        models.efficientnet.StochasticDepth(0.6, "row"),
    ],
)
def test_dropout_of_a_part_is_that_of_the_whole(module: nn.Module, channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    given = torch.arange(1, 5 * 3 * 4 + 1.0).view(5, 3, 2, 2).contiguous(memory_format=layout)
    torch.manual_seed(1)
    whole = module(given.clone())
    for rows in (slice(0, 1), slice(1, 5)):
        torch.manual_seed(1)
        assert torch.equal(parallel._drop(module, rows, 5, given[rows]), whole[rows])
    assert (whole == 0).any() and torch.equal(parallel._drop(module.eval(), rows, 5, given[rows]), given[rows])
    module.train()


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 5)])
def test_normalising_is_batchnorm(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    ours = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(4, momentum=0.3)
    nn.init.normal_(ours.weight)
    theirs = copy.deepcopy(ours)
    one, two = (torch.randn(shape, generator=torch.manual_seed(2)).add(30).requires_grad_() for _ in range(2))
    weights = torch.randn(shape)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        found = parallel._normalise(ours, len(one), one)
        (found * weights).sum().backward()
    finally:
        dist.destroy_process_group()
    wanted = theirs(two)
    (wanted * weights).sum().backward()
    pairs = [(found, wanted), (one.grad, two.grad), (ours.weight.grad, theirs.weight.grad)]
    pairs += [(ours.bias.grad, theirs.bias.grad), *zip(ours.buffers(), theirs.buffers(), strict=True)]
    for mine, torchs in pairs:
        torch.testing.assert_close(mine, torchs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("count", "size"), [(1, 5), (2, 5), (3, 7), (4, 4)])
def test_parts_are_a_batch_without_overlap(count: int, size: int) -> None:
    parts = [list(range(size))[Workers(rank, count).part(size)] for rank in range(count)]
    assert [row for part in parts for row in part] == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_nothing_is_told_to_anybody() -> None:
    given = torch.ones(3, requires_grad=True)
    assert [ALONE.any_told(told, torch.device("cpu")) for told in (False, True)] == [False, True]
    assert ALONE.whole(given, 3) is given and ALONE.all_of("a") == ["a"] and ALONE.part(7) == slice(0, 7)
