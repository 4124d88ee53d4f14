"""Decode in a process of its own: a file that crashes, stalls or fills its decoder costs that file, not the run."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict

from cxrtl.data import phantom
from cxrtl.data.images.files import decoded
from cxrtl.data.images.rules import FILES, REFUSED, Decoded, How, Unusable
from cxrtl.data.images.worker import BATCH, BATCHES, Slots

_BATCH_BYTES = 2**14  # of paths: all in flight fit into the smallest pipe, or both processes could wait for ever
_PATH_BYTES = 4096  # no system takes a longer path
_START_SECONDS = 120  # to import Pillow from a slow disk
_GRACE_SECONDS = 10  # beyond the file's time limit, which the process keeps by itself

Answer = Decoded | Unusable


class GuardError(Exception):
    """The decoding process cannot be started: no file is to blame."""


def decode(path: str, how: How) -> Decoded:
    """Decode one entry of a manifest's `path` column; raises Unusable with the reason."""
    answer = next(iter(decode_all([path], how)))
    if isinstance(answer, Unusable):
        raise answer
    return answer


def decode_all(paths: Sequence[str], how: How) -> Iterator[Answer]:
    """Decode entries of a manifest's `path` column, an answer for each, in order.

    The process is kept for the next call from this process, and ends by itself when it is not used.

    Raises:
        GuardError: the decoding process cannot be started.
    """
    answers = _guard(how).run([path for path in paths if not _is_ours(path)])
    with contextlib.closing(answers):
        for path in paths:
            yield _own(path, how) if _is_ours(path) else next(answers)


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
        self._process: subprocess.Popen[bytes] | None = None
        self._slots: Slots
        self._taken = 0  # answers of this process

    def run(self, paths: Sequence[str]) -> Generator[Answer]:
        """An answer for each path, in order. A file under which the process dies is tried twice."""
        lines = [json.dumps(path) for path in paths]
        done = sent = deaths = 0
        flying: list[int] = []  # the sizes of the batches that are sent
        try:
            while done < len(lines):
                if not self._process:
                    self._start()
                    sent, flying = done, []
                while len(flying) < BATCHES and sent < len(lines):
                    flying.append(self._send(lines[sent:]))
                    sent += flying[-1]
                alive = self._batch_done()
                ready = flying.pop(0) if alive else min(max(0, self._slots.count - self._taken), sent - done)
                for _ in range(ready):
                    done, deaths = done + 1, 0
                    yield self._take()
                if alive:
                    continue
                reason = self._bury()  # answers come in order, so the first path without one is to blame
                deaths += reason == "decoder_died"
                if done < len(lines) and (reason == "timed_out" or deaths == 2):
                    done, deaths = done + 1, 0
                    yield Unusable(reason)
        finally:
            if sent > done:  # given up half-way: the answers still to come are nobody's
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

    def _send(self, lines: Sequence[str]) -> int:
        """Send a batch of the first of `lines`; returns how many."""
        count, room = 1, _BATCH_BYTES - len(lines[0])
        while count < min(BATCH, len(lines)) and len(lines[count]) <= room:
            room -= len(lines[count])
            count += 1
        self._write(f"[{', '.join(lines[:count])}]")
        return count

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
        answer, pictures = self._slots.take(self._taken)
        self._taken += 1
        if "reason" in answer:
            return Unusable(answer["reason"])
        how = self.how
        shape = (how.size, how.size) if how.channels == 1 else (how.channels, how.size, how.size)
        mask = pictures[how.pixel_bytes :].reshape(how.size, how.size) if how.structures else None
        return Decoded(pictures[: how.pixel_bytes].reshape(shape), **answer, mask=mask)

    def _bury(self) -> str:
        """Why the process gave no answer: "" where it was idle, else a reason; it is gone afterwards."""
        assert self._process
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:  # stuck where no signal reaches it, such as a network drive
            code = -signal.SIGALRM
        self.close()
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


def _guard(how: How) -> Guard:
    """This process's guard. A forked copy of another process's is left to that process."""
    global _kept
    if not _kept or _kept.how != how or _kept.owner != os.getpid():
        if _kept:
            _kept.close()
        _kept = Guard(how)
    return _kept


@atexit.register
def close() -> None:
    """End the decoding process of this process, if there is one."""
    if _kept:
        _kept.close()
