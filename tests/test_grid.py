"""The grid shorthand: names that can be read and stand in a path, every combination once, faults in a list."""

from __future__ import annotations

import tomllib

import pytest

from cxrtl import config
from cxrtl.errors import ConfigError
from cxrtl.grid import points

RAW = {"name": "x", "data": {"source": "phantom"}}


@pytest.mark.parametrize("text", ['"train.backbone" = %s\n"train.init" = %s', "train.backbone = %s\ntrain.init = %s"])
def test_every_combination_the_last_key_fastest(text: str) -> None:
    grid = tomllib.loads(text % ('["alexnet", "resnet50"]', '["imagenet", "scratch"]'))
    found = config.parse({**RAW, "grid": grid}).recipes
    assert [(each.name, each.train.backbone, each.train.init) for each in found] == [
        (f"{backbone}-{init}", backbone, init)
        for backbone in ("alexnet", "resnet50")
        for init in ("imagenet", "scratch")
    ]


def test_names_are_readable_and_fit_a_path() -> None:
    grid = {
        "train.init": ["file:/some where/my weights.v2.safetensors", "file:plain"],
        "train.budgets": [[20, 40]],
        "train.rate": [1e-5],
        "augment": {"flip_vertical_probability": [0]},
    }
    assert [name for name, _ in points(grid)] == [
        f"{init}-budgets_20_40-rate_1e-05-flip_vertical_probability_0" for init in ("my_weights.v2", "plain")
    ]
    assert points(grid)[0][1] == {
        "train": {"init": grid["train.init"][0], "budgets": [20, 40], "rate": 1e-5},
        "augment": {"flip_vertical_probability": 0},
    }


def test_grid_follows_listed_arms_and_budgets_may_differ() -> None:
    found = config.parse(
        {**RAW, "arm": [{"name": "short", "train": {"budgets": [5]}}], "grid": {"train": {"budgets": [[10], [20, 30]]}}}
    ).recipes
    assert [(each.name, each.train.budgets) for each in found] == [
        ("short", (5,)),
        ("budgets_10", (10,)),
        ("budgets_20_30", (20, 30)),
    ]
    assert points({}) == []


@pytest.mark.parametrize(
    ("grid", "faults"),
    [
        (
            {"data.path": ["a"], "train.rate": 3},
            ["grid.data.path: arms change knobs of train", "grid.train.rate: give a"],
        ),
        ({"train.rate": []}, ["grid.train.rate: give a list of values (received [])"]),
        ({"train": ["a"]}, ["grid.train: arms change knobs"]),
        ({"train.ratte": [1], "augment.scale": [2]}, ["train.ratte: unknown key", "augment.scale"]),
        ({"train.rate": [1, 1]}, ["arm names repeat (case apart): ['rate_1']"]),
        ({"train.init": ["file:a/x.pth", "file:b/x.pth"]}, ["arm names repeat"]),
    ],
)
def test_faults_are_listed(grid: dict[str, object], faults: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse({**RAW, "grid": grid})
    for fault in faults:
        assert fault in str(caught.value)
