"""Homes that are no folder: s3://bucket/prefix, gs://bucket/prefix, or whatever else fsspec speaks to.

The package works on paths. A home at a URL has a mirror on each machine that works on it, a folder whose name spells
the URL (`place`): a path in it is known for what it is in any process of any machine, without being told.

What is written goes to the storage first and stands in the mirror after, file by file in the order of writing, so that
what vouches for other files comes last there too, and the mirror never holds what the storage lacks. An object store
takes a file whole or not at all. Whoever reads pulls first. A mirror may be deleted whenever nothing runs.

Nothing here touches a path outside the mirrors. Access keys are found by the filesystem itself (for S3, by the standard
AWS chain) and are neither taken, passed on nor written here.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from cxrtl import versions
from cxrtl.config import refuse_secret
from cxrtl.errors import ConfigError, DamagedError, RunError
from cxrtl.parts import part_of

VARIABLE, FOLDER = "CXRTL_MIRRORS", "cxrtl-mirrors"
LOCAL = ("lock", ".lock/*", "prepared/*/private/*", "prepared/*/pixels.*")  # what serves one machine alone
GROWING = "events.out.tfevents.*"  # written in place: what is here is newer than what was sent of it
PACE = 10.0  # seconds between looks, or signs of life, at a storage
_AT_ONCE = 8  # downloads
_WHOLE = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory")  # elsewhere a file shows while it is written
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


def place(text: str | Path) -> Path:
    """A path as it is; for a URL, the folder that mirrors it on this machine.

    Mirrors are in `cxrtl-mirrors` of the folder `$CXRTL_MIRRORS`, by default `~/.cache`, which must have the same name
    on all machines of a cluster.

    Raises:
        ConfigError: the URL has a key or a query in it, names no bucket, or leads out of it.
    """
    protocol, sign, rest = str(text).partition("://")
    if not sign:
        return Path(text)
    refuse_secret(str(text), f"a {protocol}:// URL")
    bucket, *within = rest.rstrip("/").split("/")
    if not (bucket or within) or {".", ".."} & set(within) or "?" in rest:
        raise ConfigError(
            f"{protocol}://{rest}: name a bucket, and in it a prefix if you like, such as s3://mine/cxrtl"
        )
    return _mirrors().joinpath(quote(f"{protocol}://{bucket or '/'}", safe="").replace("%", "+"), *within)


def _mirrors() -> Path:
    return Path(os.environ.get(VARIABLE) or "~/.cache").expanduser().absolute() / FOLDER


@dataclass(frozen=True)
class Store:
    """A bucket, or whatever holds homes elsewhere: fsspec's filesystem, the bucket's name in it, its mirror here."""

    url: str
    files: Any
    base: str
    root: Path

    def name(self, path: Path) -> str:
        return f"{self.url}{'' if self.url.endswith('/') else '/'}{path.relative_to(self.root).as_posix()}"

    def there(self, path: Path) -> str:
        """What the filesystem calls it."""
        return f"{self.base}/{path.relative_to(self.root).as_posix()}"

    def is_local(self, path: Path) -> bool:
        return any(path.relative_to(self.root).match(pattern) for pattern in LOCAL)

    def put(self, file: Path, path: Path) -> None:
        stamp, there = versions.here(file), self.there(path)
        with faults(self.name(path)):
            self.write(there, partial(self.files.put_file, str(file)))
            version = versions.stored(self.files.info(there))
        self._note(path, version, stamp)

    def write(self, there: str, put: Callable[[str], None]) -> None:
        """Let `put` write the file `there`, in such a way that nobody sees it before it is whole."""
        if self.url.partition("://")[0] in _WHOLE:
            put(there)
            return
        part = f"{there}.{secrets.token_hex(4)}.part"
        self.files.makedirs(there.rpartition("/")[0], exist_ok=True)
        put(part)
        self.files.mv(part, there)

    def listing(self, folder: Path) -> dict[Path, Mapping[str, Any]]:
        """What the storage holds below `folder`: the path of each file in the mirror, and what fsspec says of it."""
        prefix, out = f"{self.there(folder)}/", {}
        with faults(self.name(folder)):
            found = self.files.find(prefix.rstrip("/"), detail=True)
        for there, info in found.items():
            if info["type"] != "file" or there.endswith(("/", ".part")):
                continue
            parts = there.removeprefix(prefix).split("/")
            if not there.startswith(prefix) or {"", ".", ".."} & set(parts):
                raise DamagedError(f"{self.name(folder)} holds a name that leads out of it: delete {there!r} there")
            path = folder.joinpath(*parts)
            if not self.is_local(path):
                out[path] = info
        return out

    def bring(self, path: Path, info: Mapping[str, Any], seen: str) -> None:
        """Fetch the file that `info` speaks of, unless it is here; not over one that is no longer as it was `seen`."""
        version, noted, stamp = versions.stored(info), self.noted(path), versions.here(path)
        if version and noted[:1] == [version] and (noted[1:] == [stamp] or (stamp and path.match(GROWING))):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(path)
        try:
            with faults(self.name(path)), suppress(FileNotFoundError):  # deleted since it was listed
                self.files.get_file(self.there(path), str(part))
            if part.exists() and versions.here(path) == seen:
                self._note(path, version, versions.here(part))
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def drop(self, path: Path, seen: str) -> None:
        """Delete here what was at the storage once and is not now, unless it is no longer as it was `seen`."""
        if self.noted(path) and versions.here(path) == seen:
            path.unlink(missing_ok=True)

    def noted(self, path: Path) -> list[str]:
        """Which version of the storage's the mirror's file is, and the stamp it had then."""
        with suppress(OSError):
            return self.notes(path).read_text().splitlines()
        return []

    def _note(self, path: Path, version: str, stamp: str) -> None:
        self.notes(path).parent.mkdir(parents=True, exist_ok=True)
        self.notes(path).write_text(f"{version}\n{stamp}")

    def notes(self, path: Path) -> Path:
        return self.root.parent / ".versions" / path.relative_to(self.root.parent)


def at(path: Path) -> Store | None:
    """The store whose mirror `path` is in; None for a path that is none of any.

    Raises:
        ConfigError: its filesystem is not installed or unknown.
        RunError: the path comes from a machine that keeps its mirrors elsewhere.
    """
    if FOLDER not in path.parts:
        return None
    if not path.is_relative_to(_mirrors()) or path == _mirrors():
        raise RunError(
            f"{path} is in no mirror of this machine, whose mirrors are in {_mirrors()}: set {VARIABLE} to the same "
            "folder on all machines, or move the folder out of one of that name"
        )
    spelled = path.relative_to(_mirrors()).parts[0]
    url = unquote(spelled.replace("+", "%"))
    return Store(url, *_open(url), _mirrors() / spelled)


@lru_cache
def _open(url: str) -> tuple[Any, str]:
    import fsspec.core  # not needed where the home is a folder

    protocol = url.partition("://")[0]
    try:
        files, base = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package = f"cxrtl[{_EXTRAS[protocol]}]" if protocol in _EXTRAS else error.name or protocol
        raise ConfigError(f"{url} needs another package on every machine: pip install '{package}'") from None
    except ValueError:
        raise ConfigError(f"{url}: there is no filesystem {protocol!r}. Take s3://, gs:// or a folder.") from None
    return files, base.rstrip("/")


def name(path: Path) -> str:
    """How a person would call it: by its URL where it has one."""
    store = at(path)
    return store.name(path) if store else str(path)


def pace(path: Path, seconds: float) -> float:
    """How often to look at a folder, or show progress in it: every so many seconds, seldomer in a mirror."""
    return max(seconds, PACE) if at(path) else seconds


def filesystem(path: Path) -> tuple[Any, str]:
    """For readers that take one: the fsspec filesystem, None for this machine's own, and the path's name in it."""
    store = at(path)
    return (store.files, store.there(path)) if store else (None, str(path))


def push(file: Path, path: Path) -> None:
    """Make `file`, which is on this machine, what the storage has for `path`.

    Raises:
        OSError: it could not be written there, after the filesystem's own tries; with the URL and the reason.
    """
    store = at(path)
    if store and not store.is_local(path):
        store.put(file, path)


def send(folder: Path) -> None:
    """Push what in `folder` is not at the storage as it is here: files that others than `rundir` write."""
    if store := at(folder):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not store.is_local(path) and store.noted(path)[1:] != [versions.here(path)]:
                store.put(path, path)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all in it, there and then here; nothing where the mirror has none."""
    store, is_folder = at(path), path.is_dir()
    if store and path.exists() and not store.is_local(path):
        delete = partial(store.files.rm, recursive=True) if is_folder else store.files.rm_file
        with faults(store.name(path)), suppress(FileNotFoundError):
            delete(store.there(path))
    if is_folder:
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def forget(folder: Path) -> None:
    """Delete what this machine has of a folder that is at a storage; nothing where it is in no mirror."""
    if store := at(folder):
        for here in (folder, store.notes(folder)):
            shutil.rmtree(here, ignore_errors=True)


def pull(folder: Path, names: Collection[str] = ()) -> None:
    """Make `folder` in the mirror what it is at the storage: fetch what is missing or differs, delete what is gone.

    With `names` only files of these names are fetched, and none is deleted. A file that another process of this machine
    writes meanwhile is left as it wrote it.

    Raises:
        OSError: the storage cannot be read; with the URL and the reason.
        DamagedError: a name there leads out of the folder.
    """
    store = at(folder)
    if store is None:
        return
    # first of all: what changes later is newer
    here = {path: versions.here(path) for path in folder.rglob("*") if path.is_file()}
    listed = store.listing(folder)
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        wanted = [path for path in listed if not names or path.name in names]
        for done in [threads.submit(store.bring, path, listed[path], here.get(path, "")) for path in wanted]:
            done.result()
    for path in here.keys() - listed.keys() if not names else ():
        store.drop(path, here[path])


def fetch(path: Path) -> None:
    """`pull` for one file."""
    if store := at(path):
        seen, info = versions.here(path), None
        with faults(store.name(path)), suppress(FileNotFoundError):
            info = store.files.info(store.there(path))
        if info:
            store.bring(path, info, seen)
        else:
            store.drop(path, seen)


@contextmanager
def faults(where: str) -> Iterator[None]:
    """Whatever a filesystem raises, as an OSError that says where and why."""
    try:
        yield
    except Exception as error:  # each filesystem has its own kinds
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        number = getattr(error, "errno", None) or errno.EIO
        raise OSError(number, re.sub(r"\s+", " ", reason).strip(), where) from error
