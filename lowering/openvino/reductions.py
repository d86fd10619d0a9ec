"""Reductions, softmax and running sums."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.lowering.openvino.builder import Builder, Value, op
from graphwright.lowering.openvino.table import register

aten = torch.ops.aten


def _axes(self: Value, dim: Any) -> list[int]:
    given = range(self.rank) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return [d % self.rank for d in given] if self.rank else []


def _reduction(function: Any, *targets: Any) -> None:
    def emit(b: Builder, self: Value, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
        value = b.cast(self, b.result.dtype)
        return function(value, b.const(_axes(self, dim)), bool(keepdim)) if self.rank else value

    register(*targets)(emit)


_reduction(op.reduce_mean, aten.mean.default, aten.mean.dim)
_reduction(op.reduce_sum, aten.sum.default, aten.sum.dim_IntList)
_reduction(op.reduce_max, aten.amax.default, aten.max.default)
_reduction(op.reduce_min, aten.amin.default, aten.min.default)
_reduction(op.reduce_prod, aten.prod.default, aten.prod.dim_int)
_reduction(op.reduce_logical_and, aten.all.default, aten.all.dim, aten.all.dims)
_reduction(op.reduce_logical_or, aten.any.default, aten.any.dim, aten.any.dims)


def _extreme(b: Builder, self: Value, dim: int, keepdim: bool, mode: str) -> list[Any]:
    found = op.topk(self.out, b.const(1), dim % self.rank, mode, "value", index_element_type="i64", stable=True)
    outs = list(found.outputs())
    return outs if keepdim else [op.squeeze(out, b.const([dim % self.rank])).output(0) for out in outs]


@register(aten.max.dim)
def max_dim(b: Builder, self: Value, dim: int, keepdim: bool) -> list[Any]:
    """The largest elements along a dimension and their positions."""
    return _extreme(b, self, dim, keepdim, "max")


@register(aten.min.dim)
def min_dim(b: Builder, self: Value, dim: int, keepdim: bool) -> list[Any]:
    """The smallest elements along a dimension and their positions."""
    return _extreme(b, self, dim, keepdim, "min")


def _position(b: Builder, self: Value, dim: int | None, keepdim: bool, mode: str) -> Any:
    if dim is not None:
        return _extreme(b, self, dim, keepdim, mode)[1]
    flat = Value(op.reshape(self.out, b.const([-1]), False).output(0), torch.empty(0))
    return _extreme(b, flat, 0, False, mode)[1]


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
    return op.softmax(b.cast(self, b.result.dtype), dim % max(self.rank, 1))


@register(aten._safe_softmax.default)
def safe_softmax(b: Builder, self: Value, dim: int, **_: Any) -> Any:
    """Softmax along a dimension; a row of minus infinities gives zeros."""
    weights = softmax(b, self, dim).output(0)
    return op.select(op.not_equal(weights, weights), b.const(0, b.result.dtype), weights)


@register(aten.log_softmax.int, aten._log_softmax.default)
def log_softmax(b: Builder, self: Value, dim: int, **_: Any) -> Any:
    """Logarithm of the softmax along a dimension."""
    return op.log_softmax(b.cast(self, b.result.dtype), dim % max(self.rank, 1))


@register(aten.logsumexp.default)
def logsumexp(b: Builder, self: Value, dim: Any, keepdim: bool) -> Any:
    """Logarithm of the sum of exponentials, from the largest element on."""
    axes, value = b.const(_axes(self, dim)), b.cast(self, b.result.dtype)
    top = op.reduce_max(value, axes, True)
    total = op.add(op.log(op.reduce_sum(op.exp(op.subtract(value, top)), axes, True)), top)
    return total if keepdim else op.squeeze(total, axes)


@register(aten.cumsum.default)
def cumsum(b: Builder, self: Value, dim: int, **_: Any) -> Any:
    """Running sums."""
    return op.cum_sum(b.cast(self, b.result.dtype), b.const(dim % max(self.rank, 1)))


@register(aten.var.correction)
def var(b: Builder, self: Value, dim: Any, correction: Any, keepdim: bool) -> Any:
    """Variance, divided by the number of elements less a correction."""
    axes = _axes(self, dim)
    centred = op.subtract(self.out, op.reduce_mean(self.out, b.const(axes), True))
    total = op.reduce_sum(op.multiply(centred, centred), b.const(axes), bool(keepdim))
    count = b.const(1, self.dtype)
    for axis in axes:
        count = op.multiply(count, b.scalar(self.shape[axis], self.dtype)).output(0)
    return op.divide(total, op.subtract(count, b.const(1 if correction is None else correction, self.dtype)))


@register(aten.linalg_vector_norm.default)
def vector_norm(b: Builder, self: Value, ord: Any, dim: Any, keepdim: bool, **_: Any) -> Any:
    """Norm over some dimensions."""
    axes = b.const(_axes(self, dim))
    if ord == 2:
        return op.reduce_l2(self.out, axes, bool(keepdim))
    if ord == 1:
        return op.reduce_l1(self.out, axes, bool(keepdim))
    powers = op.power(op.abs(self.out), b.const(ord, self.dtype))
    return op.power(op.reduce_sum(powers, axes, bool(keepdim)), b.const(1 / ord, self.dtype))


@register(aten.norm.ScalarOpt_dim)
def norm(b: Builder, self: Value, p: Any, dim: Any, keepdim: bool) -> Any:
    """Norm over some dimensions."""
    return vector_norm(b, self, 2 if p is None else p, dim, keepdim)
