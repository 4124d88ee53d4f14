"""Images on disk train and score to the bits of images in memory, however the run is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cxrtl.config import Train
from cxrtl.data.flat import Flat
from cxrtl.errors import DamagedError
from cxrtl.learn import loop, step, stream
from cxrtl.learn.augment import Normalise
from cxrtl.learn.state import State
from cxrtl.records import Task
from tests.learn.test_loop import CPU, Run, images, recipe

TASKS: list[Task] = ["binary", "multilabel", "segmentation"]


def on_disk(folder: Path, name: str, found: loop.Images, task: Task) -> loop.Streamed:
    """The same images, every second place of a file whose other images are noise."""
    planes = found.pixels.numpy()
    if task == "segmentation":
        planes = np.concatenate([planes, found.targets.numpy()[:, None]], axis=1)
    rows = np.arange(len(planes)) * 2 + 1
    whole = np.random.default_rng(5).integers(0, 255, (2 * len(planes) + 1, *planes.shape[1:]), dtype=np.uint8)
    whole[rows] = planes
    (folder / name).write_bytes(whole.tobytes())
    flat = Flat(folder / name, planes.shape[1], planes.shape[2])
    return loop.Streamed(flat, rows, None if task == "segmentation" else found.targets, CPU)


class Streaming(Run):
    """A trial whose images lie in `folder`."""

    def __init__(self, train: Train, task: Task, disk: Path, folder: Path | None = None) -> None:
        super().__init__(train, folder=folder, task=task)
        self.images = on_disk(disk, "train.u8", images(task=task), task)
        self.held_out = on_disk(disk, "test.u8", images(11, seed=1, task=task), task)


@pytest.mark.parametrize("task", TASKS)
def test_same_bits_as_from_memory_however_a_run_is_cut(
    tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PIECE", 7)
    monkeypatch.setitem(loop.EVALUATION_BATCH, "cpu", 20)
    train = recipe(5, 10, checkpoint_every=3, class_weights=True)  # seven steps a pass: reads run into the next
    wanted = Run(train, task=task).fit()
    whole = Streaming(train, task, tmp_path).fit()
    first = Streaming(train, task, tmp_path, tmp_path)
    first.stop_at = 6
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second = Streaming(train, task, tmp_path, tmp_path)
    assert second.state.iteration == 6 and second.state.data_wait_seconds == first.state.data_wait_seconds > 0
    second.fit()
    assert torch.equal(wanted.scores[5], whole.scores[5])
    assert all(torch.equal(wanted.scores[10], other.scores[10]) for other in (whole, second))
    losses = [[line["loss"] for line in run.state.curve] for run in (wanted, whole, second)]
    assert losses[0] == losses[1] == losses[2]


def test_targets_and_pixels_come_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PIECE", 7)
    found = images(30, task="segmentation")
    streamed = on_disk(tmp_path, "a.u8", found, "segmentation")
    assert len(streamed) == 30 and torch.equal(torch.cat(list(streamed.truth())), found.targets)
    pairs = zip(streamed.chunks(Normalise(CPU), 8), found.chunks(Normalise(CPU), 8), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_waiting_is_counted_and_a_file_cut_short_is_an_error(tmp_path: Path) -> None:
    setting, at = Run(recipe(4)).setting, State()
    streamed = on_disk(tmp_path, "a.u8", images(), "binary")
    window = stream.Window(streamed, step.Batches(setting, 30), at)
    assert at.data_wait_seconds == 0
    window[0]
    assert at.data_wait_seconds > 0
    streamed.flat.path.write_bytes(b"short")
    with pytest.raises(DamagedError, match=r"a\.u8 cannot be read: it ends too early"):
        list(streamed.chunks(Normalise(CPU), 8))
