"""torchvision's models, imported so that they also load beside a build of torch without torchvision's own operators.

The registry's torchvision carries operators compiled for the registry's torch. Beside a CPU build they do not load, and
the import fails on the schemas of two that no classification model uses. Defining the schemas mends it.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[torch.library.Library] = []  # a library's operators live as long as the object


def _import_models() -> ModuleType:
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half-imported
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _kept.append(library)
    return importlib.import_module("torchvision.models")


models = _import_models()
feature_extraction = importlib.import_module("torchvision.models.feature_extraction")
