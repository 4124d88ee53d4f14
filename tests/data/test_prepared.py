from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from cxrtl.data.manifest import build
from cxrtl.data.prepare import open_prepared, read_index
from cxrtl.data.shards import VERSION
from cxrtl.errors import PreparedError
from tests.data.helpers import Prepare, table_config

pytestmark = pytest.mark.usefixtures("without_ray", "small_slices")


class TestOpen:
    def test_round_trip(self, labels: Path, key: bytes, prepare_set: Prepare) -> None:
        data = table_config(labels)
        prepared, index = prepare_set(build(data, key), data)
        assert open_prepared(prepared.folder, verify=True) == prepared
        pd.testing.assert_frame_equal(read_index(open_prepared(prepared.folder)), index)

    def test_missing_damaged_and_foreign(self, labels: Path, key: bytes, prepare_set: Prepare) -> None:
        data = table_config(labels)
        folder = prepare_set(build(data, key), data)[0].folder
        shard = folder / "shards/part-00002.parquet"
        content = shard.read_bytes()
        shard.write_bytes(bytes(len(content)))
        open_prepared(folder)
        with pytest.raises(PreparedError, match=r"part-00002\.parquet in .* is not as it was written"):
            open_prepared(folder, verify=True)
        shard.write_bytes(content[:-1])
        with pytest.raises(PreparedError, match="is not as it was written"):
            open_prepared(folder)
        shard.unlink()
        with pytest.raises(PreparedError, match=r"part-00002\.parquet is missing"):
            open_prepared(folder)
        raw = json.loads((folder / "dataset.json").read_text())
        for broken, message in (
            ({**raw, "version": 99}, f"has version 99, this cxrtl reads {VERSION}"),
            ({**raw, "shards": [{}]}, "is damaged"),
            ({**raw, "shards": [{**raw["shards"][0], "file": "../../elsewhere.parquet"}]}, "is damaged"),
            ({"version": VERSION, "shards": []}, "is damaged"),
            ([], "is damaged"),
        ):
            (folder / "dataset.json").write_text(json.dumps(broken))
            with pytest.raises(PreparedError, match=message):
                open_prepared(folder)
