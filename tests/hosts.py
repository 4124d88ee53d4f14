"""Hosts on one machine: Linux namespaces joined by a switch. Needs root, and `unshare`, `nsenter` and `ip`.

A host has a network of its own (`address`), its own process numbers, name, `/tmp` and `/dev/shm`; it sees this
machine's other files, and the folder `shared` under the same path as outside. The switch is a namespace as well: no
interface, mount or process of the machine itself is touched. A host lives as long as its first process, a `cat` that
reads from us: however we end, it ends, the kernel kills what runs there, and with the last process interfaces and
mounts are gone. Nothing is left to clean up, not even after a crash.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

NETWORK = "10.77.0"
OWN_FILES = """
exec 9<"$1"
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mkdir -p "$1" /tmp/home
mount --no-canonicalize --bind /proc/self/fd/9 "$1"
hostname "$2"
"""


def allowed() -> bool:
    """Whether namespaces and their interfaces can be made here."""
    test = ["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "--mount-proc"]
    make = "ip link add port1 type veth peer name eth0 && ip link add bridge type bridge && mount -t tmpfs tmpfs /tmp"
    try:
        return subprocess.run([*test, "nsenter", "sh", "-c", make], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


FILES = {"net": "net", "mount": "mnt", "uts": "uts", "pid": "pid_for_children"}  # under /proc/<process>/ns


class Namespace:
    """Namespaces of the given kinds, held open by a process that ends when ours does."""

    kinds: tuple[str, ...] = ("net",)

    def __init__(self) -> None:
        own = [f"--{kind}" for kind in self.kinds] + (["--fork", "--mount-proc"] if "pid" in self.kinds else [])
        hold = ["unshare", *own, "sh", "-c", "echo; exec cat"]
        self.first = subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.first.stdout and self.first.stdout.readline(), "the namespaces could not be made"

    def inside(self, *words: str | Path) -> list[str]:
        """The command that runs `words` in here."""
        where = [f"--{kind}=/proc/{self.first.pid}/ns/{FILES[kind]}" for kind in self.kinds]
        return ["nsenter", *where, *map(str, words)]

    def run(self, *words: str | Path, **more: Any) -> str:
        """Its output; raises CalledProcessError where it fails."""
        done = subprocess.run(self.inside(*words), stdout=subprocess.PIPE, text=True, check=True, **more)
        return str(done.stdout)

    def end(self) -> None:
        assert self.first.stdin and self.first.stdout
        self.first.stdin.close()
        self.first.wait()  # with process numbers of its own: until every process in here has ended
        self.first.stdout.close()


class Host(Namespace):
    """Number `n` on the switch."""

    kinds = ("net", "mount", "uts", "pid")

    def __init__(self, number: int, switch: Namespace, shared: Path) -> None:
        super().__init__()
        self.address, self.name = f"{NETWORK}.{number}", f"node{number}"
        self.switch, self.port = switch, f"port{number}"
        self.run("sh", "-ec", OWN_FILES, "sh", shared, self.name)
        pair = ["type", "veth", "peer", "name", "eth0", "netns", str(self.first.pid)]
        switch.run("ip", "link", "add", self.port, *pair)
        switch.run("ip", "link", "set", self.port, "master", "bridge", "up")
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        for interface in ("lo", "eth0"):
            self.run("ip", "link", "set", interface, "up")

    def start(self, *words: str | Path, log: Path, env: dict[str, str]) -> subprocess.Popen[str]:
        with log.open("a") as file:
            return subprocess.Popen(self.inside(*words), stdout=file, stderr=file, text=True, env=env)

    def processes(self) -> dict[int, int]:
        """The living processes in here: each one's number here, and its number outside."""
        own, found = Path(f"/proc/{self.first.pid}/ns/pid_for_children"), {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "ns/pid").readlink() == own.readlink():
                    lines = (entry / "status").read_text().splitlines()
                    said = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
                    if said["State"][0] not in "ZX":
                        found[int(said["NSpid"].split()[-1])] = int(entry.name)
            except OSError:
                continue  # it has ended meanwhile
        return found

    def names(self) -> list[str]:
        """What the living processes in here call themselves."""
        found = []
        for number in self.processes().values():
            try:
                found.append(Path(f"/proc/{number}/cmdline").read_text().replace("\0", " ").strip())
            except OSError:
                continue
        return found

    def kill(self) -> None:
        """SIGKILL to every process at once, as when the power goes."""
        os.kill(self.processes()[1], signal.SIGKILL)
        self.end()

    def cut(self) -> None:
        """Pull the cable: nothing arrives any more, and nobody is told."""
        self.switch.run("ip", "link", "set", self.port, "down")

    def mend(self) -> None:
        self.switch.run("ip", "link", "set", self.port, "up")


@contextmanager
def hosts(count: int, shared: Path) -> Iterator[Sequence[Host]]:
    """Hosts 1 to `count`, each of which reaches the others."""
    with ExitStack() as stack:
        switch = Namespace()
        stack.callback(switch.end)
        switch.run("ip", "link", "add", "bridge", "type", "bridge")
        switch.run("ip", "link", "set", "bridge", "up")
        made = []
        for number in range(1, count + 1):
            made.append(Host(number, switch, shared))
            stack.callback(made[-1].end)
        yield made


def until(condition: Any, seconds: float, every: float = 0.1) -> Any:
    """What `condition` gives once it gives something; fails when time runs out."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(every)
    raise AssertionError(f"waited {seconds} s in vain for {condition}")
