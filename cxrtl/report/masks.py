"""True and predicted masks of a segmentation, of the images that a report shows."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from cxrtl.data.prepared import shard_paths
from cxrtl.errors import DamagedError, PreparedError
from cxrtl.records import Prepared
from cxrtl.rundir import RunDir


def read_masks(run: RunDir, prepared: Prepared, rows: pd.DataFrame) -> dict[str, tuple[bytes, bytes]]:
    """By image id, the true and the predicted mask, `image_size`² bytes each: 0, or the structure's number from 1.

    `rows` has `image_id`, `arm`, `fold` and `iterations`.

    Raises:
        PreparedError, DamagedError: the shards, or a trial's masks, lack one of the images.
    """
    truth = _find([str(path) for path in shard_paths(prepared)], list(rows["image_id"]))
    absent = set(rows["image_id"]) - set(truth)
    if absent:
        raise PreparedError(f"shards in {prepared.folder} lack masks of {sorted(absent)[:5]}: prepare the data again")
    found: dict[str, tuple[bytes, bytes]] = {}
    for (arm, fold, iterations), part in rows.groupby(["arm", "fold", "iterations"]):
        name = f"masks-{iterations}.parquet"
        files = [str(path) for path in sorted(run.root.glob(f"{arm}/fold{fold}/**/{name}"))]
        predicted = _find(files, list(part["image_id"])) if files else {}
        if set(part["image_id"]) - set(predicted):
            raise DamagedError(f"{name} of arm {arm!r}, fold {fold}, is missing or lacks images: run that fold again")
        found |= {image: (truth[image], predicted[image]) for image in part["image_id"]}
    return found


def _find(files: list[str], ids: list[str]) -> dict[str, bytes]:
    try:
        wanted = ds.field("image_id").isin(ids)
        table = ds.dataset(files, format="parquet").to_table(columns=["image_id", "mask"], filter=wanted)
    except (OSError, pa.ArrowException):
        return {}
    return dict(zip(table["image_id"].to_pylist(), table["mask"].to_pylist(), strict=True))
