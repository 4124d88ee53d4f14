"""Run folders from elsewhere: every value in them may be anything, and every string may be markup."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_run import Fake, make_prepared, make_run
from test_page import EVIL, Page, only_our_script

from cxrtl import rundir
from cxrtl.data.images import How
from cxrtl.errors import CxrtlError, DamagedError
from cxrtl.report.card import Exported, card
from cxrtl.report.examined import read_twins
from cxrtl.report.load import load_run
from cxrtl.report.markdown import markdown
from cxrtl.report.page import write_report
from cxrtl.report.reporting import reporting
from cxrtl.report.samples import collect_samples, read_pixels, read_samples
from cxrtl.report.summary import build
from cxrtl.rundir import RunDir, read_json, write_json

FAKE = Fake(arms=1, folds=2, budgets=(10,), images=60, image_size=32, readers=True, arm_names=("scratch",))
AUDIT = {
    "dataset_hash": "da7a" + "0" * 60,
    "folds_hash": "f01d" + "0" * 60,
    "lookalikes": {
        "pairs": 1,
        "images": 2,
        "mirrored": 0,
        "other_label": 0,
        "nearest": [{"images": ["a", "b"], "labels": ["x", "y"], "folds": [0, 1], "bits": 3, "mirrored": False}],
    },
    "shortcuts": [
        {"features": "age", "target": "label", "images": 9, "auc": 0.6, "low": 0.5, "high": 0.7, "reading": "none"}
    ],
}
FILES = ("experiment.resolved.json", "leakage.json", "environment.json", "sessions.json", "audit.json")
VALUES = (EVIL, "../../../etc/passwd", -1, 10**18, 1e17, "1e999", None, [], {}, [[{}]], True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    run = make_run(root / "run", FAKE)
    write_json(run.path("audit.json"), AUDIT)
    collect_samples(run, load_run(run).predictions, make_prepared(root / "prepared", run, FAKE))
    rows = {"image_size": [4, 4], "pixels": [bytes(16)] * 2}
    pd.DataFrame(rows).to_parquet(run.path("lookalikes.parquet"), index=False)
    return run.root


@pytest.fixture
def run(source: Path, tmp_path: Path) -> RunDir:
    shutil.copytree(source, tmp_path / "run")
    return RunDir(tmp_path / "run")


def read(run: RunDir) -> None:
    """All of a report but its drawings."""
    summary = build(load_run(run))
    markdown(summary)
    reporting(summary)
    json.dumps(summary, allow_nan=False)
    read_samples(run), read_pixels(run), read_twins(run, summary["examined"])


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in nested JSON, containers included."""
    yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from leaves(value[key], (*at, key))


def altered(raw: Any, at: tuple[Any, ...], value: Any) -> Any:
    if not at:
        return value
    changed = copy.deepcopy(raw)
    node = changed
    for key in at[:-1]:
        node = node[key]
    node[at[-1]] = value
    return changed


def cases(root: Path) -> list[tuple[str, tuple[Any, ...], Any]]:
    paths = [root / name for name in FILES] + [next(root.glob("*/fold0/result.json"))]
    return [
        (path.relative_to(root).as_posix(), at, value)
        for path in paths
        for at in leaves(read_json(path))
        for value in VALUES
    ]


def attempt(run: RunDir, name: str, at: tuple[Any, ...], value: Any) -> None:
    """A report, or an error of ours: nothing else may come of it."""
    path = run.path(name)
    before = path.read_bytes()
    path.write_text(json.dumps(altered(json.loads(before), at, value)))
    try:
        read(run)
    except CxrtlError:
        pass
    except Exception as error:
        raise AssertionError(f"{name} {at} = {value!r}") from error
    finally:
        path.write_bytes(before)


def test_values_of_any_kind(run: RunDir) -> None:
    every = cases(run.root)
    for place in np.random.default_rng(0).choice(len(every), 40, replace=False):
        attempt(run, *every[place])


def test_numbers_as_text_are_numbers_or_nothing(run: RunDir) -> None:
    for name, at in (
        ("experiment.resolved.json", ("experiment", "resources", "gpus_per_fold")),
        ("scratch/fold0/result.json", ("milestones", 0, "train_seconds")),
        ("scratch/fold0/result.json", ("milestones", 0, "held_out_loss")),
        ("sessions.json", (0, "wall_seconds")),
    ):
        path = run.path(name)
        before = path.read_bytes()
        path.write_text(json.dumps(altered(json.loads(before), at, "1e999")))
        with pytest.raises(DamagedError):
            load_run(run)
        path.write_bytes(before)


@pytest.mark.slow
def test_every_value_of_any_kind(run: RunDir) -> None:
    for case in cases(run.root):
        attempt(run, *case)


def evil(value: Any) -> Any:
    """Every string and key replaced."""
    if isinstance(value, dict):
        return {f"{key}{EVIL}": evil(item) for key, item in value.items()}
    if isinstance(value, list):
        return [evil(item) for item in value]
    return EVIL if isinstance(value, str) else value


def test_markup_in_every_string_that_reaches_the_page(run: RunDir) -> None:
    resolved = read_json(run.path("experiment.resolved.json"))
    stage = dict.fromkeys(("stage", "run", "rule", "init"), EVIL)
    resolved |= dict.fromkeys(("device", "precision", "command"), EVIL)
    resolved["weights"] = {name: {"source": EVIL, "file": EVIL} for name in (EVIL, "scratch")}
    resolved["lineage"] = {EVIL: [{**stage, "classes": [EVIL, EVIL], "images": 3, "patients": None}]}
    resolved["experiment"] |= {"description": EVIL}
    resolved["experiment"]["data"] |= {"subgroups": [EVIL]}
    resolved["experiment"]["published"] = [{"study": EVIL, "iterations": 10, "auc": 0.9, "seconds": 3.0}]
    resolved["dataset"] |= {
        "skipped": {EVIL: 3},
        "counts": {EVIL: 4},
        "flow": [{"step": EVIL, "removed": 2, "left": 60}],
    }
    write_json(run.path("experiment.resolved.json"), resolved)
    certificate = read_json(run.path("leakage.json"))
    certificate |= {"notes": [EVIL], "checks": [{"name": EVIL, "passed": False, "found": 2, "examples": [EVIL]}]}
    write_json(run.path("leakage.json"), certificate)
    write_json(run.path("environment.json"), evil(read_json(run.path("environment.json"))))
    sessions = read_json(run.path("sessions.json"))
    write_json(run.path("sessions.json"), [{**session, "started": EVIL} for session in sessions])
    audit = read_json(run.path("audit.json"))
    audit["shortcuts"][0] |= {"features": EVIL, "target": EVIL, "reading": EVIL}
    audit["lookalikes"]["nearest"][0] |= {"images": [EVIL, EVIL], "labels": [EVIL, EVIL]}
    write_json(run.path("audit.json"), audit)
    subjects = pd.read_parquet(run.path("subjects.parquet"))
    subjects[EVIL], subjects[f"reader_{EVIL}"] = EVIL, subjects["reader_a"]
    subjects.to_parquet(run.path("subjects.parquet"), index=False)
    samples = pd.read_parquet(run.path("samples.parquet"))
    samples.assign(label=EVIL, image_id=EVIL, arm=EVIL).to_parquet(run.path("samples.parquet"), index=False)
    text = write_report(run).read_text()
    tags = Page(text)
    only_our_script(text, tags)
    assert not [key for _, attributes in tags.tags for key in attributes if key.startswith("on")]
    assert all(attributes["src"].startswith("data:image/") for attributes in tags.all("img"))
    assert "49$" not in text and tags.text.count("alert(1)") > 20
    loaded = load_run(run)
    exported = Exported("x.onnx", "0" * 64, "scratch", 10, [0, 1], 1e-6, "sampled images")
    how = How(32, **loaded.experiment.data.decode.model_dump())
    texts = {name: run.path(name).read_text() for name in ("report.md", "reporting.md")}
    for name, plain in {**texts, "card": card(loaded, how, exported)}.items():
        assert "<script>" not in plain and "<img" not in plain, name


def test_an_arm_is_a_plain_name(run: RunDir) -> None:
    resolved = read_json(run.path("experiment.resolved.json"))
    for name in ("../scratch", "a/b", EVIL, "", ".."):
        resolved["recipes"][0]["name"] = name
        write_json(run.path("experiment.resolved.json"), resolved)
        with pytest.raises(DamagedError, match=r"experiment\.resolved\.json"):
            load_run(run)


@pytest.mark.parametrize(
    "name",
    ["folds.parquet", "samples.parquet", "figures", "explain", "scratch/fold0", "scratch/fold0/curve.jsonl", "a/b/c"],
)
def test_no_link_is_followed(run: RunDir, tmp_path: Path, name: str) -> None:
    path, outside = run.path(name), tmp_path / "outside"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        shutil.move(path, outside)
    else:
        outside.mkdir()
    path.symlink_to(outside)
    with pytest.raises(DamagedError, match="is a link"):
        write_report(run)


def test_tables_of_other_types(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_folds(change: Callable[[pd.DataFrame], pd.DataFrame], said: str) -> None:
        path = run.path("folds.parquet")
        before = path.read_bytes()
        change(pd.read_parquet(path)).to_parquet(path, index=False)
        with pytest.raises(DamagedError, match=said):
            load_run(run)
        path.write_bytes(before)

    with_folds(lambda frame: frame.assign(fold="0"), "column 'fold' of whole numbers")
    with_folds(lambda frame: frame.assign(image_id=7), "column 'image_id' of text")
    with_folds(lambda frame: frame.assign(label=None), "column 'label' of text")
    with_folds(lambda frame: frame.assign(fold=10**9), "holds no folds")
    with_folds(lambda frame: frame.assign(fold_1="x"), "holds no folds")
    with_folds(lambda frame: frame.iloc[:0], "of text|no rows")
    monkeypatch.setattr(rundir, "MOST_ROWS", 10)
    with pytest.raises(DamagedError, match=r"folds\.parquet.*no Parquet file"):
        load_run(run)


def test_predictions_of_other_types(run: RunDir) -> None:
    path = next(run.root.glob("*/fold0/predictions-10.parquet"))
    found = rundir.read_predictions(path).frame
    table = pd.DataFrame(found).assign(score_normal="0.5")
    about = {"classes": '["normal", "effusion"]', "task": "binary"}
    rundir.write_table(path, rundir.pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(about))
    with pytest.raises(DamagedError, match="is no predictions table"):
        rundir.read_predictions(path)


def test_pictures_of_other_sizes(run: RunDir) -> None:
    for name, reader in (
        ("samples.parquet", read_samples),
        ("samples.parquet", read_pixels),
        ("lookalikes.parquet", lambda run: read_twins(run, build(load_run(run))["examined"])),
    ):
        path = run.path(name)
        before = path.read_bytes()
        for side in (-1, 0, 33, 10**7):
            pd.read_parquet(path).assign(image_size=side).to_parquet(path, index=False)
            with pytest.raises(DamagedError):
                reader(run)
        path.write_bytes(before)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "1e999", "NaN", "-Infinity", "{", ""])
def test_json_that_is_none(run: RunDir, text: str) -> None:
    run.path("sessions.json").write_text(text)
    with pytest.raises(DamagedError, match=r"sessions\.json"):
        load_run(run)
