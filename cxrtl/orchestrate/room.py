"""Whether a plan fits into CPUs, GPUs, memory and disk; if not, it is refused with the smallest change to make."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from cxrtl.config import Experiment
from cxrtl.data import flat
from cxrtl.errors import PlanError
from cxrtl.orchestrate.cluster import Node
from cxrtl.orchestrate.probe import Probe, Share
from cxrtl.records import Prepared, Trial

CUDA_CONTEXT = 2**29  # bytes of a GPU that a process takes beside what torch counts
_STATE_COPIES = 3  # a saved state: parameters and momentum (AdamW: two moments)


def fit(share: Share, nodes: Sequence[Node]) -> int:
    """Processes that fit on the cluster at once, whichever fold they train."""
    return sum(node.slots(share.cpus, share.gpus) for node in nodes)


def slots(share: Share, nodes: Sequence[Node]) -> int:
    """Processes of this share, or groups of its workers, that fit on the cluster at once.

    Raises:
        PlanError: none does; names the smallest change that would let one start.
    """
    found = fit(share, nodes)
    if found >= share.workers:
        return found // share.workers
    if found:
        raise PlanError(
            f"resources.workers_per_fold = {share.workers}, and {found} workers of {share.cpus} CPUs and "
            f"{share.gpus:g} GPUs fit on the cluster. Smallest change: set resources.workers_per_fold to "
            f"{found}."
        )
    beside_gpus = max((node.cpus for node in nodes if node.gpus >= share.gpus), default=0)
    beside_cpus = max((node.gpus for node in nodes if node.cpus >= share.cpus), default=None)
    if beside_gpus >= 1:
        change = f"set resources.cpus_per_fold to {int(beside_gpus)} or less"
    elif beside_cpus is not None:
        change = f"set resources.gpus_per_fold to {beside_cpus:g}"
    else:
        most = max(nodes, key=lambda node: (node.gpus, node.cpus), default=Node(0, 0))
        change = f"set resources.cpus_per_fold to {int(most.cpus)} and resources.gpus_per_fold to {most.gpus:g}"
    largest = ", ".join(sorted({f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in nodes})[:5])
    raise PlanError(
        f"no node can hold one fold: it asks for {share.cpus} CPUs and {share.gpus:g} GPUs of one node; nodes have "
        f"{largest or 'nothing'}. Smallest change: {change}."
    )


def spread(share: Share, nodes: Sequence[Node], processes: int) -> list[int]:
    """How many of so many processes each node holds, filled one after another."""
    out = []
    for node in nodes:
        out.append(min(node.slots(share.cpus, share.gpus), processes))
        processes -= out[-1]
    return out


def streams(
    experiment: Experiment, nodes: Sequence[Node], share: Share, folds: int, probes: Mapping[str, Probe], size: int
) -> bool:
    """Whether a set of `size` bytes is read from disk as it is used, `folds` training at once.

    `auto`: where the copies that a node's processes hold, and the object store's, take more than half of its memory, or
    those on a GPU more than half of the GPU's.
    """
    if experiment.resources.images != "auto":
        return experiment.resources.images == "stream"
    gpu = min(probe.gpu_memory for probe in probes.values()) / 2
    on_gpu = size / min(share.gpus, 1) if share.gpus else 0
    return on_gpu > gpu or any(
        size * (_processes(share, here) + 1) > node.memory / 2
        for node, here in _folds_on(share, nodes, folds)
        if node.memory
    )


def _folds_on(share: Share, nodes: Sequence[Node], folds: int) -> list[tuple[Node, int]]:
    """The nodes that can hold folds, or workers of them, and how many each may come to hold of all."""
    copies = folds * share.workers
    found = [(node, min(node.slots(share.cpus, share.gpus) * share.folds, copies)) for node in nodes]
    return [(node, here) for node, here in found if here]


def _processes(share: Share, folds: int) -> int:
    return -(-folds // share.folds)


def gpu_bytes(probe: Probe, size: int) -> int:
    """What a process takes of its GPU, whose folds share `size` bytes of images there; else their features."""
    return probe.gpu_used + CUDA_CONTEXT + (probe.features or size)


def fits_gpu(share: Share, probe: Probe, size: int) -> bool:
    return not share.gpus or gpu_bytes(probe, size) <= probe.gpu_memory * min(share.gpus, 1)


def require_gpu(share: Share, probes: Mapping[str, Probe], size: int) -> int:
    """Bytes of a GPU that one fold takes, the arm with the most counting; see `gpu_bytes`.

    Raises:
        PlanError: a process takes more than its share of the GPU.
    """
    if not share.gpus:
        return 0
    arm, probe = max(probes.items(), key=lambda item: gpu_bytes(item[1], size))
    need, whole = gpu_bytes(probe, size), probe.gpu_memory
    if fits_gpu(share, probe, size):
        return need // share.folds
    rest = whole * min(share.gpus, 1) - (need - probe.gpu_used)
    together = int(rest / max(probe.gpu_used / share.folds, 1))
    fraction = math.ceil(need / whole * 100) / 100
    if together >= 1:
        change = f"set resources.folds_per_gpu to {together}"
    elif fraction <= 1:
        change = f"set resources.gpus_per_fold to {fraction:g}"
    else:
        change = "lower train.batch_size or data.image_size, or take a larger GPU"
    raise PlanError(
        f"arm {arm!r} does not fit: {share.folds} fold(s) to a process, of {min(share.gpus, 1):g} GPU, take "
        f"{need / 2**30:.1f} GiB as measured, and have {whole * min(share.gpus, 1) / 2**30:.1f} GiB. "
        f"Smallest change: {change}."
    )


def require_memory(
    nodes: Sequence[Node], share: Share, folds: int, probes: Mapping[str, Probe], size: int, streamed: bool
) -> int:
    """Bytes of a node's memory that one process takes, beside images, the arm with the most counting.

    Raises:
        PlanError: the processes that a node may come to hold, with their images of `size` bytes, take more than it has.
    """
    each = max(probe.memory for probe in probes.values())
    for node, here in _folds_on(share, nodes, folds):
        processes = _processes(share, here)
        copies = 0 if streamed else size * (processes + 1)
        if not node.memory or processes * each + copies <= node.memory:
            continue
        fewer = int(node.memory / each) * share.folds // share.workers
        if processes * each <= node.memory:
            change = 'set resources.images to "auto"'
        elif fewer:
            change = f"set resources.max_concurrent to {fewer}"
            change += "" if streamed else ' and resources.images to "auto"'
        else:
            change = "lower train.batch_size or data.image_size, or take nodes with more memory"
        raise PlanError(
            f"node {node.name or '?'} has {node.memory / 2**30:.1f} GiB of memory; {here} fold(s) there take "
            f"{processes * each / 2**30:.1f} GiB as measured and {copies / 2**30:.1f} GiB for images. "
            f"Smallest change: {change}."
        )
    return each


def require_disk(
    todo: Sequence[Trial], probes: Mapping[str, Probe], run: Path, prepared: Prepared, streamed: bool
) -> tuple[int, int]:
    """Bytes that weights, states and pixels to stream will take, and bytes that are free.

    Raises:
        PlanError: there are fewer.
    """
    needed = sum(probes[t.arm].weight_bytes * (len(t.budgets) + _STATE_COPIES) for t in todo)
    if streamed and not flat.describe(prepared).path.exists():
        needed += flat.size(prepared)
    free = shutil.disk_usage(run).free
    if needed > free:
        raise PlanError(
            f"the run needs {needed / 1e9:.1f} GB for weights and states, {run} has {free / 1e9:.1f} GB free. Smallest "
            f"change: make room for {(needed - free) / 1e9:.1f} GB; or choose another --home, or fewer budgets or folds"
        )
    return needed, free
