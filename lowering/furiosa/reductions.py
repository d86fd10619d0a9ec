"""Reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from graphwright.lowering.furiosa.decompositions import rule

aten = torch.ops.aten


@rule(aten.amin.default)
def amin(x: Tensor, dim: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    """Smallest entries, as the negated largest."""
    return -torch.amax(-x, list(dim), keepdim)


@rule(aten.argmin.default)
def argmin(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Position of the smallest entry."""
    return torch.argmax(-x, dim, keepdim)


@rule(aten.max.default)
def largest(x: Tensor) -> Tensor:
    """Largest entry."""
    return torch.amax(x.reshape(-1), 0)


@rule(aten.min.default)
def smallest(x: Tensor) -> Tensor:
    """Smallest entry."""
    return -torch.amax(-x.reshape(-1), 0)


@rule(aten.var.correction)
def variance(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    """Variance, by squares of what is left without the mean."""
    axes = list(range(x.dim())) if dim is None else list(dim)
    centred = x - x.mean(axes, keepdim=True)
    count = math.prod(x.shape[axis] for axis in axes)
    return (centred * centred).sum(axes, keepdim) / (count - (1 if correction is None else correction))


@rule(aten.any.default)
def any_entry(x: Tensor) -> Tensor:
    """Whether any entry is true."""
    return aten.any.dim(x.reshape(-1), 0)


@rule(aten.min.dim)
def min_dim(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Smallest entries of an axis, and where they are."""
    values, indices = torch.max(-x, dim, keepdim)
    return -values, indices


@rule(aten.any.dims)
def any_dims(x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    """Whether any entry of some axes is true."""
    axes = range(x.dim()) if dim is None else dim
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = aten.any.dim(x, axis, keepdim)
    return x


@rule(aten.linalg_vector_norm.default)
def vector_norm(
    x: Tensor,
    ord: float = 2,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Norm of vectors: the root of the sum of squares, the sum, or the largest entry; of others, powers."""
    x = torch.abs(x if dtype is None else x.to(dtype))
    axes = list(range(x.dim())) if dim is None else list(dim)
    if ord == math.inf:
        return torch.amax(x, axes, keepdim)
    if ord == 2:
        return torch.sqrt((x * x).sum(axes, keepdim))
    return x.sum(axes, keepdim) if ord == 1 else torch.pow(torch.pow(x, ord).sum(axes, keepdim), 1 / ord)
