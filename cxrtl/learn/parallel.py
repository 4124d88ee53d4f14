"""One fold shared out among several processes: each computes its part of every batch, and all take the same step.

The step is the one that a single process would take on the whole batch, up to the order of sums: every worker sees all
logits and so computes the one loss, BatchNorm takes its statistics over all parts, dropout draws for the whole batch
and uses its own rows, and gradients are added up, not averaged. Gradients travel in one buffer of a fixed order, so
that a resumed run repeats the bits of an undisturbed one, which buckets that follow their arrival would not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from cxrtl.learn.freeze import draws
from cxrtl.learn.state import Snapshot, State, restore


class PeerLost(Exception):
    """Another worker of the fold is gone: the fold goes on from its saved state, with workers started anew."""


@dataclass(frozen=True)
class Workers:
    """This process among those of its fold. Every worker must make the same calls in the same order.

    Raises, in all calls that speak to the others:
        PeerLost: one of them is gone.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Workers:
        """As torch's process group says; alone without one."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @property
    def first(self) -> bool:
        """Whether this is the one that scores, saves and reports."""
        return self.rank == 0

    def part(self, size: int) -> slice:
        """This worker's rows of a batch: as many as the others', or one more."""
        return slice(self.rank * size // self.count, (self.rank + 1) * size // self.count)

    def whole(self, part: Tensor, size: int) -> Tensor:
        """All parts in order, `[size, …]`, of this worker's; its gradient comes back to it."""
        whole: Tensor = part if self.count == 1 else _Whole.apply(part, self.part(size), size)  # type: ignore[no-untyped-call]
        return whole

    def share(self, model: nn.Module, size: int) -> None:
        """Make `model` compute in training what it would of batches of `size`, given this worker's part of them."""
        if self.count == 1:
            return
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.forward = partial(_normalise, module, size)  # type: ignore[method-assign]
            elif draws(module) and module.p:
                module.forward = partial(_drop, module, self.part(size), size)

    def add_up(self, optimizer: Optimizer) -> None:
        """Replace each gradient by its sum over all workers."""
        if self.count == 1:
            return
        gradients = [each.grad for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        _sum(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def agree(self, state: State, model: nn.Module, optimizer: Optimizer) -> State:
        """The first worker's state; its numbers in everybody's `model` and `optimizer`."""
        if self.count == 1:
            return state
        held: list[Any] = [state, Snapshot(model, optimizer).tensors()] if self.first else [None, None]
        with _peers():
            dist.broadcast_object_list(held)
        if not self.first:
            restore(held[1], model, optimizer)
        found: State = held[0]
        return found

    def any_told(self, told: bool, device: torch.device) -> bool:
        """Whether any worker says so; a GPU is waited for."""
        if self.count == 1:
            return told
        flag = torch.tensor(float(told), device=device)
        _sum(flag)
        return bool(flag)

    def part_company(self) -> None:
        """Have the others' calls raise `PeerLost`."""
        if self.count > 1:
            dist.destroy_process_group()

    def all_of(self, each: str) -> list[str]:
        """What every worker gives, in order."""
        found = [each] * self.count
        if self.count > 1:
            with _peers():
                dist.all_gather_object(found, each)
        return found


ALONE = Workers()


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of gloo and NCCL alike
        raise PeerLost(f"another worker of the fold is gone: {error}") from error


def _sum(tensor: Tensor) -> None:
    """Add up over all workers, in place."""
    with _peers():
        dist.all_reduce(tensor)


class _Whole(Function):
    """All workers' rows; each worker computes the one loss of them and takes its own rows' gradient."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, rows: slice, size: int) -> Tensor:
        ctx.rows = rows
        whole = part.new_zeros((size, *part.shape[1:]))
        whole[rows] = part
        _sum(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.rows], None, None


def _drop(module: nn.Module, rows: slice, size: int, given: Tensor) -> Tensor:
    """A dropout's forward: what it draws for the whole batch, in the layout of `given`, applied to its rows."""
    forward: Callable[[nn.Module, Tensor], Tensor] = type(module).forward
    if not module.training:
        return forward(module, given)
    channels_last = given.dim() == 4 and not given.is_contiguous()
    ones = given.new_ones((size, *given.shape[1:]))
    drawn = forward(module, ones.contiguous(memory_format=torch.channels_last) if channels_last else ones)
    return given * drawn[rows]


def _normalise(module: _BatchNorm, size: int, given: Tensor) -> Tensor:
    """BatchNorm's forward: in training with mean and variance of the whole batch."""
    if not module.training:
        out: Tensor = _BatchNorm.forward(module, given)
        return out
    total = given.numel() // (given.shape[0] * given.shape[1]) * size
    assert module.affine and module.momentum is not None and module.num_batches_tracked is not None
    found: tuple[Tensor, Tensor, Tensor] = _Normalise.apply(given, module.weight, module.bias, module.eps, total)  # type: ignore[no-untyped-call]
    out, mean, var = found
    module.num_batches_tracked.add_(1)
    assert module.running_mean is not None and module.running_var is not None
    module.running_mean.lerp_(mean, module.momentum)
    module.running_var.lerp_(var * (total / (total - 1)), module.momentum)
    return out


class _Normalise(Function):
    """Images `[B, C, …]` normalised by the statistics of all workers' `total` values a channel, and these.

    torch's own, `SyncBatchNorm`, computes on GPUs alone.
    """

    @staticmethod
    def forward(ctx: Any, given: Tensor, weight: Tensor, bias: Tensor, eps: float, total: int) -> tuple[Tensor, ...]:
        axes = [0, *range(2, given.dim())]
        var, mean = (each.double() for each in torch.var_mean(given.float(), axes, correction=0))
        moments = torch.stack((mean, var + mean.square())) * (given.numel() // given.shape[1])
        _sum(moments)
        mean, square = moments / total
        var = (square - mean.square()).clamp_min(0)
        ctx.save_for_backward(given, weight, mean.float(), (var + eps).rsqrt().float())
        ctx.axes, ctx.total = axes, total
        mean, var = mean.float(), var.float()
        ctx.mark_non_differentiable(mean, var)
        return functional.batch_norm(given, mean, var, weight, bias, False, 0.0, eps), mean, var

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        given, weight, mean, rate = ctx.saved_tensors
        shape = [1, -1, *[1] * (given.dim() - 2)]
        gradient = gradients[0].float()
        normal = (given.float() - mean.view(shape)) * rate.view(shape)
        own = torch.stack((gradient.sum(ctx.axes), (gradient * normal).sum(ctx.axes)))
        both = own.clone()
        _sum(both)
        shift, slope = (each.view(shape) for each in both / ctx.total)
        back = (gradient - shift - normal * slope) * (rate * weight).view(shape)
        return back.to(given.dtype), own[1].to(weight.dtype), own[0].to(weight.dtype), None, None
