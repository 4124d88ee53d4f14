"""Folds side by side in one process: they begin together, none waits for one that failed, and their threads stay."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch

from cxrtl.errors import TrialError
from cxrtl.learn import devices


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_jobs_meet_at_the_gate() -> None:
    at_once, most = [0], []
    lock = threading.Lock()

    def job(gate: threading.Barrier) -> int:
        with lock:
            at_once[0] += 1
        gate.wait(10)
        most.append(at_once[0])
        return threading.get_ident()

    assert len(set(devices.side_by_side([job] * 5))) == 5 and most == [5] * 5


def test_nobody_waits_for_a_job_that_failed_and_its_fault_is_told() -> None:
    def waits(gate: threading.Barrier) -> None:
        gate.wait(60)

    def fails(gate: threading.Barrier) -> None:
        raise TrialError("the loss is no number")

    with pytest.raises(TrialError, match="no number"):
        devices.side_by_side([waits, fails, waits])


def test_threads_stay_and_compute_with_the_callers_number() -> None:
    def job() -> tuple[int, int]:
        return threading.get_ident(), torch.get_num_threads()

    seen = []
    for number in (1, 2, 1):
        torch.set_num_threads(number)
        seen.append(devices.beside(job).result())
    assert [number for _, number in seen] == [1, 2, 1]
    known = {thread.ident for thread in threading.enumerate()}
    assert {ident for ident, _ in seen} <= known


def test_settled_is_repeatable_and_exact() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True  # settled is what tests leave behind
    devices.settle(1)
    assert torch.get_num_threads() == 1 and torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_no_queue_is_anothers_however_many_folds_were_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of torch's queues on a GPU, numbers as torch hands them out: 32, in turn."""
    made, entered, gpu = itertools.count(), threading.local(), torch.device("cuda", 7)

    class Common:
        def wait_stream(self, other: object) -> None:
            pass

    class Queue(Common):
        def __init__(self, device: torch.device) -> None:
            self.number = next(made) % 32

    def enter(queue: Queue) -> AbstractContextManager[None]:
        entered.number = queue.number
        return nullcontext()

    def common(device: torch.device) -> Common:
        return Common()

    for name, fake in {
        "Stream": Queue,
        "default_stream": common,
        "current_stream": common,
        "stream": enter,
        "device": lambda _: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)

    monkeypatch.setattr(devices, "_IDLE", defaultdict(list))

    def own(gate: threading.Barrier) -> int:
        gate.wait(10)
        with devices.own_stream(gpu):
            gate.wait(10)
            return int(entered.number)

    with devices.in_turn(gpu):
        shared = int(entered.number)
    for _ in range(40):
        assert len({shared, *devices.side_by_side([own] * 3)}) == 4
