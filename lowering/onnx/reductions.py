"""Sums, means, extrema, softmax, and cumulative sums."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from graphwright.ir.node import bound
from graphwright.lowering.onnx.table import Emission, Number, register
from graphwright.lowering.support import Support

aten = torch.ops.aten


def _reduce(b: Emission, kind: str, value: ir.Value, dim: Any, keepdim: bool) -> ir.Value:
    """A reduction over `dim` (None or empty: all)."""
    dims = [dim] if isinstance(dim, int) else list(dim or ())
    axes = b.axes(dims) if dims else None
    if b.rank(value) == 0:
        return value
    return b.op(kind, value, axes, keepdims=int(keepdim))


def _annotated_cast(b: Emission, value: ir.Value, dtype: torch.dtype) -> ir.Value:
    cast = b.cast(value, dtype)
    b.annotate(cast, b.fake(value).to(dtype))
    return cast


@register(aten.sum.default, aten.sum.dim_IntList)
def sum_(b: Emission, self: ir.Value, dtype: Any, dim: Any = None, keepdim: bool = False) -> ir.Value:
    """Sum; of integers and booleans, as int64."""
    return _reduce(b, "ReduceSum", _annotated_cast(b, self, b.result.dtype), dim, keepdim)


@register(aten.mean.default, aten.mean.dim)
def mean(b: Emission, self: ir.Value, dtype: Any, dim: Any = None, keepdim: bool = False) -> ir.Value:
    """Mean."""
    return _reduce(b, "ReduceMean", _annotated_cast(b, self, b.result.dtype), dim, keepdim)


@register(aten.prod.default, aten.prod.dim_int)
def prod(b: Emission, self: ir.Value, dtype: Any, dim: Any = None, keepdim: bool = False) -> ir.Value:
    """Product."""
    return _reduce(b, "ReduceProd", _annotated_cast(b, self, b.result.dtype), dim, keepdim)


@register(aten.amax.default, aten.max.default)
def amax(b: Emission, self: ir.Value, dim: Any = None, keepdim: bool = False) -> ir.Value:
    """Largest element."""
    return _reduce(b, "ReduceMax", self, dim, keepdim)


@register(aten.amin.default, aten.min.default)
def amin(b: Emission, self: ir.Value, dim: Any = None, keepdim: bool = False) -> ir.Value:
    """Smallest element."""
    return _reduce(b, "ReduceMin", self, dim, keepdim)


def _arg(b: Emission, kind: str, value: ir.Value, dim: int | None, keepdim: bool) -> ir.Value:
    if b.fake(value).dtype == torch.bool:
        value = _annotated_cast(b, value, torch.int32)
    if dim is None:
        flat = b.op("Reshape", value, b.const([-1]))
        return b.op(kind, flat, dtype=torch.int64, axis=0, keepdims=0)
    return b.op(kind, value, dtype=torch.int64, axis=dim, keepdims=int(keepdim))


@register(aten.argmax.default)
def argmax(b: Emission, self: ir.Value, dim: int | None, keepdim: bool) -> ir.Value:
    """Position of the first largest element."""
    return _arg(b, "ArgMax", self, dim, keepdim)


@register(aten.argmin.default)
def argmin(b: Emission, self: ir.Value, dim: int | None, keepdim: bool) -> ir.Value:
    """Position of the first smallest element."""
    return _arg(b, "ArgMin", self, dim, keepdim)


@register(aten.max.dim)
def max_dim(b: Emission, self: ir.Value, dim: int, keepdim: bool) -> list[ir.Value]:
    """Largest element and its position."""
    return [_reduce(b, "ReduceMax", self, dim, keepdim), _arg(b, "ArgMax", self, dim, keepdim)]


@register(aten.min.dim)
def min_dim(b: Emission, self: ir.Value, dim: int, keepdim: bool) -> list[ir.Value]:
    """Smallest element and its position."""
    return [_reduce(b, "ReduceMin", self, dim, keepdim), _arg(b, "ArgMin", self, dim, keepdim)]


def _as_number(b: Emission, value: ir.Value) -> ir.Value:
    truth = _annotated_cast(b, value, torch.bool)
    return _annotated_cast(b, truth, torch.int32)


@register(aten.any.default, aten.any.dim, aten.any.dims)
def any_(b: Emission, self: ir.Value, dim: Any = None, keepdim: bool = False) -> ir.Value:
    """Whether any element is not zero."""
    return b.cast(_reduce(b, "ReduceMax", _as_number(b, self), dim, keepdim), torch.bool)


@register(aten.all.default, aten.all.dim, aten.all.dims)
def all_(b: Emission, self: ir.Value, dim: Any = None, keepdim: bool = False) -> ir.Value:
    """Whether no element is zero."""
    return b.cast(_reduce(b, "ReduceMin", _as_number(b, self), dim, keepdim), torch.bool)


def _order(node: Node) -> Support:
    arguments = bound(node)
    order = arguments.get("ord", arguments.get("p"))
    return Support.yes() if order in (1, 2, None) else Support.no(f"a norm of order {order}")


@register(aten.linalg_vector_norm.default, aten.norm.ScalarOpt_dim, validate=_order)
def vector_norm(
    b: Emission,
    self: ir.Value,
    dim: Any,
    keepdim: bool,
    ord: Number | None = None,
    p: Number | None = None,
    dtype: Any = None,
) -> ir.Value:
    """Euclidean or absolute norm."""
    kind = "ReduceL1" if 1 in (ord, p) else "ReduceL2"
    return _reduce(b, kind, _annotated_cast(b, self, b.result.dtype), dim, keepdim)


@register(aten.var.correction)
def variance(b: Emission, self: ir.Value, dim: Any, correction: Number | None, keepdim: bool) -> ir.Value:
    """Variance, from the mean of squared differences."""
    dtype = b.result.dtype
    centre = _reduce(b, "ReduceMean", self, dim, True)
    difference = b.op("Sub", self, centre)
    b.annotate(difference, b.fake(self))
    squares = b.op("Mul", difference, difference)
    b.annotate(squares, b.fake(self))
    total = _reduce(b, "ReduceSum", squares, dim, keepdim)
    count = _reduce(b, "ReduceSum", _ones(b, self), dim, keepdim)
    return b.op("Div", total, b.op("Sub", count, b.scalar(1 if correction is None else correction, dtype)))


def _ones(b: Emission, value: ir.Value) -> ir.Value:
    ones = b.op("Expand", b.const(1, b.result.dtype), b.op("Shape", value, dtype=torch.int64))
    b.annotate(ones, b.fake(value))
    return ones


@register(aten.softmax.int, aten._softmax.default, aten._safe_softmax.default)
def softmax(b: Emission, self: ir.Value, dim: int, **_: Any) -> ir.Value:
    """Softmax."""
    return b.op("Softmax", b.cast(self, b.result.dtype), axis=dim)


@register(aten.log_softmax.int, aten._log_softmax.default)
def log_softmax(b: Emission, self: ir.Value, dim: int, **_: Any) -> ir.Value:
    """Logarithm of the softmax."""
    return b.op("LogSoftmax", b.cast(self, b.result.dtype), axis=dim)


@register(aten.logsumexp.default)
def logsumexp(b: Emission, self: ir.Value, dim: Any, keepdim: bool) -> ir.Value:
    """Logarithm of the sum of exponentials."""
    return _reduce(b, "ReduceLogSumExp", self, dim, keepdim)


@register(aten.cumsum.default)
def cumsum(b: Emission, self: ir.Value, dim: int, dtype: Any) -> ir.Value:
    """Cumulative sum; of integers and booleans, as int64."""
    value = b.cast(self, b.result.dtype)
    return value if b.rank(self) == 0 else b.op("CumSum", value, b.const(dim))
