"""Predicting: the ensemble's arithmetic, every kind of input, files that cannot be used, and Ray's way as ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from cxrtl.cli import app
from cxrtl.errors import ConfigError, ManifestError
from cxrtl.use.listing import list_images
from cxrtl.use.model import open_trained
from cxrtl.use.predict import predict
from tests.use.conftest import CPU, Tiny


@pytest.fixture
def broken(tiny: Tiny, tmp_path: Path) -> Path:
    """A folder with two scans, one in a sub-folder, and three files that cannot be used."""
    root = tmp_path / "scans"
    (root / "deeper").mkdir(parents=True)
    first, second = sorted((tiny.images / "files").iterdir())[:2]
    (root / "a.png").write_bytes(first.read_bytes())
    (root / "deeper/b.png").write_bytes(second.read_bytes())
    (root / "cut.png").write_bytes(first.read_bytes()[:500])
    (root / "empty.png").touch()
    (root / "notes.txt").write_text("no image")
    (root / ".hidden").touch()
    return root


def test_mean_and_spread_over_folds(tiny: Tiny, tmp_path: Path) -> None:
    trained = open_trained(tiny.run)
    listed = list_images([tiny.images / "labels.csv"], "image")
    found = predict(trained, listed, tmp_path / "out.parquet")
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert found.scored == 24 == len(table) and found.reasons == {}
    assert table["image"].tolist() == pd.read_csv(tiny.images / "labels.csv")["image"].tolist()
    index = trained.loaded.folds["image_id"].tolist()  # in the table's order
    pixels = tiny.pixels()
    scores = trained.ensemble(CPU)(np.stack([pixels[name] for name in index]))[:, :, 1]
    for name, values in {
        "score": scores.mean(0), "sd": scores.std(0, ddof=1), "min": scores.min(0), "max": scores.max(0)
    }.items():  # fmt: skip
        assert np.abs(table[f"{name}_sick"] - values).max() < 1e-6, name
    assert (table["called"] == np.where(table["score_sick"] >= 0.5, "sick", "healthy")).all()
    assert list(table) == ["image", "called", "score_sick", "sd_sick", "min_sick", "max_sick", "reason"]


def test_unusable_files_are_rows_with_a_reason(tiny: Tiny, broken: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    words = ["predict", str(tiny.run.root), str(broken), str(broken / "nothing.png"), "--out", str(out)]
    assert "does not exist" in CliRunner().invoke(app, words).output and not out.exists()
    done = CliRunner().invoke(app, [word for word in words if "nothing" not in word])
    assert done.exit_code == 0, done.output
    assert "2 images scored; without a score: 1 empty, 1 truncated, 1 unknown_format" in done.output.replace("\n", " ")
    assert "cut" not in done.output  # names are in the table alone
    table = pd.read_csv(out, keep_default_na=False).set_index("image")
    assert table["reason"].to_dict() == {
        str(broken / "a.png"): "",
        str(broken / "cut.png"): "truncated",
        str(broken / "empty.png"): "empty",
        str(broken / "notes.txt"): "unknown_format",
        str(broken / "deeper/b.png"): "",
    }
    assert (table.loc[table["reason"] != "", ["called", "score_sick", "sd_sick"]] == "").all(axis=None)


def test_ray_gives_the_same_rows(tiny: Tiny, broken: Path, tmp_path: Path, ray_instance: None) -> None:
    trained = open_trained(tiny.run, "second")
    odd = broken / "caf\udce9.png"
    odd.write_bytes((broken / "a.png").read_bytes())  # a name that is not UTF-8
    listed = list_images([broken, tiny.images / "labels.csv"], "image")
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    found = predict(trained, listed, here)
    assert predict(trained, listed, there, on_ray=True) == found and found.scored == 27
    pd.testing.assert_frame_equal(pd.read_parquet(here), pd.read_parquet(there), rtol=0, atol=1e-6)


def test_overlays_are_named_in_the_table(tiny: Tiny, broken: Path, tmp_path: Path) -> None:
    trained = open_trained(tiny.run)
    predict(trained, list_images([broken], "image"), tmp_path / "out.csv", pictures=tmp_path / "maps")
    table = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert (table["overlay"] == "").tolist() == (table["reason"] != "").tolist()
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [name for name in table["overlay"] if name]
    drawn = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "maps").iterdir())])
    assert drawn.shape[1:] == (192, 384, 3) and (drawn[:, :, :192, 0] == drawn[:, :, :192, 2]).all()
    assert (drawn[:, :, 192:, 0] != drawn[:, :, 192:, 2]).any()  # what speaks against the class has no colour


def test_what_cannot_be_written_or_read_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    trained = open_trained(tiny.run)
    listed = list_images([tiny.images], "image")
    assert len(listed.names) == 25  # the table lies in the folder: no image, and a row that says so
    for out in ("out.xlsx", "nowhere/out.csv"):
        with pytest.raises(ConfigError, match="--out"):
            predict(trained, listed, tmp_path / out)
    with pytest.raises(ManifestError, match=r"lacks the column\(s\) \['scan'\]"):
        list_images([tiny.images / "labels.csv"], "scan")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="not one image"):
        list_images([tmp_path / "empty"], "image")
