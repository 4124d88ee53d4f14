"""A run's models give what the run recorded, and a run folder that was tampered with is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from cxrtl.errors import ConfigError, DamagedError, PredictionsError
from cxrtl.rundir import RunDir, sha256_file
from cxrtl.use.model import called, open_trained, probabilities, revive
from tests.use.conftest import CPU, LAST, Tiny

WEIGHTS = f"first/fold0/weights-{LAST}.safetensors"


def forge(run: RunDir, change: bytes) -> None:
    """Replace a weights file and make its result vouch for it, as whoever hands out the folder can."""
    run.path(WEIGHTS).write_bytes(change)
    result = run.path("first/fold0/result.json")
    raw = json.loads(result.read_text())
    raw["files"][f"weights-{LAST}.safetensors"] = sha256_file(run.path(WEIGHTS))
    result.write_text(json.dumps(raw))


@pytest.mark.parametrize(("arm", "iterations"), [("", 0), ("first", 2), ("second", 0)])
def test_models_give_the_out_of_fold_predictions(tiny: Tiny, arm: str, iterations: int) -> None:
    trained = open_trained(tiny.run, arm, iterations)
    pixels, frame = tiny.pixels(), trained.loaded.predictions.select(trained.recipe.name, trained.iterations).frame
    assert trained.iterations == {"": LAST, "first": 2, "second": 3}[arm] and sorted(trained.trials) == [0, 1]
    for fold in trained.trials:
        held = frame[frame["fold"] == fold]
        found = trained.ensemble(CPU, [fold])(np.stack([pixels[name] for name in held["image_id"]]))
        wanted = held[["score_healthy", "score_sick"]].to_numpy()
        assert np.abs(found[0] - wanted).max() < 1e-6


@pytest.mark.parametrize(
    ("arm", "iterations", "said"),
    [
        ("third", 0, "choose among first, second"),
        ("", 5, f"choose among 2, {LAST}"),
        ("second", LAST, "choose among 3"),
    ],
)
def test_what_was_not_trained_is_refused(tiny: Tiny, arm: str, iterations: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        open_trained(tiny.run, arm, iterations)


def test_an_unfinished_arm_is_refused_and_a_finished_one_beside_it_is_not(copy: RunDir) -> None:
    copy.path("second/fold1/result.json").unlink()
    with pytest.raises(PredictionsError, match=r"lacks the folds \[1\]"):
        open_trained(copy, "second")
    assert open_trained(copy, "first").iterations == LAST


def test_altered_weights_are_refused(copy: RunDir) -> None:
    data = bytearray(copy.path(WEIGHTS).read_bytes())
    data[-1] ^= 1
    copy.path(WEIGHTS).write_bytes(data)
    with pytest.raises(DamagedError, match="not the file that was written"):
        open_trained(copy).model(0, CPU)


def test_weights_that_change_between_check_and_use_are_refused(copy: RunDir) -> None:
    trained = open_trained(copy)
    file = trained.file(0)
    copy.path(WEIGHTS).write_bytes(b"other")
    with pytest.raises(DamagedError, match="changed after it was checked"):
        revive(file, trained.recipe.train, 2, "binary", CPU)


def test_weights_behind_a_link_are_refused(copy: RunDir, tmp_path: Path) -> None:
    copy.path(WEIGHTS).rename(tmp_path / "outside")
    copy.path(WEIGHTS).symlink_to(tmp_path / "outside")
    with pytest.raises(DamagedError, match="a link"):
        open_trained(copy).model(0, CPU)


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch owned",)


def test_a_pickle_that_is_vouched_for_is_not_run(copy: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Payload(), tmp_path / "evil")
    forge(copy, (tmp_path / "evil").read_bytes())
    with pytest.raises(DamagedError, match="no safetensors file"):
        open_trained(copy).model(0, CPU)
    assert not (tmp_path / "owned").exists()


def test_weights_of_other_shapes_and_with_no_numbers_are_refused(copy: RunDir) -> None:
    good = safetensors.torch.load(copy.path(WEIGHTS).read_bytes())
    key = next(key for key, value in good.items() if value.dim())  # the file is in no order
    forge(copy, safetensors.torch.save({**good, key: good[key][:1]}))
    with pytest.raises(DamagedError, match="does not hold the weights of a shufflenet_v2_x0_5 with 2 classes"):
        open_trained(copy).model(0, CPU)
    forge(copy, safetensors.torch.save({**good, key: good[key] * torch.nan}))
    with pytest.raises(PredictionsError, match="no numbers"):
        open_trained(copy).ensemble(CPU)(np.zeros((1, 96, 96), np.uint8))


def test_scores_by_task() -> None:
    logits = torch.tensor([[0.0, 2.0, -1.0]])
    assert probabilities(logits, "multiclass").sum() == pytest.approx(1)
    assert probabilities(logits, "multilabel").numpy() == pytest.approx(1 / (1 + np.exp(-logits.numpy())))
    scores = np.array([[0.5, 0.5, 0.1], [0.2, 0.1, 0.7]])
    assert called(scores, "abc", "multiclass") == ["a", "c"]
    assert called(scores, "abc", "multilabel") == ["a|b", "c"]
    assert called(scores[:, :2], "ab", "binary") == ["b", "a"]
    assert called(pd.DataFrame({"a": [0.6], "b": [0.4]}).to_numpy(), "ab", "binary") == ["a"]
