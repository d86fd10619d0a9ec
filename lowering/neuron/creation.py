"""Tensors made from numbers."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.lowering.neuron.builder import Builder, Out
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import hlo

aten = torch.ops.aten


def _filled(b: Builder, value: Any) -> Out:
    """A number in the shape and type of the result."""
    return b.broadcast(b.scalar(value, b.result.dtype), b.result.shape, [])


@register(aten.full.default, aten.full_like.default, aten.new_full.default)
def full(b: Builder, fill_value: Any, **_: Any) -> Any:
    """The same number throughout."""
    return _filled(b, fill_value)


@register(aten.fill.Scalar, aten.fill.Tensor)
def fill(b: Builder, value: Any, **_: Any) -> Any:
    """The same value throughout."""
    return _filled(b, value)


@register(
    aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten.empty.memory_format,
    aten.empty_like.default, aten.new_empty.default,
)  # fmt: skip
def zeros(b: Builder, **_: Any) -> Any:
    """Zeros; also in the place of what is not initialised."""
    return _filled(b, 0)


@register(aten.ones.default, aten.ones_like.default, aten.new_ones.default)
def ones(b: Builder, **_: Any) -> Any:
    """Ones."""
    return _filled(b, 1)


@register(aten.scalar_tensor.default)
def scalar_tensor(b: Builder, s: Any, **_: Any) -> Any:
    """A number as a tensor."""
    return b.scalar(s, b.result.dtype)


@register(aten.arange.default, aten.arange.start, aten.arange.start_step)
def arange(b: Builder, end: Any, start: Any = 0, step: Any = 1, **_: Any) -> Any:
    """Equally spaced numbers."""
    positions = b.iota(b.result.shape, 0, b.result.dtype)
    return hlo.add(hlo.multiply(positions, b.like(step, positions)), b.like(start, positions))


@register(aten.eye.default, aten.eye.m)
def eye(b: Builder, **_: Any) -> Any:
    """Ones on the diagonal."""
    rows, columns = (b.iota(b.result.shape, axis, torch.int32) for axis in (0, 1))
    return b.cast(b.compare("EQ", rows, columns), b.result.dtype)
