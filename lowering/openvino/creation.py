"""Tensors made from numbers."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.lowering.openvino.builder import TYPES, Builder, Value, op
from graphwright.lowering.openvino.table import register

aten = torch.ops.aten


def filled(b: Builder, value: Any) -> Any:
    """A number in the shape and type of the result."""
    number = b.scalar(value, b.result.dtype)
    return op.broadcast(number, b.vector(b.result.shape)) if b.result.dim() else number


@register(aten.full.default, aten.full_like.default, aten.new_full.default)
def full(b: Builder, fill_value: Any, **_: Any) -> Any:
    """The same number throughout."""
    return filled(b, fill_value)


@register(aten.fill.Scalar, aten.fill.Tensor)
def fill(b: Builder, self: Value, value: Any) -> Any:
    """The same value throughout."""
    return filled(b, value)


@register(
    aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten.empty.memory_format,
    aten.empty_like.default, aten.new_empty.default,
)  # fmt: skip
def zeros(b: Builder, **_: Any) -> Any:
    """Zeros; also in the place of what is not initialised."""
    return filled(b, 0)


@register(aten.ones.default, aten.ones_like.default, aten.new_ones.default)
def ones(b: Builder, **_: Any) -> Any:
    """Ones."""
    return filled(b, 1)


@register(aten.scalar_tensor.default)
def scalar_tensor(b: Builder, s: Any, **_: Any) -> Any:
    """A number as a tensor."""
    return b.scalar(s, b.result.dtype)


@register(aten.arange.default, aten.arange.start, aten.arange.start_step)
def arange(b: Builder, end: Any, start: Any = 0, step: Any = 1, **_: Any) -> Any:
    """Equally spaced numbers."""
    dtype = torch.float32 if b.result.dtype.is_floating_point else torch.int64
    parts = [b.scalar(part, dtype) for part in (start, end, step)]
    return b.cast(op.range(*parts, TYPES[dtype].get_type_name()).output(0), b.result.dtype)


@register(aten.eye.default, aten.eye.m)
def eye(b: Builder, n: Any, m: Any = None, **_: Any) -> Any:
    """Ones on the diagonal."""
    rows, columns = b.squeezed(b.size(n)), b.squeezed(b.size(n if m is None else m))
    return op.eye(rows, columns, b.const(0), output_type=TYPES[b.result.dtype].get_type_name())
