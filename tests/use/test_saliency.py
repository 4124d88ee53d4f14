"""Maps have a known answer where the head is linear, every kind of backbone has one, and the checks can fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cxrtl.errors import ConfigError
from cxrtl.learn import backbones
from cxrtl.use.saliency import Saliency, cascade, pointing
from tests.use.conftest import CPU

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)


def built(name: str, classes: int = 2, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return backbones.build(name, classes).eval().to(CPU)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_with_a_linear_head_grad_cam_is_the_class_activation_map(task: str) -> None:
    """Zhou et al. 2016: the last maps weighted by the class's weights; Grad-CAM divides by the number of places."""
    model = built("shufflenet_v2_x0_5", 3 if task == "multiclass" else 2)
    saliency = Saliency(model, "shufflenet_v2_x0_5", 3 if task == "multiclass" else 2, task, 64)  # type: ignore[arg-type]
    assert saliency.layer == "conv5"
    kept = []
    hook = model.conv5.register_forward_hook(lambda *found: kept.append(found[2].detach()))
    found = saliency.raw(PIXELS, np.array([1, 1, 0]))
    hook.remove()
    weight = model.fc.weight.detach()
    rows = torch.stack([weight[1], weight[1], weight[0]])
    if task == "binary":
        rows = rows - torch.stack([weight[0], weight[0], weight[1]])
    wanted = (kept[0] * rows[:, :, None, None]).sum(1) / (2 * 2)
    assert np.abs(found - wanted.numpy()).max() < 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize(
    ("backbone", "layer"),
    [("squeezenet1_1", "classifier.0"), ("mobilenet_v3_small", "features"), ("alexnet", "avgpool")],
)
def test_layer_before_the_head_and_maps_from_0_to_1(backbone: str, layer: str) -> None:
    model = built(backbone).requires_grad_(False)  # as after freezing
    before = model(torch.ones(1, 3, 64, 64))
    saliency = Saliency(model, backbone, 2, "binary", 64)
    assert saliency.layer == layer and torch.equal(model(torch.ones(1, 3, 64, 64)), before)
    maps = saliency.maps(PIXELS, np.ones(3, np.int64))
    assert maps.shape == (3, 64, 64) and maps.min() >= 0 and set(maps.max(axis=(1, 2)).round(6)) <= {0.0, 1.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "size", "side"), [("vit_b_32", 224, 7), ("swin_t", 224, 7), ("densenet121", 96, 3)]
)
def test_transformers_and_others(backbone: str, size: int, side: int) -> None:
    model = built(backbone)
    torch.nn.init.normal_(model.heads.head.weight) if backbone.startswith("vit") else None  # its head starts at zero
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size), dtype=np.uint8)
    raw = Saliency(model, backbone, 2, "binary", size).raw(pixels, np.ones(2, np.int64))
    assert raw.shape == (2, side, side) and np.ptp(raw, axis=(1, 2)).min() > 0


def test_a_picture_too_small_for_a_map_is_refused() -> None:
    with pytest.raises(ConfigError, match="no layer with a spatial output"):
        model = built("squeezenet1_1")
        model.features, model.classifier = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Conv2d(3, 2, 1)
        Saliency(model, "squeezenet1_1", 2, "binary", 64)


def test_cascade_finds_no_change_where_nothing_changed_and_restores_the_model() -> None:
    model = built("squeezenet1_1")
    saliency, ones = Saliency(model, "squeezenet1_1", 2, "binary", 64), np.ones(3, np.int64)
    same = cascade(saliency, built("squeezenet1_1").state_dict(), PIXELS, ones)
    assert all(np.allclose(values, 1) for values in same)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    other = cascade(saliency, built("squeezenet1_1", seed=5).state_dict(), PIXELS, ones)
    assert all(np.nanmax(np.abs(values)) < 0.999 for values in other)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_pointing_game() -> None:
    heat, inside = np.zeros((4, 4)), np.zeros((4, 4), bool)
    heat[1, 1], heat[3, 3], inside[:2, :2] = 3, 1, True
    assert pointing(heat, inside) == (True, 0.75) and pointing(heat, ~inside) == (False, 0.25)
    assert pointing(np.zeros((4, 4)), inside)[1] == 0
