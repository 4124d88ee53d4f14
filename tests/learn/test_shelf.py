"""Weights by name: kept with what vouches for them, refused where they are not what they should be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from cxrtl.cli import app
from cxrtl.config import Train
from cxrtl.errors import WeightsError
from cxrtl.learn import backbones, shelf, weights

NAME = "squeezenet1_1"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights file outside an empty shelf; torch's cache is empty, too."""
    monkeypatch.setenv("CXRTL_WEIGHTS", str(tmp_path / "shelf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    safetensors.torch.save_file(backbones.build(NAME, 7).state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def say(*words: str) -> tuple[int, list[dict[str, str]]]:
    done = CliRunner().invoke(app, ["weights", *words, "--json"])
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()]


def test_added_weights_are_listed_verified_and_trained_from(file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert say("add", str(file), "--name", "mine", "--licence", "CC0", "--source", "a test")[0] == 0
    code, (entry,) = say("list")
    assert code == 0 and (entry["name"], entry["sha256"], entry["licence"], entry["source"], entry["state"]) == (
        "mine", digest, "CC0", "a test", "here",
    )  # fmt: skip
    assert say("verify") == (0, [{**entry, "state": "sound"}])
    train = Train(backbone=NAME, init="weights:mine")
    found = weights.find(train)
    assert found is not None and (found.source, found.sha256) == ("weights", digest)
    weights.load(backbones.build(NAME, 2), found, NAME, 2)


def test_altered_weights_are_found_out_and_not_trained_from(file: Path) -> None:
    entry = shelf.add(file, "mine", "CC0", "a test")
    Path(entry.path).write_bytes(file.read_bytes()[:-1] + b"?")
    code, lines = say("verify", "mine")
    assert code == 2 and lines[0]["state"] == "ALTERED" and lines[1]["error"] == "WeightsError"
    with pytest.raises(WeightsError, match="altered or cut short"):
        weights.find(Train(backbone=NAME, init="weights:mine"))


def test_fetching_checks_the_hash_before_it_keeps(file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(WeightsError, match="this is another file"):
        shelf.fetch(file.as_uri(), "mine", "CC0", "0" * 64)
    assert not shelf.home().exists()
    assert shelf.fetch(file.as_uri(), "mine", "CC0", digest).sha256 == digest
    with pytest.raises(WeightsError, match=r"--sha256 and --licence"):
        shelf.fetch(file.as_uri(), "mine", "CC0")
    with pytest.raises(WeightsError, match="could not be fetched"):
        shelf.fetch((file.parent / "none.pth").as_uri(), "other", "CC0", digest)
    with pytest.raises(WeightsError, match="give a backbone's name, or an https URL"):
        shelf.fetch("http://127.0.0.1/w.pth", "other", "CC0", digest)


def test_a_name_means_one_file_and_a_file_is_weights(file: Path, tmp_path: Path) -> None:
    shelf.add(file, "mine", "CC0", "a test")
    shelf.add(file, "mine", "CC0", "again")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="is taken by the file"):
        shelf.add(tmp_path / "other.pth", "mine", "CC0", "a test")
    (tmp_path / "none.pth").write_bytes(b"none")
    with pytest.raises(WeightsError, match="no \\.safetensors or \\.pth"):
        shelf.add(tmp_path / "none.pth", "none", "CC0", "a test")
    with pytest.raises(WeightsError, match="take letters"):
        shelf.add(file, "../mine", "CC0", "a test")
    with pytest.raises(WeightsError, match=r"holds \['mine'\]"):
        weights.find(Train(backbone=NAME, init="weights:yours"))


def test_torchvisions_weights_are_listed_with_where_they_are_looked_for(file: Path) -> None:
    code, lines = say("list", "--all")
    found = {line["name"]: line for line in lines}
    assert code == 0 and len(found) == len(backbones.names())
    resnet = found["resnet50"]
    assert resnet["file"] == "resnet50-0676ba61.pth" and resnet["sha256"] == "0676ba61" and resnet["state"] == "missing"
    assert resnet["path"] == str(file.parent / "torch/hub/checkpoints/resnet50-0676ba61.pth")
