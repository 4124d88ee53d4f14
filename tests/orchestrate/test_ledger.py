"""A run's identity: what decides numbers counts, what does not does not, and differences are named."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cxrtl import rundir
from cxrtl.config import Experiment, parse
from cxrtl.errors import ChangedError
from cxrtl.learn.weights import Weights
from cxrtl.orchestrate import ledger
from cxrtl.records import Folds, Prepared
from cxrtl.rundir import RunDir

PREPARED = Prepared(Path(), ("n", "p"), 64, 4, True, "d" * 64)
FOLDS = Folds(pd.DataFrame({"fold": [0, 1]}), "d" * 64, True, "f" * 64)


def experiment(**changes: object) -> Experiment:
    return parse({"name": "x", "data": {"source": "phantom"}, "arm": [{"name": "a"}], **changes})


def identity(given: Experiment, sha256: str = "1" * 64, folds: Folds = FOLDS) -> ledger.Identity:
    return ledger.Identity.of(given, PREPARED, folds, {"a": Weights("imagenet", "w.pth", sha256, b"")}, {})


def begin(run: RunDir) -> None:
    run.root.mkdir()
    machine = ledger.Machine("cpu", {"a": "fp32"}, 1)
    starts = {"a": Weights("imagenet", "w.pth", "1" * 64, b"")}
    ledger.write(run, experiment(), identity(experiment()), PREPARED, FOLDS, starts, machine, "cxrtl run x.toml", {})


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"folds": {"k": 3}},  # the saved folds stay as they are: only the experiment tells
        {"folds": {"seed": 1}},
        {"folds": {"file": "elsewhere.parquet"}},
        {"folds": {"kind": "holdout"}},
        {"train": {"rate": 0.5}},
        {"augment": {"crop": 0.2}},
        {"resources": {"cpus_per_fold": 2}},  # threads change the last bits
        {"resources": {"workers_per_fold": 2}},
    ],
)
def test_what_decides_numbers_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    run = RunDir(tmp_path / "x")
    begin(run)
    changed = experiment(**change)
    name = changed.recipes[0].name
    mine = ledger.Identity.of(changed, PREPARED, FOLDS, {name: Weights("imagenet", "w.pth", "1" * 64, b"")}, {})
    with pytest.raises(ChangedError, match="→"):
        ledger.check_unchanged(run, mine)


@pytest.mark.parametrize(
    "change",
    [
        {"description": "other"},
        {"train": {"checkpoint_every": 1, "init_sha256": "1" * 64}},
        {"resources": {"max_concurrent": 1}},
        {"published": [{"study": "s", "iterations": 1}]},
    ],
)
def test_what_decides_nothing_is_not(tmp_path: Path, change: dict[str, object]) -> None:
    run = RunDir(tmp_path / "x")
    begin(run)
    assert ledger.check_unchanged(run, identity(experiment(**change)))


def with_arms(*names: str, **changes: object) -> ledger.Identity:
    given = experiment(arm=[{"name": name} for name in names], **changes)
    return ledger.Identity.of(given, PREPARED, FOLDS, dict.fromkeys(names, Weights("i", "w.pth", "1" * 64, b"")), {})


def test_arm_may_be_added_and_leaves_the_others_hash_alone(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "x")
    begin(run)
    more = with_arms("b", "a")
    saved = ledger.check_unchanged(run, more)
    assert saved is not None
    machine = ledger.Machine("cpu", {"a": "fp32", "b": "bf16"}, 1)
    assert more.arm_hashes(machine)["a"] == saved["arm_hashes"]["a"] != more.arm_hashes(machine)["b"]
    assert more.run_hash(machine) != saved["run_hash"]
    assert with_arms("a", "b").run_hash(machine) == more.run_hash(machine)  # their order is no matter
    changed = ledger.Machine("cpu", {"a": "bf16", "b": "bf16"}, 1)
    assert more.arm_hashes(changed)["a"] != saved["arm_hashes"]["a"]
    with pytest.raises(ChangedError, match=r"arms\.a\.train\.rate"):
        ledger.check_unchanged(run, with_arms("a", "b", train={"rate": 0.5}))
    with pytest.raises(ChangedError, match="seed: 0 → 1"):
        ledger.check_unchanged(run, with_arms("a", "b", seed=1))


def test_arm_may_go_only_before_a_fold_of_it_is_finished(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "x")
    begin(run)
    assert ledger.check_unchanged(run, with_arms("b"))
    run.path("a", "fold0", "budget5").mkdir(parents=True)
    run.path("a", "fold0", "budget5", "result.json").write_text("{}")
    with pytest.raises(ChangedError, match=r"arms\.a: .* → 'absent'(.|\n)*belongs in the report"):
        ledger.check_unchanged(run, with_arms("b"))


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "x")
    begin(run)
    with pytest.raises(ChangedError, match=r"arms\.a\.train\.weights_sha256: '1+' → '2+'"):
        ledger.check_unchanged(run, identity(experiment(), "2" * 64))


def test_run_not_begun_has_nothing_to_compare(tmp_path: Path) -> None:
    assert ledger.check_unchanged(RunDir(tmp_path), identity(experiment())) is None


def test_device_kind_and_precision_belong_to_the_hash() -> None:
    mine = identity(experiment())
    kinds = [("cpu", "fp32"), ("cpu", "bf16"), ("cuda", "bf16")]
    assert len({mine.run_hash(ledger.Machine(device, {"a": precision}, 1)) for device, precision in kinds}) == 3


def test_kind_of_gpu_belongs_to_the_hash_and_no_gpu_is_as_it_was() -> None:
    mine = identity(experiment())
    names = ["", "NVIDIA L4", "NVIDIA A10G"]
    assert len({mine.run_hash(ledger.Machine("cuda", {"a": "bf16"}, 4, name)) for name in names}) == 3
    on_cpu = {"device": "cpu", "precision": {"a": "fp32"}, "threads": 1}  # before GPUs were named
    assert mine.run_hash(ledger.Machine("cpu", {"a": "fp32"}, 1)) == rundir.content_hash({**mine.decides, **on_cpu})


@pytest.mark.parametrize(
    ("begun", "now", "goes_on"),
    [
        ("NVIDIA L4", "NVIDIA L4", True),
        ("NVIDIA L4", "NVIDIA A10G", False),
        ("NVIDIA A10G + NVIDIA L4", "NVIDIA L4", True),
        ("NVIDIA L4", "NVIDIA A10G + NVIDIA L4", False),
        (None, "NVIDIA L4", True),  # begun before GPUs were named
    ],
)
def test_a_run_goes_on_on_its_kind_of_gpu(begun: str | None, now: str, goes_on: bool) -> None:
    saved = {"device": "cuda", "precision_by_arm": {"a": "bf16"}, "threads": 4}
    saved |= {} if begun is None else {"gpu": begun}
    machine = ledger.Machine("cuda", {"a": "bf16", "b": "bf16"}, 4, now)
    if goes_on:
        kept = ledger.check_machine(RunDir(Path("x")), saved, machine)
        assert (kept.gpu, dict(kept.precision)) == (begun or "", {"a": "bf16", "b": "bf16"})
    else:
        with pytest.raises(ChangedError, match=r"begun on NVIDIA L4 with .* on NVIDIA A10G"):
            ledger.check_machine(RunDir(Path("x")), saved, machine)


def test_a_run_goes_on_on_its_kind_of_device_and_in_its_format() -> None:
    saved = {"device": "cpu", "precision_by_arm": {"a": "fp32"}, "threads": 2, "gpu": ""}
    ledger.check_machine(RunDir(Path("x")), saved, ledger.Machine("cpu", {"a": "fp32"}, 2))
    for machine in (ledger.Machine("cuda", {"a": "fp32"}, 2, "NVIDIA L4"), ledger.Machine("cpu", {"a": "bf16"}, 2)):
        with pytest.raises(ChangedError, match="begun on cpu"):
            ledger.check_machine(RunDir(Path("x")), saved, machine)


def test_kept_experiment_reads_back_as_the_same(tmp_path: Path) -> None:
    from cxrtl.config import load

    run = RunDir(tmp_path / "x")
    begin(run)
    assert load(run.path("experiment.toml")) == experiment()


def test_differences_name_the_key() -> None:
    found = ledger.differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4})
    assert found == [("a.b", 1, 3), ("a.c", 2, "absent"), ("d", "absent", 4)]
