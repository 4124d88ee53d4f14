"""Hashed identifiers, and the machine's secret that keys them.

File names and patient numbers leave this process only as keyed hashes: without the key nobody can tell, by hashing a
list of likely patient numbers, whether one of them is in the set.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from cxrtl.errors import ManifestError

KEY_BYTES = 32
KEY_VARIABLE = "CXRTL_KEY_FILE"


def keyed_id(prefix: str, text: str, key: bytes) -> str:
    """`<prefix>-` and 16 hex digits of the keyed blake2b of `text`; "" for empty text (unknown stays unknown)."""
    if not text:
        return ""
    # file names that are not UTF-8 reach us with surrogates; their bytes are hashed as they lie on the disk
    data = text.encode("utf-8", "surrogateescape")
    return f"{prefix}-{hashlib.blake2b(data, digest_size=8, key=key, person=prefix.encode()).hexdigest()}"


def derived(key: bytes, purpose: str) -> bytes:
    """A key of its own for `purpose`, from which nobody finds `key`; "" is the purpose of `key` itself."""
    return hashlib.blake2b(purpose.encode(), digest_size=KEY_BYTES, key=key).digest() if purpose else key


def fingerprint(key: bytes) -> str:
    """Tells whether two sets of ids were made with the same key, and nothing of the key."""
    return keyed_id("key", "fingerprint", key)


def load_key() -> bytes:
    """The machine's secret, from `$CXRTL_KEY_FILE` or `~/.config/cxrtl/id.key`; made, with mode 0600, where absent.

    Raises:
        ManifestError: the file cannot be read or made, is open to others than its owner, or not 32 bytes long.
    """
    path = Path(os.environ.get(KEY_VARIABLE) or "~/.config/cxrtl/id.key").expanduser()
    try:
        if not path.exists():
            _make_key(path)
        with path.open("rb") as file:
            mode, key = os.fstat(file.fileno()).st_mode, file.read()
    except OSError as error:
        raise ManifestError(
            f"id key {str(path)!r} cannot be read or made: {error.strerror}. Set {KEY_VARIABLE} to a writable place."
        ) from None
    if mode & 0o077:
        raise ManifestError(
            f"id key {str(path)!r} is open to others than its owner (mode {mode & 0o777:04o}), who can match ids to "
            f"patients with it: chmod 600 it, or set {KEY_VARIABLE} to a place that keeps modes"
        )
    if len(key) != KEY_BYTES:
        raise ManifestError(
            f"id key {str(path)!r} holds {len(key)} bytes instead of {KEY_BYTES}: restore it from a copy, or delete it "
            "to have a new one made (ids of images and patients then change)"
        )
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)  # unlike a rename, never replaces the key that another process made meanwhile
    except FileExistsError:
        pass
    finally:
        part.unlink()
