"""Reductions, softmax and running sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.fx import Node

from graphwright.ir.node import bound
from graphwright.lowering.support import Support
from graphwright.lowering.tflite.builder import Builder
from graphwright.lowering.tflite.graph import Value
from graphwright.lowering.tflite.table import register

aten = torch.ops.aten
INT32 = 2
"""The schema's number for the type of positions."""


def _axes(self: Value, dim: Any) -> list[int]:
    given = range(self.rank) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return [d % self.rank for d in given] if self.rank else []


def _reduction(code: str, *targets: Any) -> None:
    def emit(b: Builder, self: Value, dim: Any = None, keepdim: bool = False, **_: Any) -> Value:
        value = b.cast(self, b.dtype)
        if value.dtype == "bool" and code in ("REDUCE_MAX", "REDUCE_MIN"):
            made = b.reduce(code, b.cast(value, "int32"), _axes(self, dim), bool(keepdim))
            return b.cast(made, "bool")
        return b.reduce(code, value, _axes(self, dim), bool(keepdim)) if self.rank else value

    register(*targets)(emit)


_reduction("MEAN", aten.mean.default, aten.mean.dim)
_reduction("SUM", aten.sum.default, aten.sum.dim_IntList)
_reduction("REDUCE_MAX", aten.amax.default, aten.max.default)
_reduction("REDUCE_MIN", aten.amin.default, aten.min.default)
_reduction("REDUCE_PROD", aten.prod.default, aten.prod.dim_int)
_reduction("REDUCE_ALL", aten.all.default, aten.all.dim, aten.all.dims)
_reduction("REDUCE_ANY", aten.any.default, aten.any.dim, aten.any.dims)


def _position(b: Builder, value: Value, dim: int, code: str) -> Value:
    """Position of the first largest or smallest element along a dimension, without the dimension."""
    shape = [size for i, size in enumerate(value.shape) if i != dim % value.rank]
    return b.op(code, [value, b.const([dim % value.rank])], shape, "int32", outputType=INT32)


def _extreme(b: Builder, self: Value, dim: int, keepdim: bool, reduce: str, position: str) -> list[Value]:
    assert b.node is not None
    dtype = str(b.node.meta["val"][1].dtype).removeprefix("torch.")
    values = b.reduce(reduce, self, [dim], keepdim)
    return [values, b.reshape(b.cast(_position(b, self, dim, position), dtype), values.shape)]


@register(aten.max.dim)
def max_dim(b: Builder, self: Value, dim: int, keepdim: bool) -> list[Value]:
    """The largest elements along a dimension and their positions."""
    return _extreme(b, self, dim, keepdim, "REDUCE_MAX", "ARG_MAX")


@register(aten.min.dim)
def min_dim(b: Builder, self: Value, dim: int, keepdim: bool) -> list[Value]:
    """The smallest elements along a dimension and their positions."""
    return _extreme(b, self, dim, keepdim, "REDUCE_MIN", "ARG_MIN")


def _argument(b: Builder, self: Value, dim: int | None, code: str) -> Value:
    value = b.reshape(self, [self.size]) if dim is None else self
    value = b.cast(value, "int32") if value.dtype in ("bool", "int64") else value
    return b.reshape(b.cast(_position(b, value, dim or 0, code), b.dtype), b.shape)


@register(aten.argmax.default)
def argmax(b: Builder, self: Value, dim: int | None, keepdim: bool) -> Value:
    """Position of the largest element."""
    return _argument(b, self, dim, "ARG_MAX")


@register(aten.argmin.default)
def argmin(b: Builder, self: Value, dim: int | None, keepdim: bool) -> Value:
    """Position of the smallest element."""
    return _argument(b, self, dim, "ARG_MIN")


def _along_last(b: Builder, value: Value, dim: int, code: str, **options: Any) -> Value:
    """An operator that works along the last dimension, along any one."""
    axis = dim % max(value.rank, 1)
    order = [i for i in range(value.rank) if i != axis] + [axis]
    moved = b.transpose(value, order)
    made = b.op(code, [moved], moved.shape, moved.dtype, **options)
    return b.transpose(made, [order.index(i) for i in range(value.rank)])


@register(aten.softmax.int, aten._softmax.default)
def softmax(b: Builder, self: Value, dim: int, **_: Any) -> Value:
    """Softmax along a dimension."""
    return _along_last(b, b.cast(self, b.dtype), dim, "SOFTMAX", beta=1.0)


@register(aten._safe_softmax.default)
def safe_softmax(b: Builder, self: Value, dim: int, **_: Any) -> Value:
    """Softmax along a dimension; a row of minus infinities gives zeros."""
    value = b.cast(self, b.dtype)
    largest = b.reduce("REDUCE_MAX", value, [dim], True)
    some = b.binary("GREATER", largest, b.const(float("-inf"), b.dtype), "bool")
    finite = b.binary("MAXIMUM", value, b.const(float(np.finfo(b.dtype).min), b.dtype))
    return b.binary("MUL", softmax(b, finite, dim), b.cast(some, b.dtype))


@register(aten.log_softmax.int, aten._log_softmax.default)
def log_softmax(b: Builder, self: Value, dim: int, **_: Any) -> Value:
    """Logarithm of the softmax along a dimension."""
    return _along_last(b, b.cast(self, b.dtype), dim, "LOG_SOFTMAX")


@register(aten.logsumexp.default)
def logsumexp(b: Builder, self: Value, dim: Any, keepdim: bool) -> Value:
    """Logarithm of the sum of exponentials, from the largest element on."""
    axes, value = _axes(self, dim), b.cast(self, b.dtype)
    top = b.reduce("REDUCE_MAX", value, axes, True)
    total = b.reduce("SUM", b.unary("EXP", b.binary("SUB", value, top)), axes, True)
    return b.reshape(b.binary("ADD", b.unary("LOG", total), top), b.shape)


@register(aten.cumsum.default)
def cumsum(b: Builder, self: Value, dim: int, **_: Any) -> Value:
    """Running sums."""
    value = b.cast(self, b.dtype)
    if not self.rank:
        return value
    return b.op("CUMSUM", [value, b.const(dim % self.rank)], value.shape, value.dtype, exclusive=False, reverse=False)


@register(aten.var.correction)
def var(b: Builder, self: Value, dim: Any, correction: Any, keepdim: bool) -> Value:
    """Variance, divided by the number of elements less a correction."""
    axes = _axes(self, dim)
    centred = b.binary("SUB", self, b.reduce("MEAN", self, axes, True))
    total = b.reduce("SUM", b.binary("MUL", centred, centred), axes, bool(keepdim))
    count = int(np.prod([self.shape[axis] for axis in axes])) - (1 if correction is None else correction)
    return b.binary("MUL", total, b.const(1 / count, self.dtype))


def _known_norm(node: Node) -> Support:
    order = bound(node).get("ord", bound(node).get("p"))
    return Support.yes() if order in (None, 1, 2) else Support.no(f"a norm of order {order}")


@register(aten.linalg_vector_norm.default, validate=_known_norm)
def vector_norm(b: Builder, self: Value, ord: Any, dim: Any, keepdim: bool, **_: Any) -> Value:
    """Norm over some dimensions."""
    axes = _axes(self, dim)
    if ord == 1:
        return b.reduce("SUM", b.unary("ABS", self), axes, bool(keepdim))
    return b.unary("SQRT", b.reduce("SUM", b.binary("MUL", self, self), axes, bool(keepdim)))


@register(aten.norm.ScalarOpt_dim, validate=_known_norm)
def norm(b: Builder, self: Value, p: Any, dim: Any, keepdim: bool) -> Value:
    """Norm over some dimensions."""
    return vector_norm(b, self, 2 if p is None else p, dim, keepdim)
