"""The main thread is interrupted where SIGINT is ignored, too."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cxrtl import interrupt

WAITS = """
import threading
from cxrtl import interrupt
with interrupt.heeded():
    threading.Timer(0.1, interrupt.main_thread).start()
    try:
        threading.Event().wait(60)
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_a_shells_background_job_is_interrupted() -> None:
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", WAITS]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "interrupted\n"


def test_nothing_happens_where_it_is_not_heeded() -> None:
    before = signal.getsignal(interrupt._SIGNAL)
    interrupt.main_thread()
    with pytest.raises(KeyboardInterrupt), interrupt.heeded(), interrupt.heeded():
        interrupt.main_thread()
        threading.Event().wait(60)
    assert signal.getsignal(interrupt._SIGNAL) is before
    interrupt.main_thread()


def test_other_threads_cannot_say_that_it_is_heeded() -> None:
    def enter() -> object:
        with interrupt.heeded():
            return signal.getsignal(interrupt._SIGNAL)

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(enter).result() is signal.getsignal(interrupt._SIGNAL)
