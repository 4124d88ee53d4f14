"""The experiment file: every fault is found, all at once, and named with its key and value."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrtl import config
from cxrtl.errors import ConfigError

RAW = {"name": "x", "data": {"source": "phantom"}}
EXPERIMENTS = sorted((Path(__file__).parents[1] / "jobs" / "experiments").glob("*.toml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "x.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_shipped_experiments_are_valid_and_open_with_their_command(path: Path) -> None:
    loaded = config.load(path)
    assert loaded.name == path.stem
    head = path.read_text().split("\nname")[0]
    for part in (f"cxrtl run jobs/experiments/{path.name}", "minutes", "expect"):
        assert part in head


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    text = "name = 'x y'\ntypo = 1\n[data]\nsource = 'folder'\n[train]\nbudgets = [20, 10]\nrate = -1\n"
    text += "[folds]\nk = 'ten'\n"
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, text))
    message = str(caught.value)
    for part in ("name:", "typo: unknown key", "data.path is empty", "train.budgets", "train.rate", "'ten'", "-1"):
        assert part in message
    assert "6 fault(s)" in message


def test_faults_of_arms_name_the_arm() -> None:
    arms = [{"name": "a", "train": {"ratte": 1}}, {"name": "b", "augment": {"scale": 2}}]
    with pytest.raises(ConfigError) as caught:
        config.parse({**RAW, "arm": arms})
    assert "arm 'a': train.ratte: unknown key" in str(caught.value) and "arm 'b': augment.scale" in str(caught.value)


def test_arms_may_not_share_a_folder() -> None:
    with pytest.raises(ConfigError, match="arm names repeat"):
        config.parse({**RAW, "arm": [{"name": "A"}, {"name": "a"}]})
    with pytest.raises(ConfigError, match=r"\['figures'\] are taken"):
        config.parse({**RAW, "arm": [{"name": "Figures"}]})


@pytest.mark.parametrize(
    ("folds", "fault"),
    [
        ({"kind": "leave_one_site_out"}, "folds.column is empty"),
        ({"column": "split"}, "folds.column has no meaning for kind 'cv'"),
        ({"kind": "holdout", "share": 1}, "folds.share"),
    ],
)
def test_divisions_that_say_too_little_or_too_much(folds: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        config.parse({**RAW, "folds": folds})


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "x" * 65, "a b"])
def test_names_cannot_leave_the_folder(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        config.parse({**RAW, "name": name})


def test_overrides_reach_every_level(tmp_path: Path) -> None:
    path = write(tmp_path, "name = 'x'\n[data]\nsource = 'phantom'\n[[arm]]\nname = 'a'\n")
    loaded = config.load(path, ["train.budgets=[3]", "seed=4", "arm.0.train.init=scratch", "description=a b"])
    assert (loaded.train.budgets, loaded.seed, loaded.description) == ((3,), 4, "a b")
    assert loaded.recipes[0].train.init == "scratch" and loaded.train.init == "imagenet"


@pytest.mark.parametrize("override", ["x", "=3", "arm.5.name=b", "name.x=1"])
def test_overrides_that_fit_nowhere_are_refused(tmp_path: Path, override: str) -> None:
    path = write(tmp_path, "name = 'x'\n[data]\nsource = 'phantom'\n[[arm]]\nname = 'a'\n")
    with pytest.raises(ConfigError, match="--set"):
        config.load(path, [override])


def test_arm_without_overrides_is_the_experiment_itself() -> None:
    loaded = config.parse(RAW)
    assert [recipe.name for recipe in loaded.recipes] == [loaded.train.backbone]
    assert loaded.recipes[0].train == loaded.train


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config.load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="not valid TOML"):
        config.load(write(tmp_path, "name = "))
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.load(tmp_path / "b.toml")


def test_paths_fill_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEWHERE", "/data")
    assert config.expand("$SOMEWHERE/x") == config.expand("${SOMEWHERE}/x") == Path("/data/x")
    monkeypatch.delenv("SOMEWHERE")
    with pytest.raises(ConfigError, match="SOMEWHERE is not set"):
        config.expand("$SOMEWHERE/x")


def test_a_job_has_no_data_folder_but_the_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXRTL_DATA", raising=False)
    assert config.expand("$CXRTL_DATA/x").name == "x"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match=r"CXRTL_DATA is not set\. Set it where the cluster's `ray start` is called"):
        config.expand("$CXRTL_DATA/x")
    monkeypatch.setenv("CXRTL_DATA", "/mnt/data")
    assert config.expand("$CXRTL_DATA/x") == Path("/mnt/data/x")


def test_patient_pattern_needs_a_group() -> None:
    with pytest.raises(ConfigError, match="has no group"):
        config.parse({"name": "x", "data": {"source": "folder", "path": "x", "patient_pattern": "person"}})
    with pytest.raises(ConfigError, match="not a regular expression"):
        config.parse({"name": "x", "data": {"source": "folder", "path": "x", "patient_pattern": "("}})


@pytest.mark.parametrize(
    ("resources", "fault"),
    [
        ({"folds_per_gpu": 2}, "with folds_per_gpu = 2: set one of them to 1"),
        ({"gpus_per_fold": 0.5}, "give each worker a whole GPU"),
        ({"workers_per_fold": 26}, "share out batches of 25 images: take 25 workers at most"),
    ],
)
def test_workers_of_a_fold_need_something_each(resources: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        config.parse({**RAW, "resources": {"workers_per_fold": 2, **resources}})


def test_every_knob_says_what_it_is() -> None:
    for table in (config.Data, config.Folds, config.Train, config.Augment, config.Resources, config.Published):
        for name, field in table.model_fields.items():
            assert field.description, f"{table.__name__}.{name}"


@pytest.mark.parametrize("path", ["s3://AKIA:hush@bucket/images", "https://host/images?token=hush"])
def test_no_secret_in_a_path(path: str) -> None:
    with pytest.raises(ConfigError, match="holds a password or key") as caught:
        config.expand(path)
    assert "hush" not in str(caught.value)
