"""What a work left on the disk: what has to be the same every time, and what tells two states apart."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

VARIES = re.compile(
    rb'"(\w*seconds|tries|token|updated|process|images_per_second|disk_free|curve\.jsonl)": ("[^"]*"|[\d.e+-]+)'
)
OF_A_SESSION = ("lock", "log.jsonl", "environment.json", "plan.json", "sessions.json")
CHANCE = re.compile(rb"[0-9a-f]{8,}|\d[\d.:e+-]*")  # times, processes, tokens
BOARD = "tensorboard"


def files(home: Path) -> Iterator[tuple[str, Path]]:
    """Everything below `home`, by a name in which no process or time is left."""
    for path in sorted(home.rglob("*")):
        name = re.sub(r"\.\d+-[0-9a-f]{8}\.part$", ".part", str(path.relative_to(home)))
        yield re.sub(r"tfevents\.\d+", "tfevents", name), path


def essence(home: Path) -> dict[str, str]:
    """Every file that a study leaves and what it holds, but for times, TensorBoard's curves, a fault's traceback and
    what a session says of itself."""
    found = {}
    for name, path in files(home):
        if path.is_file() and BOARD not in path.parts and path.name not in OF_A_SESSION:
            if name.startswith("features/") and name.endswith(".part"):
                continue  # several runs may compute the same features at once: a part may be another's, and is left
            content = b"" if path.name == "error.txt" else VARIES.sub(b"", path.read_bytes())
            found[name] = hashlib.sha256(content).hexdigest()
    return found


def state(home: Path) -> str:
    """A hash of all that may decide what the next work does: every folder and file, and what a file holds, but for what
    is different every time."""
    found = hashlib.sha256()
    for name, path in files(home):
        found.update(f"{name}\0".encode())
        if path.is_file():
            found.update(hashlib.sha256(_decisive(name, path)).digest())
    return found.hexdigest()


def _decisive(name: str, path: Path) -> bytes:
    if path.name == "error.txt" or BOARD in path.parts:
        return b"some" if path.stat().st_size else b""
    content = path.read_bytes()
    of_a_session = Path(name.removesuffix(".part")).name in OF_A_SESSION
    return CHANCE.sub(b"#", content) if of_a_session else VARIES.sub(b"", content)
