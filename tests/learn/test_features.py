"""Features computed once train the same heads as pixels through frozen layers, and come back whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cxrtl.config import Augment, Train
from cxrtl.learn import augment, features, freeze, loop, state, transfer
from cxrtl.learn.precision import Precision
from tests.learn.test_freeze import recipe
from tests.learn.test_loop import CPU, images

STILL = Augment.model_validate({name: 0 for name in Augment.model_fields if name.endswith("_probability")})
TRAINED, HELD_OUT = np.arange(0, 30), np.arange(30, 41)


def bank(train: Train, change: Augment, precision: Precision) -> tuple[features.Array, features.Array]:
    """Of 41 images, as the orchestrator has them computed: plain, and views."""
    body = freeze.split(train, transfer.make_model(train, None, 2, 0, 0, CPU), 2).body
    assert body is not None
    pixels = images(41, 64).pixels
    changes = augment.draw_views(change, 0, train.views, 41) if change.active else None
    found = (features.compute(body, pixels, None, "fp32", CPU), features.compute(body, pixels, changes, precision, CPU))
    plain, views = (part.flatten(0, 1) for part in found)
    return plain.numpy(), (views.view(torch.int16) if views.dtype == torch.bfloat16 else views).numpy()


def heads(
    train: Train, change: Augment, precision: Precision, cached: bool, folder: Path | None = None
) -> torch.Tensor:
    """Scores of the held-out images after training, on features or through the whole model."""
    whole = images(41, 64)
    drawn = augment.draw_views(change, 0, train.views, 41) if change.active else None
    model = transfer.make_model(train, None, 2, 0, 0, CPU)
    net, parts = features.net(train, model, 2, "binary", cached), []
    arrays = [features.on_device(part, CPU) for part in bank(train, change, precision)] if cached else None
    for rows in (TRAINED, HELD_OUT):
        views = (drawn[0][:, rows], drawn[1][:, rows]) if drawn else None
        found = features.part_of(*arrays, rows) if arrays else None
        parts.append(loop.Images(whole.pixels[rows], whole.targets[rows], views, found))
    setting = loop.Setting(train, change, 0, 0, 2, precision, CPU)
    optimizer = transfer.make_optimizer(train, model, 2)
    scores = []

    def milestone(at: state.State) -> None:
        scores.append(loop.predict(setting, parts[1], net))

    def save(at: state.State) -> None:
        if folder:
            state.save(folder, at, state.Snapshot(model, optimizer), "hash")
            raise KeyboardInterrupt

    at = state.load(folder, "hash", model, optimizer) if folder else state.State()
    loop.fit(setting, parts[0], net, optimizer, at, loop.Hooks(milestone, save, lambda _: None))
    return torch.stack(scores)


@pytest.mark.parametrize(
    ("name", "until", "change", "precision"),
    [
        ("squeezenet1_1", "backbone", STILL, "fp32"),
        ("squeezenet1_1", "backbone", Augment(), "bf16"),
        ("resnet18", "layer3", Augment(), "bf16"),
        ("resnet18", "backbone", Augment(), "fp32"),
        ("resnet18", "layer3", STILL, "fp32"),
        pytest.param("alexnet", "backbone", STILL, "fp32", marks=pytest.mark.slow),
        ("densenet121", "backbone", STILL, "fp32"),
    ],
)
def test_heads_on_features_score_as_through_the_whole_model(
    name: str, until: str, change: Augment, precision: Precision
) -> None:
    train = recipe(name, until, budgets=[3, 9], rate=2e-4, views=3)
    once, always = (heads(train, change, precision, cached) for cached in (True, False))
    assert once.shape == always.shape == (2, 11, 2)
    assert float((once - always).abs().max()) < 1e-4
    assert float((once[0] - once[1]).abs().max()) > 1e-4  # it did learn


def test_heads_are_the_same_bits_however_a_run_is_cut(tmp_path: Path) -> None:
    train = recipe("squeezenet1_1", "backbone", budgets=[6, 12], rate=1e-2, views=2, checkpoint_every=8)
    whole = heads(train, Augment(), "fp32", True)
    with pytest.raises(KeyboardInterrupt):
        heads(train, Augment(), "fp32", True, tmp_path)
    assert torch.equal(heads(train, Augment(), "fp32", True, tmp_path)[-1], whole[-1])
    shorter = heads(recipe("squeezenet1_1", "backbone", budgets=[6], rate=1e-2, views=2), Augment(), "fp32", True)
    assert torch.equal(shorter[0], whole[0])


def test_views_depend_on_seed_and_view_alone_and_passes_choose_among_them() -> None:
    few, more = (augment.draw_views(Augment(), 0, count, 9) for count in (2, 3))
    assert torch.equal(few[0], more[0][:2]) and torch.equal(few[1], more[1][:2])
    assert not torch.equal(more[1][0], more[1][1])
    drawn = augment.draw_pass(Augment(), 0, 0, 5, 9)
    chosen = augment.choose_views(drawn, more, 0, 0, 5)
    assert torch.equal(chosen.order, drawn.order) and len(set(chosen.view.tolist())) > 1
    for place, (image, view) in enumerate(zip(chosen.order, chosen.view, strict=True)):
        assert torch.equal(chosen.offset[place], more[1][view, image])
    other = augment.choose_views(drawn, more, 0, 1, 5)
    assert not torch.equal(other.view, chosen.view)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_features_come_back_as_they_were_or_not_at_all(tmp_path: Path, dtype: torch.dtype) -> None:
    spec = {"views": 2, "images": (3, 2)}
    parts = [torch.rand(2, images, 4).to(dtype) for images in (3, 2)]
    named: dict[str, str] = {}
    for number, part in enumerate(parts):
        named |= features.write_part(tmp_path, f"part-{number}.safetensors", part)
    assert features.read(tmp_path, spec) is None  # not finished
    features.finish(tmp_path, spec, named)
    found = features.read(tmp_path, spec)
    assert found is not None
    kept = features.part_of(torch.zeros(5, 4), features.on_device(found, CPU), np.arange(5))
    assert torch.equal(kept.views, torch.cat(parts, dim=1).flatten(0, 1)) and kept.views.dtype == dtype
    assert torch.equal(kept.batch(torch.tensor([4, 0]), torch.tensor([1, 0])), kept.views[[9, 0]])
    assert features.read(tmp_path, {**spec, "views": 3}) is None
    (tmp_path / "part-1.safetensors").write_bytes(b"altered")
    assert features.read(tmp_path, spec) is None


def test_shape_is_known_before_anything_is_computed() -> None:
    assert features.shape(recipe("squeezenet1_1", "backbone"), 224) == (512, 13, 13)
    assert features.shape(recipe("resnet18", "layer3"), 64) == (256, 4, 4)
    assert features.shape(recipe("regnet_y_400mf", "backbone"), 64) == (440,)


def test_views_are_counted_where_layers_are_frozen_and_images_change() -> None:
    frozen = recipe("resnet18", "backbone", views=5)
    assert features.view_count(frozen, Augment()) == 5
    assert features.view_count(frozen, STILL) == 1
    assert features.view_count(Train(), Augment()) == 0
