"""Weights on this machine: torchvision's in torch's cache, and one's own by name, with sha256, licence and source.

One's own lie in `$CXRTL_WEIGHTS`, or `~/.cache/cxrtl/weights`, described by `index.json` there.
"""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cxrtl import rundir
from cxrtl.errors import WeightsError
from cxrtl.learn import backbones, weights

TORCHVISION = "BSD-3-Clause (torchvision); trained on ImageNet, whose images are for non-commercial research"
SCHEMES = ("https", "file")
INDEX = "index.json"
SECONDS = 60  # of silence after which a download is given up


@dataclass(frozen=True)
class Entry:
    """`sha256` may be its beginning alone, where no more is published; `path` is where the file is or is looked for."""

    name: str
    file: str
    sha256: str
    licence: str
    source: str
    path: str

    @property
    def present(self) -> bool:
        return Path(self.path).is_file()


def home() -> Path:
    return Path(os.environ.get("CXRTL_WEIGHTS") or "~/.cache/cxrtl/weights").expanduser().absolute()


def entries() -> list[Entry]:
    """One's own first, then torchvision's ImageNet weights of every backbone."""
    out = list(_own().values())
    for name in backbones.names():
        url, path, prefix = weights.imagenet_file(name)
        out.append(Entry(name, path.name, prefix, TORCHVISION, url, str(path)))
    return out


def added(name: str) -> Entry:
    """What `train.init = "weights:NAME"` means; raises WeightsError, with the names there are, where none is."""
    own = _own()
    if name not in own:
        raise WeightsError(
            f"train.init = 'weights:{name}': no weights of that name in {home()}, which holds {sorted(own) or 'none'}. "
            f"Add them: cxrtl weights add FILE --name {name} --licence … --source …"
        )
    return own[name]


def add(file: Path, name: str, licence: str, source: str, sha256: str = "") -> Entry:
    """Copy a weights file in, as `name`.

    Raises:
        WeightsError: it cannot be read, has another sha256, is no flat state dict of tensors, or the name is taken by
            another file.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise WeightsError(f"weights file {str(file)!r} cannot be read: {error.strerror}") from None
    return _keep(content, name, file.suffix, licence, source, sha256)


def fetch(what: str, name: str = "", licence: str = "", sha256: str = "") -> Entry:
    """Download torchvision's ImageNet weights of a backbone, or from a URL, whose sha256 must then be given.

    Raises:
        WeightsError: no such backbone, another kind of URL, no answer, or another sha256.
    """
    scheme = urlsplit(what).scheme
    if not scheme:
        url, path, prefix = weights.imagenet_file(what, download=True)
        return Entry(what, path.name, prefix, TORCHVISION, url, str(path))
    if scheme not in SCHEMES or not name or not sha256 or not licence:
        raise WeightsError(
            f"cxrtl weights fetch {what!r}: give a backbone's name, or an https URL with --name, --sha256 and --licence"
        )
    try:
        with urllib.request.urlopen(what, timeout=SECONDS) as answer:
            content = answer.read()
    except (urllib.error.URLError, OSError) as error:
        raise WeightsError(f"{what!r} could not be fetched: {error}") from None
    return _keep(content, name, Path(urlsplit(what).path).suffix, licence, what, sha256)


def verify(names: Sequence[str] = ()) -> list[tuple[Entry, bool]]:
    """Hash again what is there, all of it or what is named: whether it is still what it should be.

    Raises:
        WeightsError: a name that is unknown, or whose file is missing.
    """
    known = {entry.name: entry for entry in reversed(entries())}  # one's own name goes before torchvision's
    for name in names:
        if name not in known or not known[name].present:
            where = f"looked for {known[name].path}" if name in known else f"known are {sorted(_own())} and backbones"
            raise WeightsError(f"cxrtl weights verify {name!r}: there are no such weights here; {where}")
    chosen = [known[name] for name in names] or [entry for entry in entries() if entry.present]
    return [(entry, rundir.sha256_file(Path(entry.path)).startswith(entry.sha256)) for entry in chosen]


def _own() -> dict[str, Entry]:
    if not (home() / INDEX).is_file():
        return {}
    raw = rundir.read_json(home() / INDEX)
    return {name: Entry(name=name, path=str(home() / item["file"]), **item) for name, item in sorted(raw.items())}


def _keep(content: bytes, name: str, suffix: str, licence: str, source: str, wanted: str) -> Entry:
    digest = weights.sha256(content)
    if not digest.startswith(wanted.lower()):
        raise WeightsError(f"weights {name!r} have sha256 {digest}, expected {wanted}: this is another file")
    own, file = _own(), f"{name}{suffix}"
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        raise WeightsError(f"--name {name!r}: take letters, digits, dots, dashes and underscores")
    if name in own and own[name].sha256 != digest:
        raise WeightsError(f"--name {name!r} is taken by the file {own[name].sha256[:12]}…: take another name")
    weights.read(weights.Weights("weights", file, digest, content))  # is it one? its code is not run
    home().mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(home()).free < len(content):
        raise WeightsError(f"{home()} has too little room for {len(content) / 1e6:.0f} MB: set CXRTL_WEIGHTS")
    rundir.write_bytes(home() / file, content)
    entry = Entry(name, file, digest, licence, source, str(home() / file))
    about = {key: {k: v for k, v in asdict(item).items() if k not in ("name", "path")} for key, item in own.items()}
    about[name] = {"file": file, "sha256": digest, "licence": licence, "source": source}
    rundir.write_json(home() / INDEX, about)
    return entry
