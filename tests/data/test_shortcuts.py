"""A label that stands beside the organ is found out; a clean set is left in peace."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cxrtl.data import phantom, shortcuts
from cxrtl.data.survey import reduce
from cxrtl.records import INDEX_COLUMNS

IMAGES, SIDE = 240, 64
FOLD = np.arange(IMAGES) // 2 % 4  # two images of a patient
OWNERS = [f"pat-{number // 2}" for number in range(IMAGES)]
TRUTH = (np.arange(IMAGES) // 8 % 2).astype(float)


def rim(marked: bool) -> np.ndarray:
    pixels = np.stack([phantom.draw(3, n, bool(TRUTH[n]), n // 2, SIDE) for n in range(IMAGES)])
    if marked:
        pixels[TRUTH == 1, 2:6, 2:9] = 255  # an R in the corner, say
    return shortcuts.rim(reduce(pixels), shortcuts.corner_histograms(pixels))


def probe(values: np.ndarray, truth: np.ndarray = TRUTH, fold: np.ndarray = FOLD) -> shortcuts.Probe:
    (found,) = shortcuts.probe({"x": values}, {"sick": truth}, fold, OWNERS)
    return found


def test_marker_in_a_corner_shows_and_a_clean_phantom_does_not() -> None:
    marked, clean = probe(rim(True)), probe(rim(False))
    assert marked.auc is not None and marked.auc > 0.99 and "almost by itself" in marked.reading
    assert clean.low is not None and clean.high is not None and clean.low < 0.5 < clean.high
    assert clean.reading == "nothing shown" and clean.images == IMAGES


def test_labels_that_are_not_stated_and_training_only_images_are_left_out() -> None:
    values = TRUTH[:, None] + np.random.default_rng(0).normal(scale=0.1, size=(IMAGES, 2))
    stated = np.where(np.arange(IMAGES) % 3 == 0, np.nan, TRUTH)
    assert probe(values, stated).images == IMAGES - IMAGES // 3
    holdout = probe(values, fold=np.where(FOLD == 0, 0, -1))
    assert holdout.images == IMAGES // 4 and holdout.auc == 1.0


def test_what_cannot_be_tried_says_so() -> None:
    found = probe(np.ones((IMAGES, 1)), np.zeros(IMAGES))
    assert (found.auc, found.low, found.reading) == (None, None, "could not be tried")


def test_metadata_columns() -> None:
    index = pd.DataFrame({name: [""] * IMAGES for name in INDEX_COLUMNS})
    rng = np.random.default_rng(1)
    index["site"] = np.where(TRUTH == 1, "clinic", "ward")
    index["age"] = np.where(rng.random(IMAGES) < 0.1, np.nan, 50 + 10 * TRUTH + rng.normal(size=IMAGES))
    index["view"] = rng.choice(["AP", "PA"], IMAGES)
    index["always"] = "the same"
    index["finding:Mass"] = TRUTH  # the label in other words
    index["reader_one"] = TRUTH  # and in a reader's
    features = shortcuts.metadata(index)
    assert list(features) == ["site", "age", "view", "all metadata"]
    found = {row.features: row for row in shortcuts.probe(features, {"sick": TRUTH}, FOLD, OWNERS)}
    assert found["site"].auc == 1.0 and found["age"].auc is not None and found["age"].auc > 0.9
    assert found["view"].low is not None and found["view"].low < 0.5
    assert found["all metadata"].auc is not None and found["all metadata"].auc > 0.99


@pytest.mark.parametrize(
    ("low", "said"),
    [(None, "could not"), (0.3, "nothing shown"), (0.55, "a little"), (0.7, "something"), (0.95, "almost by itself")],
)
def test_reading_goes_by_the_lower_end(low: float | None, said: str) -> None:
    assert said in shortcuts.reading(low)
