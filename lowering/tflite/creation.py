"""Tensors made from numbers: constants, as all sizes are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from graphwright.lowering.tflite.builder import Builder
from graphwright.lowering.tflite.graph import Value
from graphwright.lowering.tflite.table import register

aten = torch.ops.aten


def _filled(b: Builder, value: Any) -> Value:
    """A number in the shape and type of the result."""
    if isinstance(value, Value):
        return b.expand(b.cast(value, b.dtype), b.shape)
    return b.const(np.full(b.shape, value, b.dtype), b.dtype)


@register(aten.full.default, aten.full_like.default, aten.new_full.default)
def full(b: Builder, fill_value: Any, **_: Any) -> Value:
    """The same number throughout."""
    return _filled(b, fill_value)


@register(aten.fill.Scalar, aten.fill.Tensor)
def fill(b: Builder, self: Value, value: Any) -> Value:
    """The same value throughout."""
    return _filled(b, value)


@register(
    aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten.empty.memory_format,
    aten.empty_like.default, aten.new_empty.default,
)  # fmt: skip
def zeros(b: Builder, **_: Any) -> Value:
    """Zeros; also in the place of what is not initialised."""
    return _filled(b, 0)


@register(aten.ones.default, aten.ones_like.default, aten.new_ones.default)
def ones(b: Builder, **_: Any) -> Value:
    """Ones."""
    return _filled(b, 1)


@register(aten.scalar_tensor.default)
def scalar_tensor(b: Builder, s: Any, **_: Any) -> Value:
    """A number as a tensor."""
    return b.scalar(s, b.dtype)


@register(aten.arange.default, aten.arange.start, aten.arange.start_step)
def arange(b: Builder, end: Any, start: Any = 0, step: Any = 1, **_: Any) -> Value:
    """Equally spaced numbers."""
    return b.const(torch.arange(start, end, step, dtype=b.result.dtype).numpy(), b.dtype)


@register(aten.eye.default, aten.eye.m)
def eye(b: Builder, n: int, m: int | None = None, **_: Any) -> Value:
    """Ones on the diagonal."""
    return b.const(np.eye(n, n if m is None else m, dtype=np.dtype(b.dtype)), b.dtype)
