"""Decode in a process of its own: a file that crashes, stalls or fills its decoder costs that file, not the run."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cxrtl.data import phantom
from cxrtl.data.images.files import decoded
from cxrtl.data.images.rules import FILES, REFUSED, Decoded, How, Unusable

_AHEAD = 24  # paths in flight, so that neither process waits for the other after each file
_AHEAD_BYTES = 2**15  # of them: less than the smallest pipe holds, or both processes could wait for ever
_PATH_BYTES = 4096  # no system takes a longer path
_START_SECONDS = 120  # to import Pillow from a slow disk
_GRACE_SECONDS = 10  # beyond the file's time limit, which the process keeps by itself
_PIPE_BYTES = 2**20

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
        self._buffer, self._from, self._to = bytearray(_PIPE_BYTES), 0, 0  # what has come and is not taken yet

    def run(self, paths: Sequence[str]) -> Generator[Answer]:
        """An answer for each path, in order. A file under which the process dies is tried twice."""
        lines = [json.dumps(path).encode() + b"\n" for path in paths]
        done = sent = deaths = 0
        try:
            while done < len(lines):
                sent = self._send(lines, done, sent)
                answer = self._receive()
                if answer is None:
                    sent = done  # answers come in order, so the first path without one is to blame
                    reason = self._bury()
                    deaths += reason == "decoder_died"
                    if not reason or (reason == "decoder_died" and deaths < 2):
                        continue
                    answer = Unusable(reason)
                done, sent, deaths = done + 1, max(sent, done + 1), 0
                yield answer
        finally:
            if sent > done:  # given up half-way: the answers still to come are nobody's
                self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        self._from = self._to = 0
        if process and self.owner == os.getpid():
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()

    def _send(self, lines: Sequence[bytes], done: int, sent: int) -> int:
        """Send what may be in flight beyond `lines[done]`, in one go; returns how many lines are sent by now."""
        process = self._process or self._start()
        assert process.stdin
        batch: list[bytes] = []
        if sent - done <= _AHEAD // 2:
            room = _AHEAD_BYTES - sum(map(len, lines[done:sent]))
            for line in lines[sent : done + _AHEAD]:
                room -= len(line)
                if room < 0 and (batch or sent > done):
                    break
                batch.append(line)
        if batch:
            with contextlib.suppress(BrokenPipeError):  # it ended: `_receive` will see
                process.stdin.write(b"".join(batch))
        return sent + len(batch)

    def _start(self) -> subprocess.Popen[bytes]:
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(part or "." for part in sys.path)}
        variables |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cxrtl.data.images.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=variables,
            start_new_session=True,  # Ctrl-C is for us
        )
        self._process = process
        assert process.stdin and process.stdout
        with contextlib.suppress(OSError, AttributeError):  # not everywhere, and not needed
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asdict(self.how)).encode() + b"\n")
        if self._message(time.monotonic() + _START_SECONDS) is None:
            self.close()
            raise GuardError("the decoding process did not start")
        return process

    def _receive(self) -> Answer | None:
        """The next answer; None where the process ended or is stuck."""
        deadline = time.monotonic() + self.how.file_seconds + _GRACE_SECONDS
        answer = self._message(deadline)
        if answer is None:
            return None
        if "reason" in answer:
            return Unusable(answer["reason"])
        how = self.how
        data = self._take(how.pixel_bytes + how.mask_bytes, deadline)
        if data is None:
            return None
        both = np.frombuffer(data, np.uint8)
        shape = (how.size, how.size) if how.channels == 1 else (how.channels, how.size, how.size)
        mask = both[how.pixel_bytes :].reshape(how.size, how.size) if how.structures else None
        return Decoded(both[: how.pixel_bytes].reshape(shape), **answer, mask=mask)

    def _message(self, deadline: float) -> dict[str, Any] | None:
        length = self._take(4, deadline)
        text = length and self._take(int.from_bytes(length, "big"), deadline)
        return json.loads(text) if text else None

    def _take(self, count: int, deadline: float) -> bytes | None:
        """The next `count` bytes; None at the end of the pipe or past the deadline (`time.monotonic`)."""
        assert self._process and self._process.stdout
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while self._to - self._from < count:
            self._make_room(count)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            came = os.readv(descriptor, [memoryview(self._buffer)[self._to :]])
            if not came:
                return None
            self._to += came
        self._from += count
        return bytes(memoryview(self._buffer)[self._from - count : self._from])

    def _make_room(self, count: int) -> None:
        """Let `count` bytes fit behind `_from`."""
        if self._from == self._to:
            self._from = self._to = 0
        if self._from + count > len(self._buffer):
            kept = self._buffer[self._from : self._to]
            self._buffer = kept + bytearray(max(_PIPE_BYTES, 2 * count) - len(kept))
            self._from, self._to = 0, len(kept)

    def _bury(self) -> str:
        """Why the process gave no answer: "" where it was idle, else a reason; it is gone afterwards."""
        assert self._process
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:  # stuck where no signal reaches it, such as a network drive
            code = -signal.SIGALRM
        self.close()
        return {0: "", -signal.SIGALRM: "timed_out"}.get(code, "decoder_died")


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
