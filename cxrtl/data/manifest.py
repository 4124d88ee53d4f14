"""What the images are: one row an image, identifiers hashed, from whichever source the experiment names."""

from __future__ import annotations

from cxrtl.config import Data
from cxrtl.data import phantom
from cxrtl.data.ids import keyed_id, load_key
from cxrtl.data.sources import folder, table
from cxrtl.data.sources.common import resolve_classes
from cxrtl.records import Manifest

__all__ = ["build", "keyed_id", "load_key", "resolve_classes"]


def build(data: Data, key: bytes) -> Manifest:
    """List the images of `data`; `key` (see `load_key`) hashes their identifiers.

    Raises:
        ManifestError: the source cannot be read as one; see each source.
    """
    if data.source == "folder":
        return folder.build(data, key)
    if data.source == "table":
        return table.build(data, key)
    return phantom.build(data)
