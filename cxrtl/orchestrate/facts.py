"""What a machine says of itself: the doctor's questions, asked in the driver and, through an actor, on every node."""

from __future__ import annotations

import ipaddress
import platform
import re
import secrets
import time
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cxrtl import rundir, storage
from cxrtl.learn import precision
from cxrtl.orchestrate.checks import Facts

PACKAGES = ("cxrtl", "ray", "torch", "torchvision", "numpy", "pandas", "pyarrow", "pillow", "pydicom")
_NVIDIA = Path("/proc/driver/nvidia")
_LISTEN = "0A"  # a socket's state, as the kernel writes it


def gather(where: str, dashboard: str = "") -> Facts:
    """What this process can say of its machine; `dashboard`: its `host:port`, "" where none runs."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    listens = listening(int(dashboard.rpartition(":")[2])) if dashboard else ()
    return Facts(
        where=where,
        python=platform.python_version(),
        versions={name: _version(name) for name in PACKAGES},
        cuda=torch.version.cuda or "",
        driver=_driver(),
        gpus=_gpus(),
        features=tuple(sorted(precision.features())),
        token=is_token_auth_enabled(),
        listens=listens,
        unasked=_unasked(dashboard) if listens else None,
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # of cxrtl: a job's working directory
        return ""


def _driver() -> str:
    try:
        found = re.search(r"\b\d+\.\d+(\.\d+)?\b", (_NVIDIA / "version").read_text(encoding="utf-8"))
    except OSError:
        return ""
    return found[0] if found else ""


def _gpus() -> tuple[str, ...]:
    """The models of this machine's GPUs: a process that Ray gave none sees none through CUDA."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(_NVIDIA.glob("gpus/*/information"))]
    return tuple(match[1].strip() for text in texts if (match := re.search(r"^Model:(.*)$", text, re.MULTILINE)))


def listening(port: int, proc: Path = Path("/proc/net")) -> tuple[str, ...]:
    """The local addresses at which something listens on a TCP port; `0.0.0.0` and `::` stand for all."""
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / name).read_text(encoding="ascii").splitlines()[1:]
        except OSError:  # not Linux, or no IPv6
            continue
        for fields in map(str.split, lines):
            address, _, at = fields[1].partition(":")
            if fields[3] == _LISTEN and int(at, 16) == port:
                found.add(_address(address))
    return tuple(sorted(found))


def _address(digits: str) -> str:
    """The kernel writes words of 32 bits in the processor's order, which is taken to be little-endian."""
    raw = b"".join(bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8))
    found = ipaddress.ip_address(raw)
    mapped = getattr(found, "ipv4_mapped", None)
    return str(mapped or found)


def _unasked(dashboard: str) -> int | None:
    """The status of a request to the job server that brings no token."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{dashboard}/api/jobs/", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


class Inspector:
    """What runs on a node. Its methods answer at once, but for those that look at storage that hangs."""

    def facts(self, where: str, dashboard: str) -> Facts:
        return gather(where, dashboard)

    def now(self) -> float:
        return time.time()

    def sees(self, path: Path) -> bool:
        return path.exists()

    def mark(self, folder: Path, name: str) -> tuple[str, str, str]:
        """Read the driver's marker, write another: (what was read, what was written, what went wrong)."""
        mine = secrets.token_hex(16)
        try:
            storage.fetch(folder / "driver")
            read = (folder / "driver").read_text(encoding="ascii")
        except OSError as error:
            return "", "", f"what the driver wrote cannot be read ({error.strerror})"
        try:
            rundir.write_bytes(folder / name, mine.encode())
        except OSError as error:
            return read, "", f"it cannot be written to ({error.strerror})"
        return read, mine, ""

    def forget(self, folder: Path) -> None:
        storage.forget(folder)
