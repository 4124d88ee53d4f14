"""The one-way order of the house, and what an import may not bring along."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "cxrtl"
# A module may import from its own layer and the ones before it.
LAYERS = [
    ("errors",),
    ("grid", "data_config", "train_config", "config"),
    ("trials",),
    ("records",),
    ("predictions",),
    ("parts", "versions"),
    ("interrupt",),
    ("storage",),
    ("lease",),
    ("rundir",),
    ("data", "evaluate"),
    ("learn",),
    ("data.prepare", "data.feed", "orchestrate"),
    ("report",),
    ("use", "bench"),
    ("drawing",),
    ("console",),
    ("options",),
    ("verbs", "weights_cli", "submit_cli"),
    ("cli",),
]
NO_TORCH_NO_RAY = ["errors", "config", "trials", "records", "predictions", "parts", "versions", "interrupt"]
NO_TORCH_NO_RAY += ["storage", "lease", "rundir", "evaluate", "report"]


def modules() -> dict[str, Path]:
    paths = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def layer(module: str) -> int:
    fits = [
        (len(name), place)
        for place, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    assert fits, f"{module} has no place in the house: give it one"
    return max(fits)[1]


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0 and [name.name for name in node.names] != ["*"], path
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    known = modules()
    return {name[6:] for name in found if name.startswith("cxrtl.") and name[6:] in known}


@pytest.mark.parametrize("module", modules())
def test_imports_point_one_way(module: str) -> None:
    for other in imports(modules()[module]):
        if other in ("data", "learn", "evaluate", "report", "orchestrate", "data.sources", "use"):
            continue  # the package itself: empty but for its docstring or re-exports
        assert layer(other) <= layer(module), f"{module} imports {other}"


def test_pure_layers_bring_neither_torch_nor_ray() -> None:
    names = [f"cxrtl.{name}" for name in modules() if name.partition(".")[0] in NO_TORCH_NO_RAY]
    code = f"import sys, importlib\nfor n in {names}: importlib.import_module(n)\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "torchvision", "statsmodels"} & set(loaded)


def test_only_the_command_line_prints() -> None:
    for name, path in modules().items():
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        prints = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
        assert not prints or name in ("cli", "console"), name
