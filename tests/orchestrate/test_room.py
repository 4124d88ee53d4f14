"""What does not fit is refused: the reason, and the smallest change that would make it fit, which then does."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cxrtl.config import Experiment, Resources, parse
from cxrtl.errors import PlanError
from cxrtl.orchestrate import plan, room
from cxrtl.orchestrate.cluster import Node
from cxrtl.orchestrate.probe import Probe, Share
from cxrtl.records import Prepared

GIB = 2**30


def experiment(**resources: object) -> Experiment:
    train = {"init": "scratch", "budgets": [5]}
    return parse({"name": "x", "data": {"source": "phantom"}, "train": train, "resources": resources})


def prepared(folder: Path, images: int = 16, side: int = 32) -> Prepared:
    return Prepared(folder, ("n", "y"), side, images, True, "hash")


def probe(**found: int) -> Probe:
    return Probe("cuda" if "gpu_memory" in found else "cpu", "", "fp32", 1.0, **{"weight_bytes": 10, **found})


def draw(made: Experiment, nodes: list[Node], found: Probe, images: Prepared, folds: int = 10) -> None:
    """A plan for the layout that the experiment asks for."""
    (share, *_) = plan.shares(made.resources, nodes, folds)
    plan.make(made, plan.trials(made, folds), [], nodes, share, {"resnet50": found}, images.folder, images)


def refused(made: Experiment, nodes: list[Node], found: Probe, images: Prepared) -> str:
    """What the refusal advises. Where that is settings, they are tried, and must do."""
    with pytest.raises(PlanError, match="Smallest change: ") as caught:
        draw(made, nodes, found, images)
    advice = str(caught.value).rpartition("Smallest change: ")[2]
    if changes := dict(re.findall(r"resources\.(\w+) to (\"auto\"|[\d.]*\d)", advice)):
        values = {key: value.strip('"') if '"' in value else float(value) for key, value in changes.items()}
        changed = {**made.resources.model_dump(), **values}
        draw(made.model_copy(update={"resources": Resources.model_validate(changed)}), nodes, found, images)
    return advice


@pytest.mark.parametrize(
    ("resources", "nodes", "advice"),
    [
        ({"cpus_per_fold": 3}, [Node(2, 0), Node(1, 0)], "set resources.cpus_per_fold to 2 or less"),
        ({"gpus_per_fold": 1.0}, [Node(2, 0), Node(1, 0)], "set resources.gpus_per_fold to 0"),
        ({"gpus_per_fold": 4.0, "cpus_per_fold": 1}, [Node(8, 2)], "set resources.gpus_per_fold to 2"),
        # the node with the CPUs has no GPU, the one with the GPU few CPUs
        ({"gpus_per_fold": 1.0, "cpus_per_fold": 4}, [Node(64, 0), Node(2, 1)], "resources.cpus_per_fold to 2 or less"),
        (
            {"gpus_per_fold": 2.0, "cpus_per_fold": 9},
            [Node(8, 1)],
            "cpus_per_fold to 8 and resources.gpus_per_fold to 1",
        ),
        ({"workers_per_fold": 4, "cpus_per_fold": 1}, [Node(2, 0), Node(1, 0)], "resources.workers_per_fold to 3"),
    ],
)
def test_processors(resources: dict[str, object], nodes: list[Node], advice: str, tmp_path: Path) -> None:
    assert advice in refused(experiment(**resources), nodes, probe(gpu_memory=64 * GIB), prepared(tmp_path))


@pytest.mark.parametrize(
    ("resources", "used", "advice"),
    [
        ({"gpus_per_fold": 0.1, "cpus_per_fold": 1}, 3 * GIB, "set resources.gpus_per_fold to 0.22"),
        ({"folds_per_gpu": 8}, 20 * GIB, "set resources.folds_per_gpu to 6"),
        ({}, 20 * GIB, "lower train.batch_size or data.image_size, or take a larger GPU"),
    ],
)
def test_fraction_of_a_gpu(resources: dict[str, object], used: int, advice: str, tmp_path: Path) -> None:
    found = probe(gpu_memory=16 * GIB, gpu_used=used)
    if advice.startswith("set resources.folds_per_gpu"):  # what six take, as measured, is less than what eight do
        with pytest.raises(PlanError, match=advice):
            draw(experiment(**resources), [Node(8, 1)], found, prepared(tmp_path))
    else:
        assert advice in refused(experiment(**resources), [Node(8, 1)], found, prepared(tmp_path))


def test_images_on_a_gpu_count_and_features_take_their_place(tmp_path: Path) -> None:
    share, size = Share(1, 1.0, 2), GIB
    plain, frozen = probe(gpu_memory=4 * GIB, gpu_used=GIB), probe(gpu_memory=4 * GIB, gpu_used=GIB, features=2 * GIB)
    assert room.gpu_bytes(plain, size) == 2 * GIB + room.CUDA_CONTEXT and room.fits_gpu(share, plain, size)
    assert room.gpu_bytes(frozen, size) == 3 * GIB + room.CUDA_CONTEXT and room.fits_gpu(share, frozen, size)
    assert not room.fits_gpu(share, replace(frozen, features=3 * GIB), size)
    assert not room.fits_gpu(Share(1, 0.5), plain, 2 * GIB)


@pytest.mark.parametrize(
    ("resources", "memory", "advice"),
    [
        ({"images": "memory"}, 3 * GIB, 'set resources.images to "auto"'),  # the set three times, and two processes
        ({"images": "stream"}, GIB, "set resources.max_concurrent to 1"),
        ({}, GIB, "set resources.max_concurrent to 1"),
        ({"images": "memory"}, GIB, 'set resources.max_concurrent to 1 and resources.images to "auto"'),
        ({}, GIB // 2, "lower train.batch_size or data.image_size, or take nodes with more memory"),
    ],
)
def test_memory_of_a_node(resources: dict[str, object], memory: int, advice: str, tmp_path: Path) -> None:
    images = prepared(tmp_path, 1024, 1024)  # 1 GiB
    made, small = experiment(cpus_per_fold=1, **resources), Node(2, 0, memory, "small")
    found = probe(memory=700 * 2**20)
    assert refused(made, [small, Node(2, 0, 64 * GIB, "large")], found, images).startswith(advice)
    draw(made, [Node(2, 0, 64 * GIB)], found, images)
    draw(made, [Node(2, 0)], found, images)  # a node that does not say


@pytest.mark.parametrize(
    ("images", "nodes", "share", "size", "streams"),
    [
        ("auto", [Node(2, 0, 600)], Share(1, 0), 100, False),  # two folds and the object store: half
        ("auto", [Node(2, 0, 600)], Share(1, 0), 101, True),
        ("auto", [Node(8, 0, 600)], Share(4, 0), 101, True),
        ("auto", [Node(9, 0, 600)], Share(1, 0), 100, False),  # no more than two are to do
        ("auto", [Node(2, 0, 9000), Node(2, 0, 600)], Share(1, 0), 101, True),
        ("auto", [Node(2, 0, 9000), Node(1, 0, 600)], Share(2, 0), 101, False),  # the small one holds none
        ("auto", [Node(4, 1, 9000)], Share(1, 1.0, 2), 40, False),  # on a GPU of 80 bytes, once for both folds
        ("auto", [Node(4, 1, 9000)], Share(1, 1.0, 2), 41, True),
        ("auto", [Node(4, 1, 150)], Share(1, 1.0, 2), 37, False),  # in memory, once for both and in the object store
        ("auto", [Node(4, 1, 150)], Share(1, 1.0, 2), 38, True),
        ("auto", [Node(4, 1, 9000)], Share(1, 0.5), 20, False),
        ("auto", [Node(4, 1, 9000)], Share(1, 0.5), 21, True),
        ("memory", [Node(2, 0, 600)], Share(1, 0), 101, False),
        ("stream", [Node(2, 0, 600)], Share(1, 0), 1, True),
        ("auto", [Node(4, 0, 1000)], Share(1, 0, workers=2), 100, False),  # a copy each
        ("auto", [Node(4, 0, 1000)], Share(1, 0, workers=2), 101, True),
    ],
)
def test_pixels_stream_where_their_copies_take_half_of_the_memory(
    images: str, nodes: list[Node], share: Share, size: int, streams: bool
) -> None:
    found = {"a": probe(gpu_memory=80)}
    assert room.streams(experiment(images=images), nodes, share, 2, found, size) == streams


def test_disk(tmp_path: Path) -> None:
    advice = refused(experiment(), [Node(2, 0)], probe(weight_bytes=10**15), prepared(tmp_path))
    assert re.match(r"make room for \d+\.\d GB; or choose another --home", advice)
    with pytest.raises(PlanError, match="make room"):  # the file that streamed pixels are read from
        draw(experiment(images="stream"), [Node(2, 0)], probe(), prepared(tmp_path, 10**9, 1024))


@pytest.mark.parametrize(
    ("node", "share", "fit"),
    [
        (Node(16, 4), Share(1, 0.3), 12),  # three to a GPU: the four tenths that are left over are on four GPUs
        (Node(16, 4), Share(1, 2.0), 2),
        (Node(3, 4), Share(1, 0.5), 3),
        (Node(16, 0), Share(1, 0.5), 0),
    ],
)
def test_slots_of_a_node(node: Node, share: Share, fit: int) -> None:
    assert node.slots(share.cpus, share.gpus) == fit
