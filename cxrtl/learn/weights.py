"""Pretrained weights: found, verified by sha256, loaded without pickle's code, fitted to a backbone."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cxrtl.config import Experiment, Train, expand
from cxrtl.errors import WeightsError
from cxrtl.learn import backbones, stem
from cxrtl.learn.lineage import Source
from cxrtl.learn.names import to_torchvision
from cxrtl.learn.vision import models

IMAGENET = "IMAGENET1K_V1"  # the weights of the studies' time; torchvision's later recipes have other names
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.pth$")
_ENCODER = "encoder."
_SIDE_OUTPUTS = re.compile(r"^(aux\d|AuxLogits)\.")


@dataclass(frozen=True)
class Weights:
    """A weights file, read and verified. `source` is what stands before the colon of `train.init`; `file` is the file's
    name alone, of a stage the run's, too; `stages` are the run hashes of the stages it comes from, first to last."""

    source: str
    file: str
    sha256: str
    content: bytes
    stages: tuple[str, ...] = ()

    def describe(self) -> dict[str, str]:
        return {"source": self.source, "file": self.file, "sha256": self.sha256}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def find(train: Train, *, download: bool = False, stage: Source | None = None) -> Weights | None:
    """The weights that `train.init` asks for; None for `scratch`. `stage`: what `lineage.choose` found.

    Raises:
        WeightsError: the file is missing, cannot be read, or does not have the expected sha256.
    """
    if train.init == "scratch":
        return None
    if train.init == "imagenet":
        source, (_, path, prefix) = "imagenet", imagenet_file(train.backbone, download=download)
        if not path.exists():
            raise WeightsError(
                f"ImageNet weights of {train.backbone!r} are missing: looked for {path.name} in {path.parent}. Either "
                f"run again with --download (or `cxrtl weights fetch {train.backbone}`), or copy the file there from "
                'another machine (or set train.init = "file:PATH").'
            )
    elif stage:
        source, path, prefix = "stage", stage.path, stage.sha256
    elif train.init.startswith("weights:"):
        from cxrtl.learn import shelf  # which reads files with this module

        own = shelf.added(train.init.removeprefix("weights:"))
        source, path, prefix = "weights", Path(own.path), own.sha256
    else:
        source, path, prefix = "file", expand(train.init.removeprefix("file:")), ""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"weights file {str(path)!r} cannot be read: {error.strerror}") from None
    digest = sha256(content)
    if not digest.startswith(train.init_sha256 or prefix):
        raise WeightsError(
            f"weights file {str(path)!r} has sha256 {digest}, expected {train.init_sha256 or prefix + '…'}: "
            "it was altered or cut short. Get it again."
        )
    stages = tuple(entry["run_hash"] for entry in stage.stages) if stage else ()
    name = f"{stage.stages[-1]['run']}/{path.parent.name}/{path.name}" if stage else path.name
    return Weights(source, name, digest, content, stages)


def of_arms(experiment: Experiment, sources: Mapping[str, Source], *, download: bool) -> dict[str, Weights | None]:
    """By arm; arms that start from one file share one copy. `sources`: those of arms that start from a stage."""
    found: dict[tuple[str, str, str], Weights | None] = {}
    out = {}
    for recipe in experiment.recipes:
        train = recipe.train
        key = (train.init, train.init_sha256, train.backbone if train.init == "imagenet" else "")
        if key not in found:
            found[key] = find(train, download=download, stage=sources.get(recipe.name))
        out[recipe.name] = found[key]
    return out


def imagenet_file(backbone: str, *, download: bool = False) -> tuple[str, Path, str]:
    """URL, place in torch's cache, and beginning of the sha256 of torchvision's ImageNet weights.

    Raises:
        WeightsError: with `download`, they are not there and cannot be had.
    """
    backbones.check_name(backbone)
    choices = models.get_model_weights(backbone)
    entry = choices[IMAGENET] if IMAGENET in choices.__members__ else choices.DEFAULT
    name = str(entry.url).rsplit("/", 1)[-1]
    match = _HASH_IN_NAME.search(name)
    prefix = match[1] if match else ""
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if download and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(entry.url, str(path), hash_prefix=prefix, progress=False)
        except (OSError, RuntimeError) as error:  # no network, or a wrong hash
            raise WeightsError(f"ImageNet weights {name} could not be downloaded: {error}") from None
    return str(entry.url), path, prefix


def load(model: nn.Module, weights: Weights, backbone: str, classes: int) -> None:
    """Copy the weights into `model`, the backbone or a part of it; its last layer stays as it was drawn.

    The file must hold every parameter of `model` but the last layer's, under torchvision's names, in the model's
    shapes. The encoder of a segmentation's file serves alike. Where the images have other channels than red, green and
    blue, each channel gets the mean of a file's three filters times 3 / channels: to the same picture in all of them
    the first layer answers as it did to grey.

    Raises:
        WeightsError: the file is no weights file, or its keys or shapes differ; the message lists them.
    """
    given = read(weights)
    head = backbones.head_keys(backbone, classes)
    wanted = {key: value for key, value in model.state_dict().items() if key not in head}
    known = backbones.build(backbone, classes, device="meta").state_dict()
    given = {key: value for key, value in given.items() if key not in head and not _SIDE_OUTPUTS.match(key)}
    first = backbones.stem(model)[0]
    stem.fit(given, model.get_submodule(first), first)
    _widen(given, wanted, f"{first}.weight")
    missing = sorted(key for key in wanted.keys() - given.keys() if not key.endswith("num_batches_tracked"))
    unexpected = sorted(given.keys() - known.keys() - wanted.keys())
    shapes = [
        f"{key} {list(given[key].shape)} for {list(wanted[key].shape)}"
        for key in sorted(wanted.keys() & given.keys())
        if given[key].shape != wanted[key].shape
    ]
    faults = [
        f"{what} ({len(keys)}): {', '.join(keys[:6])}{' …' if len(keys) > 6 else ''}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("other shape", shapes))
        if keys
    ]
    if faults:
        raise WeightsError(f"weights file {weights.file!r} does not fit {backbone!r}: {'; '.join(faults)}")
    model.load_state_dict({key: value for key, value in given.items() if key in wanted}, strict=False)


def _widen(given: dict[str, Tensor], wanted: dict[str, Tensor], first: str) -> None:
    """Fit three filters of the first layer to another number of channels, in place."""
    filters, channels = given.get(first), wanted[first].shape[1] if first in wanted else 3
    if filters is not None and filters.dim() == 4 and filters.shape[1] == 3 != channels:
        given[first] = (filters.mean(1, keepdim=True) * 3 / channels).expand(-1, channels, -1, -1).contiguous()


def read(weights: Weights) -> dict[str, Tensor]:
    """The tensors by torchvision's names; raises WeightsError where the file is no flat state dict."""
    try:
        if weights.file.endswith(".safetensors"):
            state = safetensors.torch.load(weights.content)
        else:
            state = torch.load(io.BytesIO(weights.content), map_location="cpu", weights_only=True)
    except Exception as error:  # both libraries raise many kinds for a damaged file
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise WeightsError(f"weights file {weights.file!r} is no .safetensors or .pth state dict: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"weights file {weights.file!r} holds no flat state dict (name → tensor)")
    named = to_torchvision(state)
    if any(key.startswith(_ENCODER) for key in named):  # a segmentation's
        return {key.removeprefix(_ENCODER): value for key, value in named.items() if key.startswith(_ENCODER)}
    return named
