"""Folds on a device: their threads, their streams, its name."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, partial
from typing import TypeVar

import torch

T = TypeVar("T")
# What libraries keep for a thread (cuDNN its plans, OpenMP its team) serves the next fold on it. As many as are asked
# for at once: folds that wait for each other must all have begun.
_THREADS = ThreadPoolExecutor(1024, thread_name_prefix="cxrtl-fold")
_TURN = threading.Lock()


# Queues that no fold uses now. Torch hands out the same 32 in turn, so that of two asked for far apart one fold might
# capture what another scores; and cuBLAS keeps memory for every queue it has seen.
_IDLE: defaultdict[torch.device, list[torch.cuda.Stream]] = defaultdict(list)


def settle(threads: int) -> None:
    """Make this process compute with so many threads, and repeatably."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    exact()


def exact() -> None:
    """Have GPUs compute fp32 as fp32, not as TF32: once, as what is set holds for all threads of the process."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """On a GPU, a queue of its own for what this thread computes: folds in one process do not wait for each other."""
    if device.type != "cuda":
        yield
        return
    # Neither queue waits on the host: synchronising the device would break another thread's capture.
    try:
        stream = _IDLE[device].pop()
    except IndexError:
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    common = torch.cuda.default_stream(device)
    stream.wait_stream(common)  # what is there already, such as the images, is complete
    try:
        with torch.cuda.device(device), torch.cuda.stream(stream):  # a thread begins on the first of several GPUs
            yield
    finally:
        common.wait_stream(stream)  # before it uses again what was made there, and freed
        _IDLE[device].append(stream)


@contextmanager
def in_turn(device: torch.device) -> Iterator[None]:
    """On a GPU, one thread at a time, on a queue that all share, so that it takes memory once."""
    if device.type != "cuda":
        yield
        return
    with _TURN:
        shared, here = _shared_stream(device), torch.cuda.current_stream(device)
        shared.wait_stream(here)
        with torch.cuda.stream(shared):
            yield
        here.wait_stream(shared)


@cache
def _shared_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def beside(job: Callable[[], T]) -> Future[T]:
    """Run `job` in a thread that stays for later ones, computing with as many threads as this one."""
    threads = torch.get_num_threads()

    def run() -> T:
        torch.set_num_threads(threads)  # OpenMP keeps the number thread by thread
        return job()

    return _THREADS.submit(run)


def side_by_side(jobs: Sequence[Callable[[threading.Barrier], T]]) -> list[T]:
    """Run all at once and give what they return. Each is given a barrier for all of them; where one fails nobody waits
    there any longer, and what it raised is raised once all have ended."""
    gate = threading.Barrier(len(jobs))

    def guarded(job: Callable[[threading.Barrier], T]) -> T:
        try:
            return job(gate)
        except BaseException:
            gate.abort()
            raise

    running = [beside(partial(guarded, job)) for job in jobs]
    wait(running)
    faults = [fault for each in running if (fault := each.exception())]
    for fault in sorted(faults, key=lambda fault: isinstance(fault, threading.BrokenBarrierError)):
        raise fault
    return [each.result() for each in running]


def name(device: torch.device) -> str:
    """The GPU's model, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
