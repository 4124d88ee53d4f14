"""Saving beside training: files are written in order, in a thread of their own, while the next steps run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self


class Writer:
    """Runs one job at a time, each after the one before has ended well. Leave it through `with`: that waits.

    A job's fault is raised by the next call, or on leaving, and nothing after it is run.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cxrtl-writer")
        self._last: Future[None] | None = None

    def __call__(self, job: Callable[[], None]) -> None:
        self.wait()
        self._last = self._thread.submit(job)

    def idle(self) -> bool:
        """Whether a job given now would begin at once."""
        return self._last is None or self._last.done()

    def wait(self) -> None:
        """Until everything given so far is written."""
        last, self._last = self._last, None
        if last:
            last.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._thread.shutdown(wait=True)
