"""Each task from files to a report, by the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrtl.rundir import read_predictions
from tests.orchestrate.helpers import cxrtl

EXPERIMENT = """
name = "small"
[data]
source = "table"
path = "{table}"
image_size = 32
{data}
[folds]
k = 2
[train]
backbone = "mobilenet_v3_small"
init = "scratch"
budgets = [3, 6]
batch_size = 8
"""
TASKS = {
    "multiclass": 'task = "multiclass"\nlabel_column = "kind"',
    "multilabel": 'task = "multilabel"\nlabel_columns = ["bright", "left"]',
    "segmentation": 'task = "segmentation"\nstructures = ["box"]\nimage_columns = ["image", "second"]',
}


def table(root: Path) -> Path:
    """Twelve patients with two pictures of a box each, in two channels."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(24):
        picture = rng.integers(0, 120, (40, 40), dtype=np.uint8)
        mask = np.zeros((40, 40), np.uint8)
        left = number % 4 < 2
        mask[10:30, (2 if left else 22) : (18 if left else 38)] = 255
        for name, values in (("image", picture + mask // 2), ("second", 255 - picture), ("mask", mask)):
            Image.fromarray(values).save(root / f"{name}{number}.png")
        files = {name: f"{name}{number}.png" for name in ("image", "second", "mask")}
        bright = "" if number % 5 == 0 else number // 2 % 2
        labels = {"kind": "abc"[number // 2 % 3], "left": int(left), "bright": bright}
        rows.append({**files, **labels, "patient_id": f"p{number // 2}"})
    pd.DataFrame(rows).to_csv(root / "labels.csv", index=False)
    return root / "labels.csv"


@pytest.mark.slow
@pytest.mark.parametrize(("task", "pixels"), [*((task, "memory") for task in TASKS), ("segmentation", "stream")])
def test_from_files_to_a_report(tmp_path: Path, task: str, pixels: str) -> None:
    path = tmp_path / "small.toml"
    path.write_text(EXPERIMENT.format(table=table(tmp_path), data=TASKS[task]))
    done = cxrtl("run", path, "--home", tmp_path, "--set", f"resources.images={pixels}")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "small"
    assert (run / "report.html").exists() and (run / "summary.json").exists()
    for fold in range(2):
        found = read_predictions(run / "mobilenet_v3_small" / f"fold{fold}" / "predictions-6.parquet")
        assert found.task == task and len(found.frame) == 12
        masks = run / "mobilenet_v3_small" / f"fold{fold}" / "masks-6.parquet"
        assert masks.exists() == (task == "segmentation")
    if task == "multilabel":
        assert np.isnan(found.labels).any()
    if task == "segmentation":
        stored = pd.read_parquet(masks).set_index("image_id")["mask"]
        areas = found.frame.set_index("image_id")["predicted_box"]
        assert all(np.frombuffer(stored[image], np.uint8).sum() == areas[image] for image in areas.index)
