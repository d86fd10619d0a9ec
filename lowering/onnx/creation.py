"""Tensors made from sizes and numbers."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from graphwright.lowering.onnx.sizes import Size
from graphwright.lowering.onnx.table import Emission, Number, register

aten = torch.ops.aten


@register(aten.arange.default, aten.arange.start, aten.arange.start_step)
def arange(b: Emission, end: Number, start: Number = 0, step: Number = 1, **_: Any) -> ir.Value:
    """`start, start + step, ...` below `end`."""
    dtype = b.result.dtype
    return b.op("Range", *(b.scalar(value, dtype) for value in (start, end, step)))


def filled(b: Emission, value: Any) -> ir.Value:
    """The number `value` in the shape and type of the result."""
    scalar = b.scalar(value, b.result.dtype)
    return b.op("Expand", scalar, b.sizes.vector(b.result.shape)) if b.result.dim() else scalar


@register(aten.full.default, aten.full_like.default, aten.new_full.default)
def full(b: Emission, fill_value: Number, **_: Any) -> ir.Value:
    """One number everywhere."""
    return filled(b, fill_value)


@register(aten.fill.Scalar, aten.fill.Tensor)
def fill(b: Emission, value: Number, **_: Any) -> ir.Value:
    """One number everywhere."""
    return filled(b, value)


@register(
    aten.zeros.default,
    aten.zeros_like.default,
    aten.new_zeros.default,
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.new_empty.default,
)
def zeros(b: Emission, **_: Any) -> ir.Value:
    """Zeros (also for memory that torch leaves uninitialised)."""
    return filled(b, 0)


@register(aten.ones.default, aten.ones_like.default, aten.new_ones.default)
def ones(b: Emission, **_: Any) -> ir.Value:
    """Ones."""
    return filled(b, 1)


@register(aten.eye.default, aten.eye.m)
def eye(b: Emission, n: Size, m: Size | None = None, **_: Any) -> ir.Value:
    """Ones on the diagonal, zeros elsewhere."""
    rows, columns = (b.op("Range", b.const(0), b.sizes.scalar(size), b.const(1)) for size in (n, n if m is None else m))
    return b.cast(b.op("Equal", b.op("Unsqueeze", rows, b.axes(1)), columns, dtype=torch.bool), b.result.dtype)
