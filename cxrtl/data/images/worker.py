"""What runs in the decoding process: paths come in on stdin, pictures or reasons go out on stdout, in order.

`python -m cxrtl.data.images.worker`. In: a JSON line with `How`'s fields, then one with a path each. Out, once it is
ready and then for each path: 4 bytes, the length of a JSON text; that text; and, where the text has a content hash,
`size`² bytes for each channel and then for the mask, if there are structures. Paths and pixels pass through these two
pipes alone: the process list, logs and the console never see them.

The kernel ends the process where a file takes too long (SIGALRM) or its decoder crashes. It ends itself when stdin
closes or nothing comes for a while, so it outlives its owner by one file at most.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from io import FileIO

from cxrtl.data.images.files import decode_file
from cxrtl.data.images.rules import How, Unusable

IDLE_SECONDS = 60


def main() -> None:
    """Serve until stdin closes or nothing comes for `IDLE_SECONDS`."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    silence = os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 1)  # libraries in C print what they think of a file
    os.dup2(silence, 2)
    how = How(**json.loads(sys.stdin.buffer.readline()))
    _limit(how)
    _send(out, {"ready": True})
    while line := _next_line():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(how.file_seconds)
        answer, pixels = _decode(json.loads(line), how)
        signal.alarm(0)
        _send(out, answer, pixels)


def _next_line() -> bytes:
    """One path as it came, b"" at the end of stdin. No path for long: a quiet end, which blames no file."""
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


def _decode(path: str, how: How) -> tuple[dict[str, object], bytes]:
    try:
        found = decode_file(path, how)
    except Unusable as unusable:
        return {"reason": unusable.reason}, b""
    except MemoryError:
        return {"reason": "out_of_memory"}, b""
    mask = b"" if found.mask is None else found.mask.tobytes()
    told = ("content_hash", "width", "height", "mask_hash", "attributes")
    answer = {name: getattr(found, name) for name in told}
    return answer, found.pixels.tobytes() + mask


def _send(out: FileIO, answer: dict[str, object], pixels: bytes = b"") -> None:
    text = json.dumps(answer).encode()
    data = memoryview(len(text).to_bytes(4, "big") + text + pixels)
    while data:
        data = data[out.write(data) :]


if __name__ == "__main__":
    main()
