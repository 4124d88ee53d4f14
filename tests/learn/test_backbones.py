"""Backbones by name: each of the field's usual ones builds, runs, and has its last layer found."""

from __future__ import annotations

import pytest
import torch

from cxrtl.config import Train
from cxrtl.errors import ConfigError
from cxrtl.learn import backbones, transfer

HEADS = {
    "resnet18": "fc",
    "resnet34": "fc",
    "resnet50": "fc",
    "resnet101": "fc",
    "resnet152": "fc",
    "alexnet": "classifier.6",
    "vgg16": "classifier.6",
    "googlenet": "fc",
    "densenet121": "classifier",
    "squeezenet1_1": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "efficientnet_b0": "classifier.1",
    "convnext_tiny": "classifier.2",
}


@pytest.mark.parametrize(("name", "head"), HEADS.items())
def test_the_last_layer_alone_is_new(name: str, head: str) -> None:
    assert backbones.head_keys(name, 2) == {f"{head}.weight", f"{head}.bias"}


@pytest.mark.parametrize("name", HEADS)
def test_logits_have_one_column_a_class(name: str) -> None:
    model = backbones.build(name, 3, device="meta")
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 3)


def test_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"'resnet5'.*Near: .*resnet50"):
        backbones.build("resnet5", 2)
    with pytest.raises(ConfigError, match="no classification model"):
        backbones.check_name("maskrcnn_resnet50_fpn")


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "alexnet", "mobilenet_v3_small"])
def test_findings_can_be_denied(backbone: str) -> None:
    """Each logit of a multilabel model can be negative: a score below 0.5."""
    train = Train.model_validate({"backbone": backbone, "init": "scratch"})
    model = transfer.make_model(train, None, 4, 0, 0, torch.device("cpu"), "multilabel").eval()
    head = [value for key, value in model.named_parameters() if key in backbones.head_keys(backbone, 4)]
    with torch.no_grad():
        for value in head:
            value.copy_(-value.abs() - 0.1)
        assert (model(torch.rand(2, 3, 64, 64)) < 0).all()
