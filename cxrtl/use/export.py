"""One ONNX file: grey images of any size in, the fold models' mean probabilities out; checked before it is kept."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cxrtl import rundir
from cxrtl.data.images import Grey, How, Unusable
from cxrtl.data.images.files import read, square, to_grey
from cxrtl.errors import ConfigError, RunError
from cxrtl.learn.augment import IMAGENET_MEAN, IMAGENET_STD
from cxrtl.records import Task
from cxrtl.report.card import Exported, card
from cxrtl.report.samples import read_pixels
from cxrtl.use.listing import list_images
from cxrtl.use.model import Ensemble, Trained, probabilities
from cxrtl.use.square import Square

TOLERANCE = 1e-4  # of a probability, between onnxruntime and PyTorch
_LARGEST = 1.9 * 2**30  # a protobuf file ends at 2 GiB
_CPU = torch.device("cpu")


class Whole(nn.Module):
    """Everything from grey pixels to `model.probabilities`, the mean of the models', float32."""

    def __init__(self, models: Sequence[nn.Module], how: How, task: Task) -> None:
        super().__init__()
        self.models, self.square, self.task = nn.ModuleList(models), Square(how.size, how.aspect), task
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("factor", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, grey: Tensor) -> Tensor:
        inputs = self.shift + self.square(grey).float() * self.factor
        found = [probabilities(model(inputs), self.task) for model in self.models]
        return torch.stack(found).mean(dim=0).float()


@dataclass(frozen=True)
class Check:
    """Largest difference of a probability between the file and PyTorch, on how many images of which kind."""

    difference: float
    images: int
    kind: str


def export(trained: Trained, out: Path, folds: Sequence[int] = (), images: Sequence[Grey] = ()) -> Check:
    """Write `out` and `<stem>-card.md` beside it.

    `images` are full-size grey images to check on; default: the run's sampled predictions. Drawn images of odd shapes
    are always among them. A file that differs is not kept.

    Raises:
        ConfigError: the extra `export` is not installed, a fold does not exist, or the models exceed an ONNX file.
        RunError: onnxruntime and PyTorch differ by more than `TOLERANCE`.
        DamagedError: as `model.revive`.
    """
    unknown = sorted(set(folds) - set(trained.trials))
    if unknown:
        raise ConfigError(f"--fold {unknown}: the run has the folds {sorted(trained.trials)}")
    chosen = list(folds) or list(trained.trials)
    size = sum(trained.file(fold).path.stat().st_size for fold in chosen)
    if size > _LARGEST:
        raise ConfigError(f"{len(chosen)} models take {size / 2**30:.1f} GiB, an ONNX file at most 2: name one --fold")
    whole = Whole([trained.model(fold, _CPU) for fold in chosen], trained.how, trained.task).eval()
    content = _convert(whole, trained)
    found = _check(content, trained.ensemble(_CPU, chosen), trained, images)
    out.parent.mkdir(parents=True, exist_ok=True)
    digest = rundir.write_bytes(out, content)
    exported = Exported(out.name, digest, trained.recipe.name, trained.iterations, chosen, found.difference, found.kind)
    text = card(trained.loaded, trained.how, exported)
    rundir.write_bytes(out.with_name(f"{out.stem}-card.md"), text.encode())
    return found


def read_images(paths: Sequence[Path], trained: Trained) -> list[Grey]:
    """The usable ones of files and folders, grey at full size; raises ManifestError where a path does not exist."""
    found = []
    for path in list_images(paths, "image").paths if paths else ():
        try:
            found.append(to_grey(read(path), trained.how))
        except Unusable:  # predicting says which and why
            continue
    return found


def _convert(whole: Whole, trained: Trained) -> bytes:
    example = torch.zeros(2, 1, trained.how.size + 3, trained.how.size + 5, dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the exporter
            program = torch.onnx.export(
                whole,
                (example,),
                input_names=["grey"],
                output_names=["probabilities"],
                dynamic_shapes={"grey": {0: "images", 2: "height", 3: "width"}},
                dynamo=True,
                verbose=False,
            )
    except ImportError as error:
        raise ConfigError(f"exporting needs more packages ({error.name}): pip install '.[export]'") from None
    assert program is not None
    proto = program.model_proto
    about = {
        "classes": json.dumps(trained.classes),
        "run_hash": str(trained.loaded.resolved["run_hash"]),
        "use": "Research use only; no medical device.",
    }
    for key, value in about.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    content: bytes = proto.SerializeToString()
    return content


def _check(content: bytes, ensemble: Ensemble, trained: Trained, images: Sequence[Grey]) -> Check:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    kind = "images given" if images else "sampled images of the run"
    real = list(images) or read_pixels(trained.loaded.run)
    rng, size = np.random.default_rng(0), trained.how.size
    drawn = [
        rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((size, size), (2 * size + 1, size - 3), (40, 90))
    ]
    worst = 0.0
    for grey in [*real, *drawn]:
        given = session.run(None, {"grey": grey[None, None]})[0]
        wanted = ensemble(square(grey, trained.how)[None].copy()).mean(axis=0)
        worst = max(worst, float(np.abs(given - wanted).max()))
    if not worst <= TOLERANCE:
        raise RunError(
            f"the ONNX file and PyTorch differ by {worst:.2g} in a probability, {TOLERANCE:g} at most are allowed: it "
            "was not kept. Try another version of onnxruntime or torch"
        )
    return Check(worst, len(real) + len(drawn), kind if real else "drawn images alone")
