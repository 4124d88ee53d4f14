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
import struct
import sys
from typing import Any

import numpy as np

from cxrtl.data.images.files import decode_file
from cxrtl.data.images.rules import Answer, Decoded, How, Unusable

IDLE_SECONDS = 60
BATCHES = 2  # batches in flight: neither process waits after each
_BATCH = (12, 64)  # files a batch: at least, and at most; with more, the two processes take turns on a core less often
_ROOM_BYTES = 2**24  # for the pictures of all, unless the least batches take more
_HEAD = struct.Struct("=qq64s64sI")  # width, height, hashes of the picture and the mask, and how long the text is
_HEAD_BYTES = 4096


def batch_size(how: How) -> int:
    """Files a batch, at most."""
    least, most = _BATCH
    return max(least, min(most, _ROOM_BYTES // (BATCHES + 1) // (how.pixel_bytes + how.mask_bytes)))


class Slots:
    """Answers in memory that both processes see, in places taken in turn: as many as may be in flight, and one batch
    more, whose answers are still being taken.

    Eight bytes, how many answers there have been, and then the places: `_HEAD`, a JSON text of what few answers have,
    and from `_HEAD_BYTES` on the pixels and the mask.
    """

    def __init__(self, descriptor: int, how: How) -> None:
        self._places = batch_size(how) * (BATCHES + 1)
        room = _HEAD_BYTES + how.pixel_bytes + how.mask_bytes
        size = 8 + self._places * room
        if os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)
        self._bytes = mmap.mmap(descriptor, size)
        self._count = np.frombuffer(self._bytes, np.int64, 1)
        self._heads = range(8, size, room)
        pixels = [head + _HEAD_BYTES for head in self._heads]
        masks = [at + how.pixel_bytes for at in pixels] if how.structures else []
        self._pixels = [np.ndarray(how.shape, np.uint8, self._bytes, at) for at in pixels]
        self._masks = [np.ndarray(how.shape[-2:], np.uint8, self._bytes, at) for at in masks]

    @property
    def count(self) -> int:
        return int(self._count[0])

    def put(self, answer: Answer) -> None:
        """The next answer; it counts once it is whole."""
        place = self.count % self._places
        numbers: tuple[int, int, bytes, bytes] = (0, 0, b"", b"")
        rest: dict[str, Any] = {}
        if isinstance(answer, Unusable):
            rest["reason"] = answer.reason
        else:
            numbers = (answer.width, answer.height, answer.content_hash.encode(), answer.mask_hash.encode())
            if answer.attributes:
                rest["attributes"] = dict(answer.attributes)
            self._pixels[place][...] = answer.pixels
            if answer.mask is not None:
                self._masks[place][...] = answer.mask
        text = json.dumps(rest).encode() if rest else b""
        if len(text) > _HEAD_BYTES - _HEAD.size:
            raise ValueError("an answer longer than any")
        head = self._heads[place]
        _HEAD.pack_into(self._bytes, head, *numbers, len(text))
        self._bytes[head + _HEAD.size : head + _HEAD.size + len(text)] = text
        self._count[0] += 1

    def take(self, number: int) -> Answer:
        """Answer `number`, from 0, with copies of its pictures."""
        place = number % self._places
        head = self._heads[place]
        width, height, content_hash, mask_hash, length = _HEAD.unpack_from(self._bytes, head)
        rest = json.loads(self._bytes[head + _HEAD.size : head + _HEAD.size + length]) if length else {}
        if "reason" in rest:
            return Unusable(rest["reason"])
        return Decoded(
            pixels=self._pixels[place].copy(),
            content_hash=content_hash.decode(),
            width=width,
            height=height,
            mask=self._masks[place].copy() if self._masks else None,
            mask_hash=mask_hash.rstrip(b"\0").decode(),
            attributes=rest.get("attributes", {}),
        )


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
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        for path in json.loads(line):
            signal.alarm(how.file_seconds)
            slots.put(_decode(path, how))
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


def _decode(path: str, how: How) -> Answer:
    try:
        return decode_file(path, how)
    except Unusable as unusable:
        return unusable
    except MemoryError:
        return Unusable("out_of_memory")


if __name__ == "__main__":
    main()
