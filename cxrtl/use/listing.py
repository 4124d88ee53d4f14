"""Which images to predict: files, folders and tables, by the names that their owner gave them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrtl.config import Data
from cxrtl.data.images import REFUSED
from cxrtl.data.sources import table
from cxrtl.errors import ManifestError

TABLES = (".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True)
class Listed:
    """`names` as the user wrote or would write them, `paths` where they lie; in step."""

    names: list[str]
    paths: list[str]


def list_images(given: Sequence[Path], image_column: str) -> Listed:
    """Files as they are, folders with all that lies below them (sorted, hidden files left out), tables row by row.

    A file that is no image is listed too: it ends up as a row with its reason. Paths in a table are relative to it.

    Raises:
        ManifestError: something given does not exist, a table cannot be read, or there is not one image.
    """
    names: list[str] = []
    paths: list[str] = []
    for path in given:
        if path.is_dir():
            found = _below(path)
            names += found
            paths += found
        elif path.name.lower().endswith(TABLES):
            listed, found = table.images_of(Data(source="table", path=str(path), image_column=image_column))
            names += listed
            paths += found
        elif path.exists():
            names.append(str(path))
            paths.append(str(path))
        else:
            raise ManifestError(f"{str(path)!r} does not exist: give images, folders of images, or a table")
    if not names:
        raise ManifestError(f"there is not one image in {', '.join(map(str, given))}")
    return Listed(names, [path if path.startswith(REFUSED) else str(Path(path).absolute()) for path in paths])


def _below(root: Path) -> list[str]:
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [str(Path(folder) / name) for name in sorted(files) if not name.startswith(".")]
    return found
