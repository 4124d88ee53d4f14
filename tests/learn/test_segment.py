"""Segmentation models: encoders under the classifier's names, at any size, whatever the backbone; masks and losses."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch

from cxrtl.config import Augment, Train
from cxrtl.errors import ConfigError, WeightsError
from cxrtl.learn import augment, backbones, objective, segment, setting, transfer, weights
from cxrtl.learn.freeze import train_mode

CPU = torch.device("cpu")


def recipe(**knobs: object) -> Train:
    return Train.model_validate({"backbone": "squeezenet1_1", "init": "scratch", **knobs})


def unet(train: Train, start: weights.Weights | None = None, channels: int = 1, seed: int = 0) -> segment.UNet:
    model = transfer.make_model(train, start, 2, seed, 0, CPU, "segmentation", channels)
    assert isinstance(model, segment.UNet)
    return model


def saved(state: dict[str, torch.Tensor]) -> weights.Weights:
    return weights.Weights("file", "a.safetensors", "", safetensors.torch.save(state))


def test_levels_are_what_residual_blocks_give_and_not_what_is_inside_them() -> None:
    assert [name for name, _ in segment.levels("resnet18")] == ["relu", *(f"layer{n}.1.relu_1" for n in range(1, 5))]
    assert segment.levels("squeezenet1_1")[-1] == ("features.12.cat", 512)


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "mobilenet_v3_small", "vgg11", "densenet121"])
def test_encoder_bears_the_classifiers_names(backbone: str) -> None:
    whole = backbones.build(backbone, 2, device="meta")
    names = set(segment.build(backbone, whole, 3).encoder.state_dict())
    head = backbones.head_keys(backbone, 2)
    assert names and names <= set(whole.state_dict()) - head


@pytest.mark.parametrize("size", [32, 57])
def test_logits_are_as_large_as_the_image(size: int) -> None:
    assert unet(recipe())(torch.zeros(2, 3, size, size)).shape == (2, 3, size, size)


def test_transformer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'vit_b_16' has maps of 0 size\(s\)"):
        segment.levels("vit_b_16")


def test_classifier_gives_its_layers_to_the_encoder_and_gets_them_back() -> None:
    classifier = transfer.make_model(recipe(), None, 5, 1, 0, CPU, "multiclass")
    model = unet(recipe(), saved({key: value.contiguous() for key, value in classifier.state_dict().items()}))
    key = "features.3.squeeze.weight"
    assert torch.equal(model.encoder.state_dict()[key], classifier.state_dict()[key])
    assert not torch.equal(unet(recipe()).encoder.state_dict()[key], classifier.state_dict()[key])
    file = saved({name: value.contiguous() for name, value in model.state_dict().items()})
    back = transfer.make_model(recipe(), file, 2, 2, 0, CPU)
    assert torch.equal(back.state_dict()[key], classifier.state_dict()[key])


def test_file_of_another_backbone_is_refused() -> None:
    other = backbones.build("mobilenet_v3_small", 2).state_dict()
    with pytest.raises(WeightsError, match="does not fit 'squeezenet1_1': missing"):
        unet(recipe(), saved(dict(other)))


def test_two_rates_and_freezing_go_by_encoder_and_decoder() -> None:
    model = unet(recipe(backbone="resnet18", freeze="backbone"))
    train_mode(model)
    assert not any(value.requires_grad for value in model.encoder.parameters())
    assert not any(m.training for m in model.encoder.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert all(value.requires_grad for value in model.decoder.parameters())
    body, head = transfer.make_optimizer(recipe(), unet(recipe()), 2).param_groups
    assert len(body["params"]) == len(list(unet(recipe()).encoder.parameters()))
    assert head["base"] == pytest.approx(10 * body["base"]) and len(head["params"]) > 0


def test_same_picture_in_all_channels_answers_as_grey_does() -> None:
    """The rule for channels that are not red, green and blue."""
    start = saved(dict(backbones.build("squeezenet1_1", 2).state_dict()))
    picture = torch.rand(2, 1, 64, 64)
    three, five = (
        backbones.stem(unet(recipe(), start, channels))[1](picture.expand(-1, seen, -1, -1))
        for channels, seen in ((1, 3), (5, 5))
    )
    assert torch.allclose(three, five, atol=1e-5)
    assert augment.Normalise(CPU)(picture.expand(-1, 5, -1, -1)).shape == (2, 5, 64, 64)


def test_mask_follows_its_image_through_every_change() -> None:
    """A picture that is its own mask: after any change the two still agree, but for pixels on the outline."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    boxes = [
        ((rows > a) & (rows < a + 30) & (columns > b) & (columns < b + 20)) for a, b in rng.integers(2, 30, (40, 2))
    ]
    masks = torch.from_numpy(np.stack(boxes).astype(np.uint8))
    drawn = augment.draw_pass(Augment(scale=0.3, crop=0.3, translate=0.2), 0, 0, 0, 40)
    images = augment.resample(masks[:, None].float(), drawn.scale, drawn.offset)[:, 0]
    followed = augment.follow(masks, drawn.scale, drawn.offset)
    clear = (images - 0.5).abs() > 0.4999
    assert followed.dtype == torch.uint8 and clear.float().mean() > 0.9
    assert torch.equal(followed[clear] > 0, images[clear] > 0.5)
    assert not torch.equal(followed, masks)
    labels = torch.arange(4)
    assert augment.follow(labels, drawn.scale[:4], drawn.offset[:4]) is labels


def test_loss_is_cross_entropy_plus_soft_dice() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8), dtype=torch.uint8)
    found = objective.make("segmentation", Train(), [masks], 2, CPU).loss(logits, masks)
    soft = logits.softmax(1)
    dice = [
        2 * soft[:, n][masks == n].sum() / (soft[:, n].sum() + (masks == n).sum()) for n in (1, 2)
    ]  # the background has no part in it
    wanted = torch.nn.functional.cross_entropy(logits, masks.long()) + 1 - torch.stack(dice).mean()
    assert torch.allclose(found, wanted, atol=1e-5)
    weighted = objective.make("segmentation", Train(class_weights=True), [masks], 2, CPU)
    entropy = torch.nn.functional.cross_entropy(logits, masks.long(), weighted.weight)
    assert torch.allclose(weighted.loss(logits, masks), entropy + 1 - torch.stack(dice).mean(), atol=1e-5)


def test_held_out_figures_and_columns_of_two_structures() -> None:
    truth = torch.zeros(2, 8, 8, dtype=torch.uint8)
    truth[0, :4] = 1
    found = truth.clone()
    found[0, :2] = 0  # half of structure 1 is missed; structure 2 is nowhere, and rightly so
    loss, accuracy = objective.judge("segmentation", 2, found, truth)
    assert accuracy == pytest.approx((2 * 16 / 48 + 1 + 1 + 1) / 4) and loss == pytest.approx(1 - accuracy)
    columns = objective.columns("segmentation", ("a", "b"), found, truth)
    assert columns["truth_a"].tolist() == [32, 0] and columns["predicted_a"].tolist() == [16, 0]
    assert columns["shared_a"].tolist() == [16, 0] and columns["hausdorff95_a"][0] == 2
    assert np.isnan(columns["hausdorff95_b"]).all()


def test_seed_draws_the_decoder() -> None:
    one, again, other = (unet(recipe(), seed=seed).decoder.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["out.weight"], other["out.weight"])


@pytest.mark.parametrize("rows", [None, torch.tensor([8, 1, 1, 5, 0])])
def test_masks_come_in_pieces_and_weigh_the_same(rows: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once would take a GPU's memory once more for each fold."""
    monkeypatch.setattr(setting, "PIECE", 3)
    masks = torch.randint(0, 3, (10, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = setting.Images(torch.zeros((10, 1, 4, 4), dtype=torch.uint8), masks, rows=rows)
    pieces, whole = list(images.truth()), masks if rows is None else masks[rows]
    assert max(map(len, pieces)) == 3 and torch.equal(torch.cat(pieces), whole)
    assert torch.equal(objective.structure_weights(pieces, 2), objective.structure_weights([whole], 2))
