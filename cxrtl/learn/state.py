"""What a fold must remember to go on after a crash as if nothing had happened, and how it is saved."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cxrtl import rundir, storage
from cxrtl.errors import DamagedError
from cxrtl.records import Milestone


@dataclass
class State:
    """Progress of one trial. Order, augmentation and dropout follow from (seed, fold, iteration): no generator's
    state need be kept. `files` are the outputs so far with their sha256; `tries` counts starts."""

    iteration: int = 0
    train_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    setup_seconds: float = 0.0
    wall_seconds: float = 0.0
    tries: int = 0
    milestones: list[Milestone] = field(default_factory=list)
    curve: list[dict[str, float]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


class Snapshot:
    """The numbers that training changes as they were at one moment, copied on their device, where training goes on."""

    def __init__(self, model: nn.Module, optimizer: Optimizer | None = None) -> None:
        flat = {f"model.{key}": value for key, value in model.state_dict().items()}
        slots = optimizer.state_dict()["state"] if optimizer else {}
        for index, values in slots.items():
            flat |= {f"optimizer.{index}.{name}": value for name, value in values.items() if isinstance(value, Tensor)}
        self.flat = {key: value.detach().clone() for key, value in flat.items()}
        on_gpu = any(value.is_cuda for value in self.flat.values())
        self.taken = torch.cuda.current_stream().record_event() if on_gpu else None

    def tensors(self) -> dict[str, Tensor]:
        """All of them on the CPU, under flat names."""
        if self.taken:
            self.taken.synchronize()
        return {key: value.cpu().contiguous() for key, value in self.flat.items()}

    def weights(self) -> bytes:
        """The model's parameters and buffers as a safetensors file."""
        flat = {key[6:]: value for key, value in self.tensors().items() if key.startswith("model.")}
        return safetensors.torch.save(flat)


def save(folder: Path, state: State, taken: Snapshot, run_hash: str) -> None:
    """Write the state so that a crash at any point leaves this one or the one before, whole. A later one is another
    try's, which took the folder over meanwhile: it stays.

    Raises:
        SupersededError: it did so.
    """
    name = f"state-{state.iteration}.safetensors"
    digest = rundir.write_bytes(folder / name, safetensors.torch.save(taken.tensors()))
    record = {"run_hash": run_hash, "tensors": name, "sha256": digest, **asdict(state)}
    rundir.write_json(folder / "state.json", record)
    rundir.require_mine(folder)
    for old in folder.glob("state-*.safetensors"):
        if int(old.stem.partition("-")[2]) < state.iteration:
            storage.remove(old)


def load(folder: Path, run_hash: str, model: nn.Module, optimizer: Optimizer) -> State:
    """The saved state, its tensors put into `model` and `optimizer`; a fresh one where none is usable.

    A state of another experiment, a damaged one, or one whose outputs do not match their hashes is passed over: the
    trial starts again, which costs time and changes nothing.
    """
    try:
        record: dict[str, Any] = rundir.read_json(folder / "state.json")
        if record.pop("run_hash") != run_hash:
            return State()
        outputs = {record.pop("tensors"): record.pop("sha256"), **record["files"]}
        if any(rundir.sha256_file(folder / name) != digest for name, digest in outputs.items()):
            return State()
        flat = safetensors.torch.load_file(folder / next(iter(outputs)))
        record["milestones"] = [Milestone(**item) for item in record["milestones"]]
        state = State(**record)
    except (DamagedError, OSError, KeyError, TypeError, safetensors.SafetensorError):
        return State()
    restore(flat, model, optimizer)
    return state


def reached(folder: Path) -> int:
    """The saved state's iteration, 0 where there is none."""
    try:
        return int(rundir.read_json(folder / "state.json")["iteration"])
    except (DamagedError, OSError, KeyError, TypeError, ValueError):
        return 0


def restore(flat: dict[str, Tensor], model: nn.Module, optimizer: Optimizer) -> None:
    """Slots take their parameter's place in memory: fused optimizers walk through both at once."""
    model.load_state_dict({key[6:]: value for key, value in flat.items() if key.startswith("model.")})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            like = parameters[int(index)]
            kept = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            slots.setdefault(int(index), {})[name] = kept
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def clear(folder: Path) -> None:
    """Remove what a finished trial has no use for."""
    rundir.drop_parts(folder)
    names = ("state.json", "progress.json", "error.txt")
    for path in (*(folder / name for name in names), *folder.glob("state-*.safetensors")):
        storage.remove(path)
