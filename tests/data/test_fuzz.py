"""A minute of random damage; `fuzz` runs longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.fuzz import Fuzz


@pytest.mark.slow
def test_a_minute_of_damage_breaks_nothing(tmp_path: Path) -> None:
    found = Fuzz(tmp_path).run(60)
    assert {key.partition(":")[0] for key in found} == {"decoder", "volume", "mask", "table", "experiment"}
    assert sum(found.values()) > 500 and found["decoder: used"] and found["mask: used"] and found["table: refused"]
