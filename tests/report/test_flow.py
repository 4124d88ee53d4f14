"""The flow diagram says what the run recorded, and is absent where nothing was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cxrtl.report import flow
from cxrtl.report.load import load_run
from cxrtl.report.style import styled
from cxrtl.rundir import RunDir


def test_steps_that_left_something_out(small: RunDir, tmp_path: Path) -> None:
    loaded = load_run(small)
    steps = [
        {"step": "images listed", "removed": 0, "left": 100, "patients": 50},
        {"step": "view is none of frontal", "removed": 0, "left": 100, "patients": 50},
        {"step": "no label", "removed": 7, "left": 93, "patients": 48},
        {"step": "unusable: the file is damaged", "removed": 3, "left": 90, "patients": 48},
    ]
    dataset = {**loaded.resolved["dataset"], "flow": steps}
    with styled():
        assert flow.draw(loaded, tmp_path) is None
        drawn = flow.draw(replace(loaded, resolved={**loaded.resolved, "dataset": dataset}), tmp_path)
    assert drawn is not None and (tmp_path / "flow.png").exists()
    assert drawn.alt == (
        "Flow of images: images listed: 100 images, 50 patients; no label: 7 images, 2 patients left out; "
        "unusable: the file is damaged: 3 images left out; "
        "prepared: 90 images, 48 patients (normal 45, effusion 45); held out and predicted: 90, in 3 folds."
    )
    earlier = [{name: step[name] for name in ("step", "removed", "left")} for step in steps]
    with styled():
        before = {**loaded.resolved, "dataset": {**dataset, "flow": earlier}}
        drawn = flow.draw(replace(loaded, resolved=before), tmp_path)
    assert drawn is not None and "no label: 7 images left out" in drawn.alt and "patient" not in drawn.alt
