"""Ends what the main thread is at, from another thread, as Ctrl-C would.

By a signal of its own: a shell's background jobs (`nohup cxrtl run … &` in a script) have SIGINT ignored.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNAL = signal.SIGUSR2  # Tune takes SIGUSR1 for itself


@contextmanager
def heeded() -> Iterator[None]:
    """While entered, by the main thread, `main_thread` raises KeyboardInterrupt there."""
    if threading.current_thread() is not threading.main_thread():  # only that one may say so
        yield
        return
    before = signal.signal(_SIGNAL, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(_SIGNAL, before)


def main_thread() -> None:
    """Raise KeyboardInterrupt there, also out of a wait; nothing happens where it does not heed it."""
    if signal.getsignal(_SIGNAL) is signal.default_int_handler:
        signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)
