"""Parts, copies and other orders of a tensor's entries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphwright.lowering.furiosa.decompositions import rule

aten = torch.ops.aten


@rule(aten.select.int)
def select(x: Tensor, dim: int, index: int) -> Tensor:
    """One entry of an axis."""
    index = index + x.shape[dim] if index < 0 else index
    return x.narrow(dim, index, 1).squeeze(dim)


@rule(aten.narrow.default)
def narrow(x: Tensor, dim: int, start: int, length: int) -> Tensor:
    """A part of an axis."""
    return aten.slice.Tensor(x, dim, start, start + length)


@rule(aten.unbind.int)
def unbind(x: Tensor, dim: int = 0) -> Sequence[Tensor]:
    """All entries of an axis."""
    return [select(x, dim, i) for i in range(x.shape[dim])]


@rule(aten.split.Tensor)
def split(x: Tensor, split_size: int, dim: int = 0) -> Sequence[Tensor]:
    """Parts of one size, the last one smaller."""
    size = x.shape[dim]
    return [narrow(x, dim, start, min(split_size, size - start)) for start in range(0, size, split_size)]


@rule(aten.alias.default, aten.lift_fresh_copy.default)
def alias(x: Tensor) -> Tensor:
    """The value itself."""
    return x.clone()


@rule(aten.repeat.default)
def repeat(x: Tensor, repeats: Sequence[int]) -> Tensor:
    """Copies of a tensor along its axes, new ones in front."""
    x = x.reshape([1] * (len(repeats) - x.dim()) + list(x.shape))
    for dim, times in enumerate(repeats):
        x = torch.cat([x] * times, dim) if times > 1 else x
    return x.clone()


@rule(aten.flip.default)
def flip(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Entries in the opposite order."""
    for dim in dims:
        x = x.index_select(dim, x.shape[dim] - 1 - torch.arange(x.shape[dim], device=x.device))
    return x


@rule(aten.roll.default)
def roll(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Tensor:
    """Entries moved along axes, the last ones to the front; without axes, of the flattened tensor."""
    if not dims:
        return roll(x.reshape(-1), shifts, [0]).reshape(x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        cut = -shift % x.shape[dim]
        x = torch.cat([narrow(x, dim, cut, x.shape[dim] - cut), narrow(x, dim, 0, cut)], dim) if cut else x
    return x


@rule(aten.one_hot.default)
def one_hot(x: Tensor, num_classes: int) -> Tensor:
    """1 where an entry is the position on a new last axis."""
    return (x.unsqueeze(-1) == torch.arange(num_classes, device=x.device)).to(x.dtype)


@rule(aten.scatter.value)
def scatter_value(x: Tensor, dim: int, index: Tensor, value: float) -> Tensor:
    """Entries at some positions replaced by one number."""
    return aten.scatter.src(x, dim, index, torch.full(index.shape, value, dtype=x.dtype, device=x.device))


@rule(aten.gather.default)
def gather(x: Tensor, dim: int, index: Tensor, **_: bool) -> Tensor:
    """Entries at some positions of an axis, by a position for every axis: the compiler fails on the op itself."""
    dim = dim % x.dim()
    positions = [torch.arange(size, device=x.device) for size in index.shape]
    shaped = [p.reshape([-1 if i == axis else 1 for i in range(x.dim())]) for axis, p in enumerate(positions)]
    return aten.index.Tensor(x, [index if axis == dim else p for axis, p in enumerate(shaped)])
