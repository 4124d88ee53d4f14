"""A recipe made ready to train: the model with its starting weights, and the optimizer with its two rates."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from cxrtl.config import Train
from cxrtl.learn import backbones, freeze, objective, segment, stem, weights
from cxrtl.learn.augment import torch_seed
from cxrtl.records import Task


def make_model(
    train: Train,
    start: weights.Weights | None,
    classes: int,
    seed: int,
    fold: int,
    device: torch.device,
    task: Task = "binary",
    channels: int = 1,
) -> nn.Module:
    """The backbone with a new last layer drawn from (seed, fold), its starting weights, if any, loaded, and the layers
    that `train` freezes frozen; for a segmentation, a U-Net on the backbone, whose new part is the decoder."""
    torch.manual_seed(torch_seed(seed, fold, None))
    model = backbones.build(train.backbone, classes, channels=3 if channels == 1 else channels)
    if task == "multilabel":
        backbones.let_logits_fall_below_zero(model)
    if train.stem == "grey":
        stem.make_grey(model, channels)
    freeze.apply(train, model, classes)
    if task == "segmentation":
        model = segment.build(train.backbone, model, objective.outputs(task, classes))
    if start is not None:
        weights.load(model.encoder if isinstance(model, segment.UNet) else model, start, train.backbone, classes)
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def make_optimizer(train: Train, model: nn.Module, classes: int) -> Optimizer:
    """Two groups: the pretrained layers at `rate`, the new layer at `rate × head_rate_factor`; frozen ones in neither.

    Each group keeps its full rate in `base`; a schedule scales from there. MATLAB's learn-rate factor multiplies the
    rate of weights and biases alike, as here; its L2 term is added to the gradient, as SGD does with `weight_decay`.
    """
    new = "decoder." if isinstance(model, segment.UNet) else tuple(backbones.head_keys(train.backbone, classes))
    trained = [(key, value) for key, value in model.named_parameters() if value.requires_grad]
    body = [value for key, value in trained if not key.startswith(new)]
    head = [value for key, value in trained if key.startswith(new)]
    device = head[0].device
    on_gpu = device.type == "cuda"
    rates = train.rate, train.rate * train.head_rate_factor
    groups = [
        {"params": part, "base": rate, "lr": torch.tensor(rate, device=device) if on_gpu else rate}
        for part, rate in zip((body, head), rates, strict=True)
    ]
    if train.optimizer == "adamw":
        betas = (train.momentum, 0.999)
        return AdamW(groups, betas=betas, weight_decay=train.weight_decay, fused=on_gpu, capturable=on_gpu)
    return SGD(groups, momentum=train.momentum, weight_decay=train.weight_decay, fused=on_gpu)


def set_rate(optimizer: Optimizer, share: float) -> None:
    """Give each group `share` of its full rate. On a GPU the rate is a number in its memory, which a captured step
    reads."""
    for group in optimizer.param_groups:
        if not isinstance(group["lr"], torch.Tensor):
            group["lr"] = group["base"] * share
        elif group.get("share") != share:
            group["lr"].fill_(group["base"] * share)
            group["share"] = share


def rate_share(train: Train, iteration: int) -> float:
    """Share of the full rate at an iteration: 1, or half a cosine from 1 to 0 at the last budget (Loshchilov 2017)."""
    if train.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * iteration / train.budgets[-1]))
