"""Augmentation: what each change does to pixels, and that switches do not disturb one another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cxrtl.config import Augment
from cxrtl.learn import augment
from cxrtl.learn.vision import models

OFF = {f"{name}_probability": 0 for name in ("scale", "flip_horizontal", "flip_vertical", "crop", "translate")}


def changed(image: torch.Tensor, **knobs: float) -> torch.Tensor:
    """Image number 0 of a pass over four, under a recipe with everything off but `knobs`."""
    drawn = augment.draw_pass(Augment.model_validate({**OFF, **knobs}), 0, 0, 0, 4)
    return augment.resample(image.expand(4, 1, -1, -1), drawn.scale, drawn.offset)[:1]


@pytest.fixture
def image() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((1, 1, 16, 16)).astype(np.float32))


def test_nothing_on_changes_nothing(image: torch.Tensor) -> None:
    assert torch.allclose(changed(image), image, atol=1e-5)


def test_flips_mirror_their_own_axis(image: torch.Tensor) -> None:
    assert torch.allclose(changed(image, flip_horizontal_probability=1), image.flip(3), atol=1e-5)
    assert torch.allclose(changed(image, flip_vertical_probability=1), image.flip(2), atol=1e-5)


def test_translation_moves_by_the_share_of_the_side_and_fills_black(image: torch.Tensor) -> None:
    knobs = Augment.model_validate({**OFF, "translate_probability": 1, "translate": 0.25})
    drawn = augment.draw_pass(knobs, 0, 0, 0, 4)
    assert drawn.offset.abs().max() <= 2 * 0.25  # the side is 2 long
    one_pixel = torch.tensor([[2 / 16, 0.0]])
    moved = augment.resample(image, torch.ones(1, 2), one_pixel)
    assert torch.allclose(moved[..., :-1], image[..., 1:], atol=1e-5) and (moved[..., -1] == 0).all()


def test_crop_stays_inside_the_image() -> None:
    knobs = Augment.model_validate({**OFF, "crop_probability": 1, "crop": 0.4})
    drawn = augment.draw_pass(knobs, 0, 0, 0, 500)
    reach = drawn.scale.abs() + drawn.offset.abs()
    assert reach.max() <= 1 + 1e-6 and drawn.scale.min() >= 0.6 - 1e-6


def test_zoom_keeps_its_range() -> None:
    knobs = Augment.model_validate({**OFF, "scale_probability": 1, "scale": 0.1})
    drawn = augment.draw_pass(knobs, 0, 0, 0, 500)
    zoom = 1 / drawn.scale
    assert 0.9 - 1e-6 <= zoom.min() < 0.92 and 1.08 < zoom.max() <= 1.1 + 1e-6
    assert torch.equal(drawn.scale[:, 0], drawn.scale[:, 1])


def test_probabilities_are_kept() -> None:
    drawn = augment.draw_pass(Augment.model_validate({**OFF, "flip_vertical_probability": 0.25}), 0, 0, 0, 20_000)
    assert (drawn.scale[:, 1] < 0).float().mean() == pytest.approx(0.25, abs=0.01)
    assert (drawn.scale[:, 0] > 0).all()


def test_a_switch_leaves_order_and_other_changes_alone() -> None:
    full = augment.draw_pass(Augment(), 3, 2, 1, 50)
    fewer = augment.draw_pass(Augment(flip_vertical_probability=0), 3, 2, 1, 50)
    assert torch.equal(full.order, fewer.order)
    assert torch.equal(full.scale[:, 0], fewer.scale[:, 0])
    assert torch.equal(full.scale[:, 1].abs(), fewer.scale[:, 1])


def test_passes_folds_and_seeds_have_their_own_numbers() -> None:
    orders = [
        tuple(augment.draw_pass(Augment(), *which, 50).order.tolist())
        for which in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))
    ]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_normalising_agrees_with_torchvision() -> None:
    grey = torch.arange(256).reshape(1, 1, 16, 16)
    found = augment.Normalise(torch.device("cpu"))(grey.float())
    wanted = models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (wanted.mean, wanted.std))
    assert torch.allclose(found, (grey.expand(1, 3, 16, 16) / 255 - mean) / std, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)
