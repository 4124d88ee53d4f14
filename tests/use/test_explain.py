"""Which images are explained, what is written, and what the report takes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrtl.data.images import How
from cxrtl.errors import DamagedError, ManifestError, PreparedError
from cxrtl.predictions import Predictions
from cxrtl.report.page import write_report
from cxrtl.report.saliency import read_gallery
from cxrtl.rundir import RunDir
from cxrtl.use.explain import _choose, _outcomes, explain, find_prepared
from cxrtl.use.model import open_trained
from cxrtl.use.regions import read_regions
from tests.report.browser import BINARY, Tab
from tests.use.conftest import LAST, SIZE, Tiny


@pytest.fixture(scope="session")
def explained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A copy of the run, explained; a region over the left half of every image."""
    run = RunDir(tmp_path_factory.mktemp("explained") / "runs/tiny")
    shutil.copytree(tiny.run.root, run.root)
    half = np.zeros((SIZE, SIZE), bool)
    half[:, : SIZE // 2] = True
    explain(open_trained(run), tiny.prepared, dict.fromkeys(tiny.pixels(), half))
    return run


def test_pictures_follow_the_rule(explained: RunDir) -> None:
    found = read_gallery(explained)
    assert found is not None
    part = open_trained(explained).loaded.predictions.select("first", LAST)
    truth, called = part.truth, part.score >= 0.5
    cells = np.where(truth, np.where(called, "tp", "fn"), np.where(called, "fp", "tn"))
    for cell in ("tp", "fn", "fp", "tn"):
        distance = np.abs(part.score - 0.5)[cells == cell]
        shown = [picture for picture in found.found.pictures if picture.cell == cell]
        certain = sorted(abs(p.score - 0.5) for p in shown if p.why == "most certain")
        assert certain == pytest.approx(np.sort(distance)[-2:].tolist())
        near = [abs(p.score - 0.5) for p in shown if p.why != "most certain"]
        assert near == pytest.approx(np.sort(distance)[: len(near)].tolist()) and len(near) == min(
            2, max(len(distance) - 2, 0)
        )
    assert {mean.label: mean.images for mean in found.found.means} == {"healthy": 12, "sick": 12}
    (region,) = found.found.regions
    assert region.label == "sick" and region.area == 0.5 and region.low <= region.hits <= region.high
    assert [row.share for row in found.found.randomised] == [0, 0.25, 0.5, 0.75, 1]


def test_nothing_tells_whose_an_image_is(tiny: Tiny, explained: RunDir) -> None:
    text = explained.path("explain/explain.json").read_text()
    assert not any(name in text for name in [*tiny.pixels(), "scan-", "pat-"])
    assert all(b"tEXt" not in path.read_bytes() for path in explained.path("explain").glob("*.png"))


def test_report_shows_the_gallery_and_refuses_a_swapped_picture(explained: RunDir, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    shutil.copytree(explained.root, run.root)
    page = write_report(run).read_text()
    assert page.count('class="thumbs pairs"') >= 2 and "Model-randomisation check" in page and "Peak inside" in page
    if BINARY:
        with Tab() as tab:
            assert tab.faults(run.path("report.html")) == []
    (run.path("explain/image-00.png")).write_bytes(b"other")
    with pytest.raises(DamagedError, match=r"image-00\.png is not the picture"):
        write_report(run)
    raw = json.loads(run.path("explain/explain.json").read_text())
    raw["pictures"][0]["file"] = "../../secret.png"
    run.path("explain/explain.json").write_text(json.dumps(raw))
    with pytest.raises(DamagedError, match="not of this version"):
        write_report(run)


def test_another_prepared_set_is_refused_and_the_right_one_found(tiny: Tiny, tmp_path: Path) -> None:
    trained = open_trained(tiny.run)
    assert find_prepared(tiny.prepared.folder.parents[1], trained) == tiny.prepared
    with pytest.raises(PreparedError, match="name their --home"):
        find_prepared(tmp_path, trained)


def test_outcomes_of_other_tasks() -> None:
    columns = {"image_id": list("wxyz"), "patient_id": "", "fold": 0, "arm": "a", "iterations": 1}
    scores = {"score_a": [0.6, 0.2, 0.1, 0.3], "score_b": [0.3, 0.5, 0.1, 0.3], "score_c": [0.1, 0.3, 0.8, 0.4]}
    multi = Predictions(pd.DataFrame({**columns, "label": list("abca"), **scores}), ("a", "b", "c"), "multiclass")
    found = _outcomes(multi).set_index(["image_id", "place"])["cell"]
    assert [found["w", 0], found["w", 1], found["z", 0], found["z", 2]] == ["tp", "tn", "fn", "fp"]
    stated = {
        "label_p": [1, 0, np.nan, 1],
        "label_q": [0, 1, 1, 0],
        "score_p": [0.9, 0.8, 0.7, 0.2],
        "score_q": [0.1] * 4,
    }
    several = Predictions(pd.DataFrame({**columns, "label": "", **stated}), ("p", "q"), "multilabel")
    rows = _outcomes(several)
    assert rows[rows["place"] == 0]["cell"].tolist() == ["tp", "fp", "fn"] and len(rows) == 7
    assert _choose(rows).duplicated(["image_id", "place"]).sum() == 0


def test_regions_from_masks_and_boxes(tmp_path: Path, id_key: bytes) -> None:
    mask = np.zeros((50, 80), np.uint8)
    mask[:25] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    pd.DataFrame({"image": ["a.png"], "mask": ["m.png"]}).to_csv(tmp_path / "masks.csv", index=False)
    (top,) = read_regions(tmp_path / "masks.csv", "image", How(32), id_key).values()
    assert top[:16].all() and not top[16:].any()
    boxes = {"image": ["a.png", "a.png"], "left": [0, 0.5], "top": [0, 0.5], "right": [0.5, 1], "bottom": [0.5, 1]}
    pd.DataFrame(boxes).to_csv(tmp_path / "boxes.csv", index=False)
    (both,) = read_regions(tmp_path / "boxes.csv", "image", How(32), id_key).values()
    assert both[:16, :16].all() and both[16:, 16:].all() and both.sum() == 512
    pd.DataFrame({**boxes, "right": [0.5, 2]}).to_csv(tmp_path / "boxes.csv", index=False)
    with pytest.raises(ManifestError, match="a box that is none"):
        read_regions(tmp_path / "boxes.csv", "image", How(32), id_key)
    with pytest.raises(ManifestError, match="give masks"):
        read_regions(tmp_path / "boxes.csv", "image", How(32, "pad"), id_key)
