"""Freezing: exactly the intended numbers change, and the two parts of a cut model are the model."""

from __future__ import annotations

import pytest
import torch

from cxrtl.config import Augment, Train
from cxrtl.errors import ConfigError
from cxrtl.learn import backbones, freeze, loop, state, transfer
from cxrtl.learn.dropout import CoinDropout
from tests.learn.test_loop import CPU, images

# What stays trainable, by the name's beginning.
CASES = {
    ("resnet18", "backbone"): "fc.",
    ("resnet18", "layer3"): "layer4. fc.",
    ("resnet18", "layer4.0.conv1"): "layer4.0.bn1 layer4.0.conv2 layer4.0.bn2 layer4.0.downsample layer4.1 fc.",
    ("squeezenet1_1", "backbone"): "classifier.",
    ("squeezenet1_1", "features.8"): "features.9. features.1 classifier.",
    ("vgg11_bn", "backbone"): "classifier.",
    ("alexnet", "classifier.1"): "classifier.4. classifier.6.",
    ("densenet121", "features.denseblock3"): "features.transition3 features.denseblock4 features.norm5 classifier.",
    ("mobilenet_v3_small", "features.8"): "features.9. features.10. features.11. features.12. classifier.",
    ("googlenet", "backbone"): "fc.",
    ("vit_b_16", "encoder.layers.encoder_layer_10"): "encoder.layers.encoder_layer_11. encoder.ln. heads.",
}
LIGHT = {"resnet18", "squeezenet1_1", "densenet121", "mobilenet_v3_small"}


def recipe(name: str, until: str, **knobs: object) -> Train:
    how = {"freeze": "backbone"} if until == "backbone" else {"freeze_until": until}
    fixed = {"backbone": name, "init": "scratch", "batch_size": 4, "budgets": [2], "rate": 1e-2, "weight_decay": 0.1}
    return Train.model_validate({**fixed, **how, **knobs})


def size(name: str) -> int:
    return 224 if name.startswith("vit") else 64


@pytest.mark.parametrize(("name", "until"), [case for case in CASES if case[0] in LIGHT])
def test_exactly_the_intended_numbers_change(name: str, until: str) -> None:
    train = recipe(name, until)
    torch.manual_seed(0)
    model = transfer.make_model(train, None, 2, 0, 0, CPU)
    optimizer = transfer.make_optimizer(train, model, 2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    setting = loop.Setting(train, Augment(), 0, 0, 2, "fp32", CPU)
    hooks = loop.Hooks(lambda _: None, lambda _: None, lambda _: None)
    loop.fit(setting, images(8, size(name)), model, optimizer, state.State(), hooks)
    loop.predict(setting, images(3, size(name)), model)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {key for key in before if key.startswith(tuple(CASES[name, until].split()))}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for key, p in model.named_parameters() if key in changed
    }
    frozen = [key for key, _ in model.named_parameters() if key not in changed]
    assert all(model.get_parameter(key).grad is None for key in frozen)


@pytest.mark.parametrize(("name", "until"), CASES)
def test_names_of_the_trained_are_as_intended(name: str, until: str) -> None:
    model = backbones.build(name, 2, device="meta")
    freeze.apply(recipe(name, until), model, 2)
    trained = {key for key, value in model.named_parameters() if value.requires_grad}
    assert trained == {key for key, _ in model.named_parameters() if key.startswith(tuple(CASES[name, until].split()))}


@pytest.mark.parametrize(("name", "until"), [case for case in CASES if case[0] not in ("vgg11_bn", "vit_b_16")])
def test_the_parts_are_the_model_in_training_too(name: str, until: str) -> None:
    train = recipe(name, until)
    model = transfer.make_model(train, None, 3, 0, 0, CPU)
    parts = freeze.split(train, model, 3)
    assert parts.body is not None and parts.head is not None
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable <= {id(p) for p in parts.head.parameters()}
    assert not trainable & {id(p) for p in parts.body.parameters()}
    inputs = torch.rand(2, 3, size(name), size(name))
    freeze.train_mode(model)
    scores = []
    for run in (model, lambda x: parts.head(parts.body(x))):  # type: ignore[misc]
        torch.manual_seed(0)
        scores.append(run(inputs))
    assert torch.equal(*scores) and scores[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "shape"),
    {"resnet18": (512,), "squeezenet1_1": (512, 3, 3), "alexnet": (256 * 36,), "densenet121": (1024,)}.items(),
)
def test_body_ends_after_pooling_and_before_dropout(name: str, shape: tuple[int, ...]) -> None:
    train = recipe(name, "backbone")
    body = freeze.split(train, backbones.build(name, 2, device="meta"), 2).body
    assert body is not None
    assert body(torch.empty(1, 3, 64, 64, device="meta")).shape[1:] == shape


@pytest.mark.parametrize(
    ("until", "message"),
    [
        ("layer33", r"no module of 'resnet18'\. Near: layer3"),
        ("fc", "freezes the new last layer"),
        ("nothing like it", r"Near: conv1, bn1, relu"),
    ],
)
def test_what_cannot_be_frozen_is_refused(until: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        freeze.check(recipe("resnet18", until))


def test_coin_dropout_keeps_half_doubled_in_any_layout() -> None:
    torch.manual_seed(0)
    ones = torch.ones(5, 7, 11, 3).to(memory_format=torch.channels_last).requires_grad_()
    out = CoinDropout()(ones)
    assert set(out.unique().tolist()) == {0.0, 2.0} and abs(float(out.detach().mean()) - 1) < 0.1
    assert out.is_contiguous(memory_format=torch.channels_last)
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert ones.grad is not None and torch.equal(ones.grad, out.detach())
    assert torch.equal(CoinDropout().eval()(ones), ones)
    torch.manual_seed(0)
    other = CoinDropout()(torch.ones(2, 9, dtype=torch.bfloat16))
    assert other.dtype == torch.bfloat16 and set(other.unique().tolist()) == {0.0, 2.0}
