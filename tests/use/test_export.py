"""The ONNX file says what PyTorch says, on images of any size, and a file that does not is not kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image

from cxrtl.data.images import How
from cxrtl.data.images.files import decode_file, square
from cxrtl.errors import ConfigError, RunError
from cxrtl.rundir import sha256_file
from cxrtl.use import export as exporting
from cxrtl.use.model import open_trained
from cxrtl.use.square import Square
from tests.use.conftest import CPU, Tiny, train


@pytest.mark.parametrize("aspect", ["stretch", "pad", "crop"])
def test_square_is_pillows_to_the_bit(aspect: str) -> None:
    rng, same = np.random.default_rng(0), Square(64, aspect)
    for shape in ((64, 64), (128, 128), (97, 301), (40, 90), (7, 3), (500, 64), (1, 1)):
        grey = rng.integers(0, 256, shape, dtype=np.uint8)
        found = same(torch.from_numpy(grey)[None, None])[0, 0].numpy()
        assert (found == square(grey, How(64, aspect))).all(), shape


@pytest.fixture(scope="session")
def exported(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "tiny.onnx"
    trained = open_trained(tiny.run)
    images = exporting.read_images([tiny.images], trained)
    assert len(images) == 24
    found = exporting.export(trained, out, images=images)
    assert found.difference <= 1e-4 and found.images == 27 and found.kind == "images given"
    return out


def test_files_of_odd_sizes_give_pytorchs_probabilities(tiny: Tiny, exported: Path) -> None:
    trained = open_trained(tiny.run)
    ensemble, session = trained.ensemble(CPU), onnxruntime.InferenceSession(exported)
    scores = []
    for path in sorted((tiny.images / "files").iterdir()):
        grey = np.asarray(Image.open(path))
        (found,) = session.run(["probabilities"], {"grey": grey[None, None]})
        wanted = ensemble(decode_file(str(path), trained.how).pixels[None].copy()).mean(0)
        assert np.abs(found - wanted).max() < 1e-4
        scores.append(found[0, 1])
    assert np.std(scores) > 0.01
    batch = np.random.default_rng(1).integers(0, 256, (3, 1, 70, 50), dtype=np.uint8)
    (together,) = session.run(None, {"grey": batch})
    alone = np.concatenate([session.run(None, {"grey": image[None]})[0] for image in batch])
    assert np.abs(together - alone).max() < 1e-5 and together.shape == (3, 2)


def test_file_and_card_say_what_they_are(tiny: Tiny, exported: Path) -> None:
    model = onnx.load(exported)
    onnx.checker.check_model(model)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about["classes"]) == ["healthy", "sick"] and "no medical device" in about["use"]
    card = exported.with_name("tiny-card.md").read_text()
    for said in (
        sha256_file(exported),
        about["run_hash"],
        "no medical device",
        "mean of 2 fold models",
        "healthy, sick",
    ):
        assert said in card
    assert card.count("author to fill") == 5 and "scan-" not in card and str(tiny.images) not in card


@pytest.mark.slow
def test_one_fold_alone_and_none_that_is_not_there(tiny: Tiny, tmp_path: Path) -> None:
    trained = open_trained(tiny.run, "second")
    with pytest.raises(ConfigError, match=r"--fold \[7\]: the run has the folds \[0, 1\]"):
        exporting.export(trained, tmp_path / "x.onnx", [7])
    found = exporting.export(trained, tmp_path / "x.onnx", [1])
    assert found.kind == "drawn images alone"
    grey = np.zeros((1, 1, 96, 96), np.uint8)
    (one,) = onnxruntime.InferenceSession(tmp_path / "x.onnx").run(None, {"grey": grey})
    assert np.abs(one - trained.ensemble(CPU, [1])(grey[0])[0]).max() < 1e-5
    assert np.abs(one - trained.ensemble(CPU, [0])(grey[0])[0]).max() > 1e-4


def test_a_file_that_differs_is_not_kept(
    tiny: Tiny, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_convert", lambda *_: exported.read_bytes())  # the other arm's
    with pytest.raises(RunError, match="differ by"):
        exporting.export(open_trained(tiny.run, "second"), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_real_images(shared_data: Path) -> None:
    """Any X-ray's square is Pillow's, whatever its size."""
    files = sorted((shared_data / "nih-effusion/images").iterdir())[:3]
    files += sorted((shared_data / "nih-named").rglob("*.png"))[:2]
    for path in files:
        grey = np.asarray(Image.open(path).convert("L"))
        found = Square(224, "stretch")(torch.from_numpy(grey.copy())[None, None])[0, 0].numpy()
        assert (found == square(grey, How(224))).all()


@pytest.mark.slow
def test_real_x_rays_at_their_own_size(shared_data: Path, tmp_path: Path, id_key: bytes) -> None:
    """From files to probabilities on real chest X-rays, onnxruntime against PyTorch: images that no fold trained on."""
    source = shared_data / "nih-effusion"
    table = pd.read_csv(source / "labels.csv").groupby("finding").head(45).sort_values("image")
    trained_on = table.groupby("finding").head(20)
    (tmp_path / "set/images").mkdir(parents=True)
    for name in trained_on["image"]:
        shutil.copyfile(source / name, tmp_path / "set" / name)
    trained_on.to_csv(tmp_path / "set/labels.csv", index=False)
    weights = shared_data / "weights/squeezenet1_1-imagenet-features.safetensors"
    raw = {
        "name": "tiny",
        "data": {"source": "table", "label_column": "finding", "positive": "effusion", "image_size": 224},
        "folds": {"k": 2, "ungrouped": True},
        "train": {"backbone": "squeezenet1_1", "init": f"file:{weights}", "budgets": [6], "batch_size": 10},
    }
    made = train(tmp_path / "home", tmp_path / "set/labels.csv", id_key, raw)
    trained = open_trained(made.run)
    files = [source / name for name in table["image"][~table["image"].isin(trained_on["image"])]]
    found = exporting.export(trained, tmp_path / "model.onnx", images=exporting.read_images(files, trained))
    assert found.images == 53 and found.difference <= 1e-4
    session, ensemble, scores = onnxruntime.InferenceSession(tmp_path / "model.onnx"), trained.ensemble(CPU), []
    for path in files:
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"))
        (given,) = session.run(["probabilities"], {"grey": grey[None, None]})
        wanted = ensemble(decode_file(str(path), trained.how).pixels[None].copy()).mean(0)
        assert np.abs(given - wanted).max() < 1e-4
        scores.append(given[0, 1])
    assert np.std(scores) > 1e-3
