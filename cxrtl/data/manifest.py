"""What the images are: one row an image, identifiers hashed, from whichever source the experiment names."""

from __future__ import annotations

from collections.abc import Callable

from cxrtl.config import Data
from cxrtl.data import phantom
from cxrtl.data.ids import derived, keyed_id, load_key
from cxrtl.data.sources import chexpert, folder, kermany, mimic, nih, table
from cxrtl.data.sources.common import resolve_classes
from cxrtl.errors import ManifestError
from cxrtl.records import Manifest

__all__ = ["build", "keyed_id", "load_key", "resolve_classes"]


def build(data: Data, key: bytes) -> Manifest:
    """List the images of `data`; `key` (see `load_key`) and `data.id_namespace` hash their identifiers.

    Raises:
        ManifestError: the source cannot be read as one; see each source.
    """
    if data.source == "phantom":
        return phantom.build(data)
    try:
        return _SOURCES[data.source](data, derived(key, data.id_namespace))
    except OSError as error:  # its file's name may be a patient's
        raise ManifestError(
            f"data.path = {data.path!r}: a file or folder that belongs to it cannot be looked at ({error.strerror}). "
            "Mend names and permissions there."
        ) from None


_SOURCES: dict[str, Callable[[Data, bytes], Manifest]] = {
    "folder": folder.build,
    "table": table.build,
    "nih": nih.build,
    "kermany": kermany.build,
    "chexpert": chexpert.build,
    "mimic": mimic.build,
}
