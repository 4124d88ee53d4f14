"""What flows between stages refuses to hold what it should not."""

from __future__ import annotations

import pandas as pd
import pytest

from cxrtl.errors import ManifestError
from cxrtl.records import Manifest


def test_manifest_lists_each_image_once() -> None:
    frame = pd.DataFrame({"image_id": ["i", "i"], "patient_id": "", "study_id": "", "label": "n", "path": "x"})
    with pytest.raises(ManifestError, match="more than once"):
        Manifest(frame, ("n", "y"))
