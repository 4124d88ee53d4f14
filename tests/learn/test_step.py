"""The order of a GPU's calls, on stand-ins for them; what they do there, `test_gpu` shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cxrtl.learn import devices, step

GPU = torch.device("cuda", 0)


class Generator:
    """As torch's: several may stand for one state."""

    def __init__(self, device: torch.device = GPU) -> None:
        self.device, self.state = device, {"seed": -1}

    def manual_seed(self, seed: int) -> None:
        self.state["seed"] = seed

    def graphsafe_get_state(self) -> Generator:
        other = Generator()
        other.state = self.state
        return other

    def graphsafe_set_state(self, other: Generator) -> None:
        self.state = other.state


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was called, in order."""
    done: list[Any] = []

    class Event:
        numbers = iter(range(1000))

        def __init__(self, blocking: bool) -> None:
            assert blocking

        def record(self) -> None:
            self.number = next(self.numbers)

        def synchronize(self) -> None:
            done.append(("waits for", self.number))

    class Graph:
        def replay(self) -> None:
            done.append("replay")

    @contextmanager
    def graph(captured: Graph, stream: object, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        done.append("capture")
        yield

    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch.cuda, "default_generators", (Generator(),))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "own")
    return done


def test_a_fold_draws_from_its_own_seed_as_it_is_and_captured(calls: list[Any]) -> None:
    common = torch.cuda.default_generators[0]
    common.manual_seed(5)
    drawn, replays = [], [step.Replay(GPU), step.Replay(GPU)]
    for call in range(step.EAGER_STEPS + 3):
        for fold, replay in enumerate(replays):
            replay(lambda: drawn.append(common.state), 10 * call + fold)
            assert replay.draws.state["seed"] == 10 * call + fold and common.state["seed"] == 5  # type: ignore[attr-defined]
    states = [replay.draws.state for replay in replays]  # type: ignore[attr-defined]
    assert all(found is states[place % 2] for place, found in enumerate(drawn))
    assert len(drawn) == 2 * (step.EAGER_STEPS + 1)  # the last of them captured, and replayed from then on
    assert calls == 2 * ["capture", "replay"] + 4 * ["replay"]


def test_without_capture_every_step_runs_as_it_is(calls: list[Any]) -> None:
    replay, drawn = step.Replay(GPU, capture=False), list[int]()
    for call in range(6):
        replay(lambda: drawn.append(1), call)
    assert len(drawn) == 6 and not calls


def test_the_host_is_a_few_steps_ahead_at_most(calls: list[Any]) -> None:
    replay = step.Replay(GPU)
    for call in range(12):
        replay(lambda: None, call)
    assert [call for call in calls if "waits for" in call] == [("waits for", number) for number in range(4)]


def test_streams_wait_for_each_other_and_never_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    now = ["common"]

    def stream(name: str) -> Any:
        return SimpleNamespace(name=name, wait_stream=lambda other: order.append(f"{name} waits for {other.name}"))

    @contextmanager
    def on(chosen: Any) -> Iterator[None]:
        before, now[0] = now[0], chosen.name
        yield
        now[0] = before

    common, names = stream("common"), iter(("own", "shared"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream(next(names)))
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: common)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream(now[0]))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "device", lambda chosen: nullcontext())
    monkeypatch.setattr(devices, "_IDLE", defaultdict(list))
    devices._shared_stream.cache_clear()
    with devices.own_stream(GPU):
        assert now == ["own"]
        for _ in range(2):
            with devices.in_turn(GPU):
                assert now == ["shared"] and devices._TURN.locked()
        assert now == ["own"]
    devices._shared_stream.cache_clear()
    turns = 2 * ["shared waits for own", "own waits for shared"]
    assert order == ["own waits for common", *turns, "common waits for own"]
