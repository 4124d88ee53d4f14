"""What tells one state of a file from another, at a storage and here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def stored(info: Mapping[str, Any]) -> str:
    """What changes whenever a file at the storage does; "" where it cannot be told."""
    for key in ("ETag", "etag", "mtime", "created", "LastModified", "last_modified"):
        if found := info.get(key):
            return f"{found.timestamp() if hasattr(found, 'timestamp') else found} {info['size']}"
    return ""


def here(path: Path) -> str:
    """What changes whenever a file here does; "" where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"
