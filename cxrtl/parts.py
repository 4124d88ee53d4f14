"""Files that are not whole yet: what they are called beside what they are to become, and when nobody writes them."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

HERE = hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:4]  # this machine
OLD = 24 * 3600.0  # seconds: no file takes as long to write


def part_of(path: Path) -> Path:
    """Where a file is written that is to become `path`; the name says by which process of which machine."""
    return path.with_name(f".{path.name}.{os.getpid()}-{HERE}{secrets.token_hex(2)}.part")


def drop_parts(folder: Path, *, shared: bool = False) -> None:
    """Remove what writers that were killed have left in `folder`; a part whose process lives is somebody's. `shared`:
    other machines may be writing there, too, whose processes cannot be seen from here: theirs go when they are old."""
    for part in folder.glob(".*.part"):
        writer, _, token = part.name.rsplit(".", 2)[-2].partition("-")
        dead = not Path("/proc", writer).exists() or writer == str(os.getpid())
        if shared and not token.startswith(HERE):
            with suppress(FileNotFoundError):  # somebody else who looks was quicker
                dead = time.time() - part.stat().st_mtime > OLD
        if dead:
            part.unlink(missing_ok=True)
