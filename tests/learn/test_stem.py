"""The grey stem computes of grey images what the RGB stem does, at the border, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from cxrtl.config import Train
from cxrtl.errors import WeightsError
from cxrtl.learn import backbones, stem, transfer, weights
from cxrtl.learn.augment import Normalise

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "densenet121", "googlenet", "convnext_tiny"])
def test_grey_images_give_what_they_gave(name: str) -> None:
    torch.manual_seed(0)
    model = backbones.build(name, 2).eval()
    inputs = Normalise(CPU)(torch.rand(2, 1, 70, 70) * 255)
    with torch.inference_mode():
        wanted = model(inputs)
        stem.make_grey(model)
        found = model(inputs)
    assert torch.allclose(found, wanted, atol=1e-5, rtol=1e-4)


def test_every_pixel_of_the_first_map_agrees() -> None:
    torch.manual_seed(0)
    model = backbones.build("resnet18", 2)
    inputs, first = Normalise(CPU)(torch.rand(2, 1, 70, 70) * 255), model.get_submodule("conv1")
    stem.make_grey(model)
    grey = model.get_submodule("conv1").requires_grad_(False)
    first.requires_grad_(False)
    assert isinstance(grey, stem.GreyConv) and grey.weight.shape == (64, 1, 7, 7)
    assert float((first(inputs) - grey(inputs)).abs().max()) < 1e-5
    without = torch.nn.functional.conv2d(inputs[:, :1], grey.weight, None, 2, 3)
    inner = grey(inputs) - without
    assert float(inner[..., 2:-2, 2:-2].std((-1, -2)).max()) < 1e-5  # inside, K adds a constant …
    assert float((inner[..., :2, :] - inner[..., 10:12, :]).abs().max()) > 1e-3  # … at the border another


def test_recipe_starts_grey_from_rgb_weights_and_its_own_weights_come_back(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    safetensors.torch.save_file(backbones.build("resnet18", 5).state_dict(), file)
    train = Train(backbone="resnet18", init=f"file:{file}", stem="grey")
    model = transfer.make_model(train, weights.find(train), 2, 0, 0, CPU)
    rgb = transfer.make_model(train.model_copy(update={"stem": "rgb"}), weights.find(train), 2, 0, 0, CPU)
    inputs = Normalise(CPU)(torch.rand(2, 1, 70, 70) * 255)
    model.eval(), rgb.eval()
    assert torch.allclose(model(inputs), rgb(inputs), atol=1e-4)
    safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
    again = transfer.make_model(train, weights.find(train), 2, 0, 0, CPU)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    with pytest.raises(WeightsError, match=r"set train\.stem = 'grey'"):
        transfer.make_model(train.model_copy(update={"stem": "rgb"}), weights.find(train), 2, 0, 0, CPU)
