"""Reductions, softmax and running sums."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphwright.lowering.neuron.builder import Builder, Out, Value, sizes
from graphwright.lowering.neuron.calls import fused
from graphwright.lowering.neuron.reduce import mean, reduced, wide, windows
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import hlo

aten = torch.ops.aten


def axes_of(self: Value, dim: Any) -> list[int]:
    """Dimensions as positions; none given means all."""
    given = range(self.rank) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return [d % self.rank for d in given] if self.rank else []


def _reduction(kind: str, *targets: Any) -> None:
    def emit(b: Builder, self: Value, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
        return reduced(b, b.cast(self, b.result.dtype), kind, axes_of(self, dim), bool(keepdim))

    register(*targets)(emit)


_reduction("sum", aten.sum.default, aten.sum.dim_IntList)
_reduction("max", aten.amax.default, aten.max.default)
_reduction("min", aten.amin.default, aten.min.default)
_reduction("prod", aten.prod.default, aten.prod.dim_int)
_reduction("all", aten.all.default, aten.all.dim, aten.all.dims)
_reduction("any", aten.any.default, aten.any.dim, aten.any.dims)


@register(aten.mean.default, aten.mean.dim)
def mean_dim(b: Builder, self: Value, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    """The mean."""
    data = wide(b, b.cast(self, b.result.dtype))
    return b.cast(mean(b, data, axes_of(self, dim), bool(keepdim)), b.result.dtype)


def extreme(b: Builder, out: Out, axis: int, kind: str) -> list[Out]:
    """The largest (`max`) or smallest (`min`) entries along a dimension, and the first positions they are at.

    Two reductions of one input each: nothing says that the compiler takes one of two inputs.
    """
    shape = sizes(out)
    best = reduced(b, out, kind, [axis])
    found = b.compare("EQ", out, b.broadcast(best, shape, [d for d in range(len(shape)) if d != axis]))
    places = b.select(found, b.iota(shape, axis, torch.int32), b.const(shape[axis], torch.int32, shape))
    return [best, reduced(b, places, "min", [axis])]


def _extreme(b: Builder, self: Value, dim: int, keepdim: bool, kind: str) -> list[Out]:
    axis = dim % max(self.rank, 1)
    outs = extreme(b, self.out, axis, kind)
    return [b.unsqueeze(out, axis) for out in outs] if keepdim else outs


@register(aten.max.dim)
def max_dim(b: Builder, self: Value, dim: int, keepdim: bool) -> list[Any]:
    """The largest elements along a dimension and their positions."""
    return _extreme(b, self, dim, keepdim, "max")


@register(aten.min.dim)
def min_dim(b: Builder, self: Value, dim: int, keepdim: bool) -> list[Any]:
    """The smallest elements along a dimension and their positions."""
    return _extreme(b, self, dim, keepdim, "min")


def _position(b: Builder, self: Value, dim: int | None, keepdim: bool, kind: str) -> Out:
    if dim is not None:
        return _extreme(b, self, dim, keepdim, kind)[1]
    return extreme(b, b.reshape(self.out, [self.fake.numel()]), 0, kind)[1]


@register(aten.argmax.default)
def argmax(b: Builder, self: Value, dim: int | None, keepdim: bool) -> Any:
    """Position of the largest element."""
    return _position(b, self, dim, keepdim, "max")


@register(aten.argmin.default)
def argmin(b: Builder, self: Value, dim: int | None, keepdim: bool) -> Any:
    """Position of the smallest element."""
    return _position(b, self, dim, keepdim, "min")


@register(aten.softmax.int, aten._softmax.default)
def softmax(b: Builder, self: Value, dim: int, **_: Any) -> Any:
    """Softmax along a dimension."""
    return fused(b, "AwsNeuronSoftmax", [b.cast(self, b.result.dtype)], str(dim % max(self.rank, 1)))


def _logarithm_of_sum(b: Builder, data: Out, axes: list[int]) -> Out:
    """Logarithm of the sum of exponentials, from the largest element on; the dimensions stay."""
    top = reduced(b, data, "max", axes, True)
    powers = hlo.exponential(hlo.subtract(data, b.broadcast(top, sizes(data))))
    return hlo.add(hlo.log(reduced(b, powers, "sum", axes, True)), top)


@register(aten.log_softmax.int, aten._log_softmax.default)
def log_softmax(b: Builder, self: Value, dim: int, **_: Any) -> Any:
    """Logarithm of the softmax along a dimension."""
    data = wide(b, b.cast(self, b.result.dtype))
    total = _logarithm_of_sum(b, data, [dim % max(self.rank, 1)])
    return b.cast(hlo.subtract(data, b.broadcast(total, sizes(data))), b.result.dtype)


@register(aten.logsumexp.default)
def logsumexp(b: Builder, self: Value, dim: Any, keepdim: bool) -> Any:
    """Logarithm of the sum of exponentials."""
    total = _logarithm_of_sum(b, wide(b, b.cast(self, b.result.dtype)), axes_of(self, dim))
    return b.reshape(b.cast(total, b.result.dtype), b.result.shape)


@register(aten.cumsum.default)
def cumsum(b: Builder, self: Value, dim: int, **_: Any) -> Any:
    """Running sums: each is a sum over a window that starts before the first element."""
    data = b.cast(self, b.result.dtype)
    if not self.rank:
        return data
    axis, count = dim % self.rank, self.shape[dim]
    size, low = ([n if d == axis else other for d in range(self.rank)] for n, other in ((count, 1), (count - 1, 0)))
    return b.cast(windows(b, wide(b, data), "sum", size=size, low=low), b.result.dtype)


@register(aten.var.correction)
def var(b: Builder, self: Value, dim: Any, correction: Any, keepdim: bool) -> Any:
    """Variance, divided by the number of elements less a correction."""
    axes, data = axes_of(self, dim), wide(b, self.out)
    centred = hlo.subtract(data, b.broadcast(mean(b, data, axes, True), sizes(data)))
    total = reduced(b, hlo.multiply(centred, centred), "sum", axes, bool(keepdim))
    count = math.prod(self.shape[axis] for axis in axes) - (1 if correction is None else correction)
    return b.cast(hlo.divide(total, b.like(count, total)), b.result.dtype)


@register(aten.linalg_vector_norm.default)
def vector_norm(b: Builder, self: Value, ord: Any, dim: Any, keepdim: bool, **_: Any) -> Any:
    """Norm over some dimensions."""
    data, axes = wide(b, b.cast(self, b.result.dtype)), axes_of(self, dim)
    if math.isinf(ord):
        return b.cast(reduced(b, hlo.abs(data), "max" if ord > 0 else "min", axes, bool(keepdim)), b.result.dtype)
    powers = hlo.abs(data) if ord == 1 else hlo.power(hlo.abs(data), b.like(ord, data))
    powers = hlo.multiply(data, data) if ord == 2 else powers
    total = reduced(b, powers, "sum", axes, bool(keepdim))
    root = total if ord == 1 else hlo.sqrt(total) if ord == 2 else hlo.power(total, b.like(1 / ord, total))
    return b.cast(root, b.result.dtype)


@register(aten.norm.ScalarOpt_dim)
def norm(b: Builder, self: Value, p: Any, dim: Any, keepdim: bool) -> Any:
    """Norm over some dimensions."""
    return vector_norm(b, self, 2 if p is None else p, dim, keepdim)
