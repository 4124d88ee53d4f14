"""The grid shorthand: lists of values, expanded into arms.

    [grid]
    train.backbone = ["alexnet", "resnet50"]
    train.init = ["imagenet", "scratch"]

gives `alexnet-imagenet`, `alexnet-scratch`, `resnet50-imagenet` and `resnet50-scratch`: every combination, the last key
varying fastest.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

OVERRIDDEN = ("train", "augment")  # what an arm may change


def points(grid: Mapping[str, Any]) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """(name, overrides) of each arm. A name joins its values by hyphens: a text stands for itself, a file by its name
    without folder and ending; any other value follows its knob, `rate_0.001`, `budgets_20_40`. What no path may hold
    becomes an underscore.

    Raises:
        ValueError: a key that no arm may change, or values that are no list; lists every fault.
    """
    axes = list(_axes(grid))
    faults = [
        f"grid.{'.'.join(key)}: {fault}"
        for key, values in axes
        for fault in (
            [] if len(key) == 2 and key[0] in OVERRIDDEN else ["arms change knobs of train and augment, no others"]
        )
        + ([] if isinstance(values, list) and values else [f"give a list of values (received {values!r})"])
    ]
    if faults:
        raise ValueError("\n".join(faults))
    found = []
    for chosen in itertools.product(*(values for _, values in axes)) if axes else ():
        changes: dict[str, dict[str, Any]] = {}
        for ((table, knob), _), value in zip(axes, chosen, strict=True):
            changes.setdefault(table, {})[knob] = value
        found.append(("-".join(_word(key[-1], value) for (key, _), value in zip(axes, chosen, strict=True)), changes))
    return found


def _axes(grid: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Keys, dotted or nested, and their values."""
    for name, value in grid.items():
        key = (*before, *name.split("."))
        if isinstance(value, Mapping):
            yield from _axes(value, key)
        else:
            yield key, value


def _word(knob: str, value: Any) -> str:
    if isinstance(value, str):
        kind, _, path = value.rpartition(":")
        text = re.split(r"[/\\]", path)[-1].rpartition(".")[0] or path if kind else value
    else:
        parts = value if isinstance(value, list) else [value]
        text = "_".join([knob, *(str(part).lower() for part in parts)])
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip("._-")
