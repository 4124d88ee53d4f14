"""What no module may do, wherever its input comes from."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE_FROM_DATA = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}  # reading these runs what they hold
CALLS = {"eval", "exec", "np.load", "numpy.load", "yaml.load", "yaml.unsafe_load", "pd.read_pickle", "torch.hub.load"}


def faults(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [name.name for name in node.names] + [getattr(node, "module", None) or ""]
            found += [name for name in names if set(name.split(".")) & CODE_FROM_DATA]
        elif isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in CALLS or (called == "torch.load" and given.get("weights_only") != "True"):
                found.append(called)
            if given.get("shell") == "True" or given.get("allow_pickle") == "True":
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "path", sorted([*ROOT.glob("cxrtl/**/*.py"), *ROOT.glob("jobs/*.py")]), ids=lambda path: path.stem
)
def test_nothing_that_is_read_can_be_code(path: Path) -> None:
    assert not faults(path.read_text())


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from ray import cloudpickle",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "np.load(path)",
        "subprocess.run(words, shell=True)",
        "eval(text)",
    ],
)
def test_what_counts_as_a_fault(line: str) -> None:
    assert faults(line)
    assert not faults("model.eval(); torch.load(file, weights_only=True); subprocess.run(words)")
