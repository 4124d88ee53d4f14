"""What `ray job submit --working-dir` would send."""

from __future__ import annotations

import logging
import os
from pathlib import Path

LIMIT = 100 * 2**20  # bytes that Ray's job server takes

_ENTRY = 30 + 46  # bytes of a file's two headers in a zip archive, its name apart
_END = 22


def upload_size(folder: Path) -> int:
    """Bytes of the archive that Ray makes of a working directory: uncompressed, without what `.gitignore`, `.rayignore`
    and Ray's own defaults leave out. Ray's own walk decides, as it will when it packs."""
    from ray._private import ray_constants
    from ray._private.runtime_env import packaging

    root, total = folder.absolute(), _END

    def add(path: Path) -> None:
        nonlocal total
        is_folder = path.is_dir()
        if path.is_file() or (is_folder and next(path.iterdir(), None) is None):
            name = f"{path.relative_to(root).as_posix()}{'/' * is_folder}"
            total += _ENTRY + 2 * len(name.encode()) + (0 if is_folder else path.stat().st_size)

    excludes = [packaging._get_excludes(root, ray_constants.get_runtime_env_default_excludes())]
    ours = os.environ.get(ray_constants.RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    packaging._dir_travel(root, excludes, add, include_gitignore=ours, logger=logging.getLogger(__name__))
    return total
