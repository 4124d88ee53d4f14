"""What only a GPU can show: a captured step, alone or beside others, gives the bits of the steps as they are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cxrtl.config import Augment, Train
from cxrtl.learn import devices, loop, state, step, transfer
from cxrtl.learn.precision import Precision
from tests.learn.test_loop import images, recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _settled() -> Iterator[None]:
    before = torch.get_num_threads()
    devices.settle(1)
    yield
    torch.set_num_threads(before)


def on_gpu(found: loop.Images) -> loop.Images:
    return replace(found, pixels=found.pixels.to(GPU), targets=found.targets.to(GPU))


class Run:
    """A trial on the GPU, made at once and run in any thread; `weights` and `scores` by iteration."""

    def __init__(self, train: Train, fold: int = 0, precision: Precision = "bf16", folder: Path | None = None) -> None:
        self.setting = loop.Setting(train, Augment(), 0, fold, 2, precision, GPU)
        self.model = transfer.make_model(train, None, 2, 0, fold, GPU)
        self.optimizer = transfer.make_optimizer(train, self.model, 2)
        self.folder, self.stop_at = folder, 0
        self.state = state.load(folder, "hash", self.model, self.optimizer) if folder else state.State()
        self.images, self.held_out = on_gpu(images(size=64)), on_gpu(images(11, size=64, seed=1))
        self.weights: dict[int, bytes] = {}
        self.scores: dict[int, torch.Tensor] = {}

    def milestone(self, at: state.State) -> None:
        self.scores[at.iteration] = loop.predict(self.setting, self.held_out, self.model)
        self.weights[at.iteration] = state.Snapshot(self.model).weights()

    def save(self, at: state.State) -> None:
        if self.folder:
            state.save(self.folder, at, state.Snapshot(self.model, self.optimizer), "hash")
        if at.iteration == self.stop_at:
            raise KeyboardInterrupt

    def fit(self, gate: threading.Barrier | None = None) -> Run:
        if gate:
            gate.wait()
        with devices.own_stream(GPU):
            hooks = loop.Hooks(self.milestone, self.save)
            loop.fit(self.setting, self.images, self.model, self.optimizer, self.state, hooks)
        return self


# dropout and BatchNorm; dropout alone
NETWORKS = pytest.mark.parametrize("backbone", ["mobilenet_v3_small", "squeezenet1_1"])


@NETWORKS
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_captured_steps_equal_steps_as_they_are(backbone: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train = recipe(10, 30, backbone=backbone, optimizer=optimizer, schedule="cosine")
    captured = Run(train).fit()
    monkeypatch.setattr(step, "EAGER_STEPS", 10**9)
    plain = Run(train).fit()
    assert captured.weights == plain.weights and len(captured.weights) == 2
    assert captured.weights[10] != captured.weights[30]


@NETWORKS
def test_folds_side_by_side_equal_folds_alone(backbone: str) -> None:
    train = recipe(15, 60, backbone=backbone)
    alone = [Run(train, fold).fit() for fold in range(4)]
    runs = [Run(train, fold) for fold in range(4)]
    together = devices.side_by_side([run.fit for run in runs])
    for one, other in zip(alone, together, strict=True):
        assert one.weights == other.weights
        assert all(torch.equal(one.scores[at], other.scores[at]) for at in one.scores)
    assert len({run.weights[60] for run in alone}) == 4


def test_a_capture_leaves_the_common_random_numbers_where_they_were() -> None:
    run = Run(recipe(8))  # draws its layers
    torch.cuda.manual_seed(7)
    wanted = torch.rand(3, device=GPU)
    torch.cuda.manual_seed(7)
    run.fit()
    assert torch.equal(torch.rand(3, device=GPU), wanted)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resumed_run_equals_undisturbed_run(optimizer: str, tmp_path: Path) -> None:
    train = recipe(24, optimizer=optimizer, checkpoint_every=9, class_weights=True)
    whole, first = Run(train).fit(), Run(train, folder=tmp_path)
    first.stop_at = 9
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second = Run(train, folder=tmp_path)
    assert second.state.iteration == 9
    assert second.fit().weights == whole.weights


def test_folds_that_share_one_copy_of_the_images_equal_folds_with_their_own() -> None:
    train, whole = recipe(12), images(40, size=64)
    places = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:30]
    own, shared = Run(train), Run(train)
    own.images = on_gpu(loop.Images(whole.pixels[places], whole.targets[places]))
    shared.images = replace(on_gpu(whole), rows=places.to(GPU))
    assert own.fit().weights == shared.fit().weights


def test_scores_are_those_of_full_fp32() -> None:
    """Off by what a CPU rounds otherwise, not by TF32's 10 bits."""
    train = recipe(1, backbone="resnet18")
    run = Run(train, precision="fp32")
    on_cpu = transfer.make_model(train, None, 2, 0, 0, torch.device("cpu"))
    on_cpu.load_state_dict(run.model.state_dict())
    here = loop.Setting(train, Augment(), 0, 0, 2, "fp32", torch.device("cpu"))
    wanted = loop.predict(here, images(11, size=64, seed=1), on_cpu)
    assert float((loop.predict(run.setting, run.held_out, run.model) - wanted).abs().max()) < 1e-5


def test_the_host_does_not_run_away() -> None:
    slow = torch.rand(4096, 4096, device=GPU)
    done: list[torch.cuda.Event] = []

    def body() -> None:
        for _ in range(4):
            torch.mm(slow, slow, out=out)

    out = torch.empty_like(slow)
    with devices.own_stream(GPU):
        replay = step.Replay(GPU)
        for call in range(100):
            replay(body, call)
            done.append(torch.cuda.current_stream().record_event())
            assert call <= step.QUEUED or done[call - step.QUEUED - 1].query()


def test_no_queue_is_anothers_however_many_folds_were_trained() -> None:
    """Torch has 32 and hands them out in turn."""

    def queue(gate: threading.Barrier) -> int:
        gate.wait(60)
        with devices.own_stream(GPU):
            own = torch.cuda.current_stream(GPU).cuda_stream
            gate.wait(60)
        return own

    with devices.in_turn(GPU):
        shared = torch.cuda.current_stream(GPU).cuda_stream
    for _ in range(40):
        assert len({shared, *devices.side_by_side([queue] * 3)}) == 4


def test_threads_may_copy_and_score_while_others_capture() -> None:
    stop, copied = threading.Event(), [0]

    def copy() -> None:
        held = torch.arange(10**6, device=GPU)
        while not stop.is_set():
            assert int(held.clone().cpu()[-1]) == 10**6 - 1
            copied[0] += 1

    beside = devices.beside(copy)
    try:
        runs = [Run(recipe(4, 8, 12), fold) for fold in range(3)]
        jobs: list[Callable[[threading.Barrier], Run]] = [run.fit for run in runs]
        assert all(len(run.weights) == 3 for run in devices.side_by_side(jobs))
    finally:
        stop.set()
    beside.result()
    assert copied[0]
