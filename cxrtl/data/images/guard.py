"""Decode in a process of its own: a file that crashes, stalls or fills its decoder costs that file, not the run."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict

from cxrtl.data import phantom
from cxrtl.data.images.files import decoded
from cxrtl.data.images.rules import FILES, REFUSED, Answer, Decoded, How, Unusable
from cxrtl.data.images.worker import BATCHES, Slots, batch_size

_BATCH_BYTES = 2**14  # of paths: all in flight fit into the smallest pipe, or both processes could wait for ever
_PATH_BYTES = 4096  # no system takes a longer path
_START_SECONDS = 120  # to import Pillow from a slow disk
_GRACE_SECONDS = 10  # beyond the file's time limit, which the process keeps by itself

# glibc gives what a picture took back to the system, and each next picture's pages have to be made anew, one by one: a
# fifth of the time of a 512 px PNG. As bytes: keep so much of it, and ask for less than this where there is some left
_KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**27), "MALLOC_MMAP_THRESHOLD_": str(2**25)}


class GuardError(Exception):
    """The decoding process cannot be started: no file is to blame."""


def decode(path: str, how: How) -> Decoded:
    """Decode one entry of a manifest's `path` column; raises Unusable with the reason."""
    answer = next(iter(decode_all([path], how)))
    if isinstance(answer, Unusable):
        raise answer
    return answer


def decode_all(paths: Iterable[str], how: How) -> Iterator[Answer]:
    """Decode entries of a manifest's `path` column, an answer for each, in order.

    `paths` is read some ahead of the answers, and those are decoded while the caller is busy. The process is kept for
    the next call from this process, and ends by itself when it is not used.

    Raises:
        GuardError: the decoding process cannot be started.
    """
    for ours, group in itertools.groupby(paths, _is_ours):
        if ours:
            yield from (_own(path, how) for path in group)
        else:
            with _guard(how) as guard, contextlib.closing(guard.run(group)) as answers:
                yield from answers


def _is_ours(path: str) -> bool:
    """Whether there is no file to decode."""
    too_long = len(os.fsencode(path)) >= _PATH_BYTES and not path.startswith(FILES)
    return path.startswith((phantom.SCHEME, REFUSED)) or too_long


def _own(path: str, how: How) -> Answer:
    if path.startswith(REFUSED):
        return Unusable(path.split(":", 2)[1])
    if not path.startswith(phantom.SCHEME):
        return Unusable("unreadable")
    return decoded([phantom.from_path(path, how.size)], how)


class Guard:
    """One decoding process, started when first needed and again after it ended."""

    def __init__(self, how: How) -> None:
        self.how = how
        self.owner = os.getpid()
        self.busy = False
        self._process: subprocess.Popen[bytes] | None = None
        self._slots: Slots
        self._taken = 0  # answers of this process
        self._lines: Iterator[str] = iter(())  # paths to come
        self._open: deque[str] = deque()  # those that were read and have no answer yet
        self._sent = 0  # of which the first so many are with the process

    def run(self, paths: Iterable[str]) -> Generator[Answer]:
        """An answer for each path, in order. A file under which the process dies is tried twice."""
        self.busy = True
        self._lines, self._open, self._sent = map(json.dumps, paths), deque(), 0
        flying: deque[int] = deque()  # the sizes of the batches that the process has
        deaths = ready = 0
        try:
            while True:
                while len(flying) < BATCHES and (batch := self._batch()):
                    if not self._process:
                        self._start()
                    self._write(f"[{', '.join(batch)}]")
                    flying.append(len(batch))
                for _ in range(ready):
                    deaths = 0
                    yield self._take()
                if not self._open:
                    return
                alive = self._batch_done()
                if alive:
                    ready = flying.popleft()
                    continue
                for _ in range(min(self._slots.count - self._taken, self._sent)):
                    deaths = 0
                    yield self._take()
                reason = self._bury()  # answers come in order, so the first path without one is to blame
                flying.clear()
                deaths, ready = deaths + (reason == "decoder_died"), 0
                if self._open and (reason == "timed_out" or deaths == 2):
                    self._open.popleft()
                    deaths = 0
                    yield Unusable(reason)
        finally:
            self.busy = False
            if self._sent:  # given up half-way: the answers still to come are nobody's
                self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process and self.owner == os.getpid():
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: it ends when that lets go
                process.wait(timeout=1)
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()

    def _start(self) -> None:
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(part or "." for part in sys.path)}
        variables |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        variables |= _KEPT_MEMORY
        with _nameless() as memory:
            self._slots, self._taken = Slots(memory, self.how), 0
            process = self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cxrtl.data.images.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=variables,
                pass_fds=[memory],
                start_new_session=True,  # Ctrl-C is for us
            )
            self._write(json.dumps({"how": asdict(self.how), "slots": memory}))
        assert process.stdout
        if not (self._ready(_START_SECONDS) and process.stdout.read(1)):
            self.close()
            raise GuardError("the decoding process did not start")

    def _batch(self) -> list[str]:
        """The next few lines to send."""
        batch: list[str] = []
        room, most = _BATCH_BYTES, batch_size(self.how)
        while len(batch) < most:
            if self._sent == len(self._open):
                self._open.extend(itertools.islice(self._lines, 1))
            if self._sent == len(self._open) or (batch and len(self._open[self._sent]) > room):
                break
            batch.append(self._open[self._sent])
            room -= len(batch[-1])
            self._sent += 1
        return batch

    def _write(self, text: str) -> None:
        assert self._process and self._process.stdin
        data = memoryview(text.encode() + b"\n")
        with contextlib.suppress(BrokenPipeError):  # it ended: whoever waits for the answer will see
            while data:
                data = data[self._process.stdin.write(data) :]

    def _ready(self, seconds: float) -> bool:
        """Wait for the process to say something, or to end."""
        assert self._process and self._process.stdout
        poll = select.poll()
        poll.register(self._process.stdout.fileno(), select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _batch_done(self) -> bool:
        """Wait for the end of a batch; False where the process ended, or has been at one file for too long."""
        before = -1
        while self._slots.count != before:
            before = self._slots.count
            assert self._process and self._process.stdout
            if self._ready(self.how.file_seconds + _GRACE_SECONDS):
                return bool(self._process.stdout.read(1))
        return False

    def _take(self) -> Answer:
        """The answer to the first open path."""
        answer = self._slots.take(self._taken)
        self._taken += 1
        self._sent -= 1
        self._open.popleft()
        return answer

    def _bury(self) -> str:
        """Why the process gave no answer: "" where it was idle, else a reason; it is gone afterwards, with all that it
        was sent."""
        assert self._process
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:  # stuck where no signal reaches it, such as a network drive
            code = -signal.SIGALRM
        self.close()
        self._sent = 0
        return {0: "", -signal.SIGALRM: "timed_out"}.get(code, "decoder_died")


@contextlib.contextmanager
def _nameless() -> Iterator[int]:
    """The descriptor of memory without a name, to be mapped and passed on."""
    if not hasattr(os, "memfd_create"):  # Linux has it
        with tempfile.TemporaryFile() as file:
            yield file.fileno()
        return
    descriptor = os.memfd_create("decoded")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


_kept: Guard | None = None


@contextlib.contextmanager
def _guard(how: How) -> Iterator[Guard]:
    """This process's guard, or one for this use alone while that is at work. A forked copy of another process's is left
    to that process."""
    global _kept
    if _kept and _kept.busy and _kept.owner == os.getpid():
        with contextlib.closing(Guard(how)) as guard:
            yield guard
        return
    if not _kept or _kept.how != how or _kept.owner != os.getpid():
        if _kept:
            _kept.close()
        _kept = Guard(how)
    yield _kept


@atexit.register
def close() -> None:
    """End the decoding process of this process, if there is one."""
    if _kept:
        _kept.close()
