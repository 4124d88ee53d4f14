"""Models of the tasks beyond two classes at work: masks and areas, another set, one ONNX file, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cxrtl.cli import app
from cxrtl.config import Data
from cxrtl.data.images.files import square, unsquare
from cxrtl.report.external import write_external
from cxrtl.rundir import read_json
from cxrtl.use import export as exporting
from cxrtl.use import external
from cxrtl.use.listing import list_images
from cxrtl.use.model import open_trained
from cxrtl.use.predict import predict
from tests.use.conftest import CPU, Tiny, prepare, train

SIDE = 64
OWN: dict[str, dict[str, Any]] = {
    "multiclass": {"label_column": "kind"},
    "multilabel": {"label_columns": ["left", "right"]},
    "segmentation": {"structures": ["left", "right"]},
}


def draw_boxes(root: Path, images: int = 16, seed: int = 0) -> Path:
    """Noise with a bright box on the left, on the right, on both or nowhere; the masks bear 1 and 2."""
    rng, rows = np.random.default_rng(seed), []
    for name in ("files", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(images):
        height, width = 90 + number, 110
        picture, mask = rng.integers(0, 90, (height, width)), np.zeros((height, width), np.uint8)
        there = number % 4 in (1, 3), number % 4 in (2, 3)
        for place, drawn in enumerate(there, start=1):
            left = (10, 60)[place - 1] + number % 5
            box = (slice(20, 70), slice(left, left + 35))
            picture[box] += 150 * drawn
            mask[box] = place * drawn
        Image.fromarray(picture.astype(np.uint8)).save(root / f"files/{number:02d}.png")
        Image.fromarray(mask).save(root / f"masks/{number:02d}.png")
        rows.append({
            "image": f"files/{number:02d}.png", "mask": f"masks/{number:02d}.png", "patient_id": f"p{seed}-{number}",
            "kind": ("none", "one", "one", "both")[number % 4], "left": int(there[0]), "right": int(there[1]),
        })  # fmt: skip
    pd.DataFrame(rows).to_csv(root / "labels.csv", index=False)
    return root / "labels.csv"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, id_key: bytes) -> dict[str, Tiny]:
    """A run of each task, trained for as long as it takes to find something."""
    root = tmp_path_factory.mktemp("tasks")
    labels, runs = draw_boxes(root / "images"), {}
    for task, own in OWN.items():
        knobs = {"backbone": "shufflenet_v2_x0_5", "init": "scratch", "optimizer": "adamw", "rate": 3e-3}
        raw = {
            "name": "tiny",
            "data": {"source": "table", "task": task, "image_size": SIDE, **own},
            "folds": {"k": 2},
            "train": {**knobs, "head_rate_factor": 1, "batch_size": 8, "budgets": [25]},
        }
        runs[task] = train(root / task, labels, id_key, raw)
    return runs


@pytest.fixture
def segmented(made: dict[str, Tiny]) -> Tiny:
    return made["segmentation"]


def shown(tiny: Tiny) -> tuple[list[Path], np.ndarray]:
    """The image files, and the squares that the models see of them."""
    paths, how = sorted((tiny.images / "files").iterdir()), open_trained(tiny.run).how
    return paths, np.stack([square(np.asarray(Image.open(path)), how) for path in paths])


def test_a_folds_masks_are_those_of_its_training(segmented: Tiny) -> None:
    trained = open_trained(segmented.run)
    kept = pd.concat(pd.read_parquet(path) for path in sorted(segmented.run.root.glob("*/fold*/masks-25.parquet")))
    kept = kept.set_index("image_id")["mask"]
    pixels = {}
    for ids, squares, _ in external.batches(segmented.prepared):
        pixels |= dict(zip(ids, squares, strict=True))
    frame, differ = trained.loaded.predictions.frame, 0
    for fold in trained.trials:
        held = frame.loc[frame["fold"] == fold, "image_id"]
        _, (found,) = trained.ensemble(CPU, [fold]).masks(np.stack([pixels[name] for name in held]))
        wanted = np.stack([np.frombuffer(kept[name], np.uint8).reshape(SIDE, SIDE) for name in held])
        differ += int((found != wanted).sum())
        assert set(np.unique(found)) == {0, 1, 2}
    assert differ <= 2  # pixels on the fence


def test_areas_and_masks_of_further_images(segmented: Tiny, tmp_path: Path) -> None:
    trained = open_trained(segmented.run)
    paths, pixels = shown(segmented)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    found = predict(trained, list_images([*paths, bad], "image"), tmp_path / "out.csv", pictures=tmp_path / "masks")
    table = pd.read_csv(tmp_path / "out.csv")
    assert (found.scored, found.reasons) == (16, {"unknown_format": 1}) and len(table) == 17
    scores = []
    for fold in trained.trials:
        with torch.inference_mode():
            inputs = trained.ensemble(CPU).normalise(torch.from_numpy(pixels)[:, None].float())
            scores.append(trained.model(fold, CPU)(inputs).double().softmax(1).numpy())
    joint, each = np.mean(scores, axis=0).argmax(1), np.argmax(scores, axis=2)
    for number, name in enumerate(("left", "right"), start=1):
        areas, mine = (each == number).mean(axis=(2, 3)), joint == number
        wanted = {"area": mine.mean(axis=(1, 2)), "sd": areas.std(0, ddof=1), "min": areas.min(0), "max": areas.max(0)}
        both = np.stack([(one == number).sum((1, 2)) + mine.sum((1, 2)) for one in each])
        shared = np.stack([((one == number) & mine).sum((1, 2)) for one in each])
        wanted["dice"] = np.where(both > 0, 2 * shared / np.where(both > 0, both, 1), 1.0).mean(0)
        for kind, values in wanted.items():
            assert np.abs(table[f"{kind}_{name}"][:16] - values).max() < 1e-3, (kind, name)
    assert table.iloc[16].drop(["image", "reason"]).isna().all() and table["area_left"][:16].std() > 0.02
    for path, name, mask in zip(paths, table["mask"][:16], joint, strict=True):
        with Image.open(path) as image, Image.open(tmp_path / "masks" / name) as drawn:
            assert drawn.size == image.size and drawn.mode == "P"
            wanted = unsquare(mask.astype(np.uint8), image.height, image.width, trained.how)
            assert (np.asarray(drawn) != wanted).mean() < 1e-3


def test_predicted_masks_serve_as_a_tables_masks(segmented: Tiny, tmp_path: Path, id_key: bytes) -> None:
    shutil.copytree(segmented.images / "files", tmp_path / "files")
    trained, listed = open_trained(segmented.run), list_images([tmp_path / "files"], "image")
    predict(trained, listed, tmp_path / "out.parquet", pictures=tmp_path / "drawn")
    table = pd.read_parquet(tmp_path / "out.parquet")
    own = [str(Path(name).relative_to(tmp_path)) for name in table["image"]]
    table.assign(image=own, mask="drawn/" + table["mask"]).to_csv(tmp_path / "labels.csv", index=False)
    raw = {"source": "table", "path": str(tmp_path / "labels.csv"), "task": "segmentation", "image_size": SIDE}
    asked = SimpleNamespace(data=Data.model_validate({**raw, **OWN["segmentation"]}))
    prepared = prepare(asked, tmp_path / "prepared", id_key)  # type: ignore[arg-type]
    assert prepared.images == 16 and not prepared.skipped
    pixels, masks = next((pixels, masks) for _, pixels, masks in external.batches(prepared))
    assert masks is not None and (trained.ensemble(CPU).masks(pixels)[0] != masks).mean() < 0.05
    predict(trained, listed, tmp_path / "without.csv")
    assert "mask" not in pd.read_csv(tmp_path / "without.csv")


def test_another_set_of_masks(segmented: Tiny, tmp_path: Path, id_key: bytes) -> None:
    labels = draw_boxes(tmp_path / "other", 8, seed=1)
    trained = open_trained(segmented.run)
    data = external.as_in_training(trained, Data(source="table", path=str(labels)))
    assert (data.task, data.structures, data.image_size) == ("segmentation", ("left", "right"), SIDE)
    prepared = prepare(SimpleNamespace(data=data), tmp_path / "prepared", id_key)  # type: ignore[arg-type]
    found, scores, chosen = external.evaluate(trained, prepared, "other")
    page = write_external(found, scores, chosen, tmp_path / "out").read_text()
    together, truth = [], []
    for _, pixels, masks in external.batches(prepared):
        together.append(trained.ensemble(CPU).masks(pixels)[0])
        truth.append(masks)
    found_masks, true_masks = np.concatenate(together), np.concatenate(truth)
    dice = []
    for one, other in zip(found_masks, true_masks, strict=True):
        for number in (1, 2):
            a, b = one == number, other == number
            dice.append(2 * (a & b).sum() / (a.sum() + b.sum()) if a.any() or b.any() else 1.0)
    value = read_json(tmp_path / "out/external.json")["here"]["metrics"]["dice"]["value"]
    assert value == pytest.approx(np.mean(dice)) and f"Dice {value:.3f}" in page and "one against the rest" not in page


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_what_makes_no_sense_is_refused(made: dict[str, Tiny], tmp_path: Path) -> None:
    areas, classes = made["segmentation"].run.root, made["multiclass"].run.root
    image, out = next((made["multiclass"].images / "files").iterdir()), tmp_path / "out.csv"
    for words in (("predict", areas, image, "--explain", tmp_path / "maps", "--out", out), ("explain", areas)):
        done = run(*words)
        assert done.exit_code != 0 and "is a segmentation" in done.output.replace("\n", " ") and not out.exists()
    done = run("predict", classes, image, "--masks", tmp_path / "masks", "--out", out)
    assert done.exit_code == 2 and "multiclass finds none" in done.output.replace("\n", " ") and not out.exists()
    done = run("predict", areas, image, "--masks", tmp_path / "masks", "--out", out)
    assert done.exit_code == 0 and pd.read_csv(out)["mask"].tolist() == ["000001.png"]


@pytest.mark.slow
@pytest.mark.parametrize("task", list(OWN))
def test_export(made: dict[str, Tiny], task: str, tmp_path: Path) -> None:
    tiny = made[task]
    trained = open_trained(tiny.run)
    found = exporting.export(
        trained, tmp_path / "model.onnx", images=exporting.read_images([tiny.images / "files"], trained)
    )
    assert found.images == 19 and found.difference <= 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    paths, pixels = shown(tiny)
    wanted = trained.ensemble(CPU)(pixels).mean(0)
    given = np.concatenate([
        session.run(None, {"grey": np.asarray(Image.open(path))[None, None]})[0] for path in paths
    ])  # fmt: skip
    assert given.shape == wanted.shape and np.abs(given - wanted).max() < 1e-4
    assert given.std(axis=0).max() > 1e-3  # it tells images apart
    card = (tmp_path / "model-card.md").read_text()
    said = {"multiclass": "tells apart both, none, one", "multilabel": "finds left, right"}
    assert said.get(task, "outlines left, right") in card and ("[N, 3, 64, 64]" in card) == (task == "segmentation")
