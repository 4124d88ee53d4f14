"""What the doctor makes of what it was told: findings from facts alone, without Ray or torch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.specifiers import SpecifierSet

from cxrtl.orchestrate.upload import LIMIT

ADVISORIES = Path(__file__).with_name("advisories.toml")
ALIKE = ("ray", "torch", "torchvision", "cxrtl")  # results, or Ray itself, depend on these being the same everywhere
SKEW = 1.0  # seconds that clocks may differ
_INSTALL = "install the versions of constraints.txt on every node"


@dataclass(frozen=True)
class Check:
    """One of the doctor's findings: `found`, and what to `do` about it where it is not ok."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    do: str = ""


@dataclass(frozen=True)
class Facts:
    """What a process says of the machine it is on. `where` is the node's address, or "driver".

    `versions` of packages, "" where one is missing; `cuda` that torch was built for, "" for none; `driver` NVIDIA's;
    `gpus` as the kernel names them, `gpus_offered` as Ray does; `features`: see `learn.precision.features`; `listens`:
    addresses at which the dashboard's port is open here; `unasked`: the status that its job server answers here to a
    request without a token, None where none answers.
    """

    where: str
    python: str
    versions: Mapping[str, str]
    cuda: str = ""
    driver: str = ""
    gpus: tuple[str, ...] = ()
    gpus_offered: float = 0.0
    features: tuple[str, ...] = ()
    token: bool = False
    listens: tuple[str, ...] = ()
    unasked: int | None = None


def _some(items: Sequence[str], separator: str = ", ") -> str:
    """The first three, and how many there are besides."""
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return separator.join(items[:3]) + more


def _by_value(facts: Sequence[Facts], values: Sequence[str]) -> str:
    """`2.60.0`, or `2.60.0 (driver, 10.0.0.1); 2.52.0 (10.0.0.2)` where they differ."""
    places: dict[str, list[str]] = {}
    for each, value in zip(facts, values, strict=True):
        places.setdefault(value or "none", []).append(each.where)
    if len(places) == 1:
        return next(iter(places))
    return "; ".join(f"{value} ({_some(where)})" for value, where in places.items())


def versions(facts: Sequence[Facts]) -> list[Check]:
    """Python and packages, on the driver and on every node."""
    out = []
    values = {"python": [each.python for each in facts]}
    values |= {name: [each.versions.get(name, "") for each in facts] for name in ALIKE}
    for name, found in values.items():
        same = len(set(found)) == 1 and (bool(found[0]) or name == "cxrtl")  # from a folder, cxrtl has no version
        out.append(Check(name, "ok" if same else "fail", _by_value(facts, found), "" if same else _INSTALL))
    others = sorted({name for each in facts for name in each.versions} - set(ALIKE))
    differ = [name for name in others if len({each.versions.get(name, "") for each in facts}) > 1]
    texts = [f"{name} {_by_value(facts, [each.versions.get(name, '') for each in facts])}" for name in differ]
    found_ = ", ".join(texts) or f"{len(others)} alike: {', '.join(others)}"
    out.append(Check("other packages", "warn" if differ else "ok", found_, _INSTALL if differ else ""))
    return out


def cuda(facts: Sequence[Facts]) -> Check:
    """torch's CUDA, NVIDIA's driver and the GPUs."""
    texts = [
        f"CUDA {each.cuda or 'none'}, driver {each.driver or 'none'}, {', '.join(sorted(set(each.gpus))) or 'no GPU'}"
        for each in facts
    ]
    found = _by_value(facts, texts)
    if without := [each.where for each in facts if each.gpus_offered and not each.cuda]:
        return Check("CUDA", "fail", f"{found}. torch has no CUDA on {_some(without)}, where Ray offers GPUs", _INSTALL)
    if idle := [each.where for each in facts if each.gpus and each.where != "driver" and not each.gpus_offered]:
        advice = "start Ray there with --num-gpus, and with the driver installed"
        return Check("CUDA", "warn", f"{found}. Ray does not offer the GPUs of {_some(idle)}", advice)
    nodes = [each for each in facts if each.where != "driver"]
    kinds = {(each.cuda, each.gpus[:1]) for each in nodes if each.gpus_offered}
    if len(kinds) > 1:
        return Check("CUDA", "warn", found, "folds on other GPUs or CUDA differ in their last bits: take one kind")
    return Check("CUDA", "ok", found)


def processor(facts: Sequence[Facts]) -> Check:
    nodes = [each for each in facts if each.where != "driver"]
    texts = [", ".join(each.features) or "no bf16 units" for each in nodes]
    same = len(set(texts)) <= 1
    advice = "" if same else "set train.precision, and expect other last bits from other processors"
    return Check("processor", "ok" if same else "warn", _by_value(nodes, texts), advice)


def storage(home: Path, faults: Mapping[str, str]) -> Check:
    """`faults`: by node what went wrong with the marker files' way there and back, "" where nothing did."""
    if bad := [f"{where}: {fault}" for where, fault in faults.items() if fault]:
        advice = f"mount one storage at {home} everywhere, writable, or name another --home"
        return Check("storage", "fail", f"{home}: {_some(bad, '; ')}", advice)
    return Check("storage", "ok", f"{home}: read and written by driver and {len(faults)} node(s)")


def images(path: Path, faults: Mapping[str, str]) -> Check:
    """`faults`: by node why `path` is not seen from there, "" where it is."""
    if blind := [f"{where}: {fault}" for where, fault in faults.items() if fault]:
        return Check("images", "fail", f"{path}: {_some(blind, '; ')}", "mount them there on every node")
    return Check("images", "ok", f"{path} is seen from {len(faults)} node(s)")


def clock(offsets: Mapping[str, tuple[float, float]], silent: Mapping[str, str]) -> Check:
    """`offsets`: by node its clock minus the driver's and the uncertainty of that, seconds; `silent`: by node why it
    told none."""
    if silent:
        faults = _some([f"{where}: {fault}" for where, fault in silent.items()], "; ")
        return Check("clocks", "warn", f"not told by {faults}", "look at the node's own Ray logs")
    worst = sorted(offsets.items(), key=lambda item: -abs(item[1][0]))
    text = _some([f"{where} {found * 1e3:+.1f} ms ± {about * 1e3:.1f} ms" for where, (found, about) in worst], "; ")
    far = any(abs(found) - about > SKEW for found, about in offsets.values())
    return Check("clocks", "warn" if far else "ok", text, "run NTP or chrony on every node" if far else "")


def offset(samples: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Another clock minus ours, and the uncertainty of that, from (sent, the other's time, received): by the quickest
    round trip, whose middle is when the other looked, give or take half of it."""
    sent, theirs, received = min(samples, key=lambda sample: sample[2] - sample[0])
    return theirs - (sent + received) / 2, (received - sent) / 2


def dashboard(facts: Sequence[Facts]) -> Check:
    """Whether others than this machine's processes can reach the dashboard, and with it the job server."""
    listens = {address for each in facts for address in each.listens}
    if not listens:
        return Check("dashboard", "ok", "none is running")
    beyond = sorted(address for address in listens if not address.startswith("127.") and address != "::1")
    if not beyond:
        return Check("dashboard", "ok", f"listens on {', '.join(sorted(listens))} alone")
    closed = all(each.unasked in (401, 403) for each in facts if each.listens)
    advice = "start the head with --dashboard-host=127.0.0.1 and reach it through an SSH tunnel"
    if closed:
        return Check("dashboard", "warn", f"listens on {', '.join(beyond)}; it asks for a token", advice)
    found = f"whoever reaches {', '.join(beyond)} can run code on the cluster: no token is asked for"
    return Check("dashboard", "fail", found, advice)


def token(facts: Sequence[Facts], addresses: Sequence[str]) -> Check:
    """`addresses`: those of the nodes, on which Ray's services listen."""
    off = [each.where for each in facts if not each.token]
    answers = {each.unasked for each in facts if each.unasked is not None}
    text = f"on; the job server answers {', '.join(map(str, sorted(answers)))} without one" if answers else "on"
    if not off and not answers - {401, 403}:
        return Check("token authentication", "ok", text)
    advice = "ray get-auth-token --generate; ~/.ray/auth_token on every node; RAY_AUTH_MODE=token before `ray start`"
    found = f"off on {_some(off)}" if off else f"on, but the job server answers {answers} without one"
    if open_ := [each for each in addresses if not each.startswith("127.")]:
        return Check("token authentication", "fail", f"{found}; Ray listens on {_some(open_)}", advice)
    return Check("token authentication", "ok", f"{found}; Ray listens on loopback alone")


@dataclass(frozen=True)
class Advisory:
    """A hole known in `versions` (as pip writes them) of a package; `grade`: what the doctor says of it."""

    package: str
    versions: str
    id: str
    what: str
    grade: Literal["warn", "fail"]


def advisories() -> tuple[str, list[Advisory]]:
    """The day the list was last gone through, and the list."""
    raw = tomllib.loads(ADVISORIES.read_text(encoding="utf-8"))
    return str(raw["checked"]), [Advisory(**item) for item in raw["advisory"]]


def vulnerable(facts: Sequence[Facts]) -> Check:
    checked, known = advisories()
    hits: dict[str, tuple[Advisory, list[str]]] = {}
    for each in facts:
        for hole in known:
            version = each.versions.get(hole.package, "")
            if version and SpecifierSet(hole.versions).contains(version, prereleases=True):
                hits.setdefault(f"{hole.id}: {hole.package} {version}", (hole, []))[1].append(each.where)
    if not hits:
        return Check("known holes", "ok", f"none of the {len(known)} in the list of {checked}; `pip-audit` knows more")
    lines = [f"{key}, {hole.what} ({_some(where)})" for key, (hole, where) in hits.items()]
    grave = any(hole.grade == "fail" for hole, _ in hits.values())
    return Check("known holes", "fail" if grave else "warn", "\n".join(lines), _INSTALL)


def upload(size: int | None) -> Check:
    """`size`: bytes that a job's working directory would take; None where no job would be sent from here."""
    if size is None:
        return Check("job upload", "ok", "not looked at: jobs are sent from the folder that holds jobs/run.py")
    text = f"{size / 2**20:.1f} MiB of at most {LIMIT / 2**20:.0f} MiB"
    if size >= LIMIT:
        return Check("job upload", "fail", text, "name what need not travel in .rayignore")
    return Check("job upload", "ok", text)
