"""The knobs of an experiment's `train` and `augment` tables; `config` has the others and reads the file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cxrtl.data_config import Probability, Table


class Train(Table):
    """The transfer recipe."""

    backbone: str = Field("resnet50", description="any classification model of torchvision, by name")
    init: str = Field(
        "imagenet",
        description="`imagenet`, `scratch`, `file:PATH` (.safetensors, .pth), `weights:NAME` (see `cxrtl weights`), or "
        "`stage:RUN` or `stage:RUN/ARM`: another run's weights",
    )
    init_sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$", description="what the weights file must hash to")
    stem: Literal["rgb", "grey"] = Field(
        "rgb", description="`rgb`: grey images in three channels; `grey`: the first layer's RGB filters summed for one"
    )
    freeze: Literal["none", "backbone"] = Field("none", description="`backbone`: train the model's classifier alone")
    freeze_until: str = Field("", description="freeze up to the end of this module, such as `layer3` or `features.8`")
    views: int = Field(
        8, ge=0, le=1000, description="fixed draws of augmentation an image where layers are frozen; 0: ever new ones"
    )
    budgets: tuple[Annotated[int, Field(ge=1, le=10_000_000)], ...] = Field(
        (250, 500, 1000), min_length=1, description="training lengths to report, iterations"
    )
    independent: bool = Field(False, description="train each budget from the start, not as a point on the way")
    batch_size: int = Field(25, ge=2, le=4096, description="images an iteration")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="SGD with momentum, or AdamW")
    rate: float = Field(1e-4, gt=0, le=10, description="learning rate of the pretrained layers")
    head_rate_factor: float = Field(10, gt=0, le=1e4, description="learning rate of the new layer, times `rate`")
    schedule: Literal["constant", "cosine"] = Field("constant", description="cosine falls to 0 at the budget")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's momentum; AdamW's first beta")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="SGD: L2 term; AdamW: decoupled decay")
    class_weights: bool = Field(False, description="weight the loss by inverse class frequency of the training folds")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="`auto`: bf16 where it is native")
    checkpoint_every: int = Field(100, ge=1, description="iterations between saved states (budgets save anyway)")

    @field_validator("budgets")
    @classmethod
    def _ascending(cls, budgets: tuple[int, ...]) -> tuple[int, ...]:
        if list(budgets) != sorted(set(budgets)):
            raise ValueError(f"{list(budgets)} must ascend without repeats")
        return budgets

    @field_validator("init")
    @classmethod
    def _known_init(cls, init: str) -> str:
        kind, _, where = init.partition(":")
        if init not in ("imagenet", "scratch") and not (kind in ("file", "weights", "stage") and where):
            raise ValueError(f"{init!r} is none of: imagenet, scratch, file:PATH, weights:NAME, stage:RUN/ARM")
        return init

    @model_validator(mode="after")
    def _one_way_to_freeze(self) -> Train:
        if self.freeze != "none" and self.freeze_until:
            raise ValueError(f"freeze = {self.freeze!r} and freeze_until = {self.freeze_until!r}: give one of them")
        return self


class Augment(Table):
    """Random changes of the training images; each is drawn with its own probability."""

    scale_probability: Probability = Field(0.5, description="of zooming")
    scale: float = Field(0.10, ge=0, lt=1, description="zoom range, ± share")
    flip_horizontal_probability: Probability = Field(0.5, description="of mirroring left and right")
    flip_vertical_probability: Probability = Field(0.5, description="of mirroring top and bottom")
    crop_probability: Probability = Field(0.5, description="of cutting out a square and enlarging it")
    crop: float = Field(0.10, ge=0, lt=1, description="at most this share of the side is cut away")
    translate_probability: Probability = Field(0.5, description="of shifting, along each axis by its own amount")
    translate: float = Field(0.065, ge=0, le=0.5, description="shift range, ± share of the side")

    @property
    def active(self) -> bool:
        """Whether anything may change."""
        return any(chance > 0 for name, chance in self if name.endswith("_probability"))
