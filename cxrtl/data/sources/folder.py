"""Images in one sub-folder per class; deeper folders belong to the class they lie in."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cxrtl.config import Data
from cxrtl.data.ids import keyed_id
from cxrtl.data.sources.common import Rows, folder_of, locate, to_manifest
from cxrtl.errors import ManifestError
from cxrtl.records import Manifest


def build(data: Data, key: bytes) -> Manifest:
    """List every file below the class folders, sorted by relative path; hidden files and folders are left out.

    Nothing is judged by its suffix: a file that is no image ends up as a skipped row with its reason.

    Raises:
        ManifestError: no such folder, files outside the class folders, linked folders, an empty class folder, not
            the classes that the task needs, or file names that `data.patient_pattern` does not match.
    """
    root = folder_of(data, "one folder per class")
    files = sorted(_walk(root))
    _refuse_unlabelled(root, files)
    labels = [name.split("/", 1)[0] for name in files]
    rows = Rows(
        images=files,
        labels=labels,
        paths=[locate(root, name) for name in files],
        patients=_patients(files, data.patient_pattern, key),
        studies=[""] * len(files),
        extras={},
    )
    return to_manifest(rows, key, data)


def _walk(root: Path) -> list[str]:
    """Relative POSIX paths of all files that are not hidden."""

    def fail(error: OSError) -> None:
        raise ManifestError(f"a folder below data.path cannot be listed: {error.strerror}. Mend its permissions.")

    found, linked = [], 0
    for folder, folders, files in os.walk(root, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked += sum((Path(folder) / name).is_symlink() for name in folders)
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in files if not name.startswith(".")]
    if linked:
        raise ManifestError(f"{linked} folder(s) below data.path are links, which are not followed: use real folders")
    return found


def _refuse_unlabelled(root: Path, files: list[str]) -> None:
    loose = sum("/" not in name for name in files)
    if loose:
        raise ManifestError(f"{loose} file(s) lie beside the class folders of data.path: move them into one, or away")
    classes = {entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    empty = classes - {name.split("/", 1)[0] for name in files}
    if empty:
        raise ManifestError(f"{len(empty)} of the {len(classes)} class folders in data.path hold no file")


def _patients(files: list[str], pattern: str, key: bytes) -> list[str]:
    """What the pattern's first group finds in each file name; "" throughout without a pattern."""
    if not pattern:
        return [""] * len(files)
    matches = [re.search(pattern, name.rsplit("/", 1)[1]) for name in files]
    patients = [(match[1] or "").strip() if match else "" for match in matches]
    unmatched = [keyed_id("img", name, key) for name, patient in zip(files, patients, strict=True) if not patient]
    if unmatched:
        raise ManifestError(
            f"data.patient_pattern = {pattern!r} finds no patient in {len(unmatched)} of {len(files)} file names, such "
            f"as those of {unmatched[:5]}: widen the pattern or move these files away"
        )
    return patients
