"""What runs in the decoding process: paths come in on stdin, pictures or reasons go out in shared memory, in order.

`python -m cxrtl.data.images.worker`. In: a JSON line with `How`'s fields and the shared memory's descriptor, then one
for each batch, a list of paths. Out: a byte once it is ready, and one for each batch when all its answers are in
`Slots`. Paths pass through the pipe alone, pixels through memory without a name: the process list, logs and the
console never see them.

The kernel ends the process where a file takes too long (SIGALRM) or its decoder crashes. It ends itself when stdin
closes or nothing comes for a while, so it outlives its owner by one file at most.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import sys
from typing import Any

import numpy as np

from cxrtl.data.images.files import decode_file
from cxrtl.data.images.rules import Grey, How, Unusable

IDLE_SECONDS = 60
BATCH, BATCHES = 12, 2  # files a batch, at most, and batches in flight: neither process waits after each file
_PLACES = BATCH * (BATCHES + 1)
_TEXT_BYTES = 4096


class Slots:
    """Answers in memory that both processes see, in places taken in turn: as many as may be in flight, and one batch
    more, whose answers are still being taken.

    Eight bytes, how many answers there have been, and then the places: a JSON text behind its length in four bytes,
    from `_TEXT_BYTES` on the pixels and the mask.
    """

    def __init__(self, descriptor: int, how: How) -> None:
        self.picture_bytes = how.pixel_bytes + how.mask_bytes
        self._room = _TEXT_BYTES + self.picture_bytes
        size = 8 + _PLACES * self._room
        if os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)
        self._bytes = np.frombuffer(mmap.mmap(descriptor, size), np.uint8)
        self._count = self._bytes[:8].view(np.int64)

    @property
    def count(self) -> int:
        return int(self._count[0])

    def put(self, answer: dict[str, Any], pictures: list[Grey]) -> None:
        """The next answer; it counts once it is whole."""
        place, text = self._place(self.count), json.dumps(answer).encode()
        if len(text) > _TEXT_BYTES - 4:
            raise ValueError("an answer longer than any")
        place[: 4 + len(text)] = np.frombuffer(len(text).to_bytes(4, "big") + text, np.uint8)
        at = _TEXT_BYTES
        for picture in pictures:
            place[at : at + picture.size] = picture.reshape(-1)
            at += picture.size
        self._count[0] += 1

    def take(self, number: int) -> tuple[dict[str, Any], Grey]:
        """Answer `number`, from 0, and a copy of what is in its place for pictures."""
        place = self._place(number)
        length = int.from_bytes(place[:4].tobytes(), "big")
        return json.loads(place[4 : 4 + length].tobytes()), place[_TEXT_BYTES:].copy()

    def _place(self, number: int) -> Grey:
        first = 8 + number % _PLACES * self._room
        return self._bytes[first : first + self._room]


def main() -> None:
    """Serve until stdin closes or nothing comes for `IDLE_SECONDS`."""
    out = os.dup(1)
    silence = os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 1)  # libraries in C print what they think of a file
    os.dup2(silence, 2)
    asked = json.loads(sys.stdin.buffer.readline())
    how = How(**asked["how"])
    slots = Slots(asked["slots"], how)
    _limit(how)
    os.write(out, b".")
    while line := _next_line():
        for path in json.loads(line):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(how.file_seconds)
            slots.put(*_decode(path, how))
            signal.alarm(0)
        os.write(out, b".")


def _next_line() -> bytes:
    """One batch as it came, b"" at the end of stdin. None for long: a quiet end, which blames no file."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.alarm(IDLE_SECONDS)
    line = sys.stdin.buffer.readline()
    signal.alarm(0)
    return line if line.endswith(b"\n") else b""


def _limit(how: How) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner
    memory = how.memory_mib * 2**20
    for what, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        resource.setrlimit(what, (most, most))


def _decode(path: str, how: How) -> tuple[dict[str, Any], list[Grey]]:
    try:
        found = decode_file(path, how)
    except Unusable as unusable:
        return {"reason": unusable.reason}, []
    except MemoryError:
        return {"reason": "out_of_memory"}, []
    told = ("content_hash", "width", "height", "mask_hash", "attributes")
    answer = {name: getattr(found, name) for name in told}
    return answer, [found.pixels] if found.mask is None else [found.pixels, found.mask]


if __name__ == "__main__":
    main()
