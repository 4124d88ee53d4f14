"""Files are written in order, beside training, and a fault is not lost."""

from __future__ import annotations

import threading
import time

import pytest

from cxrtl.orchestrate.writer import Writer


def test_jobs_run_in_order_in_another_thread_and_are_waited_for() -> None:
    done: list[int] = []
    threads = set()

    def job(number: int) -> None:
        time.sleep(0.01 * (3 - number))
        threads.add(threading.current_thread())
        done.append(number)

    with Writer() as writer:
        for number in range(3):
            writer(lambda number=number: job(number))  # type: ignore[misc]
    assert done == [0, 1, 2] and threading.current_thread() not in threads


def test_idle_means_that_a_job_would_begin_at_once() -> None:
    go = threading.Event()
    with Writer() as writer:
        assert writer.idle()
        writer(lambda: go.wait(10) and None)
        assert not writer.idle()
        go.set()
        writer.wait()
        assert writer.idle()


def test_a_fault_is_raised_by_the_next_call_and_nothing_follows_it() -> None:
    done: list[int] = []

    def full() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), Writer() as writer:
        writer(full)
        writer(lambda: done.append(1))
    assert not done


def test_a_fault_of_the_last_job_is_raised_on_leaving() -> None:
    with pytest.raises(ZeroDivisionError), Writer() as writer:
        writer(lambda: [1 / 0][0] and None)


def test_a_fault_of_the_training_is_the_one_raised() -> None:
    with pytest.raises(KeyError), Writer() as writer:
        writer(lambda: [1 / 0][0] and None)
        raise KeyError("training")
