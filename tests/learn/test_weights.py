"""Pretrained weights: found where they are, refused where they are not what they should be."""

from __future__ import annotations

import enum
import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from cxrtl.config import Train
from cxrtl.errors import WeightsError
from cxrtl.learn import backbones, weights


def train(**knobs: object) -> Train:
    return Train.model_validate({"backbone": "squeezenet1_1", "init": "scratch", **knobs})


def state(name: str = "squeezenet1_1", classes: int = 1000) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return backbones.build(name, classes).state_dict()


def save(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".pth":
        torch.save(tensors, path)
    else:
        safetensors.torch.save_file(tensors, path)
    return path


def load(path: Path, name: str = "squeezenet1_1", **knobs: object) -> torch.nn.Module:
    found = weights.find(train(backbone=name, init=f"file:{path}", **knobs))
    assert found is not None
    model = backbones.build(name, 2)
    weights.load(model, found, name, 2)
    return model


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_full_file_gives_all_but_the_last_layer(tmp_path: Path, suffix: str) -> None:
    given = state()
    model = load(save(tmp_path / f"w{suffix}", given))
    for key, value in model.state_dict().items():
        if key.startswith("classifier.1"):
            assert value.shape[0] == 2
        else:
            assert torch.equal(value, given[key]), key


def test_last_layer_is_new_even_where_its_shape_fits(tmp_path: Path) -> None:
    given = state(classes=2)
    model = load(save(tmp_path / "w.pth", given))
    assert not torch.equal(model.state_dict()["classifier.1.weight"], given["classifier.1.weight"])


def test_features_file_loads_when_exactly_the_head_is_missing(tmp_path: Path, shared_data: Path) -> None:
    real = shared_data / "weights" / "squeezenet1_1-imagenet-features.safetensors"
    given = safetensors.torch.load_file(real)
    model = load(real)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in given.items())
    lacking = dict(list(given.items())[2:])
    with pytest.raises(WeightsError, match=r"missing \(2\): features\.0\.bias, features\.0\.weight"):
        load(save(tmp_path / "w.safetensors", lacking))


def test_faults_are_listed(tmp_path: Path) -> None:
    given = state()
    given["features.0.weight"] = torch.zeros(1)
    given["extra.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"unexpected \(1\): extra\.weight; other shape \(1\): features\.0\.weight"):
        load(save(tmp_path / "w.safetensors", given))


def test_wrong_hash_is_refused_before_loading(tmp_path: Path) -> None:
    path = save(tmp_path / "w.safetensors", state())
    with pytest.raises(WeightsError, match="expected " + "0" * 64):
        load(path, init_sha256="0" * 64)
    load(path, init_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"no \.safetensors or \.pth state dict"):
        load(tmp_path / name)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"features.0.weight": Bomb()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError):
        load(tmp_path / "w.pth")
    assert not (tmp_path / "exploded").exists()


def test_old_densenet_names_are_understood(tmp_path: Path) -> None:
    given = state("densenet121")
    old = {
        weights.re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", key): value
        for key, value in given.items()
        if not key.endswith("num_batches_tracked")
    }
    assert old.keys() != given.keys()
    model = load(save(tmp_path / "w.pth", old), "densenet121")
    assert torch.equal(model.state_dict()["features.norm5.weight"], given["features.norm5.weight"])


def test_side_outputs_of_googlenet_are_left_out(tmp_path: Path) -> None:
    given = state("googlenet") | {"aux1.fc2.weight": torch.zeros(1)}
    load(save(tmp_path / "w.pth", given), "googlenet")


class Catalogue:
    """torchvision's list of weights, with one entry that points at a local file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prefix: str | None = None) -> None:
        self.cache = tmp_path / "hub"
        source = save(tmp_path / "source.pth", state())
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        self.name = f"squeezenet1_1-{prefix or digest[:8]}.pth"
        source.rename(tmp_path / self.name)
        self.source = tmp_path / self.name
        entry = SimpleNamespace(url=self.source.as_uri())
        listed = enum.Enum("Listed", {"IMAGENET1K_V1": entry})
        monkeypatch.setattr(weights.models, "get_model_weights", lambda _: _Values(listed))
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(self.cache))


class _Values:
    """An Enum whose members are the values themselves, as torchvision's are for `.url`."""

    def __init__(self, listed: type[enum.Enum]) -> None:
        self.__members__ = listed.__members__
        self.listed = listed

    def __getitem__(self, name: str) -> object:
        return self.listed[name].value


def test_missing_imagenet_weights_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    catalogue = Catalogue(monkeypatch, tmp_path)
    with pytest.raises(WeightsError) as caught:
        weights.find(train(init="imagenet"))
    for part in (catalogue.name, str(catalogue.cache / "checkpoints"), "--download", "copy the file"):
        assert part in str(caught.value)


def test_download_verifies_and_keeps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    catalogue = Catalogue(monkeypatch, tmp_path)
    first = weights.find(train(init="imagenet"), download=True)
    catalogue.source.unlink()
    again = weights.find(train(init="imagenet"))
    assert first is not None and again is not None and first.sha256 == again.sha256


def test_download_of_another_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    catalogue = Catalogue(monkeypatch, tmp_path, prefix="deadbeef")
    with pytest.raises(WeightsError, match="could not be downloaded"):
        weights.find(train(init="imagenet"), download=True)
    assert not (catalogue.cache / "checkpoints" / catalogue.name).exists()


def test_altered_file_in_the_cache_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    catalogue = Catalogue(monkeypatch, tmp_path)
    folder = catalogue.cache / "checkpoints"
    folder.mkdir(parents=True)
    (folder / catalogue.name).write_bytes(b"altered")
    with pytest.raises(WeightsError, match="altered or cut short"):
        weights.find(train(init="imagenet"))
